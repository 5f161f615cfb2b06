//! The folders of all runs: which there are, who may speak for one, where each stands, and what remains of the reaped.
//!
//! Nothing is kept in memory: after a restart the folders say all there is. Absent: making a run (`runner`), what a shim
//! writes (`shim`). Read next: `rundir`, one run's files and what they mean together.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_runners_contract::model::{Clock, Digest, Duration, Name};
use countersign_runners_contract::{
    Evidence, FailureClass, Handle, Manifest, Observation, Phase, RunnerError, Scope, Times,
};

use crate::durable;
use crate::overdue;
use crate::rundir::{self, Finished, Setup, Started, Tombstone};
use crate::{procfs, shim};

/// Tombstones are kept for so long after their order could last have begun.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// How often, and how long apart, the lock of a run is looked at whose shim was killed here.
const LOCK_LOOKS: u32 = 200;
const LOCK_LOOK: std::time::Duration = std::time::Duration::from_millis(10);

/// The folders of all runs of one backend.
pub(crate) struct Runs {
    path: PathBuf,
    backend: Name,
    clock: Arc<dyn Clock>,
}

/// What the files of a run say.
pub(crate) enum State {
    Final(Box<Finished>),
    Alive(Option<Started>),
}

/// The machine failed.
pub(crate) fn local(
    what: impl Into<String>,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RunnerError {
    RunnerError::Local { what: format!("cannot {}", what.into()), source: error.into() }
}

/// Folders that never got their name, and canaries', of processes that are no more.
pub(crate) fn clear_unfinished(folder: &Path, runs: &Path) -> io::Result<()> {
    for (parent, prefix) in [(folder, "canary-"), (runs, ".new-")] {
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next()?.parse().ok());
            if owner.is_some_and(|pid| procfs::start_time(pid).is_none()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
    }
    Ok(())
}

impl Runs {
    pub(crate) fn new(path: PathBuf, backend: Name, clock: Arc<dyn Clock>) -> Self {
        Self { path, backend, clock }
    }

    /// Where they are.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn folder_of(&self, handle: &Handle) -> PathBuf {
        self.path.join(rundir::name(handle.run, handle.attempt))
    }

    pub(crate) fn tombstone_of(&self, handle: &Handle) -> PathBuf {
        self.path.join(format!("{}.reaped", rundir::name(handle.run, handle.attempt)))
    }

    /// Every handle and tombstone of one run, whatever the attempt.
    fn known_of(&self, handle: &Handle) -> Result<Vec<Handle>, RunnerError> {
        let prefix = format!("{}-", handle.run);
        let read = |what: &str, error| local(format!("{what} of run `{}`", handle.run), error);
        let mut known = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| read("list the attempts", e))? {
            let entry = entry.map_err(|e| read("list the attempts", e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            let found = if rest.ends_with(".reaped") {
                durable::read_json::<Tombstone>(&entry.path()).map(|t| t.map(|t| t.handle))
            } else if rest.bytes().all(|b| b.is_ascii_digit()) {
                durable::read_json(&entry.path().join("handle"))
            } else {
                continue;
            };
            match found {
                Ok(found) => known.extend(found),
                // Reaped in this moment; its tombstone is in the list or a newer attempt is.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(read("read an attempt", error)),
            }
        }
        Ok(known)
    }

    /// Refuses a fence below one that is known for the run.
    pub(crate) fn check_fence(&self, handle: &Handle) -> Result<(), RunnerError> {
        let known = self.known_of(handle)?.iter().map(|known| known.fence).max().unwrap_or_default();
        if handle.fence < known {
            return Err(RunnerError::StaleFence { run: handle.run, known, given: handle.fence });
        }
        Ok(())
    }

    /// The folder of a run that is there, for a handle that may speak for it.
    pub(crate) fn known(&self, handle: &Handle) -> Result<PathBuf, RunnerError> {
        if handle.backend != self.backend {
            return Err(RunnerError::NotFound(handle.external_name.clone()));
        }
        let folder = self.folder_of(handle);
        let stored: Option<Handle> =
            durable::read_json(&folder.join("handle")).map_err(|e| local("read the run's handle", e))?;
        let Some(stored) = stored else {
            let reaped = self.tombstone_of(handle).exists();
            let name = handle.external_name.clone();
            return Err(if reaped { RunnerError::Reaped(name) } else { RunnerError::NotFound(name) });
        };
        if stored.org != handle.org || stored.external_name != handle.external_name {
            return Err(RunnerError::NotFound(handle.external_name.clone()));
        }
        if handle.fence < stored.fence {
            return Err(RunnerError::StaleFence { run: handle.run, known: stored.fence, given: handle.fence });
        }
        Ok(folder)
    }

    /// What the files say. A run whose writer is gone is given its last word here, under its lock.
    pub(crate) fn state(&self, folder: &Path) -> Result<State, RunnerError> {
        let failed = |error| local(format!("read the run in `{}`", folder.display()), error);
        let result = folder.join("result");
        if let Some(finished) = durable::read_json(&result).map_err(failed)? {
            return Ok(State::Final(Box::new(finished)));
        }
        let started: Option<Started> = durable::read_json(&folder.join("started")).map_err(failed)?;
        let (mut lock, mut ended) = (rundir::try_lock(folder).map_err(failed)?, None);
        if lock.is_none()
            && let Some(began) = &started
        {
            ended = overdue::end(folder, began).map_err(failed)?;
            // What was killed holds the lock until the machine has cleared it away.
            for _ in 0..ended.as_ref().map_or(0, |_| LOCK_LOOKS) {
                lock = rundir::try_lock(folder).map_err(failed)?;
                if lock.is_some() {
                    break;
                }
                std::thread::sleep(LOCK_LOOK);
            }
        }
        let Some(lock) = lock else { return Ok(State::Alive(started)) };
        // The writer may have finished between the first look and the lock.
        if let Some(finished) = durable::read_json(&result).map_err(failed)? {
            return Ok(State::Final(Box::new(finished)));
        }
        let started: Option<Started> = durable::read_json(&folder.join("started")).map_err(failed)?;
        let finished = self.last_word(folder, started, ended).map_err(failed)?;
        let phase = finished.observation.phase.as_str();
        tracing::warn!(folder = %folder.display(), phase, "a run was left without its shim and is closed");
        // From here on the run is over for everybody, whoever else may look.
        durable::write_json(&result, &finished).map_err(failed)?;
        drop(lock);
        Ok(State::Final(Box::new(finished)))
    }

    /// `ended`: as what it was ended here and now, with its shim.
    fn last_word(&self, folder: &Path, started: Option<Started>, ended: Option<Phase>) -> io::Result<Finished> {
        let setup: Option<Setup> = durable::read_json(&folder.join("setup"))?;
        let handle: Option<Handle> = durable::read_json(&folder.join("handle"))?;
        let mut observation = Observation {
            phase: Phase::Lost,
            never_started: false,
            exit: None,
            oom: false,
            times: Times {
                submitted: setup.map(|setup| setup.submitted),
                started: started.as_ref().map(|started| started.at),
                ended: Some(self.clock.now()),
            },
            evidence: Evidence::default(),
            workspace: None,
            fence: handle.map(|handle| handle.fence).unwrap_or_default(),
        };
        if let Some(started) = started {
            observation.phase = ended.unwrap_or(Phase::Lost);
            observation.evidence = started.evidence;
            return Ok(Finished { observation, manifest: Manifest::default(), stdout: None, stderr: None });
        }
        observation.never_started = true;
        observation.phase = if folder.join("cancel").exists() {
            Phase::Cancelled
        } else {
            let reason = "the runner ended before it had begun the run".to_owned();
            Phase::Failed { class: FailureClass::Infra, reason }
        };
        Ok(shim::never_begun(observation))
    }

    pub(crate) fn finished(&self, handle: &Handle) -> Result<Finished, RunnerError> {
        let folder = self.known(handle)?;
        match self.state(&folder)? {
            State::Final(finished) => Ok(*finished),
            State::Alive(_) => Err(RunnerError::NotFinished(handle.external_name.clone())),
        }
    }

    pub(crate) fn forget_old_tombstones(&self) -> io::Result<()> {
        let now = self.clock.now();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(".reaped")
                && durable::read_json::<Tombstone>(&entry.path())?.is_some_and(|t| t.not_after + TOMBSTONE_LIFE < now)
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    pub(crate) fn list_owned(&self, scope: Scope) -> Result<Vec<Handle>, RunnerError> {
        let failed = |error| local("list runs", error);
        let mut handles = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with('.') || !entry.path().is_dir() {
                continue;
            }
            let handle: Option<Handle> = durable::read_json(&entry.path().join("handle")).map_err(failed)?;
            handles.extend(handle.filter(|handle| match scope {
                Scope::All => true,
                Scope::Organization(org) => handle.org == org,
            }));
        }
        handles.sort_by_key(|handle| (handle.run, handle.attempt));
        Ok(handles)
    }

    /// The trees that runs started from, or left.
    pub(crate) fn trees(&self) -> Result<BTreeSet<Digest>, RunnerError> {
        let failed = |error| local("find the trees that runs use", error);
        let mut trees = BTreeSet::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let folder = entry.map_err(failed)?.path();
            if !folder.is_dir() {
                continue;
            }
            let setup: Option<Setup> = durable::read_json(&folder.join("setup")).map_err(failed)?;
            let finished: Option<Finished> = durable::read_json(&folder.join("result")).map_err(failed)?;
            trees.extend(setup.and_then(|setup| setup.workspace));
            trees.extend(finished.and_then(|finished| finished.observation.workspace));
        }
        Ok(trees)
    }
}
