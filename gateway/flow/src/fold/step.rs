//! Where in a row of the proposal table an append is, and the entry in hand: what the automaton that reads appends remembers.
//!
//! Absent: the steps themselves (`append`).

use countersign_gateway_model::{
    ActionId, Decision as Answer, GrantId, PermitId, Pseudonym, State, Timestamp, Verdict,
};
use countersign_ledger_entry::body::{Cause, GateSubject, Refusal, RefusalReason};
use countersign_ledger_entry::{Header, SEMANTICS, StreamKind};

use crate::error::EvolveError;
use crate::gate::{Offer, OpenGate};

/// Where in a row of the table an append is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The append may end here; nothing may follow.
    Whole,
    /// After `created`: the append may end here (queued), or the start follows.
    Created { verdict: Option<Verdict> },
    /// After an edge that policy made conditional: the gate follows.
    Gate { subject: GateSubject, verdict: Option<Verdict> },
    /// After the gate: the edge to WAITING follows.
    Wait { verdict: Option<Verdict> },
    /// After the refusal of a queued start: the edge to RUNNING follows.
    StartDenied { verdict: Option<Verdict> },
    /// After a denial that ends the instance: the edge to TERMINATED follows.
    Deny { verdict: Option<Verdict> },
    /// After CREATED→RUNNING on the way to TERMINATED.
    Stop { cause: Cause, objection: bool, verdict: Option<Verdict> },
    /// Among the answers to a batch of actions.
    Batch(Batch),
    /// After a decision that brought policy's denial to light: SYSTEM's REJECT follows.
    SystemReject,
    /// After a REJECT: the edge to REJECTED follows.
    Reject { by: Rejecting, verdict: Option<Verdict> },
    /// After the edge to REJECTED: the one to TERMINATED follows.
    Fall { objection: bool, verdict: Option<Verdict> },
    /// After the last vote: the edge to APPROVED or OVERRIDDEN follows.
    Resolve { decision: Option<Verdict> },
    /// After that: the edge to RESUMED.
    Resume { verdict: Option<Verdict> },
    /// After that: the edge to RUNNING.
    Rerun { verdict: Option<Verdict> },
    /// What was approved is carried out: COMPLETED or TERMINATED.
    Carry { to: State, action: ActionId, verdict: Option<Verdict> },
    /// What was approved is permitted.
    Grant(Grants),
    /// After what is asked for in advance: its gate follows.
    Offer(Box<Offer>),
    /// After what was asked for in advance is withdrawn: the edge that leaves its gate follows.
    Withdrawn,
    /// After the edge to RUNNING from a grant's gate: what was given follows.
    Given { gate: Box<OpenGate>, verdict: Option<Verdict> },
}

/// Who rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejecting {
    /// A person.
    Person,
    /// SYSTEM, because policy denies by now.
    Denied,
    /// SYSTEM, for whoever stops, or for a clock.
    System { stopper: Option<Pseudonym> },
}

/// Answers to a batch so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) items: usize,
    pub(super) permits: usize,
    pub(super) denied: bool,
    pub(super) denial: Option<Verdict>,
    pub(super) fresh: Option<Fresh>,
    /// Uses of grants on which the next permit rests.
    pub(super) uses: Option<Box<Resting>>,
}

/// Uses on which the next permit rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resting {
    pub(super) action: ActionId,
    pub(super) uses: Vec<(GrantId, u32)>,
    pub(super) verdict: Option<Verdict>,
}

/// Permits of a resolved gate so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grants {
    pub(super) gate: Box<OpenGate>,
    pub(super) given: Vec<ActionId>,
    pub(super) fresh: Option<Fresh>,
}

/// A permit in the entry before: only its own start may follow as adjacent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    pub(super) permit: PermitId,
    /// Its start must follow at once.
    pub(super) dispatch: bool,
    pub(super) verdict: Option<Verdict>,
}

/// Entry in hand, with what is asked of it again and again.
#[derive(Clone, Copy)]
pub(super) struct Reading<'h> {
    pub(super) header: &'h Header,
    pub(super) at: Timestamp,
    pub(super) first: bool,
}

impl Reading<'_> {
    pub(super) fn unlawful(&self, why: &'static str) -> EvolveError {
        EvolveError::Unlawful { sequence: self.header.sequence, kind: self.header.body.kind().as_str(), why }
    }

    pub(super) fn ensure(&self, holds: bool, why: &'static str) -> Result<(), EvolveError> {
        if holds { Ok(()) } else { Err(self.unlawful(why)) }
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        self.header.verdict.as_ref().map(|v| v.decision)
    }

    pub(super) fn allowed(&self) -> Result<(), EvolveError> {
        self.ensure(self.answer() == Some(Answer::Allow), "policy did not allow it")
    }

    /// The gateway alone begins an operation of its own and says how it ended.
    pub(super) fn by_gateway(&self, operation: bool) -> Result<(), EvolveError> {
        let gateway = self.header.actor == Pseudonym::SYSTEM;
        self.ensure(gateway || !operation, "an operation is carried out by the gateway")
    }

    pub(super) fn same(&self, verdict: Option<&Verdict>) -> Result<(), EvolveError> {
        self.ensure(self.header.verdict.as_ref() == verdict, "it carries another verdict than its append")
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.header.verdict.clone()
    }

    /// Whether policy said anything but yes, an error included.
    pub(super) fn objects(&self) -> bool {
        self.answer() != Some(Answer::Allow)
    }
}

impl Batch {
    pub(super) fn refuse(&mut self, now: Reading<'_>, refusal: &Refusal) {
        if refusal.reason != RefusalReason::Frozen {
            self.denied = true;
            // The first denial is the one that ends the instance, where one does.
            if self.denial.is_none() {
                self.denial = now.verdict();
            }
        }
    }
}

impl Grants {
    pub(super) fn is_complete(&self) -> bool {
        let live = self.gate.live_items().map(|i| i.action);
        live.chain(self.gate.cleared.iter().map(|c| c.action)).all(|action| self.given.contains(&action))
    }
}

pub(super) fn check_header(header: &Header) -> Result<(), EvolveError> {
    if !(1..=SEMANTICS).contains(&header.semantics) || header.body.kind().since() > header.semantics {
        return Err(EvolveError::Semantics(header.semantics));
    }
    if header.stream.kind != StreamKind::Instance {
        return Err(EvolveError::Stream);
    }
    if header.append.index >= header.append.length {
        return Err(EvolveError::Append { sequence: header.sequence, why: "its position is past its end" });
    }
    Ok(())
}
