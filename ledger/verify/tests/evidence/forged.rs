//! What a forger with every key but the root's can write, and the reason for which each of it is refused; and what a
//! later version may write, which is not judged.

use countersign_gateway_model::{
    Assurance, Decision as Answer, DecisionId, GatewayId, InstanceId, LogId, Name, OrgId, PermitId, Pseudonym, State,
    Timestamp, Verdict as Said,
};
use countersign_ledger_entry::body::{
    AuthorityMode, Cause, CertifiedBy, DecidedItem, Decision, DecisionKind, Edge, Effect, Finding, Freeze, Key,
    KeyChange, KeyRole, LiftRef, Permit, QuestionKind, Reservation, Review, Reviewed, SignatureMode, Start, StartedBy,
    Sweep,
};
use countersign_ledger_entry::{Body, Bytes32, Bytes64, Draft, Header, PayloadRole, SEMANTICS, Stream, key, payload};
use countersign_ledger_verify::{Report, Verdict, verify};
use ed25519_dalek::Signer as _;

use crate::world::*;

fn because(report: &Report, verdict: Verdict, why: &str, what: &str) {
    assert_eq!(report.verdict, verdict, "{what}: {:?}", report.problems);
    assert!(report.problems.iter().any(|p| p.detail.contains(why)), "{what}: {:?}", report.problems);
}

/// What was forged, how, and the reason for which it is refused.
type Forged = (&'static str, fn() -> World, &'static str);

/// Each world is refused for its reason, at its last entry.
fn refused(cases: &[Forged]) {
    for (what, build, why) in cases {
        let world = build();
        let report = world.verify();
        because(&report, Verdict::Invalid, why, what);
        let last = format!("entry {} ", world.leaves.len() - 1);
        assert!(report.problems[0].detail.starts_with(&last), "{what}: {:?}", report.problems);
    }
}

fn freeze() -> Freeze {
    Freeze { lift: false, team: None }
}

/// A small log, and an entry of the organization in it that is changed before it is signed.
fn with(change: impl FnOnce(&mut Header)) -> World {
    let (mut world, _) = World::small();
    world.put(world.org_stream(), freeze(), |_| {});
    world.put(world.org_stream(), freeze(), change);
    world
}

#[test]
fn an_entry_stands_in_its_log_and_its_stream() {
    refused(&[
        (
            "of another log",
            || {
                let mut other = World::new(|g| g.log = LogId::from_bytes([0x20; 16]));
                other.origin = key::origin("countersign.example", other.genesis.log).unwrap();
                let header = other.header(other.org_stream(), freeze());
                let (mut world, _) = World::small();
                world.leaves.push(other.seal(header));
                world
            },
            "it is of another log",
        ),
        (
            "of another history of this log",
            || {
                let (mut other, _) = World::small();
                other.at.0 += 1;
                other.put(other.org_stream(), freeze(), |_| {});
                other.put(other.org_stream(), freeze(), |_| {});
                let (mut world, _) = World::small();
                world.put(world.org_stream(), freeze(), |_| {});
                world.leaves.push(other.leaves.last().unwrap().clone());
                world
            },
            "does not name the entry of its stream before it",
        ),
        (
            "again",
            || {
                let mut world = with(|_| {});
                world.leaves.push(world.leaves.last().unwrap().clone());
                world
            },
            "continues with sequence 2, not 1",
        ),
        ("after a gap", || with(|h| h.sequence += 1), "continues with sequence 1, not 2"),
        ("without its link", || with(|h| h.previous = None), "does not name the entry of its stream before it"),
        ("with another link", || with(|h| h.previous = Some(digest(1))), "does not name the entry of its stream"),
        (
            "of another organization",
            || {
                let (mut world, _) = World::small();
                let mut stream = world.org_stream();
                stream.id = OrgId::from_bytes([0x0b; 16]).into();
                world.put(stream, freeze(), |_| {});
                world
            },
            "its stream is that of another organization or log",
        ),
        (
            "a boot in another log's stream",
            || {
                let (mut world, _) = World::small();
                world.by.boot += 1;
                let mut stream = world.log_stream();
                stream.id = LogId::from_bytes([0x0b; 16]).into();
                world.put(stream, world.boot_body(), |_| {});
                world
            },
            "its stream is that of another organization or log",
        ),
        (
            "a second genesis",
            || {
                let (mut world, _) = World::small();
                world.put(world.log_stream(), world.genesis.clone(), |_| {});
                world
            },
            "a log has one genesis",
        ),
        (
            "a payload of another length",
            || {
                let (mut world, _) = World::small();
                let named = world.payload(PayloadRole::Description, "a team");
                world.put(world.org_stream(), freeze(), |h| h.payloads.push(named));
                world.put(world.org_stream(), freeze(), |h| {
                    h.payloads.push(countersign_ledger_entry::PayloadRef { length: 9, ..named });
                });
                world
            },
            "names a payload with another length",
        ),
        ("before its time", || with(|h| h.claimed.0 -= 5_001), "claimed time is more than 5 s behind"),
        ("under no semantics", || with(|h| h.semantics = 0), "there is no semantics version 0"),
    ]);
    // A name that would steer a terminal is shown escaped.
    let report = with(|h| h.origin = "x\u{1b}[2J\u{202e}".to_owned()).verify();
    because(&report, Verdict::Invalid, "`x\\u{1b}[2J\\u{202e}`", "an origin with control characters");
}

#[test]
fn the_authority_mode_follows_from_the_log_and_not_from_the_word_of_an_entry() {
    fn lowered(change: impl FnOnce(&mut World)) -> World {
        let (mut world, _) = World::small();
        world.set_authority(AuthorityMode::Solo);
        world.put(world.org_stream(), freeze(), |_| {});
        change(&mut world);
        world
    }
    let mut back = lowered(|_| {});
    back.set_authority(AuthorityMode::FourEyes);
    back.put(back.org_stream(), freeze(), |_| {});
    assert_eq!(back.verify().verdict, Verdict::Valid, "{:?}", back.verify().problems);
    let unset = "follows from genesis and the entries that set the mode";
    refused(&[
        ("lowered by nothing", || with(|h| h.authority = AuthorityMode::Solo), unset),
        (
            "raised by nothing",
            || lowered(|world| world.put(world.org_stream(), freeze(), |h| h.authority = AuthorityMode::FourEyes)),
            unset,
        ),
        (
            "lowered in the stream of an instance alone",
            || {
                let (mut world, instance) = World::small();
                world.authority = AuthorityMode::Solo;
                world.call(instance, false);
                world
            },
            unset,
        ),
        (
            "set, and stated only after it",
            || {
                let (mut world, _) = World::small();
                world.put(world.org_stream(), setting_of("solo"), |_| {});
                world
            },
            unset,
        ),
        (
            "set by another setting",
            || {
                let (mut world, _) = World::small();
                let mut other = setting_of("solo");
                other.setting = Name::new("authority.mode").unwrap();
                world.put(world.org_stream(), other, |h| h.authority = AuthorityMode::Solo);
                world
            },
            unset,
        ),
        (
            "set to a mode that there is not",
            || {
                let (mut world, _) = World::small();
                world.put(world.org_stream(), setting_of("nobody"), |_| {});
                world
            },
            "it sets an authority mode that there is not",
        ),
    ]);
}

#[test]
fn an_append_is_whole_and_alone() {
    fn append(change: impl Fn(usize, &mut Header)) -> World {
        let (mut world, _) = World::small();
        let drafts = (0..3).map(|_| Draft::new(freeze(), ALICE)).collect();
        world.append(world.org_stream(), drafts, change);
        world
    }
    assert_eq!(append(|_, _| {}).verify().verdict, Verdict::Valid);
    refused(&[
        (
            "the end is missing",
            || {
                let mut world = append(|_, _| {});
                world.leaves.pop();
                world
            },
            "the log ends in the middle of an append",
        ),
        (
            "the end is missing and the log goes on",
            || {
                let mut world = append(|_, _| {});
                world.leaves.pop();
                world.create(false);
                world
            },
            "in the middle of another append",
        ),
        (
            "the beginning is missing",
            || {
                let (mut world, _) = World::small();
                world.put(world.org_stream(), freeze(), |h| {
                    h.append.length = 2;
                    h.append.index = 1;
                });
                world
            },
            "the beginning of its append is missing",
        ),
        (
            "the middle is missing",
            || {
                let mut world = append(|_, _| {});
                let last = world.leaves.pop().unwrap();
                world.leaves.pop();
                world.leaves.push(last);
                world
            },
            "in the middle of another append",
        ),
        (
            "another length",
            || append(|index, h| h.append.length += u8::from(index == 2)),
            "in the middle of another append",
        ),
        ("another time", || append(|index, h| h.claimed.0 += u64::from(index == 2)), "in the middle of another append"),
    ]);
}

fn rebooted(change: impl FnOnce(&mut World, &mut countersign_ledger_entry::body::Boot)) -> World {
    let (mut world, _) = World::small();
    world.by.key = signing_key(4);
    world.by.boot += 1;
    let mut body = world.boot_body();
    change(&mut world, &mut body);
    world.put(world.log_stream(), body, |_| {});
    world
}

/// Root's word on a key of the gateway.
pub(crate) fn change_of_key(world: &World, change: KeyChange, role: KeyRole, key_of: u8) -> Key {
    let key = signing_key(key_of).verifying_key().to_bytes();
    let bytes = key::change_bytes(&world.origin, change, role, &key);
    Key { change, role, key: Bytes32(key), certificate: Bytes64(world.root.sign(&bytes).to_bytes()) }
}

#[test]
fn an_entry_is_signed_by_a_key_that_was_introduced_and_not_taken_back() {
    assert_eq!(rebooted(|_, _| {}).verify().verdict, Verdict::Valid);
    refused(&[
        (
            "another key under the gateway's key id",
            || {
                let (mut world, _) = World::small();
                let header = world.header(world.org_stream(), freeze());
                world.push(header.sign(&signing_key(99)).unwrap().leaf);
                world
            },
            "the signature on `entry` does not verify",
        ),
        (
            "the log key",
            || {
                let (mut world, _) = World::small();
                let mut header = world.header(world.org_stream(), freeze());
                header.key = key::key_id(&world.origin, &world.log_key.verifying_key());
                world.push(header.sign(&world.log_key).unwrap().leaf);
                world
            },
            "not by the key of its gateway's latest boot",
        ),
        (
            "nobody",
            || {
                let (mut world, _) = World::small();
                let header = world.header(world.org_stream(), freeze());
                world.push(header.unsigned().unwrap().leaf);
                world
            },
            "the signature on `entry` does not verify",
        ),
        (
            "before any boot",
            || {
                let mut world = World::new(|_| {});
                world.put(world.org_stream(), freeze(), |_| {});
                world
            },
            "its gateway was never introduced",
        ),
        (
            "another gateway",
            || with(|h| h.gateway = GatewayId::from_bytes([1; 16])),
            "its gateway was never introduced",
        ),
        ("another boot", || with(|h| h.boot = 2), "not by the key of its gateway's latest boot"),
        (
            "the key of the boot before",
            || {
                let (mut world, _) = World::small();
                let before = world.by.clone();
                world.by.key = signing_key(4);
                world.boot();
                world.by = before;
                world.put(world.org_stream(), freeze(), |_| {});
                world
            },
            "not by the key of its gateway's latest boot",
        ),
        (
            "a boot twice",
            || {
                rebooted(|w, b| {
                    w.by.boot -= 1;
                    b.boot -= 1;
                })
            },
            "boot 2 of its gateway was expected",
        ),
        (
            "a boot too far",
            || {
                rebooted(|w, b| {
                    w.by.boot += 1;
                    b.boot += 1;
                })
            },
            "boot 2 of its gateway was expected",
        ),
        ("a boot number of its own", || rebooted(|_, b| b.boot += 1), "another gateway or boot than its own"),
        (
            "another gateway's boot",
            || rebooted(|_, b| b.gateway = GatewayId::from_bytes([1; 16])),
            "another gateway or boot than its own",
        ),
        ("a boot that saw the future", || rebooted(|w, b| b.size_seen = w.leaves.len() as u64 + 1), "came after it"),
        ("a sandbox of its own", || rebooted(|_, b| b.sandbox_level = Some(4)), "no such sandbox level"),
        (
            "a certificate by root that is the log's",
            || rebooted(|_, b| b.certified_by = CertifiedBy::Root),
            "certificate does not hold",
        ),
        (
            "a certificate by itself",
            || {
                rebooted(|w, b| {
                    let name = key::gateway_name(&w.origin, w.by.id);
                    b.certificate = Bytes64(key::certify(&w.by.key, &w.origin, &name, &w.by.key.verifying_key()));
                })
            },
            "certificate does not hold",
        ),
        (
            "a certificate for another gateway",
            || {
                rebooted(|w, b| {
                    let name = key::gateway_name(&w.origin, GatewayId::from_bytes([1; 16]));
                    b.certificate = Bytes64(key::certify(&w.log_key, &w.origin, &name, &w.by.key.verifying_key()));
                })
            },
            "certificate does not hold",
        ),
        (
            "a boot that its key did not sign",
            || {
                let (mut world, _) = World::small();
                world.by.key = signing_key(4);
                world.by.boot += 1;
                let header = world.header(world.log_stream(), world.boot_body());
                world.push(header.sign(&signing_key(3)).unwrap().leaf);
                world
            },
            "the signature on `entry` does not verify",
        ),
        (
            "a weak key",
            || {
                rebooted(|w, b| {
                    let mut weak = [0; 32];
                    weak[0] = 1;
                    let bytes = key::certificate_bytes(&w.origin, &key::gateway_name(&w.origin, w.by.id), &weak);
                    b.key = Bytes32(weak);
                    b.certificate = Bytes64(w.log_key.sign(&bytes).to_bytes());
                })
            },
            "not a valid Ed25519 public key",
        ),
        (
            "a revoked key",
            || {
                let (mut world, _) = World::small();
                let change = change_of_key(&world, KeyChange::Revoked, KeyRole::Gateway, 3);
                world.put(world.log_stream(), change, |_| {});
                world.put(world.org_stream(), freeze(), |_| {});
                world
            },
            "retired or revoked before",
        ),
        (
            "a retired key",
            || {
                let (mut world, _) = World::small();
                let change = change_of_key(&world, KeyChange::Retired, KeyRole::Gateway, 3);
                world.put(world.log_stream(), change, |_| {});
                world.put(world.org_stream(), freeze(), |_| {});
                world
            },
            "retired or revoked before",
        ),
        (
            "a revoked key that boots again",
            || {
                let (mut world, _) = World::small();
                let change = change_of_key(&world, KeyChange::Revoked, KeyRole::Gateway, 3);
                world.put(world.log_stream(), change, |_| {});
                world.boot();
                world
            },
            "retired or revoked before",
        ),
        (
            "a revocation by the log key",
            || {
                let (mut world, _) = World::small();
                world.root = world.log_key.clone();
                let change = change_of_key(&world, KeyChange::Revoked, KeyRole::Gateway, 3);
                world.root = signing_key(1);
                world.put(world.log_stream(), change, |_| {});
                world
            },
            "not vouched for by the root key",
        ),
        (
            "an introduction used as a revocation",
            || {
                let (mut world, _) = World::small();
                let name = key::gateway_name(&world.origin, world.by.id);
                let public = world.by.key.verifying_key();
                let certificate = Bytes64(key::certify(&world.root, &world.origin, &name, &public));
                let mut change = change_of_key(&world, KeyChange::Revoked, KeyRole::Gateway, 3);
                change.certificate = certificate;
                world.put(world.log_stream(), change, |_| {});
                world
            },
            "not vouched for by the root key",
        ),
    ]);
}

#[test]
fn a_gateway_goes_on_under_a_new_key_and_a_second_gateway_may_join() {
    let (mut world, _) = World::small();
    let change = change_of_key(&world, KeyChange::Revoked, KeyRole::Gateway, 3);
    world.put(world.log_stream(), change, |_| {});
    world.by.key = signing_key(4);
    world.boot();
    world.put(world.org_stream(), freeze(), |_| {});
    // Introduced by the root key itself.
    let first = world.by.clone();
    world.by = Gateway { id: GatewayId::from_bytes([0x68; 16]), boot: 1, key: signing_key(5) };
    let mut body = world.boot_body();
    let name = key::gateway_name(&world.origin, world.by.id);
    body.certificate = Bytes64(key::certify(&world.root, &world.origin, &name, &world.by.key.verifying_key()));
    body.certified_by = CertifiedBy::Root;
    world.put(world.log_stream(), body, |_| {});
    world.running();
    world.by = first;
    world.running();
    let report = world.verify();
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    let facts = report.facts.unwrap();
    assert_eq!((facts.boots, facts.gateways), (3, 2));
}

#[test]
fn a_change_of_log_or_root_key_cannot_be_followed_yet() {
    for role in [KeyRole::Log, KeyRole::Root] {
        let (mut world, _) = World::small();
        let change = change_of_key(&world, KeyChange::Added, role, 9);
        world.put(world.log_stream(), change, |_| {});
        because(&world.verify(), Verdict::Inconclusive, "which this version cannot follow", "a rotation");
    }
}

#[test]
fn a_log_that_signs_checkpoints_only_has_boots_signed_and_nothing_else() {
    let unsigned = || {
        let mut world = World::new(|g| g.signatures = SignatureMode::CheckpointOnly);
        world.boot();
        world
    };
    let mut world = unsigned();
    let header = world.header(world.org_stream(), freeze());
    world.push(header.sign(&world.by.key).unwrap().leaf);
    because(&world.verify(), Verdict::Invalid, "it is signed in a log that signs checkpoints only", "signed");
    let mut world = unsigned();
    world.by.boot += 1;
    let header = world.header(world.log_stream(), world.boot_body());
    world.push(header.unsigned().unwrap().leaf);
    because(&world.verify(), Verdict::Invalid, "the signature on `entry` does not verify", "an unsigned boot");
    let mut world = unsigned();
    world.put(world.org_stream(), freeze(), |h| h.boot = 3);
    because(&world.verify(), Verdict::Invalid, "not by the key of its gateway's latest boot", "another boot");
}

/// A decision as its person would have it, without asking whether it may be.
fn decision(world: &World, instance: InstanceId, kind: DecisionKind, person: Pseudonym) -> Decision {
    let gate = world.instances[&instance].gate().unwrap();
    let items = gate.items.iter().filter(|_| kind != DecisionKind::Reject).map(|item| DecidedItem {
        item: item.item,
        digest: item.digest,
        rules: item.rules.iter().map(|r| r.rule.clone()).collect(),
        instead: None,
    });
    Decision {
        decision: DecisionId::from_bytes([0xdd; 16]),
        gate: gate.gate,
        kind,
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

/// A log that waits for people, and a decision changed before it is signed.
fn decided(by: Pseudonym, change: impl FnOnce(&mut Decision)) -> World {
    let (mut world, instance) = World::small();
    world.gated(instance);
    let mut body = decision(&world, instance, DecisionKind::Approve, by);
    change(&mut body);
    let justification = world.payload(PayloadRole::Justification, "it is right");
    world.put(World::stream(instance), body, |h| {
        h.actor = by;
        h.verdict = Some(Said::allow());
        h.payloads.push(justification);
    });
    world
}

#[test]
fn a_decision_is_a_persons_and_counts_only_as_it_may() {
    assert_eq!(decided(ALICE, |_| {}).verify().verdict, Verdict::Valid);
    refused(&[
        ("SYSTEM approves", || decided(Pseudonym::SYSTEM, |_| {}), "SYSTEM may reject, never approve"),
        ("for SYSTEM", || decided(ALICE, |d| d.person = Pseudonym::SYSTEM), "SYSTEM may reject, never approve"),
        (
            "SYSTEM overrides",
            || decided(Pseudonym::SYSTEM, |d| d.kind = DecisionKind::Override),
            "SYSTEM may reject, never approve",
        ),
        (
            "a stand-in in a log that is no demonstration",
            || decided(ALICE, |d| d.assurance = Assurance::Demo),
            "a demonstration's stand-in decided in a log that is none",
        ),
        ("the agent itself", || decided(AGENT, |_| {}), "the person is not eligible"),
        ("the agent's person", || decided(ALICE, |d| d.person = AGENT), "the person is not eligible"),
        ("one who is involved", || decided(OWNER, |_| {}), "the person is not eligible"),
        ("alone where two are asked", || decided(ALICE, |d| d.effect = Effect::Resolving), "do not come to what"),
        ("about something else", || decided(ALICE, |d| d.items[0].digest = digest(99)), "decides about something else"),
        (
            "at another gate",
            || decided(ALICE, |d| d.gate = countersign_gateway_model::GateId::from_bytes([9; 16])),
            "the gate is not open",
        ),
        ("without a view", || decided(ALICE, |d| d.shown = None), "does not say what was shown"),
        (
            "weakening the rule",
            || {
                decided(ALICE, |d| {
                    let rules = vec![rule("two-eyes", 1)];
                    d.rules.push(countersign_ledger_entry::body::ItemRules { item: d.items[0].item, rules });
                    d.effect = Effect::Resolving;
                })
            },
            "do not come to what",
        ),
        (
            "twice by one person",
            || {
                let mut world = decided(ALICE, |_| {});
                let instance = *world.instances.keys().next().unwrap();
                let mut body = decision(&world, instance, DecisionKind::Approve, ALICE);
                body.effect = Effect::Resolving;
                let justification = world.payload(PayloadRole::Justification, "again");
                world.put(World::stream(instance), body, |h| {
                    h.actor = ALICE;
                    h.verdict = Some(Said::allow());
                    h.payloads.push(justification);
                });
                world
            },
            "do not come to what",
        ),
    ]);
}

fn start(world: &World, permit: PermitId) -> Start {
    Start { permit, not_after: Timestamp(world.at.0 + 1000), by: StartedBy::Agent }
}

fn permit(world: &World) -> Permit {
    Permit {
        permit: PermitId::from_bytes([0xee; 16]),
        action: countersign_gateway_model::ActionId::from_bytes([1; 16]),
        item: None,
        question: QuestionKind::CallTool,
        tool: name("repo/write"),
        tool_version: digest(2),
        digest: digest(3),
        expires: Timestamp(world.at.0 + 1000),
        mutable_target: false,
        reservations: Vec::new(),
        enforced: true,
    }
}

fn edge(from: State, to: State, cause: Cause) -> Edge {
    Edge { from, to, cause, action: None, objection: false }
}

/// A running instance, and one entry of its stream.
fn unlawful(body: impl FnOnce(&World) -> Body, answer: Option<Answer>) -> World {
    let (mut world, instance) = World::small();
    let body = body(&world);
    let verdict = answer.map(|decision| Said { decision, rules: Vec::new(), error: false });
    world.put(World::stream(instance), body, |h| {
        h.actor = AGENT;
        h.verdict = verdict;
    });
    world
}

#[test]
fn no_two_permits_of_a_log_take_from_the_same_state_of_a_counter() {
    fn taking(versions: [u64; 2]) -> World {
        let (mut world, first) = World::small();
        let second = world.running();
        for ((instance, version), id) in [first, second].into_iter().zip(versions).zip([0xe1, 0xe2]) {
            let reservations = vec![Reservation { counter: name("spent"), version, amount: 10_000 }];
            let body = Permit { permit: PermitId::from_bytes([id; 16]), reservations, ..permit(&world) };
            world.put(World::stream(instance), body, |h| {
                h.actor = AGENT;
                h.verdict = Some(Said { decision: Answer::Allow, rules: Vec::new(), error: false });
            });
        }
        world
    }
    for lawful in [[0, 1], [4, 9]] {
        assert_eq!(taking(lawful).verify().verdict, Verdict::Valid, "{lawful:?}");
    }
    refused(&[
        ("the same version in two streams", || taking([3, 3]), "as if nobody had before it"),
        ("an earlier version in another stream", || taking([3, 2]), "as if nobody had before it"),
    ]);
}

#[test]
fn work_has_a_permit_that_is_used_once() {
    assert_eq!(unlawful(|w| permit(w).into(), Some(Answer::Allow)).verify().verdict, Verdict::Valid);
    refused(&[
        (
            "a permit begun twice",
            || {
                let (mut world, instance) = World::small();
                let permit = world.call(instance, false);
                let stream = World::stream(instance);
                world.put(stream, start(&world, permit), |h| h.actor = AGENT);
                world.put(stream, start(&world, permit), |h| h.actor = AGENT);
                world
            },
            "there is no such permit to consume",
        ),
        (
            "a permit begun again after its outcome",
            || {
                let (mut world, instance) = World::small();
                let permit = world.call(instance, true);
                world.report(instance, permit, countersign_gateway_model::Outcome::Succeeded);
                world.put(World::stream(instance), start(&world, permit), |h| h.actor = AGENT);
                world
            },
            "there is no such permit to consume",
        ),
        (
            "a permit stolen by another instance",
            || {
                let (mut world, instance) = World::small();
                let permit = world.call(instance, false);
                let thief = world.running();
                world.put(World::stream(thief), start(&world, permit), |h| h.actor = AGENT);
                world
            },
            "there is no such permit to consume",
        ),
        (
            "a permit that had expired",
            || {
                let (mut world, instance) = World::small();
                let permit = world.call(instance, false);
                world.at.0 += 60_001;
                world.put(World::stream(instance), start(&world, permit), |h| h.actor = AGENT);
                world
            },
            "the permit had expired",
        ),
        (
            "no permit",
            || unlawful(|w| start(w, PermitId::from_bytes([1; 16])).into(), None),
            "there is no such permit to consume",
        ),
        (
            "a permit that policy denied",
            || unlawful(|w| permit(w).into(), Some(Answer::Deny)),
            "policy did not allow it",
        ),
        (
            "a permit that needed approval",
            || unlawful(|w| permit(w).into(), Some(Answer::NeedsApproval)),
            "policy did not allow it",
        ),
        ("a permit that nobody asked for", || unlawful(|w| permit(w).into(), None), "policy did not allow it"),
        (
            "an instance that was not created",
            || {
                let (mut world, _) = World::small();
                let stream = World::stream(InstanceId::from_bytes([0xcc; 16]));
                world.put(stream, permit(&world), |h| h.verdict = Some(Said::allow()));
                world
            },
            "an instance begins with `created`",
        ),
        (
            "an edge that does not exist",
            || unlawful(|_| edge(State::Running, State::Approved, Cause::Decision).into(), Some(Answer::Allow)),
            "is not lawful",
        ),
        (
            "an edge from elsewhere",
            || unlawful(|_| edge(State::Created, State::Running, Cause::Start).into(), Some(Answer::Allow)),
            "is not lawful",
        ),
        (
            "completed while a start is open",
            || {
                let (mut world, instance) = World::small();
                world.call(instance, true);
                let body = edge(State::Running, State::Completed, Cause::Complete);
                world.put(World::stream(instance), body, |h| h.verdict = Some(Said::allow()));
                world
            },
            "a start is open",
        ),
        (
            "work after the end",
            || {
                let (mut world, instance) = World::small();
                world.complete(instance);
                world.put(World::stream(instance), permit(&world), |h| h.verdict = Some(Said::allow()));
                world
            },
            "the instance is terminal",
        ),
    ]);
}

/// A version that this program does not know.
const LATER: u16 = SEMANTICS + 1;

/// An entry of a kind and version of its own, signed.
fn foreign(world: &World, stream: Stream, kind: u16, semantics: u16, body: &[u8]) -> Vec<u8> {
    world.sign_raw(&foreign_header(world, stream, kind, semantics, body))
}

fn foreign_header(world: &World, stream: Stream, kind: u16, semantics: u16, body: &[u8]) -> Vec<u8> {
    let placeholder = match stream.kind {
        countersign_ledger_entry::StreamKind::Instance => Body::from(Sweep { permit: PermitId::from_bytes([7; 16]) }),
        _ => Body::from(freeze()),
    };
    let number = |n: u16| match n {
        0..=23 => vec![u8::try_from(n).unwrap()],
        24..=255 => vec![0x18, u8::try_from(n).unwrap()],
        _ => [&[0x19], n.to_be_bytes().as_slice()].concat(),
    };
    let mut header = world.header(stream, placeholder.clone());
    header.semantics = semantics;
    let h = header.encode();
    let there = [number(placeholder.kind().number()), placeholder.encode()].concat();
    let at = h.windows(there.len()).position(|w| w == there).unwrap();
    [&h[..at], &number(kind), body, &h[at + there.len()..]].concat()
}

#[test]
fn what_a_later_version_writes_is_not_judged_but_held_to_its_place_and_signature() {
    type Stand = fn(&World, InstanceId) -> Stream;
    let places: [(&str, Stand); 2] =
        [("organization", |w, _| w.org_stream()), ("instance", |_, instance| World::stream(instance))];
    for (place, stream) in places {
        let (world, instance) = World::small();
        let add = |kind, semantics, body: &[u8]| {
            let mut world = world.clone();
            let leaf = foreign(&world, stream(&world, instance), kind, semantics, body);
            world.push(leaf);
            world
        };
        // An unknown kind, and a known one whose body has grown: 0x80 is an empty array.
        for (kind, body) in [(99, [0x80].as_slice()), (4_000, b"\xa1\x61a\x01"), (39, &[0x80]), (13, &[0x80])] {
            let report = add(kind, LATER, body).verify();
            because(&report, Verdict::Inconclusive, &format!("1 entries of kind {kind} are of a later version"), place);
            let facts = report.facts.as_ref().unwrap();
            assert_eq!(facts.counts.later.get(&kind), Some(&1));
            assert!(report.proven.iter().any(|p| p.starts_with("every judged transition")));
            let judged = u64::from(place == "organization");
            assert_eq!(facts.streams.states.get("RUNNING").copied().unwrap_or(0), judged, "{place}");
            assert_eq!(facts.streams.states.get("unjudged").copied().unwrap_or(0), 1 - judged, "{place}");
        }
        because(&add(99, SEMANTICS, &[0x80]).verify(), Verdict::Invalid, "entry kind `99` is not known", place);
        // A longer form than is needed: inside the body it is for a later version to refuse, outside no version writes it.
        because(
            &add(99, LATER, &[0x98, 0x00]).verify(),
            Verdict::Inconclusive,
            "of a later version",
            "inside the body",
        );
        let mut h = foreign_header(&world, stream(&world, instance), 99, LATER, &[0x80]);
        assert_eq!(h[..3], [0x95, 1, 3], "an array of 21, format 1, a later version");
        h.splice(2..3, [0x18, 3]);
        let mut longer = world.clone();
        longer.leaves.push(longer.sign_raw(&h));
        because(&longer.verify(), Verdict::Invalid, "not in canonical form", place);
        let mut world = add(99, LATER, &[0x80]);
        let leaf = world.leaves.last_mut().unwrap();
        *leaf.last_mut().unwrap() ^= 1;
        because(&world.verify(), Verdict::Invalid, "the signature on `entry` does not verify", place);
        // The stream goes on behind it, in links and signatures.
        let mut world = add(99, LATER, &[0x80]);
        let next = foreign(&world, stream(&world, instance), 99, LATER, &[0x80]);
        world.push(next);
        assert_eq!(world.verify().verdict, Verdict::Inconclusive);
        let again = world.leaves.last().unwrap().clone();
        world.leaves.push(again);
        because(&world.verify(), Verdict::Invalid, "continues with sequence", place);
    }
}

#[test]
fn a_known_kind_under_a_later_version_is_not_judged_either() {
    let (mut world, instance) = World::small();
    world.put(World::stream(instance), start(&world, PermitId::from_bytes([1; 16])), |h| h.semantics = LATER);
    because(&world.verify(), Verdict::Inconclusive, "1 entries of kind 4 are of a later version", "start");
    // Known kinds that come after it in that stream are counted, not judged.
    world.put(World::stream(instance), start(&world, PermitId::from_bytes([1; 16])), |h| h.semantics = LATER);
    assert_eq!(world.verify().verdict, Verdict::Inconclusive);
    // Keys are followed all the same.
    let (mut world, _) = World::small();
    world.by.key = signing_key(4);
    world.by.boot += 1;
    world.put(world.log_stream(), world.boot_body(), |h| h.semantics = LATER);
    world.put(world.org_stream(), freeze(), |h| h.semantics = LATER);
    because(&world.verify(), Verdict::Inconclusive, "1 entries of kind 65 are of a later version", "boot");
}

#[test]
fn a_log_goes_from_version_1_to_version_2_and_never_back() {
    let (mut world, instance) = World::small_of_version(1);
    assert_eq!(world.verify().verdict, Verdict::Valid);
    // The same instance goes on under the later version.
    world.semantics = 2;
    world.complete(instance);
    world.put(world.org_stream(), freeze(), |_| {});
    assert_eq!(world.verify().verdict, Verdict::Valid, "{:?}", world.verify().problems);
    world.put(world.org_stream(), freeze(), |h| h.semantics = 1);
    because(&world.verify(), Verdict::Invalid, "of semantics version 1, an entry before it of version 2", "back");
}

#[test]
fn an_append_is_of_one_version() {
    let (mut world, _) = World::small_of_version(1);
    let drafts = (0..2).map(|_| Draft::new(freeze(), ALICE)).collect();
    world.append(world.org_stream(), drafts, |index, h| h.semantics = if index == 0 { 1 } else { 2 });
    because(&world.verify(), Verdict::Invalid, "it stands in the middle of another append", "a mixed append");
}

#[test]
fn a_kind_of_version_2_is_none_under_version_1() {
    let review = Review {
        of: Reviewed::Lift(LiftRef {
            instance: InstanceId::from_bytes([1; 16]),
            lift: DecisionId::from_bytes([2; 16]),
        }),
        person: ALICE,
        finding: Finding::Upheld,
        assurance: Assurance::Mfa,
    };
    let put = |semantics| {
        let (mut world, _) = World::small_of_version(1);
        let leaf = foreign(&world, world.org_stream(), 46, semantics, &Body::from(review.clone()).encode());
        world.push(leaf);
        world.verify()
    };
    because(&put(1), Verdict::Invalid, "there is no `review` entry under semantics version 1", "a review");
    because(&put(LATER), Verdict::Inconclusive, "1 entries of kind 46 are of a later version", "a later review");
}

#[test]
fn a_payload_that_only_a_later_entry_names_may_be_disclosed() {
    let (mut world, _) = World::small();
    let named = world.payload(PayloadRole::Description, "from a later version");
    world.put(world.org_stream(), freeze(), |h| {
        h.semantics = LATER;
        h.payloads.push(named);
    });
    let report = verify(&world.vkey(), &world.open_pack(), None);
    assert_eq!(report.verdict, Verdict::Inconclusive, "{:?}", report.problems);
    let payloads = report.facts.unwrap().payloads;
    assert_eq!(payloads.disclosed, payloads.named);
}

#[test]
fn a_disclosed_payload_has_the_length_that_its_entry_names() {
    let (mut world, _) = World::small();
    let mut named = world.payload(PayloadRole::Description, "a team");
    named.length += 1;
    world.put(world.org_stream(), freeze(), |h| h.payloads.push(named));
    let report = verify(&world.vkey(), &world.open_pack(), None);
    because(&report, Verdict::Invalid, &format!("part `payloads/{}`", named.digest), "another length");
    assert_ne!(payload::digest(b""), named.digest);
}
