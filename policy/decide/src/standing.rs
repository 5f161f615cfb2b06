//! Where the counters stand for one question, and what it takes from them. Internal.
//!
//! Absent: the counters' form (`counters`), the counting itself (the engine's). Read next: `context`.

use std::collections::BTreeMap;

use countersign_gateway_model::Name;

use crate::counters::{Amount, Counter, CounterError, Reserve, exact, units};
use crate::json::Json;
use crate::question::Question;

/// Where the counters stand for one question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Counter, its value, its value after, whether it is reserved, whether the limit is exceeded.
    pub(crate) counters: Vec<CounterNow>,
}

/// One counter for one question; values in ten-thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CounterNow {
    pub(crate) name: Name,
    pub(crate) before: i128,
    pub(crate) taken: Option<u64>,
    pub(crate) over: bool,
}

impl CounterNow {
    pub(crate) fn after(&self) -> i128 {
        self.before + i128::from(self.taken.unwrap_or(0))
    }
}

/// Where the counters stand for a question, and what it takes.
pub(crate) fn standing(counters: &BTreeMap<Name, Counter>, question: &Question) -> Result<Standing, CounterError> {
    let mut all = Vec::with_capacity(counters.len());
    for (name, counter) in counters {
        let text = question.counters.get(name).ok_or_else(|| CounterError::Absent(name.clone()))?;
        let before = units(text).ok_or_else(|| CounterError::NotDecimal(name.clone()))?;
        let mut now = CounterNow { name: name.clone(), before, taken: taken(counter, name, question)?, over: false };
        now.over = counter.limit.as_deref().and_then(units).is_some_and(|limit| now.after() > limit);
        all.push(now);
    }
    Ok(Standing { counters: all })
}

/// What a question takes from one counter.
fn taken(counter: &Counter, name: &Name, question: &Question) -> Result<Option<u64>, CounterError> {
    let Some(input) = question.input.as_ref().filter(|_| question.is_tool()) else { return Ok(None) };
    let fits = |reserve: &&Reserve| reserve.tools.iter().any(|tool| tool.admits(input.tool().as_str()));
    let Some(reserve) = counter.reserve.iter().find(fits) else { return Ok(None) };
    match &reserve.amount {
        Amount::Fixed(text) => Ok(units(text).and_then(|units| u64::try_from(units).ok())),
        Amount::Field(pointer) => {
            let bad = || CounterError::Amount { counter: name.clone(), pointer: pointer.to_string() };
            // The canonical bytes were written by this program: they always read.
            let value = Json::parse(input.canonical()).map_err(|_| bad())?;
            let (mut sum, mut count, mut whole) = (0_u64, 0_usize, true);
            pointer.each(&value, &mut |_, value| {
                count += 1;
                let amount = if let Json::Number(number) = value { exact(*number) } else { None };
                match amount.and_then(|amount| sum.checked_add(amount)) {
                    Some(total) => sum = total,
                    None => whole = false,
                }
            });
            if count > 0 && whole { Ok(Some(sum)) } else { Err(bad()) }
        }
    }
}
