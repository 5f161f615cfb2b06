//! The real clock. Absent: any other; tests of lower rooms bring their own.

use std::time::{SystemTime, UNIX_EPOCH};

use countersign_gateway_model::{Clock, Timestamp};

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else is given")]
    fn now(&self) -> Timestamp {
        // A clock before 1970 reads as zero; the ledger then refuses to go back behind its newest entry.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
