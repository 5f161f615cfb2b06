//! The promises of a runner as a suite: every adapter passes the same cases, the real backend behind it.
//!
//! A backend gives a [`Bench`]: the runner, a way to see it as a restarted gateway would, and a factory of orders on a
//! ledger of its own. Each case makes its runs, and clears them away. A broken promise panics with what was expected.
//! Workloads are POSIX shell. Absent: what only one backend can show (a torn log file, a killed shim): its own tests.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a broken promise is a failed test"
)]

use std::future::Future;
use std::pin::Pin;
use std::time::Duration as Span;

use countersign_gateway_model::{Digest, Duration, RunId};
use sha2::{Digest as _, Sha256};

use crate::{
    Artifact, Exit, FailureClass, GapReason, Handle, Health, Input, JobSpec, LogCursor, LogItem, Observation, Order,
    OrderError, Pattern, Phase, Refusal, Runner, RunnerError, Scope, SecretRef, Stream, StreamEnd, TreePath,
};

/// What an order is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The job.
    pub job: JobSpec,
    /// The run; none mints one.
    pub run: Option<RunId>,
    /// The attempt.
    pub attempt: u32,
    /// The fence.
    pub fence: u64,
    /// The start expires so many milliseconds from now; negative: it has expired.
    pub expires_in_ms: i64,
    /// Bind the start to another job than the one in the order.
    pub forged: bool,
    /// Bind the start to another backend.
    pub elsewhere: bool,
}

impl Wanted {
    /// An order for a job, good for a minute.
    pub fn job(job: JobSpec) -> Self {
        Self { job, run: None, attempt: 1, fence: 3, expires_in_ms: 60_000, forged: false, elsewhere: false }
    }
}

/// A backend under test.
pub struct Bench<'a> {
    /// The runner.
    pub runner: &'a dyn Runner,
    /// The same backend, as a gateway that was killed and started again sees it.
    pub restarted: &'a (dyn Fn() -> Box<dyn Runner> + Sync),
    /// Makes orders on a real, small ledger.
    pub order: &'a (dyn Fn(Wanted) -> Result<Order, OrderError> + Sync),
    /// A secret that the runner can resolve, with its value.
    pub secret: (SecretRef, &'a str),
}

/// A case: what it promises, and the test of it.
pub struct Case {
    /// The promise.
    pub name: &'static str,
    /// Fails by panicking.
    pub run: for<'a> fn(&'a Bench<'a>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// Every case.
        pub const CASES: &[Case] = &[$(Case { name: stringify!($name), run: |bench| Box::pin($name(bench)) }),*];
    };
}

cases![
    eight_equal_orders_at_once_are_carried_out_once,
    exit_codes_are_told_as_they_are,
    a_signal_is_told_as_a_signal,
    the_deadline_ends_a_run,
    a_cancelled_run_ends_whatever_its_phase_and_however_often,
    a_workload_that_ignores_the_request_is_killed_after_the_grace,
    a_workload_may_end_by_itself_within_the_grace,
    nothing_of_a_workload_outlives_it,
    the_two_streams_are_told_apart,
    a_line_of_a_hundred_kilobytes_arrives_whole,
    bytes_that_are_no_text_arrive_as_they_were,
    a_log_resumes_at_every_offset,
    a_log_can_be_followed_while_it_is_written,
    output_beyond_the_cap_is_counted_and_told_as_a_gap,
    artifacts_come_with_their_digests,
    artifacts_cannot_lead_out_of_the_workspace,
    a_secret_reaches_the_workload_and_no_log,
    the_environment_is_what_the_job_says,
    inputs_are_there_and_cannot_be_changed,
    a_workspace_is_carried_from_run_to_run,
    what_cannot_be_begun_says_so_and_never_started,
    an_order_for_another_backend_or_job_or_too_late_is_refused,
    a_lower_fence_is_refused,
    the_same_name_with_another_order_is_a_conflict,
    a_run_is_adopted_after_a_restart,
    a_run_that_ended_is_cleared_away_once_and_never_begun_again,
    ten_runs_at_once_do_not_mix,
    the_probe_says_what_is_enforced,
];

/// Long enough for a loaded machine; nothing waits this long when all is well.
const PATIENCE: Span = Span::from_mins(1);

fn sh(script: &str) -> JobSpec {
    JobSpec::command(["sh", "-c", script])
}

/// A shell loop that does nothing until it is ended, and reacts to signals at once.
const WAIT: &str = "while :; do sleep 0.05; done";

async fn submit(bench: &Bench<'_>, job: JobSpec) -> Handle {
    let order = (bench.order)(Wanted::job(job)).expect("a sound order");
    bench.runner.submit(order).await.expect("submit")
}

async fn finish(runner: &dyn Runner, handle: &Handle) -> Observation {
    tokio::time::timeout(PATIENCE, async {
        let mut seen = None;
        loop {
            let now = runner.watch(handle, seen.as_ref()).await.expect("observe");
            if now.phase.is_final() {
                return now;
            }
            seen = Some(now);
        }
    })
    .await
    .expect("the run ends")
}

async fn until(runner: &dyn Runner, handle: &Handle, wanted: impl Fn(&Phase) -> bool) -> Observation {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let now = runner.observe(handle).await.expect("observe");
            if wanted(&now.phase) || now.phase.is_final() {
                return now;
            }
            tokio::time::sleep(Span::from_millis(10)).await;
        }
    })
    .await
    .expect("the phase is reached")
}

struct Log {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    gaps: Vec<LogItem>,
    ends: Option<(Option<StreamEnd>, Option<StreamEnd>)>,
}

impl Log {
    fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Reads a log to its end, and checks that chunks join without holes and digests are those of the bytes.
async fn log(runner: &dyn Runner, handle: &Handle, from: LogCursor) -> Log {
    let mut log = Log { stdout: Vec::new(), stderr: Vec::new(), gaps: Vec::new(), ends: None };
    let mut cursor = from;
    let mut expected = from;
    tokio::time::timeout(PATIENCE, async {
        while log.ends.is_none() {
            let read = runner.logs(handle, cursor).await.expect("logs");
            for item in read.items {
                match item {
                    LogItem::Chunk { stream, offset, bytes, .. } => {
                        assert_eq!(offset, expected.of(stream), "chunks join");
                        expected.set(stream, offset + u64::try_from(bytes.len()).unwrap());
                        match stream {
                            Stream::Stdout => log.stdout.extend(bytes),
                            Stream::Stderr => log.stderr.extend(bytes),
                        }
                    }
                    gap @ LogItem::Gap { .. } => log.gaps.push(gap),
                    LogItem::Eof { stdout, stderr } => log.ends = Some((stdout, stderr)),
                }
            }
            assert_eq!(read.next, expected, "the cursor is after what was given");
            cursor = read.next;
            if log.ends.is_none() {
                tokio::time::sleep(Span::from_millis(10)).await;
            }
        }
    })
    .await
    .expect("the log ends");
    if from == LogCursor::default()
        && let Some((Some(stdout), Some(stderr))) = log.ends
    {
        assert_eq!(stdout.sha256, sha256(&log.stdout), "digest of standard output");
        assert_eq!(stderr.sha256, sha256(&log.stderr), "digest of standard error");
    }
    log
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Runs a job to its end and gives what was seen; the run is cleared away.
async fn whole(bench: &Bench<'_>, job: JobSpec) -> (Observation, Log) {
    let handle = submit(bench, job).await;
    let seen = finish(bench.runner, &handle).await;
    let log = log(bench.runner, &handle, LogCursor::default()).await;
    bench.runner.reap(&handle).await.expect("reap");
    (seen, log)
}

async fn bytes_of(runner: &dyn Runner, handle: &Handle, artifact: &Artifact) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let offset = u64::try_from(bytes.len()).unwrap();
        let part = runner.fetch(handle, artifact, offset, 7).await.expect("fetch");
        if part.is_empty() {
            return bytes;
        }
        bytes.extend(part);
    }
}

fn class(seen: &Observation) -> Option<FailureClass> {
    match &seen.phase {
        Phase::Failed { class, .. } => Some(*class),
        _ => None,
    }
}

async fn eight_equal_orders_at_once_are_carried_out_once(bench: &Bench<'_>) {
    let order = (bench.order)(Wanted::job(sh("echo began; sleep 0.2"))).unwrap();
    let submit = || bench.runner.submit(order.clone());
    let two = || async { tokio::join!(submit(), submit()) };
    let four = || async { tokio::join!(two(), two()) };
    let (((r1, r2), (r3, r4)), ((r5, r6), (r7, r8))) = tokio::join!(four(), four());
    let handles: Vec<Handle> =
        [r1, r2, r3, r4, r5, r6, r7, r8].into_iter().map(|handle| handle.expect("each gets a handle")).collect();
    assert!(handles.iter().all(|handle| *handle == handles[0]), "one handle for all");
    finish(bench.runner, &handles[0]).await;
    // Again, after the end: still the same run.
    assert_eq!(submit().await.expect("submit again"), handles[0]);
    let log = log(bench.runner, &handles[0], LogCursor::default()).await;
    assert_eq!(log.out(), "began\n", "carried out once");
    let owned = bench.runner.list_owned(Scope::Organization(order.org())).await.unwrap();
    assert_eq!(owned.iter().filter(|handle| handle.run == order.run().run).count(), 1);
    bench.runner.reap(&handles[0]).await.unwrap();
}

async fn exit_codes_are_told_as_they_are(bench: &Bench<'_>) {
    for code in [0, 1, 3, 126, 127, 137, 143] {
        let (seen, _) = whole(bench, sh(&format!("exit {code}"))).await;
        assert_eq!(seen.exit, Some(Exit::Code(code)));
        if code == 0 {
            assert_eq!(seen.phase, Phase::Succeeded);
        } else {
            assert_eq!(class(&seen), Some(FailureClass::User), "{code}");
        }
        assert!(!seen.never_started && !seen.may_retry());
        assert!(seen.times.started.is_some() && seen.times.ended >= seen.times.started);
    }
}

async fn a_signal_is_told_as_a_signal(bench: &Bench<'_>) {
    for (name, number) in [("KILL", 9), ("TERM", 15)] {
        let (seen, _) = whole(bench, sh(&format!("kill -{name} $$; sleep 5"))).await;
        assert_eq!(seen.exit, Some(Exit::Signal(number)));
        assert_eq!(class(&seen), Some(FailureClass::User));
    }
}

async fn the_deadline_ends_a_run(bench: &Bench<'_>) {
    for script in [WAIT, "trap '' TERM INT HUP; while :; do sleep 0.05; done"] {
        let mut job = sh(script);
        job.resources.wall = Duration(400);
        let (seen, _) = whole(bench, job).await;
        assert_eq!(seen.phase, Phase::TimedOut);
        let (started, ended) = (seen.times.started.unwrap(), seen.times.ended.unwrap());
        assert!((400..20_000).contains(&ended.since(started).0), "{:?}", ended.since(started));
    }
}

async fn a_cancelled_run_ends_whatever_its_phase_and_however_often(bench: &Bench<'_>) {
    // At once, in whatever phase it is by then.
    let handle = submit(bench, sh(WAIT)).await;
    bench.runner.cancel(&handle, Duration(1000)).await.unwrap();
    assert_eq!(finish(bench.runner, &handle).await.phase, Phase::Cancelled);
    // While it runs, twice.
    let running = submit(bench, sh(WAIT)).await;
    until(bench.runner, &running, |phase| *phase == Phase::Running).await;
    bench.runner.cancel(&running, Duration(1000)).await.unwrap();
    bench.runner.cancel(&running, Duration(1000)).await.unwrap();
    let seen = finish(bench.runner, &running).await;
    assert_eq!(seen.phase, Phase::Cancelled);
    assert!(!seen.never_started);
    // After the end: nothing changes.
    let ended = submit(bench, sh("exit 0")).await;
    let before = finish(bench.runner, &ended).await;
    bench.runner.cancel(&ended, Duration(0)).await.unwrap();
    assert_eq!(bench.runner.observe(&ended).await.unwrap(), before);
    for handle in [handle, running, ended] {
        bench.runner.reap(&handle).await.unwrap();
        // Gone is fine.
        bench.runner.cancel(&handle, Duration(0)).await.unwrap();
    }
}

async fn a_workload_that_ignores_the_request_is_killed_after_the_grace(bench: &Bench<'_>) {
    let script = "trap '' TERM INT HUP; echo deaf; while :; do sleep 0.05; done";
    let handle = submit(bench, sh(script)).await;
    until(bench.runner, &handle, |phase| *phase == Phase::Running).await;
    bench.runner.cancel(&handle, Duration(300)).await.unwrap();
    assert_eq!(finish(bench.runner, &handle).await.phase, Phase::Cancelled);
    bench.runner.reap(&handle).await.unwrap();
}

async fn a_workload_may_end_by_itself_within_the_grace(bench: &Bench<'_>) {
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let handle = submit(bench, sh(script)).await;
    // Only a workload that has set its trap can say goodbye.
    while bench.runner.logs(&handle, LogCursor::default()).await.unwrap().items.is_empty() {
        tokio::time::sleep(Span::from_millis(10)).await;
    }
    bench.runner.cancel(&handle, Duration(20_000)).await.unwrap();
    let seen = finish(bench.runner, &handle).await;
    assert_eq!((seen.phase, seen.exit), (Phase::Cancelled, Some(Exit::Code(0))));
    assert_eq!(log(bench.runner, &handle, LogCursor::default()).await.out(), "ready\nbye\n");
    bench.runner.reap(&handle).await.unwrap();
}

async fn nothing_of_a_workload_outlives_it(bench: &Bench<'_>) {
    // The grandchild leaves the session, ignores signals and holds the output open.
    let script = "setsid sh -c 'trap \"\" TERM HUP; echo left; while :; do sleep 0.05; done' & sleep 0.2; echo main";
    let (seen, log) = whole(bench, sh(script)).await;
    assert_eq!(seen.phase, Phase::Succeeded);
    assert!(log.out().contains("main\n") && log.out().contains("left\n"), "{}", log.out());
    assert!(log.ends.is_some(), "the log ends although the grandchild held it");
}

async fn the_two_streams_are_told_apart(bench: &Bench<'_>) {
    let (_, log) = whole(bench, sh("echo out1; echo err1 >&2; echo out2; echo err2 >&2")).await;
    assert_eq!((log.out().as_str(), log.err().as_str()), ("out1\nout2\n", "err1\nerr2\n"));
}

async fn a_line_of_a_hundred_kilobytes_arrives_whole(bench: &Bench<'_>) {
    let (_, log) = whole(bench, sh("head -c 102400 /dev/zero | tr '\\0' x")).await;
    assert_eq!(log.stdout.len(), 102_400);
    assert!(log.stdout.iter().all(|b| *b == b'x') && log.gaps.is_empty());
}

async fn bytes_that_are_no_text_arrive_as_they_were(bench: &Bench<'_>) {
    let (_, log) = whole(bench, sh(r"printf '\377\000\200a\nb'")).await;
    assert_eq!(log.stdout, [0xff, 0, 0x80, b'a', b'\n', b'b']);
}

async fn a_log_resumes_at_every_offset(bench: &Bench<'_>) {
    let handle = submit(bench, sh("printf abc; printf 12 >&2; sleep 0.1; printf defg")).await;
    finish(bench.runner, &handle).await;
    for stdout in 0..=7u64 {
        for stderr in 0..=2u64 {
            let got = log(bench.runner, &handle, LogCursor { stdout, stderr }).await;
            assert_eq!(got.out(), "abcdefg"[usize::try_from(stdout).unwrap()..]);
            assert_eq!(got.err(), "12"[usize::try_from(stderr).unwrap()..]);
        }
    }
    bench.runner.reap(&handle).await.unwrap();
}

async fn a_log_can_be_followed_while_it_is_written(bench: &Bench<'_>) {
    let script =
        "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); [ $((i % 20)) = 0 ] && sleep 0.02; done; exit 0";
    let handle = submit(bench, sh(script)).await;
    let followed = log(bench.runner, &handle, LogCursor::default()).await;
    let expected: Vec<String> = (0..200).map(|i| format!("line {i}")).collect();
    assert_eq!(followed.out().lines().collect::<Vec<_>>(), expected);
    bench.runner.reap(&handle).await.unwrap();
}

async fn output_beyond_the_cap_is_counted_and_told_as_a_gap(bench: &Bench<'_>) {
    let mut job = sh("head -c 300000 /dev/zero; exit 4");
    job.resources.output_bytes = 1000;
    let (seen, log) = whole(bench, job).await;
    // The workload is not held up by it.
    assert_eq!(seen.exit, Some(Exit::Code(4)));
    assert_eq!(log.stdout.len(), 1000);
    let gap =
        LogItem::Gap { stream: Some(Stream::Stdout), from: 1000, to: Some(300_000), reason: GapReason::OutputCap };
    assert_eq!(log.gaps, [gap]);
    assert_eq!(log.ends.unwrap().0.unwrap().dropped, 299_000);
}

async fn artifacts_come_with_their_digests(bench: &Bench<'_>) {
    let mut job =
        sh("mkdir -p out/deep; echo one > out/a.xml; printf two > out/deep/b.xml; chmod 755 out/deep/b.xml; \
                      echo no > out/c.txt; exit 1");
    job.artifacts = vec![Pattern::new("out/**/*.xml").unwrap()];
    let handle = submit(bench, job).await;
    let early = bench.runner.collect(&handle).await;
    assert!(matches!(early, Err(RunnerError::NotFinished(_)) | Ok(_)));
    finish(bench.runner, &handle).await;
    // A failed run has artifacts as well: its report is what people look for.
    let manifest = bench.runner.collect(&handle).await.unwrap();
    let found: Vec<(&str, u64, u32)> = manifest.files.iter().map(|f| (f.path.as_str(), f.size, f.mode)).collect();
    assert_eq!(found, [("out/a.xml", 4, 0o644), ("out/deep/b.xml", 3, 0o755)]);
    for (file, content) in manifest.files.iter().zip(["one\n", "two"]) {
        assert_eq!(file.sha256, sha256(content.as_bytes()));
        assert_eq!(bytes_of(bench.runner, &handle, file).await, content.as_bytes());
    }
    let other = Artifact { path: TreePath::new("out/c.txt").unwrap(), ..manifest.files[0].clone() };
    assert!(bench.runner.fetch(&handle, &other, 0, 10).await.is_err(), "only what was collected is given");
    bench.runner.reap(&handle).await.unwrap();
}

async fn artifacts_cannot_lead_out_of_the_workspace(bench: &Bench<'_>) {
    for bad in ["../x", "/etc/passwd", "a/../../b"] {
        assert!(Pattern::new(bad).is_err(), "{bad}");
    }
    let mut job = sh("ln -s /etc/passwd a.xml; ln -s / root; mkfifo p.xml; mkdir d; ln -s ../.. d/up; \
                      echo fine > d/b.xml; exit 0");
    job.artifacts = vec![Pattern::new("**").unwrap()];
    let handle = submit(bench, job).await;
    finish(bench.runner, &handle).await;
    let manifest = bench.runner.collect(&handle).await.unwrap();
    assert_eq!(manifest.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["d/b.xml"]);
    let refused: Vec<(&str, Refusal)> = manifest.refused.iter().map(|r| (r.path.as_str(), r.why)).collect();
    for link in ["a.xml", "root", "d/up"] {
        assert!(refused.contains(&(link, Refusal::Symlink)), "{link}: {refused:?}");
    }
    assert!(refused.contains(&("p.xml", Refusal::NotAFile)), "{refused:?}");
    bench.runner.reap(&handle).await.unwrap();
}

async fn a_secret_reaches_the_workload_and_no_log(bench: &Bench<'_>) {
    let (reference, value) = &bench.secret;
    let half = value.len() / 2;
    // Written whole, and in two halves with a pause between them.
    let script = "echo \"got $TOKEN\"; echo \"$TOKEN\" >&2; printf %s \"$A\"; sleep 0.1; printf '%s\\n' \"$B\"; \
                  printf %s \"$TOKEN\" | wc -c; printf %s \"$TOKEN\" > kept; exit 0";
    let mut job = sh(script);
    job.secrets.insert("TOKEN".into(), reference.clone());
    job.env.insert("A".into(), value[..half].into());
    job.env.insert("B".into(), value[half..].into());
    let (_, log) = whole(bench, job.clone()).await;
    assert_eq!(log.out().split_whitespace().last(), Some(value.len().to_string().as_str()), "the workload has it");
    for text in [log.out(), log.err()] {
        assert!(!text.contains(*value) && text.contains("***"), "{text}");
    }
    job.secrets.insert("TOKEN".into(), "secret://nowhere/at/all".parse().unwrap());
    let order = (bench.order)(Wanted::job(job)).unwrap();
    assert!(matches!(bench.runner.submit(order).await, Err(RunnerError::Secret(_))));
}

async fn the_environment_is_what_the_job_says(bench: &Bench<'_>) {
    let mut job = sh("env");
    job.env.insert("GREETING".into(), "hello 'world' ü".into());
    let (_, log) = whole(bench, job).await;
    let mut names: Vec<String> = Vec::new();
    for line in log.out().lines() {
        let (name, value) = line.split_once('=').unwrap();
        if name == "GREETING" {
            assert_eq!(value, "hello 'world' ü");
        } else if !name.starts_with("COUNTERSIGN_") {
            names.push(name.to_owned());
        }
    }
    assert!(log.out().contains("GREETING="));
    // `PWD`, `OLDPWD`, `SHLVL` and `_` are the shell's own.
    let known = ["PATH", "HOME", "LANG", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME"];
    assert!(names.iter().all(|name| known.contains(&name.as_str())), "{names:?}");
}

async fn inputs_are_there_and_cannot_be_changed(bench: &Bench<'_>) {
    let mut job = sh("cat \"$COUNTERSIGN_INPUTS/sub/in\"; \"$COUNTERSIGN_INPUTS/run\"; \
                      echo x > \"$COUNTERSIGN_INPUTS/sub/in\" || echo refused");
    let input = |text: &str, executable| Input { bytes: text.into(), executable };
    job.inputs.insert(TreePath::new("sub/in").unwrap(), input("given\n", false));
    job.inputs.insert(TreePath::new("run").unwrap(), input("#!/bin/sh\necho ran\n", true));
    let (_, log) = whole(bench, job).await;
    assert_eq!(log.out(), "given\nran\nrefused\n", "{}", log.err());
}

async fn a_workspace_is_carried_from_run_to_run(bench: &Bench<'_>) {
    let write = "mkdir -p src/empty; echo v1 > src/a; printf '#!/bin/sh\\necho tool' > tool; chmod +x tool";
    let (first, _) = whole(bench, sh(write)).await;
    let digest = first.workspace.expect("a workspace");
    let mut job = sh("cat src/a; ./tool; [ -d src/empty ] && echo still; echo v2 > src/a");
    job.workspace = Some(digest);
    let (second, log) = whole(bench, job.clone()).await;
    assert_eq!(log.out(), "v1\ntool\nstill\n", "{}", log.err());
    assert_ne!(second.workspace, Some(digest), "a change is another tree");
    job.command = vec!["sh".into(), "-c".into(), "cat src/a".into()];
    let (unchanged, _) = whole(bench, job.clone()).await;
    assert_eq!(unchanged.workspace, Some(digest), "equal trees have equal digests");
    job.workspace = second.workspace;
    job.workdir = Some(TreePath::new("src").unwrap());
    job.command = vec!["cat".into(), "a".into()];
    let (_, log) = whole(bench, job).await;
    assert_eq!(log.out(), "v2\n");
}

async fn what_cannot_be_begun_says_so_and_never_started(bench: &Bench<'_>) {
    let missing = JobSpec::command(["no-such-program"]);
    let mut nowhere = sh("exit 0");
    nowhere.workdir = Some(TreePath::new("no/such/folder").unwrap());
    for job in [missing, nowhere] {
        let (seen, log) = whole(bench, job).await;
        assert_eq!(class(&seen), Some(FailureClass::Config), "{:?}", seen.phase);
        assert!(seen.never_started && seen.exit.is_none());
        assert!(!seen.may_retry(), "it would fail again");
        assert!(log.stdout.is_empty());
    }
    let mut job = sh("exit 0");
    job.workspace = Some(Digest([0xab; 32]));
    let order = (bench.order)(Wanted::job(job)).unwrap();
    assert!(matches!(bench.runner.submit(order).await, Err(RunnerError::Workspace(_))));
}

async fn an_order_for_another_backend_or_job_or_too_late_is_refused(bench: &Bench<'_>) {
    let wanted = || Wanted::job(sh("echo never"));
    let forged = (bench.order)(Wanted { forged: true, ..wanted() });
    assert!(matches!(forged, Err(OrderError::OtherJob { .. })));
    let late = (bench.order)(Wanted { expires_in_ms: -1, ..wanted() });
    assert!(matches!(late, Err(OrderError::Expired { .. })));
    let elsewhere = (bench.order)(Wanted { elsewhere: true, ..wanted() }).unwrap();
    let refused = bench.runner.submit(elsewhere).await;
    assert!(matches!(refused, Err(RunnerError::Order(OrderError::OtherBackend { .. }))));
    // Sound when it was made, expired when it is handed over.
    let expiring = (bench.order)(Wanted { expires_in_ms: 30, ..wanted() }).unwrap();
    tokio::time::sleep(Span::from_millis(60)).await;
    let refused = bench.runner.submit(expiring.clone()).await;
    assert!(matches!(refused, Err(RunnerError::Order(OrderError::Expired { .. }))));
    assert!(bench.runner.observe(&Handle::of(&expiring)).await.is_err(), "nothing was begun");
}

async fn a_lower_fence_is_refused(bench: &Bench<'_>) {
    let first = (bench.order)(Wanted { fence: 9, attempt: 2, ..Wanted::job(sh("exit 0")) }).unwrap();
    let run = Some(first.run().run);
    let handle = bench.runner.submit(first).await.unwrap();
    // An earlier attempt that arrives late.
    let stale = (bench.order)(Wanted { run, fence: 5, attempt: 1, ..Wanted::job(sh("exit 0")) }).unwrap();
    assert!(matches!(bench.runner.submit(stale).await, Err(RunnerError::StaleFence { known: 9, given: 5, .. })));
    finish(bench.runner, &handle).await;
    let stale = Handle { fence: 8, ..handle.clone() };
    assert!(matches!(bench.runner.observe(&stale).await, Err(RunnerError::StaleFence { .. })));
    assert!(matches!(bench.runner.cancel(&stale, Duration(0)).await, Err(RunnerError::StaleFence { .. })));
    assert!(matches!(bench.runner.reap(&stale).await, Err(RunnerError::StaleFence { .. })));
    let start = LogCursor::default();
    assert!(matches!(bench.runner.logs(&stale, start).await, Err(RunnerError::StaleFence { .. })));
    assert!(matches!(bench.runner.collect(&stale).await, Err(RunnerError::StaleFence { .. })));
    let left = Artifact { path: TreePath::new("left").unwrap(), size: 0, sha256: Digest([0; 32]), mode: 0o644 };
    assert!(matches!(bench.runner.fetch(&stale, &left, 0, 1).await, Err(RunnerError::StaleFence { .. })));
    assert!(matches!(bench.runner.fetch(&handle, &left, 0, 1).await, Err(RunnerError::NotFound(_))));
    // A later attempt is welcome, and after it the fence holds although the first was cleared away.
    let later = (bench.order)(Wanted { run, fence: 12, attempt: 3, ..Wanted::job(sh("exit 0")) }).unwrap();
    let later = bench.runner.submit(later).await.unwrap();
    finish(bench.runner, &later).await;
    bench.runner.reap(&handle).await.unwrap();
    bench.runner.reap(&later).await.unwrap();
    let stale = (bench.order)(Wanted { run, fence: 11, attempt: 4, ..Wanted::job(sh("exit 0")) }).unwrap();
    assert!(matches!(bench.runner.submit(stale).await, Err(RunnerError::StaleFence { .. })));
}

async fn the_same_name_with_another_order_is_a_conflict(bench: &Bench<'_>) {
    let first = (bench.order)(Wanted::job(sh("exit 0"))).unwrap();
    let run = Some(first.run().run);
    let handle = bench.runner.submit(first).await.unwrap();
    let other = (bench.order)(Wanted { run, ..Wanted::job(sh("exit 1")) }).unwrap();
    assert!(matches!(bench.runner.submit(other).await, Err(RunnerError::Conflict(_))));
    assert_eq!(finish(bench.runner, &handle).await.phase, Phase::Succeeded);
    bench.runner.reap(&handle).await.unwrap();
}

async fn a_run_is_adopted_after_a_restart(bench: &Bench<'_>) {
    let order = (bench.order)(Wanted::job(sh("echo a; sleep 0.6; echo b; exit 5"))).unwrap();
    let handle = bench.runner.submit(order.clone()).await.unwrap();
    until(bench.runner, &handle, |phase| *phase == Phase::Running).await;
    let restarted = (bench.restarted)();
    assert!(restarted.list_owned(Scope::All).await.unwrap().contains(&handle));
    // A gateway that does not know whether its submit arrived asks again.
    assert_eq!(restarted.submit(order).await.unwrap(), handle);
    assert_eq!(restarted.observe(&handle).await.unwrap().phase, Phase::Running);
    let seen = finish(&*restarted, &handle).await;
    assert_eq!(seen.exit, Some(Exit::Code(5)));
    assert_eq!(log(&*restarted, &handle, LogCursor::default()).await.out(), "a\nb\n");
    assert_eq!(finish(bench.runner, &handle).await, seen, "both see one outcome");
    restarted.reap(&handle).await.unwrap();
}

async fn a_run_that_ended_is_cleared_away_once_and_never_begun_again(bench: &Bench<'_>) {
    let order = (bench.order)(Wanted::job(sh("sleep 0.5; echo once"))).unwrap();
    let handle = bench.runner.submit(order.clone()).await.unwrap();
    assert!(matches!(bench.runner.reap(&handle).await, Err(RunnerError::NotFinished(_))));
    finish(bench.runner, &handle).await;
    bench.runner.reap(&handle).await.unwrap();
    bench.runner.reap(&handle).await.unwrap();
    assert!(matches!(bench.runner.observe(&handle).await, Err(RunnerError::Reaped(_))));
    // The order has not expired; it was carried out.
    assert!(matches!(bench.runner.submit(order).await, Err(RunnerError::Reaped(_))));
    assert!(!bench.runner.list_owned(Scope::All).await.unwrap().contains(&handle));
}

async fn ten_runs_at_once_do_not_mix(bench: &Bench<'_>) {
    let mut handles = Vec::new();
    for i in 0..10 {
        handles.push(submit(bench, sh(&format!("echo {i} > f; sleep 0.1; cat f; ls | wc -l; exit {i}"))).await);
    }
    for (i, handle) in (0..).zip(&handles) {
        let seen = finish(bench.runner, handle).await;
        assert_eq!(seen.exit, Some(Exit::Code(i)));
        let text = log(bench.runner, handle, LogCursor::default()).await.out();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), [i.to_string().as_str(), "1"]);
        bench.runner.reap(handle).await.unwrap();
    }
}

async fn the_probe_says_what_is_enforced(bench: &Bench<'_>) {
    let found = bench.runner.probe().await.unwrap();
    assert_eq!(&found.backend, bench.runner.backend());
    assert!(!matches!(found.health, Health::Unavailable { .. }), "{:?}", found.health);
    assert!(!found.capabilities.isolation.enforced.is_empty());
    let (seen, _) = whole(bench, sh("exit 0")).await;
    assert_eq!(seen.evidence.isolation, found.capabilities.isolation.isolation);
    assert!(!seen.evidence.enforced.is_empty());
}
