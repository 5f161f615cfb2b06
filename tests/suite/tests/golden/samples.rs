//! One body of every kind with every field set, and the leaner forms that a field allows. A new kind does not compile until
//! it has its sample.

use countersign_gateway_model::{
    ActionId, Assurance, DecisionId, Digest, GateId, GatewayId, GrantId, InstanceId, ItemId, LogId, Name, OrgId,
    Outcome as OutcomeKind, PermitId, PrincipalKind, Pseudonym, RunId, State, Timestamp,
};
use countersign_ledger_entry::body::*;
use countersign_ledger_entry::{Bytes32, Bytes64};

/// Bytes that differ from field to field: a swap of two fields is seen.
pub(crate) fn id(n: u8) -> [u8; 16] {
    std::array::from_fn(|i| n.wrapping_mul(16).wrapping_add(u8::try_from(i).unwrap()))
}

pub(crate) fn digest(n: u8) -> Digest {
    Digest(std::array::from_fn(|i| n.wrapping_mul(7).wrapping_add(u8::try_from(i).unwrap())))
}

pub(crate) fn who(n: u8) -> Pseudonym {
    Pseudonym::from_bytes(id(n))
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn rule(text: &str) -> RuleForm {
    RuleForm {
        rule: name(text),
        quorum: 2,
        distinct_teams: true,
        roles: vec![name("approver"), name("security")],
        groups: vec![name("eu")],
        override_counts: true,
    }
}

fn reservation(n: u64) -> Reservation {
    Reservation { counter: name("spend/eur"), version: n, amount: 1_000 * n }
}

fn gate_item() -> GateItem {
    GateItem {
        item: ItemId::from_bytes(id(20)),
        action: ActionId::from_bytes(id(21)),
        question: QuestionKind::CallTool,
        tool: Some(name("repo/merge")),
        digest: digest(22),
        rules: vec![rule("four-eyes"), rule("security-review")],
        involved: vec![who(2), who(3)],
    }
}

fn policy_step() -> PolicyStep {
    PolicyStep {
        step: Step::Activated,
        digest: digest(30),
        predecessor: Some(digest(31)),
        version: 7,
        root_version: 1,
        signed_by: SignedBy::Threshold,
        break_glass: true,
    }
}

/// The body of a kind with every field set.
pub(crate) fn full(kind: Kind) -> Body {
    match kind {
        Kind::Created => Body::Created(Created {
            workflow: name("fix-tests"),
            workflow_version: digest(1),
            initiator: who(2),
            accountable: who(3),
            owner: Some(who(4)),
            acting: who(5),
            acting_kind: PrincipalKind::Agent,
            parent: Some(InstanceId::from_bytes(id(6))),
            on_deny: OnDeny::Terminate,
            deadline: Some(Timestamp(1_800_000_600_000)),
            enforced: true,
        }),
        Kind::Edge => Body::Edge(Edge {
            from: State::Running,
            to: State::Terminated,
            cause: Cause::Terminate,
            action: Some(ActionId::from_bytes(id(7))),
            objection: true,
        }),
        Kind::Permit => Body::Permit(Permit {
            permit: PermitId::from_bytes(id(8)),
            action: ActionId::from_bytes(id(9)),
            item: Some(GateItemRef { gate: GateId::from_bytes(id(10)), item: ItemId::from_bytes(id(11)) }),
            question: QuestionKind::Dispatch,
            tool: name("runner/process"),
            tool_version: digest(12),
            digest: digest(13),
            expires: Timestamp(1_800_000_060_000),
            mutable_target: true,
            reservations: vec![reservation(1), reservation(2)],
            enforced: true,
        }),
        Kind::Start => Body::Start(Start {
            permit: PermitId::from_bytes(id(8)),
            not_after: Timestamp(1_800_000_120_000),
            by: StartedBy::Run(RunStart {
                run: RunId::from_bytes(id(14)),
                attempt: 2,
                backend: name("process"),
                external_name: name("cs-0192-2"),
                job: digest(15),
                fence: 300,
            }),
        }),
        Kind::Outcome => Body::Outcome(Outcome {
            permit: PermitId::from_bytes(id(8)),
            outcome: OutcomeKind::TimedOut,
            output: Some(digest(16)),
            workspace: Some(digest(17)),
            supersedes: true,
            sandbox_level: Some(3),
        }),
        Kind::Conflict => Body::Conflict(Conflict {
            permit: PermitId::from_bytes(id(8)),
            outcome: OutcomeKind::Succeeded,
            output: Some(digest(18)),
        }),
        Kind::Refusal => Body::Refusal(Refusal {
            question: QuestionKind::Operation,
            action: Some(ActionId::from_bytes(id(9))),
            tool: Some(name("countersign:export_pack")),
            digest: Some(digest(19)),
            reason: RefusalReason::UnknownTool,
        }),
        Kind::Gate => Body::Gate(Gate {
            gate: GateId::from_bytes(id(10)),
            subject: GateSubject::Actions,
            items: vec![gate_item()],
            cleared: vec![ClearedItem { action: ActionId::from_bytes(id(23)), digest: digest(24) }],
            expires: Some(Timestamp(1_800_003_600_000)),
            on_timeout: OnTimeout::Reject,
            caller: Some(PermitId::from_bytes(id(25))),
        }),
        Kind::GateEvent => Body::GateEvent(GateEvent {
            gate: GateId::from_bytes(id(10)),
            event: GateEventKind::Escalation,
            rule: Some(name("four-eyes")),
            to: Some(who(26)),
            step: Some(260),
        }),
        Kind::Decision => Body::Decision(decision()),
        Kind::TaskGrant => Body::TaskGrant(TaskGrant {
            grant: GrantId::from_bytes(id(32)),
            rule: name("four-eyes"),
            tools: vec![name("repo/write"), name("repo/merge")],
            scope: digest(33),
            count: 12,
            budget: Some(reservation(3)),
            until: Timestamp(1_800_086_400_000),
            approvers: vec![who(11), who(12)],
            revoked: true,
        }),
        Kind::TaskGrantUse => Body::TaskGrantUse(TaskGrantUse {
            grant: GrantId::from_bytes(id(32)),
            action: ActionId::from_bytes(id(34)),
            used: 70_000,
        }),
        Kind::Sweep => Body::Sweep(Sweep { permit: PermitId::from_bytes(id(8)) }),
        Kind::Lift => Body::Lift(lift()),
        Kind::Evaluation => Body::Evaluation(Evaluation {
            subject: who(35),
            operation: name("authzen:read"),
            question: Some(digest(36)),
            calls: 40,
            over_quota: true,
        }),
        Kind::Settings => Body::Settings(Settings {
            setting: name("authority.mode"),
            old: Some(SettingValue::Choice(name("solo"))),
            new: SettingValue::Choice(name("four_eyes")),
        }),
        Kind::Principal => Body::Principal(Principal {
            change: PrincipalChange::CredentialIssued,
            principal: who(37),
            kind: PrincipalKind::Service,
            owner: Some(who(38)),
            roles: vec![name("operator")],
            teams: vec![name("platform"), name("payments")],
            credential: Some(digest(39)),
        }),
        Kind::Workflow => Body::Workflow(Workflow { workflow: name("fix-tests"), version: digest(1) }),
        Kind::Policy => Body::Policy(policy_step()),
        Kind::Catalogue => Body::Catalogue(policy_step()),
        Kind::Counter => Body::Counter(Counter { counter: name("spend/eur"), version: 9, value: u64::MAX }),
        Kind::Freeze => Body::Freeze(Freeze { lift: true, team: Some(name("payments")) }),
        Kind::Erasure => Body::Erasure(Erasure {
            subject: Some(who(40)),
            payloads: vec![digest(41), digest(42)],
            authority: digest(43),
        }),
        Kind::Prune => Body::Prune(Prune { minimum: 65_536, copies: vec![name("objects:eu-1"), name("clickhouse")] }),
        Kind::LegalHold => Body::LegalHold(LegalHold { instance: InstanceId::from_bytes(id(44)), held: true }),
        Kind::Scrub => Body::Scrub(Scrub { target: name("objects:eu-1"), from: 256, to: 70_000, bad: 3 }),
        Kind::SinkGap => Body::SinkGap(SinkGap { sink: name("ocsf"), from: 10, to: 12 }),
        Kind::Recovery => Body::Recovery(Recovery { bundle: digest(45), reviewed: true }),
        Kind::Review => Body::Review(Review {
            of: Reviewed::Lift(LiftRef {
                instance: InstanceId::from_bytes(id(44)),
                lift: DecisionId::from_bytes(id(74)),
            }),
            person: who(75),
            finding: Finding::NotUpheld,
            assurance: Assurance::Mfa,
        }),
        Kind::PersonKey => Body::PersonKey(PersonKey {
            principal: who(76),
            alg: -8,
            key: Bytes32(digest(77).0),
            revoked: false,
            possession: Some(signature(78)),
        }),
        Kind::Genesis => Body::Genesis(Genesis {
            org: OrgId::from_bytes(id(46)),
            log: LogId::from_bytes(id(47)),
            root_keys: vec![Bytes32(digest(48).0), Bytes32(digest(49).0)],
            root_threshold: 2,
            root_document: digest(50),
            log_key: Bytes32(digest(51).0),
            signatures: SignatureMode::CheckpointOnly,
            durability: Durability::All,
            demo: true,
        }),
        Kind::Boot => Body::Boot(Boot {
            gateway: GatewayId::from_bytes(id(52)),
            boot: 41,
            key: Bytes32(digest(53).0),
            certificate: signature(54),
            certified_by: CertifiedBy::Log,
            size_seen: 12_345,
            sandbox_level: Some(2),
        }),
        Kind::Key => Body::Key(Key {
            change: KeyChange::Revoked,
            role: KeyRole::Gateway,
            key: Bytes32(digest(55).0),
            certificate: signature(56),
        }),
    }
}

fn signature(n: u8) -> Bytes64 {
    Bytes64(std::array::from_fn(|i| n.wrapping_add(u8::try_from(i).unwrap())))
}

fn decision() -> Decision {
    Decision {
        decision: DecisionId::from_bytes(id(27)),
        gate: GateId::from_bytes(id(10)),
        kind: DecisionKind::Override,
        items: vec![DecidedItem {
            item: ItemId::from_bytes(id(20)),
            digest: digest(22),
            rules: vec![name("four-eyes"), name("security-review")],
            instead: Some(digest(28)),
        }],
        person: who(11),
        role: Some(name("approver")),
        teams: vec![name("platform")],
        groups: vec![name("eu"), name("on-call")],
        shown: Some(digest(29)),
        effect: Effect::Resolving,
        assurance: Assurance::Mfa,
        delta: Some(digest(57)),
        assertion: Some(Assertion { alg: -8, key_id: digest(58), signature: signature(59).0.to_vec() }),
        asked: vec![who(12), who(13)],
        on_behalf: Some(who(14)),
        rules: vec![ItemRules { item: ItemId::from_bytes(id(20)), rules: vec![rule("four-eyes")] }],
        lapsed: vec![who(15)],
    }
}

fn lift() -> Lift {
    Lift {
        lift: DecisionId::from_bytes(id(74)),
        gate: GateId::from_bytes(id(10)),
        item: ItemId::from_bytes(id(20)),
        digest: digest(22),
        rule: name("four-eyes"),
        person: who(11),
        role: Some(name("on-call")),
        teams: vec![name("platform")],
        groups: vec![name("eu")],
        shown: digest(29),
        effect: Effect::Resolving,
        assurance: Assurance::Mfa,
        review_by: Timestamp(1_800_086_400_000),
        assertion: Some(Assertion { alg: -8, key_id: digest(58), signature: signature(59).0.to_vec() }),
        asked: vec![who(12), who(13)],
        rules: vec![ItemRules { item: ItemId::from_bytes(id(20)), rules: vec![rule("four-eyes")] }],
        lapsed: vec![who(15)],
    }
}

/// Bodies that leave out what may be left out, and the other arms of what has arms.
pub(crate) fn lean() -> Vec<(&'static str, Body)> {
    let Body::Created(created) = full(Kind::Created) else { unreachable!() };
    let Body::Edge(edge) = full(Kind::Edge) else { unreachable!() };
    let Body::Start(start) = full(Kind::Start) else { unreachable!() };
    let Body::Settings(settings) = full(Kind::Settings) else { unreachable!() };
    let Body::Gate(gate) = full(Kind::Gate) else { unreachable!() };
    let by_hand = |old, new| Settings { old, new, ..settings.clone() };
    vec![
        ("created", Created { owner: None, parent: None, deadline: None, enforced: false, ..created }.into()),
        ("edge", Edge { action: None, objection: false, ..edge }.into()),
        ("start", Start { by: StartedBy::Agent, ..start }.into()),
        ("settings-flag", by_hand(None, SettingValue::Flag(true)).into()),
        ("settings-number", by_hand(Some(SettingValue::Number(23)), SettingValue::Number(24)).into()),
        (
            "gate",
            Gate { cleared: Vec::new(), expires: None, on_timeout: OnTimeout::Never, caller: None, ..gate }.into(),
        ),
        (
            "decision",
            Decision {
                kind: DecisionKind::Reject,
                items: Vec::new(),
                role: None,
                teams: Vec::new(),
                groups: Vec::new(),
                shown: None,
                delta: None,
                assertion: None,
                asked: Vec::new(),
                on_behalf: None,
                rules: Vec::new(),
                lapsed: Vec::new(),
                ..decision()
            }
            .into(),
        ),
        (
            "person_key",
            PersonKey { principal: who(76), alg: -8, key: Bytes32(digest(77).0), revoked: true, possession: None }
                .into(),
        ),
        (
            "lift",
            Lift {
                role: None,
                teams: Vec::new(),
                groups: Vec::new(),
                assertion: None,
                asked: Vec::new(),
                rules: Vec::new(),
                lapsed: Vec::new(),
                ..lift()
            }
            .into(),
        ),
    ]
}
