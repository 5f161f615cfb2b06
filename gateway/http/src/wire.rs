//! Types of the wire that several operations share. Written by hand from the engine's types, so that neither drives
//! the other.
//!
//! Ids, names and digests travel as the texts that `gateway/model` prints; times as RFC 3339. Words that may grow are
//! open strings in the document, with the known ones in the description.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gateway_engine as engine;
use countersign_gateway_model::{ActionId, GateId, ItemId, Name, PermitId, RunId, Timestamp};
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// An instant: RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

/// A page of a list, in ledger order.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Cursor of the next page, to be sent as `after`; absent: this is the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

impl<T> Page<T> {
    pub(crate) fn of<R>(page: engine::Page<R>, wire: impl FnMut(R) -> T) -> Self {
        Self { items: page.items.into_iter().map(wire).collect(), next: page.next }
    }
}

/// Proof that an entry is in the log: a leaf hash, a Merkle inclusion proof (RFC 6962), and the signed checkpoint that
/// the proof leads to. It holds without trust in this gateway: check it under the root key that you were configured
/// with.
#[derive(ToSchema)]
#[schema(as = Receipt, example = json!({
    "index": 41,
    "leaf_hash": "5b0f6b2c3a9d4e1f8c7a6b5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f",
    "proof": ["q7Zq0m2hW8u3b0xG6y1c5n4v9k2j8h7g6f5d4s3a2p0="],
    "checkpoint": "countersign/log_0192\n42\nq7Zq0m2hW8u3b0xG6y1c5n4v9k2j8h7g6f5d4s3a2p0=\n\n— gw wXyz…\n"
}))]
#[expect(dead_code, reason = "only describes what `Receipt` writes")]
struct ReceiptShape {
    /// Place in the log.
    index: u64,
    /// Leaf hash, hex.
    leaf_hash: String,
    /// Inclusion proof, leaf side first; base64.
    proof: Vec<String>,
    /// The checkpoint as a signed note.
    checkpoint: String,
}

/// A receipt, written without copying its proof.
pub(crate) struct Receipt(pub(crate) engine::Receipt);

struct Hex<'a>(&'a [u8; 32]);

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(const_hex::Buffer::<32>::new().format(self.0))
    }
}

/// 32 bytes in base64: 44 characters, on the stack.
pub(crate) struct Hash(pub(crate) [u8; 32]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; 44];
        let length = STANDARD.encode_slice(self.0, &mut text).map_err(serde::ser::Error::custom)?;
        let text = text.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
        s.serialize_str(text.unwrap_or_default())
    }
}

struct Proof<'a>(&'a engine::Receipt);

impl Serialize for Proof<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.proof.iter().map(|hash| Hash(hash.0)))
    }
}

impl Serialize for Receipt {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut object = s.serialize_struct("Receipt", 4)?;
        object.serialize_field("index", &self.0.index)?;
        object.serialize_field("leaf_hash", &Hex(&self.0.leaf_hash.0))?;
        object.serialize_field("proof", &Proof(&self.0))?;
        object.serialize_field("checkpoint", self.0.checkpoint.note())?;
        object.end()
    }
}

impl PartialSchema for Receipt {
    fn schema() -> RefOr<Schema> {
        ReceiptShape::schema()
    }
}

impl ToSchema for Receipt {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Receipt")
    }
}

impl From<engine::Receipt> for Receipt {
    fn from(receipt: engine::Receipt) -> Self {
        Self(receipt)
    }
}

/// Where something is that waits for people.
#[derive(Serialize, ToSchema)]
pub(crate) struct GateLink {
    /// The gate.
    #[schema(value_type = String, example = "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a")]
    id: GateId,
    /// Where to read it.
    #[schema(example = "/api/v1/gates/gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a")]
    href: String,
}

impl From<GateId> for GateLink {
    fn from(id: GateId) -> Self {
        Self { href: gate_path(id), id }
    }
}

pub(crate) fn gate_path(id: GateId) -> String {
    format!("/api/v1/gates/{id}")
}

/// A permit that is not yet consumed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Permit {
    /// The permit: good for one start.
    #[schema(value_type = String, example = "perm_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a")]
    pub(crate) id: PermitId,
    /// Not to be started after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) expires: Option<Time>,
}

/// A consumed permit: the action may be carried out, by whoever got the first answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct Start {
    /// The permit that was consumed.
    #[schema(value_type = String)]
    permit: PermitId,
    /// Nothing may be begun after this.
    #[schema(value_type = String, format = DateTime)]
    not_after: Time,
    /// Only the first answer to a start is authority. Where this is `false`, treat the action as of unknown outcome.
    first: bool,
    /// Sequence of the start in its instance's stream; what carries a lower one is refused.
    fence: u64,
}

impl From<engine::StartAnswer> for Start {
    fn from(start: engine::StartAnswer) -> Self {
        Self { permit: start.permit, not_after: Time(start.not_after), first: start.first, fence: start.fence }
    }
}

/// What is permitted in place of what was sent. Carry out this input and no other: another one is not permitted.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "input": { "branch": "staging", "message": "fix" }, "changed_by": ["override"] }))]
pub(crate) struct Instead {
    /// The whole input, canonical JSON.
    #[serde(serialize_with = "as_it_is")]
    #[schema(value_type = Object)]
    input: Arc<[u8]>,
    /// What changed it: `mask` (policy hides a part of it from everybody), `transform` (policy asked for it), `override` (a
    /// person changed it at a gate). More words may come.
    changed_by: Vec<&'static str>,
}

fn as_it_is<S: Serializer>(json: &Arc<[u8]>, s: S) -> Result<S::Ok, S::Error> {
    serde_json::from_slice::<&RawValue>(json).map_err(serde::ser::Error::custom)?.serialize(s)
}

impl From<engine::Instead> for Instead {
    fn from(instead: engine::Instead) -> Self {
        let changed_by = instead.changed_by.into_iter().map(engine::ChangedBy::as_str).collect();
        Self { input: instead.input, changed_by }
    }
}

/// A refusal as the agent may know it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Refusal {
    /// Problem code; its page is `/problems/{code}`.
    #[schema(value_type = String, example = "policy-denied")]
    code: Cow<'static, str>,
    /// What the policy lets the caller know.
    #[schema(example = "refused by policy")]
    detail: String,
}

/// What became of one proposed action.
#[derive(Serialize, ToSchema)]
pub(crate) struct Answer {
    /// The action.
    #[schema(value_type = String, example = "act_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a")]
    pub(crate) action: ActionId,
    /// The tool.
    #[schema(value_type = String, example = "repo.read_file")]
    pub(crate) tool: Name,
    /// `permitted`, `started`, `dispatched`, `waiting` or `refused`; after a wait also what became of it since, as in
    /// `GET /api/v1/actions/{id}`. More words may come.
    #[schema(value_type = String, example = "started")]
    pub(crate) status: Cow<'static, str>,
    /// The permit, where there is one that is not yet consumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permit: Option<Permit>,
    /// The start, where the permit was consumed by this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<Start>,
    /// What is permitted, where that is not what was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instead: Option<Instead>,
    /// The run, where a runner carries it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) run: Option<RunId>,
    /// The item of the gate, where it waits for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) item: Option<ItemId>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refusal: Option<Refusal>,
}

impl From<engine::ActionAnswer> for Answer {
    fn from(answer: engine::ActionAnswer) -> Self {
        use engine::ActionResult;
        let mut wire = Self {
            action: answer.action,
            tool: answer.tool,
            status: Cow::Borrowed("permitted"),
            permit: None,
            start: None,
            instead: answer.instead.map(Into::into),
            run: None,
            item: None,
            refusal: None,
        };
        match answer.result {
            ActionResult::Permitted { permit, expires } => {
                wire.permit = Some(Permit { id: permit, expires: Some(Time(expires)) });
            }
            ActionResult::Started(start) => {
                wire.status = Cow::Borrowed("started");
                wire.start = Some(start.into());
            }
            ActionResult::Dispatched { run, start } => {
                wire.status = Cow::Borrowed("dispatched");
                wire.run = Some(run);
                wire.start = Some(start.into());
            }
            ActionResult::Waiting { item } => {
                wire.status = Cow::Borrowed("waiting");
                wire.item = item;
            }
            ActionResult::Refused { code, message } => {
                wire.status = Cow::Borrowed("refused");
                wire.refusal = Some(Refusal { code: Cow::Borrowed(code), detail: message });
            }
        }
        wire
    }
}

/// How far an approval rule is met.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "these are the names on the wire")]
pub(crate) struct Rule {
    /// The rule.
    #[schema(value_type = String, example = "merge-needs-a-maintainer")]
    rule: Name,
    /// What the bundle calls it.
    title: String,
    /// Persons needed.
    quorum: u32,
    /// Persons counted so far.
    counted: u32,
    /// Whether it is met.
    met: bool,
    /// Whether it is met because somebody lifted it without its quorum.
    lifted: bool,
    /// Whether the policy in force lets somebody lift it.
    liftable: bool,
    /// Roles of which a voter must hold one; empty: any.
    #[schema(value_type = Vec<String>)]
    roles: Vec<Name>,
}

impl From<engine::RuleProgress> for Rule {
    fn from(rule: engine::RuleProgress) -> Self {
        let engine::RuleProgress { rule, quorum, counted, met, lifted, liftable, title, roles } = rule;
        Self { rule, title, quorum, counted, met, lifted, liftable, roles }
    }
}

/// What policy said.
#[derive(Serialize, ToSchema)]
pub(crate) struct Verdict {
    /// `allow`, `needs_approval` or `deny`.
    #[schema(value_type = String, example = "allow")]
    decision: countersign_gateway_model::Decision,
    /// Approval rules that stood in the way.
    #[schema(value_type = Vec<String>)]
    rules: Vec<Name>,
    /// A rule that could have refused could not be evaluated.
    error: bool,
}

impl From<countersign_gateway_model::Verdict> for Verdict {
    fn from(verdict: countersign_gateway_model::Verdict) -> Self {
        Self { decision: verdict.decision, rules: verdict.rules, error: verdict.error }
    }
}

/// A change that is on record.
#[derive(Serialize, ToSchema)]
pub(crate) struct Recorded {
    /// Proof of its entry.
    pub(crate) receipt: Receipt,
}
