//! One gateway process without its outside: ledger, policy, runner, engine, and the people and agents of a test.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use countersign_gateway_engine::{
    ActionRequest, DecisionAnswer, DecisionKind, DecisionRequest, Engine, EngineError, EngineOptions, InstanceAnswer,
    Known, Mint, NewInstance, OnDeny, Parts, Proposed, WorkflowSpec,
};
use countersign_gateway_model::{
    Assurance, Clock, Digest, Duration, GateId, GatewayId, InstanceId, ItemId, LogId, Name, OrgId, Principal,
    PrincipalKind, Pseudonym, Scope, State, StreamId, Timestamp,
};
use countersign_ledger_entry::body::{AuthorityMode, Durability, Erasure, SignatureMode};
use countersign_ledger_entry::key::{VKey, origin, root_name};
use countersign_ledger_entry::{Draft, Entry, Stream, StreamKind};
use countersign_ledger_log::{Append, KeyError, KeyRing, Logs, LogsConfig, NewLog, Sealing};
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use countersign_policy_decide::{AgentFacts, Attr, PersonFacts, Record};
use countersign_runners_contract::Runner;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::bench::{Bench, Files, default_files};
use crate::faulty::{Faults, Faulty};
use crate::runner::HeldRunner;

const LEDGER: &str = "engine.test";

/// A clock that moves only when told.
pub(crate) struct Hand(AtomicU64);

impl Hand {
    pub(crate) fn forward(&self, span: Duration) {
        self.0.fetch_add(span.0, Ordering::SeqCst);
    }

    pub(crate) fn back(&self, span: Duration) {
        self.0.fetch_sub(span.0, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Ids that sort in the order in which they were made, and salts that nobody has seen before.
#[derive(Default)]
struct Counted(AtomicU64);

impl Mint for Counted {
    fn id(&self) -> [u8; 16] {
        u128::from(self.0.fetch_add(1, Ordering::SeqCst) + 1).to_be_bytes()
    }

    fn secret(&self) -> [u8; 32] {
        Sha256::digest(self.id()).into()
    }
}

/// Keys that follow from the log's id.
struct Ring;

impl Ring {
    fn key(log: LogId, salt: u8) -> SigningKey {
        SigningKey::from_bytes(&Sha256::new().chain_update(log.as_bytes()).chain_update([salt]).finalize().into())
    }
}

impl KeyRing for Ring {
    fn root(&self, log: LogId) -> Result<VKey, KeyError> {
        let name = root_name(&origin(LEDGER, log).unwrap());
        Ok(VKey::new(&name, Self::key(log, 1).verifying_key()).unwrap())
    }

    fn log_key(&self, log: LogId) -> Result<SigningKey, KeyError> {
        Ok(Self::key(log, 2))
    }
}

/// Somebody whom the engine is told of at every start.
#[derive(Clone)]
struct Introduced {
    org: OrgId,
    who: Pseudonym,
    known: Known,
    record: Record,
    beside: Vec<Record>,
}

/// A gateway.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) clock: Arc<Hand>,
    pub(crate) policies: Arc<Bench>,
    pub(crate) runner: Arc<HeldRunner>,
    pub(crate) engine: Engine,
    orgs: Vec<OrgId>,
    authority: AuthorityMode,
    mint: Arc<Counted>,
    people: Mutex<Vec<Introduced>>,
    /// What goes wrong at the ledger's door.
    pub(crate) faults: Faults,
    /// Entries of streams that were read through that door.
    pub(crate) read: Arc<AtomicU64>,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| name(text)).collect()
}

pub(crate) fn org(n: u8) -> OrgId {
    OrgId::from_bytes([n; 16])
}

/// What a person is made of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Of<'a> {
    pub(crate) roles: &'a [&'a str],
    pub(crate) teams: &'a [&'a str],
    pub(crate) groups: &'a [&'a str],
}

impl World {
    /// A first start with one organization.
    pub(crate) async fn new() -> Self {
        Self::with(&[org(1)]).await
    }

    /// A first start with one organization, under another bundle than the one that ships.
    pub(crate) async fn under(files: &Files) -> Self {
        Self::begin(&[org(1)], files, AuthorityMode::Solo).await
    }

    /// A first start with one organization in which nobody changes policy alone.
    pub(crate) async fn four_eyes() -> Self {
        Self::begin(&[org(1)], &default_files(), AuthorityMode::FourEyes).await
    }

    /// A first start with these organizations.
    pub(crate) async fn with(orgs: &[OrgId]) -> Self {
        Self::begin(orgs, &default_files(), AuthorityMode::Solo).await
    }

    async fn begin(orgs: &[OrgId], files: &Files, authority: AuthorityMode) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hand(AtomicU64::new(1_795_219_200_000)));
        let (policies, runner, mint) = (Bench::new(), HeldRunner::new(), Arc::new(Counted::default()));
        for org in orgs {
            policies.install(*org, files);
        }
        let (faults, read) = (Faults::default(), Arc::default());
        let door = (&folder, &faults, &read);
        let engine = Self::open(door, &clock, &policies, &runner, &mint, (orgs, authority)).await.unwrap();
        let orgs = orgs.to_vec();
        Self { folder, clock, policies, runner, engine, orgs, authority, mint, people: Mutex::default(), faults, read }
    }

    async fn open(
        (folder, faults, read): (&tempfile::TempDir, &Faults, &Arc<AtomicU64>),
        clock: &Arc<Hand>,
        policies: &Arc<Bench>,
        runner: &Arc<HeldRunner>,
        mint: &Arc<Counted>,
        (orgs, authority): (&[OrgId], AuthorityMode),
    ) -> Result<Engine, EngineError> {
        let inner = SqlJournal::open(SqlOptions::new(folder.path())).await.unwrap();
        let journal = Arc::new(Faulty { inner, faults: Arc::clone(faults), read: Arc::clone(read) });
        let mint_key = Arc::clone(mint);
        let mut config = LogsConfig::new(
            LEDGER,
            GatewayId::from_bytes([9; 16]),
            Arc::<Hand>::clone(clock),
            Arc::new(move || Ok(mint_key.secret())),
        );
        config.reserve = 0;
        let logs = Logs::open(journal, config, Arc::new(Ring)).await.unwrap();
        for org in orgs {
            let log = LogId::from_bytes(*org.as_bytes());
            let root_signer = Ring::key(log, 1);
            let new = NewLog {
                org: *org,
                log,
                root_keys: vec![root_signer.verifying_key()],
                root_signer,
                root_threshold: 1,
                root_document: Digest([4; 32]),
                signatures: SignatureMode::PerEntry,
                durability: Durability::Journal,
                authority,
                demo: false,
            };
            match logs.create(new).await {
                Ok(_) | Err(countersign_ledger_log::LogError::Exists(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let runners: HashMap<String, Arc<dyn Runner>> =
            HashMap::from([("process".to_owned(), Arc::<HeldRunner>::clone(runner) as Arc<dyn Runner>)]);
        let engine = Engine::new(Parts {
            logs,
            policies: Arc::<Bench>::clone(policies),
            runners,
            clock: Arc::<Hand>::clone(clock),
            mint: Arc::<Counted>::clone(mint),
            options: EngineOptions::default(),
        });
        for org in orgs {
            if let Err(error) = engine.open_org(*org, Some(0)).await {
                engine.logs().shutdown().await.unwrap();
                return Err(error);
            }
        }
        Ok(engine)
    }

    /// Ends this process where it stands and starts another on the same folder, with a runner that knows nothing.
    pub(crate) async fn restart(&mut self) {
        self.restart_after("").await.unwrap();
    }

    /// As [`World::restart`], where somebody was at the database in between; or why no other starts.
    pub(crate) async fn restart_after(&mut self, sql: &str) -> Result<(), EngineError> {
        self.engine.end();
        self.engine.logs().shutdown().await.unwrap();
        if !sql.is_empty() {
            let database = rusqlite::Connection::open(self.folder.path().join("ledger.db")).unwrap();
            database.execute_batch(sql).unwrap();
            assert!(database.total_changes() > 0, "nothing was edited");
        }
        self.runner = HeldRunner::new();
        let orgs = (self.orgs.as_slice(), self.authority);
        let door = (&self.folder, &self.faults, &self.read);
        self.engine = Self::open(door, &self.clock, &self.policies, &self.runner, &self.mint, orgs).await?;
        for one in self.people.lock().unwrap().iter() {
            self.tell(one);
        }
        Ok(())
    }

    fn tell(&self, one: &Introduced) {
        for record in &one.beside {
            self.engine.describe(one.org, record.clone()).unwrap();
        }
        self.engine.introduce(one.org, one.who, one.known.clone(), one.record.clone()).unwrap();
    }

    fn introduce(&self, one: Introduced) {
        self.tell(&one);
        self.people.lock().unwrap().push(one);
    }

    /// Somebody's account is closed, at this start and every later one.
    pub(crate) fn deactivate(&self, who: &Principal) {
        let mut people = self.people.lock().unwrap();
        let one = people.iter_mut().find(|one| one.who == who.pseudonym).unwrap();
        one.record.attrs.insert("active", Attr::Bool(false));
        self.tell(one);
    }

    /// Somebody gets these roles instead of theirs, at this start and every later one.
    pub(crate) fn reassign(&self, who: &Principal, roles: &[&str]) {
        let mut people = self.people.lock().unwrap();
        let one = people.iter_mut().find(|one| one.who == who.pseudonym).unwrap();
        one.record.roles = names(roles).into_iter().collect();
        self.tell(one);
    }

    /// Somebody has a second factor from now on, or has none any more, at this start and every later one.
    pub(crate) fn second_factor(&self, who: &Principal, has: bool) {
        let mut people = self.people.lock().unwrap();
        let one = people.iter_mut().find(|one| one.who == who.pseudonym).unwrap();
        one.known.second_factor = has;
        self.tell(one);
    }

    fn pseudonym(&self) -> Pseudonym {
        Pseudonym::from_bytes(self.mint.id())
    }

    /// The root key of an organization's log, as an auditor is given it.
    pub(crate) fn root_vkey(&self, org: OrgId) -> String {
        Ring.root(self.engine.log_of(org).unwrap().id()).unwrap().to_string()
    }

    /// A person of the first organization with roles.
    pub(crate) fn person(&self, id: &str, roles: &[&str]) -> Arc<Principal> {
        self.person_of(self.orgs[0], id, Of { roles, ..Of::default() })
    }

    pub(crate) fn person_of(&self, org: OrgId, id: &str, of: Of<'_>) -> Arc<Principal> {
        let who = self.pseudonym();
        let now = self.clock.now();
        let key = name(&format!("human-{id}"));
        let facts = PersonFacts {
            active: true,
            roles: names(of.roles),
            teams: names(of.teams),
            groups: names(of.groups),
            person: Some(key.clone()),
        };
        let beside = of
            .teams
            .iter()
            .map(|team| Record::team(org, name(team), Vec::new(), now))
            .chain(of.groups.iter().map(|group| Record::group(org, name(group), Vec::new(), now)))
            .collect();
        self.introduce(Introduced {
            org,
            who,
            known: Known {
                kind: PrincipalKind::Person,
                id: name(id),
                person: Some(who),
                person_key: Some(key.clone()),
                owner: None,
                issuers: BTreeSet::new(),
                teams: names(of.teams),
                groups: names(of.groups),
                second_factor: false,
            },
            record: Record::person(org, name(id), facts, now),
            beside,
        });
        Arc::new(Principal {
            org,
            kind: PrincipalKind::Person,
            id: name(id),
            pseudonym: who,
            on_behalf_of: Vec::new(),
            scopes: vec![Scope::Act, Scope::Decide],
            assurance: Assurance::Password,
            roles: names(of.roles),
            teams: names(of.teams),
            person: Some(key),
            issued: now,
            expires: Timestamp(u64::MAX),
        })
    }

    /// An agent that holds every scope of the default catalogue, owned by a person.
    pub(crate) fn agent(&self, id: &str, owner: &Principal) -> Arc<Principal> {
        let who = self.pseudonym();
        let scopes = [
            "repo:read",
            "repo:write",
            "repo:test",
            "repo:merge",
            "notes:write",
            "payments:refund",
            "payments:transfer",
            "mail:send",
            "deploy:release",
        ];
        let facts = AgentFacts {
            active: true,
            owner: owner.id.clone(),
            autonomy: 4,
            scopes: names(&scopes),
            teams: Vec::new(),
        };
        self.introduce(Introduced {
            org: owner.org,
            who,
            known: Known {
                kind: PrincipalKind::Agent,
                id: name(id),
                person: None,
                person_key: None,
                owner: Some(owner.pseudonym),
                issuers: BTreeSet::from([owner.pseudonym]),
                teams: Vec::new(),
                groups: Vec::new(),
                second_factor: false,
            },
            record: Record::agent(owner.org, name(id), facts, self.clock.now()),
            beside: Vec::new(),
        });
        Arc::new(Principal {
            org: owner.org,
            kind: PrincipalKind::Agent,
            id: name(id),
            pseudonym: who,
            on_behalf_of: Vec::new(),
            scopes: vec![Scope::Act],
            assurance: Assurance::Secret,
            roles: Vec::new(),
            teams: Vec::new(),
            person: None,
            issued: self.clock.now(),
            expires: Timestamp(u64::MAX),
        })
    }

    /// Registers a workflow with every tool.
    pub(crate) async fn workflow(&self, who: &Arc<Principal>, id: &str) {
        self.workflow_of(who, id, None).await;
    }

    /// As [`World::workflow`], owned by a team.
    pub(crate) async fn workflow_of(&self, who: &Arc<Principal>, id: &str, team: Option<&str>) {
        self.workflow_version(who, (id, "1"), team).await;
    }

    /// The same, in a version.
    pub(crate) async fn workflow_version(&self, who: &Arc<Principal>, (id, version): (&str, &str), team: Option<&str>) {
        let spec = WorkflowSpec {
            id: name(id),
            version: version.to_owned(),
            title: String::new(),
            team: team.map(name),
            materiality: 1,
            tools: None,
            on_deny: OnDeny::Refuse,
        };
        self.engine.register_workflow(Arc::clone(who), spec).await.unwrap();
    }

    /// Starts an instance for an agent.
    pub(crate) async fn instance(&self, who: &Arc<Principal>, workflow: &str, agent: &Principal) -> InstanceAnswer {
        self.instance_on(who, workflow, agent, None).await
    }

    /// As [`World::instance`], on a workspace.
    pub(crate) async fn instance_on(
        &self,
        who: &Arc<Principal>,
        workflow: &str,
        agent: &Principal,
        workspace: Option<Digest>,
    ) -> InstanceAnswer {
        let new = new_instance(workflow, agent, workspace);
        self.engine.create_instance(Arc::clone(who), new, None).await.unwrap()
    }

    /// As [`World::instance`], but one that a denied action ends.
    pub(crate) async fn instance_that_a_denial_ends(
        &self,
        who: &Arc<Principal>,
        workflow: &str,
        agent: &Principal,
    ) -> InstanceAnswer {
        let new = NewInstance { on_deny: OnDeny::Terminate, ..new_instance(workflow, agent, None) };
        self.engine.create_instance(Arc::clone(who), new, None).await.unwrap()
    }

    /// Erases what an entry names as the ledger erases: salts and values go, and another entry says so.
    pub(crate) async fn erase(&self, of: OrgId, index: u64) {
        let log = self.engine.log_of(of).unwrap();
        let entry = &log.entries(index..index + 1).await.unwrap()[0];
        let named: BTreeSet<Digest> =
            Entry::parse(&entry.leaf).unwrap().header.payloads.iter().map(|named| named.digest).collect();
        assert!(!named.is_empty(), "entry {index} names no payload");
        let stream = Stream { kind: StreamKind::Organization, id: StreamId::from(of) };
        let head = log.head(stream).await.unwrap().unwrap();
        let sealing = Sealing {
            stream,
            sequence: head.next_sequence,
            previous: Some(head.last_hash),
            policy: None,
            authority: self.authority,
            claimed: self.clock.now(),
        };
        let payloads: Vec<Digest> = named.into_iter().collect();
        let erasure = Erasure { subject: None, payloads: payloads.clone(), authority: Digest([6; 32]) };
        let append = Append {
            expected: sealing.sequence,
            entries: log.seal(&sealing, vec![Draft::new(erasure, Pseudonym::SYSTEM)]).unwrap(),
            payloads: Vec::new(),
            blobs: Vec::new(),
            rows: Vec::new(),
            idempotency: None,
            erase: payloads.into_iter().map(|digest| (index, digest)).collect(),
            urgent: false,
        };
        log.append(append).await.unwrap();
    }

    pub(crate) async fn propose(
        &self,
        agent: &Arc<Principal>,
        instance: InstanceId,
        actions: &[(&str, Value)],
    ) -> Result<Proposed, EngineError> {
        let requests = actions.iter().map(|(tool, input)| request(tool, input)).collect();
        self.engine.propose(Arc::clone(agent), instance, requests, false, None).await
    }

    /// Decides with the view as it is now.
    pub(crate) async fn decide(
        &self,
        who: &Arc<Principal>,
        gate: GateId,
        decision: Deciding,
    ) -> Result<DecisionAnswer, EngineError> {
        let shown = self.engine.gate(who, gate).await?.shown_digest;
        self.decide_shown(who, gate, decision, shown).await
    }

    pub(crate) async fn decide_shown(
        &self,
        who: &Arc<Principal>,
        gate: GateId,
        decision: Deciding,
        shown: Digest,
    ) -> Result<DecisionAnswer, EngineError> {
        let (kind, items, delta) = match decision {
            Deciding::Approve => (DecisionKind::Approve, Vec::new(), BTreeMap::new()),
            Deciding::ApproveItems(items) => (DecisionKind::Approve, items, BTreeMap::new()),
            Deciding::Reject => (DecisionKind::Reject, Vec::new(), BTreeMap::new()),
            Deciding::Override(delta) => (DecisionKind::Override, Vec::new(), delta),
        };
        let request = DecisionRequest {
            kind,
            items,
            justification: Some("seen and weighed".to_owned()),
            shown_digest: Some(shown),
            delta,
            role: None,
            assertion: None,
        };
        self.engine.decide(Arc::clone(who), gate, request, None).await
    }

    pub(crate) async fn state(&self, who: &Principal, instance: InstanceId) -> State {
        self.engine.instance(who, instance).await.unwrap().state
    }

    /// Waits until an action has this status.
    pub(crate) async fn until_status(
        &self,
        who: &Principal,
        action: countersign_gateway_model::ActionId,
        wanted: &str,
    ) {
        let mut seen = String::new();
        for _ in 0..400 {
            seen = self.engine.action(who, action).await.unwrap().status;
            if seen == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("the action never became `{wanted}`: it is `{seen}`");
    }
}

fn new_instance(workflow: &str, agent: &Principal, workspace: Option<Digest>) -> NewInstance {
    NewInstance {
        workflow: name(workflow),
        agent: Some(agent.id.clone()),
        accountable: None,
        workspace,
        labels: BTreeMap::new(),
        deadline_s: None,
        on_deny: OnDeny::Refuse,
        start: true,
    }
}

/// What a person decides.
#[derive(Clone, Debug)]
pub(crate) enum Deciding {
    Approve,
    ApproveItems(Vec<ItemId>),
    Reject,
    Override(BTreeMap<ItemId, Option<BTreeMap<String, Value>>>),
}

/// An override of one value of one item.
pub(crate) fn replace(item: ItemId, pointer: &str, value: Value) -> Deciding {
    Deciding::Override(BTreeMap::from([(item, Some(BTreeMap::from([(pointer.to_owned(), value)])))]))
}

pub(crate) fn request(tool: &str, input: &Value) -> ActionRequest {
    ActionRequest { tool: name(tool), input: serde_json::to_vec(input).unwrap(), revision: None }
}

pub(crate) fn read(path: &str) -> (&'static str, Value) {
    ("repo.read", json!({ "path": path }))
}
