//! Walks over the OpenAPI document: no operation without a credential, no change without an entry.

use std::collections::BTreeSet;

use countersign_tests_testkit::Gateway;
use serde_json::{Value, json};

/// Every operation of the document: method, path, description.
pub(crate) fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if ["get", "put", "post", "delete", "patch"].contains(&method.as_str()) {
                found.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    assert!(found.len() > 40, "the document has its operations");
    found
}

/// A path with something plausible for each parameter.
fn filled(path: &str) -> String {
    let zero = "0".repeat(32);
    let kind = |path: &str| match path {
        p if p.contains("/instances/") => format!("inst_{zero}"),
        p if p.contains("/actions/") => format!("act_{zero}"),
        p if p.contains("/gates/") => format!("gate_{zero}"),
        p if p.contains("/reviews/") => format!("dec_{zero}"),
        p if p.contains("/a-grant/") => format!("grant_{zero}"),
        p if p.contains("/runs/") => format!("run_{zero}"),
        p if p.contains("/log/") => format!("log_{zero}"),
        _ => "nobody".to_owned(),
    };
    let mut out = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap();
        out.push_str(before);
        out.push_str(&match name {
            "index" => "0".to_owned(),
            "code" => "not-found".to_owned(),
            "grant" => kind("/a-grant/"),
            "path" | "*path" => "0/000".to_owned(),
            _ => kind(path),
        });
        rest = after;
    }
    out + rest
}

#[test]
fn each_operation_is_refused_without_a_credential() {
    let gateway = Gateway::start();
    let document = gateway.get("/openapi.json", "").expect_status(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let open: BTreeSet<&str> = countersign_gateway_http::OPEN.iter().map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        let body = (method != "GET").then(|| b"{}".to_vec());
        let answer = gateway.send(&method, &filled(&path), "", &[], body);
        if open.contains(id) {
            assert_ne!(answer.code(), "token-missing", "{id} is said to be open");
            seen.insert(id.to_owned());
        } else {
            assert_eq!((answer.status, answer.code().as_str()), (401, "token-missing"), "{method} {path}");
        }
    }
    let stale: Vec<&&str> = open.iter().filter(|id| !seen.contains(**id)).collect();
    assert!(stale.is_empty(), "no longer in the document: {stale:?}");
}

#[test]
fn each_changing_operation_leaves_an_entry_even_when_refused() {
    let gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let document = gateway.get("/openapi.json", "").expect_status(200).json();
    let without: BTreeSet<&str> = countersign_gateway_http::WITHOUT_ENTRY.iter().map(|(id, _)| *id).collect();
    let size = || gateway.entries(&dana).len();
    // What each needs to become a question. An agent asks wherever it may not: the refusal must be there.
    let mut missing: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        if method == "GET" || without.contains(id.as_str()) {
            seen.insert(id);
            continue;
        }
        let before = size();
        let made = act(&gateway, &id, (&dana, &decider, &agent));
        if !made || size() == before {
            missing.push(format!("{id} ({method} {path})"));
        }
        seen.insert(id);
    }
    assert!(missing.is_empty(), "no entry after: {missing:#?}");
    let stale: Vec<&&str> = without.iter().filter(|id| !seen.contains(**id)).collect();
    assert!(stale.is_empty(), "no longer in the document: {stale:?}");
}

/// Carries one operation out in earnest; false if this test does not know it, which is a failure.
fn act(gateway: &Gateway, id: &str, (dana, decider, agent): (&str, &str, &str)) -> bool {
    let post = |path: &str, token: &str, body: Value| gateway.post(path, token, &body);
    let instance = || gateway.instance(dana, "repair", "fixer");
    let gate = || {
        let instance = instance();
        let merge = json!({ "branch": "main", "message": "fix" });
        gateway.propose(agent, &instance, "repo.merge", &merge).json()["gate"]["id"].as_str().unwrap().to_owned()
    };
    let permitted = || {
        let instance = instance();
        let note = json!({ "text": "a" });
        let answer = gateway.propose(agent, &instance, "notes.append", &note).json();
        answer["actions"][0]["action"].as_str().unwrap().to_owned()
    };
    let answer = match id {
        "createInstance" => post("/api/v1/instances", dana, json!({ "workflow": "repair", "agent": "fixer" })),
        "startInstance" => {
            let body = json!({ "workflow": "repair", "agent": "fixer", "start": false });
            let made = post("/api/v1/instances", dana, body).json();
            let made = made["instance"]["id"].as_str().unwrap().to_owned();
            post(&format!("/api/v1/instances/{made}/start"), dana, json!({}))
        }
        "completeInstance" => post(&format!("/api/v1/instances/{}/complete", instance()), agent, json!({})),
        "terminateInstance" => post(&format!("/api/v1/instances/{}/terminate", instance()), agent, json!({})),
        "proposeActions" => gateway.propose(agent, &instance(), "notes.append", &json!({ "text": "a" })),
        "startAction" => post(&format!("/api/v1/actions/{}/start", permitted()), agent, json!({})),
        "reportOutcome" => {
            let action = permitted();
            post(&format!("/api/v1/actions/{action}/start"), agent, json!({})).expect_status(200);
            post(&format!("/api/v1/actions/{action}/outcome"), agent, json!({ "outcome": "succeeded" }))
        }
        "decide" => {
            let gate = gate();
            post(&format!("/api/v1/gates/{gate}/decisions"), decider, json!({ "decision": "REJECT" }))
        }
        "breakGlass" => {
            crate::glass::broken(gateway, dana, "sara");
            return true;
        }
        "breakGlassPolicy" => {
            crate::glass::cut(gateway, dana, "sven");
            return true;
        }
        "closeReview" => {
            let (lift, _) = crate::glass::broken(gateway, dana, "saul");
            let body = json!({ "finding": "upheld", "justification": "looked at it" });
            let reviewer = crate::glass::person(gateway, dana, "rita", "ADMIN");
            post(&format!("/api/v1/reviews/{lift}"), &reviewer, body)
        }
        "requestGrant" => post(&format!("/api/v1/instances/{}/grants", instance()), agent, crate::grants::mailing(1)),
        "revokeGrant" => {
            let (instance, grant) = crate::grants::granted(gateway, &instance(), agent, decider);
            post(&format!("/api/v1/instances/{instance}/grants/{grant}/revoke"), agent, json!({}))
        }
        "registerWorkflow" => post("/api/v1/workflows", dana, json!({ "id": "other", "version": "1" })),
        "evaluate" => {
            let about = json!({ "type": "user", "id": "dana" });
            let body = json!({ "subject": about, "action": { "name": "updatePrincipal" }, "resource": about });
            gateway.post("/access/v1/evaluation", agent, &body).expect_status(403);
            return true;
        }
        "evaluateMany" => {
            let about = json!({ "type": "user", "id": "dana" });
            let body = json!({
                "subject": about, "action": { "name": "updatePrincipal" }, "evaluations": [{ "resource": about }]
            });
            gateway.post("/access/v1/evaluations", agent, &body).expect_status(403);
            return true;
        }
        "freeze" => post("/api/v1/freezes", dana, json!({ "team": "nobody" })),
        "liftFreeze" => post("/api/v1/freezes/lift", dana, json!({ "team": "nobody" })),
        _ => return act_on_accounts(gateway, id, (dana, agent)),
    };
    assert!(answer.status < 300, "{id}: {}", String::from_utf8_lossy(&answer.bytes));
    true
}

/// Operations on accounts, settings and policy are asked by the agent, who may not: the refusal is what must be there.
fn act_on_accounts(gateway: &Gateway, id: &str, (dana, agent): (&str, &str)) -> bool {
    let (method, path, body) = match id {
        "createPerson" => ("POST", "/api/v1/people", json!({ "id": "eve", "display_name": "Eve" })),
        "changePerson" => ("PATCH", "/api/v1/people/dana", json!({ "display_name": "D" })),
        "setPassword" => ("PUT", "/api/v1/people/dana/password", json!({ "password": "another long password 7" })),
        "registerPersonKey" => {
            let body = json!({ "alg": -8, "key": "A".repeat(43) + "=", "possession": "A".repeat(86) + "==" });
            ("POST", "/api/v1/people/dana/keys", body)
        }
        "revokePersonKey" => ("POST", "/api/v1/people/dana/keys/revoke", json!({ "key_id": "00".repeat(32) })),
        "erasePerson" => ("DELETE", "/api/v1/people/dana", json!({})),
        "createAgent" => ("POST", "/api/v1/agents", json!({ "id": "eve", "display_name": "Eve", "owner": "dana" })),
        "changeAgent" => ("PATCH", "/api/v1/agents/fixer", json!({ "display_name": "F" })),
        "createService" => ("POST", "/api/v1/services", json!({ "id": "ci", "display_name": "CI", "owner": "dana" })),
        "changeService" => ("PATCH", "/api/v1/services/ci", json!({ "display_name": "CI" })),
        "createServiceAccount" => ("POST", "/api/v1/service-accounts", json!({ "bound_to": "agent:fixer" })),
        "changeServiceAccount" | "rotateClientSecret" => {
            let listed = gateway.get("/api/v1/service-accounts", dana).expect_status(200).json();
            let client = listed["items"][0]["client_id"].as_str().unwrap().to_owned();
            let answer = if id == "rotateClientSecret" {
                gateway.post(&format!("/api/v1/service-accounts/{client}/rotate"), agent, &json!({}))
            } else {
                let body = json!({ "disabled": false }).to_string().into_bytes();
                gateway.send("PATCH", &format!("/api/v1/service-accounts/{client}"), agent, &[], Some(body))
            };
            assert_eq!(answer.code(), "policy-denied", "{id}");
            return true;
        }
        "invitePerson" => ("POST", "/api/v1/enrolments/people", json!({ "roles": ["OPERATOR"] })),
        "inviteServiceAccount" => ("POST", "/api/v1/enrolments/service-accounts", json!({ "bound_to": "agent:fixer" })),
        "revokeToken" => ("POST", "/api/v1/tokens/revoke", json!({ "account": "person:dana" })),
        "setPublicRead" => ("PUT", "/api/v1/settings/log.public_read", json!({ "value": true })),
        "setEvaluationsRecord" => ("PUT", "/api/v1/settings/evaluations.record", json!({ "value": "none" })),
        "enrolPerson" => {
            let answer = gateway.post("/api/v1/enrolments/people", dana, &json!({ "roles": ["OPERATOR"] }));
            let token = answer.expect_status(201).json()["token"].clone();
            let body = json!({
                "token": token, "id": "mia", "display_name": "Mia", "password": countersign_tests_testkit::PASSWORD,
            });
            gateway.post("/api/v1/enrol/person", "", &body).expect_status(201);
            return true;
        }
        "enrolServiceAccount" => {
            let body = json!({ "bound_to": "agent:fixer" });
            let answer = gateway.post("/api/v1/enrolments/service-accounts", dana, &body);
            let token = answer.expect_status(201).json()["token"].clone();
            gateway.post("/api/v1/enrol/service-account", "", &json!({ "token": token })).expect_status(201);
            return true;
        }
        "registerTools" => {
            let tool = json!({ "name": "tickets.create", "input": { "type": "object" } });
            ("POST", "/api/v1/tools", json!({ "tools": [tool] }))
        }
        "importMcpTools" => {
            let tool = json!({ "name": "create", "inputSchema": { "type": "object" } });
            ("POST", "/api/v1/tools/import-mcp", json!({ "server": "tickets", "tools_list": { "tools": [tool] } }))
        }
        "retireTool" => ("DELETE", "/api/v1/tools/notes.append", json!({})),
        "reviewRecovery" => ("POST", "/api/v1/policies/recovery/review", json!({})),
        "setShadowWindow" => ("PUT", "/api/v1/settings/policy.shadow_window_s", json!({ "value": 60 })),
        "raiseAuthority" => ("PUT", "/api/v1/settings/authority", json!({ "value": "four_eyes" })),
        "activatePolicy" => return activate(gateway, dana),
        "proposePolicy" | "withdrawPolicyProposal" | "rollbackPolicy" => return change_policy(gateway, id, dana),
        _ => return false,
    };
    let answer = gateway.send(method, path, agent, &[], Some(body.to_string().into_bytes()));
    assert_eq!(answer.code(), "policy-denied", "{id}: {}", String::from_utf8_lossy(&answer.bytes));
    true
}

/// The way of a bundle is the program's own to walk; its entry is held by `first_hour`.
fn activate(gateway: &Gateway, dana: &str) -> bool {
    crate::first_hour::activate_a_changed_bundle(gateway, dana);
    true
}

/// A change of policy, and its way back.
fn change_policy(gateway: &Gateway, id: &str, dana: &str) -> bool {
    let proposals = "/api/v1/policies/proposals";
    let window = |seconds: u64| {
        let body = json!({ "value": seconds }).to_string().into_bytes();
        gateway.send("PUT", "/api/v1/settings/policy.shadow_window_s", dana, &[], Some(body)).expect_status(200);
    };
    // Far enough that a proposal rests in its window.
    window(if id == "rollbackPolicy" { 0 } else { 3600 });
    let proposed = crate::changes::propose(gateway, dana, proposals, &crate::changes::draft(id));
    match id {
        "withdrawPolicyProposal" => {
            let path = format!("{proposals}/{}/withdraw", proposed["id"].as_str().unwrap());
            gateway.post(&path, dana, &json!({})).expect_status(200);
        }
        "rollbackPolicy" => {
            let back = crate::changes::propose(gateway, dana, "/api/v1/policies/rollback", b"{}");
            assert_eq!(back["rollback"], true, "{back}");
        }
        _ => {}
    }
    true
}
