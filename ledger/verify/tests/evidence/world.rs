//! A log written as the gateway writes one, and the tools of a forger: seal anything, pack anything.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use countersign_gateway_flow::{
    Action, Actions, Actor, AskGrant, Asked, Ballot, BallotItem, Change, Complete, Create, Decide, GateTerms, Grant,
    Instance, ItemTerms, LiftRule, Lifting, Now, PermitTerms, Place, Proposal, Reasked, Reply, Report as OutcomeReport,
    RevokeGrant, RunTerms, StartTerms, SweepStart, SystemReject, Terminate, decide, gate,
};
use countersign_gateway_model::{
    ActionId, Assurance, DecisionId, Digest, Duration, GateId, GatewayId, GrantId, InstanceId, ItemId, LogId, Name,
    OrgId, Outcome, PermitId, PolicyDigests, PrincipalKind, Pseudonym, RunId, Timestamp, Verdict,
};
use countersign_ledger_entry::assertion::LiftStatement;
use countersign_ledger_entry::body::{
    Assertion, AuthorityMode, Boot, CertifiedBy, Created, DecisionKind, Durability, Genesis, OnDeny, OnTimeout,
    QuestionKind, RuleForm, SettingValue, Settings, SignatureMode,
};
use countersign_ledger_entry::key::{self, VKey};
use countersign_ledger_entry::note::{self, Checkpoint};
use countersign_ledger_entry::{
    AppendPosition, Body, Bytes32, Bytes64, Draft, Header, PayloadRef, PayloadRole, SEMANTICS, Stream, StreamKind,
    payload,
};
use countersign_ledger_merkle::{Tree, leaf_hash};
use countersign_ledger_verify::{Contents, Report, verify, write};

pub(crate) const AGENT: Pseudonym = who(1);
pub(crate) const OWNER: Pseudonym = who(2);
pub(crate) const INITIATOR: Pseudonym = who(3);
pub(crate) const ALICE: Pseudonym = who(11);
pub(crate) const BOB: Pseudonym = who(12);

pub(crate) const fn who(n: u8) -> Pseudonym {
    Pseudonym::from_bytes([n; 16])
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn bytes(n: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[8..].copy_from_slice(&n.to_be_bytes());
    out
}

pub(crate) fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

/// Who seals: a gateway in one of its boots.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) id: GatewayId,
    pub(crate) boot: u64,
    pub(crate) key: SigningKey,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) genesis: Genesis,
    pub(crate) origin: String,
    pub(crate) root: SigningKey,
    pub(crate) log_key: SigningKey,
    pub(crate) by: Gateway,
    pub(crate) at: Timestamp,
    pub(crate) authority: AuthorityMode,
    pub(crate) leaves: Vec<Vec<u8>>,
    pub(crate) heads: HashMap<Stream, (u64, Digest)>,
    pub(crate) instances: HashMap<InstanceId, Instance>,
    /// Payloads that entries name, by their digest in hex.
    pub(crate) payloads: BTreeMap<String, Vec<u8>>,
    /// Payloads that no entry names yet.
    pending: BTreeMap<String, Vec<u8>>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// The version that the gateway at work writes.
    pub(crate) semantics: u16,
    next: u64,
}

impl World {
    /// Genesis alone.
    pub(crate) fn new(change: impl FnOnce(&mut Genesis)) -> Self {
        Self::of_version(SEMANTICS, change)
    }

    fn of_version(semantics: u16, change: impl FnOnce(&mut Genesis)) -> Self {
        let (root, log_key) = (signing_key(1), signing_key(2));
        let log = LogId::from_bytes([0x10; 16]);
        let mut genesis = Genesis {
            org: OrgId::from_bytes([0x0a; 16]),
            log,
            root_keys: vec![Bytes32(root.verifying_key().to_bytes())],
            root_threshold: 1,
            root_document: digest(9),
            log_key: Bytes32(log_key.verifying_key().to_bytes()),
            signatures: SignatureMode::PerEntry,
            durability: Durability::Journal,
            demo: false,
        };
        change(&mut genesis);
        let mut world = Self {
            origin: key::origin("countersign.example", log).unwrap(),
            genesis: genesis.clone(),
            root,
            log_key,
            by: Gateway { id: GatewayId::from_bytes([0x67; 16]), boot: 0, key: signing_key(3) },
            at: Timestamp(1_800_000_000_000),
            authority: AuthorityMode::FourEyes,
            leaves: Vec::new(),
            heads: HashMap::new(),
            instances: HashMap::new(),
            payloads: BTreeMap::new(),
            pending: BTreeMap::new(),
            blobs: BTreeMap::new(),
            semantics,
            next: 0,
        };
        let mut header = world.header(world.log_stream(), Body::Genesis(genesis));
        header.key = world.vkey().id();
        world.push(header.sign(&world.root).unwrap().leaf);
        world
    }

    /// Genesis and one boot.
    pub(crate) fn booted() -> Self {
        let mut world = Self::new(|_| {});
        world.boot();
        world
    }

    /// The smallest log in which something was done: one tool call, begun and done.
    pub(crate) fn small() -> (Self, InstanceId) {
        Self::small_of_version(SEMANTICS)
    }

    /// The same, written by a program of another version.
    pub(crate) fn small_of_version(semantics: u16) -> (Self, InstanceId) {
        let mut world = Self::of_version(semantics, |_| {});
        world.boot();
        let instance = world.running();
        let permit = world.call(instance, true);
        world.report(instance, permit, Outcome::Succeeded);
        (world, instance)
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn vkey(&self) -> VKey {
        VKey::new(&key::root_name(&self.origin), self.root.verifying_key()).unwrap()
    }

    pub(crate) fn log_stream(&self) -> Stream {
        Stream { kind: StreamKind::Log, id: self.genesis.log.into() }
    }

    pub(crate) fn org_stream(&self) -> Stream {
        Stream { kind: StreamKind::Organization, id: self.genesis.org.into() }
    }

    /// A header that continues its stream, alone in its append, by the gateway that is at work.
    pub(crate) fn header(&self, stream: Stream, body: impl Into<Body>) -> Header {
        let head = self.heads.get(&stream);
        Header {
            semantics: self.semantics,
            origin: self.origin.clone(),
            stream,
            sequence: head.map_or(0, |(sequence, _)| sequence + 1),
            previous: head.map(|(_, hash)| *hash),
            append: AppendPosition { index: 0, length: 1 },
            body: body.into(),
            verdict: None,
            determining: Vec::new(),
            policy: None,
            authority: self.authority,
            actor: Pseudonym::SYSTEM,
            on_behalf_of: Vec::new(),
            gateway: self.by.id,
            boot: self.by.boot,
            key: key::key_id(&key::gateway_name(&self.origin, self.by.id), &self.by.key.verifying_key()),
            claimed: self.at,
            payloads: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// Signs, or not where the log does not.
    pub(crate) fn seal(&self, header: Header) -> Vec<u8> {
        let signed = self.genesis.signatures == SignatureMode::PerEntry || matches!(header.body, Body::Boot(_));
        if signed { header.sign(&self.by.key).unwrap().leaf } else { header.unsigned().unwrap().leaf }
    }

    /// Puts a leaf at the end, and remembers the head of its stream.
    pub(crate) fn push(&mut self, leaf: Vec<u8>) {
        let header = countersign_ledger_entry::entry::UnknownEntry::parse(&leaf).unwrap().header;
        self.heads.insert(header.stream, (header.sequence, Digest(leaf_hash(&leaf).0)));
        for named in header.payloads {
            let named = named.digest.to_string();
            if let Some(bytes) = self.pending.remove(&named) {
                self.payloads.insert(named, bytes);
            }
        }
        self.leaves.push(leaf);
    }

    /// One entry, changed before it is signed.
    pub(crate) fn put(&mut self, stream: Stream, body: impl Into<Body>, change: impl FnOnce(&mut Header)) {
        let mut header = self.header(stream, body);
        change(&mut header);
        self.push(self.seal(header));
    }

    /// Drafts as one append of a stream, each changed before it is signed.
    pub(crate) fn append(&mut self, stream: Stream, drafts: Vec<Draft>, change: impl Fn(usize, &mut Header)) {
        let length = u8::try_from(drafts.len()).unwrap();
        for (index, draft) in drafts.into_iter().enumerate() {
            let mut header = self.header(stream, draft.body);
            header.append = AppendPosition { index: u8::try_from(index).unwrap(), length };
            header.verdict = draft.verdict;
            header.determining = draft.determining;
            header.actor = draft.actor;
            header.on_behalf_of = draft.on_behalf_of;
            header.payloads = draft.payloads;
            header.fields = draft.fields;
            header.policy = Some(PolicyDigests {
                kernel: digest(41),
                schema: digest(42),
                bundle: digest(43),
                catalogue: digest(44),
            });
            change(index, &mut header);
            self.push(self.seal(header));
        }
    }

    /// Sets the authority mode; the entry that does states it already.
    pub(crate) fn set_authority(&mut self, mode: AuthorityMode) {
        let set = setting_of(mode.as_str());
        self.authority = mode;
        self.put(self.org_stream(), set, |_| {});
    }

    /// The boot entry by which the gateway introduces its key.
    pub(crate) fn boot_body(&self) -> Boot {
        let name = key::gateway_name(&self.origin, self.by.id);
        let public = self.by.key.verifying_key();
        Boot {
            gateway: self.by.id,
            boot: self.by.boot,
            key: Bytes32(public.to_bytes()),
            certificate: Bytes64(key::certify(&self.log_key, &self.origin, &name, &public)),
            certified_by: CertifiedBy::Log,
            size_seen: self.leaves.len() as u64,
            sandbox_level: Some(2),
        }
    }

    pub(crate) fn boot(&mut self) {
        self.by.boot += 1;
        let body = self.boot_body();
        self.put(self.log_stream(), body, |_| {});
    }

    /// Stores a payload and names it.
    pub(crate) fn payload(&mut self, role: PayloadRole, content: &str) -> PayloadRef {
        let salt = payload::Salt([u8::try_from(self.fresh() % 251).unwrap(); 32]);
        let bytes = payload::seal(&salt, content.as_bytes());
        let digest = payload::digest(&bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        self.pending.insert(digest.to_string(), bytes);
        PayloadRef { role, digest, length }
    }

    pub(crate) fn stream(instance: InstanceId) -> Stream {
        Stream { kind: StreamKind::Instance, id: instance.into() }
    }

    /// Decides, seals and applies, as the engine does.
    pub(crate) fn propose(&mut self, instance: InstanceId, by: Pseudonym, proposal: Proposal) -> Reply {
        let now = Now { at: self.at, frozen: false, by: Actor { actor: by, on_behalf_of: Vec::new() } };
        let decided = decide(self.instances.get(&instance), proposal, &now).unwrap();
        let stream = match decided.place {
            Place::Instance(id) => Self::stream(id),
            Place::Organization => self.org_stream(),
        };
        let first = self.leaves.len();
        self.append(stream, decided.drafts, |_, _| {});
        if stream.kind == StreamKind::Instance {
            for leaf in &self.leaves[first..] {
                let header = countersign_ledger_entry::Entry::parse(leaf).unwrap().header;
                let after = Instance::evolve(self.instances.remove(&instance), &header, Digest(leaf_hash(leaf).0));
                self.instances.insert(instance, after.unwrap());
            }
        }
        decided.reply
    }

    pub(crate) fn asked(&mut self, verdict: Verdict) -> Asked {
        let mut asked = Asked::answer(verdict, vec![vec![name("policy")]]);
        asked.payloads.push(self.payload(PayloadRole::Question, "{}"));
        asked
    }

    pub(crate) fn allow(&mut self) -> Asked {
        self.asked(Verdict::allow())
    }

    pub(crate) fn created() -> Created {
        Created {
            workflow: name("fix-tests"),
            workflow_version: digest(1),
            initiator: INITIATOR,
            accountable: OWNER,
            owner: Some(OWNER),
            acting: AGENT,
            acting_kind: PrincipalKind::Agent,
            parent: None,
            on_deny: OnDeny::Refuse,
            deadline: None,
            enforced: true,
        }
    }

    pub(crate) fn create(&mut self, start: bool) -> InstanceId {
        let asked = if start { self.allow() } else { Asked::nothing() };
        self.create_with(start, true, asked)
    }

    pub(crate) fn create_with(&mut self, start: bool, enforced: bool, asked: Asked) -> InstanceId {
        let instance = InstanceId::from_bytes(bytes(self.fresh()));
        let create = Create {
            instance,
            created: Created { enforced, ..Self::created() },
            start,
            action: Some(ActionId::from_bytes(bytes(self.fresh()))),
            asked,
            digest: Some(digest(5)),
            gate: None,
            item: None,
        };
        self.propose(instance, INITIATOR, Proposal::Create(Box::new(create)));
        instance
    }

    pub(crate) fn running(&mut self) -> InstanceId {
        self.create(true)
    }

    fn permit_terms(&mut self, begin: Option<StartTerms>) -> PermitTerms {
        PermitTerms {
            permit: PermitId::from_bytes(bytes(self.fresh())),
            expires: Timestamp(self.at.0 + 60_000),
            reservations: Vec::new(),
            begin,
        }
    }

    fn start_terms(&self, run: Option<RunTerms>) -> StartTerms {
        StartTerms { not_after: Timestamp(self.at.0 + 60_000), run }
    }

    fn run_terms(&mut self) -> RunTerms {
        RunTerms {
            run: RunId::from_bytes(bytes(self.fresh())),
            attempt: 1,
            backend: name("process"),
            external_name: name("run-1"),
            job: digest(8),
        }
    }

    /// An action with everything that any verdict could call for.
    pub(crate) fn action(&mut self, asked: Asked, begin: Option<StartTerms>) -> Action {
        let dispatch = begin.as_ref().is_some_and(|b| b.run.is_some());
        let rules = asked.verdict.iter().flat_map(|v| &v.rules).map(|r| rule(r.as_str(), 2)).collect();
        Action {
            action: ActionId::from_bytes(bytes(self.fresh())),
            question: if dispatch { QuestionKind::Dispatch } else { QuestionKind::CallTool },
            tool: name(if dispatch { "runner/process" } else { "repo/write" }),
            tool_version: Some(digest(2)),
            digest: digest(6),
            mutable_target: false,
            permit: Some(self.permit_terms(begin)),
            grants: Vec::new(),
            item: Some(ItemTerms { item: ItemId::from_bytes(bytes(self.fresh())), rules, involved: vec![OWNER] }),
            asked,
        }
    }

    fn act(&mut self, instance: InstanceId, action: Action) -> Reply {
        let gate = GateTerms {
            gate: GateId::from_bytes(bytes(self.fresh())),
            expires: Some(Timestamp(self.at.0 + 100_000)),
            on_timeout: OnTimeout::Reject,
            caller: None,
            payloads: vec![self.payload(PayloadRole::Shown, "what is asked")],
        };
        self.propose(instance, AGENT, Proposal::Actions(Actions { items: vec![action], gate: Some(gate) }))
    }

    /// An allowed tool call, begun in the same append if asked for.
    pub(crate) fn call(&mut self, instance: InstanceId, begin: bool) -> PermitId {
        let asked = self.allow();
        let begin = begin.then(|| self.start_terms(None));
        let action = self.action(asked, begin);
        let permit = action.permit.as_ref().unwrap().permit;
        self.act(instance, action);
        permit
    }

    /// An allowed dispatch, begun by a runner.
    pub(crate) fn dispatch(&mut self, instance: InstanceId) -> PermitId {
        let asked = self.allow();
        let run = self.run_terms();
        let begin = Some(self.start_terms(Some(run)));
        let action = self.action(asked, begin);
        let permit = action.permit.as_ref().unwrap().permit;
        self.act(instance, action);
        permit
    }

    pub(crate) fn denied(&mut self, instance: InstanceId) {
        let asked = self.asked(Verdict::deny());
        let action = self.action(asked, None);
        self.act(instance, action);
    }

    /// Opens a gate under a rule that needs two persons.
    pub(crate) fn gated(&mut self, instance: InstanceId) -> GateId {
        let asked = self.asked(Verdict::needs_approval(vec![name("two-eyes")]));
        let action = self.action(asked, None);
        match self.act(instance, action) {
            Reply::Waiting { gate, .. } => gate,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for a grant under a rule that needs two persons, good for `count` calls within a minute.
    pub(crate) fn ask_grant(&mut self, instance: InstanceId, count: u32) -> GrantId {
        self.ask_grant_with(instance, count, |_, _| {})
    }

    /// Asks for a grant after a change of its terms, as people read them, and of what the entry will say.
    pub(crate) fn ask_grant_with(
        &mut self,
        instance: InstanceId,
        count: u32,
        change: fn(&mut Value, &mut AskGrant),
    ) -> GrantId {
        self.ask_grant_as(instance, count, PayloadRole::Description, change)
    }

    /// As [`World::ask_grant_with`], with the terms in a payload of this role.
    pub(crate) fn ask_grant_as(
        &mut self,
        instance: InstanceId,
        count: u32,
        role: PayloadRole,
        change: fn(&mut Value, &mut AskGrant),
    ) -> GrantId {
        let mut terms = json!({
            "rule": "two-eyes",
            "uses": count,
            "for_s": 60,
            "tools": { "repo/write": { "version": digest(2), "input": {} } },
        });
        let gate = GateTerms {
            gate: GateId::from_bytes(bytes(self.fresh())),
            expires: Some(Timestamp(self.at.0 + 100_000)),
            on_timeout: OnTimeout::Reject,
            caller: None,
            payloads: vec![self.payload(PayloadRole::Shown, "what is asked")],
        };
        let item = ItemId::from_bytes(bytes(self.fresh()));
        let mut ask = AskGrant {
            grant: GrantId::from_bytes(bytes(self.fresh())),
            action: ActionId::from_bytes(bytes(self.fresh())),
            rule: name("two-eyes"),
            tools: vec![name("repo/write")],
            scope: digest(9),
            count,
            budget: None,
            lasts: Duration(60_000),
            payloads: Vec::new(),
            gate,
            item: ItemTerms { item, rules: vec![rule("two-eyes", 2)], involved: vec![OWNER] },
        };
        change(&mut terms, &mut ask);
        let described = self.payload(role, &terms.to_string());
        let (salt, content) = payload::open(&self.pending[&described.digest.to_string()]).unwrap();
        // A scope that the change has put there is kept.
        if ask.scope == digest(9) {
            ask.scope = payload::salted(payload::GRANT, &salt, content);
        }
        ask.payloads.push(described);
        let grant = ask.grant;
        self.propose(instance, AGENT, Proposal::AskGrant(Box::new(ask)));
        grant
    }

    /// A call that rests on a grant.
    pub(crate) fn call_on(&mut self, instance: InstanceId, grant: GrantId) {
        let asked = self.allow();
        let action = Action { grants: vec![grant], ..self.action(asked, None) };
        self.act(instance, action);
    }

    pub(crate) fn revoke(&mut self, instance: InstanceId, grant: GrantId) {
        let asked = self.allow();
        self.propose(instance, OWNER, Proposal::RevokeGrant(Box::new(RevokeGrant { grant, asked })));
    }

    pub(crate) fn ballot(&self, instance: InstanceId, kind: DecisionKind, person: Pseudonym) -> Ballot {
        let open = self.instances[&instance].gate().unwrap();
        let items = open.live_items().filter(|_| kind != DecisionKind::Reject);
        let items = items.map(|item| BallotItem {
            item: item.item,
            digest: item.digest,
            rules: item.rules.iter().map(|r| r.rule.clone()).collect(),
            change: Change::Keep,
        });
        Ballot {
            kind,
            person: Some(person),
            role: Some(name("approver")),
            teams: vec![name("platform")],
            groups: Vec::new(),
            items: items.collect(),
            current: Vec::new(),
            lapsed: Vec::new(),
        }
    }

    pub(crate) fn vote(
        &mut self,
        instance: InstanceId,
        kind: DecisionKind,
        person: Pseudonym,
        assurance: Assurance,
    ) -> Reply {
        let ballot = self.ballot(instance, kind, person);
        let open = self.instances[&instance].gate().unwrap().clone();
        let mut reasked = Vec::new();
        if let Ok(tally) = gate::tally(&open, &ballot, person) {
            for item in &tally.items {
                let verdict = match item.remaining.as_slice() {
                    [] => Verdict::allow(),
                    rules => Verdict::needs_approval(rules.to_vec()),
                };
                reasked.push(Reasked { item: item.item, asked: self.asked(verdict) });
            }
        }
        let mut grants = Vec::new();
        for item in &open.items {
            grants.push(Grant {
                action: item.action,
                question: item.question,
                tool: item.tool.clone().unwrap(),
                tool_version: digest(2),
                mutable_target: false,
                permit: self.permit_terms(None),
                cleared: None,
            });
        }
        let mut asked = self.allow();
        asked.payloads.push(self.payload(PayloadRole::Justification, "it is right"));
        let decide = Decide {
            decision: DecisionId::from_bytes(bytes(self.fresh())),
            gate: open.gate,
            asked,
            justification: Some("it is right".to_owned()),
            shown: Some(digest(7)),
            view: digest(7),
            delta: None,
            assurance,
            assertion: None,
            stale: false,
            reasked,
            asked_again: Vec::new(),
            grants,
            reject: SystemReject { decision: DecisionId::from_bytes(bytes(self.fresh())) },
            ballot,
        };
        self.propose(instance, person, Proposal::Decide(Box::new(decide)))
    }

    /// Opens a gate under a rule of two persons, which one person lifts.
    pub(crate) fn lifted(&mut self, person: Pseudonym) -> (InstanceId, DecisionId) {
        self.lifted_with(person, |_| None)
    }

    /// The same, with a signature.
    pub(crate) fn lifted_with(
        &mut self,
        person: Pseudonym,
        sign: impl FnOnce(&LiftStatement) -> Option<Assertion>,
    ) -> (InstanceId, DecisionId) {
        let instance = self.running();
        self.gated(instance);
        let open = self.instances[&instance].gate().unwrap().clone();
        let item = &open.items[0];
        let assertion = sign(&LiftStatement {
            origin: self.origin.clone(),
            gate: open.gate,
            item: (item.item, item.digest),
            rule: item.rules[0].rule.clone(),
            shown: digest(7),
        });
        let lifting = Lifting {
            item: item.item,
            digest: item.digest,
            rule: item.rules[0].rule.clone(),
            person: Some(person),
            role: Some(name("on-call")),
            teams: Vec::new(),
            groups: Vec::new(),
            current: Vec::new(),
            lapsed: Vec::new(),
        };
        let mut asked = self.allow();
        asked.payloads.push(self.payload(PayloadRole::Justification, "production is down"));
        let grant = Grant {
            action: item.action,
            question: item.question,
            tool: item.tool.clone().unwrap(),
            tool_version: digest(2),
            mutable_target: false,
            permit: self.permit_terms(None),
            cleared: None,
        };
        let lift = DecisionId::from_bytes(bytes(self.fresh()));
        let proposal = LiftRule {
            lift,
            gate: open.gate,
            lifting,
            asked,
            named: true,
            justification: "production is down".to_owned(),
            shown: digest(7),
            view: digest(7),
            assurance: Assurance::Mfa,
            assertion,
            review_by: Timestamp(self.at.0 + 3_600_000),
            stale: false,
            reasked: vec![Reasked { item: item.item, asked: self.allow() }],
            asked_again: Vec::new(),
            grants: vec![grant],
            reject: SystemReject { decision: DecisionId::from_bytes(bytes(self.fresh())) },
        };
        let reply = self.propose(instance, person, Proposal::Lift(Box::new(proposal)));
        assert!(matches!(reply, Reply::Resolved { .. }), "{reply:?}");
        (instance, lift)
    }

    pub(crate) fn report(&mut self, instance: InstanceId, permit: PermitId, outcome: Outcome) {
        let mut asked = Asked::nothing();
        asked.payloads.push(self.payload(PayloadRole::Output, "done"));
        let report = OutcomeReport {
            permit,
            outcome,
            output: Some(digest(11)),
            workspace: Some(digest(12)),
            sandbox_level: Some(2),
            asked,
        };
        self.propose(instance, AGENT, Proposal::Outcome(Box::new(report)));
    }

    pub(crate) fn sweep(&mut self, instance: InstanceId, permit: PermitId) {
        self.propose(instance, Pseudonym::SYSTEM, Proposal::Sweep(SweepStart { permit }));
    }

    pub(crate) fn complete(&mut self, instance: InstanceId) {
        let asked = self.allow();
        self.complete_as(instance, asked);
    }

    pub(crate) fn complete_as(&mut self, instance: InstanceId, asked: Asked) {
        let complete = Complete {
            action: Some(ActionId::from_bytes(bytes(self.fresh()))),
            asked,
            digest: Some(digest(5)),
            gate: None,
            item: None,
        };
        self.propose(instance, AGENT, Proposal::Complete(Box::new(complete)));
    }

    /// The acting agent stops, whatever policy says.
    pub(crate) fn stop(&mut self, instance: InstanceId) {
        let terminate = Terminate {
            action: Some(ActionId::from_bytes(bytes(self.fresh()))),
            asked: self.asked(Verdict::deny()),
            stop_role: None,
            reject: SystemReject { decision: DecisionId::from_bytes(bytes(self.fresh())) },
            digest: Some(digest(5)),
            gate: None,
            item: None,
        };
        self.propose(instance, AGENT, Proposal::Terminate(Box::new(terminate)));
    }

    /// The signed checkpoint at a size.
    pub(crate) fn checkpoint_at(&self, size: usize) -> String {
        let tree: Tree = self.leaves[..size].iter().map(|leaf| leaf_hash(leaf)).collect();
        Checkpoint { origin: self.origin.clone(), size: size as u64, root: tree.root().unwrap() }.sign(&self.log_key)
    }

    pub(crate) fn checkpoint(&self) -> String {
        self.checkpoint_at(self.leaves.len())
    }

    /// The pack as it is exported, with nothing disclosed.
    pub(crate) fn pack(&self) -> Vec<u8> {
        self.pack_with(&BTreeMap::new(), &BTreeMap::new())
    }

    /// The pack with every payload.
    pub(crate) fn open_pack(&self) -> Vec<u8> {
        self.pack_with(&self.payloads, &self.blobs)
    }

    fn pack_with(&self, payloads: &BTreeMap<String, Vec<u8>>, blobs: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
        let checkpoint = self.checkpoint();
        let contents = Contents {
            origin: &self.origin,
            checkpoint: &checkpoint,
            leaves: self.leaves.iter().map(Vec::as_slice).collect(),
            payloads: payloads.iter().map(|(digest, bytes)| (digest.clone(), bytes.as_slice())).collect(),
            blobs: blobs.iter().map(|(digest, bytes)| (digest.clone(), bytes.as_slice())).collect(),
        };
        write(&contents, |text| note::sign(text, &self.origin, &self.log_key)).unwrap()
    }

    /// The parts of the exported pack, `EVIDENCE` left out.
    pub(crate) fn parts(&self) -> Parts {
        let mut parts = unpack(&self.open_pack());
        parts.remove("EVIDENCE").unwrap();
        parts
    }

    /// Packs parts with a note that fits them.
    pub(crate) fn repack(&self, parts: Parts) -> Vec<u8> {
        let text = evidence_text(&self.origin, &parts);
        self.repack_with(parts, note::sign(&text, &self.origin, &self.log_key))
    }

    /// Packs parts with this note.
    pub(crate) fn repack_with(&self, mut parts: Parts, evidence: String) -> Vec<u8> {
        parts.insert("EVIDENCE".to_owned(), evidence.into_bytes());
        zip(&parts.into_iter().collect::<Vec<_>>())
    }

    pub(crate) fn verify(&self) -> Report {
        verify(&self.vkey(), &self.pack(), None)
    }

    /// Signs `h` as an entry: what [`Header::sign`] does, for headers that it cannot make.
    pub(crate) fn sign_raw(&self, h: &[u8]) -> Vec<u8> {
        let signature = self.by.key.sign(&[b"countersign/entry/v1\0", h].concat()).to_bytes();
        [&[0x82], h, &[0x58, 64], &signature].concat()
    }
}

pub(crate) type Parts = BTreeMap<String, Vec<u8>>;

pub(crate) fn rule(text: &str, quorum: u8) -> RuleForm {
    RuleForm {
        rule: name(text),
        quorum,
        distinct_teams: false,
        roles: Vec::new(),
        groups: Vec::new(),
        override_counts: false,
    }
}

/// What `EVIDENCE` says of parts, computed with the ledger's own tree.
pub(crate) fn evidence_text(origin: &str, parts: &Parts) -> String {
    let mut tree = Tree::new();
    for (name, data) in parts {
        tree.push_leaf(&[name.as_bytes(), &[0], data].concat());
    }
    let root = STANDARD.encode(tree.root().unwrap().0);
    format!("countersign evidence v1\n{origin}\n{}\n{root}\n", parts.len())
}

/// A stored-only ZIP of these parts in this order, written a second time so that the first is not its own judge.
pub(crate) fn zip(parts: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for (name, data) in parts {
        let size = u32::try_from(data.len()).unwrap().to_le_bytes();
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        let crc = crc32fast::hash(data).to_le_bytes();
        let common = [&[10, 0, 0, 0, 0, 0, 0, 0, 0x21, 0], crc.as_slice(), &size, &size, &length, &[0, 0]].concat();
        let offset = u32::try_from(out.len()).unwrap().to_le_bytes();
        central.extend([b"PK\x01\x02\x0a\0", common.as_slice(), &[0; 10], &offset, name.as_bytes()].concat());
        out.extend([b"PK\x03\x04", common.as_slice(), name.as_bytes(), data].concat());
    }
    let count = u16::try_from(parts.len()).unwrap().to_le_bytes();
    let length = u32::try_from(central.len()).unwrap().to_le_bytes();
    let offset = u32::try_from(out.len()).unwrap().to_le_bytes();
    [out.as_slice(), &central, b"PK\x05\x06\0\0\0\0", &count, &count, &length, &offset, &[0, 0]].concat()
}

/// The parts of a stored-only ZIP.
pub(crate) fn unpack(file: &[u8]) -> Parts {
    let mut parts = Parts::new();
    let mut rest = file;
    while let Some(after) = rest.strip_prefix(b"PK\x03\x04") {
        let size = u32::from_le_bytes(after[14..18].try_into().unwrap()) as usize;
        let length = usize::from(u16::from_le_bytes(after[22..24].try_into().unwrap()));
        let name = String::from_utf8(after[26..26 + length].to_vec()).unwrap();
        parts.insert(name, after[26 + length..26 + length + size].to_vec());
        rest = &after[26 + length + size..];
    }
    parts
}

/// SHA-256 in hex, as blobs are named.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Digest(Sha256::digest(bytes).into()).to_string()
}

/// The setting of an authority mode of that name.
pub(crate) fn setting_of(mode: &str) -> Settings {
    let new = SettingValue::Choice(Name::new(mode).unwrap());
    Settings { setting: Name::new(AuthorityMode::SETTING).unwrap(), old: None, new }
}
