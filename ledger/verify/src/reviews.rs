//! Rules that were lifted without their quorum, and whether another person has looked at each since.
//!
//! A lift owes a review; a review is of that very lift, once, by a person in their own name whom policy let, who neither
//! lifted the rule nor had it lifted for them. What no gateway writes is refused here; a review by somebody whom the log has
//! not made known as a person closes nothing. Absent: whether the rule's data let it be lifted, which is in the bundle.

use std::collections::{BTreeMap, HashSet};

use countersign_gateway_model::{Decision as Answer, DecisionId, InstanceId, Pseudonym, Timestamp};
use countersign_ledger_entry::body::{Effect, Finding, Lift, LiftRef, Review, Reviewed};
use countersign_ledger_entry::{Header, PayloadRole};

use crate::{Lifts, OpenReview};

/// A lift, as its review is held to it.
struct Owed {
    index: u64,
    rule: String,
    actor: Pseudonym,
    person: Pseudonym,
    /// Who acts in the instance, and for whom; none where its stream is not judged.
    acting: Vec<Pseudonym>,
    review_by: Timestamp,
    closed: bool,
}

/// Every lift so far.
#[derive(Default)]
pub(crate) struct Reviews {
    lifts: BTreeMap<(InstanceId, DecisionId), Owed>,
    not_upheld: u64,
}

impl Reviews {
    /// A lift that its instance's stream allows.
    pub(crate) fn lifted(&mut self, index: u64, header: &Header, lift: &Lift, acting: Vec<Pseudonym>) {
        if !matches!(lift.effect, Effect::Counted | Effect::Resolving) {
            return;
        }
        let instance = InstanceId::from_bytes(*header.stream.id.as_bytes());
        let owed = Owed {
            index,
            rule: lift.rule.to_string(),
            actor: header.actor,
            person: lift.person,
            acting,
            review_by: lift.review_by,
            closed: false,
        };
        self.lifts.insert((instance, lift.lift), owed);
    }

    /// A review, and whether anybody but a person known to the log could have written it.
    pub(crate) fn reviewed(
        &mut self,
        header: &Header,
        review: &Review,
        persons: &HashSet<Pseudonym>,
    ) -> Result<(), &'static str> {
        let Reviewed::Lift(LiftRef { instance, lift }) = review.of;
        let owed = self.lifts.get_mut(&(instance, lift)).ok_or("it reviews what nobody has lifted")?;
        if owed.closed {
            return Err("it reviews what was reviewed before");
        }
        if header.verdict.as_ref().is_none_or(|verdict| verdict.decision != Answer::Allow) {
            return Err("it is a review that policy did not allow");
        }
        if header.actor == Pseudonym::SYSTEM || review.person == Pseudonym::SYSTEM || !header.on_behalf_of.is_empty() {
            return Err("a person reviews in their own name");
        }
        if review.person == owed.person || header.actor == owed.actor {
            return Err("whoever lifted a rule does not review it");
        }
        if owed.acting.contains(&header.actor) || owed.acting.contains(&review.person) {
            return Err("a rule was lifted for whoever reviews it");
        }
        if !header.payloads.iter().any(|named| named.role == PayloadRole::Justification) {
            return Err("it is a review without a word");
        }
        if persons.contains(&header.actor) {
            owed.closed = true;
            self.not_upheld += u64::from(review.finding == Finding::NotUpheld);
        }
        Ok(())
    }

    /// All of it, at the end of the range: `latest` is the latest claimed time.
    pub(crate) fn summary(self, latest: Timestamp) -> Lifts {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let lifted = count(self.lifts.len());
        let mut open: Vec<OpenReview> = self
            .lifts
            .into_iter()
            .filter(|(_, owed)| !owed.closed)
            .map(|((instance, lift), owed)| OpenReview {
                entry: owed.index,
                instance: instance.to_string(),
                lift: lift.to_string(),
                rule: owed.rule,
                review_by: owed.review_by.to_string(),
                overdue: owed.review_by < latest,
            })
            .collect();
        open.sort_by_key(|review| review.entry);
        Lifts { lifted, not_upheld: self.not_upheld, open }
    }
}
