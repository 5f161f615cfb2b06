//! The process runner as the contract's `Runner`: it prepares a run's folder, starts a shim, and reads what it writes.
//!
//! Absent: where a run stands (`runs`), the sandbox (`shim`, `sandbox`), the environment (the program gives secrets and
//! paths), policy.
//!
//! Read next: `runs`, then `shim`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use countersign_runners_contract::model::{Clock, Digest, Duration, Name, Timestamp};
use countersign_runners_contract::{
    Artifact, Capabilities, Delivery, Feature, Fingerprint, Handle, Health, LogCursor, LogRead, LogResume, LogTrust,
    Manifest, NetworkMode, Observation, Order, OrderError, Phase, Runner, RunnerError, Scope, SecretSource,
    SecretValue, Times, Trust,
};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::agent::{AgentProcess, AgentSpec};
use crate::canary::{self, Found};
use crate::config::{OpenError, ProcessConfig, minimum, program_of};
use crate::doctor::{self, Doctor};
use crate::durable;
use crate::frames::{self, End};
use crate::prune::Pruned;
use crate::rundir::{self, Setup, Tombstone};
use crate::runs::{Runs, State, clear_unfinished, local};
use crate::spec::{Level, RunUser};
use crate::time::{machine, machine_millis, monotonic};
use crate::workspace::{Trees, WorkspaceError};
use crate::{cgroup, self_exec, shim};

/// How often, and how long apart, a lock is looked at that a shim which could not be started seems to hold.
const LOCK_LOOKS: u32 = 50;
const LOCK_LOOK: std::time::Duration = std::time::Duration::from_millis(10);

/// How long a finding of the canary is good for.
const CANARY_LIFE: std::time::Duration = std::time::Duration::from_mins(1);

/// How soon `watch` looks again: quickly at a short run, less often at a long one.
const WATCH_FIRST: std::time::Duration = std::time::Duration::from_millis(5);
const WATCH_LAST: std::time::Duration = std::time::Duration::from_millis(100);

/// A tree stays for so long after it was taken, whatever retention is asked for: until then nobody may have named it yet.
const LEAST_RETENTION: std::time::Duration = std::time::Duration::from_hours(1);

/// Counts folders that are being made, of every runner of this process.
static FOLDERS: AtomicU64 = AtomicU64::new(0);

/// The most bytes that one `fetch` gives.
const MAX_FETCH: usize = 1 << 20;

/// The process runner. Cheap to clone.
#[derive(Clone)]
pub struct ProcessRunner(Arc<Inner>);

struct Inner {
    config: ProcessConfig,
    runs: Runs,
    trees: Trees,
    user: Option<RunUser>,
    cgroup: Option<PathBuf>,
    minimum: Option<Level>,
    trust: Arc<dyn Trust>,
    secrets: Arc<dyn SecretSource>,
    clock: Arc<dyn Clock>,
    canary: Mutex<(Instant, Found)>,
}

impl ProcessRunner {
    /// Opens the runner: makes its folder, runs the canary, remembers the level at the first start. Blocks for some
    /// tens of milliseconds.
    pub fn open(
        config: ProcessConfig,
        trust: Arc<dyn Trust>,
        secrets: Arc<dyn SecretSource>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let user = nix::unistd::geteuid().is_root().then_some(config.user);
        if user.is_some_and(|user| user.uid == 0 || user.gid == 0) {
            return Err(OpenError::Root);
        }
        let unusable = |source| OpenError::Folder { folder: config.folder.clone(), source };
        let prepare = || -> io::Result<PathBuf> {
            fs::create_dir_all(&config.folder)?;
            let folder = config.folder.canonicalize()?;
            // Searchable, so that the run's user can be led into its own run's folder; not listable.
            for path in [&folder, &folder.join("runs")] {
                fs::create_dir_all(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o711))?;
            }
            Ok(folder)
        };
        let folder = prepare().map_err(unusable)?;
        let trees = Trees::open(&folder.join("trees"), config.caps).map_err(OpenError::Workspaces)?;
        let runs = folder.join("runs");
        clear_unfinished(&folder, &runs).map_err(unusable)?;
        let cgroup = cgroup::delegated(config.cgroup.as_deref());
        let found = run_canary(&config, &folder, user, cgroup.as_deref()).map_err(OpenError::Canary)?;
        let minimum = minimum(&config, &folder, found.level()).map_err(unusable)?;
        tracing::info!(level = %found.level(), minimum = ?minimum, folder = %folder.display(), "process runner open");
        let canary = Mutex::new((monotonic(), found));
        let config = ProcessConfig { folder, ..config };
        let runs = Runs::new(runs, config.backend.clone(), Arc::clone(&clock));
        Ok(Self(Arc::new(Inner { config, runs, trees, user, cgroup, minimum, trust, secrets, clock, canary })))
    }

    /// The level that the canary found last.
    pub fn level(&self) -> Level {
        self.0.found().level()
    }

    /// The least level that runs may have; none: no run is taken, because the machine can hold nothing.
    pub fn minimum(&self) -> Option<Level> {
        self.0.minimum
    }

    /// The store of workspaces: what a first run starts from is put there, what a run leaves is found there.
    pub fn workspaces(&self) -> &Trees {
        &self.0.trees
    }

    /// Removes trees that are older than `retention` and named neither by `live` nor by a run that was not reaped.
    ///
    /// `live`: every tree that an instance which may still run something names. It may have been collected a while ago:
    /// what came since then is younger than the retention, which is an hour at least; and whoever names an older tree
    /// calls [`Trees::renew`] first. Runs go on meanwhile; one that is about to begin waits.
    pub async fn prune(&self, live: BTreeSet<Digest>, retention: Duration) -> Result<Pruned, RunnerError> {
        self.blocking(move |inner| inner.prune(live, retention)).await
    }

    /// What a person should know. Runs the canary; blocks for some tens of milliseconds.
    pub fn doctor(&self) -> io::Result<Doctor> {
        Ok(doctor::examine(self.0.refresh()?, self.0.minimum))
    }

    /// Starts an agent in a sandbox of its own, with nothing in reach but the gateway. Refused below the minimum level.
    pub fn start_agent(&self, agent: AgentSpec) -> Result<AgentProcess, RunnerError> {
        let inner = &self.0;
        let level = inner.level_now()?;
        let Some(gateway) = inner.config.gateway.clone() else {
            return Err(inner.unsupported("no gateway address is configured"));
        };
        // A control group belongs to a run; an agent is bound by limits of its processes.
        let level = level.min(Level::L2);
        AgentProcess::start(&program_of(&inner.config), level, inner.user, gateway, agent)
            .map_err(|error| local("start the agent", error))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, RunnerError> + Send + 'static,
    ) -> Result<T, RunnerError> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(local("finish what was asked", io::Error::other(error))),
        }
    }
}

fn run_canary(
    config: &ProcessConfig,
    folder: &Path,
    user: Option<RunUser>,
    cgroup: Option<&Path>,
) -> io::Result<Found> {
    let folder = folder.join(format!("canary-{}-{:?}", std::process::id(), std::thread::current().id()));
    let strongest = config.strongest;
    let request = canary::Request { folder: folder.clone(), user, strongest, cgroup: cgroup.map(Path::to_owned) };
    let program = program_of(config);
    let mut child = self_exec::command(&program, self_exec::CANARY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&serde_json::to_vec(&request)?)?;
    }
    let output = child.wait_with_output()?;
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("the canary ended with {}: {said}", output.status)));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Inner {
    fn found(&self) -> Found {
        self.canary.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    fn refresh(&self) -> io::Result<Found> {
        let found = run_canary(&self.config, &self.config.folder, self.user, self.cgroup.as_deref())?;
        *self.canary.lock().unwrap_or_else(PoisonError::into_inner) = (monotonic(), found.clone());
        Ok(found)
    }

    /// The level to run at, found a minute ago at most; an error if it is below the minimum.
    fn level_now(&self) -> Result<Level, RunnerError> {
        let (at, mut found) = self.canary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if at.elapsed() > CANARY_LIFE {
            found = self.refresh().map_err(|error| local("run the sandbox canary", error))?;
        }
        let level = found.level();
        match self.minimum {
            Some(minimum) if level >= minimum => Ok(level),
            minimum => Err(RunnerError::Isolation {
                found: level.to_string(),
                minimum: minimum.unwrap_or(Level::L1).to_string(),
                fix: doctor::fix(&found),
            }),
        }
    }

    fn unsupported(&self, why: &str) -> RunnerError {
        RunnerError::Unsupported { backend: self.config.backend.clone(), why: why.to_owned() }
    }

    fn networks(&self, level: Level) -> BTreeSet<NetworkMode> {
        let mut modes = BTreeSet::from([NetworkMode::Open]);
        // Without namespaces, TCP is bound to one port by Landlock from its version 4 on.
        let bound = level >= Level::L2 || (level == Level::L1 && self.found().landlock_version >= 4);
        if level >= Level::L1 {
            modes.insert(NetworkMode::None);
        }
        if bound && self.config.gateway.is_some() {
            modes.insert(NetworkMode::Gateway);
        }
        modes
    }

    /// What an order must be before anything is made for it.
    fn admit(&self, order: &Order) -> Result<(Handle, Level, LogTrust), RunnerError> {
        order.check_backend(&self.config.backend)?;
        order.check_time(self.clock.now())?;
        let handle = Handle::of(order);
        let trust = self.trust.of(handle.org).ok_or(OrderError::NoRoot(handle.org))?;
        let job = order.job().spec();
        if job.image.is_some() {
            return Err(self.unsupported("it runs no images: leave `image` out, or send the job to another runner"));
        }
        if !job.enforced && self.config.refuse_unenforced {
            return Err(self.unsupported(
                "its workflow is in shadow, so policy was not enforced: set `runner.refuse_unenforced` to false to run it all the same",
            ));
        }
        let level = self.level_now()?;
        if !self.networks(level).contains(&job.network) {
            let mode = job.network.as_str();
            return Err(self.unsupported(&format!("network mode `{mode}` cannot be enforced at level {level}")));
        }
        Ok((handle, level, trust))
    }

    /// Tells whether the run of an order is there already.
    fn existing(&self, handle: &Handle, order: &Order) -> Result<bool, RunnerError> {
        let tombstone: Option<Tombstone> =
            durable::read_json(&self.runs.tombstone_of(handle)).map_err(|e| local("read a reaped run", e))?;
        if tombstone.is_some() {
            return Err(RunnerError::Reaped(handle.external_name.clone()));
        }
        self.runs.check_fence(handle)?;
        let folder = self.runs.folder_of(handle);
        let stored: Option<Handle> =
            durable::read_json(&folder.join("handle")).map_err(|e| local("read the run's handle", e))?;
        let Some(stored) = stored else { return Ok(false) };
        let bytes = fs::read(folder.join("order")).map_err(|e| local("read the run's order", e))?;
        let same = stored == *handle
            && Order::open_begun(&bytes, &*self.trust)
                .is_ok_and(|known| known.run() == order.run() && known.start().leaf() == order.start().leaf());
        if same { Ok(true) } else { Err(RunnerError::Conflict(handle.external_name.clone())) }
    }

    fn submit(
        &self,
        order: &Order,
        secrets: &BTreeMap<String, SecretValue>,
        (handle, level, trust): &(Handle, Level, LogTrust),
    ) -> Result<Handle, RunnerError> {
        let folder = self.runs.folder_of(handle);
        if self.existing(handle, order)? {
            return self.resume(handle, &folder, secrets);
        }
        let workspace = order.job().spec().workspace;
        // Until the folder has its name, by which whoever removes trees knows that this one is in use.
        let using = self.trees.using().map_err(|error| RunnerError::Workspace(error.into()))?;
        if let Some(digest) = workspace {
            self.trees.tree(digest).map_err(|error| RunnerError::Workspace(error.into()))?;
        }
        let now = self.clock.now();
        let setup = Setup {
            backend: self.config.backend.to_string(),
            root_vkey: trust.root.to_string(),
            level: *level,
            user: self.user,
            trees: self.trees.folder().to_owned(),
            workspace,
            caps: self.trees.caps(),
            gateway: self.config.gateway.clone(),
            read_only: self.config.read_only.clone(),
            cgroup: self.cgroup.clone(),
            submitted: now,
            job: order.run().job,
            not_after: order.start().fact().not_after,
            clock_offset: offset(now),
            landlock_version: self.found().landlock_version,
            wall: Some(order.job().spec().resources.wall),
        };
        let sealed = order.seal(trust)?;
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let partial = self.runs.path().join(format!(".new-{}-{number}", std::process::id()));
        let make = || -> io::Result<File> {
            fs::create_dir(&partial)?;
            // The lock is held before the folder has its name, so nobody can find it there and unheld.
            let lock = rundir::try_lock(&partial)?.ok_or_else(|| io::Error::other("a new folder is locked"))?;
            durable::write_durably(&partial.join("order"), &sealed)?;
            durable::write_json(&partial.join("setup"), &setup)?;
            durable::write_json(&partial.join("handle"), handle)?;
            fs::set_permissions(&partial, fs::Permissions::from_mode(0o711))?;
            Ok(lock)
        };
        let lock = make().map_err(|e| local("prepare the run's folder", e))?;
        // The name is the claim: of several that try, one gets it.
        if let Err(error) = fs::rename(&partial, &folder) {
            fs::remove_dir_all(&partial).map_err(|e| local("clear a folder up", e))?;
            if folder.exists() && self.existing(handle, order)? {
                return Ok(handle.clone());
            }
            return Err(local("name the run's folder", error));
        }
        drop(using);
        durable::sync_folder(self.runs.path()).map_err(|e| local("sync the folder of runs", e))?;
        // Reaped, or overtaken by a later attempt, since the first look: this one must not begin.
        let late = if self.runs.tombstone_of(handle).exists() {
            Err(RunnerError::Reaped(handle.external_name.clone()))
        } else {
            self.runs.check_fence(handle)
        };
        if let Err(error) = late {
            fs::remove_dir_all(&folder).map_err(|e| local("clear a folder up", e))?;
            return Err(error);
        }
        self.begin(handle, &folder, lock, secrets)
    }

    /// Starts the shim. If it cannot be started, the run is given its last word, so that a failure here is one for good.
    fn begin(
        &self,
        handle: &Handle,
        folder: &Path,
        lock: File,
        secrets: &BTreeMap<String, SecretValue>,
    ) -> Result<Handle, RunnerError> {
        let Err(error) = self.spawn(folder, lock, secrets) else {
            tracing::info!(run = %handle.run, attempt = handle.attempt, fence = handle.fence, "run handed to its shim");
            return Ok(handle.clone());
        };
        tracing::error!(run = %handle.run, attempt = handle.attempt, %error, "the run's shim cannot be started");
        // Whatever is forked here at the same moment holds a copy of the lock until it becomes another program.
        for _ in 0..LOCK_LOOKS {
            match self.runs.state(folder)? {
                State::Alive(None) => std::thread::sleep(LOCK_LOOK),
                State::Alive(Some(_)) => break,
                State::Final(_) => return Err(local("start the run's shim", error)),
            }
        }
        // It holds the lock after all.
        Ok(handle.clone())
    }

    /// An equal order for a run that is there: begun, ended, or left by a process that ended before it could begin it.
    fn resume(
        &self,
        handle: &Handle,
        folder: &Path,
        secrets: &BTreeMap<String, SecretValue>,
    ) -> Result<Handle, RunnerError> {
        let failed = |error| local("look at the run", error);
        let untouched = || !folder.join("result").exists() && !folder.join("started").exists();
        if untouched()
            && let Some(lock) = rundir::try_lock(folder).map_err(failed)?
            && untouched()
        {
            return self.begin(handle, folder, lock, secrets);
        }
        Ok(handle.clone())
    }

    /// Starts the shim, which takes the lock over. Returns when it has left this process' session.
    fn spawn(&self, folder: &Path, lock: File, secrets: &BTreeMap<String, SecretValue>) -> io::Result<()> {
        // A file without a name: values are in no argument, no environment and on no disk.
        let mut values = File::from(memfd_create(c"secrets", MFdFlags::MFD_CLOEXEC)?);
        for (name, value) in secrets {
            for part in [name.as_bytes(), value.expose()] {
                values.write_all(&u32::try_from(part.len()).map_err(io::Error::other)?.to_le_bytes())?;
                values.write_all(part)?;
            }
        }
        touch(&folder.join("contact"))?;
        let errors = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join("shim.log"))?;
        let status = self_exec::command(&program_of(&self.config), self_exec::SHIM)
            .arg(folder)
            .stdin(Stdio::from(lock))
            .stdout(Stdio::from(values))
            .stderr(Stdio::from(errors))
            .status()?;
        if status.code() == Some(shim::DETACHED) {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "the program did not branch into the shim ({status}): `main` has to call `shim_main_if_asked` first"
            )))
        }
    }

    fn observe(&self, handle: &Handle) -> Result<Observation, RunnerError> {
        let folder = self.runs.known(handle)?;
        let started = match self.runs.state(&folder)? {
            State::Final(finished) => return Ok(finished.observation),
            State::Alive(started) => started,
        };
        touch(&folder.join("contact")).map_err(|e| local("note the contact", e))?;
        let setup: Option<Setup> =
            durable::read_json(&folder.join("setup")).map_err(|e| local("read the run's setup", e))?;
        let cancelling = folder.join("cancel").exists();
        let phase = match (&started, cancelling) {
            (_, true) => Phase::Cancelling,
            (Some(_), false) => Phase::Running,
            (None, false) => Phase::Pending { reason: "the sandbox is being set up".to_owned() },
        };
        Ok(Observation {
            phase,
            // Not begun yet is no proof that it will not be.
            never_started: false,
            exit: None,
            oom: false,
            times: Times {
                submitted: setup.map(|setup| setup.submitted),
                started: started.as_ref().map(|started| started.at),
                ended: None,
            },
            evidence: started.map(|started| started.evidence).unwrap_or_default(),
            workspace: None,
            fence: handle.fence,
        })
    }

    fn logs(&self, handle: &Handle, cursor: LogCursor) -> Result<LogRead, RunnerError> {
        let folder = self.runs.known(handle)?;
        let end = match self.runs.state(&folder)? {
            State::Final(finished) => End::Closed(finished.stdout, finished.stderr),
            State::Alive(_) => End::Open,
        };
        frames::read(&folder.join("log"), cursor, &end).map_err(|e| local("read the run's log", e))
    }

    fn cancel(&self, handle: &Handle, grace: Duration) -> Result<(), RunnerError> {
        let folder = match self.runs.known(handle) {
            Ok(folder) => folder,
            // Gone is fine.
            Err(RunnerError::Reaped(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if folder.join("result").exists() {
            return Ok(());
        }
        let request = folder.join("cancel");
        let earlier = fs::read_to_string(&request).ok().and_then(|text| text.trim().parse::<u64>().ok());
        // A second request may shorten the grace, not extend it.
        if earlier.is_none_or(|earlier| grace.0 < earlier) {
            durable::write_durably(&request, grace.0.to_string().as_bytes())
                .map_err(|e| local("request the cancellation", e))?;
        }
        // A run that nobody is left to begin gets its last word now.
        self.runs.state(&folder).map(drop)
    }

    fn fetch(&self, handle: &Handle, artifact: &Artifact, offset: u64, max: usize) -> Result<Vec<u8>, RunnerError> {
        // Only what this run left may be asked for, whatever digest the caller knows.
        if !self.runs.finished(handle)?.manifest.files.contains(artifact) {
            return Err(RunnerError::NotFound(handle.external_name.clone()));
        }
        let failed = |error: io::Error| local(format!("read artifact `{}`", artifact.path), error);
        let mut file = self.trees.blob(artifact.sha256).map_err(|e| RunnerError::Workspace(e.into()))?;
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let limit = u64::try_from(max.min(MAX_FETCH)).map_err(|e| failed(io::Error::other(e)))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn reap(&self, handle: &Handle) -> Result<(), RunnerError> {
        let folder = match self.runs.known(handle) {
            Ok(folder) => folder,
            Err(RunnerError::Reaped(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let State::Final(finished) = self.runs.state(&folder)? else {
            return Err(RunnerError::NotFinished(handle.external_name.clone()));
        };
        if let Some(left) = finished.observation.workspace {
            // The run has kept it so far, however old it is; whoever has heard of it keeps it from now on.
            self.trees.renew_if_kept(left).map_err(|error| RunnerError::Workspace(error.into()))?;
        }
        let failed = |error| local(format!("clear run `{}` away", handle.run), error);
        let missing = |what: &str| failed(io::Error::other(format!("`{what}` is missing")));
        let setup: Option<Setup> = durable::read_json(&folder.join("setup")).map_err(failed)?;
        let setup = setup.ok_or_else(|| missing("setup"))?;
        let stored: Option<Handle> = durable::read_json(&folder.join("handle")).map_err(failed)?;
        let stored = stored.ok_or_else(|| missing("handle"))?;
        let tombstone = Tombstone { job: setup.job, not_after: setup.not_after, handle: stored };
        // Before the folder goes: from here on its order is known to have been carried out.
        durable::write_json(&self.runs.tombstone_of(&tombstone.handle), &tombstone).map_err(failed)?;
        fs::remove_dir_all(&folder).map_err(failed)?;
        tracing::debug!(run = %handle.run, attempt = handle.attempt, "run cleared away");
        self.runs.forget_old_tombstones().map_err(failed)
    }

    fn prune(&self, mut keep: BTreeSet<Digest>, retention: Duration) -> Result<Pruned, RunnerError> {
        let unusable = |error: WorkspaceError| RunnerError::Workspace(error.into());
        // From here on no run begins, so the folders say all there is.
        let alone = self.trees.alone().map_err(unusable)?;
        keep.extend(self.runs.trees()?);
        let age = std::time::Duration::from_millis(retention.0).max(LEAST_RETENTION);
        // Before 1970 there was no tree.
        let before = machine().checked_sub(age).unwrap_or(std::time::SystemTime::UNIX_EPOCH);
        let gone = alone.prune(&keep, before).map_err(unusable)?;
        tracing::info!(trees = gone.trees, contents = gone.contents, bytes = gone.bytes, "trees removed");
        Ok(gone)
    }
}

/// The given clock minus the machine's, in milliseconds.
fn offset(now: Timestamp) -> i64 {
    let machine = i64::try_from(machine_millis()).unwrap_or(i64::MAX);
    i64::try_from(now.0).unwrap_or(i64::MAX).saturating_sub(machine)
}

fn touch(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_modified(machine())
}

#[async_trait]
impl Runner for ProcessRunner {
    fn backend(&self) -> &Name {
        &self.0.config.backend
    }

    async fn probe(&self) -> Result<Fingerprint, RunnerError> {
        self.blocking(|inner| {
            let found = inner.refresh().map_err(|error| local("run the sandbox canary", error))?;
            let doctor = doctor::examine(found, inner.minimum);
            let level = doctor.level;
            let health = match (inner.level_now(), doctor.advice.first()) {
                (Err(_), Some(advice)) => Health::Unavailable { reason: format!("{}: {}", advice.what, advice.fix) },
                (Err(error), None) => Health::Unavailable { reason: error.to_string() },
                (Ok(_), Some(advice)) => Health::Degraded { reason: format!("{}: {}", advice.what, advice.fix) },
                (Ok(_), None) => Health::Ready,
            };
            let held = doctor.found.held();
            let facts = BTreeMap::from([
                ("proc", held.is_some_and(|trial| trial.proc)),
                ("landlock", held.is_some_and(|trial| trial.landlock)),
                ("user", true),
                ("other_user", inner.user.is_some()),
            ]);
            let limits = countersign_runners_contract::Resources::default();
            let isolation = rundir::evidence(level, &limits, &facts, doctor.found.landlock_version);
            Ok(Fingerprint {
                backend: inner.config.backend.clone(),
                health,
                capabilities: Capabilities {
                    delivery: Delivery::AtMostOnce,
                    isolation,
                    networks: inner.networks(level),
                    features: BTreeSet::from([
                        Feature::Workspaces,
                        Feature::Artifacts,
                        Feature::SplitLogs,
                        Feature::SurvivesGatewayRestart,
                        Feature::GracefulCancel,
                    ]),
                    log_resume: LogResume::Bytes,
                    max_wall: None,
                },
                facts: doctor.facts,
            })
        })
        .await
    }

    async fn submit(&self, order: Order) -> Result<Handle, RunnerError> {
        let order = Arc::new(order);
        let admitted = {
            let order = Arc::clone(&order);
            self.blocking(move |inner| inner.admit(&order)).await?
        };
        let mut secrets = BTreeMap::new();
        for (name, reference) in &order.job().spec().secrets {
            secrets.insert(name.clone(), self.0.secrets.resolve(reference).await?);
        }
        self.blocking(move |inner| inner.submit(&order, &secrets, &admitted)).await
    }

    async fn observe(&self, handle: &Handle) -> Result<Observation, RunnerError> {
        let handle = handle.clone();
        self.blocking(move |inner| inner.observe(&handle)).await
    }

    async fn watch(&self, handle: &Handle, seen: Option<&Observation>) -> Result<Observation, RunnerError> {
        let mut pause = WATCH_FIRST;
        loop {
            let now = self.observe(handle).await?;
            if now.phase.is_final() || seen != Some(&now) {
                return Ok(now);
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f32(1.2).min(WATCH_LAST);
        }
    }

    async fn logs(&self, handle: &Handle, cursor: LogCursor) -> Result<LogRead, RunnerError> {
        let handle = handle.clone();
        self.blocking(move |inner| inner.logs(&handle, cursor)).await
    }

    async fn cancel(&self, handle: &Handle, grace: Duration) -> Result<(), RunnerError> {
        let handle = handle.clone();
        self.blocking(move |inner| inner.cancel(&handle, grace)).await
    }

    async fn collect(&self, handle: &Handle) -> Result<Manifest, RunnerError> {
        let handle = handle.clone();
        self.blocking(move |inner| Ok(inner.runs.finished(&handle)?.manifest)).await
    }

    async fn fetch(
        &self,
        handle: &Handle,
        artifact: &Artifact,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>, RunnerError> {
        let (handle, artifact) = (handle.clone(), artifact.clone());
        self.blocking(move |inner| inner.fetch(&handle, &artifact, offset, max)).await
    }

    async fn reap(&self, handle: &Handle) -> Result<(), RunnerError> {
        let handle = handle.clone();
        self.blocking(move |inner| inner.reap(&handle)).await
    }

    async fn list_owned(&self, scope: Scope) -> Result<Vec<Handle>, RunnerError> {
        self.blocking(move |inner| inner.runs.list_owned(scope)).await
    }
}
