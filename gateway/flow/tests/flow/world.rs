//! An instance driven as the engine drives it: decide, seal, apply, remember; and short ways to say proposals.

use std::collections::BTreeMap;
use std::rc::Rc;

use countersign_gateway_flow::*;
use countersign_gateway_model::{
    ActionId, Assurance, Decision as Answer, DecisionId, Digest, Duration, GateId, GatewayId, GrantId, InstanceId,
    ItemId, Name, Outcome, PermitId, PrincipalKind, Pseudonym, RunId, State, Timestamp, Verdict,
};
use countersign_ledger_entry::append::{Frame, seal};
use countersign_ledger_entry::body::{
    AuthorityMode, Body, Created, DecisionKind, OnDeny, OnTimeout, QuestionKind, RuleForm,
};
use countersign_ledger_entry::{Draft, Entry, PayloadRef, PayloadRole, SignedEntry, Stream, StreamKind};

pub(crate) const AGENT: Pseudonym = who(1);
pub(crate) const OWNER: Pseudonym = who(2);
pub(crate) const INITIATOR: Pseudonym = who(3);
pub(crate) const ALICE: Pseudonym = who(11);
pub(crate) const BOB: Pseudonym = who(12);
pub(crate) const CAROL: Pseudonym = who(13);
pub(crate) const STRANGER: Pseudonym = who(21);
pub(crate) const DELEGATOR: Pseudonym = who(31);

pub(crate) const fn who(n: u8) -> Pseudonym {
    Pseudonym::from_bytes([n; 16])
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn digest(n: u64) -> Digest {
    let mut bytes = [0xd1; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Digest(bytes)
}

fn bytes(n: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    bytes
}

pub(crate) fn action(n: u64) -> ActionId {
    ActionId::from_bytes(bytes(n))
}
pub(crate) fn permit(n: u64) -> PermitId {
    PermitId::from_bytes(bytes(n))
}
pub(crate) fn gate(n: u64) -> GateId {
    GateId::from_bytes(bytes(n))
}
pub(crate) fn item(n: u64) -> ItemId {
    ItemId::from_bytes(bytes(n))
}
pub(crate) fn grant(n: u64) -> GrantId {
    GrantId::from_bytes(bytes(n))
}
pub(crate) fn decision(n: u64) -> DecisionId {
    DecisionId::from_bytes(bytes(n))
}

pub(crate) fn payload(role: PayloadRole) -> PayloadRef {
    PayloadRef { role, digest: digest(77), length: 64 }
}

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

pub(crate) fn asked(verdict: Verdict) -> Asked {
    let policy = match verdict.decision {
        Answer::Allow => "permit-it",
        Answer::NeedsApproval => "gate-it",
        Answer::Deny => "forbid-it",
    };
    let mut asked = Asked::answer(verdict, vec![vec![name(policy)]]);
    asked.payloads.push(payload(PayloadRole::Question));
    asked
}
pub(crate) fn allow() -> Asked {
    asked(Verdict::allow())
}
pub(crate) fn deny() -> Asked {
    asked(Verdict::deny())
}
pub(crate) fn error() -> Asked {
    asked(Verdict { decision: Answer::Deny, rules: Vec::new(), error: true })
}
pub(crate) fn needs(rules: &[&str]) -> Asked {
    asked(Verdict::needs_approval(rules.iter().map(|r| name(r)).collect()))
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
        deadline: Some(Timestamp(1_000_000)),
        enforced: true,
    }
}

/// Projections, by table and key.
pub(crate) type Rows = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

/// One instance and everything that was written for it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) instance: Option<Instance>,
    pub(crate) appends: Vec<Rc<Vec<SignedEntry>>>,
    pub(crate) organization: Vec<Draft>,
    pub(crate) rows: Rows,
    pub(crate) at: Timestamp,
    pub(crate) frozen: bool,
    pub(crate) next: u64,
    /// Off where an exploration would copy them around for nothing.
    pub(crate) keeps_rows: bool,
}

impl World {
    pub(crate) fn empty() -> Self {
        Self {
            instance: None,
            appends: Vec::new(),
            organization: Vec::new(),
            rows: BTreeMap::new(),
            at: Timestamp(1000),
            frozen: false,
            next: 100,
            keeps_rows: true,
        }
    }

    /// CREATED.
    pub(crate) fn queued() -> Self {
        let mut world = Self::empty();
        world.create(false, Asked::nothing()).unwrap();
        world
    }

    /// RUNNING.
    pub(crate) fn running() -> Self {
        let mut world = Self::empty();
        world.create(true, allow()).unwrap();
        world
    }

    /// WAITING_FOR_HUMAN: gate 1 with items 1.. under one rule each.
    pub(crate) fn waiting(rules: &[&[RuleForm]]) -> Self {
        let mut world = Self::running();
        world.open_gate(rules, &[]).unwrap();
        world
    }

    pub(crate) fn id() -> InstanceId {
        InstanceId::from_bytes([0x1a; 16])
    }

    pub(crate) fn the(&self) -> &Instance {
        self.instance.as_ref().unwrap()
    }

    pub(crate) fn state(&self) -> State {
        self.the().state()
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn by(actor: Pseudonym) -> Actor {
        Actor { actor, on_behalf_of: Vec::new() }
    }

    pub(crate) fn propose(&mut self, by: Pseudonym, proposal: Proposal) -> Result<Reply, Illegal> {
        self.propose_as(Self::by(by), proposal)
    }

    pub(crate) fn propose_as(&mut self, by: Actor, proposal: Proposal) -> Result<Reply, Illegal> {
        let now = Now { at: self.at, frozen: self.frozen, by };
        let decided = decide(self.instance.as_ref(), proposal, &now)?;
        if decided.place == Place::Organization {
            self.organization.extend(decided.drafts);
            return Ok(decided.reply);
        }
        if decided.drafts.is_empty() {
            assert!(matches!(decided.reply, Reply::Nothing(_)), "only nothing leaves no entry");
            return Ok(decided.reply);
        }
        let entries = self.seal(decided.drafts);
        self.apply(entries).unwrap_or_else(|e| panic!("decide and evolve disagree: {e}"));
        Ok(decided.reply)
    }

    pub(crate) fn seal(&self, drafts: Vec<Draft>) -> Vec<SignedEntry> {
        seal(&self.frame(), drafts, None).unwrap()
    }

    pub(crate) fn frame(&self) -> Frame {
        Frame {
            origin: "example/0000".to_owned(),
            stream: Stream { kind: StreamKind::Instance, id: Self::id().into() },
            sequence: self.instance.as_ref().map_or(0, |i| i.sequence() + 1),
            previous: self.instance.as_ref().map(Instance::last),
            policy: None,
            authority: AuthorityMode::FourEyes,
            gateway: GatewayId::from_bytes([9; 16]),
            boot: 1,
            key: [1, 2, 3, 4],
            claimed: self.at,
        }
    }

    pub(crate) fn apply(&mut self, entries: Vec<SignedEntry>) -> Result<(), EvolveError> {
        let before = self.keeps_rows.then(|| self.instance.clone()).flatten();
        let rows = Instance::apply(&mut self.instance, &entries)?;
        if self.keeps_rows {
            // What was applied can be taken back, and applied again.
            let after = self.instance.clone();
            Instance::rollback(&mut self.instance);
            assert_eq!(self.instance, before, "rollback leads back");
            Instance::rollback(&mut self.instance);
            assert_eq!(self.instance, before, "and no further");
            assert_eq!(Instance::apply(&mut self.instance, &entries).unwrap(), rows);
            assert_eq!(self.instance, after);
        }
        let mut keys = std::collections::BTreeSet::new();
        for row in rows {
            assert!(keys.insert((row.table, row.key.clone())), "an append writes a key once");
            if !self.keeps_rows {
                continue;
            }
            match row.columns {
                Some(columns) => self.rows.insert((row.table, row.key), columns),
                None => self.rows.remove(&(row.table, row.key)),
            };
        }
        self.check(&entries);
        self.appends.push(Rc::new(entries));
        Ok(())
    }

    /// What holds after every append.
    fn check(&self, entries: &[SignedEntry]) {
        let instance = self.the();
        assert!(edges::may_rest(instance.state()), "no instance rests in {}", instance.state());
        assert!(instance.is_whole());
        assert_eq!(instance.gate().is_some(), instance.state() == State::WaitingForHuman);
        for entry in entries {
            if let Body::Edge(edge) = &entry.header.body {
                assert!(edges::is_edge(edge.from, edge.to));
            }
        }
    }

    /// The whole history, read from its leaf bytes.
    pub(crate) fn replay(&self) -> Result<Instance, EvolveError> {
        let mut instance = None;
        for signed in self.appends.iter().flat_map(|a| a.iter()) {
            let entry = Entry::parse(&signed.leaf).unwrap();
            instance = Some(Instance::evolve(instance, &entry.header, Digest(signed.hash.0))?);
        }
        Ok(instance.unwrap())
    }

    /// Bodies of the last append.
    pub(crate) fn last(&self) -> Vec<&Body> {
        self.appends.last().unwrap().iter().map(|e| &e.header.body).collect()
    }

    /// Kinds of the last append, edges by their states.
    pub(crate) fn shape(&self) -> String {
        let one = |e: &SignedEntry| match &e.header.body {
            Body::Edge(e) => format!("{}>{}", e.from, e.to),
            Body::Decision(d) if d.person == Pseudonym::SYSTEM => "system_reject".to_owned(),
            body => body.kind().as_str().to_owned(),
        };
        self.appends.last().unwrap().iter().map(one).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn create(&mut self, start: bool, asked: Asked) -> Result<Reply, Illegal> {
        self.create_with(created(), start, asked)
    }

    pub(crate) fn create_with(&mut self, created: Created, start: bool, asked: Asked) -> Result<Reply, Illegal> {
        let rules = forms(&asked);
        let create = Create {
            instance: Self::id(),
            created,
            start,
            action: Some(action(1)),
            asked,
            digest: Some(digest(5)),
            gate: Some(self.gate_terms(1)),
            item: Some(ItemTerms { item: item(1), rules, involved: vec![OWNER] }),
        };
        self.propose(INITIATOR, Proposal::Create(Box::new(create)))
    }

    pub(crate) fn gate_terms(&self, n: u64) -> GateTerms {
        GateTerms {
            gate: gate(n),
            expires: Some(Timestamp(self.at.0 + 10_000)),
            on_timeout: OnTimeout::Reject,
            caller: None,
            payloads: vec![payload(PayloadRole::Shown)],
        }
    }

    pub(crate) fn start(&mut self, asked: Asked) -> Result<Reply, Illegal> {
        let rules = forms(&asked);
        let start = StartInstance {
            action: Some(action(1)),
            asked,
            digest: Some(digest(5)),
            gate: Some(self.gate_terms(1)),
            item: Some(ItemTerms { item: item(1), rules, involved: vec![OWNER] }),
        };
        self.propose(INITIATOR, Proposal::Start(Box::new(start)))
    }

    pub(crate) fn permit_terms(&mut self, begin: Option<StartTerms>) -> PermitTerms {
        PermitTerms {
            permit: permit(self.fresh()),
            expires: Timestamp(self.at.0 + 5000),
            reservations: Vec::new(),
            begin,
        }
    }

    pub(crate) fn agent_start(&self) -> StartTerms {
        StartTerms { not_after: Timestamp(self.at.0 + 60_000), run: None }
    }

    pub(crate) fn run_start(&self, n: u8) -> StartTerms {
        let run = RunTerms {
            run: RunId::from_bytes([n; 16]),
            attempt: 1,
            backend: name("process"),
            external_name: name("run-1"),
            job: digest(9),
        };
        StartTerms { not_after: Timestamp(self.at.0 + 60_000), run: Some(run) }
    }

    /// One action with everything that any verdict could call for.
    pub(crate) fn action(&mut self, n: u64, asked: Asked, begin: Option<StartTerms>) -> Action {
        let dispatch = begin.as_ref().is_some_and(|b| b.run.is_some());
        Action {
            action: action(n),
            question: if dispatch { QuestionKind::Dispatch } else { QuestionKind::CallTool },
            tool: name(if dispatch { "runner/process" } else { "repo/write" }),
            tool_version: Some(digest(2)),
            digest: digest(1000 + n),
            mutable_target: false,
            permit: Some(self.permit_terms(begin)),
            item: Some(ItemTerms { item: item(n), rules: forms(&asked), involved: vec![OWNER] }),
            grants: Vec::new(),
            asked,
        }
    }

    pub(crate) fn act(&mut self, items: Vec<Action>) -> Result<Reply, Illegal> {
        let gate = Some(self.gate_terms(1));
        self.propose(AGENT, Proposal::Actions(Actions { items, gate }))
    }

    /// A proposal that the gateway carry out an operation of its own.
    pub(crate) fn operation(&mut self, n: u64, asked: Asked) -> Action {
        let action = self.action(n, asked, None);
        Action { question: QuestionKind::Operation, tool: name("policy.activate"), ..action }
    }

    /// An allowed action with its start; its permit.
    pub(crate) fn started(&mut self, n: u64) -> PermitId {
        let begin = self.agent_start();
        let action = self.action(n, allow(), Some(begin));
        let permit = action.permit.as_ref().unwrap().permit;
        self.act(vec![action]).unwrap();
        permit
    }

    /// A batch at gate 1: item n under `rules[n-1]`, then allowed actions.
    pub(crate) fn open_gate(&mut self, rules: &[&[RuleForm]], cleared: &[u64]) -> Result<Reply, Illegal> {
        let mut items = Vec::new();
        for (n, rules) in (1..).zip(rules) {
            let verdict = Verdict::needs_approval(rules.iter().map(|r| r.rule.clone()).collect());
            let mut action = self.action(n, asked(verdict), None);
            action.item.as_mut().unwrap().rules = rules.to_vec();
            items.push(action);
        }
        for n in cleared {
            items.push(self.action(*n, allow(), None));
        }
        self.act(items)
    }

    /// A ballot for items by number, as they stand, counting for all their rules.
    pub(crate) fn ballot(&self, kind: DecisionKind, person: Pseudonym, items: &[(u64, Change)]) -> Ballot {
        let open = self.the().gate().unwrap();
        let items = items.iter().map(|(n, change)| {
            let at = open.item(item(*n)).unwrap();
            let rules = match change {
                Change::Keep => at.rules.iter().map(|r| r.rule.clone()).collect(),
                Change::Replace(_) | Change::Drop => Vec::new(),
            };
            BallotItem { item: item(*n), digest: at.digest, rules, change: *change }
        });
        Ballot {
            kind,
            person: Some(person),
            role: Some(name("approver")),
            teams: Vec::new(),
            groups: Vec::new(),
            items: items.collect(),
            current: Vec::new(),
            lapsed: Vec::new(),
        }
    }

    /// A decision on gate 1 that policy agrees with as far as the votes go, asked again the way the engine does.
    pub(crate) fn decide(&mut self, ballot: Ballot) -> Decide {
        let actor = ballot.person();
        let open = self.the().gate().unwrap().clone();
        let reasked = gate::tally(&open, &ballot, actor).map_or_else(|_| Vec::new(), |tally| Self::reasked(&tally));
        let grants = self.grants(&open);
        let delta = (ballot.kind == DecisionKind::Override).then(|| digest(8));
        let mut eligible = allow();
        eligible.payloads.push(payload(PayloadRole::Justification));
        if ballot.kind == DecisionKind::Override {
            eligible.payloads.extend([payload(PayloadRole::Question), payload(PayloadRole::Shown)]);
        }
        Decide {
            decision: decision(self.fresh()),
            gate: open.gate,
            asked: eligible,
            justification: Some("because it is right".to_owned()),
            shown: Some(digest(6)),
            view: digest(6),
            delta,
            assurance: Assurance::Password,
            assertion: None,
            stale: false,
            reasked,
            asked_again: Vec::new(),
            grants,
            reject: SystemReject { decision: decision(self.fresh()) },
            ballot,
        }
    }

    /// What policy says to a gate's questions, as far as the rules are met.
    fn reasked(tally: &Tally) -> Vec<Reasked> {
        let answer = |item: &TallyItem| match item.remaining.as_slice() {
            [] => allow(),
            remaining => asked(Verdict::needs_approval(remaining.to_vec())),
        };
        tally.items.iter().map(|item| Reasked { item: item.item, asked: answer(item) }).collect()
    }

    /// A permit for every action of the gate.
    fn grants(&mut self, open: &OpenGate) -> Vec<Grant> {
        let mut grants = Vec::new();
        let actions = open.items.iter().map(|i| (i.action, i.question, false));
        let cleared = open.cleared.iter().map(|c| (c.action, QuestionKind::CallTool, true));
        for (action, question, cleared) in actions.chain(cleared) {
            let dispatch = question == QuestionKind::Dispatch;
            let begin = dispatch.then(|| self.run_start(7));
            grants.push(Grant {
                action,
                question,
                tool: name(match question {
                    QuestionKind::Dispatch => "runner/process",
                    QuestionKind::Operation => "policy.activate",
                    _ => "repo/write",
                }),
                tool_version: digest(2),
                mutable_target: false,
                permit: self.permit_terms(begin),
                cleared: cleared.then(allow),
            });
        }
        grants
    }

    /// A lift at gate 1 of a rule of item `n`, with which policy agrees.
    pub(crate) fn lifting(&mut self, person: Pseudonym, n: u64, rule: &str) -> LiftRule {
        let open = self.the().gate().unwrap().clone();
        let lifting = Lifting {
            item: item(n),
            digest: open.item(item(n)).map_or(digest(0), |item| item.digest),
            rule: name(rule),
            person: Some(person),
            role: Some(name("on-call")),
            teams: Vec::new(),
            groups: Vec::new(),
            current: Vec::new(),
            lapsed: Vec::new(),
        };
        let mut asked = allow();
        asked.payloads.push(payload(PayloadRole::Justification));
        LiftRule {
            lift: decision(self.fresh()),
            gate: open.gate,
            asked,
            named: true,
            justification: "production is down".to_owned(),
            shown: digest(6),
            view: digest(6),
            assurance: Assurance::Mfa,
            assertion: None,
            review_by: Timestamp(self.at.0 + 86_400_000),
            stale: false,
            reasked: gate::tally_lift(&open, &lifting).map_or_else(|_| Vec::new(), |tally| Self::reasked(&tally)),
            asked_again: Vec::new(),
            grants: self.grants(&open),
            reject: SystemReject { decision: decision(self.fresh()) },
            lifting,
        }
    }

    pub(crate) fn propose_lift(&mut self, lift: LiftRule) -> Result<Reply, Illegal> {
        self.propose(lift.lifting.person(), Proposal::Lift(Box::new(lift)))
    }

    pub(crate) fn lift(&mut self, person: Pseudonym, n: u64, rule: &str) -> Result<Reply, Illegal> {
        let lift = self.lifting(person, n, rule);
        self.propose_lift(lift)
    }

    pub(crate) fn vote(&mut self, decide: Decide) -> Result<Reply, Illegal> {
        let by = decide.ballot.person();
        self.propose(by, Proposal::Decide(Box::new(decide)))
    }

    pub(crate) fn approve(&mut self, person: Pseudonym, items: &[u64]) -> Result<Reply, Illegal> {
        let items: Vec<_> = items.iter().map(|n| (*n, Change::Keep)).collect();
        let ballot = self.ballot(DecisionKind::Approve, person, &items);
        let decide = self.decide(ballot);
        self.vote(decide)
    }

    pub(crate) fn reject(&mut self, person: Pseudonym) -> Result<Reply, Illegal> {
        let ballot = self.ballot(DecisionKind::Reject, person, &[]);
        let decide = self.decide(ballot);
        self.vote(decide)
    }

    pub(crate) fn drop_items(&mut self, person: Pseudonym, items: &[u64]) -> Result<Reply, Illegal> {
        let items: Vec<_> = items.iter().map(|n| (*n, Change::Drop)).collect();
        let ballot = self.ballot(DecisionKind::Override, person, &items);
        let decide = self.decide(ballot);
        self.vote(decide)
    }

    /// An OVERRIDE of one item whose new verdict has these rules.
    pub(crate) fn replace(&mut self, person: Pseudonym, n: u64, rules: &[RuleForm]) -> Result<Reply, Illegal> {
        let to = digest(5000 + self.fresh());
        let mut ballot = self.ballot(DecisionKind::Override, person, &[(n, Change::Replace(to))]);
        ballot.items[0].rules = rules.iter().map(|r| r.rule.clone()).collect();
        ballot.current.push(Current { item: item(n), rules: rules.to_vec() });
        let decide = self.decide(ballot);
        self.vote(decide)
    }

    pub(crate) fn terminate(&mut self, by: Pseudonym, asked: Asked) -> Result<Reply, Illegal> {
        self.terminate_with(by, asked, None)
    }

    pub(crate) fn terminate_with(&mut self, by: Pseudonym, asked: Asked, role: Option<&str>) -> Result<Reply, Illegal> {
        let rules = forms(&asked);
        let terminate = Terminate {
            action: Some(action(90)),
            asked,
            stop_role: role.map(name),
            reject: SystemReject { decision: decision(self.fresh()) },
            digest: Some(digest(90)),
            gate: Some(self.gate_terms(1)),
            item: Some(ItemTerms { item: item(1), rules, involved: vec![OWNER] }),
        };
        self.propose(by, Proposal::Terminate(Box::new(terminate)))
    }

    pub(crate) fn complete(&mut self, asked: Asked) -> Result<Reply, Illegal> {
        let rules = forms(&asked);
        let complete = Complete {
            action: Some(action(80)),
            asked,
            digest: Some(digest(80)),
            gate: Some(self.gate_terms(1)),
            item: Some(ItemTerms { item: item(1), rules, involved: vec![OWNER] }),
        };
        self.propose(AGENT, Proposal::Complete(Box::new(complete)))
    }

    pub(crate) fn expire(&mut self, asked: Asked) -> Result<Reply, Illegal> {
        let reject = SystemReject { decision: decision(self.fresh()) };
        self.propose(Pseudonym::SYSTEM, Proposal::Expire(Box::new(Expire { gate: gate(1), asked, reject })))
    }

    pub(crate) fn deadline(&mut self, asked: Asked) -> Result<Reply, Illegal> {
        let reject = SystemReject { decision: decision(self.fresh()) };
        self.propose(Pseudonym::SYSTEM, Proposal::Deadline(Box::new(Deadline { asked, reject })))
    }

    pub(crate) fn begin(&mut self, permit: PermitId) -> Result<Reply, Illegal> {
        self.begin_as(AGENT, permit)
    }

    pub(crate) fn begin_as(&mut self, by: Pseudonym, permit: PermitId) -> Result<Reply, Illegal> {
        let terms = self.agent_start();
        self.propose(by, Proposal::Begin(Begin { permit, terms, payloads: Vec::new() }))
    }

    pub(crate) fn report(&mut self, permit: PermitId, outcome: Outcome) -> Result<Reply, Illegal> {
        self.report_as(AGENT, permit, outcome)
    }

    pub(crate) fn report_as(&mut self, by: Pseudonym, permit: PermitId, outcome: Outcome) -> Result<Reply, Illegal> {
        let report = Report {
            permit,
            outcome,
            output: Some(digest(60)),
            workspace: None,
            sandbox_level: None,
            asked: Asked::nothing(),
        };
        self.propose(by, Proposal::Outcome(Box::new(report)))
    }

    /// Asks for grant `n`, good for `count` uses of `repo/write` within `lasts` milliseconds, at gate 1.
    pub(crate) fn ask_grant(&mut self, n: u64, form: RuleForm, count: u32, lasts: u64) -> Result<Reply, Illegal> {
        let ask = self.grant_terms(n, form, count, lasts);
        self.propose(AGENT, Proposal::AskGrant(Box::new(ask)))
    }

    pub(crate) fn grant_terms(&self, n: u64, form: RuleForm, count: u32, lasts: u64) -> AskGrant {
        AskGrant {
            grant: grant(n),
            action: action(700 + n),
            rule: form.rule.clone(),
            tools: vec![name("repo/write")],
            scope: digest(700 + n),
            count,
            budget: None,
            lasts: Duration(lasts),
            payloads: vec![payload(PayloadRole::Description)],
            gate: self.gate_terms(1),
            item: ItemTerms { item: item(1), rules: vec![form], involved: vec![OWNER] },
        }
    }

    /// An allowed action that rests on grants.
    pub(crate) fn resting(&mut self, n: u64, grants: &[u64]) -> Action {
        Action { grants: grants.iter().map(|n| grant(*n)).collect(), ..self.action(n, allow(), None) }
    }

    pub(crate) fn revoke(&mut self, by: Pseudonym, n: u64, asked: Asked) -> Result<Reply, Illegal> {
        self.propose(by, Proposal::RevokeGrant(Box::new(RevokeGrant { grant: grant(n), asked })))
    }

    pub(crate) fn sweep(&mut self, permit: PermitId) -> Result<Reply, Illegal> {
        self.propose(Pseudonym::SYSTEM, Proposal::Sweep(SweepStart { permit }))
    }
}

/// A form with quorum 1 for each rule of a verdict.
pub(crate) fn forms(asked: &Asked) -> Vec<RuleForm> {
    asked.verdict.iter().flat_map(|v| &v.rules).map(|r| rule(r.as_str(), 1)).collect()
}
