//! Rules that were lifted without their quorum, and whether another person has looked at each since.
//!
//! A lift owes a review; a review is of that very lift, once, by a person in their own name whom policy let, who neither
//! lifted the rule nor had it lifted for them. What no gateway writes is refused here; a review by somebody whom the log has
//! not made known as a person closes nothing, nor does one by those whose instance it is or who are involved in the item.
//! Absent: whether the rule's data let it be lifted, which is in the bundle.

use std::collections::btree_map::Entry;
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
    /// Whose instance it is, and who could not have approved: their review closes nothing.
    involved: Vec<Pseudonym>,
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
    /// A lift that its instance's stream allows, and whether a review of it could be told from that of another.
    pub(crate) fn lifted(
        &mut self,
        index: u64,
        header: &Header,
        lift: &Lift,
        (acting, involved): (Vec<Pseudonym>, Vec<Pseudonym>),
    ) -> Result<(), &'static str> {
        if !matches!(lift.effect, Effect::Counted | Effect::Resolving) {
            return Ok(());
        }
        let instance = InstanceId::from_bytes(*header.stream.id.as_bytes());
        let owed = Owed {
            index,
            rule: lift.rule.to_string(),
            actor: header.actor,
            person: lift.person,
            acting,
            involved,
            review_by: lift.review_by,
            closed: false,
        };
        match self.lifts.entry((instance, lift.lift)) {
            // The state machine refuses it too; a review that is owed is lost in no other way.
            Entry::Occupied(_) => Err("a rule was lifted under this id before"),
            Entry::Vacant(free) => {
                free.insert(owed);
                Ok(())
            }
        }
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
        let theirs = owed.involved.contains(&header.actor) || owed.involved.contains(&review.person);
        if persons.contains(&header.actor) && !theirs {
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use countersign_gateway_model::{Assurance, Digest, GateId, GatewayId, ItemId, Name, StreamId};
    use countersign_ledger_entry::body::AuthorityMode;
    use countersign_ledger_entry::{AppendPosition, Body, SEMANTICS, Stream, StreamKind};

    use super::*;

    fn lift() -> Lift {
        Lift {
            lift: DecisionId::from_bytes([1; 16]),
            gate: GateId::from_bytes([2; 16]),
            item: ItemId::from_bytes([3; 16]),
            digest: Digest([4; 32]),
            rule: Name::new("merge").unwrap(),
            person: Pseudonym::from_bytes([5; 16]),
            role: None,
            teams: Vec::new(),
            groups: Vec::new(),
            shown: Digest([6; 32]),
            effect: Effect::Counted,
            assurance: Assurance::Mfa,
            review_by: Timestamp(9),
            assertion: None,
            asked: Vec::new(),
            rules: Vec::new(),
            lapsed: Vec::new(),
        }
    }

    fn header(instance: u8) -> Header {
        Header {
            semantics: SEMANTICS,
            origin: "example/0000".to_owned(),
            stream: Stream { kind: StreamKind::Instance, id: StreamId::from_bytes([instance; 16]) },
            sequence: 3,
            previous: None,
            append: AppendPosition { index: 0, length: 1 },
            body: Body::Lift(lift()),
            verdict: None,
            determining: Vec::new(),
            policy: None,
            authority: AuthorityMode::Solo,
            actor: Pseudonym::from_bytes([5; 16]),
            on_behalf_of: Vec::new(),
            gateway: GatewayId::from_bytes([7; 16]),
            boot: 1,
            key: [0; 4],
            claimed: Timestamp(1),
            payloads: Vec::new(),
            fields: Vec::new(),
        }
    }

    #[test]
    fn a_review_that_is_owed_is_not_replaced_by_another_of_its_id() {
        let mut reviews = Reviews::default();
        let nobody = || (Vec::new(), Vec::new());
        reviews.lifted(3, &header(1), &lift(), nobody()).unwrap();
        let second = reviews.lifted(9, &header(1), &lift(), nobody());
        assert_eq!(second, Err("a rule was lifted under this id before"));
        let idle = Lift { effect: Effect::NotEligible, ..lift() };
        reviews.lifted(10, &header(1), &idle, nobody()).unwrap();
        reviews.lifted(11, &header(2), &lift(), nobody()).unwrap();
        let said = reviews.summary(Timestamp(9));
        assert_eq!(said.open.iter().map(|open| open.entry).collect::<Vec<_>>(), [3, 11]);
    }
}
