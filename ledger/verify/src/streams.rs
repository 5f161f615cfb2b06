//! Streams: how their entries chain, and what instances do in them.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use countersign_gateway_flow::Instance;
use countersign_gateway_model::{Digest, GatewayId, InstanceId, StreamId, Timestamp};
use countersign_ledger_entry::{AppendPosition, Header, Stream, StreamKind};
use countersign_ledger_merkle::Hash;

use crate::{InstanceReport, Streams, VerifyError};

/// Sequence, link and append of every stream.
#[derive(Default)]
pub(crate) struct Links {
    heads: HashMap<Stream, (u64, Digest)>,
    /// An append that has begun and is not complete.
    open: Option<Open>,
}

/// What the next entry must be: the append's next one, written by the same gateway at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Open {
    stream: Stream,
    at: AppendPosition,
    by: (u16, GatewayId, u64, Timestamp),
}

impl Links {
    pub(crate) fn follow<B>(&mut self, header: &Header<B>, hash: Hash) -> Result<(), String> {
        let Header { stream, sequence, append: at, .. } = *header;
        let this = Open { stream, at, by: (header.semantics, header.gateway, header.boot, header.claimed) };
        match self.open {
            Some(expected) if expected != this => {
                return Err("it stands in the middle of another append, which is torn".to_owned());
            }
            None if at.index != 0 => return Err("the beginning of its append is missing".to_owned()),
            _ => {}
        }
        let head = self.heads.get(&stream);
        let expected = head.map_or(0, |(last, _)| last.saturating_add(1));
        if sequence != expected {
            return Err(format!("its stream continues with sequence {expected}, not {sequence}"));
        }
        if header.previous != head.map(|(_, hash)| *hash) {
            return Err("it does not name the entry of its stream before it".to_owned());
        }
        let next = AppendPosition { index: at.index.saturating_add(1), length: at.length };
        self.open = (next.index < at.length).then_some(Open { at: next, ..this });
        self.heads.insert(stream, (sequence, Digest(hash.0)));
        Ok(())
    }

    pub(crate) fn finish(&self) -> Result<(), String> {
        match self.open {
            Some(_) => Err("the log ends in the middle of an append, which is torn".to_owned()),
            None => Ok(()),
        }
    }
}

/// The instances, folded by the state machine of the gateway.
#[derive(Default)]
pub(crate) struct StreamsFold {
    instances: HashMap<StreamId, Folded>,
}

struct Folded {
    /// None from the first entry on whose meaning is not known: from there nothing can be said.
    instance: Option<Box<Instance>>,
    entries: u64,
}

impl StreamsFold {
    pub(crate) fn apply(&mut self, index: u64, header: &Header, hash: Hash) -> Result<(), VerifyError> {
        if header.stream.kind != StreamKind::Instance {
            return Ok(());
        }
        let unlawful = |source| VerifyError::Unlawful { index, source };
        let hash = Digest(hash.0);
        match self.instances.entry(header.stream.id) {
            Slot::Vacant(slot) => {
                let instance = Instance::evolve(None, header, hash).map_err(unlawful)?;
                slot.insert(Folded { instance: Some(Box::new(instance)), entries: 1 });
            }
            Slot::Occupied(mut slot) => {
                let folded = slot.get_mut();
                folded.entries = folded.entries.saturating_add(1);
                if let Some(instance) = &mut folded.instance {
                    instance.advance(header, hash).map_err(unlawful)?;
                }
            }
        }
        Ok(())
    }

    /// An instance as far as it is folded; none where its stream is not judged.
    pub(crate) fn instance(&self, id: StreamId) -> Option<&Instance> {
        self.instances.get(&id)?.instance.as_deref()
    }

    /// An entry whose meaning is not known.
    pub(crate) fn unknown<B>(&mut self, header: &Header<B>) {
        if header.stream.kind == StreamKind::Instance {
            let folded = self.instances.entry(header.stream.id).or_insert(Folded { instance: None, entries: 0 });
            folded.instance = None;
            folded.entries = folded.entries.saturating_add(1);
        }
    }

    pub(crate) fn summary(self) -> Streams {
        let mut out = Streams::default();
        for (id, folded) in self.instances {
            let (state, closed, open_starts) = match &folded.instance {
                Some(i) => {
                    (i.state().as_str(), i.is_closed(), u64::try_from(i.open_starts().count()).unwrap_or(u64::MAX))
                }
                None => ("unjudged", false, 0),
            };
            *out.states.entry(state.to_owned()).or_default() += 1;
            out.closed += u64::from(closed);
            out.open_starts += open_starts;
            let id = InstanceId::from_bytes(*id.as_bytes()).to_string();
            out.instances.push(InstanceReport { id, state, closed, entries: folded.entries, open_starts });
        }
        out.instances.sort_by(|a, b| a.id.cmp(&b.id));
        out
    }
}
