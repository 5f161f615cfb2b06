//! The solver's process: started on demand, bounded in time and memory, killed when dropped, its last words kept.
//!
//! Commands of a query are gathered and sent at once; each begins with a reset, so a new process serves as well as the
//! old one after a failure. Absent: what is asked (`prover`). Read next: `prover`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cedar_policy_symcc::SmtLibScript;
use cedar_policy_symcc::solver::{Decision, DecisionWithModel, Solver as Asks, SolverError as SymccError};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// How many bytes of a model are read.
const MAX_MODEL: u64 = 16 * 1024 * 1024;
/// How many bytes of the solver's last words are kept.
const MAX_LAST_WORDS: usize = 4096;

/// How much a solver may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For one query.
    pub query: Duration,
    /// For everything that is asked in one go.
    pub total: Duration,
    /// Address space of the process, in bytes.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { query: Duration::from_secs(10), total: Duration::from_mins(5), memory: 4 * 1024 * 1024 * 1024 }
    }
}

/// A cvc5 program and how much it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solver {
    program: PathBuf,
    limits: Limits,
}

/// Why there is no solver.
#[derive(Debug, thiserror::Error)]
pub enum SolverError {
    /// The configured program is not one.
    #[error("`{program}` is no program that can be run; correct the path, or leave it out to do without proofs")]
    NoProgram {
        /// As configured.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Solver {
    /// The program at `path`, which must be a file.
    pub fn at(path: &Path, limits: Limits) -> Result<Self, SolverError> {
        let refuse = |source| SolverError::NoProgram { program: path.to_owned(), source };
        let program = path.canonicalize().map_err(refuse)?;
        if program.is_file() {
            Ok(Self { program, limits })
        } else {
            Err(refuse(std::io::Error::from(std::io::ErrorKind::IsADirectory)))
        }
    }

    /// `cvc5` in one of the folders, usually those of the search path; `None` if it is in none.
    pub fn find(folders: impl IntoIterator<Item = PathBuf>, limits: Limits) -> Option<Self> {
        folders.into_iter().find_map(|folder| Self::at(&folder.join("cvc5"), limits).ok())
    }

    /// How much it may take.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

/// How a query failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Failure {
    /// No answer in time.
    Timeout,
    /// The process could not be started, died, or said something unexpected.
    Broken(String),
}

/// A conversation with a solver.
pub(crate) struct Session {
    solver: Solver,
    until: Instant,
    commands: Vec<u8>,
    process: Option<Process>,
    failure: Option<Failure>,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    last_words: Arc<Mutex<Vec<u8>>>,
    listening: JoinHandle<()>,
}

impl Process {
    fn start(solver: &Solver) -> std::io::Result<Self> {
        // The shell sets the bound on memory and becomes the solver.
        let mut child = Command::new("sh")
            .arg("-c")
            .arg("ulimit -v \"$0\" && exec \"$@\"")
            .arg((solver.limits.memory / 1024).to_string())
            .arg(&solver.program)
            .args(["--lang", "smt"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let stdout = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        let mut stderr = child.stderr.take().ok_or_else(gone)?;
        let last_words = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&last_words);
        let listening = tokio::spawn(async move {
            let mut piece = [0; 1024];
            while let Ok(n @ 1..) = stderr.read(&mut piece).await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(piece.get(..n).unwrap_or_default());
                let excess = kept.len().saturating_sub(MAX_LAST_WORDS);
                kept.drain(..excess);
            }
        });
        Ok(Self { child, stdin, stdout, last_words, listening })
    }

    async fn send(&mut self, commands: &[u8]) -> std::io::Result<()> {
        self.stdin.write_all(commands).await?;
        self.stdin.flush().await
    }

    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        (&mut self.stdout).take(MAX_MODEL).read_line(&mut line).await?;
        if line.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(line) }
    }

    /// What it said last, once it has had a moment to say it.
    async fn last_words(&mut self) -> String {
        // It may have died of its memory, or of something it says on its way out.
        let ended = tokio::time::timeout(Duration::from_millis(500), async {
            let status = self.child.wait().await;
            // What it said before it ended is read to the end.
            drop((&mut self.listening).await);
            status
        });
        let ended = ended.await;
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(&words).trim().replace('\n', "; ");
        match ended {
            Ok(Ok(status)) if words.is_empty() => format!("it ended with {status}"),
            Ok(Ok(status)) => format!("it ended with {status} and said: {words}"),
            _ if words.is_empty() => "it runs on and says nothing of it".to_owned(),
            _ => format!("it said: {words}"),
        }
    }
}

impl Session {
    /// Nothing is started yet.
    pub(crate) fn new(solver: Solver) -> Self {
        let until = Instant::now() + solver.limits.total;
        Self { solver, until, commands: Vec::new(), process: None, failure: None }
    }

    /// How the last query failed, if the solver is to blame. The next one begins anew.
    pub(crate) fn failure(&mut self) -> Option<Failure> {
        self.commands.clear();
        self.process = None;
        self.failure.take()
    }

    /// Whether everything that was to be asked in one go has had its time.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Sends what was gathered and reads an answer, of one line or of a whole model.
    async fn ask(&mut self, whole: bool) -> Result<String, SymccError> {
        let commands = std::mem::take(&mut self.commands);
        let mut process = match self.process.take() {
            Some(process) => process,
            None => match Process::start(&self.solver) {
                Ok(process) => process,
                Err(error) => return Err(self.broken(format!("it cannot be started: {error}"))),
            },
        };
        let deadline = self.until.min(Instant::now() + self.solver.limits.query);
        let conversation = async {
            process.send(&commands).await?;
            let mut answer = process.line().await?;
            if whole && answer.trim() == "(" {
                loop {
                    let line = process.line().await?;
                    answer.push_str(&line);
                    if line.trim() == ")" {
                        break;
                    }
                    if u64::try_from(answer.len()).unwrap_or(u64::MAX) > MAX_MODEL {
                        return Err(std::io::ErrorKind::FileTooLarge.into());
                    }
                }
            }
            Ok::<_, std::io::Error>(answer)
        };
        match timeout_at(deadline, conversation).await {
            // The process is in the middle of something; dropping it ends it.
            Err(_) => {
                self.failure = Some(Failure::Timeout);
                Err(SymccError::Solver("no answer in time".to_owned()))
            }
            Ok(Err(error)) => {
                let words = process.last_words().await;
                Err(self.broken(format!("{error}; {words}")))
            }
            Ok(Ok(answer)) if answer.starts_with("(error") => {
                let text = answer.trim().trim_start_matches("(error").trim_matches([' ', ')', '"']).to_owned();
                Err(self.broken(text))
            }
            Ok(Ok(answer)) => {
                self.process = Some(process);
                Ok(answer)
            }
        }
    }

    fn broken(&mut self, text: String) -> SymccError {
        self.failure = Some(Failure::Broken(text.clone()));
        SymccError::Solver(text)
    }
}

impl Asks for Session {
    fn smtlib_input(&mut self) -> &mut (dyn AsyncWrite + Unpin + Send) {
        &mut self.commands
    }

    async fn enable_models(&mut self) -> Result<(), SymccError> {
        self.smtlib_input().set_option("produce-models", "true").await.map_err(Into::into)
    }

    async fn check_sat(&mut self) -> Result<Decision, SymccError> {
        self.smtlib_input().check_sat().await?;
        match self.ask(false).await?.trim() {
            "sat" => Ok(Decision::Sat),
            "unsat" => Ok(Decision::Unsat),
            "unknown" => Ok(Decision::Unknown),
            other => Err(self.broken(format!("it answered `{}`", other.escape_debug()))),
        }
    }

    async fn check_sat_with_model(&mut self) -> Result<DecisionWithModel, SymccError> {
        match self.check_sat().await? {
            Decision::Unsat => Ok(DecisionWithModel::Unsat),
            Decision::Unknown => Ok(DecisionWithModel::Unknown),
            Decision::Sat => {
                self.smtlib_input().get_model().await?;
                Ok(DecisionWithModel::Sat { model: self.ask(true).await? })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that reads SMT-LIB and answers as the script says.
    fn program(folder: &Path, script: &str) -> Solver {
        let path = folder.join("cvc5");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let limits = Limits { query: Duration::from_millis(400), ..Limits::default() };
        Solver::find([folder.to_owned()], limits).unwrap()
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    async fn failure(session: &mut Session) -> Option<Failure> {
        assert!(session.check_sat().await.is_err());
        session.failure()
    }

    #[test]
    fn a_program_that_is_not_there_is_no_solver() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Solver::find([folder.path().to_owned()], Limits::default()), None);
        assert!(Solver::at(folder.path(), Limits::default()).is_err(), "a folder is no program");
        let error = Solver::at(&folder.path().join("nowhere"), Limits::default()).unwrap_err();
        assert!(error.to_string().contains("do without proofs"), "{error}");
    }

    #[test]
    fn a_solver_that_does_not_answer_is_stopped_and_the_next_query_has_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let witness = folder.path().join("pid");
        let script =
            format!("if [ -e {0} ]; then echo unsat; else echo $$ > {0}; fi; exec sleep 600", witness.display());
        let solver = program(folder.path(), &script);
        run(async {
            let mut session = Session::new(solver);
            assert_eq!(failure(&mut session).await, Some(Failure::Timeout));
            assert_eq!(session.check_sat().await.unwrap(), Decision::Unsat);
            let pid = std::fs::read_to_string(&witness).unwrap();
            let process = format!("/proc/{}/stat", pid.trim());
            for _ in 0..100 {
                let running = std::fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z"));
                if !running {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("the first process runs on");
        });
    }

    #[test]
    fn a_solver_that_dies_leaves_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let solver = program(folder.path(), "echo 'out of luck' >&2; exit 3");
        run(async {
            let Some(Failure::Broken(text)) = failure(&mut Session::new(solver)).await else { panic!("not broken") };
            assert!(text.contains("out of luck"), "{text}");
        });
    }

    #[test]
    fn an_answer_that_is_none_and_an_error_are_failures() {
        for (script, part) in [("echo maybe; cat", "maybe"), ("echo '(error \"no such sort\")'; cat", "no such sort")] {
            let folder = tempfile::tempdir().unwrap();
            let solver = program(folder.path(), script);
            run(async {
                let Some(Failure::Broken(text)) = failure(&mut Session::new(solver)).await else { panic!("{script}") };
                assert!(text.contains(part), "{text}");
            });
        }
    }

    #[test]
    fn a_solver_does_not_get_more_memory_than_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let solver = program(folder.path(), "ulimit -v; cat >/dev/null");
        let solver = Solver { limits: Limits { memory: 123 * 1024 * 1024, ..solver.limits }, ..solver };
        run(async {
            let Some(Failure::Broken(text)) = failure(&mut Session::new(solver)).await else { panic!("not broken") };
            assert!(text.contains("125952"), "{text}");
        });
    }

    #[test]
    fn a_solver_that_floods_its_errors_keeps_the_last_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let script = "i=0; while [ $i -lt 3000 ]; do echo \"line $i\" >&2; i=$((i+1)); done; exit 1";
        let solver = program(folder.path(), script);
        run(async {
            let Some(Failure::Broken(text)) = failure(&mut Session::new(solver)).await else { panic!("not broken") };
            assert!(text.contains("line 2999") && !text.contains("line 100;") && text.len() < 6000, "{}", text.len());
        });
    }
}
