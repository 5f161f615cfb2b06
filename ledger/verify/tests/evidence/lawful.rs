//! A lawful log is VALID, and the report tells it as it was.

use countersign_gateway_flow::{Asked, Force};
use countersign_gateway_model::{
    Assurance, Digest, InstanceId, Outcome, PrincipalKind, Pseudonym, State, Verdict as Said,
};
use countersign_ledger_entry::body::Principal;
use countersign_ledger_entry::body::{
    AuthorityMode, DecisionKind, Erasure, Freeze, PrincipalChange, Recovery, SettingValue, Settings, SignatureMode,
};
use countersign_ledger_entry::{Header, PayloadRole};
use countersign_ledger_verify::{Facts, Report, Verdict, verify};

use crate::world::*;

fn facts(report: &Report) -> &Facts {
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    report.facts.as_ref().unwrap()
}

/// Every row that people meet: calls, dispatches, refusals, a gate with two votes, stops, sweeps, late outcomes.
pub(crate) fn eventful() -> (World, InstanceId, InstanceId) {
    let mut world = World::booted();
    let setting = Settings { setting: name("log.public_read"), old: None, new: SettingValue::Flag(true) };
    world.put(world.org_stream(), setting, |_| {});
    let done = world.running();
    let first = world.call(done, true);
    world.report(done, first, Outcome::Succeeded);
    let run = world.dispatch(done);
    world.at.0 += 1000;
    let other = world.create(false);
    world.sweep(done, run);
    world.report(done, run, Outcome::Failed);
    world.report(done, run, Outcome::Succeeded);
    world.denied(done);
    world.gated(done);
    world.vote(done, DecisionKind::Approve, ALICE, Assurance::Password);
    world.vote(done, DecisionKind::Approve, OWNER, Assurance::Password);
    world.vote(done, DecisionKind::Approve, BOB, Assurance::Mfa);
    world.complete(done);
    // A second boot, and work of an instance that stays open.
    world.by.key = signing_key(4);
    world.boot();
    let open = world.running();
    world.call(open, true);
    world.stop(other);
    let rejected = world.running();
    world.gated(rejected);
    world.vote(rejected, DecisionKind::Reject, ALICE, Assurance::Password);
    let freeze = |lift| Freeze { lift, team: None };
    world.put(world.org_stream(), freeze(false), |_| {});
    world.put(world.org_stream(), freeze(true), |_| {});
    (world, done, open)
}

#[test]
fn a_lawful_log_is_valid_and_told_as_it_was() {
    let (world, done, open) = eventful();
    let report = verify(&world.vkey(), &world.open_pack(), None);
    let facts = facts(&report);
    let size = world.leaves.len() as u64;
    assert!(facts.population.complete && (facts.population.from, facts.population.to) == (0, size));
    assert_eq!((facts.origin.as_str(), facts.signatures, facts.durability), (&*world.origin, "per_entry", "journal"));
    assert_eq!((facts.boots, facts.gateways, facts.sandbox_levels.as_slice()), (2, 1, [2].as_slice()));
    assert_eq!(facts.authority.get("four_eyes"), Some(&size));
    assert_eq!(facts.policies.len(), 1);
    let counts = &facts.counts;
    assert_eq!((counts.approved, counts.rejected, counts.refused, counts.objections), (1, 1, 1, 1));
    assert_eq!((counts.other_decisions, counts.superseding, counts.conflicts, counts.freezes), (2, 1, 1, 2));
    let outcomes: Vec<_> = counts.outcomes.iter().map(|(name, n)| (*name, *n)).collect();
    assert_eq!(outcomes, [("failed", 1), ("succeeded", 1), ("unknown", 1)]);
    assert_eq!(counts.kinds.values().sum::<u64>(), size);
    let streams = &facts.streams;
    assert_eq!((streams.instances.len(), streams.closed, streams.open_starts), (4, 3, 1));
    let find = |id: InstanceId| streams.instances.iter().find(|i| i.id == id.to_string()).unwrap();
    assert!(find(done).closed && find(done).state == State::Completed.as_str());
    assert!(!find(open).closed && find(open).open_starts == 1);
    let payloads = facts.payloads;
    assert_eq!((payloads.named, payloads.disclosed), (world.payloads.len() as u64, world.payloads.len() as u64));
    assert_eq!(verify(&world.vkey(), &world.pack(), None).facts.unwrap().payloads.disclosed, 0);
}

#[test]
fn what_no_log_can_prove_is_always_said() {
    let (world, _) = World::small();
    let text = world.verify().render();
    for said in [
        "no second history",
        "rollback not excluded",
        "no request was left out",
        "an approval came from the person named",
        "claimed times are true",
        "verdicts follow from the policies",
    ] {
        assert!(text.split("Not proven:").nth(1).unwrap().contains(said), "{said}\n{text}");
    }
    assert!(!text.contains("demonstration"));
    let mut demo = World::new(|g| g.demo = true);
    demo.boot();
    assert!(demo.verify().render().contains("any human was involved: this log is a demonstration"));
}

/// Makes somebody known.
fn known(world: &mut World, who: Pseudonym, kind: PrincipalKind) {
    let made = Principal {
        change: PrincipalChange::Created,
        principal: who,
        kind,
        owner: None,
        roles: Vec::new(),
        teams: Vec::new(),
        credential: None,
    };
    world.put(world.org_stream(), made, |_| {});
}

/// An entry of somebody's, whom policy let.
fn by(who: Pseudonym) -> impl FnOnce(&mut Header) {
    move |header| {
        header.actor = who;
        header.verdict = Some(countersign_gateway_model::Verdict::allow());
    }
}

#[test]
fn a_recovery_is_told_until_a_person_has_closed_its_review() {
    let recovery = |reviewed| Recovery { bundle: digest(7), reviewed };
    let (mut world, _) = World::small();
    let silent = world.verify();
    assert!(!silent.render().contains("recovery"), "where none was, nothing is said");
    assert!(serde_json::to_value(&silent).unwrap().get("recoveries").is_none());
    let at = world.leaves.len() as u64;
    world.put(world.org_stream(), recovery(false), |_| {});
    world.put(world.org_stream(), Freeze { lift: false, team: None }, |_| {});
    let report = world.verify();
    let open = facts(&report).open_recoveries[0].clone();
    assert_eq!((open.from, open.bundle), (at, digest(7).to_string()));
    let text = report.render();
    assert!(text.contains(&format!("the review of the one at entry {at} is OPEN")), "{text}");
    assert!(text.split("Not proven:").nth(1).unwrap().contains("reviewed the recovery"), "{text}");
    known(&mut world, ALICE, PrincipalKind::Person);
    world.put(world.org_stream(), recovery(true), by(ALICE));
    let report = world.verify();
    assert_eq!((facts(&report).open_recoveries.clone(), facts(&report).recoveries), (vec![], 1));
    let text = report.render();
    assert!(text.contains("1, reviewed") && !text.contains("OPEN"), "{text}");
}

#[test]
fn a_review_by_system_of_another_recovery_or_of_none_closes_nothing() {
    let recovery = |bundle, reviewed| Recovery { bundle: digest(bundle), reviewed };
    let (mut world, _) = World::small();
    known(&mut world, ALICE, PrincipalKind::Person);
    known(&mut world, AGENT, PrincipalKind::Agent);
    world.put(world.org_stream(), recovery(7, true), by(ALICE));
    assert_eq!((facts(&world.verify()).open_recoveries.clone(), facts(&world.verify()).recoveries), (vec![], 0));
    world.put(world.org_stream(), recovery(7, false), |_| {});
    world.put(world.org_stream(), recovery(7, true), |_| {});
    world.put(world.org_stream(), recovery(8, true), by(ALICE));
    world.put(world.org_stream(), recovery(7, true), by(AGENT));
    world.put(world.org_stream(), recovery(7, true), |header| header.actor = ALICE);
    world.put(world.org_stream(), recovery(7, true), |header| {
        by(ALICE)(header);
        header.on_behalf_of = vec![AGENT];
    });
    assert!(
        !facts(&world.verify()).open_recoveries.is_empty(),
        "only a person in their own name, whom policy let, closes it"
    );
    world.put(world.org_stream(), recovery(7, true), by(ALICE));
    assert_eq!(facts(&world.verify()).open_recoveries, []);
}

#[test]
fn a_second_recovery_hides_no_review_that_the_first_one_owes() {
    let recovery = |bundle, reviewed| Recovery { bundle: digest(bundle), reviewed };
    let (mut world, _) = World::small();
    known(&mut world, ALICE, PrincipalKind::Person);
    world.put(world.org_stream(), recovery(7, false), |_| {});
    world.put(world.org_stream(), recovery(8, false), |_| {});
    let open = |world: &World| {
        let report = world.verify();
        facts(&report).open_recoveries.iter().map(|open| open.bundle.clone()).collect::<Vec<_>>()
    };
    assert_eq!(open(&world), [digest(7).to_string(), digest(8).to_string()]);
    assert_eq!(world.verify().render().matches("is OPEN").count(), 2);
    world.put(world.org_stream(), recovery(8, true), by(ALICE));
    assert_eq!(open(&world), [digest(7).to_string()], "the first one's stays open");
    world.put(world.org_stream(), recovery(7, true), by(ALICE));
    assert!(open(&world).is_empty());
}

#[test]
fn the_text_names_what_is_open_and_stays_short() {
    let mut world = World::booted();
    let ids: Vec<_> = (0..23).map(|_| world.running()).collect();
    let text = world.verify().render();
    assert!(text.contains("23, of these closed 0; RUNNING 23"), "{text}");
    assert!(text.contains(&ids[0].to_string()) && !text.contains(&ids[22].to_string()), "{text}");
    assert!(text.contains("and 3 more, which JSON names"), "{text}");
    let json = serde_json::to_value(world.verify()).unwrap();
    assert_eq!(json["streams"]["instances"].as_array().unwrap().len(), 23);
    assert_eq!(json["verdict"], "VALID");
}

#[test]
fn a_report_that_is_invalid_shows_no_facts() {
    let (world, _) = World::small();
    let report = verify(&world.vkey(), b"PK", None);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["verdict"], "INVALID");
    assert!(json.get("origin").is_none() && report.proven.is_empty() && report.not_proven.is_empty());
    assert!(report.render().contains("Nothing in this file is proven."));
}

#[test]
fn a_log_that_signs_checkpoints_only_is_valid_and_says_so() {
    let mut world = World::new(|g| g.signatures = SignatureMode::CheckpointOnly);
    world.boot();
    let instance = world.running();
    world.call(instance, false);
    let report = world.verify();
    assert_eq!(facts(&report).signatures, "checkpoint_only");
    assert!(report.proven.iter().any(|p| p.contains("the log key alone vouches")), "{:?}", report.proven);
    assert!(!report.proven.iter().any(|p| p.contains("is signed by a gateway")));
}

#[test]
fn the_demonstration_may_decide_in_a_demonstration() {
    let mut world = World::new(|g| g.demo = true);
    world.boot();
    let instance = world.running();
    world.gated(instance);
    world.vote(instance, DecisionKind::Approve, ALICE, Assurance::Demo);
    world.vote(instance, DecisionKind::Approve, BOB, Assurance::Demo);
    assert_eq!(facts(&world.verify()).counts.approved, 1);
}

#[test]
fn a_change_of_authority_is_shown_where_it_happened() {
    let (mut world, instance) = World::small();
    world.set_authority(AuthorityMode::Solo);
    let at = world.leaves.len() as u64 - 1;
    world.call(instance, false);
    world.set_authority(AuthorityMode::Solo);
    assert_eq!(facts(&world.verify()).authority_changes, [at]);
    assert!(world.verify().render().contains(&format!("changed at entry {at}")));
}

#[test]
fn claimed_times_may_lie_five_seconds_apart_and_no_more() {
    for (back, verdict) in [(0, Verdict::Valid), (5_000, Verdict::Valid), (5_001, Verdict::Invalid)] {
        let (mut world, _) = World::small();
        world.at.0 -= back;
        world.running();
        let report = world.verify();
        assert_eq!(report.verdict, verdict, "{back}: {:?}", report.problems);
        if verdict == Verdict::Invalid {
            assert!(
                report.problems[0].detail.contains("claimed time is more than 5 s behind"),
                "{:?}",
                report.problems
            );
        }
    }
}

#[test]
fn what_was_erased_is_counted_and_what_is_shown_all_the_same_is_said() {
    let (mut world, _) = World::small();
    let gone: Digest = world.payloads.keys().next().unwrap().parse().unwrap();
    let erasure = Erasure { subject: None, payloads: vec![gone], authority: digest(3) };
    world.put(world.org_stream(), erasure, |_| {});
    let told = verify(&world.vkey(), &world.open_pack(), None);
    assert_eq!(told.verdict, Verdict::Inconclusive);
    assert!(
        told.problems[0].detail.contains("1 payloads are here that an erasure entry calls erased"),
        "{:?}",
        told.problems
    );
    world.payloads.remove(&gone.to_string());
    let report = verify(&world.vkey(), &world.open_pack(), None);
    let payloads = facts(&report).payloads;
    assert_eq!((payloads.named, payloads.erased, payloads.erasures), (payloads.disclosed + 1, 1, 1));
}

#[test]
fn blobs_are_counted() {
    let (mut world, _) = World::small();
    world.blobs.insert(sha256(b"a bundle"), b"a bundle".to_vec());
    let report = verify(&world.vkey(), &world.open_pack(), None);
    assert_eq!(facts(&report).payloads.blobs, 1);
}

#[test]
fn a_log_over_several_bundles_and_tiles_is_whole() {
    let mut world = World::booted();
    for n in 0..600_u32 {
        let body = Principal {
            change: PrincipalChange::Created,
            principal: who(u8::try_from(n % 200).unwrap()),
            kind: PrincipalKind::Person,
            owner: None,
            roles: Vec::new(),
            teams: Vec::new(),
            credential: None,
        };
        let described = world.payload(PayloadRole::Description, "somebody");
        world.put(world.org_stream(), body, |h| h.payloads.push(described));
    }
    assert_eq!(facts(&world.verify()).population.to, 602);
    let parts = unpack(&world.pack());
    let names: Vec<_> = parts.keys().map(String::as_str).collect();
    let expected = [
        "EVIDENCE",
        "checkpoint",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/90",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/90",
    ];
    assert_eq!(names, expected);
}

#[test]
fn what_began_and_completed_in_shadow_against_policys_word_is_counted() {
    let mut world = World::booted();
    let against = |world: &World| {
        let report = world.verify();
        assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
        report.facts.unwrap().counts.unenforced_against
    };
    let shadow = |world: &mut World, verdict: Said, firm: bool| {
        let asked = world.asked(verdict);
        Asked { force: Force::Shadow { firm }, ..asked }
    };
    // Begun at once, and queued, against a soft no; a yes is not counted.
    let denied = shadow(&mut world, Said::deny(), false);
    let instance = world.create_with(true, false, denied);
    assert_eq!(against(&world), 1);
    let denied = shadow(&mut world, Said::deny(), false);
    world.create_with(false, false, denied);
    assert_eq!(against(&world), 2);
    let allowed = shadow(&mut world, Said::allow(), false);
    let other = world.create_with(true, false, allowed);
    assert_eq!(against(&world), 2);
    // Completed against a rule; by policy's yes.
    let needs = shadow(&mut world, Said::needs_approval(vec![name("two-eyes")]), false);
    world.complete_as(instance, needs);
    assert_eq!(against(&world), 3);
    let allowed = shadow(&mut world, Said::allow(), false);
    world.complete_as(other, allowed);
    assert_eq!(against(&world), 3);
    assert!(world.verify().render().contains("3 against policy's word"));
}
