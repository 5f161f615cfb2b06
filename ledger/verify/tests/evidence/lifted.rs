//! Rules that were lifted without their quorum: what the report says of them, and reviews that nobody could have written.

use countersign_gateway_model::{Assurance, DecisionId, InstanceId, PrincipalKind, Pseudonym, Verdict as Said};
use countersign_ledger_entry::body::{Body, Finding, Lift, LiftRef, Principal, PrincipalChange, Review, Reviewed};
use countersign_ledger_entry::{Entry, Header, PayloadRole};
use countersign_ledger_verify::{Lifts, Verdict};

use crate::world::*;

fn known(world: &mut World, principal: Pseudonym, kind: PrincipalKind) {
    let body = Principal {
        change: PrincipalChange::Created,
        principal,
        kind,
        owner: None,
        roles: Vec::new(),
        teams: Vec::new(),
        credential: None,
    };
    world.put(world.org_stream(), body, |_| {});
}

/// A rule lifted by Alice; Bob is a person.
fn lifted() -> (World, InstanceId, DecisionId) {
    let mut world = World::booted();
    known(&mut world, ALICE, PrincipalKind::Person);
    known(&mut world, BOB, PrincipalKind::Person);
    known(&mut world, AGENT, PrincipalKind::Agent);
    let (instance, lift) = world.lifted(ALICE);
    (world, instance, lift)
}

fn review(instance: InstanceId, lift: DecisionId, person: Pseudonym, finding: Finding) -> Review {
    Review { of: Reviewed::Lift(LiftRef { instance, lift }), person, finding, assurance: Assurance::Mfa }
}

/// As the gateway writes a review, then changed.
fn put(world: &mut World, review: Review, change: impl FnOnce(&mut Header)) {
    let words = world.payload(PayloadRole::Justification, "looked at it");
    let actor = review.person;
    world.put(world.org_stream(), review, |header| {
        header.actor = actor;
        header.verdict = Some(Said::allow());
        header.payloads.push(words);
        change(header);
    });
}

fn lifts(world: &World) -> Lifts {
    let report = world.verify();
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    report.facts.unwrap().lifts
}

fn refused(world: &World, why: &str) {
    let report = world.verify();
    assert_eq!(report.verdict, Verdict::Invalid, "{why}");
    assert!(report.problems.iter().any(|problem| problem.detail.contains(why)), "{why}: {:?}", report.problems);
}

#[test]
fn a_lift_is_told_until_another_person_has_reviewed_it() {
    let (mut world, instance, lift) = lifted();
    let said = lifts(&world);
    assert_eq!((said.lifted, said.open.len(), said.open[0].overdue), (1, 1, false));
    let text = world.verify().render();
    assert!(text.contains("1 without their quorum, 0 reviewed") && text.contains("is OPEN"), "{text}");
    assert!(!text.contains("overdue"), "{text}");
    world.at.0 += 3_600_001;
    known(&mut world, OWNER, PrincipalKind::Person);
    assert!(lifts(&world).open[0].overdue);
    let text = world.verify().render();
    assert!(text.contains("overdue by the claimed times"), "{text}");
    assert!(text.split("Not proven:").nth(1).unwrap().contains("reviewed 1 rules lifted"), "{text}");
    put(&mut world, review(instance, lift, BOB, Finding::NotUpheld), |_| {});
    let said = lifts(&world);
    assert_eq!((said.lifted, said.not_upheld, said.open.len()), (1, 1, 0));
    let text = world.verify().render();
    assert!(text.contains("1 reviewed, 1 of them not upheld") && !text.contains("OPEN"), "{text}");
}

#[test]
fn where_nothing_was_lifted_nothing_is_said() {
    let (world, _) = World::small();
    let report = world.verify();
    assert!(!report.render().contains("lifted"));
    assert!(serde_json::to_value(&report).unwrap().get("lifts").is_none());
}

#[test]
fn a_review_that_no_gateway_writes_is_refused() {
    type Forge = fn(&mut World, InstanceId, DecisionId);
    let cases: [(&str, Forge); 10] = [
        ("whoever lifted a rule does not review it", |w, i, l| put(w, review(i, l, ALICE, Finding::Upheld), |_| {})),
        ("whoever lifted a rule does not review it", |w, i, l| {
            put(w, review(i, l, BOB, Finding::Upheld), |h| h.actor = ALICE);
        }),
        ("a rule was lifted for whoever reviews it", |w, i, l| put(w, review(i, l, AGENT, Finding::Upheld), |_| {})),
        ("policy did not allow", |w, i, l| {
            put(w, review(i, l, BOB, Finding::Upheld), |h| h.verdict = Some(Said::deny()));
        }),
        ("policy did not allow", |w, i, l| put(w, review(i, l, BOB, Finding::Upheld), |h| h.verdict = None)),
        ("in their own name", |w, i, l| put(w, review(i, l, BOB, Finding::Upheld), |h| h.on_behalf_of = vec![OWNER])),
        ("in their own name", |w, i, l| put(w, review(i, l, Pseudonym::SYSTEM, Finding::Upheld), |_| {})),
        ("a review without a word", |w, i, l| put(w, review(i, l, BOB, Finding::Upheld), |h| h.payloads.clear())),
        ("it reviews what nobody has lifted", |w, i, _| {
            put(w, review(i, DecisionId::from_bytes([9; 16]), BOB, Finding::Upheld), |_| {});
        }),
        ("it reviews what was reviewed before", |w, i, l| {
            put(w, review(i, l, BOB, Finding::Upheld), |_| {});
            put(w, review(i, l, OWNER, Finding::NotUpheld), |_| {});
        }),
    ];
    for (why, forge) in cases {
        let (mut world, instance, lift) = lifted();
        forge(&mut world, instance, lift);
        refused(&world, why);
    }
}

#[test]
fn a_review_by_one_whom_the_log_knows_as_no_person_closes_nothing() {
    let (mut world, instance, lift) = lifted();
    put(&mut world, review(instance, lift, OWNER, Finding::Upheld), |_| {});
    assert_eq!(lifts(&world).open.len(), 1);
}

#[test]
fn a_review_by_those_whose_work_it_was_lifted_for_closes_nothing() {
    for involved in [OWNER, INITIATOR] {
        let (mut world, instance, lift) = lifted();
        known(&mut world, involved, PrincipalKind::Person);
        put(&mut world, review(instance, lift, involved, Finding::Upheld), |_| {});
        put(&mut world, review(instance, lift, BOB, Finding::Upheld), |header| header.actor = involved);
        assert_eq!(lifts(&world).open.len(), 1);
        // Another's does, and that once.
        put(&mut world, review(instance, lift, BOB, Finding::Upheld), |_| {});
        assert_eq!(lifts(&world).open.len(), 0);
    }
}

#[test]
fn a_forged_lift_is_refused_in_a_pack() {
    // The entry of the lift, changed and signed again by the gateway's own key; what comes behind it is left out.
    let changed = |change: fn(&mut Lift, &mut Vec<countersign_ledger_entry::PayloadRef>)| {
        let (mut world, instance, _) = lifted();
        let at = world
            .leaves
            .iter()
            .position(|leaf| matches!(Entry::parse(leaf).unwrap().header.body, Body::Lift(_)))
            .unwrap();
        let mut header = Entry::parse(&world.leaves[at]).unwrap().header;
        world.leaves.truncate(at);
        world.instances.remove(&instance);
        let Body::Lift(lift) = &mut header.body else { unreachable!() };
        change(lift, &mut header.payloads);
        let leaf = world.seal(header);
        world.leaves.push(leaf);
        world
    };
    refused(&changed(|lift, _| lift.rule = name("another")), "the item does not ask for the rule");
    refused(&changed(|lift, _| lift.digest = digest(99)), "it lifts a rule from something else");
    refused(&changed(|lift, _| lift.person = OWNER), "the person is not eligible");
    refused(&changed(|lift, _| lift.person = Pseudonym::SYSTEM), "SYSTEM may reject, never lift a rule");
    refused(&changed(|lift, _| lift.assurance = Assurance::Demo), "stand-in lifted a rule");
    refused(&changed(|_, payloads| payloads.clear()), "it has no justification");
}
