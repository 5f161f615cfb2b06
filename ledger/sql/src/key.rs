//! How a log and a place in it become one 64-bit key, so that the hot tables are plain integer-keyed trees.
//!
//! Entries: 19 bits of log, 38 of index. Payloads: six more for which of the entry's. Tiles: level and index. Limits:
//! 524,287 logs in a journal, 274,877,906,943 entries in a log, 64 payloads an entry.

use std::ops::RangeInclusive;

use countersign_ledger_log::{JournalError, LogNumber};

const INDEX_BITS: u32 = 38;
const LOG_BITS: u32 = 19;
const PAYLOAD_BITS: u32 = 6;
const LEVEL_BITS: u32 = 4;

fn limit(what: &str) -> JournalError {
    JournalError::Corrupt(format!("{what} is beyond what this journal can hold"))
}

/// The key of an entry, or of the checkpoint of that size.
pub(crate) fn entry(log: LogNumber, index: u64) -> Result<i64, JournalError> {
    if index >> INDEX_BITS != 0 || log.0 >> LOG_BITS != 0 {
        return Err(limit("an entry"));
    }
    i64::try_from(u64::from(log.0) << INDEX_BITS | index).map_err(|_| limit("an entry"))
}

/// The index of an entry's key.
pub(crate) fn index(key: i64) -> u64 {
    key.cast_unsigned() & ((1 << INDEX_BITS) - 1)
}

/// The keys of a log's entries `from..to`, cut to what there can be.
pub(crate) fn entries(log: LogNumber, from: u64, to: u64) -> Result<Option<RangeInclusive<i64>>, JournalError> {
    let to = to.min(1 << INDEX_BITS);
    if from >= to {
        return Ok(None);
    }
    Ok(Some(entry(log, from)?..=entry(log, to - 1)?))
}

/// The key of a payload.
pub(crate) fn payload(log: LogNumber, index: u64, n: u8) -> Result<i64, JournalError> {
    if n >> PAYLOAD_BITS != 0 {
        return Err(limit("a payload"));
    }
    Ok(entry(log, index)? << PAYLOAD_BITS | i64::from(n))
}

/// The keys of all payloads of an entry.
pub(crate) fn payloads(log: LogNumber, index: u64) -> Result<RangeInclusive<i64>, JournalError> {
    let first = payload(log, index, 0)?;
    Ok(first..=first | ((1 << PAYLOAD_BITS) - 1))
}

/// The index of the entry that a payload's key is of.
pub(crate) fn index_of_payload(key: i64) -> u64 {
    index(key >> PAYLOAD_BITS)
}

/// The key of a full tile. A tile's index is at most an entry's divided by 256, so its level fits above it.
pub(crate) fn tile(log: LogNumber, level: u8, index: u64) -> Result<i64, JournalError> {
    let bits = INDEX_BITS - LEVEL_BITS;
    if index >> bits != 0 || level >> LEVEL_BITS != 0 {
        return Err(limit("a tile"));
    }
    entry(log, u64::from(level) << bits | index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_sort_as_log_and_place_and_read_back(
            a in (1_u32..1 << LOG_BITS, 0_u64..1 << INDEX_BITS, 0_u8..64),
            b in (1_u32..1 << LOG_BITS, 0_u64..1 << INDEX_BITS, 0_u8..64),
        ) {
            let of = |(log, index, n)| (entry(LogNumber(log), index).unwrap(), payload(LogNumber(log), index, n).unwrap());
            prop_assert_eq!(of(a).0.cmp(&of(b).0), (a.0, a.1).cmp(&(b.0, b.1)));
            prop_assert_eq!(of(a).1.cmp(&of(b).1), a.cmp(&b));
            prop_assert_eq!(index(of(a).0), a.1);
            prop_assert_eq!(index_of_payload(of(a).1), a.1);
            prop_assert!(payloads(LogNumber(a.0), a.1).unwrap().contains(&of(a).1));
        }
    }

    #[test]
    fn everything_that_a_journal_must_hold_has_a_key() {
        use countersign_ledger_log::journal::{MAX_LOGS, MAX_PAYLOADS};
        let last = LogNumber(MAX_LOGS);
        let n = u8::try_from(MAX_PAYLOADS - 1).unwrap();
        assert_eq!(payload(last, (1 << INDEX_BITS) - 1, n).unwrap(), i64::MAX);
        assert!(entry(LogNumber(MAX_LOGS + 1), 0).is_err());
    }

    #[test]
    fn what_does_not_fit_a_key_is_refused() {
        assert!(entry(LogNumber(1), 1 << INDEX_BITS).is_err());
        assert!(entry(LogNumber(1 << LOG_BITS), 0).is_err());
        assert!(payload(LogNumber(1), 0, 64).is_err());
        assert!(tile(LogNumber(1), 16, 0).is_err());
        assert_eq!(entries(LogNumber(1), 3, 3).unwrap(), None);
        assert_eq!(entries(LogNumber(1), 0, u64::MAX).unwrap().unwrap().count(), 1 << INDEX_BITS);
    }
}
