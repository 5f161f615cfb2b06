//! The machine's own clocks, where only they will do.
//!
//! Whether a start is in time is decided by the gateway's `Clock`. Timeouts of processes that really run, and the age
//! of files that were really written, are measured here.

use std::time::{Instant, SystemTime};

/// A moment for measuring spans; not affected by setting the time.
#[expect(clippy::disallowed_methods, reason = "a process that really runs is timed by a clock that really ticks")]
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// The machine's time of day, in which it dates files.
#[expect(clippy::disallowed_methods, reason = "the machine dates files by its own clock")]
pub(crate) fn machine() -> SystemTime {
    SystemTime::now()
}

/// The machine's time of day in milliseconds since 1970.
pub(crate) fn machine_millis() -> u64 {
    let since = machine().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
