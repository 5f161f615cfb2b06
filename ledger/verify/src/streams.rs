//! Streams: how their entries chain, and what instances do in them.

use std::collections::{BTreeMap, HashMap, HashSet};

use countersign_gateway_flow::Instance;
use countersign_gateway_model::Digest;
use countersign_ledger_entry::{AppendPosition, Header, Stream, StreamKind};
use countersign_ledger_merkle::Hash;

use crate::{Streams, VerifyError};

/// Sequence, link and append of every stream.
#[derive(Default)]
pub(crate) struct Links {
    heads: HashMap<Stream, (u64, Digest)>,
    /// An append that has begun and is not complete: its stream and the place of the next entry.
    open: Option<(Stream, AppendPosition)>,
}

impl Links {
    pub(crate) fn follow(
        &mut self,
        stream: Stream,
        sequence: u64,
        previous: Option<Digest>,
        at: AppendPosition,
        hash: Hash,
    ) -> Result<(), String> {
        let head = self.heads.get(&stream);
        if sequence != head.map_or(0, |(last, _)| last.saturating_add(1)) {
            return Err(format!("sequence {sequence} is not the next one of its stream"));
        }
        if previous != head.map(|(_, hash)| *hash) {
            return Err("it does not name the entry of its stream before it".to_owned());
        }
        match self.open {
            Some((in_append, expected)) if in_append != stream || expected != at => {
                return Err("it stands in the middle of another append".to_owned());
            }
            None if at.index != 0 => return Err("its append has no beginning".to_owned()),
            _ => {}
        }
        let next = AppendPosition { index: at.index.saturating_add(1), length: at.length };
        self.open = (next.index < at.length).then_some((stream, next));
        self.heads.insert(stream, (sequence, Digest(hash.0)));
        Ok(())
    }

    pub(crate) fn finish(&self) -> Result<(), String> {
        match self.open {
            Some(_) => Err("the log ends in the middle of an append".to_owned()),
            None => Ok(()),
        }
    }
}

/// The instances, folded by the state machine of the gateway.
#[derive(Default)]
pub(crate) struct StreamsFold {
    instances: HashMap<Stream, Instance>,
    /// Streams with an entry of an unknown kind: from there on nothing can be said of them.
    unjudged: HashSet<Stream>,
}

impl StreamsFold {
    pub(crate) fn apply(&mut self, index: u64, header: &Header, hash: Hash) -> Result<(), VerifyError> {
        if header.stream.kind != StreamKind::Instance || self.unjudged.contains(&header.stream) {
            return Ok(());
        }
        let before = self.instances.remove(&header.stream);
        let after = Instance::evolve(before, header, Digest(hash.0))
            .map_err(|source| VerifyError::Unlawful { index, source: Box::new(source) })?;
        self.instances.insert(header.stream, after);
        Ok(())
    }

    pub(crate) fn unknown(&mut self, stream: Stream) {
        self.instances.remove(&stream);
        self.unjudged.insert(stream);
    }

    pub(crate) fn summary(&self) -> Streams {
        let mut states: BTreeMap<String, u64> = BTreeMap::new();
        let (mut closed, mut open_starts) = (0, 0);
        for instance in self.instances.values() {
            *states.entry(instance.state().as_str().to_owned()).or_default() += 1;
            closed += u64::from(instance.is_closed());
            open_starts += u64::try_from(instance.open_starts().count()).unwrap_or(u64::MAX);
        }
        if !self.unjudged.is_empty() {
            states.insert("unjudged".to_owned(), u64::try_from(self.unjudged.len()).unwrap_or(u64::MAX));
        }
        let instances = self.instances.len() + self.unjudged.len();
        Streams { instances: u64::try_from(instances).unwrap_or(u64::MAX), closed, states, open_starts }
    }
}
