//! The process runner against the conformance suite and what only it can show, as root and as an ordinary user, at
//! every level that this machine holds.
//!
//! There is no test harness: tests execute this program again as canary, shim and agent, which has to branch off
//! before any thread. Started as root, it also starts itself as an ordinary user.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod ledger;
mod own;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use countersign_runners_contract::conformance::{Bench, CASES, Case};
use countersign_runners_contract::model::{Clock, Name, Timestamp};
use countersign_runners_contract::{Runner, SecretError, SecretRef, SecretSource, SecretValue};
use countersign_runners_process::{GatewayEndpoint, Level, ProcessConfig, ProcessRunner};
use ledger::TestLedger;

pub(crate) const SECRET: &str = "correct-horse-battery-staple";

#[derive(Clone, Copy)]
pub(crate) struct RealClock;

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "shims that really run are timed by the machine's clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }
}

struct OneSecret;

#[async_trait]
impl SecretSource for OneSecret {
    async fn resolve(&self, reference: &SecretRef) -> Result<SecretValue, SecretError> {
        if reference.provider() == "env" && reference.path() == "TOKEN" {
            SecretValue::new(reference, SECRET.into())
        } else {
            Err(SecretError::NoProvider(reference.clone()))
        }
    }
}

pub(crate) enum Folder {
    Own(tempfile::TempDir),
    Other(PathBuf),
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Other(path) => path,
        }
    }
}

/// One runner and the ledger that it trusts, in a folder that goes with it.
pub(crate) struct Place {
    pub folder: Folder,
    pub ledger: TestLedger,
    pub strongest: Level,
    pub gateway: Option<GatewayEndpoint>,
}

impl Place {
    pub(crate) fn new(strongest: Level) -> Self {
        let folder = tempfile::Builder::new().prefix("cs-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        Self { folder: Folder::Own(folder), ledger: TestLedger::new(), strongest, gateway: None }
    }

    /// Somebody else's folder.
    pub(crate) fn at(folder: &Path, ledger: TestLedger, strongest: Level) -> Self {
        Self { folder: Folder::Other(folder.to_owned()), ledger, strongest, gateway: None }
    }

    pub(crate) fn config(&self) -> ProcessConfig {
        let mut config = ProcessConfig::new(self.folder.path().join("runner"), Name::new("process").unwrap());
        config.strongest = self.strongest;
        config.gateway.clone_from(&self.gateway);
        config
    }

    pub(crate) fn open(&self, config: ProcessConfig) -> ProcessRunner {
        let trust = Arc::new(self.ledger.trust());
        ProcessRunner::open(config, trust, Arc::new(OneSecret), Arc::new(RealClock)).unwrap()
    }

    pub(crate) fn runner(&self) -> ProcessRunner {
        self.open(self.config())
    }

    pub(crate) fn run_folder(&self, handle: &countersign_runners_contract::Handle) -> PathBuf {
        self.folder.path().join("runner/runs").join(format!("{}-{}", handle.run, handle.attempt))
    }
}

fn main() {
    countersign_runners_process::shim_main_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [own::LOOK] => own::look_around(),
        [own::DOOMED, folder, level] => {
            let level = if *level == "L1" { Level::L1 } else { Level::L2 };
            own::doomed_gateway(Path::new(folder), level)
        }
        _ => {}
    }
    let filter = filter(&arguments);
    if arguments.iter().any(|argument| argument == "--list") {
        for name in CASES.iter().map(|case| case.name).chain(own::CASES.iter().map(|case| case.name)) {
            println!("{name}: test");
        }
        return;
    }
    let as_user = arguments.iter().any(|argument| argument == "--as-user");
    let root = nix::unistd::geteuid().is_root() && !as_user;
    let nobody = std::thread::scope(|scope| {
        let nobody = root.then(|| scope.spawn(|| run_as_user(&filter)));
        let failed = run_all(&filter, if as_user { "user" } else { "root" });
        failed + nobody.map_or(0, |nobody| nobody.join().unwrap())
    });
    println!("\ntest result: {}. {nobody} failed", if nobody == 0 { "ok" } else { "FAILED" });
    std::process::exit(i32::from(nobody > 0));
}

/// The name that is asked for, among the arguments that a test harness takes.
fn filter(arguments: &[String]) -> String {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" | "-Z" => drop(arguments.next()),
            option if option.starts_with('-') => {}
            name => return name.to_owned(),
        }
    }
    String::new()
}

/// This program once more, as nobody, from a copy that nobody can execute.
fn run_as_user(filter: &str) -> usize {
    let folder = tempfile::Builder::new().prefix("cs-bin-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("process");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let status = std::process::Command::new(&copy)
        .args(["--as-user", filter])
        .current_dir("/tmp")
        .uid(65534)
        .gid(65534)
        .status()
        .unwrap();
    usize::from(!status.success())
}

type Test<'a> = (String, Box<dyn Fn(&tokio::runtime::Runtime) + Send + Sync + 'a>);

/// Cases that run side by side.
const WORKERS: usize = 4;

fn run_all(filter: &str, who: &str) -> usize {
    let best = Place::new(Level::L3).runner().level();
    println!("this machine holds {best} for {who}");
    assert!(best >= Level::L1, "a machine that can sandbox nothing proves nothing here");
    let (levels, missing): (Vec<Level>, Vec<Level>) =
        [Level::L3, Level::L2, Level::L1].into_iter().partition(|level| *level <= best);
    for level in missing {
        println!("not run: {who}::{level}: this machine does not hold it; at L3 a control group has to be delegated");
    }
    let places: Vec<Place> = levels.iter().map(|level| Place::new(*level)).collect();
    let mut tests: Vec<Test<'_>> = Vec::new();
    for place in &places {
        let level = place.strongest;
        for case in CASES.iter().filter(|case| case.name.contains(filter)) {
            tests.push((
                format!("{who}::{level}::{}", case.name),
                Box::new(move |runtime| promise(place, case, runtime)),
            ));
        }
        for case in own::CASES.iter().filter(|case| case.name.contains(filter)) {
            let test = move |runtime: &tokio::runtime::Runtime| runtime.block_on((case.run)(Place::new(level)));
            tests.push((format!("{who}::{level}::{}", case.name), Box::new(test)));
        }
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| test(&runtime)));
                    println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
                    failed.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
                }
            });
        }
    });
    for place in &places {
        let left = leftovers(place.folder.path());
        if !left.is_empty() {
            println!("not cleared away: {left:?}");
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    failed.into_inner()
}

/// One case of the suite.
fn promise(place: &Place, case: &Case, runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let runner = place.runner();
        let restarted = || -> Box<dyn Runner> { Box::new(place.runner()) };
        let order = |wanted| place.ledger.order(wanted);
        let secret = ("secret://env/TOKEN".parse().unwrap(), SECRET);
        (case.run)(&Bench { runner: &runner, restarted: &restarted, order: &order, secret }).await;
    });
}

fn leftovers(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder.join("runner/runs")) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|n| !n.ends_with("reaped"))
        .collect()
}
