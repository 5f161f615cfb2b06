//! Counters: facts that span instances, what a question takes from them, and which of them it only looks at.
//!
//! ```json
//! {"counters": {"spent-today": {"title": "Money spent since midnight", "unit": "EUR", "window_s": 86400,
//!   "limit": "1000.0", "reserve": [{"tools": ["payments.*"], "amount": {"field": "/amount"}}]}}}
//! ```
//!
//! A question names the value of every counter, open reservations included. Policy sees that (`context.counters`), what
//! it will be if this question is carried out (`context.after`), which counters the question does not reserve
//! (`context.advisory`: two that race may both pass), and a fact `over:<counter>` where `after` exceeds the limit.
//! Amounts are ten-thousandths, which is what Cedar's `decimal` holds. Absent: the counting itself, versions, settling:
//! the engine's. Read next: `standing`.

use std::collections::BTreeMap;

use countersign_gateway_model::{Name, Timestamp};
use serde::{Deserialize, Serialize};

use crate::data::DataError;
use crate::json::Digits;
use crate::locate::{Pointer, ToolPattern, all_tools};

/// How many ten-thousandths one is.
pub const SCALE: i128 = 10_000;

/// How many counters a bundle may have: each is part of every question.
const MAX_COUNTERS: usize = 64;
/// How long their names may be: facts are named after them.
const MAX_NAME: usize = 100;

/// `counters.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// The members of the Cedar record `Counters`.
    #[serde(default)]
    pub counters: BTreeMap<Name, Counter>,
}

/// One counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// What is counted: `EUR`, `calls`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// For how many seconds what was taken counts, in windows that begin at the Unix epoch. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u64>,
    /// Decimal text; beyond it the fact `over:<counter>` stands. Absent: policies compare by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// What takes from it; the first that fits a tool counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserve: Vec<Reserve>,
}

/// What some tools take from a counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// Which tools. Absent: all.
    #[serde(default = "all_tools")]
    pub tools: Vec<ToolPattern>,
    /// How much.
    pub amount: Amount,
}

/// How much is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// What the input says there. Absent, inexact or negative: the question is denied.
    Field(Pointer),
    /// Always as much: decimal text.
    Fixed(String),
}

/// What a question takes from one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The counter.
    pub counter: Name,
    /// How much, in ten-thousandths of the counter's unit.
    pub amount: u64,
}

/// Why a question's counters are not known. The text goes to those who may read verdicts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CounterError {
    /// The engine gave no value: a forbid that reads it would be skipped.
    #[error("counter `{0}`, which the bundle names, is absent")]
    Absent(Name),
    /// A value that is not decimal text with at most four places.
    #[error("counter `{0}` is not a decimal")]
    NotDecimal(Name),
    /// The field says no amount that could be reserved.
    #[error(
        "`{pointer}` is no amount that counter `{counter}` can reserve: give a number from 0 with at most 4 places"
    )]
    Amount {
        /// The counter.
        counter: Name,
        /// Where the amount should stand.
        pointer: String,
    },
}

/// Ten-thousandths from decimal text: digits, a point, one to four places.
pub fn units(text: &str) -> Option<i128> {
    let (sign, rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = rest.split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || whole.len() > 15 || !digits(fraction) || fraction.len() > 4 {
        return None;
    }
    let places = format!("{fraction:0<4}");
    Some(sign * (whole.parse::<i128>().ok()? * SCALE + places.parse::<i128>().ok()?))
}

/// Decimal text from ten-thousandths.
pub fn decimal(units: i128) -> String {
    let sign = if units < 0 { "-" } else { "" };
    let (whole, fraction) = (units.unsigned_abs() / SCALE.unsigned_abs(), units.unsigned_abs() % SCALE.unsigned_abs());
    let fraction = format!("{fraction:04}");
    let fraction = fraction.trim_end_matches('0');
    format!("{sign}{whole}.{}", if fraction.is_empty() { "0" } else { fraction })
}

/// Ten-thousandths of a number that is exactly that; `None` for any other, and below 0.
pub(crate) fn exact(number: f64) -> Option<u64> {
    if number < 0.0 {
        return None;
    }
    let Digits { digits, exponent } = Digits::shortest(number);
    let places = i64::try_from(digits.len()).ok()? - exponent;
    if places > 4 || exponent > 15 {
        return None;
    }
    let zeros = usize::try_from(4 - places).ok()?;
    let digits = if digits.is_empty() { "0".to_owned() } else { digits + &"0".repeat(zeros) };
    digits.parse().ok()
}

/// The start of the window of that many seconds in which `at` lies; 0 where there is none.
pub fn window_start(window_s: Option<u64>, at: Timestamp) -> Timestamp {
    match window_s.and_then(|s| s.checked_mul(1000)).filter(|w| *w > 0) {
        Some(window) => Timestamp(at.0 - at.0 % window),
        None => Timestamp(0),
    }
}

impl Counters {
    /// Reads `counters.json`, strictly.
    pub fn parse(bytes: &[u8]) -> Result<Self, DataError> {
        let counters: Self = crate::data::read(bytes)?;
        let bad = |name: &str, member: &str, problem: &str| Err(DataError::rule("counters", name, member, problem));
        if counters.counters.len() > MAX_COUNTERS {
            return bad("", "", "there are more than 64, and every question carries each of them; put some together");
        }
        for (name, counter) in &counters.counters {
            let name = name.as_str();
            if name.len() > MAX_NAME {
                return bad(name, "", "the name is longer than 100 bytes; shorten it");
            }
            if counter.window_s == Some(0) {
                return bad(name, "/window_s", "`window_s` is at least 1; leave it out for one that never starts anew");
            }
            if counter.limit.as_deref().is_some_and(|limit| units(limit).is_none()) {
                return bad(name, "/limit", "`limit` is no decimal text; write 1 to 4 places, like \"1000.0\"");
            }
            for (number, reserve) in counter.reserve.iter().enumerate() {
                let member = |rest: &str| format!("/reserve/{number}{rest}");
                if reserve.tools.is_empty() {
                    return bad(name, &member("/tools"), "a `reserve` names no tools; leave `tools` out for all");
                }
                if let Amount::Fixed(text) = &reserve.amount
                    && units(text).is_none_or(|units| units < 0)
                {
                    let problem = "`fixed` is no decimal text from 0; write 1 to 4 places, like \"1.0\"";
                    return bad(name, &member("/amount/fixed"), problem);
                }
            }
        }
        Ok(counters)
    }
}

impl Counter {
    /// The start of the window in which `now` lies; 0 where there is none.
    pub fn window_start(&self, now: Timestamp) -> Timestamp {
        window_start(self.window_s, now)
    }
}
