//! A gate as it was opened, read back: its view, the questions that it holds up, and the terms of a grant that it stands for.
//!
//! Also what counted OVERRIDEs made of it since. Absent: opening (`gates`) and deciding (`decisions`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use countersign_gateway_flow::{Illegal, OpenGate};
use countersign_gateway_model::{ActionId, Digest, GateId, ItemId, Principal, PrincipalKind};
use countersign_ledger_entry::body::GateSubject;
use countersign_ledger_entry::payload::{self, Salt};
use countersign_ledger_entry::{Entry, PayloadRole};
use countersign_policy_decide::{Operation, Question, input};

use crate::api::GateDetail;
use crate::asking::StoredEvidence;
use crate::error::EngineError;
use crate::grants::{GrantTerms, offer_stands};
use crate::org::{Org, instance_stream};
use crate::stream::Held;
use crate::{Engine, Snapshot};

/// What was stored with a gate, and with the OVERRIDEs that were counted at it since.
pub(crate) struct Opened {
    /// Salt and text of the approval view as it is now; none where it was erased. Nobody can be held to what they were shown
    /// then: the gate can be rejected, and nothing else.
    pub(crate) view: Option<(Salt, String)>,
    /// Per item: the canonical action and its questions.
    pub(crate) items: BTreeMap<ItemId, OpenedItem>,
    /// Per action of the same batch that needs nobody.
    pub(crate) cleared: BTreeMap<ActionId, OpenedItem>,
    /// Of a grant: its terms, unless they were erased.
    pub(crate) terms: Option<GrantTerms>,
}

pub(crate) struct OpenedItem {
    pub(crate) action: Value,
    pub(crate) questions: Vec<Question>,
}

impl Engine {
    /// Reads what a gate was opened with, and what counted OVERRIDEs made of it.
    pub(crate) async fn opened(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        held: &Held,
        gate: &OpenGate,
    ) -> Result<Opened, EngineError> {
        let stream = instance_stream(held.fold()?.id());
        // Payloads of the gate's append stand at its gate entry and at the entries around it.
        let from = gate.sequence.saturating_sub(64);
        let mut stored = org.log.stream_entries(stream, from, 66).await.map_err(EngineError::ledger)?;
        let changed: BTreeSet<u64> = gate.items.iter().map(|item| item.asked).chain([gate.view]).collect();
        stored.retain(|entry| Entry::parse(&entry.leaf).is_ok_and(|read| read.header.sequence <= gate.sequence));
        for sequence in changed.iter().copied().filter(|sequence| *sequence > gate.sequence) {
            stored.extend(org.log.stream_entries(stream, sequence, 1).await.map_err(EngineError::ledger)?);
        }
        let mut view = None;
        let mut evidence = Vec::new();
        for entry in stored {
            let read = Entry::parse(&entry.leaf)?.header;
            for reference in &read.payloads {
                match reference.role {
                    PayloadRole::Shown if read.sequence == gate.view => {
                        view = self.salted_payload(org, entry.index, &reference.digest).await?;
                    }
                    PayloadRole::Question => {
                        if let Some((salt, content)) = self.salted_payload(org, entry.index, &reference.digest).await? {
                            evidence.push((salt, content));
                        }
                    }
                    _ => {}
                }
            }
        }
        let view = match view {
            Some((salt, text)) => Some((salt, String::from_utf8(text).map_err(EngineError::damaged)?)),
            None => None,
        };
        let find = |digest: &Digest| {
            let found = evidence.iter().find_map(|(salt, content)| {
                let stored = StoredEvidence::read(content).ok()?;
                let bytes = stored.action.get().as_bytes();
                (payload::salted(payload::ACTION, salt, bytes) == *digest).then_some(stored)
            });
            // What the catalogue in force cannot read any more can be rejected, and not approved: see `stale`.
            found.and_then(|stored| match OpenedItem::read(&stored, snapshot) {
                Ok(read) => Some(read),
                Err(error) => {
                    tracing::warn!(%error, gate = %gate.gate, "a stored question cannot be asked under this policy");
                    None
                }
            })
        };
        let mut items = BTreeMap::new();
        for item in &gate.items {
            if let Some(found) = find(&item.digest) {
                items.insert(item.item, found);
            }
        }
        let mut cleared = BTreeMap::new();
        for action in &gate.cleared {
            if let Some(found) = find(&action.digest) {
                cleared.insert(action.action, found);
            }
        }
        let terms = match &gate.offer {
            Some(offer) => self.grant_terms(org, held, offer.sequence, (&offer.body, offer.lasts)).await?,
            None => None,
        };
        Ok(Opened { view, items, cleared, terms })
    }

    /// A gate with its approval view.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn gate(&self, who: &Principal, id: GateId) -> Result<GateDetail, EngineError> {
        let org = self.org(who.org)?;
        let row = self.gate_row(&org, id).await?;
        let held = self.hold(&org, row.instance).await?;
        let fold = held.fold()?;
        self.describe_gate(&org, &held, id, row.opened, row.expires)?;
        let may = if fold.is_insider(who.pseudonym) {
            Ok(())
        } else {
            self.may_read(&org, who, Operation::ReadGate, Self::gate_entity(&org, id)?, "gate")
        };
        if fold.gate().is_none_or(|open| open.gate != id) {
            org.forget_described(&held.cell);
        }
        may?;
        let snapshot = self.snapshot(org.id);
        let (view, shown_digest, salt) = match fold.gate().filter(|g| g.gate == id) {
            Some(gate) => {
                let opened = self.opened(&org, &snapshot, &held, gate).await?;
                let digest = opened.shown();
                let erased = "The approval view was erased: this gate can be rejected, and nothing else.\n";
                let (salt, text) = opened.view.map_or((None, erased.to_owned()), |(salt, text)| (Some(salt), text));
                (text, digest, salt)
            }
            None => (format!("Gate {id} is closed.\n"), Digest([0; 32]), None),
        };
        let gate = self.gate_record(&org, who, id, row);
        if who.kind != PrincipalKind::Person {
            let view = "The approval view is shown to people only.\n".to_owned();
            return Ok(GateDetail { gate, view, shown_digest: Digest([0; 32]), salt: None });
        }
        Ok(GateDetail { gate, view, shown_digest, salt })
    }
}

impl Opened {
    /// Digest of the view; that of nothing where it was erased.
    pub(crate) fn shown(&self) -> Digest {
        self.view.as_ref().map_or(Digest([0; 32]), shown_digest)
    }

    /// What somebody was shown when they rejected, as far as it can be held to the view.
    ///
    /// # Errors
    /// [`Illegal::StaleView`] for any other decision where the view was erased.
    pub(crate) fn held_to(&self, shown: Option<Digest>, rejects: bool) -> Result<Option<Digest>, Illegal> {
        match &self.view {
            Some(_) => Ok(shown),
            None if rejects => Ok(None),
            None => Err(Illegal::StaleView),
        }
    }

    /// Whether something cannot be asked about under the policy and the tools in force.
    pub(crate) fn is_stale(&self, snapshot: &Snapshot, gate: &OpenGate) -> bool {
        match gate.subject {
            GateSubject::Grant => !offer_stands(snapshot, self.terms.as_ref()),
            _ => gate.live_items().any(|item| !self.items.contains_key(&item.item)),
        }
    }
}

impl OpenedItem {
    fn read(stored: &StoredEvidence<'_>, snapshot: &Snapshot) -> Result<Self, EngineError> {
        let questions = stored
            .questions
            .iter()
            .map(|q| Question::parse(q.get().as_bytes(), snapshot).map_err(EngineError::damaged))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(input) = questions.first().and_then(|question| question.input.as_ref()) {
            let tool = snapshot.tool(input.tool().as_str()).ok_or(EngineError::NotFound("tool"))?;
            // A mask that came into force since would hide a part of it: what was asked for then cannot be permitted now.
            let again = input::parse(tool, input.canonical()).map_err(EngineError::damaged)?;
            if again.canonical() != input.canonical() {
                return Err(EngineError::damaged("policy masks a part of the item's input now"));
            }
        }
        let action = serde_json::from_str(stored.action.get()).map_err(EngineError::damaged)?;
        Ok(Self { action, questions })
    }
}

fn shown_digest((salt, text): &(Salt, String)) -> Digest {
    payload::salted(payload::SHOWN, salt, text.as_bytes())
}
