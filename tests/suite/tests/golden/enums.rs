//! The number of every variant of every enum that is signed. A new variant does not compile until it stands here.

use std::fmt::Write as _;

use countersign_gateway_model::{Assurance, Decision as Answer, Outcome, PrincipalKind, State};
use countersign_ledger_entry::PayloadRole;
use countersign_ledger_entry::body::*;

macro_rules! lines {
    ($out:ident, $($name:ident { $($variant:ident),+ $(,)? })+) => {$(
        for value in [$($name::$variant),+] {
            // Exhaustive on purpose: this is where a new variant fails to compile.
            let text = match value { $($name::$variant => stringify!($variant),)+ };
            let bytes = minicbor::to_vec(value).unwrap();
            let hex: String = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            writeln!($out, "{}::{text} {hex}", stringify!($name)).unwrap();
        }
    )+};
}

/// One line a variant: its name and its CBOR in hex.
pub(crate) fn numbers() -> String {
    let mut out = String::new();
    lines! { out,
        StreamKind { Instance, Organization, Log }
        PayloadRole { Question, Input, Shown, Justification, Job, Output, Delta, Description }
        Answer { Allow, NeedsApproval, Deny }
        AuthorityMode { Solo, FourEyes }
        State {
            Created, Running, WaitingForHuman, Approved, Rejected, Overridden, Resumed, Completed, Terminated,
        }
        PrincipalKind { Person, Agent, Service, System }
        Assurance { Demo, Secret, Password, Mfa }
        Outcome { Succeeded, Failed, Cancelled, TimedOut, Unknown }
        QuestionKind {
            Start, CallTool, Dispatch, Complete, Terminate, Approve, Reject, Override, Freeze, Lift, Operation,
        }
        OnDeny { Refuse, Terminate }
        Cause { Start, Complete, Terminate, Expiry, Deadline, Gate, Decision, Follow, Denial }
        RefusalReason { Policy, PolicyError, UnknownTool, Frozen }
        GateSubject { Start, Actions, Complete, Terminate, Grant }
        OnTimeout { Reject, Never }
        GateEventKind { Reminder, Comment, Reassign, Escalation, InformationRequested }
        DecisionKind { Approve, Reject, Override }
        Effect { Counted, Resolving, NotEligible, Stale, HardDenied, PolicyError }
        PrincipalChange { Created, Updated, CredentialIssued, CredentialRevoked, Deactivated }
        Step { Proposed, Checked, Tested, Shadowed, Approved, Activated, Failed, Withdrawn, Invariants }
        SignedBy { Local, Threshold }
        SignatureMode { PerEntry, CheckpointOnly }
        Durability { Journal, JournalObjects, JournalClickhouse, All }
        CertifiedBy { Root, Log }
        KeyChange { Added, Retired, Revoked }
        KeyRole { Root, Log, Gateway }
        Finding { Upheld, NotUpheld }
    }
    for kind in Kind::ALL {
        writeln!(out, "Kind::{kind:?} {} {}", kind.number(), kind.as_str()).unwrap();
    }
    out
}
