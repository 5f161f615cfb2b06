//! A second factor, against the program that users run: enrolled with an authenticator app, asked for at each login, demanded
//! by a rule, taken once, slowed down, taken away, and out of the way where it is lost.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_tests_testkit::{Answer, Gateway, PASSWORD};
use serde_json::{Value, json};
use totp_rs::{Builder, Secret, Totp};

use crate::first_hour::{Person, activate_edited};
use crate::glass::person;

/// A person's phone: shows each code once, and never one that is about to be too old.
struct App {
    totp: Totp,
    last: u64,
}

impl App {
    fn new(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).unwrap();
        Self { totp: Builder::new().with_secret(secret).build().unwrap(), last: 0 }
    }

    fn step() -> (u64, u64) {
        #[expect(clippy::disallowed_methods, reason = "the clock of a phone")]
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        // What holds now and in five seconds.
        ((seconds + 5) / 30 - 1, seconds / 30 + 1)
    }

    /// The next code, after a wait of half a minute where those that hold now were shown.
    fn code(&mut self) -> String {
        loop {
            let (earliest, latest) = Self::step();
            let step = earliest.max(self.last + 1);
            if step <= latest {
                self.last = step;
                return self.totp.generate(step * 30).to_string();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Six digits that no step near now has.
    fn wrong(&self) -> String {
        let (earliest, latest) = Self::step();
        let near: Vec<String> = (earliest - 1..latest + 20).map(|s| self.totp.generate(s * 30).to_string()).collect();
        (0..100).map(|n| format!("{n:06}")).find(|code| !near.contains(code)).unwrap()
    }
}

fn login(gateway: &Gateway, id: &str, otp: Option<&str>) -> Answer {
    let mut body = json!({ "id": id, "password": PASSWORD, "scope": "act decide" });
    if let Some(otp) = otp {
        body["otp"] = otp.into();
    }
    gateway.post("/api/v1/tokens/login", "", &body)
}

fn token(answer: Answer) -> String {
    answer.expect_status(200).json()["access_token"].as_str().unwrap().to_owned()
}

fn path(id: &str) -> String {
    format!("/api/v1/people/{id}/second-factor")
}

/// Enrols whoever `deciding` belongs to; their tokens have ended then.
fn enrol(gateway: &Gateway, id: &str, deciding: &str) -> App {
    let begun = gateway.post(&path(id), deciding, &json!({ "password": PASSWORD })).expect_status(201).json();
    let mut app = App::new(begun["secret"].as_str().unwrap());
    let body = json!({ "otp": app.code() });
    let said = gateway.post(&format!("{}/confirm", path(id)), deciding, &body).expect_status(200).json();
    assert_eq!(said["state"], "in_force");
    app
}

/// The rule about merges, edited.
fn merges(bundle: &Path, demand: Value) {
    rule(bundle, "merge", demand);
}

fn rule(bundle: &Path, name: &str, demand: Value) {
    let rules = bundle.join("rules.json");
    let mut document: Value = serde_json::from_slice(&std::fs::read(&rules).unwrap()).unwrap();
    document["rules"][name]["demand"] = demand;
    std::fs::write(rules, document.to_string()).unwrap();
}

/// Entries about one credential of a person that were not there before, in words.
fn changes(gateway: &Gateway, token: &str, since: usize) -> Vec<String> {
    let entries = gateway.entries(token);
    let about = entries[since..].iter().filter(|entry| entry["kind"] == "principal");
    about.map(|entry| entry["body"]["change"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_vote_counts_for_a_rule_that_demands_mfa_once_its_person_logs_in_with_a_code() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    activate_edited(&gateway, &dana, |bundle| merges(bundle, json!({ "assurance": "mfa", "fresh_s": 60 })));
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let anna = person(&gateway, &dana, "anna", "APPROVER");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let merge = json!({ "branch": "main", "message": "fix" });
    let waiting = gateway.propose(&agent, &instance, "repo.merge", &merge).expect_status(202).json();
    let gate = waiting["gate"]["id"].as_str().unwrap().to_owned();
    let vote = |gateway: &Gateway, token: &str| {
        let shown = gateway.get(&format!("/api/v1/gates/{gate}"), token).expect_status(200).json();
        let body = json!({ "decision": "APPROVE", "justification": "read it", "shown_digest": shown["shown_digest"] });
        gateway.post(&format!("/api/v1/gates/{gate}/decisions"), token, &body)
    };
    let may = |gateway: &Gateway| {
        let asked = gateway.get(&format!("/api/v1/gates/{gate}/approvers"), &dana).expect_status(200).json();
        let found = asked["persons"].as_array().unwrap().iter().find(|one| one["person"] == "anna").unwrap().clone();
        (found["may"] == true, asked.to_string())
    };

    // A password alone: refused, with the reason; nothing is recorded, and who may approve says the same.
    let entries = gateway.entries(&dana).len();
    let refused = vote(&gateway, &anna);
    assert_eq!((refused.status, refused.code().as_str()), (403, "demand-unmet"));
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("second factor") && detail.contains("merge"), "{detail}");
    assert_eq!(gateway.entries(&dana).len(), entries);
    let (allowed, said) = may(&gateway);
    assert!(!allowed && said.contains("person second-factor enrol"), "{said}");

    // Enrolled: what the password alone had ends, and gets nothing any more.
    assert_eq!(gateway.get(&path("anna"), &anna).expect_status(200).json(), json!({ "state": "none" }));
    let mut app = enrol(&gateway, "anna", &anna);
    assert_eq!(gateway.get("/api/v1/me", &anna).code(), "token-revoked");
    assert_eq!(
        (login(&gateway, "anna", None).status, login(&gateway, "anna", None).code().as_str()),
        (401, "second-factor-required")
    );
    assert_eq!(gateway.get(&path("anna"), &dana).expect_status(200).json()["state"], "in_force");
    assert!(may(&gateway).0);

    let code = app.code();
    let sure = token(login(&gateway, "anna", Some(&code)));
    assert_eq!(login(&gateway, "anna", Some(&code)).code(), "second-factor-refused", "a code is taken once");
    assert_eq!(gateway.get("/api/v1/me", &sure).expect_status(200).json()["assurance"], "mfa");
    let counted = vote(&gateway, &sure).expect_status(200).json();
    assert_eq!((&counted["effect"], &counted["state"]), (&json!("resolving"), &json!("RUNNING")), "{counted}");
    let decision = gateway.entries(&dana).into_iter().rfind(|entry| entry["kind"] == "decision").unwrap();
    assert_eq!(decision["body"]["assurance"], "mfa", "{decision}");
    assert_eq!(changes(&gateway, &dana, entries), ["updated", "credential_issued", "updated"], "begun, in force, used");

    // A restart forgets nothing: not the factor, not the code that was used, not who is known to have one.
    assert!(gateway.stop());
    gateway.up();
    assert_eq!(login(&gateway, "anna", None).code(), "second-factor-required");
    assert_eq!(login(&gateway, "anna", Some(&code)).code(), "second-factor-refused");
    let sure = token(login(&gateway, "anna", Some(&app.code())));
    assert_eq!(gateway.get("/api/v1/me", &sure).expect_status(200).json()["assurance"], "mfa");

    let secret = app.totp.secret().to_base32();
    let pack = gateway.pack(&dana);
    assert!(!gateway.words().contains(&secret) && !format!("{:?}", gateway.entries(&dana)).contains(&secret));
    let bytes = std::fs::read(&pack).unwrap();
    assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "no pack has the secret");
    let (code, report) = gateway.verify(&pack);
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
}

#[test]
fn a_person_enrols_logs_in_and_takes_it_away_through_the_command_line_and_nobody_guesses() {
    let gateway = Gateway::start();
    let (dana, deciding_dana) = gateway.enrol();
    let anna = person(&gateway, &dana, "anna", "APPROVER");
    let agent = gateway.agent(&dana, "fixer");
    let desk = Person::new(&gateway);
    let log_in = ["login", "anna", "--scope", "act decide", "--password-file", "password"];
    desk.json(&log_in);

    let enrol_me = ["person", "second-factor", "enrol", "--password-file", "password"];
    std::fs::write(desk.home.path().join("stolen"), "not her password").unwrap();
    let (ok, _, said) = desk.run(&["person", "second-factor", "enrol", "--password-file", "stolen"]);
    assert!(!ok && said.contains("credentials-invalid"), "{said}");
    let begun = desk.json(&enrol_me);
    let mut app = App::new(begun["secret"].as_str().unwrap());
    assert!(begun["uri"].as_str().unwrap().starts_with("otpauth://totp/Countersign:anna?secret="), "{begun}");
    assert_eq!(desk.json(&["person", "second-factor", "show"])["state"], "begun");
    let (ok, _, said) = desk.run(&["person", "second-factor", "confirm", "--otp", &app.wrong()]);
    assert!(!ok && said.contains("second-factor-refused"), "{said}");
    // Nobody begins, confirms or takes away for her: not the agent, and the administrator only the last.
    for token in [&agent, &dana] {
        let begin = gateway.post(&path("anna"), token, &json!({ "password": PASSWORD }));
        let confirm = gateway.post(&format!("{}/confirm", path("anna")), token, &json!({ "otp": "123456" }));
        let expected = if *token == agent { "policy-denied" } else { "account-invalid" };
        assert_eq!((begin.code(), confirm.code()), (expected.to_owned(), expected.to_owned()));
    }
    let act = gateway.login("anna", "act");
    assert_eq!(
        gateway.post(&path("anna"), &act, &json!({ "password": PASSWORD })).code(),
        "policy-denied",
        "without scope `decide`"
    );
    let code = app.code();
    assert_eq!(desk.json(&["person", "second-factor", "confirm", "--otp", &code])["state"], "in_force");
    assert_eq!(gateway.get("/api/v1/me", &anna).code(), "token-revoked");

    let (ok, _, said) = desk.run(&log_in);
    assert!(!ok && said.contains("second-factor-required") && said.contains("otp"), "{said}");
    desk.json(&[&log_in[..], &["--otp", &app.code()]].concat());
    assert_eq!(desk.json(&["token", "whoami"])["assurance"], "mfa");
    let (ok, _, said) = desk.run(&enrol_me);
    assert!(!ok && said.contains("second-factor-in-force"), "{said}");
    assert_eq!(desk.json(&["person", "second-factor", "remove", "--yes"])["state"], "none");
    let (ok, _, said) = desk.run(&["token", "whoami"]);
    assert!(!ok && said.contains("token-revoked"), "{said}");
    desk.json(&log_in);
    assert_eq!(desk.json(&["token", "whoami"])["assurance"], "password");

    // Lost: the administrator takes it away, an agent does not.
    let deciding = gateway.login("anna", "act decide");
    let app = enrol(&gateway, "anna", &deciding);
    let refused = gateway.send("DELETE", &path("anna"), &agent, &[], None);
    assert_eq!((refused.status, refused.code().as_str()), (403, "policy-denied"));
    let entries = gateway.entries(&dana).len();
    let wrong = app.wrong();
    let guess = |otp: &str| login(&gateway, "anna", Some(otp));
    // Codes that held were counted too, and nothing gives them back.
    let codes: Vec<String> =
        (0..11).map(|_| guess(&wrong).code()).take_while(|code| code == "second-factor-refused").collect();
    assert!((4..10).contains(&codes.len()), "{codes:?}");
    let limited = guess(&wrong);
    assert_eq!((limited.status, limited.code().as_str()), (429, "rate-limited"));
    // The brake on passwords is off after some seconds; the one on codes is not, and no code is looked at.
    std::thread::sleep(Duration::from_secs(7));
    let limited = guess(&wrong);
    assert_eq!(limited.code(), "rate-limited");
    assert!(limited.header("retry-after").unwrap().parse::<u64>().unwrap() > 60, "{limited:?}");
    assert_eq!(gateway.entries(&dana).len(), entries, "a wrong code leaves nothing");

    let act = gateway.send("DELETE", &path("anna"), &dana, &[], None);
    assert_eq!(act.code(), "scope-missing", "a token for other work does not do");
    let entries = gateway.entries(&dana).len();
    gateway.send("DELETE", &path("anna"), &deciding_dana, &[], None).expect_status(204);
    assert_eq!(changes(&gateway, &dana, entries), ["credential_revoked"]);
    assert_eq!(gateway.send("DELETE", &path("anna"), &deciding_dana, &[], None).code(), "second-factor-unknown");
    std::thread::sleep(Duration::from_secs(7));
    token(login(&gateway, "anna", None));
}

#[test]
fn a_second_factor_that_is_lost_is_taken_away_on_a_stopped_gateway_and_leaves_an_entry() {
    let mut gateway = Gateway::start();
    let (_, deciding) = gateway.enrol();
    enrol(&gateway, "dana", &deciding);
    assert_eq!(login(&gateway, "dana", None).code(), "second-factor-required");
    let recover = ["recover", "second-factor", "dana", "--yes"];
    let (ok, said) = gateway.operate(&recover);
    assert!(!ok && said.contains("in use by another process"), "{said}");
    assert!(gateway.stop());
    let (ok, said) = gateway.operate(&["recover", "second-factor", "nobody", "--yes"]);
    assert!(!ok && said.contains("none is in force"), "{said}");
    let (ok, said) = gateway.operate(&recover);
    assert!(ok, "{said}");
    gateway.up();
    let dana = token(login(&gateway, "dana", None));
    let last = gateway.entries(&dana).into_iter().rfind(|entry| entry["kind"] == "principal").unwrap();
    let me = gateway.get("/api/v1/me", &dana).expect_status(200).json();
    assert_eq!((&last["body"]["change"], &last["body"]["principal"]), (&json!("credential_revoked"), &me["pseudonym"]));
    assert_eq!(last["actor"], format!("who_{}", "0".repeat(32)), "nobody who logged in: {last}");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
}

#[test]
fn nobody_is_locked_out_by_a_rule_whose_voters_have_no_second_factor() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let sven = person(&gateway, &dana, "sven", "SECURITY");
    activate_edited(&gateway, &dana, |bundle| rule(bundle, "policy-change", json!({ "assurance": "mfa" })));
    let raise = |token: &str| {
        let body = json!({ "value": "four_eyes" }).to_string().into_bytes();
        gateway.send("PUT", "/api/v1/settings/authority", token, &[], Some(body))
    };
    let refused = raise(&dana);
    assert_eq!(refused.code(), "bundle-locks-out");
    let said = refused.json().to_string();
    for words in ["policy-change", "second factor", "`sven` have none", "person second-factor enrol"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    enrol(&gateway, "sven", &sven);
    raise(&dana).expect_status(200);
}
