//! Nothing of one organization can be read, listed, changed or decided from another, by anybody: as if it were not there.
//!
//! A walk over the OpenAPI document. Each operation has a line in `asked`: it takes an id, or names one in its body, or
//! filters by one, or answers about the caller's own organization. An operation without a line fails the test.

use std::collections::BTreeMap;

use countersign_tests_testkit::{Answer, Gateway, PASSWORD, Tenant, countersign};
use serde_json::{Value, json};

use crate::walks::operations;

/// A repository that a run can start from.
const REPOSITORY: &str = "echo tested\n";

/// One organization with something of everything in it. Each name in it begins with `mark`.
struct Side {
    tenant: Tenant,
    mark: &'static str,
    /// Principals by sort, each with a token.
    who: Vec<(&'static str, String)>,
    /// One thing of each kind, for others to ask for.
    ids: BTreeMap<&'static str, String>,
    /// What must not be in an answer to anybody else.
    secrets: Vec<String>,
}

/// Index of an entry that carries a verdict, once a few things were made.
const VERDICT: &str = "12";

/// Kinds of things that have ids.
const KINDS: [&str; 15] = [
    "instance",
    "unstarted",
    "gate",
    "grant",
    "action",
    "begun",
    "run",
    "person",
    "agent",
    "service",
    "client",
    "workflow",
    "tool",
    "proposal",
    "log",
];

/// What nobody has: an id of the right form.
fn nobody(kind: &str) -> String {
    let hex = format!("{}c0ffee", "0".repeat(26));
    match kind {
        "instance" | "unstarted" | "proposal" => format!("inst_{hex}"),
        "action" | "begun" => format!("act_{hex}"),
        "client" => format!("client_{hex}"),
        "grant" => format!("inst_{hex}/grant_{hex}"),
        "gate" | "run" | "log" => format!("{kind}_{hex}"),
        _ => "nobody-at-all".to_owned(),
    }
}

fn text(answer: &Value, pointer: &str) -> String {
    answer.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {answer}")).to_owned()
}

impl Side {
    fn new(gateway: &Gateway, tenant: Tenant, mark: &'static str) -> Self {
        let owner = format!("{mark}-owner");
        gateway.enrol_in(&tenant, &owner);
        let act = gateway.login_in(&tenant, &owner, "act");
        let mut side = Self { tenant, mark, who: vec![("person", act)], ids: BTreeMap::new(), secrets: Vec::new() };
        side.who.push(("decider", gateway.login_in(&side.tenant, &owner, "act decide")));
        let agent = side.named("agent");
        let scopes = ["repo:read", "repo:write", "repo:test", "repo:merge", "notes:write"];
        let body = json!({ "id": agent, "display_name": agent, "owner": owner, "autonomy": 2, "scopes": scopes });
        side.post(gateway, "/api/v1/agents", &body);
        let service = side.named("service");
        let body = json!({ "id": service, "display_name": service, "owner": owner, "scopes": ["evaluate"] });
        side.post(gateway, "/api/v1/services", &body);
        side.who.push(("agent", gateway.credentials(side.token("person"), &format!("agent:{agent}"))));
        side.who.push(("service", gateway.credentials(side.token("person"), &format!("service:{service}"))));
        let consent = side.post(gateway, "/api/v1/tokens/consent", &json!({ "agent": agent }));
        let consent = json!({ "consent": text(&consent, "/access_token") });
        let chained = gateway.post("/api/v1/tokens/exchange", side.token("agent"), &consent).expect_status(200).json();
        side.who.push(("agent on behalf of a person", text(&chained, "/access_token")));
        side.post(gateway, "/api/v1/workflows", &json!({ "id": side.named("workflow"), "version": "1" }));
        for kind in KINDS {
            let id = side.make(gateway, kind);
            side.secrets.push(id.rsplit('_').next().unwrap().to_owned());
            side.ids.insert(kind, id);
        }
        for (_, token) in &side.who {
            let me = gateway.get("/api/v1/me", token).expect_status(200).json();
            side.secrets.push(text(&me, "/pseudonym").rsplit('_').next().unwrap().to_owned());
        }
        side.secrets.push(mark.to_owned());
        side.secrets.push(side.tenant.organization.trim_start_matches("org_").to_owned());
        side
    }

    fn named(&self, what: &str) -> String {
        format!("{}-{what}", self.mark)
    }

    fn token(&self, who: &str) -> &str {
        &self.who.iter().find(|(name, _)| *name == who).unwrap().1
    }

    fn post(&self, gateway: &Gateway, path: &str, body: &Value) -> Value {
        let answer = gateway.post(path, self.token("person"), body);
        assert!(answer.status < 300, "{path}: {}", String::from_utf8_lossy(&answer.bytes));
        answer.json()
    }

    fn instance(&self, gateway: &Gateway, more: &Value) -> String {
        let mut body = json!({ "workflow": self.named("workflow"), "agent": self.named("agent") });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        text(&self.post(gateway, "/api/v1/instances", &body), "/instance/id")
    }

    fn propose(&self, gateway: &Gateway, instance: &str, tool: &str, input: &Value, begin: bool) -> Value {
        let body = json!({ "actions": [{ "tool": tool, "input": input }], "begin": begin });
        let answer = gateway.post(&format!("/api/v1/instances/{instance}/actions"), self.token("agent"), &body);
        assert!(answer.status < 300, "{tool}: {}", String::from_utf8_lossy(&answer.bytes));
        answer.json()
    }

    fn workspace(&self, gateway: &Gateway, content: &str) -> String {
        let files = json!({ "files": [{ "path": "test.sh", "text": content, "executable": true }] });
        text(&self.post(gateway, "/api/v1/workspaces", &files), "/workspace")
    }

    /// Something new of a kind.
    fn make(&self, gateway: &Gateway, kind: &str) -> String {
        let fresh = self.named(&uuid());
        let note = json!({ "text": "a" });
        let accounts = |path: &str, more: Value| {
            let mut body = json!({ "id": fresh, "display_name": fresh });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            self.post(gateway, path, &body);
            fresh.clone()
        };
        match kind {
            // One for all: a registration checks the whole bundle, which takes its time.
            "tool" => {
                let name = self.named("tools.note");
                let there = gateway.get(&format!("/api/v1/tools/{name}"), self.token("person")).status == 200;
                if !there {
                    let tool = json!({ "name": name, "input": { "type": "object" } });
                    self.post(gateway, "/api/v1/tools", &json!({ "tools": [tool] }));
                }
                name
            }
            "instance" => self.instance(gateway, &json!({})),
            "unstarted" => self.instance(gateway, &json!({ "start": false })),
            "gate" => {
                let merge = json!({ "branch": "main", "message": "fix" });
                let instance = self.instance(gateway, &json!({}));
                text(&self.propose(gateway, &instance, "repo.merge", &merge, false), "/gate/id")
            }
            "grant" => {
                let instance = self.instance(gateway, &json!({}));
                let made = crate::grants::granted(gateway, &instance, self.token("agent"), self.token("decider"));
                format!("{}/{}", made.0, made.1)
            }
            "action" | "begun" => {
                let instance = self.instance(gateway, &json!({}));
                let answer = self.propose(gateway, &instance, "notes.append", &note, kind == "begun");
                text(&answer, "/actions/0/action")
            }
            "run" => {
                let workspace = self.workspace(gateway, REPOSITORY);
                let instance = self.instance(gateway, &json!({ "workspace": workspace }));
                text(&self.propose(gateway, &instance, "repo.run_tests", &json!({}), true), "/actions/0/run")
            }
            "person" => accounts("/api/v1/people", json!({})),
            "agent" => accounts("/api/v1/agents", json!({ "owner": self.named("owner") })),
            "service" => accounts("/api/v1/services", json!({ "owner": self.named("owner") })),
            "client" => {
                let bound_to = format!("agent:{}", self.named("agent"));
                let made = self.post(gateway, "/api/v1/service-accounts", &json!({ "bound_to": bound_to }));
                text(&made, "/service_account/client_id")
            }
            "workflow" => {
                self.post(gateway, "/api/v1/workflows", &json!({ "id": fresh, "version": "1" }));
                fresh
            }
            // One serves for the whole walk: each takes every check of a bundle.
            "proposal" if self.ids.contains_key("proposal") => self.ids["proposal"].clone(),
            "proposal" => self.proposal(gateway),
            "log" => self.tenant.log.clone(),
            other => panic!("nothing is a {other}"),
        }
    }

    /// A proposed policy that rests in its shadow window.
    fn proposal(&self, gateway: &Gateway) -> String {
        let window = json!({ "value": 3600 }).to_string().into_bytes();
        let path = "/api/v1/settings/policy.shadow_window_s";
        gateway.send("PUT", path, self.token("person"), &[], Some(window)).expect_status(200);
        let draft = crate::changes::draft(self.mark);
        let proposed = crate::changes::propose(gateway, self.token("person"), "/api/v1/policies/proposals", &draft);
        text(&proposed, "/id")
    }

    /// Entries of the log.
    fn size(&self, gateway: &Gateway) -> u64 {
        let path = format!("/log/{}/checkpoint", self.tenant.log);
        let note = gateway.get(&path, self.token("person")).expect_status(200).bytes;
        String::from_utf8(note).unwrap().lines().nth(1).unwrap().parse().unwrap()
    }

    /// Fails if an answer to somebody else has anything of this organization in it, in words or in bytes.
    fn assert_absent(&self, answer: &Answer, what: &str) {
        for secret in &self.secrets {
            let raw: Option<Vec<u8>> = (secret.len() % 2 == 0)
                .then(|| (0..secret.len()).step_by(2).map(|i| u8::from_str_radix(secret.get(i..i + 2)?, 16).ok()))
                .and_then(Iterator::collect);
            for needle in [Some(secret.clone().into_bytes()), raw].into_iter().flatten() {
                let found = answer.bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "{what} shows `{secret}` of {}", self.mark);
            }
        }
    }
}

/// Letters that were not used before.
fn uuid() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("x{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// How an operation can come across something of another organization.
enum Asked {
    /// By an id of this kind in its path.
    Path(&'static str, Value),
    /// By an id of a kind in its body, where `@` stands.
    Body(Vec<(&'static str, Value)>),
    /// By an id of a kind in a question, where `@` stands: what policy says of it is what it says of nobody's.
    Question(Vec<(&'static str, Value)>),
    /// By a filter: another organization's id finds what an id of nobody finds.
    Filter(&'static str, &'static str),
    /// Not at all: it answers about the caller's own organization, or about nothing.
    Own(&'static str, Value),
    /// By a credential or by bytes, which say themselves whose they are: tests of their own, below.
    Elsewhere,
}

/// Whether policy's answer to a question is yes, in the words of AuthZEN or of an explanation.
fn says_yes(answer: &Answer) -> bool {
    let body = answer.json();
    answer.status == 200
        && (body["decision"] == true
            || body["verdict"]["decision"] == "allow"
            || body["answers"][0]["explained"]["verdict"]["decision"] == "allow")
}

/// What an enforcement point asks: whether a subject may read an instance.
fn evaluation(kind: &str, subject: &str, instance: &str) -> Value {
    json!({
        "subject": { "type": kind, "id": subject }, "action": { "name": "readInstance" },
        "resource": { "type": "instance", "id": instance },
    })
}

/// What an enforcement point asks: whether an agent may call a tool in an instance of its own.
fn evaluated_call(agent: &str, instance: &str) -> Value {
    json!({
        "subject": { "type": "agent", "id": agent, "properties": { "instance": instance } },
        "action": { "name": "callTool", "properties": { "text": "a" } },
        "resource": { "type": "tool", "id": "notes.append" },
    })
}

/// The line of each operation.
fn asked(operation: &str, own: &Side) -> Option<Asked> {
    let (agent, workflow) = (own.named("agent"), own.named("workflow"));
    let fresh = own.named(&uuid());
    Some(match operation {
        "getAction" | "startAction" => Asked::Path("action", json!({})),
        "reportOutcome" => Asked::Path("begun", json!({ "outcome": "succeeded" })),
        "getAgent" => Asked::Path("agent", json!({})),
        "changeAgent" => Asked::Path("agent", json!({ "display_name": "other" })),
        "getGate" | "listApprovers" => Asked::Path("gate", json!({})),
        "decide" => Asked::Path("gate", json!({ "decision": "REJECT", "justification": "no" })),
        "breakGlass" => {
            let shown = "0".repeat(64);
            Asked::Path("gate", json!({ "rule": "merge", "justification": "no", "shown_digest": shown }))
        }
        "breakGlassPolicy" => {
            let diff = "0".repeat(64);
            Asked::Path("proposal", json!({ "rule": "policy-change", "justification": "no", "diff_digest": diff }))
        }
        "getInstance" | "completeInstance" | "terminateInstance" | "listGrants" => Asked::Path("instance", json!({})),
        "startInstance" => Asked::Path("unstarted", json!({})),
        "requestGrant" => Asked::Path("instance", crate::grants::mailing(1)),
        "revokeGrant" => Asked::Path("grant", json!({})),
        "proposeActions" => {
            let action = json!({ "tool": "notes.append", "input": { "text": "a" } });
            Asked::Path("instance", json!({ "actions": [action] }))
        }
        "registerPersonKey" => {
            let body = json!({ "alg": -8, "key": "A".repeat(43) + "=", "possession": "A".repeat(86) + "==" });
            Asked::Path("person", body)
        }
        "revokePersonKey" => Asked::Path("person", json!({ "key_id": "00".repeat(32) })),
        "getPerson" | "erasePerson" | "listPersonKeys" | "getSecondFactor" | "removeSecondFactor" => {
            Asked::Path("person", json!({}))
        }
        "confirmSecondFactor" => Asked::Path("person", json!({ "otp": "123456" })),
        "changePerson" => Asked::Path("person", json!({ "display_name": "other" })),
        "setPassword" | "beginSecondFactor" => Asked::Path("person", json!({ "password": PASSWORD })),
        "getRun" | "getRunLogs" => Asked::Path("run", json!({})),
        "getServiceAccount" | "rotateClientSecret" => Asked::Path("client", json!({})),
        "changeServiceAccount" => Asked::Path("client", json!({ "disabled": true })),
        "getService" => Asked::Path("service", json!({})),
        "changeService" => Asked::Path("service", json!({ "display_name": "other" })),
        "getWorkflow" => Asked::Path("workflow", json!({})),
        "getTool" | "retireTool" => Asked::Path("tool", json!({})),
        "getPolicyProposal" | "withdrawPolicyProposal" => Asked::Path("proposal", json!({})),
        "getCheckpoint" | "getTile" => Asked::Path("log", json!({})),

        "createInstance" => Asked::Body(vec![
            ("workflow", json!({ "workflow": "@", "agent": agent })),
            ("agent", json!({ "workflow": workflow, "agent": "@" })),
            ("person", json!({ "workflow": workflow, "agent": agent, "accountable": "@" })),
        ]),
        "createAgent" | "createService" => {
            Asked::Body(vec![("person", json!({ "id": fresh, "display_name": "new", "owner": "@" }))])
        }
        "createServiceAccount" | "inviteServiceAccount" => Asked::Body(vec![
            ("agent", json!({ "bound_to": "agent:@" })),
            ("service", json!({ "bound_to": "service:@" })),
        ]),
        "consent" => Asked::Body(vec![("agent", json!({ "agent": "@" }))]),
        "revokeToken" => Asked::Body(vec![
            ("agent", json!({ "account": "agent:@" })),
            ("person", json!({ "account": "person:@" })),
            ("service", json!({ "account": "service:@" })),
        ]),

        "explainQuestion" => {
            let asked =
                |asked: String, resource: &str| json!({ "asked": asked, "op": "readInstance", "resource": resource });
            let instance = format!("Instance::{}", own.ids["instance"]);
            Asked::Question(vec![
                ("instance", asked(format!("Person::{}", own.named("owner")), "Instance::@")),
                ("person", asked("Person::@".to_owned(), &instance)),
                ("agent", asked("Agent::@".to_owned(), &instance)),
            ])
        }
        "explainQuestions" => {
            let asked = json!({ "asked": "Person::@", "op": "listTools", "resource": "Organization::self" });
            let instance = json!({ "asked": format!("Person::{}", own.named("owner")), "op": "readInstance",
                "resource": "Instance::@" });
            Asked::Question(vec![
                ("person", json!({ "questions": [asked] })),
                ("instance", json!({ "questions": [instance] })),
            ])
        }
        "listPermissions" => Asked::Body(vec![
            ("agent", json!({ "principal": "agent:@" })),
            ("person", json!({ "principal": "person:@" })),
            ("service", json!({ "principal": "service:@" })),
            ("instance", json!({ "principal": format!("agent:{agent}"), "instance": "@" })),
        ]),
        "evaluate" | "evaluateMany" => {
            let (owner, instance) = (own.named("owner"), own.ids["instance"].clone());
            Asked::Question(vec![
                ("instance", evaluation("user", &owner, "@")),
                ("instance", evaluated_call(&agent, "@")),
                ("agent", evaluated_call("@", &instance)),
                ("person", evaluation("user", "@", &instance)),
                ("agent", evaluation("agent", "@", &instance)),
                ("service", evaluation("service", "@", &instance)),
            ])
        }

        "listEntries" | "listGates" | "listRuns" => Asked::Filter("instance", "instance"),
        "listInstances" => Asked::Filter("workflow", "workflow"),

        "listAgents"
        | "listPeople"
        | "listServices"
        | "listServiceAccounts"
        | "listTools"
        | "listWorkflows"
        | "listPolicyProposals"
        | "listReviews"
        | "getEntry"
        | "getReceipt"
        | "replayVerdict"
        | "explainVerdict"
        | "getSettings"
        | "getPolicy"
        | "getCounters"
        | "whoami"
        | "healthz"
        | "readyz"
        | "startupz"
        | "metrics"
        | "info"
        | "getProblemPage"
        | "authzenConfiguration" => Asked::Own("", json!({})),
        "exportPack" => Asked::Own("?disclose=true", json!({})),
        "getConsistencyProof" => Asked::Own("?old=1&new=2", json!({})),
        "getInclusionProof" => Asked::Own("?index=1&size=2", json!({})),
        "createPerson" => Asked::Own("", json!({ "id": fresh, "display_name": "new" })),
        "invitePerson" => Asked::Own("", json!({ "roles": ["OPERATOR"] })),
        "registerWorkflow" => Asked::Own("", json!({ "id": fresh, "version": "1" })),
        // What somebody may register is `make`'s; here it is what the answer says.
        "registerTools" => Asked::Own("", json!({ "tools": [] })),
        "importMcpTools" => Asked::Own("", json!({ "server": own.mark, "tools_list": { "tools": [] } })),
        "setEvaluationsRecord" => Asked::Own("", json!({ "value": "all" })),
        "setShadowWindow" => Asked::Own("", json!({ "value": 3600 })),
        "raiseAuthority" => Asked::Own("", json!({ "value": "four_eyes" })),
        "setPublicRead" => Asked::Own("", json!({ "value": false })),
        "uploadWorkspace" => Asked::Own("", json!({ "files": [{ "path": "a", "text": "a" }] })),
        // A team is a name in the caller's own organization, whatever others call theirs.
        "freeze" | "liftFreeze" => Asked::Own("", json!({ "team": "a-team" })),

        "backtestPolicy"
        | "checkPolicy"
        | "activatePolicy"
        | "reviewRecovery"
        // Nothing is lifted under the bundle that ships; the engine's own test has two organizations.
        | "closeReview"
        // And nobody is asked about tools there.
        | "getToolRegistration"
        | "proposePolicy"
        | "rollbackPolicy"
        | "login"
        | "clientCredentials"
        | "exchangeConsent"
        | "enrolPerson"
        | "enrolServiceAccount"
        | "verifyPack" => Asked::Elsewhere,
        _ => return None,
    })
}

/// The path with an id where one stands, else with what each organization has.
fn filled(path: &str, id: &str) -> String {
    // A grant is one of its instance.
    let (id, grant) = id.split_once('/').unwrap_or((id, ""));
    let mut path = path.replace("{grant}", grant);
    path = path.replace("{name}", id).replace("{id}", id).replace("{client_id}", id).replace("{index}", VERDICT);
    path = path.replace("{code}", "not-found");
    path.replace("{path}", "entries/000.p/1")
}

fn send(gateway: &Gateway, method: &str, path: &str, token: &str, body: &Value) -> Answer {
    let body = (method != "GET").then(|| body.to_string().into_bytes());
    gateway.send(method, path, token, &[], body)
}

fn allowed(answer: &Answer) -> bool {
    ![401, 403, 404].contains(&answer.status)
}

fn with_id(body: &Value, id: &str) -> Value {
    serde_json::from_str(&body.to_string().replace('@', id)).unwrap()
}

/// What an answer says, but for the id that was asked for, the one of the request, and where it is on record.
fn said(answer: &Answer, id: &str) -> String {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| !["instance", "entry", "receipt"].contains(&key.as_str()));
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let text = String::from_utf8_lossy(&answer.bytes).replace(id, "ID");
    match serde_json::from_str::<Value>(&text) {
        Ok(mut body) => {
            strip(&mut body);
            body.to_string()
        }
        Err(_) => text,
    }
}

/// What is wrong with the answers to an id of another organization's and to one that nobody has. Both must say the same;
/// and to one who is allowed on the own organization's things, that there is nothing.
fn told_apart((foreign, unknown): (&Answer, &Answer), (id, nobody): (&str, &str), is_allowed: bool) -> Option<String> {
    let (left, right) = (said(foreign, id), said(unknown, nobody));
    let same = if is_allowed {
        foreign.status == 404 && left == right
    } else {
        // A refusal of policy is on record, and its receipt is another each time.
        foreign.status >= 400 && foreign.code() == unknown.code()
    };
    let words = || format!("{} {left:.300}, where nobody's id gets {} {right:.300}", foreign.status, unknown.status);
    (!same || foreign.status != unknown.status).then(words)
}

/// Walks every operation as each principal of `own`, with the ids of `other`.
fn walk(gateway: &Gateway, document: &Value, own: &Side, other: &Side) {
    let before = other.size(gateway);
    let (mut without, mut problems) = (Vec::new(), Vec::new());
    let mut lines = Vec::new();
    for (method, path, operation) in operations(document) {
        let name = operation["operationId"].as_str().unwrap().to_owned();
        match asked(&name, own) {
            Some(asked) => lines.push((name, method, path, asked)),
            None => without.push(name),
        }
    }
    assert_eq!(without, Vec::<String>::new(), "operations without a line in `asked`");
    // What somebody asked for is on record in their own log, refusals with it: what shows the log is asked first.
    lines.sort_by_key(|(.., asked)| !matches!(asked, Asked::Own(..)));
    for (name, method, path, asked) in lines {
        let mut somebody = false;
        for (who, token) in &own.who {
            let what = format!("{name} by the {who} of {}", own.mark);
            match &asked {
                Asked::Path(kind, body) => {
                    let (id, nobody) = (&other.ids[kind], nobody(kind));
                    let foreign = send(gateway, &method, &filled(&path, id), token, body);
                    let unknown = send(gateway, &method, &filled(&path, &nobody), token, body);
                    let control = send(gateway, &method, &filled(&path, &own.make(gateway, kind)), token, body);
                    somebody |= allowed(&control);
                    let wrong = told_apart((&foreign, &unknown), (id, &nobody), allowed(&control));
                    problems.extend(wrong.map(|wrong| format!("{what}: {wrong}")));
                }
                Asked::Body(bodies) => {
                    for (kind, body) in bodies {
                        let (id, nobody) = (&other.ids[kind], nobody(kind));
                        let ask = |id: &str| send(gateway, &method, &path, token, &with_id(body, id));
                        let (foreign, unknown) = (ask(id), ask(&nobody));
                        // What `revokeToken` ends would be missed by the rest of the walk.
                        let control = ask(&own.make(gateway, kind));
                        somebody |= allowed(&control);
                        let wrong = told_apart((&foreign, &unknown), (id, &nobody), allowed(&control));
                        problems.extend(wrong.map(|wrong| format!("{what}, a {kind}: {wrong}")));
                    }
                }
                Asked::Question(bodies) => {
                    for (kind, body) in bodies {
                        let (id, nobody) = (&other.ids[kind], nobody(kind));
                        let ask = |id: &str| send(gateway, &method, &path, token, &with_id(body, id));
                        let (foreign, unknown) = (ask(id), ask(&nobody));
                        somebody |= says_yes(&ask(&own.ids[kind]));
                        if (foreign.status, said(&foreign, id)) != (unknown.status, said(&unknown, &nobody)) {
                            problems.push(format!("{what}, a {kind}: {:.300}", said(&foreign, id)));
                        }
                        if says_yes(&foreign) {
                            problems.push(format!("{what}, a {kind}: it is allowed"));
                        }
                    }
                }
                Asked::Filter(parameter, kind) => {
                    let (id, nobody) = (&other.ids[kind], nobody(kind));
                    let ask = |id: &str| gateway.get(&format!("{path}?{parameter}={id}"), token);
                    let (foreign, unknown) = (ask(id), ask(&nobody));
                    somebody |= allowed(&foreign);
                    assert_eq!(
                        (foreign.status, said(&foreign, id)),
                        (unknown.status, said(&unknown, &nobody)),
                        "{what}"
                    );
                    // A cursor of the other organization is no way in either.
                    let page = gateway.get(&format!("{path}?limit=1"), other.token("person")).json();
                    let cursor = page["next"].as_str().unwrap_or("1");
                    other.assert_absent(&gateway.get(&format!("{path}?limit=200&after={cursor}"), token), &what);
                    other.assert_absent(&gateway.get(&format!("{path}?limit=200"), token), &what);
                }
                Asked::Own(query, body) => {
                    // What is of nobody's is the same for all; `info` says who `default` is, to anybody.
                    let public = name == "info" && other.tenant.name == "default";
                    let answer = send(gateway, &method, &format!("{}{query}", filled(&path, "")), token, body);
                    somebody |= allowed(&answer);
                    if !public {
                        other.assert_absent(&answer, &what);
                    }
                }
                Asked::Elsewhere => somebody = true,
            }
        }
        if !somebody {
            problems.push(format!("{name}: nobody of {} may do it, so this shows nothing", own.mark));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(other.size(gateway), before, "what {} asked left an entry in the log of {}", own.mark, other.mark);
}

fn two() -> (Gateway, Side, Side) {
    let mut gateway = Gateway::start();
    let north = gateway.begin("north");
    let default = gateway.tenants().into_iter().next().unwrap();
    let (default, north) = (Side::new(&gateway, default, "aurora"), Side::new(&gateway, north, "borealis"));
    (gateway, default, north)
}

#[test]
fn nothing_of_one_organization_is_there_for_another() {
    let (gateway, default, north) = two();
    let document = gateway.get("/openapi.json", "").expect_status(200).json();
    walk(&gateway, &document, &north, &default);
    walk(&gateway, &document, &default, &north);
}

#[test]
fn a_credential_is_good_in_its_own_organization_alone() {
    let (gateway, default, north) = two();
    let owner = north.named("owner");
    let login = json!({ "id": owner, "password": PASSWORD });
    assert_eq!(gateway.post("/api/v1/tokens/login", "", &login).code(), "credentials-invalid");
    let elsewhere = json!({ "id": owner, "password": PASSWORD, "organization": default.tenant.organization });
    assert_eq!(gateway.post("/api/v1/tokens/login", "", &elsewhere).code(), "credentials-invalid");

    let consent = north.post(&gateway, "/api/v1/tokens/consent", &json!({ "agent": north.named("agent") }));
    let consent = json!({ "consent": text(&consent, "/access_token") });
    let taken = gateway.post("/api/v1/tokens/exchange", default.token("agent"), &consent);
    assert!((400..500).contains(&taken.status), "{}", String::from_utf8_lossy(&taken.bytes));

    // The one-time token says whose person somebody becomes, whoever brings it.
    let invited = north.post(&gateway, "/api/v1/enrolments/people", &json!({ "roles": ["OPERATOR"] }));
    let id = north.named("invited");
    let body = json!({ "token": text(&invited, "/token"), "id": id, "display_name": id, "password": PASSWORD });
    gateway.post("/api/v1/enrol/person", default.token("person"), &body).expect_status(201);
    gateway.get(&format!("/api/v1/people/{id}"), north.token("person")).expect_status(200);
    gateway.get(&format!("/api/v1/people/{id}"), default.token("person")).expect_status(404);
    let bound_to = json!({ "bound_to": format!("agent:{}", north.named("agent")) });
    let invited = north.post(&gateway, "/api/v1/enrolments/service-accounts", &bound_to);
    let body = json!({ "token": text(&invited, "/token") });
    let account =
        gateway.post("/api/v1/enrol/service-account", default.token("person"), &body).expect_status(201).json();
    let secret = json!({
        "client_id": text(&account, "/service_account/client_id"), "client_secret": text(&account, "/client_secret"),
    });
    let token = gateway.post("/api/v1/tokens/client-credentials", "", &secret).expect_status(200).json();
    let me = gateway.get("/api/v1/me", &text(&token, "/access_token")).expect_status(200).json();
    assert_eq!(text(&me, "/organization"), north.tenant.organization);

    // The id of somebody else's token ends nothing, and tells nothing.
    let id = text(&token, "/id");
    let revoke = |id: &str| gateway.post("/api/v1/tokens/revoke", default.token("person"), &json!({ "token": id }));
    assert_eq!(revoke(&id).status, revoke(&format!("tok_{}", "0".repeat(32))).status);
    gateway.get("/api/v1/me", &text(&token, "/access_token")).expect_status(200);
}

#[test]
fn a_bundle_is_of_one_organization() {
    let (gateway, default, north) = two();
    let bundles = gateway.data().join("policy").join(&default.tenant.organization).join("bundles");
    let bundle = std::fs::read_dir(bundles).unwrap().next().unwrap().unwrap().path();
    let bundle = std::fs::read(bundle).unwrap();
    for operation in ["check", "activate"] {
        let path = format!("/api/v1/policies/{operation}");
        let answer = gateway.send("POST", &path, north.token("person"), &[], Some(bundle.clone()));
        assert_eq!((answer.status, answer.code().as_str()), (422, "bundle-rejected"), "{operation}");
    }
    let digest = |side: &Side| {
        text(&gateway.get("/api/v1/policies/active", side.token("person")).expect_status(200).json(), "/bundle")
    };
    assert_ne!(digest(&default), digest(&north), "the manifest names the organization");
}

#[test]
fn a_log_verifies_with_its_own_root_key_alone() {
    let (gateway, default, north) = two();
    let pack = gateway.get("/api/v1/audit/pack?disclose=true", north.token("person")).expect_status(200).bytes;
    default.assert_absent(&Answer { status: 200, headers: Vec::new(), bytes: pack.clone() }, "the pack");
    let verify = |side: &Side| {
        let key = side.tenant.root_vkey.replace('+', "%2B").replace('/', "%2F");
        let path = format!("/api/v1/verify?root={key}");
        let headers = [("content-type", "application/octet-stream")];
        let answer = gateway.send("POST", &path, default.token("person"), &headers, Some(pack.clone()));
        answer.expect_status(200).json()["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verify(&north), "VALID");
    assert_eq!(verify(&default), "INVALID");
}

#[test]
fn a_workspace_of_one_organization_is_none_of_another() {
    let (gateway, default, north) = two();
    let run = |side: &Side, workspace: &str| {
        let instance = side.instance(&gateway, &json!({ "workspace": workspace }));
        let body = json!({ "actions": [{ "tool": "repo.run_tests", "input": {} }], "begin": true });
        let answer = gateway.post(&format!("/api/v1/instances/{instance}/actions"), side.token("agent"), &body).json();
        let run = text(&answer, "/actions/0/run");
        let ended = gateway.until(&format!("/api/v1/runs/{run}"), side.token("agent"), |run| !run["outcome"].is_null());
        let logs = gateway.get(&format!("/api/v1/runs/{run}/logs"), side.token("agent"));
        (text(&ended, "/outcome"), String::from_utf8_lossy(&logs.bytes).into_owned())
    };
    let secret = "echo the-secret-of-aurora\n";
    let kept = default.workspace(&gateway, secret);
    let (outcome, said) = run(&default, &kept);
    assert_eq!((outcome.as_str(), said.contains("the-secret-of-aurora")), ("succeeded", true), "{said}");
    let body = json!({ "workflow": "repair", "agent": "fixer", "workspace": kept });
    let refused = gateway.post("/api/v1/instances", north.token("person"), &body).expect_status(422).json();
    assert_eq!(refused["code"], "workspace-unknown", "{refused}");
    // The same bytes have another name there: a digest tells nobody that another organization has the same tree.
    assert_ne!(north.workspace(&gateway, secret), kept);
}

#[test]
fn the_installation_has_each_organization_on_record_and_starts_with_all_of_them_or_not() {
    let mut gateway = Gateway::start();
    gateway.begin("north");
    let (ok, said) = gateway.operate(&["organization", "create", "south"]);
    assert!(!ok && said.contains("in use by another process"), "the gateway must be down: {said}");
    let code_of = |said: &str| serde_json::from_str::<Value>(said).unwrap()["problem"]["code"].clone();
    assert_eq!(code_of(&said), "folder-in-use");
    assert!(gateway.stop());
    for (name, code) in [("north", "organization-exists"), ("North", "organization-name-invalid")] {
        let (ok, said) = gateway.operate(&["organization", "create", name]);
        assert!(!ok && code_of(&said) == code, "{name}: {said}");
    }
    let (ok, said) = gateway.operate(&["ledger", "fsck"]);
    assert!(ok, "{said}");
    let checked: Value = serde_json::from_str(&said).unwrap();
    let logs: Vec<(&str, &str)> = checked["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|log| (log["log"].as_str().unwrap(), log["verdict"].as_str().unwrap()))
        .collect();
    assert_eq!(logs, [("default", "VALID"), ("north", "VALID"), ("installation", "VALID")]);

    let folder = gateway.data().join("organizations/north");
    std::fs::rename(&folder, gateway.beside("north")).unwrap();
    let refused = gateway.try_up().unwrap_err();
    assert!(refused.contains("on record") && refused.contains("restore"), "{refused}");
    assert!(refused.contains("\n  problem: folder-incomplete\n"), "{refused}");
    let mut fsck = std::process::Command::new(countersign());
    let output =
        fsck.env_clear().args(["--json", "ledger", "fsck", "--data-dir"]).arg(gateway.data()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&checked["verdict"], &checked["problems"][0]["code"]),
        (&json!("INVALID"), &json!("folder-incomplete"))
    );
    // A copy beside the original is a second life of one log.
    std::fs::rename(gateway.beside("north"), &folder).unwrap();
    let copy = gateway.data().join("organizations/south");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(folder.join("organization.json"), copy.join("organization.json")).unwrap();
    let refused = gateway.try_up().unwrap_err();
    assert!(refused.contains("\n  problem: folder-duplicate\n"), "{refused}");
    std::fs::remove_dir_all(&copy).unwrap();
    gateway.up();
}

#[test]
fn the_clock_and_a_restart_work_for_each_organization() {
    let (mut gateway, default, north) = two();
    // A deadline passes in each.
    let due: Vec<(&Side, String)> =
        [&default, &north].map(|side| (side, side.instance(&gateway, &json!({ "deadline_s": 1 })))).into();
    for (side, instance) in &due {
        let path = format!("/api/v1/instances/{instance}");
        gateway.until(&path, side.token("person"), |instance| instance["state"] == "TERMINATED");
    }
    // A run of each goes on while the gateway is gone, and is followed to its end by the next one.
    let runs: Vec<(&Side, String)> = [&default, &north]
        .map(|side| {
            let workspace = side.workspace(&gateway, "sleep 2\n");
            let instance = side.instance(&gateway, &json!({ "workspace": workspace }));
            let proposed = side.propose(&gateway, &instance, "repo.run_tests", &json!({}), true);
            (side, text(&proposed, "/actions/0/run"))
        })
        .into();
    gateway.kill();
    gateway.up();
    for (side, run) in &runs {
        let path = format!("/api/v1/runs/{run}");
        let ended = gateway.until(&path, side.token("person"), |run| !run["outcome"].is_null());
        assert_eq!(ended["outcome"], "succeeded", "{}: {ended}", side.mark);
    }
}

#[test]
fn an_organization_whose_creation_was_cut_off_is_finished_by_the_next_start() {
    let mut gateway = Gateway::start();
    assert!(gateway.stop());
    // Its ids are the first thing that is durable, and here the last.
    let folder = gateway.data().join("organizations/north");
    std::fs::create_dir_all(&folder).unwrap();
    for path in [&folder, &gateway.data().join("organizations")] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    let (org, log) = (format!("org_{}", "5".repeat(32)), format!("log_{}", "6".repeat(32)));
    std::fs::write(folder.join("organization.json"), json!({ "organization": org, "log": log }).to_string()).unwrap();
    gateway.up();
    let north = gateway.tenants().pop().unwrap();
    assert_eq!((north.name.as_str(), &north.organization, &north.log), ("north", &org, &log));
    gateway.enrol_in(&north, "first");
    let token = gateway.login_in(&north, "first", "act");
    let policy = gateway.get("/api/v1/policies/active", &token).expect_status(200).json();
    assert_eq!((&policy["version"], &policy["signed_by"]), (&json!(1), &json!("local")));
    assert!(gateway.stop());
    let (ok, said) = gateway.operate(&["ledger", "fsck"]);
    assert!(ok, "{said}");
}
