//! Decisions signed by those who decide: valid with a key that they registered before, INVALID with every other.

use countersign_gateway_model::{Assurance, InstanceId, Name, PrincipalKind, Pseudonym, Verdict as Said};
use countersign_ledger_entry::assertion::{self, Statement};
use countersign_ledger_entry::body::{
    Assertion, DecidedItem, Decision, DecisionKind, Effect, PersonKey, Principal, PrincipalChange,
};
use countersign_ledger_entry::{Bytes32, Header, PayloadRole};
use countersign_ledger_verify::{Verdict, verify};

use crate::world::*;

/// The number of the key that a person signs with here.
const KEY: u8 = 0x51;

fn public(n: u8) -> Bytes32 {
    Bytes32(signing_key(n).verifying_key().to_bytes())
}

/// A log without a gate, and what registers a key in it.
fn registration(world: &World, who: Pseudonym, n: u8) -> PersonKey {
    let possession = Some(assertion::possess(&signing_key(n), &world.origin, who));
    PersonKey { principal: who, alg: assertion::EDDSA, key: public(n), revoked: false, possession }
}

fn put_key(world: &mut World, key: PersonKey, by: Pseudonym, change: impl FnOnce(&mut Header)) {
    world.put(world.org_stream(), key, |header| {
        header.actor = by;
        header.verdict = Some(Said::allow());
        change(header);
    });
}

fn taken_back(n: u8, who: Pseudonym) -> PersonKey {
    PersonKey { principal: who, alg: assertion::EDDSA, key: public(n), revoked: true, possession: None }
}

fn approval(world: &World, instance: InstanceId, person: Pseudonym) -> Decision {
    let gate = world.instances[&instance].gate().unwrap();
    let items = gate.items.iter().map(|item| DecidedItem {
        item: item.item,
        digest: item.digest,
        rules: item.rules.iter().map(|rule| rule.rule.clone()).collect::<Vec<Name>>(),
        instead: None,
    });
    Decision {
        decision: countersign_gateway_model::DecisionId::from_bytes([0xdd; 16]),
        gate: gate.gate,
        kind: DecisionKind::Approve,
        items: items.collect(),
        person,
        role: None,
        teams: Vec::new(),
        groups: Vec::new(),
        shown: Some(digest(7)),
        effect: Effect::Counted,
        assurance: Assurance::Password,
        delta: None,
        assertion: None,
        asked: Vec::new(),
        on_behalf: None,
        rules: Vec::new(),
        lapsed: Vec::new(),
    }
}

/// Signs what the decision says, changes it, and puts it at the end.
fn decide(world: &mut World, instance: InstanceId, by: Pseudonym, n: u8, change: impl FnOnce(&mut Decision)) {
    let mut decision = approval(world, instance, by);
    decision.assertion = Some(Statement::of(&world.origin, &decision).sign(&signing_key(n)));
    change(&mut decision);
    let justification = world.payload(PayloadRole::Justification, "it is right");
    world.put(World::stream(instance), decision, |header| {
        header.actor = by;
        header.verdict = Some(Said::allow());
        header.payloads.push(justification);
    });
}

/// A log in which ALICE has a key, then a gate opens.
fn keyed() -> (World, InstanceId) {
    let (mut world, instance) = World::small();
    let key = registration(&world, ALICE, KEY);
    put_key(&mut world, key, ALICE, |_| {});
    world.at.0 += 1;
    world.gated(instance);
    (world, instance)
}

pub(crate) fn signed(change: impl FnOnce(&mut Decision)) -> World {
    let (mut world, instance) = keyed();
    decide(&mut world, instance, ALICE, KEY, change);
    world
}

/// What is forged, the world that has it, and words of the refusal.
type Case = (&'static str, fn() -> World, &'static str);

fn refused(cases: &[Case]) {
    for (what, build, why) in cases {
        let world = build();
        let report = world.verify();
        assert_eq!(report.verdict, Verdict::Invalid, "{what}");
        let last = format!("entry {} ", world.leaves.len() - 1);
        let said = &report.problems[0].detail;
        assert!(said.starts_with(&last) && said.contains(why), "{what}: {:?}", report.problems);
    }
}

#[test]
fn a_decision_signed_with_a_registered_key_is_told_as_signed() {
    let world = signed(|_| {});
    let report = verify(&world.vkey(), &world.open_pack(), None);
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    let facts = report.facts.as_ref().unwrap();
    assert_eq!((facts.counts.asserted, facts.counts.other_decisions), (1, 1));
    let key = &facts.person_keys[0];
    assert_eq!((key.principal.clone(), key.signed, key.revoked), (ALICE.to_string(), 1, None));
    let text = report.render();
    assert!(text.contains("1, 1 with the approver's own signature"), "{text}");
    assert!(report.proven.iter().any(|line| line.contains("1 decisions are signed over gate, items, change and view")));
    let left = report.not_proven.iter().find(|line| line.contains("came from the person named")).unwrap();
    assert!(left.contains("only they can say") && left.contains("for 0 decisions the gateway's word"), "{left}");
}

#[test]
fn a_key_that_is_taken_back_leaves_what_it_signed_before() {
    let mut world = signed(|_| {});
    put_key(&mut world, taken_back(KEY, ALICE), BOB, |_| {});
    let report = world.verify();
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    let last = u64::try_from(world.leaves.len()).unwrap() - 1;
    assert_eq!(report.facts.unwrap().person_keys[0].revoked, Some(last));
}

#[test]
fn a_signature_that_does_not_hold_makes_the_log_invalid() {
    fn bent(change: impl FnOnce(&mut Assertion)) -> World {
        signed(|decision| change(decision.assertion.as_mut().unwrap()))
    }
    refused(&[
        ("a bent one", || bent(|a| a.signature[9] ^= 1), "own signature does not hold"),
        ("a short one", || bent(|a| a.signature.truncate(63)), "own signature does not hold"),
        ("another algorithm", || bent(|a| a.alg = -7), "algorithm -7"),
        ("another key's name", || bent(|a| a.key_id = digest(1)), "not registered for who decided"),
        ("of another view", || signed(|d| d.shown = Some(digest(8))), "own signature does not hold"),
        (
            "by another person",
            || {
                let (mut world, instance) = keyed();
                decide(&mut world, instance, BOB, KEY, |_| {});
                world
            },
            "not registered for who decided",
        ),
        (
            "registered after the gate opened",
            || {
                let (mut world, instance) = World::small();
                world.gated(instance);
                let key = registration(&world, ALICE, KEY);
                put_key(&mut world, key, ALICE, |_| {});
                decide(&mut world, instance, ALICE, KEY, |_| {});
                world
            },
            "registered after its gate opened",
        ),
        (
            "taken back before",
            || {
                let (mut world, instance) = keyed();
                put_key(&mut world, taken_back(KEY, ALICE), ALICE, |_| {});
                decide(&mut world, instance, ALICE, KEY, |_| {});
                world
            },
            "taken back before",
        ),
    ]);
}

#[test]
fn a_key_is_registered_by_its_person_who_holds_it_and_once() {
    fn after(build: impl FnOnce(&mut World)) -> World {
        let (mut world, _) = World::small();
        let key = registration(&world, ALICE, KEY);
        put_key(&mut world, key, ALICE, |_| {});
        build(&mut world);
        world
    }
    refused(&[
        (
            "by another",
            || {
                after(|world| {
                    let key = registration(world, BOB, 0x52);
                    put_key(world, key, ALICE, |_| {});
                })
            },
            "by another than that person",
        ),
        (
            "in their name",
            || {
                after(|world| {
                    let key = registration(world, BOB, 0x52);
                    put_key(world, key, BOB, |header| header.on_behalf_of.push(ALICE));
                })
            },
            "by another than that person",
        ),
        (
            "without holding it",
            || {
                after(|world| {
                    let key = PersonKey { key: public(0x53), ..registration(world, BOB, 0x52) };
                    put_key(world, key, BOB, |_| {});
                })
            },
            "has not shown to hold it",
        ),
        (
            "twice",
            || {
                after(|world| {
                    let key = registration(world, ALICE, KEY);
                    put_key(world, key, ALICE, |_| {});
                })
            },
            "registered before",
        ),
        (
            "again after it was taken back, by somebody else",
            || {
                after(|world| {
                    put_key(world, taken_back(KEY, ALICE), ALICE, |_| {});
                    let key = registration(world, BOB, KEY);
                    put_key(world, key, BOB, |_| {});
                })
            },
            "registered before",
        ),
        (
            "against policy",
            || {
                after(|world| {
                    let key = registration(world, BOB, 0x52);
                    put_key(world, key, BOB, |header| header.verdict = Some(Said::deny()));
                })
            },
            "without policy's yes",
        ),
        (
            "for an agent",
            || {
                after(|world| {
                    let agent = Principal {
                        change: PrincipalChange::Created,
                        principal: AGENT,
                        kind: PrincipalKind::Agent,
                        owner: Some(ALICE),
                        roles: Vec::new(),
                        teams: Vec::new(),
                        credential: None,
                    };
                    world.put(world.org_stream(), agent, |_| {});
                    let key = registration(world, AGENT, 0x52);
                    put_key(world, key, AGENT, |_| {});
                })
            },
            "no person",
        ),
        (
            "taken back and not there",
            || after(|world| put_key(world, taken_back(0x52, ALICE), ALICE, |_| {})),
            "not registered",
        ),
        (
            "taken back as another's",
            || after(|world| put_key(world, taken_back(KEY, BOB), BOB, |_| {})),
            "not registered",
        ),
    ]);
}

#[test]
fn a_signature_of_version_1_which_nobody_checked_is_counted_as_unchecked() {
    let (mut world, instance) = World::small_of_version(1);
    world.gated(instance);
    decide(&mut world, instance, ALICE, KEY, |_| {});
    let report = world.verify();
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    let counts = &report.facts.as_ref().unwrap().counts;
    assert_eq!((counts.asserted, counts.unchecked_signatures), (0, 1));
    assert!(report.not_proven.iter().any(|line| line.contains("1 signatures of semantics version 1")));
}

#[test]
fn a_lift_is_signed_as_a_decision_is() {
    fn lifted(n: u8, change: fn(&mut Assertion)) -> World {
        let (mut world, _) = World::small();
        let key = registration(&world, ALICE, KEY);
        put_key(&mut world, key, ALICE, |_| {});
        world.at.0 += 1;
        world.lifted_with(ALICE, |statement| {
            let mut assertion = statement.sign(&signing_key(n));
            change(&mut assertion);
            Some(assertion)
        });
        world
    }
    let report = lifted(KEY, |_| {}).verify();
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    assert_eq!(report.facts.unwrap().person_keys[0].signed, 1);
    for (world, why) in [
        (lifted(KEY, |assertion| assertion.signature[0] ^= 1), "own signature does not hold"),
        (lifted(0x52, |_| {}), "not registered for who decided"),
        (lifted(KEY, |assertion| assertion.alg = -7), "algorithm -7"),
    ] {
        let report = world.verify();
        assert_eq!(report.verdict, Verdict::Invalid, "{why}");
        assert!(report.problems[0].detail.contains(why), "{:?}", report.problems);
    }
}
