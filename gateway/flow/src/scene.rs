//! What proposing and deciding share: the scene that a proposal meets, and the drafts that their rows are made of.
//!
//! Read next: `propose` and `decision`, the rows themselves.

use countersign_gateway_model::{
    ActionId, Assurance, Decision as Answer, Digest, GateId, Name, PermitId, Pseudonym, State, Timestamp, Verdict,
};
use countersign_ledger_entry::body::{
    Cause, ClearedItem, Decision, DecisionKind, Edge, Effect, Gate, GateItem, GateItemRef, GateSubject, OnTimeout,
    Permit, QuestionKind, RunStart, Start, StartedBy,
};
use countersign_ledger_entry::{Body, Draft, PayloadRef};

use crate::error::Illegal;
use crate::fold::Instance;
use crate::gate::{OpenGate, distinct};
use crate::proposal::{Actor, Asked, Force, GateTerms, Now, PermitTerms, StartTerms, SystemReject};
use crate::reply::{ActionAnswer, Reply};

/// Drafts and answer of one row.
pub(crate) type Row = Result<(Vec<Draft>, Reply), Illegal>;

/// An instance, and who proposes when.
pub(crate) struct Scene<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) now: &'a Now,
    /// Time of the stream: never goes back.
    pub(crate) at: Timestamp,
}

/// What a permit says, whoever got it approved.
pub(crate) struct Permitted<'a> {
    pub(crate) action: ActionId,
    pub(crate) item: Option<GateItemRef>,
    pub(crate) question: QuestionKind,
    pub(crate) tool: Name,
    pub(crate) tool_version: Digest,
    pub(crate) digest: Digest,
    pub(crate) mutable_target: bool,
    pub(crate) asked: &'a Asked,
    pub(crate) by: &'a Actor,
}

impl Scene<'_> {
    /// Sequence of the draft that comes after `drafts`.
    pub(crate) fn sequence_after(&self, drafts: &[Draft]) -> u64 {
        self.instance.sequence() + 1 + u64::try_from(drafts.len()).unwrap_or(u64::MAX / 2)
    }

    /// Whether the gateway itself proposes: it alone carries out operations of its own.
    pub(crate) fn by_gateway(&self) -> bool {
        self.now.by.actor == Pseudonym::SYSTEM
    }

    /// Every start that a termination cancels.
    pub(crate) fn cancel(&self) -> Vec<PermitId> {
        let mut open: Vec<_> = self.instance.open_starts().map(|(id, s)| (s.sequence, id)).collect();
        open.sort_unstable();
        open.into_iter().map(|(_, id)| id).collect()
    }

    /// The open gate, if it is `gate`.
    pub(crate) fn waiting_at(&self, gate: GateId) -> Result<&OpenGate, Illegal> {
        match (self.instance.state(), self.instance.gate()) {
            (State::WaitingForHuman, Some(open)) if open.gate == gate => Ok(open),
            (State::WaitingForHuman, _) => Err(Illegal::GateClosed(gate)),
            (state, _) if state.is_terminal() => Err(Illegal::Finished(state)),
            (state, _) => Err(Illegal::NotWaiting(state)),
        }
    }

    /// RUNNING, or why not.
    pub(crate) fn running(&self) -> Result<(), Illegal> {
        match (self.instance.state(), self.instance.gate()) {
            (State::Running, _) => Ok(()),
            (State::WaitingForHuman, Some(gate)) => Err(Illegal::Waiting(gate.gate)),
            (State::Created, _) => Err(Illegal::Queued),
            (state, _) => Err(Illegal::Finished(state)),
        }
    }

    /// COMPLETED and WAITING are refused while a start is open, but for the one inside which the proposer waits.
    pub(crate) fn no_open_starts(&self, caller: Option<PermitId>) -> Result<(), Illegal> {
        let open: Vec<PermitId> = self.cancel().into_iter().filter(|p| Some(*p) != caller).collect();
        if open.is_empty() { Ok(()) } else { Err(Illegal::OpenStarts(open)) }
    }

    /// The gate of one item, where nothing is open that it must not hold up.
    pub(crate) fn gate_of(
        &self,
        mut terms: GateTerms,
        subject: GateSubject,
        item: GateItem,
    ) -> Result<(GateId, Gate, Vec<PayloadRef>), Illegal> {
        forget_ended_caller(self.instance, &mut terms);
        let made = gate_of(Some(terms), subject, vec![item], Vec::new(), self.at)?;
        self.no_open_starts(made.1.caller)?;
        Ok(made)
    }

    /// A permit, with its start where it is taken with `begin`.
    pub(crate) fn permit(
        &self,
        permitted: Permitted<'_>,
        terms: PermitTerms,
        agent_is_here: bool,
        drafts: &mut Vec<Draft>,
    ) -> Result<ActionAnswer, Illegal> {
        let Permitted { action, item, question, tool, tool_version, digest, mutable_target, asked, by } = permitted;
        let PermitTerms { permit, expires, reservations, begin } = terms;
        let dispatch = question == QuestionKind::Dispatch;
        if expires <= self.at {
            return Err(Illegal::Incomplete("a permit's expiry in the future"));
        }
        let known = self.instance.live_permit(permit).is_some()
            || self.instance.open_start(permit).is_some()
            || self.instance.unknown_start(permit).is_some()
            || self.instance.settled(permit).is_some()
            || drafts.iter().any(|d| matches!(&d.body, Body::Permit(p) if p.permit == permit));
        if known {
            return Err(Illegal::Duplicate("permit"));
        }
        let body = Permit {
            permit,
            action,
            item,
            question,
            tool,
            tool_version,
            digest,
            expires,
            mutable_target,
            reservations,
            enforced: asked.force == Force::Enforced,
        };
        let sequence = self.sequence_after(drafts);
        drafts.push(draft_with(body, by, asked));
        let begin = match begin {
            // Whoever proposed or approved an operation does not carry it out: the gateway begins it by itself.
            Some(_) if question == QuestionKind::Operation => {
                return Err(Illegal::Incomplete("no start: the gateway begins an operation in an append of its own"));
            }
            Some(begin) if dispatch || agent_is_here => begin,
            None if dispatch => return Err(Illegal::Incomplete("the start of a dispatch")),
            _ => return Ok(ActionAnswer::Permitted { action, permit, sequence }),
        };
        let sequence = self.sequence_after(drafts);
        let start = self.start_body(permit, begin, dispatch, sequence)?;
        drafts.push(draft(start, by, asked));
        Ok(ActionAnswer::Begun { action, permit, sequence })
    }

    pub(crate) fn start_body(
        &self,
        permit: PermitId,
        terms: StartTerms,
        dispatch: bool,
        sequence: u64,
    ) -> Result<Start, Illegal> {
        if terms.not_after < self.at {
            return Err(Illegal::TooLate);
        }
        let by = match terms.run {
            Some(run) if dispatch => {
                if run.attempt == 0 {
                    return Err(Illegal::Incomplete("an attempt, counted from 1"));
                }
                StartedBy::Run(RunStart {
                    run: run.run,
                    attempt: run.attempt,
                    backend: run.backend,
                    external_name: run.external_name,
                    job: run.job,
                    fence: sequence,
                })
            }
            None if !dispatch => StartedBy::Agent,
            Some(_) => return Err(Illegal::Incomplete("a dispatch: a runner carries out nothing else")),
            None => return Err(Illegal::Incomplete("the run of a dispatch")),
        };
        Ok(Start { permit, not_after: terms.not_after, by })
    }
}

/// A gate of these items, if its terms go together.
pub(crate) fn gate_of(
    terms: Option<GateTerms>,
    subject: GateSubject,
    items: Vec<GateItem>,
    cleared: Vec<ClearedItem>,
    at: Timestamp,
) -> Result<(GateId, Gate, Vec<PayloadRef>), Illegal> {
    let terms = terms.ok_or(Illegal::Incomplete("the gate's terms"))?;
    let fits = match terms.on_timeout {
        OnTimeout::Reject => terms.expires.is_some_and(|expires| expires > at),
        OnTimeout::Never => terms.expires.is_none(),
    };
    if !fits {
        return Err(Illegal::Incomplete("an expiry that goes with what silence does"));
    }
    if !distinct(items.iter().map(|i| i.item)) {
        return Err(Illegal::Duplicate("item"));
    }
    let gate = Gate {
        gate: terms.gate,
        subject,
        items,
        cleared,
        expires: terms.expires,
        on_timeout: terms.on_timeout,
        caller: terms.caller,
    };
    Ok((terms.gate, gate, terms.payloads))
}

/// A proposer whose start has its outcome by now waits inside none.
pub(crate) fn forget_ended_caller(instance: &Instance, terms: &mut GateTerms) {
    terms.caller = terms.caller.filter(|caller| instance.open_start(*caller).is_some());
}

/// A draft by `by`, with the verdict that its append answers with.
pub(crate) fn draft(body: impl Into<Body>, by: &Actor, asked: &Asked) -> Draft {
    Draft {
        body: body.into(),
        verdict: asked.verdict.clone(),
        determining: asked.determining.clone(),
        actor: by.actor,
        on_behalf_of: by.on_behalf_of.clone(),
        payloads: Vec::new(),
        fields: Vec::new(),
    }
}

/// As [`draft`], with the payloads and field commitments of the question: once per append and question.
pub(crate) fn draft_with(body: impl Into<Body>, by: &Actor, asked: &Asked) -> Draft {
    let mut draft = draft(body, by, asked);
    draft.payloads.clone_from(&asked.payloads);
    draft.fields.clone_from(&asked.fields);
    draft
}

pub(crate) fn answer(asked: &Asked) -> Result<Answer, Illegal> {
    asked.effective().ok_or(Illegal::Incomplete("the verdict"))
}

pub(crate) fn edge(from: State, to: State, cause: Cause, action: Option<ActionId>, objection: bool) -> Edge {
    Edge { from, to, cause, action, objection }
}

/// The strictest of several answers, with the union of rules and, per asked principal, of policies.
pub(crate) fn strictest<'a>(all: impl Iterator<Item = &'a Asked>) -> Asked {
    let mut decision = Answer::Allow;
    let mut rules: Vec<Name> = Vec::new();
    let mut error = false;
    let mut determining: Vec<Vec<Name>> = Vec::new();
    let mut asked_at_all = false;
    for asked in all {
        if let Some(verdict) = &asked.verdict {
            asked_at_all = true;
            decision = decision.max(verdict.decision);
            error |= verdict.error;
            rules.extend(verdict.rules.iter().cloned());
        }
        for (at, policies) in asked.determining.iter().enumerate() {
            match determining.get_mut(at) {
                Some(union) => union.extend(policies.iter().cloned()),
                None => determining.push(policies.clone()),
            }
        }
    }
    rules.sort();
    rules.dedup();
    for policies in &mut determining {
        policies.sort();
        policies.dedup();
    }
    let verdict = asked_at_all.then_some(Verdict { decision, rules, error });
    Asked { verdict, determining, ..Asked::default() }
}

/// SYSTEM's REJECT of a gate.
pub(crate) fn system_reject(
    gate: GateId,
    ids: SystemReject,
    stopper: Option<Pseudonym>,
    role: Option<Name>,
) -> Decision {
    Decision {
        decision: ids.decision,
        gate,
        kind: DecisionKind::Reject,
        items: Vec::new(),
        person: Pseudonym::SYSTEM,
        role,
        teams: Vec::new(),
        groups: Vec::new(),
        shown: None,
        effect: Effect::Resolving,
        assurance: Assurance::Secret,
        delta: None,
        assertion: None,
        asked: Vec::new(),
        on_behalf: stopper,
        rules: Vec::new(),
        lapsed: Vec::new(),
    }
}
