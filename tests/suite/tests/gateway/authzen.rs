//! The AuthZEN Authorization API 1.0: the specification's own examples, and what an enforcement point may rely on.

use countersign_tests_testkit::{Gateway, Options};
use serde_json::{Value, json};

/// A service with tool scope `evaluate`, and its token.
pub(crate) fn enforcement_point(gateway: &Gateway, dana: &str) -> String {
    let service = json!({ "id": "proxy", "display_name": "Proxy", "owner": "dana", "scopes": ["evaluate"] });
    gateway.post("/api/v1/services", dana, &service).expect_status(201);
    gateway.credentials(dana, "service:proxy")
}

fn evaluations(gateway: &Gateway, dana: &str) -> Vec<Value> {
    gateway.entries(dana).into_iter().filter(|entry| entry["kind"] == "evaluation").collect()
}

#[test]
fn the_examples_of_the_specification_are_answered_and_each_is_on_record() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let proxy = enforcement_point(&gateway, &dana);

    // Section 6.1: a request; nobody here is called so, and no tool is called `account.can_read`: closed.
    let example = json!({
        "subject": { "type": "user", "id": "alice@acmecorp.com" },
        "resource": { "type": "account", "id": "123" },
        "action": { "name": "can_read", "properties": { "method": "GET" } },
        "context": { "time": "1985-10-26T01:22-07:00" }
    });
    let headers = [("x-request-id", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")];
    let body = Some(example.to_string().into_bytes());
    let answer = gateway.send("POST", "/access/v1/evaluation", &proxy, &headers, body).expect_status(200);
    assert_eq!(answer.header("x-request-id"), Some("bfe9eb29-ab87-4ca3-be83-a1d5d8305716"));
    let decision = answer.json();
    assert_eq!(decision["decision"], json!(false));
    let entries = gateway.entries(&dana);
    let entry = entries.iter().find(|entry| entry["index"] == decision["context"]["entry"]).unwrap();
    assert_eq!((&entry["kind"], &entry["verdict"]["decision"]), (&json!("evaluation"), &json!("deny")));

    // Section 7: defaults beside `evaluations`, three semantics.
    for (semantic, expected) in [("execute_all", 3), ("deny_on_first_deny", 1), ("permit_on_first_permit", 3)] {
        let boxcar = json!({
            "subject": { "type": "user", "id": "alice@example.com" },
            "action": { "name": "read" },
            "options": { "evaluations_semantic": semantic },
            "evaluations": [
                { "resource": { "type": "document", "id": "1" } },
                { "resource": { "type": "document", "id": "2" } },
                { "resource": { "type": "document", "id": "3" } }
            ]
        });
        let answer = gateway.post("/access/v1/evaluations", &proxy, &boxcar).expect_status(200).json();
        assert_eq!(answer["evaluations"].as_array().unwrap().len(), expected, "{semantic}");
        assert!(answer.get("decision").is_none());
    }

    // Without `evaluations` the call is a single one, and so is its answer.
    let answer = gateway.post("/access/v1/evaluations", &proxy, &example).expect_status(200).json();
    assert_eq!(answer["decision"], json!(false));
    assert_eq!(evaluations(&gateway, &dana).len(), 1 + 7 + 1);

    let found = gateway.get("/.well-known/authzen-configuration", "").expect_status(200).json();
    assert_eq!(found["access_evaluation_endpoint"], json!(gateway.url("/access/v1/evaluation")));
    assert_eq!(found["policy_decision_point"], json!(gateway.url("")));
}

#[test]
fn what_policy_allows_is_said_and_is_no_permit() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    let proxy = enforcement_point(&gateway, &dana);
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let about = |who: Value, action: &str, resource: Value| {
        let body = json!({ "subject": who, "action": { "name": action }, "resource": resource });
        gateway.post("/access/v1/evaluation", &proxy, &body).expect_status(200).json()
    };
    let instance_of = json!({ "type": "instance", "id": instance });
    let person = json!({ "type": "user", "id": "dana" });
    let allowed = about(person, "readInstance", instance_of.clone());
    assert_eq!((&allowed["decision"], &allowed["context"]["verdict"]), (&json!(true), &json!("allow")));
    // The same, asked by the one whom it is about: agents ask nothing about anybody.
    let body = json!({
        "subject": { "type": "agent", "id": "fixer" }, "action": { "name": "readInstance" }, "resource": instance_of
    });
    let refused = gateway.post("/access/v1/evaluation", &agent, &body);
    assert_eq!((refused.status, refused.code().as_str()), (403, "policy-denied"));
    let kinds: Vec<Value> = gateway.entries(&dana).iter().map(|entry| entry["kind"].clone()).collect();
    assert!(!kinds.contains(&json!("permit")), "an evaluation gave a permit");
}

#[test]
fn a_tool_is_allowed_in_the_subjects_own_running_instance_and_in_no_other() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.agent(&dana, "other");
    let proxy = enforcement_point(&gateway, &dana);
    gateway.workflow(&dana, "repair");
    let own = gateway.instance(&dana, "repair", "fixer");
    let others = gateway.instance(&dana, "repair", "other");
    let ask = |body: &Value| gateway.post("/access/v1/evaluation", &proxy, body).expect_status(200).json();
    let fixer =
        |instance: &Value| json!({ "type": "agent", "id": "fixer", "properties": { "instance": instance, "mood": 1 } });
    let tool = |name: &str| json!({ "type": "tool", "id": name });
    let call = |input: Value| json!({ "name": "callTool", "properties": input });
    let note = call(json!({ "text": "a" }));
    let noting =
        |instance: &Value| json!({ "subject": fixer(instance), "action": note, "resource": tool("notes.append") });
    let own_id = json!(own);

    let allowed = ask(&noting(&own_id));
    assert_eq!((&allowed["decision"], &allowed["context"]["verdict"]), (&json!(true), &json!("allow")), "{allowed}");
    let entry = &allowed["context"]["entry"];
    let again = gateway.get(&format!("/api/v1/replay/{entry}"), &dana).expect_status(200).json();
    assert_eq!((&again["matches"], &again["stored"]["decision"]), (&json!(true), &json!("allow")), "{again}");

    // Where people would have to approve, what the caller says of an approval is a claim.
    let merge = call(json!({ "branch": "main", "message": "fix" }));
    let mut merging = json!({ "subject": fixer(&own_id), "action": merge, "resource": tool("repo.merge") });
    for context in [json!({}), json!({ "satisfied": "merge" }), json!({ "satisfied": ["merge"] })] {
        merging["context"] = context;
        let answer = ask(&merging);
        assert_eq!(
            (&answer["decision"], &answer["context"]["verdict"]),
            (&json!(false), &json!("needs_approval")),
            "{answer}"
        );
        assert_eq!(answer["context"]["reason"], "a person would have to approve it");
    }

    // One that is not there, somebody else's, and what is no id: the same answer.
    let refused = |body: &Value| {
        let mut answer = ask(body);
        assert!(answer["context"].as_object_mut().unwrap().remove("entry").is_some());
        answer
    };
    let nowhere = json!({
        "decision": false,
        "context": { "verdict": "deny", "reason": "the subject acts in no such instance" },
    });
    let unknown = format!("inst_{}", "0".repeat(32));
    for named in [json!(unknown), json!(others), json!("nowhere"), json!(""), json!(7), json!(null), json!([own])] {
        assert_eq!(refused(&noting(&named)), nowhere, "{named}");
    }
    // A resource's properties are its own, and so is what stands in the context.
    let mut beside = noting(&own_id);
    beside["subject"].as_object_mut().unwrap().remove("properties");
    beside["resource"]["properties"] = json!({ "instance": own });
    beside["context"] = json!({ "instance": own });
    assert_eq!(refused(&beside)["context"]["reason"], "refused by policy");

    // Three questions about the one instance, under each semantic.
    let secret = json!({ "action": call(json!({ "name": "root" })), "resource": tool("secrets.read") });
    let plain = json!({ "action": note, "resource": tool("notes.append") });
    for (semantic, expected) in [
        ("execute_all", vec![false, true, false]),
        ("deny_on_first_deny", vec![false]),
        ("permit_on_first_permit", vec![false, true]),
    ] {
        let boxcar = json!({
            "subject": fixer(&own_id), "options": { "evaluations_semantic": semantic },
            "evaluations": [secret, plain, secret],
        });
        let answer = gateway.post("/access/v1/evaluations", &proxy, &boxcar).expect_status(200).json();
        let decisions: Vec<bool> =
            answer["evaluations"].as_array().unwrap().iter().map(|one| one["decision"].as_bool().unwrap()).collect();
        assert_eq!(decisions, expected, "{semantic}");
    }

    // Recording denials leaves out what is allowed.
    let record = json!({ "value": "denials" }).to_string().into_bytes();
    gateway.send("PUT", "/api/v1/settings/evaluations.record", &dana, &[], Some(record)).expect_status(200);
    let before = evaluations(&gateway, &dana).len();
    assert!(ask(&noting(&own_id))["context"]["entry"].is_null());
    assert_eq!(evaluations(&gateway, &dana).len(), before);
    let recorded = ask(&noting(&json!(others)))["context"]["entry"].clone();
    let after = evaluations(&gateway, &dana);
    assert_eq!((after.len(), &after.last().unwrap()["index"]), (before + 1, &recorded));

    // An instance that has ended is no place to act in.
    gateway.post(&format!("/api/v1/instances/{own}/terminate"), &agent, &json!({})).expect_status(200);
    assert_eq!(refused(&noting(&own_id))["context"]["reason"], "the instance is not running");
    let kinds: Vec<Value> = gateway.entries(&dana).iter().map(|entry| entry["kind"].clone()).collect();
    assert!(!kinds.contains(&json!("permit")) && !kinds.contains(&json!("gate")), "{kinds:?}");
    let (code, report) = gateway.verify(&gateway.pack(&dana));
    assert_eq!((code, &report["verdict"]), (0, &json!("VALID")), "{report}");
}

#[test]
fn a_call_over_quota_is_turned_away_and_counted() {
    let mut options = Options::default();
    options.variables.push(("COUNTERSIGN_LIMITS__REQUESTS_PER_SECOND".to_owned(), "5".to_owned()));
    options.variables.push(("COUNTERSIGN_LIMITS__BURST".to_owned(), "5".to_owned()));
    let mut gateway = Gateway::start_with(options);
    let (dana, _) = gateway.enrol();
    let proxy = enforcement_point(&gateway, &dana);
    let body = json!({
        "subject": { "type": "user", "id": "dana" }, "action": { "name": "readHealth" },
        "resource": { "type": "organization", "id": "self" }
    });
    let answers: Vec<u16> = (0..20).map(|_| gateway.post("/access/v1/evaluation", &proxy, &body).status).collect();
    let turned_away = answers.iter().filter(|status| **status == 429).count();
    assert!(turned_away > 0 && answers.contains(&200), "{answers:?}");
    // What was counted is on record at the end of the minute, or of the process.
    assert!(gateway.stop());
    gateway.up();
    let entries = evaluations(&gateway, &gateway.login("dana", "act"));
    let over: Vec<&Value> = entries.iter().filter(|entry| entry["body"]["over_quota"] == json!(true)).collect();
    assert_eq!(over.len(), 1);
    assert_eq!(over[0]["body"]["calls"], json!(turned_away));
}

#[test]
fn a_malformed_question_is_refused_and_leaves_nothing() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let proxy = enforcement_point(&gateway, &dana);
    let good = json!({ "type": "user", "id": "dana" });
    for (body, code) in [
        (json!({ "subject": good, "action": { "name": "a" } }), "parameter-invalid"),
        (json!({ "subject": good, "action": {}, "resource": good }), "body-missing-field"),
        (json!({ "subject": { "type": "user" }, "action": { "name": "a" }, "resource": good }), "body-missing-field"),
        (json!({ "subject": 1, "action": { "name": "a" }, "resource": good }), "body-type-mismatch"),
        (json!({ "subject": good, "action": { "name": "a" }, "resource": good, "trust": 1 }), "body-unknown-field"),
        (
            json!({ "subject": good, "action": { "name": "a" }, "resource": good, "context": { "k": "x".repeat(400) } }),
            "parameter-invalid",
        ),
    ] {
        let answer = gateway.post("/access/v1/evaluation", &proxy, &body);
        assert_eq!(answer.code(), code, "{body}");
        assert!([400, 422].contains(&answer.status), "{}", answer.status);
    }
    let question = json!({ "subject": good, "action": { "name": "a" }, "resource": good });
    let many = json!({ "evaluations": vec![question.clone(); 65] });
    assert_eq!(gateway.post("/access/v1/evaluations", &proxy, &many).code(), "parameter-invalid");
    let long = "x".repeat(129);
    let headers = [("x-request-id", long.as_str())];
    let body = Some(question.to_string().into_bytes());
    let answer = gateway.send("POST", "/access/v1/evaluation", &proxy, &headers, body);
    assert_eq!(answer.code(), "parameter-invalid");
    assert!(evaluations(&gateway, &dana).is_empty());
}

#[test]
fn each_word_for_a_subject_and_each_way_to_name_a_target_has_a_yes_and_discovery_is_the_standards() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    gateway.agent(&dana, "fixer");
    let proxy = enforcement_point(&gateway, &dana);
    let input = json!({
        "type": "object", "required": ["id"], "additionalProperties": false,
        "properties": { "id": { "type": "string", "maxLength": 40 }, "method": { "type": "string", "maxLength": 10 } },
    });
    let scopes = ["notes:write"];
    let tool =
        json!({ "name": "account.can_read", "input": input, "risk": 0, "data_class": "internal", "scopes": scopes });
    gateway.post("/api/v1/tools", &dana, &json!({ "tools": [tool] })).expect_status(201);
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let service = json!({ "id": "ci", "display_name": "CI", "owner": "dana", "scopes": ["start"] });
    gateway.post("/api/v1/services", &dana, &service).expect_status(201);
    let ask = |body: &Value| gateway.post("/access/v1/evaluation", &proxy, body).expect_status(200).json();

    // What the specification lets stand beside an id, of the resource too, is taken and is no fact.
    let dana_is = |word: &str| json!({ "type": word, "id": "dana", "properties": { "department": "Sales" } });
    let workflow = json!({ "type": "workflow", "id": "repair", "properties": { "owner": "alice@acmecorp.com" } });
    let fixer = json!({ "type": "agent", "id": "fixer", "properties": { "instance": instance } });
    let account = json!({ "type": "account", "id": "123" });
    for (subject, action, resource) in [
        (dana_is("user"), json!({ "name": "start" }), workflow.clone()),
        (dana_is("person"), json!({ "name": "start" }), workflow.clone()),
        (json!({ "type": "service", "id": "ci" }), json!({ "name": "start" }), workflow.clone()),
        (json!({ "type": "agent", "id": "fixer" }), json!({ "name": "start" }), workflow),
        // `<type>.<action>` is the tool, and the resource's id is its input `id`.
        (fixer.clone(), json!({ "name": "can_read", "properties": { "method": "GET" } }), account.clone()),
    ] {
        let body = json!({ "subject": subject, "action": action, "resource": resource });
        let answer = ask(&body);
        let entry = || gateway.get(&format!("/api/v1/audit/entries/{}", answer["context"]["entry"]), &dana).json();
        assert_eq!(answer["decision"], true, "{body}: {answer}: {}", entry());
        // The same of somebody who is not there.
        let mut other = body;
        other["subject"]["id"] = json!("nobody");
        assert_eq!(ask(&other)["decision"], false, "{other}");
    }

    // What stands in a question goes before what stands beside all of them: subject, action, context.
    let reading = json!({ "name": "can_read" });
    let boxcar = json!({
        "subject": { "type": "user", "id": "nobody" }, "action": { "name": "can_write" }, "resource": account,
        "context": { "time": "2024-05-31T15:22-07:00" },
        "evaluations": [
            {}, { "subject": fixer }, { "action": reading },
            { "subject": fixer, "action": reading, "context": { "time": "2024-06-01T00:00Z" } },
        ],
    });
    let answer = gateway.post("/access/v1/evaluations", &proxy, &boxcar).expect_status(200).json();
    let said: Vec<&Value> = answer["evaluations"].as_array().unwrap().iter().map(|one| &one["decision"]).collect();
    assert_eq!(said, [false, false, false, true].each_ref().map(|said| json!(said)).iter().collect::<Vec<_>>());
    // An empty list is as none: one question, one answer.
    let single = json!({ "subject": fixer, "action": reading, "resource": account, "evaluations": [] });
    let answer = gateway.post("/access/v1/evaluations", &proxy, &single).expect_status(200).json();
    assert_eq!((&answer["decision"], answer.get("evaluations")), (&json!(true), None), "{answer}");

    let found = gateway.get("/.well-known/authzen-configuration", "").expect_status(200);
    assert_eq!(found.header("content-type"), Some("application/json"));
    let expected = json!({
        "policy_decision_point": gateway.url(""), "access_evaluation_endpoint": gateway.url("/access/v1/evaluation"),
        "access_evaluations_endpoint": gateway.url("/access/v1/evaluations"),
    });
    assert_eq!(found.json(), expected);
}
