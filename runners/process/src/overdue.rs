//! The second hand on the dead man's switch: a shim that ends nothing any more is ended together with what it was to end.
//!
//! A shim ends its run at its deadline and at a cancellation. One that hangs or was stopped does neither, and the workload
//! would go on for as long as the machine does. Whoever looks at the run measures the same time, and some more, on a clock
//! that no setting of the time moves. Nothing is touched while no workload is left: then the shim is storing what the run
//! left, which may take long. Absent: a shim that hangs before the workload began, in which nothing runs.

use std::io;
use std::path::Path;
use std::time::Duration;

use countersign_runners_contract::Phase;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::durable;
use crate::procfs;
use crate::rundir::{Setup, Started};
use crate::time::machine;

/// What a shim is left beyond the deadline, or beyond a cancellation's grace: twice what it needs on a machine at rest.
const SLACK: Duration = Duration::from_secs(10);

/// Milliseconds since the machine started, those asleep counted in.
pub(crate) fn since_start() -> Option<u64> {
    let since = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    u64::try_from(since.as_millis()).ok()
}

/// Ends a shim whose time is over together with its workload. Gives as what the run ended then.
pub(crate) fn end(folder: &Path, started: &Started) -> io::Result<Option<Phase>> {
    let Some(phase) = over(folder, started)? else { return Ok(None) };
    let same = procfs::boot_id() == started.boot && procfs::start_time(started.pid) == Some(started.start_time);
    let shim = Pid::from_raw(started.pid);
    let below = procfs::descendants(shim);
    if !same || below.is_empty() {
        return Ok(None);
    }
    tracing::error!(folder = %folder.display(), pid = started.pid, "a shim did not end its run in time and is killed");
    // The shim first: of whatever it starts meanwhile, its death is the death too.
    for pid in [shim].into_iter().chain(below) {
        // One that is gone already is what is wanted.
        let _ = kill(pid, Signal::SIGKILL);
    }
    Ok(Some(phase))
}

/// As what a run should have ended by now; none while it may go on.
fn over(folder: &Path, started: &Started) -> io::Result<Option<Phase>> {
    let setup: Option<Setup> = durable::read_json(&folder.join("setup"))?;
    // Runs of before this was measured are the shim's alone.
    let wall = setup.and_then(|setup| setup.wall).map(|wall| Duration::from_millis(wall.0));
    if let (Some(wall), Some(began), Some(now)) = (wall, started.since_start, since_start())
        && Duration::from_millis(now.saturating_sub(began)) > wall.saturating_add(SLACK)
    {
        return Ok(Some(Phase::TimedOut));
    }
    let request = folder.join("cancel");
    let asked = match request.metadata() {
        Ok(meta) => meta.modified()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let grace: u64 = std::fs::read_to_string(&request)?.trim().parse().unwrap_or_default();
    let waited = machine().duration_since(asked).unwrap_or_default();
    Ok((waited > Duration::from_millis(grace).saturating_add(SLACK)).then_some(Phase::Cancelled))
}
