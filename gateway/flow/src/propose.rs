//! What a proposal becomes: the rows of the table, but for a person's decision (`decision`) and lift (`lift`).
//!
//! Pure: the same instance and proposal give the same drafts. Nothing is done here, and nothing may be told or done by the
//! caller before the drafts are durable.

use countersign_gateway_model::{
    ActionId, Decision as Answer, Digest, GateId, Name, Outcome as OutcomeKind, State, Timestamp,
};
use countersign_ledger_entry::body::{
    Cause, ClearedItem, Conflict, Gate, GateEvent, GateEventKind, GateItem, GateSubject, OnDeny, Outcome, QuestionKind,
    Refusal, RefusalReason, Sweep,
};
use countersign_ledger_entry::{Draft, PayloadRef};

use crate::MAX_ITEMS;
use crate::decision;
use crate::error::Illegal;
use crate::fold::{Instance, Settled};
use crate::gate::{OpenGate, distinct, is_action};
use crate::granting::Uses;
use crate::lift;
use crate::proposal::{
    Action, Actions, Actor, Asked, Begin, Complete, Create, Deadline, Expire, GateNote, GateTerms, ItemTerms, Now,
    Proposal, Report, StartInstance, SweepStart, SystemReject, Terminate,
};
use crate::reply::{ActionAnswer, Decided, Place, Reply};
use crate::scene::{
    Permitted, Row, Scene, answer, draft, draft_with, edge, forget_ended_caller, gate_of, strictest, system_reject,
};

/// Turns a proposal into the drafts of one append and the answer to give once they are durable.
///
/// # Errors
/// [`Illegal`]: nothing changes and nothing is recorded.
pub fn decide(instance: Option<&Instance>, mut proposal: Proposal, now: &Now) -> Result<Decided, Illegal> {
    let Some(instance) = instance else {
        return match proposal {
            Proposal::Create(create) => create_instance(*create, now),
            _ => Err(Illegal::NoInstance),
        };
    };
    if let Proposal::Actions(Actions { gate: Some(terms), .. }) = &mut proposal {
        forget_ended_caller(instance, terms);
    }
    if let Proposal::Terminate(terminate) = &mut proposal
        && let Some(terms) = &mut terminate.gate
    {
        forget_ended_caller(instance, terms);
    }
    let scene = Scene { instance, now, at: now.at.max(instance.latest()) };
    let (drafts, reply) = match proposal {
        Proposal::Create(_) => return Err(Illegal::Exists),
        Proposal::Start(start) => scene.start_queued(*start)?,
        Proposal::Actions(actions) => scene.actions(actions)?,
        Proposal::Begin(begin) => scene.begin(begin)?,
        Proposal::Complete(complete) => scene.complete(*complete)?,
        Proposal::Terminate(terminate) => scene.terminate(*terminate)?,
        Proposal::Expire(expire) => scene.expire(&expire)?,
        Proposal::Deadline(deadline) => scene.deadline(&deadline)?,
        Proposal::Decide(decide) => decision::decide(&scene, *decide)?,
        Proposal::Lift(lift) => lift::decide(&scene, *lift)?,
        Proposal::Outcome(report) => scene.outcome(*report)?,
        Proposal::Sweep(sweep) => scene.sweep(sweep)?,
        Proposal::GateEvent(note) => scene.gate_event(*note)?,
        Proposal::AskGrant(ask) => scene.ask_grant(*ask)?,
        Proposal::RevokeGrant(revoke) => scene.revoke_grant(&revoke)?,
    };
    Ok(Decided { drafts, place: Place::Instance(instance.id()), reply })
}

/// Why policy's no is a no.
fn reason(asked: &Asked, known: bool) -> RefusalReason {
    match &asked.verdict {
        Some(verdict) if verdict.error => RefusalReason::PolicyError,
        _ if !known => RefusalReason::UnknownTool,
        _ => RefusalReason::Policy,
    }
}

/// What a proposal other than an action asks about.
struct Subject<'a> {
    stands_before: GateSubject,
    question: QuestionKind,
    action: Option<ActionId>,
    digest: Option<Digest>,
    asked: &'a Asked,
    gate: Option<GateTerms>,
    item: Option<ItemTerms>,
}

impl Subject<'_> {
    fn refusal(&self, reason: RefusalReason) -> Refusal {
        Refusal { question: self.question, action: self.action, tool: None, digest: self.digest, reason }
    }

    /// The gate of a single proposal.
    fn gate(self, at: Timestamp) -> Result<(GateId, Gate, Vec<PayloadRef>), Illegal> {
        let action = self.action.ok_or(Illegal::Incomplete("the proposal's id"))?;
        let digest = self.digest.ok_or(Illegal::Incomplete("the proposal's digest"))?;
        let terms = self.item.ok_or(Illegal::Incomplete("the item's terms"))?;
        let item = gate_item(terms, action, self.question, None, digest, self.asked)?;
        gate_of(self.gate, self.stands_before, vec![item], Vec::new(), at)
    }
}

/// One item of a gate, with counting forms of exactly the rules that policy named.
fn gate_item(
    terms: ItemTerms,
    action: ActionId,
    question: QuestionKind,
    tool: Option<Name>,
    digest: Digest,
    asked: &Asked,
) -> Result<GateItem, Illegal> {
    let mut rules = terms.rules;
    rules.sort_by(|a, b| a.rule.cmp(&b.rule));
    let named = asked.verdict.as_ref().map_or(&[][..], |v| &v.rules);
    if rules.is_empty() || !rules.iter().map(|r| &r.rule).eq(named) {
        return Err(Illegal::Incomplete("counting forms of the verdict's rules"));
    }
    Ok(GateItem { item: terms.item, action, question, tool, digest, rules, involved: terms.involved })
}

fn create_instance(create: Create, now: &Now) -> Result<Decided, Illegal> {
    let Create { instance, created, start, action, asked, digest, gate, item } = create;
    let by = &now.by;
    let place = Place::Instance(instance);
    let subject = Subject {
        stands_before: GateSubject::Start,
        question: QuestionKind::Start,
        action,
        digest,
        asked: &asked,
        gate,
        item,
    };
    // A refused start makes no instance: the refusal goes to the organization's stream.
    let refused = |reason, subject: &Subject<'_>| {
        let drafts = vec![draft_with(subject.refusal(reason), by, subject.asked)];
        Ok(Decided { drafts, place: Place::Organization, reply: Reply::Refused(reason) })
    };
    if now.frozen {
        return refused(RefusalReason::Frozen, &subject);
    }
    if !start {
        return match asked.effective() {
            None | Some(Answer::Allow) => {
                Ok(Decided { drafts: vec![draft_with(created, by, &asked)], place, reply: Reply::Queued })
            }
            Some(Answer::Deny) => refused(reason(&asked, true), &subject),
            Some(Answer::NeedsApproval) => Err(Illegal::Incomplete("a queued instance is asked about when it starts")),
        };
    }
    let running = edge(State::Created, State::Running, Cause::Start, action, false);
    match answer(&asked)? {
        Answer::Allow => {
            let drafts = vec![draft_with(created, by, &asked), draft(running, by, &asked)];
            Ok(Decided { drafts, place, reply: Reply::Running })
        }
        Answer::NeedsApproval => {
            let (gate, body, view) = subject.gate(now.at)?;
            if body.caller.is_some() {
                return Err(Illegal::Incomplete("a new instance has no start inside which its caller could run"));
            }
            let mut drafts = vec![draft_with(created, by, &asked), draft(running, by, &asked)];
            drafts.extend(waiting(body, view, action, by, &asked));
            Ok(Decided { drafts, place, reply: Reply::Waiting { gate, actions: Vec::new() } })
        }
        Answer::Deny => refused(reason(&asked, true), &subject),
    }
}

/// The gate and the edge that waits at it.
fn waiting(gate: Gate, view: Vec<PayloadRef>, action: Option<ActionId>, by: &Actor, asked: &Asked) -> [Draft; 2] {
    let mut opened = draft(gate, by, asked);
    opened.payloads = view;
    let edge = edge(State::Running, State::WaitingForHuman, Cause::Gate, action, false);
    [opened, draft(edge, by, asked)]
}

impl Scene<'_> {
    fn refused(&self, subject: &Subject<'_>, reason: RefusalReason) -> (Vec<Draft>, Reply) {
        (vec![draft_with(subject.refusal(reason), &self.now.by, subject.asked)], Reply::Refused(reason))
    }

    fn start_queued(&self, start: StartInstance) -> Row {
        let StartInstance { action, asked, digest, gate, item } = start;
        let by = &self.now.by;
        match (self.instance.state(), self.instance.gate()) {
            (State::Created, _) => {}
            (State::WaitingForHuman, Some(gate)) => return Err(Illegal::Waiting(gate.gate)),
            (state, _) if state.is_terminal() => return Err(Illegal::Finished(state)),
            (state, _) => return Err(Illegal::Edge { from: state, to: State::Running }),
        }
        let subject = Subject {
            stands_before: GateSubject::Start,
            question: QuestionKind::Start,
            action,
            digest,
            asked: &asked,
            gate,
            item,
        };
        if self.now.frozen {
            return Ok(self.refused(&subject, RefusalReason::Frozen));
        }
        let running = edge(State::Created, State::Running, Cause::Start, action, false);
        match answer(&asked)? {
            Answer::Allow => Ok((vec![draft_with(running, by, &asked)], Reply::Running)),
            Answer::NeedsApproval => {
                let (gate, body, view) = subject.gate(self.at)?;
                self.no_open_starts(body.caller)?;
                let mut drafts = vec![draft_with(running, by, &asked)];
                drafts.extend(waiting(body, view, action, by, &asked));
                Ok((drafts, Reply::Waiting { gate, actions: Vec::new() }))
            }
            Answer::Deny => {
                let (mut drafts, _) = self.refused(&subject, reason(&asked, true));
                drafts.push(draft(running, by, &asked));
                let end = edge(State::Running, State::Terminated, Cause::Denial, action, false);
                drafts.push(draft(end, by, &asked));
                Ok((drafts, Reply::Denied { actions: Vec::new(), cancel: Vec::new() }))
            }
        }
    }

    fn actions(&self, batch: Actions) -> Row {
        self.running()?;
        let Actions { items, gate } = batch;
        if items.is_empty() || items.len() > MAX_ITEMS {
            return Err(Illegal::BatchSize(items.len()));
        }
        if !distinct(items.iter().map(|a| a.action)) {
            return Err(Illegal::Duplicate("action"));
        }
        if items.iter().any(|a| !is_action(a.question)) {
            return Err(Illegal::Incomplete("whether a tool is called, a job dispatched or an operation carried out"));
        }
        if self.now.frozen {
            return Ok(self.refuse_frozen(&items));
        }
        let answers = items.iter().map(|a| answer(&a.asked)).collect::<Result<Vec<_>, _>>()?;
        if answers.contains(&Answer::Deny) && self.instance.created().on_deny == OnDeny::Terminate {
            return Ok(self.end_by_denial(&items));
        }
        if answers.contains(&Answer::NeedsApproval) {
            return self.gate_batch(items, gate);
        }
        let mut drafts = Vec::with_capacity(items.len() * 2);
        let mut replies = Vec::with_capacity(items.len());
        let mut uses = Uses::of(self);
        for action in items {
            if answer(&action.asked)? == Answer::Deny {
                replies.push(self.refuse(&action, &mut drafts));
                continue;
            }
            let Action { action, question, tool, tool_version, digest, mutable_target, asked, permit, item: _, grants } =
                action;
            let tool_version = tool_version.ok_or(Illegal::Incomplete("the version of a tool that policy allows"))?;
            let terms = permit.ok_or(Illegal::Incomplete("the permit's terms"))?;
            let by = &self.now.by;
            uses.by(action, &grants, (&tool, &terms.reservations), (by, &asked), &mut drafts)?;
            let permitted = Permitted {
                action,
                item: None,
                question,
                tool,
                tool_version,
                digest,
                mutable_target,
                asked: &asked,
                by,
            };
            replies.push(self.permit(permitted, terms, true, &mut drafts)?);
        }
        Ok((drafts, Reply::Answered(replies)))
    }

    fn refuse(&self, action: &Action, drafts: &mut Vec<Draft>) -> ActionAnswer {
        let reason =
            if self.now.frozen { RefusalReason::Frozen } else { reason(&action.asked, action.tool_version.is_some()) };
        let refusal = Refusal {
            question: action.question,
            action: Some(action.action),
            tool: Some(action.tool.clone()),
            digest: Some(action.digest),
            reason,
        };
        drafts.push(draft_with(refusal, &self.now.by, &action.asked));
        ActionAnswer::Refused { action: action.action, reason }
    }

    fn refuse_frozen(&self, items: &[Action]) -> (Vec<Draft>, Reply) {
        let mut drafts = Vec::with_capacity(items.len());
        let replies = items.iter().map(|a| self.refuse(a, &mut drafts)).collect();
        (drafts, Reply::Answered(replies))
    }

    /// `on_deny: terminate`: the denials, then the end. What the batch would have been allowed is void.
    fn end_by_denial(&self, items: &[Action]) -> (Vec<Draft>, Reply) {
        let by = &self.now.by;
        let mut drafts = Vec::with_capacity(items.len() + 1);
        let mut actions = Vec::with_capacity(items.len());
        let mut ended_by: Option<&Action> = None;
        for action in items {
            if action.asked.effective() == Some(Answer::Deny) {
                actions.push(self.refuse(action, &mut drafts));
                ended_by = ended_by.or(Some(action));
            } else {
                actions.push(ActionAnswer::Voided(action.action));
            }
        }
        if let Some(action) = ended_by {
            let end = edge(State::Running, State::Terminated, Cause::Denial, Some(action.action), false);
            drafts.push(draft(end, by, &action.asked));
        }
        (drafts, Reply::Denied { actions, cancel: self.cancel() })
    }

    fn gate_batch(&self, batch: Vec<Action>, terms: Option<GateTerms>) -> Row {
        let by = &self.now.by;
        let mut drafts = Vec::new();
        let mut replies = Vec::with_capacity(batch.len());
        let mut items = Vec::new();
        let mut cleared = Vec::new();
        // Only what waits makes the gate: in shadow a no, or a rule, of an action that is cleared stops nothing.
        let waits = |asked: &&Asked| asked.effective() == Some(Answer::NeedsApproval);
        let asked = strictest(batch.iter().map(|a| &a.asked).filter(waits));
        let mut payloads = Vec::new();
        let mut fields = Vec::new();
        for action in batch {
            match answer(&action.asked)? {
                Answer::Deny => replies.push(self.refuse(&action, &mut drafts)),
                verdict => {
                    if action.tool_version.is_none() {
                        return Err(Illegal::Incomplete("the version of a tool that policy does not deny"));
                    }
                    payloads.extend(action.asked.payloads.iter().copied());
                    fields.extend(action.asked.fields.iter().copied());
                    if verdict == Answer::Allow {
                        cleared.push(ClearedItem { action: action.action, digest: action.digest });
                        replies.push(ActionAnswer::Cleared(action.action));
                    } else {
                        let terms = action.item.ok_or(Illegal::Incomplete("the item's terms"))?;
                        replies.push(ActionAnswer::Waiting { action: action.action, item: terms.item });
                        let tool = Some(action.tool);
                        items.push(gate_item(
                            terms,
                            action.action,
                            action.question,
                            tool,
                            action.digest,
                            &action.asked,
                        )?);
                    }
                }
            }
        }
        let (gate, body, view) = gate_of(terms, GateSubject::Actions, items, cleared, self.at)?;
        self.no_open_starts(body.caller)?;
        payloads.extend(view);
        let first = body.items.first().map(|i| i.action);
        let [mut opened, edge] = waiting(body, payloads, first, by, &asked);
        opened.fields = fields;
        drafts.push(opened);
        drafts.push(edge);
        Ok((drafts, Reply::Waiting { gate, actions: replies }))
    }

    fn begin(&self, begin: Begin) -> Row {
        let id = begin.permit;
        let instance = self.instance;
        if instance.state().is_terminal() {
            return Err(Illegal::Finished(instance.state()));
        }
        if instance.open_start(id).is_some() || instance.unknown_start(id).is_some() {
            return Err(Illegal::PermitStarted(id));
        }
        match (instance.settled(id), instance.live_permit(id)) {
            (Some(Settled::Outcome(_)), _) => return Err(Illegal::PermitStarted(id)),
            (Some(Settled::Lapsed), _) => return Err(Illegal::PermitExpired(id)),
            (None, None) => return Err(Illegal::UnknownPermit(id)),
            (None, Some(permit)) if permit.operation && !self.by_gateway() => return Err(Illegal::UnknownPermit(id)),
            (None, Some(permit)) if self.at > permit.expires => return Err(Illegal::PermitExpired(id)),
            (None, Some(_)) => {}
        }
        self.running()?;
        if self.now.frozen {
            return Err(Illegal::Frozen);
        }
        // Dispatches are begun in their permit's append, so what is begun by itself is the agent's, or the gateway's own.
        let sequence = self.sequence_after(&[]);
        let start = self.start_body(id, begin.terms, false, sequence)?;
        let mut draft = draft(start, &self.now.by, &Asked::nothing());
        draft.payloads = begin.payloads;
        Ok((vec![draft], Reply::Begun { permit: id, sequence }))
    }

    fn complete(&self, complete: Complete) -> Row {
        let Complete { action, asked, digest, gate, item } = complete;
        if self.instance.state() == State::Completed {
            return Ok((Vec::new(), Reply::Nothing(State::Completed)));
        }
        self.running()?;
        let by = &self.now.by;
        let subject = Subject {
            stands_before: GateSubject::Complete,
            question: QuestionKind::Complete,
            action,
            digest,
            asked: &asked,
            gate,
            item,
        };
        if self.now.frozen {
            return Ok(self.refused(&subject, RefusalReason::Frozen));
        }
        match answer(&asked)? {
            Answer::Deny => Ok(self.refused(&subject, reason(&asked, true))),
            Answer::Allow => {
                self.no_open_starts(None)?;
                let end = edge(State::Running, State::Completed, Cause::Complete, action, false);
                Ok((vec![draft_with(end, by, &asked)], Reply::Completed))
            }
            Answer::NeedsApproval => {
                self.no_open_starts(None)?;
                let (gate, body, view) = subject.gate(self.at)?;
                if body.caller.is_some() {
                    return Err(Illegal::Incomplete("no caller: COMPLETED waits for every start"));
                }
                Ok((self.wait_alone(body, view, action, &asked), Reply::Waiting { gate, actions: Vec::new() }))
            }
        }
    }

    /// A gate that opens an append, with the question's payloads.
    fn wait_alone(&self, gate: Gate, view: Vec<PayloadRef>, action: Option<ActionId>, asked: &Asked) -> Vec<Draft> {
        let payloads = asked.payloads.iter().copied().chain(view).collect();
        let [mut opened, edge] = waiting(gate, payloads, action, &self.now.by, asked);
        opened.fields.clone_from(&asked.fields);
        vec![opened, edge]
    }

    fn terminate(&self, terminate: Terminate) -> Row {
        let Terminate { action, asked, stop_role, reject, digest, gate, item } = terminate;
        let state = self.instance.state();
        if state.is_terminal() {
            return Ok((Vec::new(), Reply::Nothing(state)));
        }
        let unstoppable = stop_role.is_some() || self.instance.is_insider(self.now.by.actor);
        if unstoppable {
            // Stopping never fails closed: a denial, an error or no answer at all is an objection on record.
            return Ok(self.stop(&self.now.by, Cause::Terminate, action, &asked, reject, stop_role));
        }
        let subject = Subject {
            stands_before: GateSubject::Terminate,
            question: QuestionKind::Terminate,
            action,
            digest,
            asked: &asked,
            gate,
            item,
        };
        match (answer(&asked)?, state) {
            (Answer::Allow, _) => Ok(self.stop(&self.now.by, Cause::Terminate, action, &asked, reject, None)),
            (Answer::Deny, _) => Ok(self.refused(&subject, reason(&asked, true))),
            (Answer::NeedsApproval, State::Running) => {
                let (gate, body, view) = subject.gate(self.at)?;
                self.no_open_starts(body.caller)?;
                Ok((self.wait_alone(body, view, action, &asked), Reply::Waiting { gate, actions: Vec::new() }))
            }
            (Answer::NeedsApproval, _) => match self.instance.gate() {
                Some(gate) => Err(Illegal::Waiting(gate.gate)),
                None => Err(Illegal::Edge { from: state, to: State::WaitingForHuman }),
            },
        }
    }

    /// →TERMINATED, from wherever the instance stands.
    fn stop(
        &self,
        by: &Actor,
        cause: Cause,
        action: Option<ActionId>,
        asked: &Asked,
        reject: SystemReject,
        role: Option<Name>,
    ) -> (Vec<Draft>, Reply) {
        let objection = asked.verdict.as_ref().is_none_or(|v| v.decision != Answer::Allow);
        let mut drafts = Vec::with_capacity(3);
        match (self.instance.state(), self.instance.gate()) {
            (State::WaitingForHuman, Some(gate)) => {
                let stopper = (cause == Cause::Terminate).then_some(by.actor);
                drafts.push(draft_with(system_reject(gate.gate, reject, stopper, role), &Actor::SYSTEM, asked));
                let rejected = edge(State::WaitingForHuman, State::Rejected, cause, action, objection);
                drafts.push(draft(rejected, by, asked));
                let end = edge(State::Rejected, State::Terminated, Cause::Follow, action, objection);
                drafts.push(draft(end, by, asked));
            }
            (State::Created, _) => {
                let through = edge(State::Created, State::Running, cause, action, objection);
                drafts.push(draft_with(through, by, asked));
                drafts.push(draft(edge(State::Running, State::Terminated, cause, action, objection), by, asked));
            }
            _ => {
                let end = edge(State::Running, State::Terminated, cause, action, objection);
                drafts.push(draft_with(end, by, asked));
            }
        }
        (drafts, Reply::Terminated { objection, cancel: self.cancel() })
    }

    fn expire(&self, expire: &Expire) -> Row {
        if self.instance.state().is_terminal() {
            return Ok((Vec::new(), Reply::Nothing(self.instance.state())));
        }
        let gate = self.waiting_at(expire.gate)?;
        if !gate.has_expired(self.at) {
            return Err(Illegal::GateNotExpired(expire.gate));
        }
        Ok(self.stop(&Actor::SYSTEM, Cause::Expiry, None, &expire.asked, expire.reject, None))
    }

    fn deadline(&self, deadline: &Deadline) -> Row {
        if self.instance.state().is_terminal() {
            return Ok((Vec::new(), Reply::Nothing(self.instance.state())));
        }
        if self.instance.created().deadline.is_none_or(|due| self.at < due) {
            return Err(Illegal::DeadlineNotPassed);
        }
        Ok(self.stop(&Actor::SYSTEM, Cause::Deadline, None, &deadline.asked, deadline.reject, None))
    }

    fn outcome(&self, report: Report) -> Row {
        let Report { permit, outcome, output, workspace, sandbox_level, asked } = report;
        let by = &self.now.by;
        let instance = self.instance;
        let begun = instance.open_start(permit).or_else(|| instance.unknown_start(permit));
        if begun.is_some_and(|start| start.operation) && !self.by_gateway() {
            return Err(Illegal::UnknownPermit(permit));
        }
        let unknown = instance.unknown_start(permit).is_some();
        let supersedes = unknown && outcome != OutcomeKind::Unknown;
        if instance.open_start(permit).is_some() || supersedes {
            let body = Outcome { permit, outcome, output, workspace, supersedes, sandbox_level };
            return Ok((vec![draft_with(body, by, &asked)], Reply::Recorded { permit, outcome, supersedes }));
        }
        match (instance.settled(permit), instance.live_permit(permit)) {
            (Some(Settled::Outcome(_)), _) => {}
            (Some(Settled::Lapsed), _) | (None, Some(_)) => return Err(Illegal::NotBegun(permit)),
            (None, None) if unknown => {}
            (None, None) => return Err(Illegal::UnknownPermit(permit)),
        }
        let body = Conflict { permit, outcome, output };
        Ok((vec![draft_with(body, by, &asked)], Reply::Conflict(permit)))
    }

    fn sweep(&self, sweep: SweepStart) -> Row {
        let permit = sweep.permit;
        let instance = self.instance;
        if instance.open_start(permit).is_some() {
            let reply = Reply::Recorded { permit, outcome: OutcomeKind::Unknown, supersedes: false };
            return Ok((vec![draft(Sweep { permit }, &Actor::SYSTEM, &Asked::nothing())], reply));
        }
        if instance.unknown_start(permit).is_some() || matches!(instance.settled(permit), Some(Settled::Outcome(_))) {
            return Ok((Vec::new(), Reply::Nothing(instance.state())));
        }
        if instance.live_permit(permit).is_some() || instance.settled(permit).is_some() {
            return Err(Illegal::NotBegun(permit));
        }
        Err(Illegal::UnknownPermit(permit))
    }

    fn gate_event(&self, note: GateNote) -> Row {
        let GateNote { gate, event, rule, to, step, asked } = note;
        let open = self.waiting_at(gate)?;
        let by = &self.now.by;
        if (event == GateEventKind::Reassign) != to.is_some() {
            return Err(Illegal::Incomplete("the person that a reassignment, and nothing else, names"));
        }
        let fired = OpenGate::fired_key(event, rule.as_ref(), step);
        if fired.is_some() != step.is_some() {
            return Err(Illegal::Incomplete("the step that a timer, and nothing else, has"));
        }
        if fired.is_some_and(|fired| open.fired.contains(&fired)) {
            return Err(Illegal::AlreadyFired);
        }
        if asked.verdict.as_ref().is_some_and(|v| v.decision != Answer::Allow) {
            let reason = reason(&asked, true);
            let refusal = Refusal { question: QuestionKind::Operation, action: None, tool: None, digest: None, reason };
            return Ok((vec![draft_with(refusal, by, &asked)], Reply::Refused(reason)));
        }
        let body = GateEvent { gate, event, rule, to, step };
        Ok((vec![draft_with(body, by, &asked)], Reply::Noted(gate)))
    }
}
