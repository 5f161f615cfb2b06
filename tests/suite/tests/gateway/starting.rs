//! How a start goes, as a process: what it refuses, with its exit code and a next step, and what it serves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use countersign_tests_testkit::{Gateway, Options, PASSWORD, Terminal, countersign};
use serde_json::{Value, json};

/// A start that must end by itself.
fn refused(data: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let Output { status, stdout, stderr } = Command::new(countersign())
        .env_clear()
        .envs(variables.iter().copied())
        .args(["up", "--data-dir"])
        .arg(data)
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(stdout.is_empty(), "it greets nobody: {}", String::from_utf8_lossy(&stdout));
    said
}

#[test]
fn a_secret_that_is_absent_empty_or_an_examples_default_refuses_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let listed = ("COUNTERSIGN_SECRETS__ENVIRONMENT", "SHOP_KEY");
    for given in [&[][..], &[("SHOP_KEY", "")], &[("SHOP_KEY", "changeme")]] {
        let said = refused(&data, &["--listen", "127.0.0.1:0"], &[&[listed], given].concat());
        assert!(said.contains("SHOP_KEY") && said.ends_with("\n  problem: weak-secret\n"), "{given:?}: {said}");
        assert!(!said.contains("changeme"), "no value is said: {said}");
    }
    let variables = [listed, ("SHOP_KEY", "7b1f3f0c9d5e4a8e")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let gateway = Gateway::start_with(Options { variables: variables.into(), ..Options::default() });
    gateway.get("/readyz", "").expect_status(200);
}

#[test]
fn off_loopback_nothing_is_served_in_the_clear_unless_somebody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let said = refused(&data, &["--listen", "0.0.0.0:0"], &[]);
    assert!(said.contains("is not loopback") && said.contains("--insecure-listen"), "{said}");
    assert!(!data.exists(), "nothing is made before that");
    let (greeting, _gateway) = greeted(&data, &["--listen", "0.0.0.0:0", "--insecure-listen"]);
    let url = greeting["url"].as_str().unwrap();
    assert!(url.starts_with("http://"), "{greeting}");
    let answer = reqwest::blocking::get(format!("{url}/readyz")).unwrap();
    assert_eq!(answer.status().as_u16(), 200);
}

/// A process that is killed when the test is over.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts, and gives what it greets with.
fn greeted(data: &Path, arguments: &[&str]) -> (Value, Running) {
    use std::io::BufRead as _;
    let mut child = Command::new(countersign())
        .env_clear()
        .args(["--json", "up", "--data-dir"])
        .arg(data)
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let running = Running(child);
    let mut line = String::new();
    std::io::BufReader::new(stdout).read_line(&mut line).unwrap();
    (serde_json::from_str(&line).unwrap_or_else(|_| panic!("no greeting: {line}")), running)
}

#[test]
fn with_a_certificate_it_serves_https_and_says_so_and_a_key_that_everybody_reads_refuses_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let files = [certificate.to_str().unwrap(), key.to_str().unwrap()];
    let arguments = ["--listen", "127.0.0.1:0", "--tls-certificate", files[0], "--tls-key", files[1]];
    let said = refused(&data, &arguments, &[]);
    assert!(said.contains("chmod 600"), "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let said = refused(&data, &arguments[..4], &[]);
    assert!(said.contains("listen.tls_key"), "one without the other: {said}");

    let (greeting, _gateway) = greeted(&data, &arguments);
    let url = greeting["url"].as_str().unwrap();
    assert!(url.starts_with("https://127.0.0.1:"), "{greeting}");
    assert_eq!(greeting["docs"], json!(format!("{url}/docs")));
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::blocking::Client::builder().tls_certs_only([trusted]).build().unwrap();
    assert_eq!(client.get(format!("{url}/readyz")).send().unwrap().status().as_u16(), 200);
    let stranger = reqwest::blocking::Client::builder().tls_certs_only([]).build().unwrap();
    assert!(stranger.get(format!("{url}/readyz")).send().is_err(), "it is TLS");
    let clear = url.replace("https://", "http://");
    assert!(!client.get(format!("{clear}/readyz")).send().is_ok_and(|answer| answer.status().is_success()));
}

#[test]
fn the_enrolment_token_is_shown_at_a_terminal_until_somebody_has_enrolled() {
    let name = "the_enrolment_token_is_shown_at_a_terminal_until_somebody_has_enrolled";
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments = ["up", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
    let start = || Terminal::start(name, &countersign(), &arguments, &[], None);
    // Greets whole, and is asked to end by the key for it.
    let Some(mut terminal) = start() else { return };
    let shown = terminal.until("--id YOUR-NAME\n");
    let token = fs::read_to_string(data.join("enrolment.token")).unwrap().trim().to_owned();
    assert_eq!(shown.matches(&token).count(), 1, "{shown}");
    let (_, url) = shown.split_once("documentation  ").unwrap();
    let url = url.split_once("/docs").unwrap().0;
    let body = json!({ "token": token, "id": "dana", "display_name": "Dana", "password": PASSWORD, "person": "dana" });
    let client = reqwest::blocking::Client::new();
    let enrolled = client
        .post(format!("{url}/api/v1/enrol/person"))
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .unwrap();
    assert_eq!(enrolled.status().as_u16(), 201);
    terminal.typed("\u{3}");
    let (code, shown) = terminal.ended();
    assert_eq!((code, shown.matches(&token).count()), (0, 1), "{shown}");

    let Some(mut terminal) = start() else { return };
    terminal.until("sandbox level");
    terminal.typed("\u{3}");
    let (code, shown) = terminal.ended();
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains(&token) && !shown.contains("one-time token"), "{shown}");
}
