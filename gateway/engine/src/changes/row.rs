//! How far a change is: one row, written in the append of each step, so that entry and row are durable together.
//!
//! The row is a projection for people and for going on after a crash; what has authority is in the two streams.

use std::collections::BTreeMap;

use countersign_gateway_model::{
    ActionId, Assurance, Digest, GateId, InstanceId, Name, OrgId, Principal, Pseudonym, Scope, Timestamp,
};
use countersign_ledger_entry::body::{PolicyStep, SignedBy, Step};
use countersign_ledger_entry::{Body, Row};
use countersign_policy_bundle::BacktestReport;
use countersign_policy_decide::{BundleFacts, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::changes::names::{Subject, name};
use crate::changes::proofs::InvariantOutcome;
use crate::error::EngineError;

/// Why a change failed whose gate was rejected.
pub(super) const REJECTED: &str = "it was rejected";

/// Why a change failed whose gate expired.
pub(super) const EXPIRED: &str = "nobody approved it in time";

/// What stands in the way where the catalogue in force is not the one that a registration was checked against.
pub(super) const OVERTAKEN: &str = "the tool catalogue changed meanwhile: register it again";

/// Table of changes: instance to row.
pub(crate) const CHANGES: &str = "changes";

/// Table with one row, under [`IN_FORCE`]: which bundle was put in force last, and when.
pub(crate) const ACTIVATIONS: &str = "policy_activations";

/// Its key.
pub(crate) const IN_FORCE: &[u8] = b"in_force";

/// What becomes of one tool: names and digests, nothing of others' text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToolLine {
    pub(crate) name: Name,
    pub(crate) change: String,
    pub(crate) before: Option<Digest>,
    pub(crate) version: Option<Digest>,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// On record; its instance is not there yet.
    Proposed,
    /// Its instance is there; the shadow window runs, or its end is still to be seen.
    Shadowing,
    /// Policy was asked: refused, permitted, or waiting for people.
    Asked,
    /// In force.
    Activated,
    /// Policy, people or a check said no; nothing changed.
    Failed,
    /// Its author, or whoever may stop it, ended it.
    Withdrawn,
}

/// A step with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stepped {
    pub(crate) step: Step,
    pub(crate) at: Timestamp,
}

/// What the candidate would have said to the questions of the shadow window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compared {
    /// Questions on record.
    pub(crate) asked: u64,
    /// Answered as then.
    pub(crate) unchanged: u64,
    /// Answered differently, by kind: `allow_to_deny` and the like.
    pub(crate) changed: BTreeMap<String, u64>,
    /// Not to be answered any more: erased, or of another tool.
    pub(crate) not_computable: u64,
}

/// A change, as far as it is.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and policy reads three of them")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeRow {
    #[serde(default)]
    pub(crate) subject: Subject,
    pub(crate) instance: InstanceId,
    /// Of the bundle or of the catalogue, as all that follows.
    pub(crate) digest: Digest,
    pub(crate) predecessor: Option<Digest>,
    pub(crate) version: u64,
    pub(crate) root_version: u64,
    pub(crate) signed_by: SignedBy,
    /// Blob of the bundle's transport form, or of the catalogue's canonical one.
    pub(crate) bundle: Digest,
    /// Of a catalogue: what becomes of each tool.
    #[serde(default)]
    pub(crate) tools: Vec<ToolLine>,
    /// Blob of the difference in words.
    pub(crate) diff: Digest,
    pub(crate) author: Pseudonym,
    /// What the author's credential was good for: the activation is asked for with it.
    pub(crate) scopes: Vec<Scope>,
    pub(crate) assurance: Assurance,
    pub(crate) proposed: Timestamp,
    pub(crate) window_ends: Timestamp,
    pub(crate) weakens: bool,
    pub(crate) rollback: bool,
    pub(crate) break_glass: bool,
    /// Its shadow window was cut short by one who breaks the glass: without the lift nothing comes of it. Rows that were
    /// written before there was such a thing say no.
    #[serde(default)]
    pub(crate) cut: bool,
    pub(crate) action: Option<ActionId>,
    pub(crate) gate: Option<GateId>,
    pub(crate) compared: Option<Compared>,
    /// What is known of its invariants.
    #[serde(default)]
    pub(crate) proofs: Vec<InvariantOutcome>,
    pub(crate) stage: Stage,
    /// Why it failed, in words.
    pub(crate) reason: Option<String>,
    pub(crate) steps: Vec<Stepped>,
    /// Nothing is left to do: the instance has ended.
    pub(crate) settled: bool,
}

/// When the bundle in force came into force, and what it replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InForce {
    pub(crate) digest: Digest,
    pub(crate) predecessor: Option<Digest>,
    pub(crate) at: Timestamp,
}

impl Compared {
    /// The counts of a backtest.
    pub(super) fn of(report: &BacktestReport) -> Self {
        let counts = &report.all;
        let word = |shift| serde_json::to_value(shift).ok().and_then(|word| word.as_str().map(str::to_owned));
        let changed = counts.changed.iter().filter_map(|(shift, count)| Some((word(shift)?, *count)));
        Self {
            asked: report.asked,
            unchanged: counts.unchanged,
            changed: changed.collect(),
            not_computable: counts.not_computable,
        }
    }
}

impl InForce {
    /// The row of an activation.
    pub(crate) fn row(digest: Digest, predecessor: Option<Digest>, at: Timestamp) -> Result<Row, EngineError> {
        let columns = serde_json::to_vec(&Self { digest, predecessor, at }).map_err(EngineError::damaged)?;
        Ok(Row { table: ACTIVATIONS, key: IN_FORCE.to_vec(), columns: Some(columns) })
    }
}

/// What a change is a change to: a bundle or a catalogue that has passed its checks.
pub(super) struct Checked {
    pub(super) subject: Subject,
    pub(super) digest: Digest,
    pub(super) predecessor: Option<Digest>,
    pub(super) version: u64,
    pub(super) root_version: u64,
    pub(super) signed_by: SignedBy,
    /// Of its stored form.
    pub(super) bytes: Digest,
    /// Of what people are shown.
    pub(super) words: Digest,
}

impl ChangeRow {
    /// A change that nothing has become of yet, without a window.
    pub(super) fn new(instance: InstanceId, author: &Principal, now: Timestamp, of: &Checked) -> Self {
        let Checked { subject, digest, predecessor, version, root_version, signed_by, bytes, words } = *of;
        Self {
            subject,
            instance,
            digest,
            predecessor,
            version,
            root_version,
            signed_by,
            bundle: bytes,
            tools: Vec::new(),
            diff: words,
            author: author.pseudonym,
            scopes: author.scopes.clone(),
            assurance: author.assurance,
            proposed: now,
            window_ends: now,
            weakens: false,
            rollback: false,
            break_glass: false,
            cut: false,
            action: None,
            gate: None,
            compared: None,
            proofs: Vec::new(),
            stage: Stage::Proposed,
            reason: None,
            steps: Vec::new(),
            settled: false,
        }
    }

    /// What the entries of its steps say in their payload.
    pub(super) fn description(&self) -> Value {
        json!({ "instance": self.instance, "action": self.action, "reason": self.reason })
    }

    pub(super) fn to_row(&self) -> Result<Row, EngineError> {
        let columns = serde_json::to_vec(self).map_err(EngineError::damaged)?;
        Ok(Row { table: CHANGES, key: self.instance.as_bytes().to_vec(), columns: Some(columns) })
    }

    pub(super) fn read(columns: &[u8]) -> Result<Self, EngineError> {
        serde_json::from_slice(columns).map_err(EngineError::damaged)
    }

    /// The body of an entry that says that the bundle or the catalogue is as far as `step`.
    pub(super) fn body(&self, step: Step) -> Body {
        let body = PolicyStep {
            step,
            digest: self.digest,
            predecessor: self.predecessor,
            version: self.version,
            root_version: self.root_version,
            signed_by: self.signed_by,
            break_glass: self.break_glass,
        };
        match self.subject {
            Subject::Bundle => Body::Policy(body),
            Subject::Catalogue => Body::Catalogue(body),
        }
    }

    pub(super) fn stepped(&mut self, step: Step, at: Timestamp) {
        self.steps.push(Stepped { step, at });
    }

    /// What policy may know of the candidate now. `author` is the person who proposed it.
    pub(super) fn record(&self, org: OrgId, author: Option<Name>, now: Timestamp) -> Result<Record, EngineError> {
        let facts = BundleFacts {
            author,
            version: self.version,
            checked: true,
            shadowed: self.window_ends <= now,
            weakens: self.weakens,
            rollback: self.rollback,
        };
        Ok(Record::bundle(org, name(&self.digest.to_string())?, facts, now))
    }
}
