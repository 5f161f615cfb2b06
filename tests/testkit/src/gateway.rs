//! One gateway process, and a plain HTTP client for it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for a gateway to answer, or for a state to be reached.
const PATIENCE: Duration = Duration::from_mins(1);

/// The program under test: built before any test runs, beside the test's own executable.
pub fn countersign() -> PathBuf {
    built("countersign")
}

/// The auditor's program.
pub fn countersign_verify() -> PathBuf {
    built("countersign-verify")
}

fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test has an executable");
    let folder = own.parent().and_then(Path::parent).expect("target/debug/deps");
    let program = folder.join(name);
    assert!(program.exists(), "`{}` is not built: run `cargo build --workspace` first", program.display());
    program
}

/// How a gateway is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More arguments of `up`.
    pub arguments: Vec<String>,
    /// More environment variables.
    pub variables: Vec<(String, String)>,
}

impl Options {
    /// As JSON it logs each request that it has answered: see [`Gateway::answered`].
    pub fn logging() -> Self {
        let variables = [("COUNTERSIGN_LOG__JSON", "true"), ("COUNTERSIGN_LOG__FILTER", "info,countersign=debug")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { variables: variables.into(), ..Self::default() }
    }
}

/// An answer: status and body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, as bytes.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("status {} without JSON: {}", self.status, String::from_utf8_lossy(&self.bytes)))
    }

    /// The problem's code, or nothing.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Panics unless the status is `expected`; gives the answer back.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "asserted alone as often as chained")]
    pub fn expect_status(self, expected: u16) -> Self {
        assert_eq!(self.status, expected, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }
}

/// A running gateway. Dropped, it is killed and its folder removed.
pub struct Gateway {
    child: Option<Child>,
    folder: TempDir,
    options: Options,
    port: u16,
    client: reqwest::blocking::Client,
}

impl Gateway {
    /// Starts on an empty folder.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts on an empty folder with options.
    pub fn start_with(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut gateway = Self { child: None, folder, options, port: 0, client: client() };
        gateway.up();
        gateway
    }

    /// Starts again on the same folder.
    pub fn up(&mut self) {
        self.try_up().unwrap_or_else(|said| panic!("the gateway did not start: {said}"));
    }

    /// Starts, or gives what the program said instead.
    ///
    /// # Errors
    /// What the program wrote to its standard error before it ended.
    pub fn try_up(&mut self) -> Result<(), String> {
        self.port = free_port();
        let file = |name| std::fs::File::create(self.folder.path().join(name)).expect("a file for its words");
        let mut command = Command::new(countersign());
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .envs(self.options.variables.iter().cloned())
            .args(["up", "--data-dir"])
            .arg(self.data())
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(&self.options.arguments)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        let mut child = command.spawn().expect("the program starts");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                return Err(format!("{status}: {}", self.words()));
            }
            if self.client.get(self.url("/readyz")).send().is_ok_and(|r| r.status().is_success()) {
                self.child = Some(child);
                return Ok(());
            }
            assert!(begun.elapsed() < PATIENCE, "the gateway is not ready: {}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sets a variable for the next start.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.options.variables.push((name.to_owned(), value.to_owned()));
    }

    /// What the program said on its standard error so far.
    pub fn words(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// What it logged of each request that it has answered, where it was started with [`Options::logging`].
    pub fn answered(&self) -> Vec<Value> {
        let words = self.words();
        let lines = words.lines().map(|line| serde_json::from_str(line).expect("each line of the log is JSON"));
        lines.filter(|line: &Value| line["message"] == "answered").collect()
    }

    /// What the program has greeted with, on a standard output that is no terminal: it does so once it is ready.
    pub fn greeting(&self) -> String {
        let begun = Instant::now();
        loop {
            let said = std::fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default();
            if said.ends_with('\n') {
                return said;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not greet: {}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many requests are under way, the one that asks among them.
    pub fn until_under_way(&self, requests: u64) {
        let begun = Instant::now();
        loop {
            let figures = self.get("/metrics", "").expect_status(200).bytes;
            let figures = String::from_utf8_lossy(&figures).into_owned();
            let mut gauge = figures.lines().filter_map(|line| line.strip_prefix("countersign_http_in_flight "));
            let now: u64 = gauge.next().expect("the figure is there").parse().expect("a number");
            if now >= requests {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "only {now} requests are under way");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A path beside the data folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// `SIGKILL`: no goodbye.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// `SIGTERM`, then waits for the end. True if it ended with success.
    pub fn stop(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(status.is_ok_and(|s| s.success()), "a signal is sent");
        child.wait().expect("it ends").success()
    }

    /// Waits for the process to end by itself, and gives its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        panic!("the gateway does not end: {}", self.words());
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends a request as it is.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, self.url(path));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            if !headers.iter().any(|(name, _)| *name == "content-type") {
                request = request.header("content-type", "application/json");
            }
            request = request.body(body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().expect("the gateway answers");
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Answer { status, headers, bytes: response.bytes().expect("a body").to_vec() }
    }

    /// GET.
    pub fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, token, &[], None)
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.send("POST", path, token, &[], Some(body.to_string().into_bytes()))
    }

    /// POST of JSON with an idempotency key.
    pub fn post_once(&self, path: &str, token: &str, key: &str, body: &Value) -> Answer {
        self.send("POST", path, token, &[("idempotency-key", key)], Some(body.to_string().into_bytes()))
    }

    /// The one-time token that the first start wrote to a file.
    pub fn enrolment_token(&self) -> String {
        let path = find(&self.data(), "enrol").expect("a first start writes an enrolment token");
        std::fs::read_to_string(path).expect("it can be read").trim().to_owned()
    }

    /// The root verifier key, as an auditor is given it.
    pub fn root_vkey(&self) -> String {
        let path = find(&self.data(), "root.vkey").expect("a first start writes the root key");
        std::fs::read_to_string(path).expect("it can be read").trim().to_owned()
    }

    /// Makes the first human, `dana`, with every role; gives a token to act and one to decide.
    pub fn enrol(&self) -> (String, String) {
        let token = self.enrolment_token();
        self.post(
            "/api/v1/enrol/person",
            "",
            &json!({ "token": token, "id": "dana", "display_name": "Dana", "password": PASSWORD, "person": "dana" }),
        )
        .expect_status(201);
        (self.login("dana", "act"), self.login("dana", "act decide"))
    }

    /// Logs a person in who has the password of [`Gateway::enrol`].
    pub fn login(&self, id: &str, scope: &str) -> String {
        let body = json!({ "id": id, "password": PASSWORD, "scope": scope });
        let answer = self.post("/api/v1/tokens/login", "", &body).expect_status(200);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// Makes an agent of `dana` with all tool scopes of the repository, and gives a token for it.
    pub fn agent(&self, dana: &str, id: &str) -> String {
        let scopes = ["repo:read", "repo:write", "repo:test", "repo:merge", "notes:write"];
        self.post(
            "/api/v1/agents",
            dana,
            &json!({ "id": id, "display_name": id, "owner": "dana", "autonomy": 2, "scopes": scopes }),
        )
        .expect_status(201);
        self.credentials(dana, &format!("agent:{id}"))
    }

    /// Issues a service account and exchanges it for a token.
    pub fn credentials(&self, dana: &str, bound_to: &str) -> String {
        let account =
            self.post("/api/v1/service-accounts", dana, &json!({ "bound_to": bound_to })).expect_status(201).json();
        let account = json!({
            "client_id": account["service_account"]["client_id"], "client_secret": account["client_secret"],
        });
        let answer = self.post("/api/v1/tokens/client-credentials", "", &account).expect_status(200);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// Registers an open workflow.
    pub fn workflow(&self, dana: &str, id: &str) {
        let body = json!({ "id": id, "version": "1", "title": "A workflow of a test" });
        self.post("/api/v1/workflows", dana, &body).expect_status(201);
    }

    /// Creates and starts an instance for an agent; gives its id.
    pub fn instance(&self, dana: &str, workflow: &str, agent: &str) -> String {
        let body = json!({ "workflow": workflow, "agent": agent });
        let answer = self.post("/api/v1/instances", dana, &body).expect_status(201);
        answer.json()["instance"]["id"].as_str().expect("an id").to_owned()
    }

    /// Proposes one action.
    pub fn propose(&self, token: &str, instance: &str, tool: &str, input: &Value) -> Answer {
        let body = json!({ "actions": [{ "tool": tool, "input": input }] });
        self.post(&format!("/api/v1/instances/{instance}/actions"), token, &body)
    }

    /// Waits until `path` answers with what `holds` wants.
    pub fn until(&self, path: &str, token: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.get(path, token).expect_status(200).json();
            if holds(&answer) {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "it never held: {answer}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Every entry of the log.
    pub fn entries(&self, token: &str) -> Vec<Value> {
        self.listed("/api/v1/audit/entries?limit=200", token)
    }

    /// Every item of a list, page for page. `path` has a query.
    pub fn listed(&self, path: &str, token: &str) -> Vec<Value> {
        let (mut items, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}{after}"), token).expect_status(200).json();
            items.extend(page["items"].as_array().expect("a page has items").iter().cloned());
            let Some(next) = page["next"].as_str() else { return items };
            after = format!("&after={next}");
        }
    }

    /// The evidence pack of the log, in a file beside the data folder.
    pub fn pack(&self, token: &str) -> PathBuf {
        let answer = self.get("/api/v1/audit/pack?disclose=true", token).expect_status(200);
        let path = self.beside("log.evidence");
        std::fs::write(&path, &answer.bytes).expect("it can be written");
        path
    }

    /// Verifies a pack with the auditor's program, in an empty environment; exit code and report.
    pub fn verify(&self, pack: &Path) -> (i32, Value) {
        let output = Command::new(countersign_verify())
            .env_clear()
            .arg("--json")
            .args(["--key", &self.root_vkey()])
            .arg(pack)
            .output()
            .expect("the verifier runs");
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            panic!("no report: {}", String::from_utf8_lossy(&output.stderr));
        });
        (output.status.code().unwrap_or(-1), report)
    }
}

/// The password of every person in a test.
pub const PASSWORD: &str = "correct horse battery staple 42";

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

fn client() -> reqwest::blocking::Client {
    // Refused where another test of this process installed it before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::blocking::Client::builder().timeout(PATIENCE).build().expect("a client")
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A file below `folder` whose name has `part` in it.
fn find(folder: &Path, part: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    let named = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().contains(part));
    entries
        .iter()
        .find(|p| p.is_file() && named(p))
        .cloned()
        .or_else(|| entries.iter().filter(|p| p.is_dir()).find_map(|p| find(p, part)))
}
