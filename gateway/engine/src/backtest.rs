//! A candidate asked what the ledger says was asked: the source of a backtest, and its way over the log.
//!
//! The log is cut into pieces; each thread takes the next piece and folds it on its own, and the reports merge into the
//! report of the whole. Nothing is committed and nothing waits for it: it reads as any reader of the ledger does, on
//! threads of its own. What a verdict was computed from was kept with it, so nothing of the present is asked. Absent: what
//! a difference means (`policy/bundle`), how the answer travels (HTTP). Read next: `source`.

mod source;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, watch};

use countersign_gateway_model::{OrgId, Principal, PrincipalKind};
use countersign_ledger_log::LogHandle;
use countersign_policy_bundle::{Backtest, BacktestReport, StoredQuestions as _};
use countersign_policy_decide::{EntityRef, Operation};

pub use crate::backtest::source::BacktestWindow;
use crate::backtest::source::{LedgerQuestions, Past, newest, range_of};
use crate::error::EngineError;
use crate::org::Org;
use crate::{Engine, Snapshot};

/// Entries that a thread takes at a time.
const PIECE: u64 = 1024;

/// How far a backtest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacktestProgress {
    /// Entries looked at.
    pub entries: u64,
    /// Entries to look at.
    pub of: u64,
    /// Questions asked.
    pub asked: u64,
}

/// Told after each piece; a break ends the backtest.
pub trait BacktestWatch: Fn(BacktestProgress) -> ControlFlow<()> + Send + Sync {}

impl<F: Fn(BacktestProgress) -> ControlFlow<()> + Send + Sync> BacktestWatch for F {}

/// A backtest whose candidate is accepted and whose turn has come.
pub struct BacktestTurn {
    log: LogHandle,
    candidate: Snapshot,
    threads: usize,
    turn: OwnedMutexGuard<()>,
    ending: watch::Receiver<bool>,
}

impl BacktestTurn {
    /// Asks the candidate. None if `watch` broke it off, or the engine ends: a report of a part would be taken for one of
    /// the whole.
    ///
    /// Dropping the future breaks it off too; the turn is given back when the threads have ended.
    ///
    /// # Errors
    /// [`EngineError::Ledger`] and [`EngineError::Damaged`] if the past cannot be read.
    pub async fn run(
        self,
        window: BacktestWindow,
        watch: impl BacktestWatch + 'static,
    ) -> Result<Option<BacktestReport>, EngineError> {
        let Self { log, candidate, threads, turn, ending } = self;
        let watch = move |progress| if *ending.borrow() { ControlFlow::Break(()) } else { watch(progress) };
        backtest_log(&log, candidate, window, threads, watch, turn).await
    }
}

impl Engine {
    /// Asks a candidate every question of a window of an organization's past, for the gateway's own use: nobody's rights
    /// are asked. Waits for its turn, one backtest at a time in an organization. See [`BacktestTurn::run`].
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for an unknown organization, or what reading the past says.
    pub async fn backtest(
        &self,
        org: OrgId,
        candidate: Snapshot,
        window: BacktestWindow,
        watch: impl BacktestWatch + 'static,
    ) -> Result<Option<BacktestReport>, EngineError> {
        let org = self.org(org)?;
        let turn = Arc::clone(&org.backtest).lock_owned().await;
        self.backtest_turn(&org, candidate, turn).run(window, watch).await
    }

    /// Takes the turn for a backtest of a bundle or a draft that somebody would like to try. Not for agents: what would
    /// have passed teaches one how to get round.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not query policy and read verdicts; [`EngineError::Bundle`] where the
    /// candidate decides nothing; [`EngineError::BacktestRunning`] while another one runs.
    pub async fn begin_backtest(&self, who: &Principal, bundle: Vec<u8>) -> Result<BacktestTurn, EngineError> {
        let org = self.org(who.org)?;
        if who.kind == PrincipalKind::Agent || !who.on_behalf_of.is_empty() {
            return Err(EngineError::NotFound("backtest"));
        }
        self.may_audit(&org, who, "backtest")?;
        self.may_read(&org, who, Operation::QueryPolicy, EntityRef::organization(org.id), "backtest")?;
        let turn = Arc::clone(&org.backtest).try_lock_owned().map_err(|_| EngineError::BacktestRunning)?;
        let (policies, id) = (Arc::clone(self.policies()), org.id);
        let built = tokio::task::spawn_blocking(move || policies.candidate(id, &bundle)).await;
        let candidate = built.map_err(EngineError::damaged)??;
        Ok(self.backtest_turn(&org, candidate, turn))
    }

    fn backtest_turn(&self, org: &Org, candidate: Snapshot, turn: OwnedMutexGuard<()>) -> BacktestTurn {
        BacktestTurn { log: org.log.clone(), candidate, threads: beside_work(), turn, ending: self.ending() }
    }
}

/// Threads that leave room for those who work: half of what there is.
fn beside_work() -> usize {
    all_threads().div_ceil(2)
}

/// As many threads as run at once here.
pub fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Breaks off when whoever waited is gone.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Asks a candidate every question of a window of a log. `kept` is let go when the last thread has ended.
///
/// # Errors
/// [`EngineError::Ledger`] and [`EngineError::Damaged`] if the past cannot be read.
pub async fn backtest_log<K: Send + 'static>(
    log: &LogHandle,
    candidate: Snapshot,
    window: BacktestWindow,
    threads: usize,
    watch: impl BacktestWatch + 'static,
    kept: K,
) -> Result<Option<BacktestReport>, EngineError> {
    let stopped = Arc::new(AtomicBool::new(false));
    let _gone = Gone(Arc::clone(&stopped));
    let mut range = range_of(log, window).await?;
    if let Some(last) = window.last {
        range = newest(log, range, window, last, &stopped).await?;
    }
    let (log, runtime) = (log.clone(), Handle::current());
    let fold = move || {
        let past = Past { log: &log, runtime: &runtime, window };
        let report = fold(&past, &candidate, range, threads.max(1), &watch, &stopped);
        drop(kept);
        report
    };
    tokio::task::spawn_blocking(fold).await.map_err(EngineError::damaged)?
}

fn fold(
    past: &Past<'_>,
    candidate: &Snapshot,
    range: Range<u64>,
    threads: usize,
    watch: &dyn BacktestWatch,
    stopped: &AtomicBool,
) -> Result<Option<BacktestReport>, EngineError> {
    let of = range.end.saturating_sub(range.start);
    let (next, entries, asked) = (AtomicU64::new(range.start), AtomicU64::new(0), AtomicU64::new(0));
    let work = || -> Result<BacktestReport, EngineError> {
        let mut part = Backtest::new(Arc::clone(candidate), past.window.limits);
        while !stopped.load(Ordering::Acquire) {
            let from = next.fetch_add(PIECE, Ordering::Relaxed);
            let piece = from..range.end.min(from.saturating_add(PIECE));
            if piece.is_empty() {
                break;
            }
            let mut source = LedgerQuestions::new(*past, piece.clone());
            while let Some(stored) = source.next()? {
                part.ask(&stored, |digest| source.entity(digest))?;
                asked.fetch_add(1, Ordering::Relaxed);
            }
            let looked = piece.end - piece.start;
            let entries = entries.fetch_add(looked, Ordering::Relaxed) + looked;
            if watch(BacktestProgress { entries, of, asked: asked.load(Ordering::Relaxed) }).is_break() {
                stopped.store(true, Ordering::Release);
            }
        }
        Ok(part.finish())
    };
    // A part that failed fails the whole: the others need not go on.
    let careful = || work().inspect_err(|_| stopped.store(true, Ordering::Release));
    let parts = std::thread::scope(|scope| -> Result<Vec<BacktestReport>, EngineError> {
        let named = |n: usize| std::thread::Builder::new().name(format!("backtest-{n}"));
        // Where no other thread is to be had, this one does it all.
        let others: Vec<_> = (1..threads).filter_map(|n| named(n).spawn_scoped(scope, careful).ok()).collect();
        let mut parts = vec![careful()?];
        for other in others {
            parts.push(other.join().map_err(|_| EngineError::damaged("a thread of the backtest has panicked"))??);
        }
        Ok(parts)
    })?;
    if stopped.load(Ordering::Acquire) {
        return Ok(None);
    }
    Ok(parts.into_iter().reduce(|mut whole, part| {
        whole.merge(part);
        whole
    }))
}
