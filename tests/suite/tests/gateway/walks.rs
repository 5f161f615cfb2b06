//! Walks over the OpenAPI document: no operation without a credential, no change without an entry.

use std::collections::{BTreeMap, BTreeSet};

use countersign_tests_testkit::{Answer, Gateway, Options, PASSWORD};
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
fn each_changing_operation_leaves_an_entry_even_when_refused_and_is_logged_with_it() {
    let gateway = Gateway::start_with(Options::logging());
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let document = gateway.get("/openapi.json", "").expect_status(200).json();
    let without: BTreeSet<&str> = countersign_gateway_http::WITHOUT_ENTRY.iter().map(|(id, _)| *id).collect();
    let by = By { gateway: &gateway, dana: &dana, decider: &decider, agent: &agent };
    let mut missing: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        if method != "GET" && !without.contains(id.as_str()) {
            let left = by.prepared(&id).is_some_and(|call| by.leaves_an_entry(&id, &call));
            if !left {
                missing.push(format!("{id} ({method} {path})"));
            }
            // Where that was refused, what somebody does who may leaves one too.
            if by.of_accounts(&id).is_some_and(|call| !(call.good)(&ALLOWED)) {
                let done = by.of_accounts_done(&id).is_some_and(|call| by.leaves_an_entry(&id, &call));
                assert!(done != DONE_ELSEWHERE.iter().any(|(name, _)| *name == id), "{id}, by whoever may: {done}");
            }
        }
        seen.insert(id);
    }
    assert!(missing.is_empty(), "no entry after: {missing:#?}");
    let elsewhere = DONE_ELSEWHERE.iter().map(|(id, _)| id);
    let stale: Vec<&&str> = without.iter().chain(elsewhere).filter(|id| !seen.contains(**id)).collect();
    assert!(stale.is_empty(), "no longer in the document: {stale:?}");

    // What is set up before the one request does not count for it.
    for id in ["checkPolicy", "login"] {
        assert!(without.contains(id), "{id} is said to leave nothing");
        let call = by.prepared(id).unwrap();
        assert!(!by.leaves_an_entry(id, &call), "{id} left an entry, or the walk counts what is not the request's");
    }
    each_is_logged_with_its_entry_and_its_instance(&gateway, &dana, &document);
}

/// Of all that was asked so far, what was set up and what was measured: who reads the log finds entry and instance there.
fn each_is_logged_with_its_entry_and_its_instance(gateway: &Gateway, dana: &str, document: &Value) {
    let without: BTreeSet<&str> = countersign_gateway_http::WITHOUT_ENTRY.iter().map(|(id, _)| *id).collect();
    let entries = gateway.entries(dana);
    let ids: BTreeMap<(String, String), String> = operations(document)
        .into_iter()
        .map(|(method, path, operation)| ((method, path), operation["operationId"].as_str().unwrap().to_owned()))
        .collect();
    let (mut seen, mut inside) = (BTreeSet::new(), BTreeSet::new());
    for line in gateway.answered() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = ids.get(&(text(&line["span"]["method"]), text(&line["span"]["route"])));
        let Some(id) = id.filter(|id| !without.contains(id.as_str())) else { continue };
        let asked = line["span"]["method"] != "GET"
            && (line["status"].as_u64() < Some(300) || line["problem"] == "policy-denied");
        if !asked {
            continue;
        }
        assert!(text(&line["span"]["id"]).starts_with("req_"), "{line}");
        let index = line["entry"].as_u64().unwrap_or_else(|| panic!("{id} is logged without its entry: {line}"));
        let entry = entries.iter().find(|entry| entry["index"] == index).unwrap();
        if entry["stream"] == "instance" {
            assert_eq!(line["instance"], entry["stream_id"], "{id}: {line}");
            inside.insert(id.clone());
        }
        seen.insert(id.clone());
    }
    let silent: Vec<&String> = ids.iter().filter(|((method, _), _)| method != "GET").map(|(_, id)| id).collect();
    let silent: Vec<&&String> =
        silent.iter().filter(|id| !seen.contains(**id) && !without.contains(id.as_str())).collect();
    assert!(silent.is_empty(), "never logged with an entry: {silent:?}");
    for id in ["startAction", "reportOutcome", "decide", "completeInstance", "requestGrant"] {
        assert!(inside.contains(id), "{id} is logged without its instance");
    }
}

/// An answer to something that was done.
const ALLOWED: Answer = Answer { status: 200, headers: Vec::new(), bytes: Vec::new() };

/// Operations of which the walk over entries sees a refusal alone, by operation id, with the test that sees them done.
const DONE_ELSEWHERE: [(&str, &str); 7] = [
    ("beginSecondFactor", "`second_factor`, with the codes of an app"),
    ("confirmSecondFactor", "`second_factor`, with the codes of an app"),
    ("raiseAuthority", "`what_is_set_with_a_key_is_set_once`: it is not lowered again"),
    ("registerPersonKey", "`signing`, with a key that signs for itself"),
    ("removeSecondFactor", "`second_factor`, with the codes of an app"),
    ("reviewRecovery", "`recovery`, after one on a stopped gateway"),
    ("revokePersonKey", "`signing`, with a key that signs for itself"),
];

/// Operations that this walk does not repeat, by operation id, with the reason.
const REPEATED_ELSEWHERE: [(&str, &str); 2] = [
    ("raiseAuthority", "it is not lowered again: `what_is_set_with_a_key_is_set_once`"),
    ("reviewRecovery", "it takes a recovery on a stopped gateway, whose own test repeats it with its key"),
];

/// Operations whose repeat is told less, by operation id, with the reason: what it decided, what came of it and where the
/// instance stands is the same, the actions are read at the instance, and the receipt is that of the entry of the vote itself.
const TOLD_LESS: [(&str, &str); 3] = [
    ("decide", "what a vote led to is in the entries behind its own"),
    ("breakGlass", "what a lift led to is in the entries behind its own"),
    ("breakGlassPolicy", "what a lift led to is in the entries behind its own"),
];

/// Operations whose refusal by policy is no answer that is kept: each repeat is asked again, and on record again.
const REFUSED_AGAIN: [(&str, &str); 5] = [
    ("raiseAuthority", "a repeat by somebody who may by then is carried out"),
    ("reviewRecovery", "a repeat by somebody who may by then is carried out"),
    ("setEvaluationsRecord", "a repeat by somebody who may by then is carried out"),
    ("setPublicRead", "a repeat by somebody who may by then is carried out"),
    ("setShadowWindow", "a repeat by somebody who may by then is carried out"),
];

#[test]
fn each_operation_that_takes_an_idempotency_key_answers_a_repeat_as_before_and_leaves_no_further_entry() {
    let gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let document = gateway.get("/openapi.json", "").expect_status(200).json();
    let by = By { gateway: &gateway, dana: &dana, decider: &decider, agent: &agent };
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    for (_, _, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        if parameters.filter(|parameter| parameter["name"] == "Idempotency-Key").count() == 0 {
            continue;
        }
        if !REPEATED_ELSEWHERE.iter().any(|(name, _)| *name == id) {
            let call = by.set_by_dana(&id).or_else(|| by.prepared(&id)).unwrap_or_else(|| panic!("{id} is not known"));
            wrong.extend(by.is_not_repeated(&id, &call));
        }
        // Whoever may not is refused again, in the same words.
        if let Some(call) = by.of_accounts(&id) {
            assert!(REFUSED_AGAIN.iter().any(|(name, _)| *name == id), "{id} is refused: once, or again?");
            let [first, again] = [(); 2].map(|()| {
                let key = [("idempotency-key", "refused")];
                gateway.send(call.method, &call.path, &call.token, &key, Some(call.body.clone()))
            });
            let without_receipt = |answer: &Answer| {
                let mut body = lasting(answer);
                body.as_object_mut().map(|body| body.remove("receipt"));
                body
            };
            assert_eq!((first.status, without_receipt(&first)), (403, without_receipt(&again)), "{id}");
        }
        seen.insert(id);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen.len() > 20, "the document has them: {seen:?}");
    let lists = REPEATED_ELSEWHERE.iter().chain(&TOLD_LESS).chain(&REFUSED_AGAIN);
    let stale: Vec<_> = lists.filter(|(id, _)| !seen.contains(*id)).collect();
    assert!(stale.is_empty(), "no longer in the document: {stale:?}");
}

/// An answer without what may differ in a repeat: whether it was the first, and the checkpoint that a receipt leads to.
fn lasting(answer: &Answer) -> Value {
    let mut body: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
    for name in ["instance", "first"] {
        // Of a problem this is the request's id.
        if name == "first" || body["code"].is_string() {
            body.as_object_mut().map(|body| body.remove(name));
        }
    }
    if let Some(receipt) = body["receipt"].as_object_mut() {
        receipt.retain(|name, _| name == "index" || name == "leaf_hash");
    }
    body
}

/// The one request that is measured: whatever it needs is there.
struct Call {
    method: &'static str,
    path: String,
    token: String,
    body: Vec<u8>,
    /// What it must be answered with to have been asked at all.
    good: fn(&Answer) -> bool,
}

fn done(answer: &Answer) -> bool {
    answer.status < 300
}

fn denied(answer: &Answer) -> bool {
    answer.code() == "policy-denied"
}

impl Call {
    fn post(path: impl Into<String>, token: &str, body: &Value) -> Self {
        let body = body.to_string().into_bytes();
        Self { method: "POST", path: path.into(), token: token.to_owned(), body, good: done }
    }

    /// By whoever may not: the refusal must be there.
    fn denied(method: &'static str, path: impl Into<String>, token: &str, body: &Value) -> Self {
        Self { method, good: denied, ..Self::post(path, token, body) }
    }
}

/// Who asks in the walk.
struct By<'a> {
    gateway: &'a Gateway,
    dana: &'a str,
    decider: &'a str,
    agent: &'a str,
}

impl By<'_> {
    /// Sends the request alone, and looks for an entry of its own: the one that its receipt proves, or else one that somebody
    /// left. What the gateway does by itself meanwhile, when a time has come, is nobody's. Whoever has no account yet is nobody
    /// too, and leaves one that makes an account known, which no clock does.
    fn leaves_an_entry(&self, id: &str, call: &Call) -> bool {
        let nobody = format!("who_{}", "0".repeat(32));
        let before = self.gateway.entries(self.dana).len();
        let answer = self.gateway.send(call.method, &call.path, &call.token, &[], Some(call.body.clone()));
        assert!((call.good)(&answer), "{id}: {}: {}", answer.status, String::from_utf8_lossy(&answer.bytes));
        let entries = self.gateway.entries(self.dana);
        let body: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
        match body["receipt"]["index"].as_u64() {
            Some(index) => entries[before..].iter().any(|entry| entry["index"] == index),
            None if call.token.is_empty() => entries[before..].iter().any(|entry| entry["kind"] == "principal"),
            None => entries[before..].iter().any(|entry| entry["actor"] != nobody.as_str()),
        }
    }

    /// Sends the request with a key, with the key again, and with the key and another body. What is wrong about it, if anything.
    fn is_not_repeated(&self, id: &str, call: &Call) -> Option<String> {
        let key = format!("once-{}", id.replace([',', ' '], "-"));
        let send = |body: &[u8]| {
            self.gateway.send(call.method, &call.path, &call.token, &[("idempotency-key", &key)], Some(body.to_vec()))
        };
        let first = send(&call.body);
        assert!((call.good)(&first), "{id}: {}: {}", first.status, String::from_utf8_lossy(&first.bytes));
        let entries = || self.gateway.entries(self.dana);
        let of_somebody = |entries: &[Value]| {
            let nobody = format!("who_{}", "0".repeat(32));
            entries.iter().filter(|entry| entry["actor"] != nobody.as_str()).count()
        };
        let size = of_somebody(&entries());
        let again = send(&call.body);
        let (mut said, mut repeated) = (lasting(&first), lasting(&again));
        if TOLD_LESS.iter().any(|(name, _)| *name == id) {
            for body in [&mut said, &mut repeated] {
                body.as_object_mut().unwrap().retain(|name, _| !["actions", "receipt"].contains(&name.as_str()));
            }
            assert_eq!(again.json()["actions"], json!([]), "{id} is told more by now: take it off the list");
        }
        if (first.status, &said) != (again.status, &repeated) {
            return Some(format!("{id}: {} {said} and then {} {repeated}", first.status, again.status));
        }
        // To somebody who asks twice, authority is given once.
        let body = again.json();
        let flags = [&body["first"], &body["actions"][0]["start"]["first"]];
        if flags.contains(&&json!(true)) {
            return Some(format!("{id}: a repeat is told that it is the first: {body}"));
        }
        let other = send(&[&call.body[..], b"\n"].concat());
        if (other.status, other.code().as_str()) != (409, "idempotency-key-reused") {
            return Some(format!("{id}: another body: {} {}", other.status, String::from_utf8_lossy(&other.bytes)));
        }
        let now = of_somebody(&entries());
        (now != size).then(|| format!("{id}: {} further entries", now - size))
    }

    /// Settings, by somebody who may set them.
    fn set_by_dana(&self, id: &str) -> Option<Call> {
        let (path, value) = match id {
            "setPublicRead" => ("log.public_read", json!(true)),
            "setEvaluationsRecord" => ("evaluations.record", json!("none")),
            "setShadowWindow" => ("policy.shadow_window_s", json!(61)),
            _ => return None,
        };
        let call = Call::post(format!("/api/v1/settings/{path}"), self.dana, &json!({ "value": value }));
        Some(Call { method: "PUT", ..call })
    }

    fn instance(&self) -> String {
        self.gateway.instance(self.dana, "repair", "fixer")
    }

    /// An instance of the agent's, as part of a path.
    fn at_instance(&self, rest: &str) -> String {
        format!("/api/v1/instances/{}/{rest}", self.instance())
    }

    fn gate(&self) -> String {
        let merge = json!({ "branch": "main", "message": "fix" });
        let waiting = self.gateway.propose(self.agent, &self.instance(), "repo.merge", &merge).json();
        waiting["gate"]["id"].as_str().unwrap().to_owned()
    }

    /// An action that may be started.
    fn permitted(&self) -> String {
        let note = json!({ "text": "a" });
        let answer = self.gateway.propose(self.agent, &self.instance(), "notes.append", &note).json();
        answer["actions"][0]["action"].as_str().unwrap().to_owned()
    }

    /// Sets up what one operation needs, and gives the request; none if this test does not know the operation.
    fn prepared(&self, id: &str) -> Option<Call> {
        let By { gateway, dana, decider, agent } = *self;
        Some(match id {
            "createInstance" => {
                Call::post("/api/v1/instances", dana, &json!({ "workflow": "repair", "agent": "fixer" }))
            }
            "startInstance" => {
                let body = json!({ "workflow": "repair", "agent": "fixer", "start": false });
                let made = gateway.post("/api/v1/instances", dana, &body).expect_status(201).json();
                let made = made["instance"]["id"].as_str().unwrap();
                Call::post(format!("/api/v1/instances/{made}/start"), dana, &json!({}))
            }
            "completeInstance" => Call::post(self.at_instance("complete"), agent, &json!({})),
            "terminateInstance" => Call::post(self.at_instance("terminate"), agent, &json!({})),
            "proposeActions" => {
                let action = json!({ "tool": "notes.append", "input": { "text": "a" } });
                Call::post(self.at_instance("actions"), agent, &json!({ "actions": [action] }))
            }
            "startAction" => Call::post(format!("/api/v1/actions/{}/start", self.permitted()), agent, &json!({})),
            "reportOutcome" => {
                let action = self.permitted();
                gateway.post(&format!("/api/v1/actions/{action}/start"), agent, &json!({})).expect_status(200);
                let body = json!({ "outcome": "succeeded" });
                Call::post(format!("/api/v1/actions/{action}/outcome"), agent, &body)
            }
            "decide" => {
                let path = format!("/api/v1/gates/{}/decisions", self.gate());
                Call::post(path, decider, &json!({ "decision": "REJECT" }))
            }
            "breakGlass" => {
                let (path, sara, body) = crate::glass::breakable(gateway, dana, "sara");
                Call::post(path, &sara, &body)
            }
            "breakGlassPolicy" => {
                let (path, sven, body) = crate::glass::cuttable(gateway, dana, "sven");
                Call::post(path, &sven, &body)
            }
            "closeReview" => {
                let lift = crate::glass::broken(gateway, dana, "saul");
                let reviewer = crate::glass::person(gateway, dana, "rita", "ADMIN");
                let body = json!({ "finding": "upheld", "justification": "looked at it" });
                Call::post(format!("/api/v1/reviews/{lift}"), &reviewer, &body)
            }
            "requestGrant" => Call::post(self.at_instance("grants"), agent, &crate::grants::mailing(1)),
            "revokeGrant" => {
                let (instance, grant) = crate::grants::granted(gateway, &self.instance(), agent, decider);
                Call::post(format!("/api/v1/instances/{instance}/grants/{grant}/revoke"), agent, &json!({}))
            }
            "registerWorkflow" => Call::post("/api/v1/workflows", dana, &json!({ "id": "other", "version": "1" })),
            "evaluate" | "evaluateMany" => {
                let about = json!({ "type": "user", "id": "dana" });
                let (path, mut body) = ("/access/v1/evaluation", json!({ "subject": about, "resource": about }));
                body["action"] = json!({ "name": "updatePrincipal" });
                let call = if id == "evaluate" {
                    Call::post(path, agent, &body)
                } else {
                    body["evaluations"] = json!([{ "resource": about }]);
                    Call::post(format!("{path}s"), agent, &body)
                };
                Call { good: |answer| answer.status == 403, ..call }
            }
            "freeze" => Call::post("/api/v1/freezes", dana, &json!({ "team": "nobody" })),
            "liftFreeze" => {
                gateway.post("/api/v1/freezes", dana, &json!({ "team": "nobody" })).expect_status(200);
                Call::post("/api/v1/freezes/lift", dana, &json!({ "team": "nobody" }))
            }
            // The two that leave nothing, with something set up before them that does.
            "checkPolicy" => {
                self.instance();
                let body = crate::changes::draft(id);
                Call { body, ..Call::post("/api/v1/policies/check", dana, &json!({})) }
            }
            "login" => {
                self.instance();
                let body = json!({ "id": "dana", "password": PASSWORD, "scope": "act" });
                Call::post("/api/v1/tokens/login", "", &body)
            }
            "activatePolicy" | "proposePolicy" | "withdrawPolicyProposal" | "rollbackPolicy" => self.of_policy(id),
            _ => return self.of_accounts(id),
        })
    }

    /// Operations on accounts, settings and tools are asked by the agent, who may not: the refusal is what must be there.
    fn of_accounts(&self, id: &str) -> Option<Call> {
        let By { gateway, dana, agent, .. } = *self;
        let (method, path, body) = match id {
            "createPerson" => ("POST", "/api/v1/people", json!({ "id": "eve", "display_name": "Eve" })),
            "changePerson" => ("PATCH", "/api/v1/people/dana", json!({ "display_name": "D" })),
            "setPassword" => ("PUT", "/api/v1/people/dana/password", json!({ "password": "another long password 7" })),
            "registerPersonKey" => {
                let body = json!({ "alg": -8, "key": "A".repeat(43) + "=", "possession": "A".repeat(86) + "==" });
                ("POST", "/api/v1/people/dana/keys", body)
            }
            "revokePersonKey" => ("POST", "/api/v1/people/dana/keys/revoke", json!({ "key_id": "00".repeat(32) })),
            "beginSecondFactor" => ("POST", "/api/v1/people/dana/second-factor", json!({ "password": PASSWORD })),
            "confirmSecondFactor" => ("POST", "/api/v1/people/dana/second-factor/confirm", json!({ "otp": "123456" })),
            "removeSecondFactor" => ("DELETE", "/api/v1/people/dana/second-factor", json!({})),
            "erasePerson" => ("DELETE", "/api/v1/people/dana", json!({})),
            "createAgent" => ("POST", "/api/v1/agents", json!({ "id": "eve", "display_name": "Eve", "owner": "dana" })),
            "changeAgent" => ("PATCH", "/api/v1/agents/fixer", json!({ "display_name": "F" })),
            "createService" => {
                ("POST", "/api/v1/services", json!({ "id": "ci", "display_name": "CI", "owner": "dana" }))
            }
            "changeService" => ("PATCH", "/api/v1/services/ci", json!({ "display_name": "CI" })),
            "createServiceAccount" => ("POST", "/api/v1/service-accounts", json!({ "bound_to": "agent:fixer" })),
            "changeServiceAccount" | "rotateClientSecret" => {
                let listed = gateway.get("/api/v1/service-accounts", dana).expect_status(200).json();
                let client = listed["items"][0]["client_id"].as_str().unwrap();
                let path = format!("/api/v1/service-accounts/{client}");
                return Some(if id == "rotateClientSecret" {
                    Call::denied("POST", format!("{path}/rotate"), agent, &json!({}))
                } else {
                    Call::denied("PATCH", path, agent, &json!({ "disabled": false }))
                });
            }
            "invitePerson" => ("POST", "/api/v1/enrolments/people", json!({ "roles": ["OPERATOR"] })),
            "inviteServiceAccount" => {
                ("POST", "/api/v1/enrolments/service-accounts", json!({ "bound_to": "agent:fixer" }))
            }
            "revokeToken" => ("POST", "/api/v1/tokens/revoke", json!({ "account": "person:dana" })),
            "setPublicRead" => ("PUT", "/api/v1/settings/log.public_read", json!({ "value": true })),
            "setEvaluationsRecord" => ("PUT", "/api/v1/settings/evaluations.record", json!({ "value": "none" })),
            "enrolPerson" | "enrolServiceAccount" => {
                let (what, body) = match id {
                    "enrolPerson" => ("people", json!({ "roles": ["OPERATOR"] })),
                    _ => ("service-accounts", json!({ "bound_to": "agent:fixer" })),
                };
                let invited = gateway.post(&format!("/api/v1/enrolments/{what}"), dana, &body).expect_status(201);
                let token = invited.json()["token"].clone();
                return Some(if id == "enrolPerson" {
                    let mia = json!({ "token": token, "id": "mia", "display_name": "Mia", "password": PASSWORD });
                    Call::post("/api/v1/enrol/person", "", &mia)
                } else {
                    Call::post("/api/v1/enrol/service-account", "", &json!({ "token": token }))
                });
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
            _ => return None,
        };
        Some(Call::denied(method, path, agent, &body))
    }

    /// The same by dana, who may; none where it takes what another test sets up.
    fn of_accounts_done(&self, id: &str) -> Option<Call> {
        let By { gateway, dana, .. } = *self;
        let name = format!("done-{}", id.to_lowercase());
        let new = json!({ "id": name, "display_name": "N", "owner": "dana" });
        let person = || {
            let body = json!({ "id": name, "display_name": "N", "password": PASSWORD });
            gateway.post("/api/v1/people", dana, &body).expect_status(201);
        };
        let make = |kind: &str| gateway.post(&format!("/api/v1/{kind}"), dana, &new).expect_status(201);
        let account = || {
            make("agents");
            let body = json!({ "bound_to": format!("agent:{name}") });
            let made = gateway.post("/api/v1/service-accounts", dana, &body).expect_status(201).json();
            format!("/api/v1/service-accounts/{}", made["service_account"]["client_id"].as_str().unwrap())
        };
        let tools = |tool: &str| json!({ "tools": [{ "name": tool, "input": { "type": "object" } }] });
        let (method, path, body) = match id {
            "createPerson" => ("POST", "/api/v1/people".to_owned(), json!({ "id": name, "display_name": "N" })),
            "createAgent" => ("POST", "/api/v1/agents".to_owned(), new),
            "createService" => ("POST", "/api/v1/services".to_owned(), new),
            "changePerson" | "erasePerson" => {
                person();
                let (method, body) =
                    if id == "erasePerson" { ("DELETE", json!({})) } else { ("PATCH", json!({ "display_name": "M" })) };
                (method, format!("/api/v1/people/{name}"), body)
            }
            "setPassword" => {
                person();
                let own = gateway.login(&name, "act decide");
                let body = json!({ "password": "another long password 7", "current": PASSWORD });
                let call = Call::post(format!("/api/v1/people/{name}/password"), &own, &body);
                return Some(Call { method: "PUT", ..call });
            }
            "changeAgent" | "changeService" => {
                let kind = if id == "changeAgent" { "agents" } else { "services" };
                make(kind);
                ("PATCH", format!("/api/v1/{kind}/{name}"), json!({ "display_name": "M" }))
            }
            "createServiceAccount" | "inviteServiceAccount" => {
                make("agents");
                let kind = if id == "createServiceAccount" { "" } else { "enrolments/" };
                let body = json!({ "bound_to": format!("agent:{name}") });
                ("POST", format!("/api/v1/{kind}service-accounts"), body)
            }
            "changeServiceAccount" => ("PATCH", account(), json!({ "disabled": true })),
            "rotateClientSecret" => ("POST", format!("{}/rotate", account()), json!({})),
            "invitePerson" => ("POST", "/api/v1/enrolments/people".to_owned(), json!({ "roles": ["OPERATOR"] })),
            "revokeToken" => {
                person();
                ("POST", "/api/v1/tokens/revoke".to_owned(), json!({ "account": format!("person:{name}") }))
            }
            "registerTools" => ("POST", "/api/v1/tools".to_owned(), tools("done.register")),
            "importMcpTools" => {
                let tool = json!({ "name": "create", "inputSchema": { "type": "object" } });
                let body = json!({ "server": "done", "tools_list": { "tools": [tool] } });
                ("POST", "/api/v1/tools/import-mcp".to_owned(), body)
            }
            "retireTool" => {
                gateway.post("/api/v1/tools", dana, &tools("done.retire")).expect_status(201);
                ("DELETE", "/api/v1/tools/done.retire".to_owned(), json!({}))
            }
            _ => return self.set_by_dana(id),
        };
        Some(Call { method, ..Call::post(path, dana, &body) })
    }

    /// A change of policy, and its way back.
    fn of_policy(&self, id: &str) -> Call {
        let By { gateway, dana, .. } = *self;
        let proposals = "/api/v1/policies/proposals";
        // Far enough that a proposal rests in its window.
        let rests = ["proposePolicy", "withdrawPolicyProposal"].contains(&id);
        crate::glass::window(gateway, dana, if rests { 3600 } else { 0 });
        let draft = crate::changes::draft(id);
        let asked = |path: &str, body: &[u8]| {
            let path = crate::changes::confirmed(gateway, dana, path, body);
            Call { body: body.to_vec(), ..Call::post(path, dana, &json!({})) }
        };
        match id {
            "activatePolicy" => asked("/api/v1/policies/activate", &draft),
            "proposePolicy" => asked(proposals, &draft),
            "withdrawPolicyProposal" => {
                let proposed = crate::changes::propose(gateway, dana, proposals, &draft);
                let path = format!("{proposals}/{}/withdraw", proposed["id"].as_str().unwrap());
                Call::post(path, dana, &json!({}))
            }
            _ => {
                let replaced = crate::changes::propose(gateway, dana, proposals, &draft);
                assert_eq!(replaced["state"], "activated", "there is one to go back from: {replaced}");
                asked("/api/v1/policies/rollback", b"{}")
            }
        }
    }
}
