//! Gates: opened with an approval view, described to policy, shown again after an OVERRIDE; and whom they keep from deciding.
//!
//! What is asked and shown is kept as payloads of the entries. Absent: reading them back (`opened`), and weighing a decision.
//! Read next: `opened`, `decisions`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use countersign_gateway_flow::{GateTerms, Instance, ItemTerms, OpenGate, OpenItem, UNNAMED_PERSON};
use countersign_gateway_model::{Duration, GateId, InstanceId, Name, Principal, PrincipalKind, Pseudonym, Timestamp};
use countersign_ledger_entry::body::{
    AuthorityMode, Created, GateEventKind, GateSubject, OnTimeout, QuestionKind, RuleForm,
};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{PayloadRef, PayloadRole};
use countersign_policy_decide::catalogue::CompiledTool;
use countersign_policy_decide::rules::{ApprovalRule, Authority};
use countersign_policy_decide::{GateFacts, Record};

use crate::asking::Answered;
use crate::beside::Beside;
use crate::error::EngineError;
use crate::instead::rewritten;
use crate::mint::MintExt as _;
use crate::org::Org;
use crate::stream::{Held, instance_name};
use crate::view::{GateView, ItemView};
use crate::{Engine, Snapshot};

/// One proposed action that people must be asked about.
pub(crate) struct Pending {
    pub(crate) what: String,
    pub(crate) tool: Option<Arc<CompiledTool>>,
    pub(crate) rules: Vec<Name>,
    pub(crate) input: Value,
    pub(crate) revision: Option<String>,
    pub(crate) reasons: Vec<String>,
    /// Who changed the input, where it is no longer what was proposed.
    pub(crate) changed_by: Option<String>,
    /// The masks and transforms that made the input what it is.
    pub(crate) rewritten: Vec<String>,
    /// Of an operation that the gateway itself carries out: what it found, line by line.
    pub(crate) found: Vec<String>,
    /// What is asked for in advance, field by field.
    pub(crate) terms: Vec<(&'static str, String)>,
}

/// Who proposes what in which instance: what every item of a gate shares.
pub(crate) struct GateScene<'a> {
    org: &'a Org,
    snapshot: &'a Snapshot,
    who: &'a Principal,
    created: &'a Created,
    instance: InstanceId,
    now: Timestamp,
}

impl Engine {
    pub(crate) fn gate_scene<'a>(
        &self,
        org: &'a Org,
        snapshot: &'a Snapshot,
        who: &'a Principal,
        created: &'a Created,
        instance: InstanceId,
        now: Timestamp,
    ) -> GateScene<'a> {
        GateScene { org, snapshot, who, created, instance, now }
    }

    /// Terms of a gate and of its items, with the approval view as a payload.
    pub(crate) fn open_gate(
        &self,
        scene: &GateScene<'_>,
        subject: GateSubject,
        pending: &[Pending],
        beside: &mut Beside,
    ) -> Result<(GateTerms, Vec<ItemTerms>), EngineError> {
        let GateScene { org, snapshot, who, created, instance, now } = *scene;
        let gate = self.mint().gate();
        let mut timeouts = BTreeSet::new();
        let (mut items, mut views) = (Vec::new(), Vec::new());
        for (at, one) in pending.iter().enumerate() {
            let rules = self.rule_forms(snapshot, &one.rules)?;
            timeouts.extend(one.rules.iter().filter_map(|r| snapshot.rules().get(r.as_str())?.timeout_s));
            let chain: Vec<Pseudonym> = who.on_behalf_of.iter().map(|d| d.pseudonym).collect();
            let involved = involved(org, created, (who.pseudonym, &chain), &one.rules, snapshot);
            views.push(item_view(org, snapshot, (who.pseudonym, &chain), one, (at + 1, pending.len())));
            items.push(ItemTerms { item: self.mint().item(), rules, involved });
        }
        let expires = timeouts.first().map(|s| now + Duration::from_secs(*s));
        let view = gate_view(org, (gate, subject), (instance, created), expires, views);
        let reference = self.keep_view(&view, beside);
        let terms = GateTerms {
            gate,
            expires,
            on_timeout: if expires.is_some() { OnTimeout::Reject } else { OnTimeout::Never },
            caller: None,
            payloads: vec![reference],
        };
        Ok((terms, items))
    }

    fn keep_view(&self, view: &GateView, beside: &mut Beside) -> PayloadRef {
        beside.payload(PayloadRole::Shown, payload::seal(&self.mint().salt(), view.render().as_bytes()))
    }

    /// The approval view of an open gate whose items are not what they were when it was opened.
    pub(crate) fn show_again(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        held: &Held,
        gate: &OpenGate,
        pending: &[Pending],
        beside: &mut Beside,
    ) -> Result<PayloadRef, EngineError> {
        let fold = held.fold()?;
        let by = (gate.proposer, gate.chain.as_slice());
        let items = pending
            .iter()
            .enumerate()
            .map(|(at, one)| item_view(org, snapshot, by, one, (at + 1, pending.len())))
            .collect();
        let view = gate_view(org, (gate.gate, gate.subject), (fold.id(), fold.created()), gate.expires, items);
        Ok(self.keep_view(&view, beside))
    }

    /// Rules as they count, pinned at the gate.
    pub(crate) fn rule_forms(&self, snapshot: &Snapshot, rules: &[Name]) -> Result<Vec<RuleForm>, EngineError> {
        rules
            .iter()
            .map(|name| {
                let rule = snapshot
                    .rules()
                    .get(name.as_str())
                    .ok_or_else(|| EngineError::damaged(format!("the bundle has no rule `{name}`")))?;
                Ok(form_of(name, rule))
            })
            .collect()
    }

    /// Tells policy what there is to know of a gate and its items now.
    pub(crate) fn describe_gate(
        &self,
        org: &Org,
        held: &Held,
        id: GateId,
        opened_at: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<(), EngineError> {
        let fold = held.fold()?;
        let created = fold.created();
        self.describe_change(org, fold.id())?;
        let snapshot = self.snapshot(org.id);
        let open = fold.gate().filter(|g| g.gate == id);
        let name = |who: Pseudonym| org.known(who).map(|k| k.id);
        let facts = |rules: Vec<Name>, involved: &[Pseudonym], tool: Option<Name>| {
            let (mut roles, mut groups, mut teams) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            let asked = rules.iter().filter_map(|name| Some((name, snapshot.rules().get(name.as_str())?)));
            for authority in asked.flat_map(|(name, rule)| circles(open, name, rule)) {
                roles.extend(authority.roles.iter().cloned());
                groups.extend(authority.groups.iter().cloned());
                teams.extend(authority.teams.iter().cloned());
            }
            let accountable =
                name(created.accountable).ok_or_else(|| EngineError::damaged("the accountable person is not known"))?;
            Ok::<_, EngineError>(GateFacts {
                instance: instance_name(fold.id())?,
                gate: Name::new(&id.to_string()).map_err(EngineError::damaged)?,
                rules,
                roles: roles.into_iter().collect(),
                groups: groups.into_iter().collect(),
                teams: teams.into_iter().collect(),
                involved: involved
                    .iter()
                    .filter_map(|person| org.known(*person).and_then(|k| k.person_key))
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
                initiator: org.known(created.initiator).filter(|k| k.kind == PrincipalKind::Person).map(|k| k.id),
                accountable,
                agent: org.known(created.acting).filter(|k| k.kind == PrincipalKind::Agent).map(|k| k.id),
                tool,
                open: open.is_some(),
                opened_at,
                expires_at,
                escalation: open.map_or(0, |gate| u32::try_from(gate.escalations()).unwrap_or(u32::MAX)),
            })
        };
        let all: BTreeSet<Name> =
            open.iter().flat_map(|g| g.live_items()).flat_map(|i| i.rules.iter().map(|r| r.rule.clone())).collect();
        let gate_name = Name::new(&id.to_string()).map_err(EngineError::damaged)?;
        let record = Record::gate(org.id, gate_name, &facts(all.into_iter().collect(), &[], None)?, self.now());
        org.describe(&held.cell, record).map_err(EngineError::damaged)?;
        for item in open.iter().flat_map(|g| g.live_items()) {
            let rules = item.rules.iter().map(|r| r.rule.clone()).collect();
            // An operation of the gateway's own is no tool of the catalogue.
            let tool = item.tool.clone().filter(|_| item.question != QuestionKind::Operation);
            let facts = facts(rules, &item.involved, tool)?;
            let name = Name::new(&item.item.to_string()).map_err(EngineError::damaged)?;
            org.describe(&held.cell, Record::item(org.id, name, &facts, self.now())).map_err(EngineError::damaged)?;
        }
        Ok(())
    }

    /// As `describe_gate`, for the gate that is open.
    pub(crate) fn describe_gate_now(&self, org: &Org, held: &Held, id: GateId) -> Result<(), EngineError> {
        let times = held.fold()?.gate().filter(|g| g.gate == id).map(|g| (g.opened, g.expires));
        match times {
            Some((opened, expires)) => self.describe_gate(org, held, id, opened, expires),
            None => Ok(()),
        }
    }
}

impl Pending {
    /// An item of an open gate as it stands: `action` is what would be permitted by now.
    pub(crate) fn of_item(
        snapshot: &Snapshot,
        item: &OpenItem,
        action: &Value,
        rules: Vec<Name>,
        answered: &Answered,
    ) -> Self {
        let verb = if item.question == QuestionKind::Dispatch { "dispatch" } else { "call" };
        let text = |key: &str| action.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            what: item.tool.as_ref().map_or_else(|| "go on".to_owned(), |tool| format!("{verb} {tool}")),
            tool: item.tool.as_ref().and_then(|tool| snapshot.tool(tool.as_str())).cloned(),
            rules,
            input: action.get("input").cloned().unwrap_or_default(),
            revision: text("revision"),
            reasons: answered.reasons().map(str::to_owned).collect(),
            changed_by: text("overridden_by"),
            rewritten: answered.input().map(|input| rewritten(input)).unwrap_or_default(),
            found: Vec::new(),
            terms: Vec::new(),
        }
    }
}

pub(crate) fn form_of(name: &Name, rule: &ApprovalRule) -> RuleForm {
    // Where groups or teams also give authority, a role is one way among several, and eligibility is Cedar's to say. Who
    // is asked later only votes later: that, too, is said there.
    let circles = || std::iter::once(&rule.authority).chain(rule.escalation.iter().map(|further| &further.authority));
    let roles_alone = circles().all(|circle| circle.groups.is_empty() && circle.teams.is_empty());
    let roles: BTreeSet<&Name> = circles().flat_map(|circle| &circle.roles).collect();
    RuleForm {
        rule: name.clone(),
        quorum: u8::try_from(rule.quorum.persons).unwrap_or(u8::MAX),
        distinct_teams: rule.quorum.distinct_teams > 0,
        roles: if roles_alone { roles.into_iter().cloned().collect() } else { Vec::new() },
        groups: rule.quorum.groups.clone(),
        override_counts: rule.override_counts,
    }
}

/// Who may vote for a rule by now: its authority, and each further circle that was asked.
pub(crate) fn circles<'r>(
    gate: Option<&'r OpenGate>,
    name: &'r Name,
    rule: &'r ApprovalRule,
) -> impl Iterator<Item = &'r Authority> {
    let further = (0_u16..)
        .zip(&rule.escalation)
        .filter(move |(step, _)| gate.is_some_and(|gate| gate.has_fired(GateEventKind::Escalation, name, *step)));
    std::iter::once(&rule.authority).chain(further.map(|(_, further)| &further.authority))
}

/// Persons who may not decide, beyond the acting principal and its chain, who never may.
pub(crate) fn involved(
    org: &Org,
    created: &Created,
    (who, chain): (Pseudonym, &[Pseudonym]),
    rules: &[Name],
    snapshot: &Snapshot,
) -> Vec<Pseudonym> {
    let all = org.authority() == AuthorityMode::FourEyes;
    let excludes: Vec<_> = rules.iter().filter_map(|r| snapshot.rules().get(r.as_str())).map(|r| r.exclude).collect();
    let any = |pick: fn(&countersign_policy_decide::rules::Exclude) -> bool| all || excludes.iter().any(pick);
    let mut out = BTreeSet::new();
    let mut add = |who: Option<Pseudonym>| {
        out.extend(who.map(|who| human(org, who)));
    };
    add(Some(who));
    add(Some(created.acting));
    for delegator in chain {
        add(Some(*delegator));
    }
    if any(|e| e.initiator) {
        add(Some(created.initiator));
    }
    if any(|e| e.owner) {
        add(created.owner);
        add(org.known(created.acting).and_then(|k| k.owner));
    }
    if any(|e| e.issuer) {
        for issuer in org.known(created.acting).into_iter().flat_map(|k| k.issuers) {
            add(Some(issuer));
        }
    }
    if any(|e| e.accountable) {
        add(Some(created.accountable));
    }
    out.into_iter().collect()
}

/// Whoever a gate under these rules would not let approve if it opened now: the involved, and all of both chains, by account
/// and by person.
pub(crate) fn barred(
    org: &Org,
    fold: &Instance,
    (who, chain): (Pseudonym, &[Pseudonym]),
    rules: &[Name],
    snapshot: &Snapshot,
) -> BTreeSet<Pseudonym> {
    let acting = || fold.chain().iter().chain(chain).copied().chain([who]);
    let involved = involved(org, fold.created(), (who, chain), rules, snapshot);
    involved.into_iter().chain(acting()).chain(acting().map(|who| human(org, who))).collect()
}

/// The human being behind a person's account; any other account is itself.
pub(crate) fn human(org: &Org, who: Pseudonym) -> Pseudonym {
    match org.known(who) {
        // Of an account nobody knows whose it is: it may be that of anyone else of whom this is not known.
        Some(known) if known.kind == PrincipalKind::Person => known.person.unwrap_or(UNNAMED_PERSON),
        _ => who,
    }
}

fn gate_view(
    org: &Org,
    (gate, subject): (GateId, GateSubject),
    (instance, created): (InstanceId, &Created),
    expires: Option<Timestamp>,
    items: Vec<ItemView>,
) -> GateView {
    let next = match subject {
        GateSubject::Actions | GateSubject::Start if items.iter().all(|item| !item.found.is_empty()) => {
            "the gateway carries it out at once, after a last check"
        }
        GateSubject::Actions => "the agent gets permits for what is approved",
        GateSubject::Start => "the instance starts",
        GateSubject::Complete => "the instance completes",
        GateSubject::Terminate => "the instance ends",
        GateSubject::Grant => "the agent's calls within these terms get permits without anybody being asked",
    };
    GateView {
        gate: gate.to_string(),
        instance: format!("{instance}, workflow {}", created.workflow),
        authority: org.authority().as_str().to_owned(),
        next: format!("if approved, {next}; a rejection ends the instance"),
        expires: expires.map(|at| (at, "SYSTEM rejects and the instance ends".to_owned())),
        items,
    }
}

fn item_view(
    org: &Org,
    snapshot: &Snapshot,
    (who, chain): (Pseudonym, &[Pseudonym]),
    one: &Pending,
    position: (usize, usize),
) -> ItemView {
    let known = org.known(who);
    let owner =
        known.as_ref().and_then(|k| k.owner).map(|o| format!(", owned by {}", org.label(o))).unwrap_or_default();
    let field = |names: &[&str]| names.iter().find_map(|n| one.input.get(n)).filter(|v| !v.is_object()).cloned();
    let version = one.tool.as_ref().map(|t| format!(", version {}", t.version)).unwrap_or_default();
    let mut why: Vec<String> = one
        .rules
        .iter()
        .map(|name| match snapshot.rules().get(name.as_str()) {
            Some(rule) => {
                let roles: Vec<&str> = rule.authority.roles.iter().map(Name::as_str).collect();
                format!("{name}: {} ({} of role {})", rule.title, rule.quorum.persons, roles.join(" or "))
            }
            None => name.to_string(),
        })
        .collect();
    why.extend(one.rules.iter().filter_map(|name| {
        let glass = snapshot.rules().get(name.as_str())?.break_glass.as_ref()?;
        Some(format!(
            "{name}: may be lifted without that by {}, with another person's review within {} s",
            in_words(&glass.authority),
            glass.review_within_s
        ))
    }));
    why.extend(one.reasons.iter().filter(|r| !r.is_empty()).map(|r| format!("policy: {r}")));
    ItemView {
        position,
        who: format!("{}{owner}", org.label(who)),
        for_whom: chain.iter().map(|who| org.label(*who)).collect(),
        what: format!("{}{version}", one.what),
        target: field(&["target", "branch", "path", "to", "account", "environment", "workflow"]),
        revision: one.revision.clone(),
        mutable: one.tool.as_ref().map(|t| t.tool.mutable_target),
        amount: field(&["amount", "total", "quantity"]),
        risk: one.tool.as_ref().map(|t| format!("{} of 4, {} data", t.tool.risk, t.tool.data_class.as_str())),
        why,
        changed_by: one.changed_by.clone(),
        rewritten: one.rewritten.clone(),
        found: one.found.clone(),
        terms: one.terms.clone(),
        input: one.input.clone(),
    }
}

/// `role A or group B`.
fn in_words(authority: &Authority) -> String {
    let named = |what: &'static str, names: &[Name]| names.iter().map(move |name| format!("{what} {name}")).collect();
    let of: [Vec<String>; 3] =
        [named("role", &authority.roles), named("group", &authority.groups), named("team", &authority.teams)];
    of.concat().join(" or ")
}
