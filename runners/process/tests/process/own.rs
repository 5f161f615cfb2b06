//! What only this runner can show: torn files, killed shims, the walls as a workload meets them, agents.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::Duration as Span;

use countersign_runners_contract::conformance::Wanted;
use countersign_runners_contract::model::{Digest, Duration};
use countersign_runners_contract::{
    Exit, FailureClass, GapReason, Handle, Health, JobSpec, LogCursor, LogItem, NetworkMode, Observation, Phase,
    Resources, Runner, RunnerError, Scope, Stream,
};
use countersign_runners_process::agent::AgentSpec;
use countersign_runners_process::{ENV_ADDRESS, ENV_SOCKET, GatewayEndpoint, Level, ProcessRunner, Pruned};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ledger::TestLedger;
use crate::{Place, SECRET};

pub(crate) struct OwnCase {
    pub name: &'static str,
    pub run: fn(Place) -> Pin<Box<dyn Future<Output = ()>>>,
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES: &[OwnCase] =
            &[$(OwnCase { name: stringify!($name), run: |place| Box::pin($name(place)) }),*];
    };
}

cases![
    a_workload_meets_walls_on_every_side,
    a_workload_cannot_use_up_the_machine,
    a_run_whose_shim_was_killed_is_lost_and_nothing_of_it_is_left,
    a_shim_that_hangs_does_not_outlive_its_runs_deadline,
    a_shim_that_hangs_does_not_outlive_a_cancellation,
    a_torn_last_frame_is_told_as_a_gap,
    a_run_goes_on_when_the_gateway_is_killed,
    a_run_that_no_shim_began_never_started_and_may_be_retried,
    the_shim_refuses_an_order_that_was_changed_or_is_late,
    a_shim_that_is_asked_to_end_records_what_became_of_the_run,
    a_secret_is_in_no_file_and_no_argument,
    a_run_that_nobody_follows_ends_with_its_lease,
    a_level_below_the_minimum_refuses_runs_and_says_what_to_do,
    a_hidden_folder_does_not_matter_with_namespaces,
    an_agent_reaches_the_gateway_and_nothing_else,
    a_run_reaches_the_gateway_where_its_order_says_so,
    a_program_that_does_not_branch_off_is_found_out,
    a_tree_is_removed_only_when_no_run_and_no_caller_needs_it,
    a_job_that_policy_was_not_enforced_for_is_refused_unless_the_operator_says_otherwise,
];

fn sh(script: &str) -> JobSpec {
    JobSpec::command(["sh", "-c", script])
}

async fn submit(place: &Place, runner: &ProcessRunner, job: JobSpec) -> Handle {
    runner.submit(place.ledger.order(Wanted::job(job)).unwrap()).await.unwrap()
}

async fn a_job_that_policy_was_not_enforced_for_is_refused_unless_the_operator_says_otherwise(place: Place) {
    let job = JobSpec { enforced: false, ..sh("echo done") };
    let runner = place.open(place.config());
    let refused = runner.submit(place.ledger.order(Wanted::job(job.clone())).unwrap()).await.unwrap_err();
    assert!(matches!(refused, RunnerError::Unsupported { .. }), "{refused}");
    assert!(refused.to_string().contains("runner.refuse_unenforced"), "{refused}");
    drop(runner);
    let mut config = place.config();
    config.refuse_unenforced = false;
    let runner = place.open(config);
    let (_, out, _) = whole(&place, &runner, job).await;
    assert_eq!(out, "done\n");
}

async fn finish(runner: &ProcessRunner, handle: &Handle) -> Observation {
    for _ in 0..3000 {
        let seen = runner.observe(handle).await.unwrap();
        if seen.phase.is_final() {
            return seen;
        }
        tokio::time::sleep(Span::from_millis(20)).await;
    }
    panic!("the run does not end");
}

async fn running(runner: &ProcessRunner, handle: &Handle, word: &str) {
    for _ in 0..3000 {
        if text(runner, handle, Stream::Stdout).await.contains(word) {
            return;
        }
        tokio::time::sleep(Span::from_millis(10)).await;
    }
    panic!("`{word}` does not come");
}

async fn items(runner: &ProcessRunner, handle: &Handle) -> Vec<LogItem> {
    let (mut all, mut cursor) = (Vec::new(), LogCursor::default());
    loop {
        let read = runner.logs(handle, cursor).await.unwrap();
        let done = read.items.is_empty() || read.ended();
        all.extend(read.items);
        cursor = read.next;
        if done {
            return all;
        }
    }
}

async fn text(runner: &ProcessRunner, handle: &Handle, wanted: Stream) -> String {
    let mut out = Vec::new();
    for item in items(runner, handle).await {
        if let LogItem::Chunk { stream, bytes, .. } = item
            && stream == wanted
        {
            out.extend(bytes);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Runs a job to its end: what was seen, standard output, standard error.
async fn whole(place: &Place, runner: &ProcessRunner, job: JobSpec) -> (Observation, String, String) {
    let handle = submit(place, runner, job).await;
    let seen = finish(runner, &handle).await;
    let out = text(runner, &handle, Stream::Stdout).await;
    let err = text(runner, &handle, Stream::Stderr).await;
    runner.reap(&handle).await.unwrap();
    (seen, out, err)
}

/// Numbers of the processes whose arguments contain a text.
fn processes(text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&arguments).contains(text) {
            found.push(pid);
        }
    }
    found
}

async fn gone(text: &str) {
    for _ in 0..500 {
        if processes(text).is_empty() {
            return;
        }
        tokio::time::sleep(Span::from_millis(10)).await;
    }
    panic!("`{text}` still runs: {:?}", processes(text));
}

/// A number that stands in the arguments of one process only.
fn mark() -> String {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).unwrap();
    (u32::from_le_bytes(bytes) | 1 << 31).to_string()
}

fn shim_of(place: &Place, handle: &Handle) -> Pid {
    let started: serde_json::Value =
        serde_json::from_slice(&fs::read(place.run_folder(handle).join("started")).unwrap()).unwrap();
    Pid::from_raw(i32::try_from(started["pid"].as_i64().unwrap()).unwrap())
}

async fn a_workload_meets_walls_on_every_side(place: Place) {
    let runner = place.runner();
    let outside = place.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(outside.join("file"), "machine's own").unwrap();
    let own = std::process::id();
    // Each line prints `HOLE` if a wall is not there.
    let script = format!(
        "[ \"$(id -u)\" = 0 ] && echo HOLE root
         cat /etc/shadow && echo HOLE shadow
         cat {out}/file && echo HOLE reads outside
         echo x > {out}/new && echo HOLE writes outside
         echo x > /usr/new && echo HOLE writes /usr
         echo x > /new && echo HOLE writes the root
         rm -rf /usr/bin/env && echo HOLE removes
         kill -0 {own} && echo HOLE signals
         cat /proc/{own}/environ && echo HOLE reads the environment of others
         unshare -Ur true && echo HOLE user namespace
         mount -t tmpfs none /tmp && echo HOLE mounts
         mkdir x; chroot x && echo HOLE chroot
         touch f; chmod u+s f; chown 0 f && echo HOLE chown
         ulimit -n 1000000 && echo HOLE raises limits
         ls /home /root /work && echo HOLE sees the machine
         echo x > /dev/null && echo x > \"$TMPDIR/f\" && echo x > here && [ -e /dev/urandom ] && echo fine
         grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
         ps ax 2>/dev/null | wc -l; hostname; echo $HOME; echo uid $(id -u)",
        out = outside.display()
    );
    let (seen, out, err) = whole(&place, &runner, sh(&script)).await;
    assert_eq!(seen.phase, Phase::Succeeded, "{err}");
    assert!(!out.contains("HOLE"), "{out}\n{err}");
    assert!(out.contains("fine"), "{out}\n{err}");
    assert!(!outside.join("new").exists());
    // Whoever starts as root becomes the configured user, and nobody becomes another than they are.
    let own_user = nix::unistd::geteuid();
    let became = |uid: u32| format!("\nuid {uid}\n");
    if own_user.is_root() {
        assert!(out.contains(&became(place.config().user.uid)), "{out}");
        let mut config = place.config();
        config.user.uid -= 1;
        let other = became(config.user.uid);
        drop(runner);
        let (_, out, err) = whole(&place, &place.open(config), sh("echo; echo uid $(id -u)")).await;
        assert!(out.contains(&other), "{out} {err}");
    } else {
        assert!(out.contains(&became(own_user.as_raw())), "{out}");
    }
    if place.strongest >= Level::L2 {
        for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "\ncountersign\n", "\n/tmp\n"] {
            assert!(out.contains(line), "{line}: {out}\n{err}");
        }
    }
    let enforced = &seen.evidence.enforced;
    for term in ["no_new_privs", "capabilities:none", "seccomp:allow-list", "user:unprivileged"] {
        assert!(enforced.contains(term), "{term}: {enforced:?}");
    }
    assert_eq!(enforced.contains("namespace:pid"), place.strongest >= Level::L2);
    assert_eq!(seen.evidence.isolation, place.strongest.to_string());
}

async fn a_workload_cannot_use_up_the_machine(place: Place) {
    let runner = place.runner();
    let small = |script: &str, change: fn(&mut Resources)| {
        let mut job = sh(script);
        change(&mut job.resources);
        job
    };
    if place.strongest >= Level::L2 {
        // Processes: of twenty at once, not all can be had.
        let script = "i=0; while [ $i -lt 20 ]; do sleep 1 & i=$((i+1)); done; wait; echo all";
        let (seen, out, err) = whole(&place, &runner, small(script, |r| r.pids = 6)).await;
        assert!(!out.contains("all") && err.to_lowercase().contains("fork"), "{:?} {out} {err}", seen.phase);
        assert!(seen.evidence.enforced.contains("rlimit:nproc=6"));
    }
    // Memory.
    let script = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let (seen, out, _) = whole(&place, &runner, small(script, |r| r.memory_bytes = 64 << 20)).await;
    assert!(!out.contains("200000000") && seen.phase != Phase::Succeeded, "{:?} {out}", seen.phase);
    assert!(!seen.oom, "one program that asks for too much is told so: {:?}", seen.phase);
    if place.strongest >= Level::L3 {
        // Many that ask for a little each are seen by a control group alone.
        let script = "i=0; while [ $i -lt 12 ]; do (x=$(head -c 10000000 /dev/zero | tr '\\0' x); sleep 9; echo ${#x}) & \
                      i=$((i+1)); done; wait; echo all";
        let (seen, out, _) = whole(&place, &runner, small(script, |r| r.memory_bytes = 64 << 20)).await;
        assert!(seen.oom && !out.contains("all"), "{:?} {out}", seen.phase);
        assert!(matches!(seen.phase, Phase::Failed { class: FailureClass::Resource, .. }), "{:?}", seen.phase);
    }
    // Processor time.
    let (seen, ..) = whole(&place, &runner, small("while :; do :; done", |r| r.cpu_seconds = 1)).await;
    assert!(matches!(seen.phase, Phase::Failed { class: FailureClass::Resource, .. }), "{:?}", seen.phase);
    // One large file.
    let (seen, ..) = whole(&place, &runner, small("exec head -c 1000000 /dev/zero > f", |r| r.file_bytes = 4096)).await;
    assert!(matches!(seen.phase, Phase::Failed { class: FailureClass::Resource, .. }), "{:?}", seen.phase);
    // Many files: watched, so it may overshoot by what is written between two looks.
    let script = "i=0; while :; do head -c 400000 /dev/zero > f$i; i=$((i+1)); sleep 0.01; done";
    let (seen, ..) = whole(&place, &runner, small(script, |r| r.workspace_bytes = 4 << 20)).await;
    assert!(matches!(seen.phase, Phase::Failed { class: FailureClass::Resource, .. }), "{:?}", seen.phase);
    if place.strongest >= Level::L2 {
        let script =
            "head -c 3000000 /dev/zero > /tmp/f && echo HOLE; head -c 99000000 /dev/zero > /dev/shm/f && echo HOLE";
        let (_, out, err) = whole(&place, &runner, small(script, |r| r.tmp_bytes = 2 << 20)).await;
        assert!(!out.contains("HOLE") && err.contains("space"), "{out} {err}");
    }
}

async fn a_run_whose_shim_was_killed_is_lost_and_nothing_of_it_is_left(place: Place) {
    let runner = place.runner();
    let mark = mark();
    let script = format!("echo before; setsid sleep {mark} & sleep {mark}");
    let handle = submit(&place, &runner, sh(&script)).await;
    running(&runner, &handle, "before").await;
    kill(shim_of(&place, &handle), Signal::SIGKILL).unwrap();
    let seen = finish(&runner, &handle).await;
    assert_eq!(seen.phase, Phase::Lost);
    assert!(!seen.never_started && !seen.may_retry() && seen.times.started.is_some());
    gone(&mark).await;
    let items = items(&runner, &handle).await;
    assert!(items.iter().any(|item| matches!(item, LogItem::Gap { to: None, reason: GapReason::Torn, .. })));
    assert!(matches!(items.last(), Some(LogItem::Eof { stdout: None, stderr: None })));
    // An equal order does not begin it again.
    assert_eq!(runner.observe(&handle).await.unwrap(), seen);
    runner.reap(&handle).await.unwrap();
}

async fn a_shim_that_hangs_does_not_outlive_its_runs_deadline(place: Place) {
    let runner = place.runner();
    let mark = mark();
    let mut job = sh(&format!("echo before; setsid sleep {mark} & sleep {mark}"));
    job.resources.wall = Duration(2_000);
    let handle = submit(&place, &runner, job).await;
    running(&runner, &handle, "before").await;
    kill(shim_of(&place, &handle), Signal::SIGSTOP).unwrap();
    assert!(!processes(&mark).is_empty(), "the workload goes on");
    let seen = finish(&runner, &handle).await;
    assert_eq!(seen.phase, Phase::TimedOut);
    assert!(!seen.never_started && !seen.may_retry() && seen.times.started.is_some());
    gone(&mark).await;
    assert_eq!(runner.observe(&handle).await.unwrap(), seen, "it ends once");
    runner.reap(&handle).await.unwrap();
}

async fn a_shim_that_hangs_does_not_outlive_a_cancellation(place: Place) {
    let runner = place.runner();
    let mark = mark();
    let handle = submit(&place, &runner, sh(&format!("echo before; sleep {mark}"))).await;
    running(&runner, &handle, "before").await;
    kill(shim_of(&place, &handle), Signal::SIGSTOP).unwrap();
    runner.cancel(&handle, Duration(100)).await.unwrap();
    assert_eq!(runner.observe(&handle).await.unwrap().phase, Phase::Cancelling, "its grace is not over");
    let seen = finish(&runner, &handle).await;
    assert_eq!(seen.phase, Phase::Cancelled);
    gone(&mark).await;
    runner.reap(&handle).await.unwrap();
}

async fn a_torn_last_frame_is_told_as_a_gap(place: Place) {
    let runner = place.runner();
    let handle = submit(&place, &runner, sh("printf first; sleep 0.3; printf second; sleep 60")).await;
    running(&runner, &handle, "second").await;
    kill(shim_of(&place, &handle), Signal::SIGKILL).unwrap();
    finish(&runner, &handle).await;
    let log = place.run_folder(&handle).join("log");
    let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(fs::metadata(&log).unwrap().len() - 2).unwrap();
    assert_eq!(text(&runner, &handle, Stream::Stdout).await, "first");
    let torn = LogItem::Gap { stream: Some(Stream::Stdout), from: 5, to: None, reason: GapReason::Torn };
    assert!(items(&runner, &handle).await.contains(&torn));
    runner.reap(&handle).await.unwrap();
}

/// The argument by which this program is a gateway that submits an order and is killed.
pub(crate) const DOOMED: &str = "--doomed-gateway";

/// The gateway of the next case, in a process of its own.
pub(crate) fn doomed_gateway(folder: &Path, level: Level) -> ! {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let place = Place::at(folder, TestLedger::from_seed([5; 32]), level);
        let runner = place.runner();
        let handle = submit(&place, &runner, sh("echo begun; sleep 1; echo survived; exit 6")).await;
        running(&runner, &handle, "begun").await;
        println!("submitted");
        tokio::time::sleep(Span::from_mins(1)).await;
    });
    std::process::exit(1)
}

async fn a_run_goes_on_when_the_gateway_is_killed(place: Place) {
    let place = Place { ledger: TestLedger::from_seed([5; 32]), ..place };
    let mut gateway = Command::new("/proc/self/exe")
        .args([OsString::from(DOOMED), place.folder.path().into(), place.strongest.as_str().into()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(gateway.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "submitted\n");
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    let runner = place.runner();
    let owned = runner.list_owned(Scope::All).await.unwrap();
    assert_eq!(owned.len(), 1);
    assert_eq!(runner.observe(&owned[0]).await.unwrap().phase, Phase::Running);
    let seen = finish(&runner, &owned[0]).await;
    assert_eq!(seen.exit, Some(Exit::Code(6)));
    assert_eq!(text(&runner, &owned[0], Stream::Stdout).await, "begun\nsurvived\n");
    runner.reap(&owned[0]).await.unwrap();
}

async fn a_run_that_no_shim_began_never_started_and_may_be_retried(place: Place) {
    let runner = place.runner();
    // A gateway that dies between the run's name and its shim leaves a folder that nobody holds.
    let mut config = place.config();
    config.program = Some(script(&place, "dies", "case $1 in *shim) exit 9;; esac; exec \"$REAL\" \"$@\""));
    let dying = place.open(config);
    let order = place.ledger.order(Wanted::job(sh("echo x"))).unwrap();
    let refused = dying.submit(order.clone()).await;
    assert!(matches!(refused, Err(RunnerError::Local { .. })), "{refused:?}");
    assert!(runner.observe(&Handle::of(&order)).await.unwrap().may_retry(), "a failed submit is one for good");
    let handle = runner.list_owned(Scope::All).await.unwrap().remove(0);
    unsay(&place, &handle);
    let again = runner.submit(order.clone()).await.unwrap();
    assert_eq!(again, handle);
    assert_eq!(finish(&runner, &handle).await.phase, Phase::Succeeded, "an equal order begins what was not begun");
    runner.reap(&handle).await.unwrap();
    // Looked at first, it is given its last word, and then an equal order does not begin it.
    let order = place.ledger.order(Wanted::job(sh("echo x"))).unwrap();
    assert!(dying.submit(order.clone()).await.is_err());
    let handle = Handle::of(&order);
    unsay(&place, &handle);
    let seen = runner.observe(&handle).await.unwrap();
    assert!(seen.may_retry(), "{seen:?}");
    runner.submit(order).await.unwrap();
    assert_eq!(runner.observe(&handle).await.unwrap(), seen);
    runner.reap(&handle).await.unwrap();
    // A cancellation reaches it, too.
    let order = place.ledger.order(Wanted::job(sh("echo x"))).unwrap();
    assert!(dying.submit(order.clone()).await.is_err());
    let handle = Handle::of(&order);
    unsay(&place, &handle);
    runner.cancel(&handle, Duration(0)).await.unwrap();
    let seen = runner.observe(&handle).await.unwrap();
    assert_eq!((seen.phase, seen.never_started), (Phase::Cancelled, true));
    runner.reap(&handle).await.unwrap();
}

/// Takes the last word back that a failed submit gives: what is left is what a killed gateway leaves.
fn unsay(place: &Place, handle: &Handle) {
    fs::remove_file(place.run_folder(handle).join("result")).unwrap();
}

/// A program that does something before it becomes this one.
fn script(place: &Place, name: &str, body: &str) -> PathBuf {
    let path = place.folder.path().join(name);
    let real = std::env::current_exe().unwrap();
    fs::write(&path, format!("#!/bin/sh\nREAL='{}'\n{body}\n", real.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn the_shim_refuses_an_order_that_was_changed_or_is_late(place: Place) {
    // Between the gateway's check and the shim's, the order is exchanged for one that nobody permitted.
    let donor = TestLedger::new();
    let foreign = donor.order(Wanted::job(sh("echo STOLEN"))).unwrap();
    let sealed = foreign.seal(&donor.trust().log).unwrap();
    let exchange = place.folder.path().join("exchange");
    fs::write(&exchange, sealed).unwrap();
    let flip = "sed -i 's/\"index\":1/\"index\":0/' \"$2/order\"";
    let swap = format!("cat '{}' > \"$2/order\"", exchange.display());
    let wait = "sleep 0.5".to_owned();
    for (name, change) in [("flip", flip.to_owned()), ("swap", swap), ("wait", wait)] {
        let mut config = place.config();
        let body = format!("case $1 in *shim) {change};; esac; exec \"$REAL\" \"$@\"");
        config.program = Some(script(&place, name, &body));
        let runner = place.open(config);
        let late = name == "wait";
        let wanted = Wanted { expires_in_ms: if late { 300 } else { 60_000 }, ..Wanted::job(sh("echo RAN")) };
        let handle = runner.submit(place.ledger.order(wanted).unwrap()).await.unwrap();
        let seen = finish(&runner, &handle).await;
        assert!(matches!(seen.phase, Phase::Failed { class: FailureClass::Policy, .. }), "{name}: {:?}", seen.phase);
        assert!(seen.never_started);
        assert_eq!(text(&runner, &handle, Stream::Stdout).await, "", "{name}");
        runner.reap(&handle).await.unwrap();
    }
}

async fn a_shim_that_is_asked_to_end_records_what_became_of_the_run(place: Place) {
    let runner = place.runner();
    let handle =
        submit(&place, &runner, sh("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")).await;
    running(&runner, &handle, "ready").await;
    kill(shim_of(&place, &handle), Signal::SIGTERM).unwrap();
    let seen = finish(&runner, &handle).await;
    assert!(matches!(seen.phase, Phase::Failed { class: FailureClass::Infra, .. }), "{:?}", seen.phase);
    assert!(!seen.may_retry());
    assert_eq!(text(&runner, &handle, Stream::Stdout).await, "ready\nbye\n");
    runner.reap(&handle).await.unwrap();
}

async fn a_secret_is_in_no_file_and_no_argument(place: Place) {
    let runner = place.runner();
    let mut job = sh("echo ready $TOKEN; sleep 0.5; env");
    job.secrets.insert("TOKEN".into(), "secret://env/TOKEN".parse().unwrap());
    let handle = submit(&place, &runner, job).await;
    running(&runner, &handle, "ready").await;
    assert_eq!(processes(SECRET), Vec::<i32>::new());
    finish(&runner, &handle).await;
    assert!(text(&runner, &handle, Stream::Stdout).await.contains("TOKEN=***"));
    let mut open = vec![place.folder.path().to_owned()];
    let mut files = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            files += 1;
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{}", path.display());
        }
    }
    assert!(files > 5);
    runner.reap(&handle).await.unwrap();
}

async fn a_run_that_nobody_follows_ends_with_its_lease(place: Place) {
    if place.strongest < Level::L2 {
        return;
    }
    let runner = place.runner();
    let mut job = sh("sleep 60");
    job.lease = Some(Duration::from_secs(5));
    let followed = submit(&place, &runner, job.clone()).await;
    let left = submit(&place, &runner, job).await;
    for _ in 0..70 {
        tokio::time::sleep(Span::from_millis(100)).await;
        assert_eq!(runner.observe(&followed).await.unwrap().phase.outcome(), None, "followed, so it goes on");
    }
    assert_eq!(finish(&runner, &left).await.phase, Phase::TimedOut);
    runner.cancel(&followed, Duration(0)).await.unwrap();
    finish(&runner, &followed).await;
    runner.reap(&followed).await.unwrap();
    runner.reap(&left).await.unwrap();
}

async fn a_level_below_the_minimum_refuses_runs_and_says_what_to_do(place: Place) {
    let order = || place.ledger.order(Wanted::job(sh("id -u"))).unwrap();
    let remembered = place.runner();
    assert_eq!(remembered.minimum(), Some(place.strongest));
    let mut weaker = place.config();
    weaker.strongest = Level::L0;
    let runner = place.open(weaker.clone());
    assert_eq!((runner.level(), runner.minimum()), (Level::L0, Some(place.strongest)));
    let Err(RunnerError::Isolation { fix, .. }) = runner.submit(order()).await else { panic!("not refused") };
    assert!(!fix.is_empty());
    assert!(matches!(runner.probe().await.unwrap().health, Health::Unavailable { .. }));
    assert!(runner.doctor().unwrap().advice[0].what.contains("refused"));
    // Nothing is ever run unheld because the first start found nothing.
    weaker.folder = place.folder.path().join("fresh");
    let runner = place.open(weaker.clone());
    assert_eq!(runner.minimum(), None);
    assert!(matches!(runner.submit(order()).await, Err(RunnerError::Isolation { .. })));
    // Asked for by name, it is done, and said.
    weaker.minimum = Some(Level::L0);
    weaker.folder = place.folder.path().join("open");
    let runner = place.open(weaker);
    let mut job = sh("id -u");
    job.network = NetworkMode::Open;
    let handle = runner.submit(place.ledger.order(Wanted::job(job)).unwrap()).await.unwrap();
    let seen = finish(&runner, &handle).await;
    assert_eq!((seen.evidence.isolation.as_str(), seen.phase), ("L0", Phase::Succeeded));
    assert!(seen.evidence.absent.contains("seccomp:allow-list"));
    assert_ne!(text(&runner, &handle, Stream::Stdout).await, "0\n", "not even then as root");
}

async fn a_hidden_folder_does_not_matter_with_namespaces(place: Place) {
    if place.strongest < Level::L2 {
        return;
    }
    let hidden = place.folder.path().join("hidden");
    fs::create_dir(&hidden).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    let mut config = place.config();
    config.folder = hidden.join("runner");
    let runner = place.open(config);
    assert_eq!(runner.level(), place.strongest);
    let handle = submit(&place, &runner, sh("pwd; echo x > f; cat f")).await;
    assert_eq!(finish(&runner, &handle).await.phase, Phase::Succeeded);
    assert_eq!(text(&runner, &handle, Stream::Stdout).await, "/workspace\nx\n");
}

/// The argument by which this program is an agent that looks around.
pub(crate) const LOOK: &str = "--look-around";

/// Inside a sandbox: asks the gateway, and tries everything else.
#[expect(clippy::disallowed_methods, reason = "what the environment holds is what is tested")]
pub(crate) fn look_around() -> ! {
    let variable =
        |name: &str| std::env::vars_os().find(|(key, _)| key == name).map(|(_, value)| value.into_string().unwrap());
    let mut answer = String::new();
    if let Some(path) = variable(ENV_SOCKET) {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"hello\n").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        assert!(std::net::TcpStream::connect("127.0.0.1:22").is_err());
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err(), "no internet socket at all");
    } else {
        let address: std::net::SocketAddr = variable(ENV_ADDRESS).unwrap().parse().unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"hello\n").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        let other = std::net::TcpStream::connect(("127.0.0.1", address.port() ^ 1));
        assert_eq!(other.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "the gateway's port alone");
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
        assert!(UnixStream::pair().is_ok() && UnixListener::bind("x.sock").is_err());
    }
    println!("{answer}");
    let names: Vec<String> = std::env::vars_os()
        .map(|(name, _)| name.into_string().unwrap())
        .filter(|n| !n.starts_with("COUNTER"))
        .collect();
    println!("env {}", names.join(" "));
    std::process::exit(7)
}

/// A gateway that answers every line with a greeting, on a socket that an ordinary user cannot even see.
fn greeting_gateway(place: &mut Place) {
    let folder = place.folder.path().join("gateway");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            let _ = write!(stream, "gateway heard {line}");
        }
    });
    place.gateway = Some(GatewayEndpoint::Unix(path));
}

async fn an_agent_reaches_the_gateway_and_nothing_else(mut place: Place) {
    greeting_gateway(&mut place);
    let runner = place.runner();
    let agent = |arguments: &[&str], program: Option<PathBuf>, name: &str| AgentSpec {
        program,
        arguments: arguments.iter().map(OsString::from).collect(),
        env: [("TASK".to_owned(), OsString::from("look"))].into(),
        folder: place.folder.path().join(name),
        read_only: Vec::new(),
        resources: Resources::default(),
    };
    let own = std::env::current_exe().unwrap();
    let mut looking = runner.start_agent(agent(&[LOOK], Some(own), "agent")).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    looking.take_stdout().unwrap().read_to_string(&mut out).unwrap();
    looking.take_stderr().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(looking.wait().unwrap(), 7, "{out} {err}");
    assert!(out.contains("gateway heard hello"), "{out} {err}");
    let mut names: Vec<&str> = out.lines().last().unwrap().split(' ').skip(1).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LANG", "PATH", "TASK", "TMPDIR"]);
    // Let go of, it ends with everything it started.
    let mark = mark();
    let script = format!("trap '' TERM; setsid sleep {mark} & echo ready; sleep {mark}; sleep {mark}");
    let mut deaf = runner.start_agent(agent(&["sh", "-c", &script], None, "deaf")).unwrap();
    let mut line = String::new();
    BufReader::new(deaf.take_stdout().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert!(!processes(&mark).is_empty());
    drop(deaf);
    gone(&mark).await;
}

async fn a_run_reaches_the_gateway_where_its_order_says_so(mut place: Place) {
    let unreachable = place.runner();
    let mut job = sh("exit 0");
    job.network = NetworkMode::Gateway;
    let refused = unreachable.submit(place.ledger.order(Wanted::job(job.clone())).unwrap()).await;
    assert!(matches!(refused, Err(RunnerError::Unsupported { .. })));
    greeting_gateway(&mut place);
    let mut config = place.config();
    // A copy that the run's user can execute, in a folder that is shown.
    let shown = place.folder.path().join("shown");
    fs::create_dir(&shown).unwrap();
    fs::set_permissions(&shown, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(std::env::current_exe().unwrap(), shown.join("look")).unwrap();
    config.read_only = vec![shown.clone()];
    let runner = place.open(config);
    job.command = vec![shown.join("look").to_str().unwrap().to_owned(), LOOK.to_owned()];
    let (seen, out, err) = whole(&place, &runner, job.clone()).await;
    assert_eq!(seen.exit, Some(Exit::Code(7)), "{out} {err}");
    assert!(out.contains("gateway heard hello"), "{out} {err}");
    job.network = NetworkMode::None;
    let (seen, out, _) = whole(&place, &runner, job).await;
    assert!(seen.exit != Some(Exit::Code(7)) && !out.contains("heard"), "{out}");
    // Ordered open, the machine's network is there and said to be.
    let mut open = sh("exit 0");
    open.network = NetworkMode::Open;
    let (seen, _, err) = whole(&place, &runner, open).await;
    assert_eq!(seen.phase, Phase::Succeeded, "{err}");
    assert!(seen.evidence.enforced.contains("network:as-ordered-open"));
}

async fn a_program_that_does_not_branch_off_is_found_out(place: Place) {
    let mut config = place.config();
    config.program = Some("/bin/true".into());
    let trust = std::sync::Arc::new(place.ledger.trust());
    let secrets = std::sync::Arc::new(countersign_runners_contract::NoSecrets);
    let opened = ProcessRunner::open(config, trust, secrets, std::sync::Arc::new(crate::RealClock));
    assert!(matches!(opened, Err(countersign_runners_process::OpenError::Canary(_))));
}

async fn a_tree_is_removed_only_when_no_run_and_no_caller_needs_it(place: Place) {
    let runner = place.runner();
    let trees = runner.workspaces().clone();
    let source = place.folder.path().join("source");
    fs::create_dir(&source).unwrap();
    let take = |text: &str| {
        fs::write(source.join("file"), text).unwrap();
        trees.snapshot(&source).unwrap().digest
    };
    let (started_from, live, nobodys) = (take("started from"), take("live"), take("nobody's"));
    let age = |digest: Digest| {
        let file = fs::OpenOptions::new().write(true).open(trees.folder().join(digest.to_string())).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Span::from_secs(1_000_000_000)).unwrap();
    };
    let there = |digest| trees.tree(digest).is_ok();
    let prune = || runner.prune(BTreeSet::from([live]), Duration(0));

    assert_eq!(prune().await.unwrap(), Pruned::default(), "what was just taken stays, whatever retention is asked for");
    let mut job = sh("cat file; echo begun; while [ ! -e go ]; do sleep 0.02; done; echo more > file");
    job.workspace = Some(started_from);
    let handle = submit(&place, &runner, job).await;
    [started_from, live, nobodys].into_iter().for_each(age);
    running(&runner, &handle, "begun").await;
    assert_eq!(prune().await.unwrap().trees, 1);
    assert!(
        there(started_from) && there(live) && !there(nobodys),
        "a run started from it, the caller names it, nobody does"
    );

    fs::write(place.run_folder(&handle).join("workspace/go"), "").unwrap();
    let left = finish(&runner, &handle).await.workspace.unwrap();
    [started_from, left].into_iter().for_each(age);
    assert_eq!(prune().await.unwrap().trees, 0, "the run is there until it is reaped");
    runner.reap(&handle).await.unwrap();
    assert_eq!(prune().await.unwrap().trees, 1);
    assert!(!there(started_from), "nobody needs it any more");
    assert!(there(left), "whoever reaps a run may not have named yet what it left");
    age(left);
    assert_eq!(prune().await.unwrap().trees, 1);
    assert!(there(live));

    // A run of a tree that is gone is refused, not begun without it.
    let mut job = sh("true");
    job.workspace = Some(left);
    let order = place.ledger.order(Wanted::job(job)).unwrap();
    assert!(matches!(runner.submit(order).await, Err(RunnerError::Workspace(_))));
    // What cannot be read might name a tree: nothing is removed.
    let handle = submit(&place, &runner, sh("true")).await;
    finish(&runner, &handle).await;
    let setup = place.run_folder(&handle).join("setup");
    let kept = fs::read(&setup).unwrap();
    fs::write(&setup, "{").unwrap();
    let old = take("old");
    age(old);
    assert!(prune().await.is_err());
    assert!(there(old));
    fs::write(&setup, kept).unwrap();
    runner.reap(&handle).await.unwrap();
}
