//! The questions of a piece of the log, in its order, with the verdicts that were given.
//!
//! Which payload of an entry its verdict answers follows from the entry's kind: a decision's is the first one (who may
//! decide), a gate over several items has one for each, told apart by the digests that the gate names them by. Every
//! payload is held to the digest in its entry. Absent: asking the candidate.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_gateway_model::{Decision, Digest, Name, Timestamp, Verdict};
use countersign_ledger_entry::body::{Body, Gate};
use countersign_ledger_entry::payload;
use countersign_ledger_entry::{Entry, Header, PayloadRef, PayloadRole};
use countersign_ledger_log::{LogHandle, StoredEntry};
use countersign_policy_bundle::{Limits, StoredQuestion, StoredQuestions};
use tokio::runtime::Handle;

use crate::asking::StoredEvidence;
use crate::error::EngineError;

/// Entries read at a time, with all that was kept beside them.
const PAGE: u64 = 128;

/// How far the claimed times of a log may go back from one entry to the next; the ledger refuses more.
const UNORDERED: u64 = 10_000;

/// Which questions of the past are asked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BacktestWindow {
    /// Only those of entries that claim this time or a later one.
    pub since: Option<Timestamp>,
    /// Only those of entries that claim an earlier time.
    pub until: Option<Timestamp>,
    /// Only the newest so many of them. In a window with a beginning, the newest of those.
    pub last: Option<u64>,
    /// How much the report shows of them.
    pub limits: Limits,
}

/// Where the questions are.
#[derive(Clone, Copy)]
pub(super) struct Past<'l> {
    pub(super) log: &'l LogHandle,
    pub(super) runtime: &'l Handle,
    pub(super) window: BacktestWindow,
}

/// Entries of the window: from the first that may be in it, to the newest that the log has now.
pub(super) async fn range_of(log: &LogHandle, window: BacktestWindow) -> Result<Range<u64>, EngineError> {
    let size = log.checkpoint().checkpoint().size;
    let start = match window.since {
        Some(since) => first_at(log, size, Timestamp(since.0.saturating_sub(UNORDERED))).await?,
        None => 0,
    };
    let end = match window.until {
        Some(until) => first_at(log, size, Timestamp(until.0.saturating_add(UNORDERED))).await?,
        None => size,
    };
    Ok(start..end.max(start))
}

/// Index of the first entry that claims `time` or a later one, give or take what is unordered.
async fn first_at(log: &LogHandle, size: u64, time: Timestamp) -> Result<u64, EngineError> {
    let (mut low, mut high) = (0, size);
    while low < high {
        let middle = low + (high - low) / 2;
        let page = log.entries(middle..middle + 1).await.map_err(EngineError::ledger)?;
        let entry = page.first().ok_or_else(|| EngineError::damaged("entries are missing"))?;
        if Entry::parse(&entry.leaf)?.header.claimed < time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The end of a range that holds its newest `wanted` questions, as far as whole entries go.
pub(super) async fn newest(
    log: &LogHandle,
    range: Range<u64>,
    window: BacktestWindow,
    wanted: u64,
    stopped: &AtomicBool,
) -> Result<Range<u64>, EngineError> {
    let (mut start, mut found) = (range.end, 0_u64);
    if wanted == 0 {
        return Ok(range.end..range.end);
    }
    while start > range.start && !stopped.load(Ordering::Acquire) {
        let from = start.saturating_sub(PAGE).max(range.start);
        let page = log.entries(from..start).await.map_err(EngineError::ledger)?;
        for stored in page.iter().rev() {
            let header = Entry::parse(&stored.leaf)?.header;
            found += u64::try_from(asked(&header, window).len()).unwrap_or(u64::MAX);
            if found >= wanted {
                return Ok(stored.index..range.end);
            }
        }
        start = from;
    }
    Ok(start..range.end)
}

/// The question payloads of an entry that its verdict answers.
fn asked(header: &Header, window: BacktestWindow) -> Vec<PayloadRef> {
    let early = window.since.is_some_and(|since| header.claimed < since);
    let late = window.until.is_some_and(|until| header.claimed >= until);
    if header.verdict.is_none() || early || late {
        return Vec::new();
    }
    let questions = header.payloads.iter().filter(|payload| payload.role == PayloadRole::Question).copied();
    match header.body {
        // What follows the first is asked of those who decide next, and has no verdict here.
        Body::Decision(_) => questions.take(1).collect(),
        _ => questions.collect(),
    }
}

/// A question of an entry, to be read.
struct Wanted {
    index: u64,
    reference: PayloadRef,
    verdict: Verdict,
    determining: Vec<Name>,
    /// The gate whose items it is one of.
    gate: Option<Gate>,
}

/// The questions of a piece.
pub(super) struct LedgerQuestions<'l> {
    past: Past<'l>,
    range: Range<u64>,
    waiting: VecDeque<(Wanted, Option<Vec<u8>>)>,
}

impl<'l> LedgerQuestions<'l> {
    pub(super) fn new(past: Past<'l>, range: Range<u64>) -> Self {
        Self { past, range, waiting: VecDeque::new() }
    }

    /// Reads entries until there is a question among them, or none are left.
    fn fill(&mut self) -> Result<(), EngineError> {
        while self.waiting.is_empty() && !self.range.is_empty() {
            let page = self.range.start..self.range.end.min(self.range.start + PAGE);
            let entries = self.past.runtime.block_on(self.past.log.entries(page.clone()));
            let entries = entries.map_err(EngineError::ledger)?;
            if u64::try_from(entries.len()).ok() != Some(page.end - page.start) {
                return Err(EngineError::damaged("entries are missing"));
            }
            let mut found = Vec::new();
            for stored in &entries {
                found.extend(wanted(stored, self.past.window)?);
            }
            if let (Some(first), Some(last)) = (found.first(), found.last()) {
                // A question each would cost a wake-up each.
                let held = self.past.runtime.block_on(self.past.log.payloads_of(first.index..last.index + 1));
                let held = held.map_err(EngineError::ledger)?.into_iter();
                let mut held: HashMap<_, _> = held.map(|p| ((p.index, p.digest), p.bytes)).collect();
                self.waiting.extend(found.into_iter().map(|wanted| {
                    let bytes = held.remove(&(wanted.index, wanted.reference.digest));
                    (wanted, bytes)
                }));
            }
            self.range.start = page.end;
        }
        Ok(())
    }
}

fn wanted(stored: &StoredEntry, window: BacktestWindow) -> Result<Vec<Wanted>, EngineError> {
    let header = Entry::parse(&stored.leaf)?.header;
    let references = asked(&header, window);
    let Some(verdict) = &header.verdict else { return Ok(Vec::new()) };
    let several = references.len() > 1;
    let gate = match &header.body {
        Body::Gate(gate) if several => Some(gate),
        _ => None,
    };
    let determining: Vec<Name> = header.determining.iter().flatten().cloned().collect();
    let one = |reference| Wanted {
        index: stored.index,
        reference,
        verdict: verdict.clone(),
        determining: determining.clone(),
        gate: gate.cloned(),
    };
    Ok(references.into_iter().map(one).collect())
}

impl Wanted {
    /// What was said to this one, where the entry's verdict is the strictest over several.
    fn verdict(&self, salt: &payload::Salt, content: &[u8]) -> Result<Verdict, EngineError> {
        let Some(gate) = &self.gate else { return Ok(self.verdict.clone()) };
        let stored = StoredEvidence::read(content).map_err(EngineError::damaged)?;
        let digest = payload::salted(payload::ACTION, salt, stored.action.get().as_bytes());
        if gate.cleared.iter().any(|item| item.digest == digest) {
            return Ok(Verdict::allow());
        }
        let item = gate.items.iter().find(|item| item.digest == digest);
        let item = item.ok_or_else(|| EngineError::damaged("a question of a gate belongs to none of its items"))?;
        Ok(Verdict::needs_approval(item.rules.iter().map(|rule| rule.rule.clone()).collect()))
    }

    fn read(self, bytes: Option<Vec<u8>>) -> Result<StoredQuestion, EngineError> {
        let Self { index, reference, .. } = &self;
        let Some(bytes) = bytes else {
            // What was erased is named by a fact that nobody has: it is counted as not computable, and why.
            let Self { index, reference, verdict, determining, .. } = self;
            return Ok(StoredQuestion {
                index,
                questions: Vec::new(),
                entities: vec![reference.digest],
                verdict,
                determining,
            });
        };
        if payload::digest(&bytes) != reference.digest {
            return Err(EngineError::damaged(format!(
                "the question of entry {index} has other bytes than its entry says"
            )));
        }
        let (salt, content) =
            payload::open(&bytes).ok_or_else(|| EngineError::damaged("a payload without its salt"))?;
        let verdict = self.verdict(&salt, content)?;
        // Who allowed one item of several is not on record; who asked for people is.
        let determining = if verdict.decision == Decision::Allow && self.gate.is_some() {
            Vec::new()
        } else {
            self.determining.clone()
        };
        StoredQuestion::from_payload(self.index, content, verdict, determining).map_err(EngineError::damaged)
    }
}

impl StoredQuestions for LedgerQuestions<'_> {
    type Error = EngineError;

    fn next(&mut self) -> Result<Option<StoredQuestion>, EngineError> {
        self.fill()?;
        let Some((wanted, bytes)) = self.waiting.pop_front() else { return Ok(None) };
        wanted.read(bytes).map(Some)
    }

    fn entity(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, EngineError> {
        self.past.runtime.block_on(self.past.log.blob(digest)).map_err(EngineError::ledger)
    }
}
