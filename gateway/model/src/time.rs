//! Instants and spans, in milliseconds; the `Clock` that shells are given and pure code never sees.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(transparent)]
#[cbor(transparent)]
pub struct Timestamp(#[n(0)] pub u64);

/// A span of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode)]
#[serde(transparent)]
#[cbor(transparent)]
pub struct Duration(#[n(0)] pub u64);

impl Duration {
    /// A span of whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Timestamp {
    /// The span from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-20T09:00:00.000Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, in_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: years begin in March, so that
        // the leap day is their last.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", in_day % 1000)
    }
}

/// Why a text is no instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as `2026-11-20T09:00:00Z`, in UTC, or as the date alone")]
pub struct TimeError;

/// What `Display` prints; seconds' fractions may be missing or shorter, and a date alone is its first instant.
impl std::str::FromStr for Timestamp {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let digits = |part: Option<&str>, length: usize| -> Result<u64, TimeError> {
            let part = part.filter(|part| part.len() == length && part.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|part| part.parse().ok()).ok_or(TimeError)
        };
        let (date, time) = match text.split_once('T') {
            Some((date, time)) => (date, time.strip_suffix('Z').ok_or(TimeError)?),
            None => (text, "00:00:00"),
        };
        let mut date = date.splitn(3, '-');
        let (year, month, day) = (digits(date.next(), 4)?, digits(date.next(), 2)?, digits(date.next(), 2)?);
        let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let mut time = time.splitn(3, ':');
        let (hour, minute, second) = (digits(time.next(), 2)?, digits(time.next(), 2)?, digits(time.next(), 2)?);
        let in_range = (1970..=9999).contains(&year) && (1..=12).contains(&month) && day >= 1;
        if !in_range || hour > 23 || minute > 59 || second > 59 || fraction.len() > 3 {
            return Err(TimeError);
        }
        let millis = digits(Some(&format!("{fraction:0<3}")), 3)?;
        // Howard Hinnant, `days_from_civil`, for the years after 1970.
        let march_year = if month <= 2 { year - 1 } else { year };
        let (era, year_of_era) = (march_year / 400, march_year % 400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
        let at = Self((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis);
        // A day that the month does not have comes out as another one.
        if at.to_string().starts_with(&format!("{year:04}-{month:02}-{day:02}T")) { Ok(at) } else { Err(TimeError) }
    }
}

/// Where shells get the time. The program gives the real one, a test a hand-moved one.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_as_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_219_200_123, "2026-11-21T00:00:00.123Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_time_in_utc_is_refused_and_a_date_is_its_first_instant() {
        assert_eq!("2026-11-21".parse(), Ok(Timestamp(1_795_219_200_000)));
        assert_eq!("2026-11-21T00:00:00Z".parse(), Ok(Timestamp(1_795_219_200_000)));
        assert_eq!("2026-11-21T00:00:00.5Z".parse(), Ok(Timestamp(1_795_219_200_500)));
        for text in [
            "",
            "2026-11-31",
            "2025-02-29",
            "2026-00-01",
            "2026-13-01",
            "1969-12-31",
            "2026-11-21T00:00:00",
            "2026-11-21T00:00:00+01:00",
            "2026-11-21T24:00:00Z",
            "2026-11-21T00:60:00Z",
            "2026-11-21T00:00:00.1234Z",
            "2026-11-21T00:00Z",
            "26-11-21",
            "2026-11-21 00:00:00Z",
            "+026-11-21",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(TimeError), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_reads_back(ms in 0_u64..253_402_300_800_000) {
            proptest::prop_assert_eq!(Timestamp(ms).to_string().parse(), Ok(Timestamp(ms)));
        }
    }
}
