//! Asking the solver one thing after the other, on a thread with room for deep terms; every failure becomes a doubt.
//!
//! Absent: what is asked (`invariant`, `difference`, `reach`). Read next: `solver`.

use std::fmt;
use std::time::Duration;

use cedar_policy_symcc::err::Error as SymccError;
use cedar_policy_symcc::{CedarSymCompiler, Env};
use serde::Serialize;

use crate::solver::{Failure, Session, Solver};
use crate::subject::SubjectError;

/// Stack of the thread that translates policies: walks of deep expressions recurse.
const ROOM: usize = 256 * 1024 * 1024;

/// Why something is not proved, though it may be true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Doubt {
    /// There is no solver.
    NoSolver,
    /// The solver did not answer in time.
    Timeout {
        /// How long it had for one query.
        seconds: u64,
    },
    /// All queries together took longer than they may.
    OutOfTime {
        /// How long they had.
        seconds: u64,
    },
    /// The solver could not be started, died, or said something unexpected.
    SolverFailed {
        /// Its own words.
        words: String,
    },
    /// The solver gave up.
    Unknown,
    /// What was asked cannot be translated for the solver.
    Unsupported {
        /// In words.
        reason: String,
    },
    /// What was asked is not sound in itself.
    Unsound {
        /// In words.
        reason: String,
    },
    /// The solver's example does not hold when Cedar, or the gateway, judges it.
    ExampleFails {
        /// In words.
        reason: String,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSolver => f.write_str("there is no solver; install cvc5 1.3.1 or name its path"),
            Self::Timeout { seconds } => {
                write!(f, "the solver gave no answer within {seconds} s; give it longer, or ask for less")
            }
            Self::OutOfTime { seconds } => {
                write!(f, "everything together took longer than {seconds} s; give it longer, or ask for less")
            }
            Self::SolverFailed { words } => write!(f, "the solver failed: {words}; try it by hand"),
            Self::Unknown => f.write_str("the solver gave up; say it in simpler terms"),
            Self::Unsupported { reason } => {
                write!(f, "it cannot be put to the solver: {reason}; write tests for it instead")
            }
            Self::Unsound { reason } => write!(f, "{reason}"),
            Self::ExampleFails { reason } => {
                write!(f, "the solver's example does not hold: {reason}; write a test for it")
            }
        }
    }
}

/// A solver that is asked, or none.
pub(crate) struct Prover {
    compiler: Option<CedarSymCompiler<Session>>,
    query: Duration,
    total: Duration,
}

impl Prover {
    fn new(solver: Option<&Solver>) -> Result<Self, Doubt> {
        let (query, total) = solver.map_or_else(Default::default, |s| (s.limits().query, s.limits().total));
        let compiler = solver
            .map(|solver| {
                let failed = |error: SymccError| Doubt::SolverFailed { words: error.to_string() };
                CedarSymCompiler::new(Session::new(solver.clone())).map_err(failed)
            })
            .transpose()?;
        Ok(Self { compiler, query, total })
    }

    /// Whether there is anyone to ask, and time; asked before something costly is translated.
    pub(crate) fn ready(&self) -> Result<(), Doubt> {
        match &self.compiler {
            None => Err(Doubt::NoSolver),
            Some(compiler) if compiler.solver().is_over() => Err(Doubt::OutOfTime { seconds: self.total.as_secs() }),
            Some(_) => Ok(()),
        }
    }

    /// Asks one thing. `None` from the solver: no request does it.
    pub(crate) async fn ask(
        &mut self,
        question: impl AsyncFnOnce(&mut CedarSymCompiler<Session>) -> Result<Option<Env>, SymccError>,
    ) -> Result<Option<Env>, Doubt> {
        self.ready()?;
        let Some(compiler) = &mut self.compiler else { return Err(Doubt::NoSolver) };
        let answer = question(compiler).await;
        answer.map_err(|error| match (compiler.solver_mut().failure(), error) {
            (Some(Failure::Timeout), _) if compiler.solver().is_over() => {
                Doubt::OutOfTime { seconds: self.total.as_secs() }
            }
            (Some(Failure::Timeout), _) => Doubt::Timeout { seconds: self.query.as_secs() },
            (Some(Failure::Broken(words)), _) => Doubt::SolverFailed { words },
            (None, SymccError::SolverUnknown) => Doubt::Unknown,
            (None, SymccError::SolverError(error)) => Doubt::SolverFailed { words: error.to_string() },
            (None, error @ (SymccError::ModelInvalid { .. } | SymccError::ConcretizeError(_))) => {
                Doubt::ExampleFails { reason: error.to_string() }
            }
            (None, error) => Doubt::Unsupported { reason: error.to_string() },
        })
    }
}

/// Runs proofs on a thread of their own and waits for them.
pub(crate) fn with_prover<T: Send>(
    solver: Option<&Solver>,
    run: impl AsyncFnOnce(Result<Prover, Doubt>) -> T + Send,
) -> Result<T, SubjectError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SubjectError::Thread)?;
    std::thread::scope(|scope| {
        let work = move || runtime.block_on(async { run(Prover::new(solver)).await });
        let thread = std::thread::Builder::new().stack_size(ROOM).spawn_scoped(scope, work);
        match thread.map_err(SubjectError::Thread)?.join() {
            Ok(done) => Ok(done),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
