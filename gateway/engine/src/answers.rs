//! What the state machine answers, in the caller's words: results of actions, refusals, and refusals kept with a key.
//!
//! Absent: who may be told (the callers ask policy first), and HTTP status codes.

use serde_json::{Value, json};

use countersign_gateway_flow::ActionAnswer as FlowAnswer;
use countersign_gateway_model::{RunId, Timestamp};
use countersign_ledger_entry::body::RefusalReason;
use countersign_ledger_log::Appended;

use crate::api::{ActionResult, StartAnswer};
use crate::error::{EngineError, Refused};

pub(crate) fn last_receipt(appended: &Appended) -> Result<countersign_ledger_entry::Receipt, EngineError> {
    appended
        .entries
        .last()
        .map(|entry| entry.receipt.clone())
        .ok_or_else(|| EngineError::damaged("an append without entries"))
}

/// A refusal that is on record, in the caller's words.
pub(crate) fn refused(
    reason: RefusalReason,
    message: String,
    receipt: countersign_ledger_entry::Receipt,
) -> EngineError {
    let (code, message) = refusal_words(reason, message);
    EngineError::Refused(Box::new(Refused { code, message, receipt }))
}

/// A refusal as it is kept with an idempotency key: the same request is refused again, in the same words.
pub(crate) fn refusal_record(reason: RefusalReason, message: &str) -> Value {
    json!({ "refused": reason, "message": message })
}

/// The refusal that [`refusal_record`] kept.
pub(crate) fn refused_before(
    answer: &Value,
    receipt: countersign_ledger_entry::Receipt,
) -> Result<EngineError, EngineError> {
    let reason = answer.get("refused").cloned().unwrap_or_default();
    let reason: RefusalReason = serde_json::from_value(reason).map_err(EngineError::damaged)?;
    let message = answer.get("message").and_then(Value::as_str).unwrap_or_default();
    Ok(refused(reason, message.to_owned(), receipt))
}

/// Problem code and words of a refusal.
pub(crate) fn refusal_words(reason: RefusalReason, message: String) -> (&'static str, String) {
    match reason {
        RefusalReason::Policy => ("policy-denied", message),
        RefusalReason::PolicyError => ("policy-error", "refused: a policy could not be evaluated".to_owned()),
        RefusalReason::UnknownTool => ("tool-unknown", "refused: the catalogue does not list this tool".to_owned()),
        RefusalReason::Frozen => ("frozen", "refused: work is frozen until a person lifts the freeze".to_owned()),
    }
}

/// What a flow answer means for the caller.
pub(crate) fn result_of(
    answer: &FlowAnswer,
    expires: Timestamp,
    run: Option<RunId>,
    message: impl FnOnce() -> String,
) -> ActionResult {
    match answer {
        FlowAnswer::Permitted { permit, .. } => ActionResult::Permitted { permit: *permit, expires },
        FlowAnswer::Begun { permit, sequence, .. } => {
            let start = StartAnswer { permit: *permit, not_after: expires, first: true, fence: *sequence };
            match run {
                Some(run) => ActionResult::Dispatched { run, start },
                None => ActionResult::Started(start),
            }
        }
        FlowAnswer::Waiting { item, .. } => ActionResult::Waiting { item: Some(*item) },
        FlowAnswer::Cleared(_) => ActionResult::Waiting { item: None },
        FlowAnswer::Refused { reason, .. } => {
            let (code, message) = refusal_words(*reason, message());
            ActionResult::Refused { code, message }
        }
        FlowAnswer::Dropped(_) => ActionResult::Refused {
            code: "item-dropped",
            message: "a person decided to go on without this action".to_owned(),
        },
        FlowAnswer::Voided(_) => ActionResult::Refused {
            code: "instance-finished",
            message: "the instance ended before this action was answered".to_owned(),
        },
    }
}
