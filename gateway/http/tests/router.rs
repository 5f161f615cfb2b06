//! The router by itself, over a real engine and ledger: what holds for every request, whatever it asks.
//!
//! No policy bundle is active, so policy refuses everything; what policy allows is tested with the whole program.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on has found something"
)]

use std::any::Any;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use countersign_gateway_engine::{
    Candidate, Catalogue, CatalogueCandidate, Electorate, Engine, EngineOptions, Mint, Policies, PolicyProblem,
    Snapshot,
};
use countersign_gateway_http::{
    AppState, Info, Lifecycle, Limits, Metrics, OPEN, Parts, Phase, WorkspaceError, WorkspaceFile, Workspaces,
    document, pages, router,
};
use countersign_gateway_identity::{
    EntropyError, Identity, IdentityConfig, MemoryAccounts, NewPerson, RateLimiter, RateQuota, Secret, TokenKeys,
};
use countersign_gateway_model::{Clock, Digest, GatewayId, LogId, Name, OrgId, PolicyDigests, Principal, Timestamp};
use countersign_ledger_entry::body::{AuthorityMode, Durability, SignatureMode, SignedBy};
use countersign_ledger_entry::key::{VKey, origin, root_name};
use countersign_ledger_log::{KeyError, KeyRing, Logs, LogsConfig, NewLog};
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use countersign_policy_decide::{PolicyParts, PolicySnapshot};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tower::ServiceExt as _;

const PASSWORD: &str = "violet anchors hum at dusk";

fn org() -> OrgId {
    OrgId::from_bytes([1; 16])
}

fn log_id() -> LogId {
    LogId::from_bytes([2; 16])
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(1_795_219_200_000)
    }
}

struct Ring;

impl KeyRing for Ring {
    fn root(&self, log: LogId) -> Result<VKey, KeyError> {
        let key = SigningKey::from_bytes(&[3; 32]).verifying_key();
        Ok(VKey::new(&root_name(&origin("router.test", log).unwrap()), key).unwrap())
    }

    fn log_key(&self, _: LogId) -> Result<SigningKey, KeyError> {
        Ok(SigningKey::from_bytes(&[4; 32]))
    }
}

/// Ids and secrets that are never the same and always the same.
#[derive(Default)]
struct Counted(AtomicU64);

impl Counted {
    fn fill(&self, into: &mut [u8]) {
        let n = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        for chunk in into.chunks_mut(8) {
            chunk.copy_from_slice(&n.to_be_bytes()[..chunk.len()]);
        }
    }
}

impl Mint for Counted {
    fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        self.fill(&mut id);
        id
    }

    fn secret(&self) -> [u8; 32] {
        let mut secret = [0; 32];
        self.fill(&mut secret);
        secret
    }
}

/// No bundle was ever activated.
struct NoBundle(Snapshot);

impl Policies for NoBundle {
    fn snapshot(&self, _: OrgId) -> Snapshot {
        Arc::clone(&self.0)
    }

    fn past(&self, _: OrgId, _: &PolicyDigests) -> Option<Snapshot> {
        None
    }

    fn active(&self, _: OrgId) -> Option<(u64, SignedBy)> {
        None
    }

    fn check(&self, _: OrgId, _: &[u8], _: &Electorate<'_>) -> Result<Candidate, PolicyProblem> {
        Err(PolicyProblem::Rejected("no bundle is accepted here".to_owned()))
    }

    fn candidate(&self, _: OrgId, _: &[u8]) -> Result<Snapshot, PolicyProblem> {
        Ok(Arc::clone(&self.0))
    }

    fn locked_out(&self, _: OrgId, _: &Electorate<'_>) -> Result<(), PolicyProblem> {
        Ok(())
    }

    fn previous(&self, _: OrgId) -> Result<Vec<u8>, PolicyProblem> {
        Err(PolicyProblem::Rejected("no bundle is accepted here".to_owned()))
    }

    fn check_catalogue(&self, _: OrgId, _: Catalogue) -> Result<CatalogueCandidate, PolicyProblem> {
        Err(PolicyProblem::Rejected("no catalogue is accepted here".to_owned()))
    }

    fn catalogue_version(&self, _: OrgId) -> u64 {
        0
    }

    fn activate(&self, _: OrgId, _: Box<dyn Any + Send>) -> Result<(), PolicyProblem> {
        Err(PolicyProblem::Rejected("no bundle is accepted here".to_owned()))
    }
}

/// Keeps no tree: names them, or panics where it is asked to.
struct Trees;

#[async_trait::async_trait]
impl Workspaces for Trees {
    async fn put(&self, _: &Principal, files: Vec<WorkspaceFile>) -> Result<Digest, WorkspaceError> {
        assert!(files.iter().all(|file| file.path != "panic"), "asked to");
        if files.is_empty() {
            return Err(WorkspaceError::Invalid("an empty tree".to_owned()));
        }
        Ok(Digest([u8::try_from(files.len()).unwrap(); 32]))
    }

    async fn renew(&self, _: &Principal, tree: Digest) -> Result<bool, WorkspaceError> {
        Ok(tree != Digest([0; 32]))
    }
}

struct World {
    app: axum::Router,
    lifecycle: Arc<Lifecycle>,
    _folder: tempfile::TempDir,
}

struct Settings {
    limits: Limits,
    burst: u32,
    open_metrics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limits: Limits::default(), burst: 1000, open_metrics: false }
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("{}: {}", self.status, String::from_utf8_lossy(&self.bytes)))
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no `{name}` in {:?}", self.headers)).to_str().unwrap()
    }

    /// The code of a problem, which must be whole.
    #[track_caller]
    fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.status);
        let body = self.json();
        let code = body["code"].as_str().unwrap().to_owned();
        assert_eq!(body["type"], format!("/problems/{code}"));
        assert_eq!(body["status"], self.status.as_u16());
        assert_eq!(body["instance"], self.header("x-request-id"));
        code
    }
}

impl World {
    async fn new(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut sql = SqlOptions::new(folder.path());
        sql.reserve = 0;
        let journal = Arc::new(SqlJournal::open(sql).await.unwrap());
        let clock: Arc<dyn Clock> = Arc::new(Still);
        let mut config = LogsConfig::new(
            "router.test",
            GatewayId::from_bytes([9; 16]),
            Arc::clone(&clock),
            Arc::new(|| Ok([0x77; 32])),
        );
        config.reserve = 0;
        let logs = Logs::open(journal, config, Arc::new(Ring)).await.unwrap();
        let root_signer = SigningKey::from_bytes(&[3; 32]);
        let new = NewLog {
            org: org(),
            log: log_id(),
            root_keys: vec![root_signer.verifying_key()],
            root_signer,
            root_threshold: 1,
            root_document: Digest([4; 32]),
            signatures: SignatureMode::PerEntry,
            durability: Durability::Journal,
            authority: AuthorityMode::Solo,
            demo: false,
        };
        logs.create(new).await.unwrap();
        let engine = Engine::new(countersign_gateway_engine::Parts {
            logs,
            policies: Arc::new(NoBundle(Arc::new(PolicySnapshot::build(PolicyParts::recovery(org())).unwrap()))),
            runners: HashMap::new(),
            clock: Arc::clone(&clock),
            mint: Arc::new(Counted::default()),
            options: EngineOptions::default(),
        });
        engine.open_org(org(), None).await.unwrap();
        let counted = Counted::default();
        let entropy = move |into: &mut [u8]| {
            counted.fill(into);
            Ok::<(), EntropyError>(())
        };
        let keys = Arc::new(TokenKeys::new(&[5; 32], &[]).unwrap());
        let accounts = Arc::new(MemoryAccounts::default());
        let config = IdentityConfig::new("router.test", "router.test");
        let identity =
            Identity::open(config, accounts, Arc::new(entropy), keys, Vec::new(), clock.now()).await.unwrap();
        let ada = NewPerson {
            id: Name::new("ada").unwrap(),
            display_name: "Ada".to_owned(),
            roles: Vec::new(),
            teams: Vec::new(),
            groups: Vec::new(),
            person: None,
            password: Some(Secret::new(PASSWORD)),
            demo: false,
        };
        identity.directory.create_person(org(), ada, None, clock.now()).await.unwrap();
        let lifecycle = Arc::new(Lifecycle::default());
        let metrics = Metrics::new(&engine, &identity.authenticator);
        let app = router(AppState::new(Parts {
            engine,
            identity,
            rate: RateLimiter::new(RateQuota {
                per_second: NonZeroU32::MIN,
                burst: NonZeroU32::new(settings.burst).unwrap(),
            }),
            workspaces: Arc::new(Trees),
            limits: settings.limits,
            info: Info {
                version: "1.2.3".to_owned(),
                organization: org(),
                root_keys: vec!["router.test+key".to_owned()],
                demo: false,
                open_metrics: settings.open_metrics,
            },
            metrics,
            lifecycle: Arc::clone(&lifecycle),
        }));
        Self { app, lifecycle, _folder: folder }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.send(authorized(Request::get(path), token).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, token: Option<&str>, body: impl Into<Body>) -> Answer {
        let request = authorized(Request::post(path), token).header("content-type", "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn login(&self) -> String {
        let body = json!({ "id": "ada", "password": PASSWORD }).to_string();
        let answer = self.post("/api/v1/tokens/login", None, body).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }
}

fn authorized(builder: axum::http::request::Builder, token: Option<&str>) -> axum::http::request::Builder {
    match token {
        Some(token) => builder.header("authorization", format!("Bearer {token}")),
        None => builder,
    }
}

#[tokio::test]
async fn every_reply_names_its_request_and_is_not_kept_or_guessed_at() {
    let world = World::new(Settings::default()).await;
    let mut ids = Vec::new();
    for path in ["/healthz", "/nothing", "/api/v1/me", "/api/v1/info"] {
        let answer = world.get(path, None).await;
        assert!(answer.header("x-request-id").starts_with("req_"), "{path}");
        assert_eq!((answer.header("x-content-type-options"), answer.header("cache-control")), ("nosniff", "no-store"));
        ids.push(answer.header("x-request-id").to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let world = World::new(Settings::default()).await;
    for path in ["/", "/api", "/api/v1/nothing", "/api/v2/me", "/docs/nothing.js", "/problems/nothing"] {
        assert_eq!(world.get(path, None).await.problem(), "route-unknown", "{path}");
    }
    let answer = world.send(Request::delete("/api/v1/me").body(Body::empty()).unwrap()).await;
    assert_eq!((answer.problem().as_str(), answer.status.as_u16()), ("method-not-allowed", 405));
    assert!(answer.header("allow").contains("GET"), "{:?}", answer.headers);
}

#[tokio::test]
async fn every_operation_is_refused_without_a_credential_before_its_body_is_read() {
    let world = World::new(Settings::default()).await;
    let api = serde_json::to_value(document()).unwrap();
    let mut asked = 0;
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap_or_default();
            if OPEN.iter().any(|(open, _)| *open == id) {
                continue;
            }
            let path: String = path.split('{').enumerate().fold(String::new(), |whole, (at, part)| match at {
                0 => part.to_owned(),
                _ => format!("{whole}x{}", part.split_once('}').unwrap().1),
            });
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let request = Request::builder().method(method).uri(&path).body(Body::from("{")).unwrap();
            let answer = world.send(request).await;
            assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (401, "token-missing"), "{id} {path}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{id}");
            asked += 1;
        }
    }
    assert!(asked > 50, "only {asked} operations");
}

#[tokio::test]
async fn credentials_that_do_not_hold_are_refused_even_where_none_is_needed() {
    let world = World::new(Settings { open_metrics: true, ..Settings::default() }).await;
    let token = world.login().await;
    let forged = format!("{}AAAA", &token[..token.len() - 4]);
    for path in ["/api/v1/me", "/metrics", "/log/log_02020202020202020202020202020202/checkpoint"] {
        assert_eq!(world.get(path, Some(&forged)).await.problem(), "token-signature-invalid", "{path}");
        assert_eq!(world.get(path, Some("x")).await.problem(), "token-malformed", "{path}");
    }
    let twice = Request::get("/api/v1/me").header("authorization", format!("Bearer {token}"));
    let twice = twice.header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap();
    assert_eq!(world.send(twice).await.problem(), "token-malformed");
    let wrong = json!({ "id": "ada", "password": "something else entirely" }).to_string();
    assert_eq!(world.post("/api/v1/tokens/login", None, wrong).await.problem(), "credentials-invalid");
    let me = world.get("/api/v1/me", Some(&token)).await;
    assert_eq!((me.json()["subject"].as_str(), me.status.as_u16()), (Some("person:ada"), 200));
}

#[tokio::test]
async fn nobody_replaces_their_own_password_without_the_current_one() {
    let world = World::new(Settings::default()).await;
    let token = world.login().await;
    let put = async |body: serde_json::Value| {
        let request = authorized(Request::put("/api/v1/people/ada/password"), Some(&token));
        let request = request.header("content-type", "application/json");
        world.send(request.body(Body::from(body.to_string())).unwrap()).await.problem()
    };
    let new = "quite another password";
    assert_eq!(put(json!({ "password": new })).await, "body-missing-field");
    assert_eq!(put(json!({ "password": new, "current": new })).await, "credentials-invalid");
    // What holds is asked of policy, which is the kernel alone here.
    assert_eq!(put(json!({ "password": new, "current": PASSWORD })).await, "policy-denied");
}

#[tokio::test]
async fn a_second_factor_is_asked_of_policy_and_a_code_is_never_overlooked() {
    let world = World::new(Settings::default()).await;
    let token = world.login().await;
    let path = "/api/v1/people/ada/second-factor";
    let said = world.get(path, Some(&token)).await;
    assert_eq!((said.status.as_u16(), said.json()), (200, json!({ "state": "none" })));
    // Of others policy says no, which is the kernel alone here, whether they are there or not.
    assert_eq!(world.get("/api/v1/people/bob/second-factor", Some(&token)).await.problem(), "not-found");
    assert_eq!(world.post(path, Some(&token), "{}").await.problem(), "body-missing-field");
    assert_eq!(world.post(path, Some(&token), r#"{"password":"another one"}"#).await.problem(), "credentials-invalid");
    let password = json!({ "password": PASSWORD }).to_string();
    assert_eq!(world.post(path, Some(&token), password).await.problem(), "policy-denied");
    let confirm = format!("{path}/confirm");
    assert_eq!(world.post(&confirm, Some(&token), "{}").await.problem(), "body-missing-field");
    assert_eq!(world.post(&confirm, Some(&token), r#"{"otp":123456}"#).await.problem(), "body-type-mismatch");
    assert_eq!(world.post(&confirm, Some(&token), r#"{"otp":"123456"}"#).await.problem(), "policy-denied");
    let remove = authorized(Request::delete(path), Some(&token)).body(Body::empty()).unwrap();
    assert_eq!(world.send(remove).await.problem(), "policy-denied");
    let login = json!({ "id": "ada", "password": PASSWORD, "otp": "123456" }).to_string();
    let refused = world.post("/api/v1/tokens/login", None, login).await;
    assert_eq!((refused.problem().as_str(), refused.status.as_u16()), ("second-factor-refused", 401));
}

#[tokio::test]
async fn the_rate_stands_before_everything_and_says_what_is_left() {
    let world = World::new(Settings { burst: 3, ..Settings::default() }).await;
    let token = world.login().await;
    let first = world.get("/api/v1/me", Some(&token)).await;
    assert!(first.header("ratelimit").starts_with("\"principal\";r=2;"), "{:?}", first.headers);
    assert_eq!(first.header("ratelimit-policy"), "\"principal\";q=3");
    world.get("/api/v1/me", Some(&token)).await;
    // What is wrong with a request is not looked at, and still it counts.
    assert_eq!(world.post("/api/v1/instances", Some(&token), "{").await.problem(), "body-malformed");
    let limited = world.post("/api/v1/instances", Some(&token), "{").await;
    assert_eq!((limited.problem().as_str(), limited.status.as_u16()), ("rate-limited", 429));
    assert!(limited.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(limited.header("ratelimit").starts_with("\"principal\";r=0;"));
    // Who has no credential has no rate.
    assert_eq!(world.get("/healthz", None).await.status, 200);
}

#[tokio::test]
async fn bodies_are_judged_before_anything_is_asked() {
    let limits = Limits { body_bytes: 1000, upload_bytes: 2000, ..Limits::default() };
    let world = World::new(Settings { limits, ..Settings::default() }).await;
    let token = world.login().await;
    let token = Some(token.as_str());
    for (body, code) in [
        ("", "body-malformed"),
        ("{\"workflow\":\"a\",}", "body-malformed"),
        (r#"{"workflow":"a","workflow":"b"}"#, "body-duplicate-key"),
        (r#"{"workflow":"a","labels":{"a":"1","a":"2"}}"#, "body-duplicate-key"),
        (r#"{"workflow":"a","color":"red"}"#, "body-unknown-field"),
        (r#"{"agent":"a"}"#, "body-missing-field"),
        (r#"{"workflow":5}"#, "body-type-mismatch"),
        (r#"{"workflow":"no spaces please"}"#, "body-value-invalid"),
        (r#"{"workflow":"a","on_deny":"shrug"}"#, "body-value-invalid"),
    ] {
        assert_eq!(world.post("/api/v1/instances", token, body).await.problem(), code, "{body}");
    }
    let grants = "/api/v1/instances/inst_00000000000000000000000000000001/grants";
    for (body, code) in [
        (r#"{"rule":"r","tools":[],"uses":1,"for_s":1,"reason":"x","forever":true}"#, "body-unknown-field"),
        (r#"{"rule":"r","tools":[],"uses":-1,"for_s":1,"reason":"x"}"#, "body-value-invalid"),
        (
            r#"{"rule":"r","tools":[{"tool":"a.b","input":{"/x":"all"}}],"uses":1,"for_s":1,"reason":"x"}"#,
            "body-value-invalid",
        ),
        (
            r#"{"rule":"r","tools":[{"tool":"a.b","input":{"/x":"any"}}],"uses":1,"for_s":1,"reason":"x"}"#,
            "instance-not-found",
        ),
    ] {
        assert_eq!(world.post(grants, token, body).await.problem(), code, "{body}");
    }
    assert_eq!(world.post(&format!("{grants}/grant_1/revoke"), token, "{}").await.problem(), "parameter-invalid");
    let large = format!("{{\"workflow\":\"{}\"}}", "a".repeat(1000));
    let large = world.post("/api/v1/instances", token, large).await;
    assert_eq!((large.problem().as_str(), large.json()["limit"].as_u64()), ("body-too-large", Some(1000)));
    let upload = world.post("/api/v1/workspaces", token, "x".repeat(2001)).await;
    assert_eq!(upload.problem(), "body-too-large");
    let request = authorized(Request::post("/api/v1/instances"), token).header("content-type", "text/plain");
    assert_eq!(world.send(request.body(Body::from("{}")).unwrap()).await.problem(), "body-content-type");
    let request = authorized(Request::post("/api/v1/instances"), token)
        .header("content-type", "application/json")
        .header("idempotency-key", "two words");
    assert_eq!(world.send(request.body(Body::from("{}")).unwrap()).await.problem(), "idempotency-key-invalid");
    for path in ["/api/v1/instances?color=red", "/api/v1/instances?limit=0", "/api/v1/gates?open=maybe"] {
        assert_eq!(world.get(path, token).await.problem(), "parameter-invalid", "{path}");
    }
    assert_eq!(world.get("/api/v1/instances/inst_1", token).await.problem(), "parameter-invalid");
}

#[tokio::test]
async fn what_policy_refuses_is_in_the_ledger_and_the_problem_proves_it() {
    let world = World::new(Settings::default()).await;
    let token = world.login().await;
    let body = json!({ "id": "bob" }).to_string();
    let refused = world.post("/api/v1/people", Some(&token), body).await;
    assert_eq!((refused.problem().as_str(), refused.status.as_u16()), ("policy-denied", 403));
    let receipt = &refused.json()["receipt"];
    assert!(receipt["index"].as_u64().unwrap() > 0, "{receipt}");
    assert_eq!(receipt["leaf_hash"].as_str().unwrap().len(), 64);
    assert!(receipt["checkpoint"].as_str().unwrap().starts_with("router.test/"));
    // Reading is not for this caller either, and that looks like absence.
    for path in [
        "/api/v1/people",
        "/api/v1/audit/entries",
        "/api/v1/policies/active",
        "/api/v1/counters",
        "/api/v1/instances/inst_00000000000000000000000000000001",
        "/api/v1/instances/inst_00000000000000000000000000000001/grants",
        "/api/v1/gates/gate_00000000000000000000000000000001",
        "/api/v1/runs/run_00000000000000000000000000000001",
        "/api/v1/actions/act_00000000000000000000000000000001",
        "/log/log_02020202020202020202020202020202/checkpoint",
        "/log/log_02020202020202020202020202020202/tile/0/000",
        "/log/nonsense/tile/0/000",
    ] {
        let answer = world.get(path, Some(&token)).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.problem());
    }
}

#[tokio::test]
async fn a_full_gateway_says_so_and_still_answers_its_watchers() {
    let limits = Limits { requests: 0, ..Limits::default() };
    let world = World::new(Settings { limits, ..Settings::default() }).await;
    let full = world.get("/api/v1/info", None).await;
    assert_eq!((full.problem().as_str(), full.header("retry-after")), ("overloaded", "1"));
    assert_eq!(world.get("/healthz", None).await.status, 200);

    let limits = Limits { uploads: 0, ..Limits::default() };
    let world = World::new(Settings { limits, ..Settings::default() }).await;
    let token = world.login().await;
    assert_eq!(world.post("/api/v1/workspaces", Some(&token), "{}").await.problem(), "overloaded");
}

#[tokio::test]
async fn what_takes_too_long_is_let_go() {
    let limits = Limits { request_time: Duration::from_millis(50), ..Limits::default() };
    let world = World::new(Settings { limits, ..Settings::default() }).await;
    let never = || Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    assert_eq!(world.post("/api/v1/tokens/login", None, never()).await.problem(), "request-timeout");
    let limits = Limits { body_time: Duration::from_millis(50), ..Limits::default() };
    let world = World::new(Settings { limits, ..Settings::default() }).await;
    assert_eq!(world.post("/api/v1/tokens/login", None, never()).await.problem(), "body-timeout");
}

#[tokio::test]
async fn a_panic_is_one_problem_and_not_the_end() {
    let world = World::new(Settings { open_metrics: true, ..Settings::default() }).await;
    let token = world.login().await;
    let tree = |path: &str| json!({ "files": [{ "path": path, "text": "" }] }).to_string();
    let panicked = world.post("/api/v1/workspaces", Some(&token), tree("panic")).await;
    assert_eq!(panicked.problem(), "internal");
    assert!(!String::from_utf8_lossy(&panicked.bytes).contains("asked to"));
    let kept = world.post("/api/v1/workspaces", Some(&token), tree("calm")).await;
    assert_eq!((kept.status.as_u16(), kept.json()["workspace"].as_str().unwrap().len()), (201, 64));
    let metrics = String::from_utf8(world.get("/metrics", None).await.bytes).unwrap();
    assert!(metrics.contains("countersign_panics_total 1"), "{metrics}");
}

#[tokio::test]
async fn figures_are_for_those_who_may_and_name_no_tenant() {
    let world = World::new(Settings::default()).await;
    assert_eq!(world.get("/metrics", None).await.problem(), "token-missing");
    let token = world.login().await;
    world.post("/api/v1/people", Some(&token), json!({ "id": "bob" }).to_string()).await;
    world.get("/made/up/path", None).await;
    let metrics = world.get("/metrics", Some(&token)).await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    let text = String::from_utf8(metrics.bytes).unwrap();
    for part in [
        "countersign_http_requests_total{route=\"/api/v1/people\",method=\"POST\",status=\"403\"} 1",
        "countersign_http_requests_total{route=\"unknown\",method=\"GET\",status=\"404\"} 1",
        "countersign_http_request_seconds_bucket{",
        "countersign_problems_total{code=\"policy-denied\"} 1",
        "countersign_credentials_refused_total{code=\"token-missing\"} 1",
        "countersign_ledger_entries_total ",
        "countersign_ledger_batches_total{least=\"1\"}",
        "countersign_ledger_queued 0",
        "# EOF",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    for name in ["ada", "bob", "org_", "router.test"] {
        assert!(!text.contains(name), "`{name}` is in the figures");
    }
}

#[tokio::test]
async fn probes_follow_the_life_of_the_gateway() {
    let world = World::new(Settings::default()).await;
    for (phase, ready, started) in [(Phase::Starting, 503, 503), (Phase::Ready, 200, 200), (Phase::Draining, 503, 200)]
    {
        world.lifecycle.set(phase);
        assert_eq!(world.get("/readyz", None).await.status, ready, "{phase:?}");
        assert_eq!(world.get("/startupz", None).await.status, started, "{phase:?}");
        assert_eq!(world.get("/healthz", None).await.status, 200, "{phase:?}");
    }
}

#[tokio::test]
async fn every_problem_has_its_page_behind_its_type_and_docs_need_no_network() {
    let world = World::new(Settings::default()).await;
    for page in pages() {
        let answer = world.get(&format!("/problems/{}", page.code), None).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.as_slice()), (200, page.text.as_bytes()), "{}", page.code);
    }
    let api = world.get("/openapi.json", None).await.json();
    assert_eq!(api, serde_json::to_value(document()).unwrap());
    let docs = world.get("/docs", None).await;
    assert_eq!((docs.status.as_u16(), docs.header("location")), (308, "docs/"));
    for file in ["", "swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        let answer = world.get(&format!("/docs/{file}"), None).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(answer.header("content-security-policy").contains("default-src 'self'"));
        if file == "swagger-initializer.js" {
            assert!(String::from_utf8_lossy(&answer.bytes).contains("../openapi.json"));
        }
    }
    let info = world.get("/api/v1/info", None).await.json();
    assert_eq!((info["version"].as_str(), info["root_keys"][0].as_str()), (Some("1.2.3"), Some("router.test+key")));
}
