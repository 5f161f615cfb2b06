//! A walk over everything that reads: what policy says, why, and what is on record is for people and services. An agent,
//! also one that acts for a person, is refused whatever is not on a list with its reason.

use std::collections::BTreeSet;

use countersign_tests_testkit::{Answer, Gateway};
use serde_json::{Value, json};

use crate::walks::operations;

/// What an agent is answered, by operation id, with the reason.
const ANSWERED: &[(&str, &str)] = &[
    ("exchangeConsent", "it is how an agent comes to act for a person, who has consented"),
    ("getAction", "its own action"),
    ("getAgent", "its own account"),
    ("getGate", "the gate of its own instance: what it waits for"),
    ("getInstance", "its own instance"),
    ("getRun", "the run of its own action"),
    ("getRunLogs", "the run of its own action"),
    ("getTool", "names and schemas of tools are no secret"),
    ("listGrants", "what people said in advance of its own instance"),
    ("listTools", "names and schemas of tools are no secret"),
    ("uploadWorkspace", "bytes under their own digest, which no authority rests on"),
    ("verifyPack", "it checks bytes that the caller has already"),
    ("whoami", "it says to whom the token belongs"),
];

/// What nobody is answered here although they may ask, with the reason.
const NOTHING_THERE: &[(&str, &str)] =
    &[("getToolRegistration", "none waits for people under the bundle that ships; `tools` has one that does")];

/// What the walk asks about: all of it is the agent's own, or there for everybody who may read it.
struct Scene {
    gateway: Gateway,
    dana: String,
    proxy: String,
    agents: [(&'static str, String); 2],
    consent: Value,
    instance: String,
    action: String,
    run: String,
    gate: String,
    refusal: String,
    proposal: String,
    client: String,
    log: String,
    pack: Vec<u8>,
    draft: Vec<u8>,
}

fn text(answer: &Value, pointer: &str) -> String {
    answer.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {answer}")).to_owned()
}

fn scene() -> Scene {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    let service = json!({ "id": "proxy", "display_name": "Proxy", "owner": "dana", "scopes": ["evaluate"] });
    gateway.post("/api/v1/services", &dana, &service).expect_status(201);
    let proxy = gateway.credentials(&dana, "service:proxy");
    let consent = gateway.post("/api/v1/tokens/consent", &dana, &json!({ "agent": "fixer" })).expect_status(200).json();
    let consent = json!({ "consent": text(&consent, "/access_token") });
    let chained = gateway.post("/api/v1/tokens/exchange", &agent, &consent).expect_status(200).json();
    let chained = text(&chained, "/access_token");
    gateway.workflow(&dana, "repair");

    // Work of its own that was permitted, and a run.
    let files = json!({ "files": [{ "path": "test.sh", "text": "exit 0\n", "executable": true }] });
    let workspace = gateway.post("/api/v1/workspaces", &dana, &files).expect_status(201).json();
    let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": workspace["workspace"] });
    let instance = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
    let instance = text(&instance, "/instance/id");
    let noted = gateway.propose(&agent, &instance, "notes.append", &json!({ "text": "a" })).expect_status(200).json();
    let ran = gateway.propose(&agent, &instance, "repo.run_tests", &json!({})).json();
    let run = text(&ran, "/actions/0/run");
    gateway.until(&format!("/api/v1/runs/{run}"), &agent, |run| !run["outcome"].is_null());
    // What it was refused, and what waits for people.
    let refused = gateway.propose(&agent, &instance, "repo.read", &json!({ "path": "credentials" })).expect_status(403);
    let merge = json!({ "branch": "main", "message": "fix" });
    let waiting = gateway.propose(&agent, &instance, "repo.merge", &merge).expect_status(202).json();

    let window = json!({ "value": 3600 }).to_string().into_bytes();
    gateway.send("PUT", "/api/v1/settings/policy.shadow_window_s", &dana, &[], Some(window)).expect_status(200);
    let draft = crate::changes::draft("closed to agents");
    let proposed = crate::changes::propose(&gateway, &dana, "/api/v1/policies/proposals", &draft);
    let clients = gateway.get("/api/v1/service-accounts", &dana).expect_status(200).json();
    let log = gateway.tenants()[0].log.clone();
    Scene {
        pack: std::fs::read(gateway.pack(&dana)).unwrap(),
        refusal: refused.json()["receipt"]["index"].to_string(),
        action: text(&noted, "/actions/0/action"),
        gate: text(&waiting, "/gate/id"),
        proposal: text(&proposed, "/id"),
        client: text(&clients, "/items/0/client_id"),
        agents: [("an agent", agent), ("an agent for a person", chained)],
        dana,
        proxy,
        consent,
        instance,
        run,
        log,
        draft,
        gateway,
    }
}

impl Scene {
    /// The path with what stands in the scene for each parameter, and a query where one is needed.
    fn path(&self, id: &str, path: &str) -> String {
        let kinds = [
            ("/actions/", self.action.as_str()),
            ("/agents/", "fixer"),
            ("/audit/", &self.refusal),
            ("/replay/", &self.refusal),
            ("/gates/", &self.gate),
            ("/instances/", &self.instance),
            ("/people/", "dana"),
            ("/problems/", "not-found"),
            ("/proposals/", &self.proposal),
            ("/registrations/", &format!("inst_{}", "0".repeat(32))),
            ("/runs/", &self.run),
            ("/service-accounts/", &self.client),
            ("/services/", "proxy"),
            ("/tools/", "notes.append"),
            ("/workflows/", "repair"),
            ("/log/", &self.log),
        ]
        .map(|(within, id)| (within, id.to_owned()));
        let mut out = String::new();
        let mut rest = path;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').unwrap();
            out.push_str(before);
            let here = kinds.iter().find(|(within, _)| path.contains(within));
            out.push_str(if name == "path" { "entries/000.p/1" } else { &here.unwrap_or_else(|| panic!("{path}")).1 });
            rest = after;
        }
        out.push_str(rest);
        match id {
            "getConsistencyProof" => out.push_str("?old=1&new=2"),
            "getInclusionProof" => out.push_str("?index=0&size=1"),
            "verifyPack" => {
                out.push_str("?root=");
                out.push_str(&self.gateway.root_vkey().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"));
            }
            _ => {}
        }
        out
    }

    fn body(&self, id: &str) -> Option<Vec<u8>> {
        let question = json!({
            "asked": "Agent::fixer", "op": "callTool", "resource": "Tool::notes.append", "input": { "text": "a" },
            "instance": format!("Instance::{}", self.instance),
        });
        let about = json!({ "type": "agent", "id": "fixer" });
        let evaluation = json!({
            "subject": about, "action": { "name": "readInstance" },
            "resource": { "type": "instance", "id": self.instance },
        });
        Some(match id {
            "checkPolicy" | "backtestPolicy" => return Some(self.draft.clone()),
            "verifyPack" => return Some(self.pack.clone()),
            "consent" => json!({ "agent": "fixer" }),
            "exchangeConsent" => self.consent.clone(),
            "explainQuestion" => question,
            "explainQuestions" => json!({ "questions": [question] }),
            "listPermissions" => json!({ "principal": "agent:fixer" }),
            "uploadWorkspace" => json!({ "files": [{ "path": "a", "text": "a" }] }),
            "evaluate" | "evaluateMany" => evaluation,
            _ => return None,
        })
        .map(|body| body.to_string().into_bytes())
    }

    fn ask(&self, (method, path, id): (&str, &str, &str), token: &str) -> Answer {
        let body = self.body(id).or_else(|| (method != "GET").then(|| b"{}".to_vec()));
        self.gateway.send(method, &self.path(id, path), token, &[], body)
    }
}

#[test]
fn an_agent_is_refused_every_question_about_policy_and_everything_on_record() {
    let scene = scene();
    let document = scene.gateway.get("/openapi.json", "").expect_status(200).json();
    let listed = |list: &[(&str, &str)], id: &str| list.iter().any(|(name, _)| *name == id);
    let (mut refused, mut seen, mut problems) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        let asks = operation["tags"] == json!(["authzen"]);
        if method != "GET" && !asks && !listed(countersign_gateway_http::WITHOUT_ENTRY, &id) {
            continue;
        }
        let operation = (method.as_str(), path.as_str(), id.as_str());
        // Whatever anybody is answered without a credential; an open one that is hidden from the public is walked.
        if listed(countersign_gateway_http::OPEN, &id) && scene.ask(operation, "").status != 404 {
            continue;
        }
        for (who, token) in &scene.agents {
            let answer = scene.ask(operation, token);
            let said = format!("{id} by {who}: {} {:.200}", answer.status, String::from_utf8_lossy(&answer.bytes));
            if listed(ANSWERED, &id) {
                // One that is refused has no place on the list.
                if answer.status >= 300 && (*who == "an agent" || id != "exchangeConsent") {
                    problems.push(said);
                }
            } else if ![403, 404].contains(&answer.status) {
                problems.push(said);
            }
        }
        if !listed(ANSWERED, &id) && !listed(NOTHING_THERE, &id) {
            // The request is a good one: whoever may ask it is answered.
            let answer = scene.ask(operation, if asks { &scene.proxy } else { &scene.dana });
            if answer.status >= 300 {
                let said = String::from_utf8_lossy(&answer.bytes).into_owned();
                problems.push(format!("{id} by those who may: {} {said:.200}", answer.status));
            }
            refused.insert(id.clone());
        }
        seen.insert(id);
    }
    assert!(problems.is_empty(), "{problems:#?}");
    let stale: Vec<&str> =
        ANSWERED.iter().chain(NOTHING_THERE).map(|(id, _)| *id).filter(|id| !seen.contains(*id)).collect();
    assert!(stale.is_empty(), "no longer walked: {stale:?}");
    for id in [
        "explainVerdict",
        "explainQuestion",
        "explainQuestions",
        "listPermissions",
        "listApprovers",
        "backtestPolicy",
        "checkPolicy",
        "evaluate",
        "replayVerdict",
        "listEntries",
        "getTile",
    ] {
        assert!(refused.contains(id), "{id} was not walked");
    }
}
