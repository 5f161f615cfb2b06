//! People and those who act for them, through the command line: invited with roles that mean something, lending their
//! authority to one agent.

use std::path::Path;
use std::process::Command;

use countersign_tests_testkit::{Gateway, PASSWORD, countersign};
use serde_json::{Value, json};

/// A command with a token: whether it did, and what it said.
fn run(gateway: &Gateway, token: &str, arguments: &[&str]) -> (bool, Value) {
    let output = Command::new(countersign())
        .env_clear()
        .env("COUNTERSIGN_TOKEN", token)
        .args(["--json", "--server", &gateway.url("")])
        .args(arguments)
        .output()
        .unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), serde_json::from_slice(&said).unwrap())
}

fn kept(folder: &Path, name: &str, secret: &Value) -> String {
    let path = folder.join(name);
    std::fs::write(&path, secret.as_str().unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn nobody_is_given_a_role_that_policy_does_not_know() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let entries = gateway.entries(&dana).len();
    let (ok, said) = run(&gateway, &dana, &["person", "invite", "--role", "APROVER"]);
    assert!(!ok && said["error"].as_str().unwrap().contains("APPROVER"), "the roles that there are: {said}");
    assert_eq!(said["problem"]["code"], "body-value-invalid");
    let new = json!({ "id": "eve", "display_name": "Eve", "roles": ["APROVER"] });
    assert_eq!(gateway.post("/api/v1/people", &dana, &new).code(), "body-value-invalid");
    let change = json!({ "roles": ["APROVER"] }).to_string().into_bytes();
    assert_eq!(gateway.send("PATCH", "/api/v1/people/dana", &dana, &[], Some(change)).code(), "body-value-invalid");
    assert_eq!(gateway.entries(&dana).len(), entries);

    let (ok, invited) = run(&gateway, &dana, &["person", "invite", "--role", "APPROVER"]);
    assert!(ok, "{invited}");
    let folder = tempfile::tempdir().unwrap();
    let token = kept(folder.path(), "token", &invited["token"]);
    let password = kept(folder.path(), "password", &json!(PASSWORD));
    let enrol = ["enrol", "person", "--id", "eve", "--token-file", &token, "--password-file", &password];
    let (ok, eve) = run(&gateway, "", &enrol);
    assert!(ok, "{eve}");
    assert_eq!((&eve["roles"], &eve["display_name"]), (&json!(["APPROVER"]), &json!("eve")));
}

#[test]
fn a_consent_is_good_for_the_agent_that_it_names() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let (fixer, other) = (gateway.agent(&dana, "fixer"), gateway.agent(&dana, "other"));
    let (ok, consent) = run(&gateway, &dana, &["token", "consent", "fixer", "--life-s", "600"]);
    assert!(ok, "{consent}");
    let folder = tempfile::tempdir().unwrap();
    let file = kept(folder.path(), "consent", &consent["access_token"]);
    let exchange = ["token", "exchange", "--consent-file", &file];
    let (ok, refused) = run(&gateway, &other, &exchange);
    assert!(!ok && refused["problem"]["code"] == "chain-refused", "{refused}");
    let (ok, token) = run(&gateway, &fixer, &exchange);
    assert!(ok, "{token}");
    let (ok, who) = run(&gateway, token["access_token"].as_str().unwrap(), &["token", "whoami"]);
    assert!(ok, "{who}");
    assert_eq!((&who["subject"], &who["on_behalf_of"]), (&json!("agent:fixer"), &json!(["person:dana"])));
}

#[test]
fn who_an_agent_acts_for_approves_nothing_of_it_and_is_told_why() {
    let gateway = Gateway::start();
    let (dana, dana_decides) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    let anna = crate::glass::person(&gateway, &dana, "anna", "APPROVER");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let consent = gateway.post("/api/v1/tokens/consent", &dana, &json!({ "agent": "fixer", "life_s": 600 }));
    let consent = json!({ "consent": consent.expect_status(200).json()["access_token"] });
    let acting = gateway.post("/api/v1/tokens/exchange", &agent, &consent).expect_status(200).json();
    let merge = json!({ "branch": "main", "message": "fix" });
    let waiting = gateway.propose(acting["access_token"].as_str().unwrap(), &instance, "repo.merge", &merge);
    let waiting = waiting.expect_status(202).json();
    let gate = waiting["gate"]["id"].as_str().unwrap();
    let approve = |token: &str| {
        let shown = gateway.get(&format!("/api/v1/gates/{gate}"), token).expect_status(200).json();
        let body = json!({ "decision": "APPROVE", "justification": "seen", "shown_digest": shown["shown_digest"] });
        gateway.post_once(&format!("/api/v1/gates/{gate}/decisions"), token, "once", &body).expect_status(200).json()
    };
    let own = approve(&dana_decides);
    let problem =
        json!({ "type": "/problems/acting-chain", "title": "Whoever decides acts here", "code": "acting-chain" });
    assert_eq!((&own["effect"], &own["problem"]), (&json!("not_eligible"), &problem), "{own}");
    let page = gateway.get("/problems/acting-chain", "").expect_status(200);
    assert!(String::from_utf8_lossy(&page.bytes).starts_with("# Whoever decides acts here\n"));
    assert_eq!((&own["state"], &own["remaining"][0]["counted"]), (&json!("WAITING_FOR_HUMAN"), &json!(0)), "{own}");
    let again = approve(&dana_decides);
    assert_eq!((&again["decision"], &again["problem"]), (&own["decision"], &own["problem"]), "one key, one answer");
    let other = approve(&anna);
    assert_eq!((&other["effect"], other.get("problem")), (&json!("resolving"), None), "{other}");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
}

#[test]
fn who_gives_the_current_password_gets_a_new_one_and_the_old_one_ends() {
    const NEW: &str = "quite another passphrase 8";
    let gateway = Gateway::start();
    let (dana, deciding) = gateway.enrol();
    let entries = gateway.entries(&dana).len();
    let set = |body: Value| {
        let body = body.to_string().into_bytes();
        gateway.send("PUT", "/api/v1/people/dana/password", &dana, &[], Some(body))
    };
    let login = |password: &str| {
        let body = json!({ "id": "dana", "password": password, "scope": "act" });
        gateway.post("/api/v1/tokens/login", "", &body)
    };
    assert_eq!(set(json!({ "password": NEW })).code(), "body-missing-field");
    assert_eq!(set(json!({ "password": NEW, "current": NEW })).code(), "credentials-invalid");
    assert_eq!(gateway.entries(&dana).len(), entries, "nothing came of either");
    login(PASSWORD).expect_status(200);

    let said = set(json!({ "password": NEW, "current": PASSWORD })).expect_status(200).json();
    assert_eq!(said["id"], "dana");
    // Whoever had the old password, or a token of it, has nothing by now.
    for token in [&dana, &deciding] {
        assert_eq!(gateway.get("/api/v1/me", token).status, 401);
    }
    assert_eq!(login(PASSWORD).code(), "credentials-invalid");
    let token = login(NEW).expect_status(200).json()["access_token"].as_str().unwrap().to_owned();
    let who = run(&gateway, &token, &["token", "whoami"]);
    assert!(who.0 && who.1["subject"] == "person:dana", "{who:?}");
    let recorded = gateway.entries(&token);
    assert_eq!(recorded.len(), entries + 1, "the change is on record, once");
    let words = format!("{recorded:?}");
    assert!(!words.contains(NEW) && !words.contains(PASSWORD), "and no password is");
}

/// A delegator who audits has the rule of merging in front of each note.
const AUDITED_NOTES: &str = r#"
@id("gate-audited-notes")
@requires_approval("merge")
@title("On behalf of an auditor a note needs another person")
forbid (principal is Countersign::Person, action in Countersign::Action::"callTool", resource is Countersign::Tool)
when { context.asDelegator && principal in Countersign::Role::"AUDITOR" }
unless { context.satisfied.contains(Countersign::ApprovalRule::"merge") };
"#;

#[test]
fn each_on_whose_behalf_an_agent_acts_is_asked_too_and_all_must_allow() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    crate::first_hour::activate_edited(&gateway, &dana, |bundle| {
        let policies = bundle.join("policies.cedar");
        let text = std::fs::read_to_string(&policies).unwrap();
        std::fs::write(&policies, text + AUDITED_NOTES).unwrap();
    });
    let fixer = gateway.agent(&dana, "fixer");
    let weak = json!({ "id": "weak", "display_name": "weak", "owner": "dana", "autonomy": 2, "scopes": [] });
    gateway.post("/api/v1/agents", &dana, &weak).expect_status(201);
    let weak = gateway.credentials(&dana, "agent:weak");
    let [eve, ann, pat] = [("eve", "OPERATOR"), ("ann", "AUDITOR"), ("pat", "APPROVER")]
        .map(|(id, role)| crate::glass::person(&gateway, &dana, id, role));
    gateway.workflow(&dana, "repair");
    let instance_for = |accountable: &str| {
        let body = json!({ "workflow": "repair", "agent": "fixer", "accountable": accountable });
        let made = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
        made["instance"]["id"].as_str().unwrap().to_owned()
    };
    let lend = |lender: &str, agent: &str, holder: &str| {
        let consent = gateway.post("/api/v1/tokens/consent", lender, &json!({ "agent": agent, "life_s": 600 }));
        let consent = json!({ "consent": consent.expect_status(200).json()["access_token"] });
        let taken = gateway.post("/api/v1/tokens/exchange", holder, &consent).expect_status(200).json();
        taken["access_token"].as_str().unwrap().to_owned()
    };
    let note = json!({ "text": "a" });
    let entry_of = |answer: &Value| {
        let path = format!("/api/v1/audit/entries/{}", answer["receipt"]["index"]);
        gateway.get(&path, &dana).expect_status(200).json()
    };
    let lists = |entry: &Value| entry["determining"].as_array().unwrap().len();

    // Alone, and for a person who answers for the instance.
    let of_eve = instance_for("eve");
    let alone = gateway.propose(&fixer, &of_eve, "notes.append", &note).expect_status(200).json();
    assert_eq!((lists(&entry_of(&alone)), &entry_of(&alone)["on_behalf_of"]), (1, &json!([])));
    let for_eve = lend(&eve, "fixer", &fixer);
    let allowed = gateway.propose(&for_eve, &of_eve, "notes.append", &note).expect_status(200).json();
    let entry = entry_of(&allowed);
    let expected = json!([["agent-uses-tools"], ["person-delegates-tools"]]);
    assert_eq!((&entry["determining"], entry["on_behalf_of"].as_array().unwrap().len()), (&expected, 1), "{entry}");

    // Who has nothing to do with it lends nothing, although the agent alone may.
    let refused = gateway.propose(&lend(&pat, "fixer", &fixer), &of_eve, "notes.append", &note);
    assert_eq!((refused.status, refused.code().as_str()), (403, "policy-denied"));
    let entry = entry_of(&refused.json());
    assert_eq!(entry["determining"], json!([["agent-uses-tools"], ["gateway:default-deny"]]), "{entry}");

    // Of two, one without the scopes is enough: the first of the chain would allow it.
    let through_weak = lend(&lend(&eve, "weak", &weak), "fixer", &fixer);
    let refused = gateway.propose(&through_weak, &of_eve, "notes.append", &note);
    assert_eq!((refused.status, refused.code().as_str()), (403, "policy-denied"));
    let entry = entry_of(&refused.json());
    let chain = entry["on_behalf_of"].as_array().unwrap().len();
    assert_eq!((lists(&entry), chain), (3, 2), "all of them were asked: {entry}");

    // A rule that only the delegator's question names holds the agent's proposal.
    let of_ann = instance_for("ann");
    gateway.propose(&fixer, &of_ann, "notes.append", &note).expect_status(200);
    let waiting = gateway.propose(&lend(&ann, "fixer", &fixer), &of_ann, "notes.append", &note).expect_status(202);
    assert_eq!(waiting.json()["state"], "WAITING_FOR_HUMAN");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
}
