//! Root key, log key, checkpoint, and the checkpoint that an auditor holds.

use countersign_ledger_entry::body::Genesis;
use countersign_ledger_entry::key::VKey;
use countersign_ledger_entry::note::{self, Checkpoint};
use countersign_ledger_entry::{Bytes32, Header};
use countersign_ledger_merkle::{EMPTY_ROOT, Hash, Tree, leaf_hash};
use countersign_ledger_verify::{Report, Verdict, check_known, verify};

use crate::world::*;

fn root_at(world: &World, size: usize) -> Hash {
    world.leaves[..size].iter().map(|leaf| leaf_hash(leaf)).collect::<Tree>().root().unwrap()
}

fn because(report: &Report, verdict: Verdict, why: &str, what: &str) {
    assert_eq!(report.verdict, verdict, "{what}: {:?}", report.problems);
    assert!(report.problems.iter().any(|p| p.detail.contains(why)), "{what}: {:?}", report.problems);
}

#[test]
fn only_the_configured_root_key_is_trusted() {
    let (world, _) = World::small();
    let pack = world.pack();
    let name = world.vkey().name().to_owned();
    let cases = [
        ("another key", VKey::new(&name, signing_key(50).verifying_key()).unwrap()),
        ("the log key", VKey::new(&name, world.log_key.verifying_key()).unwrap()),
        ("another log's name", VKey::new("x/root", world.root.verifying_key()).unwrap()),
    ];
    for (what, root) in cases {
        because(&verify(&root, &pack, None), Verdict::Invalid, "does not follow from the root key", what);
    }
}

/// What was changed, how, and the reason for which it is refused.
type Altered<T> = (&'static str, fn(&mut T), &'static str);

#[test]
fn a_genesis_must_fit_itself() {
    let fitting = World::new(|_| {});
    let cases: [Altered<Genesis>; 3] = [
        ("another log", |g| g.log = countersign_gateway_model::LogId::from_bytes([9; 16]), "origin does not end"),
        ("another root", |g| g.root_keys = vec![Bytes32([7; 32])], "not in root document version 1"),
        ("a weak log key", |g| g.log_key = Bytes32([0; 32]), "not a valid Ed25519 public key"),
    ];
    for (what, change, why) in cases {
        let mut world = fitting.clone();
        world.leaves.clear();
        world.heads.clear();
        let mut genesis = world.genesis.clone();
        change(&mut genesis);
        let mut stream = world.log_stream();
        stream.id = genesis.log.into();
        let mut header = world.header(stream, genesis);
        header.key = world.vkey().id();
        world.leaves.push(header.sign(&world.root).unwrap().leaf);
        because(&world.verify(), Verdict::Invalid, why, what);
    }
    let root_id = fitting.vkey().id();
    let altered: [Altered<Header>; 4] = [
        ("a boot", |h| h.boot = 1, "names another key than the root key, or a boot"),
        ("another key id", |h| h.key = [0; 4], "names another key than the root key, or a boot"),
        ("a sequence", |h| h.sequence = 1, "not the first entry"),
        ("a torn append", |h| h.append.length = 2, "torn"),
    ];
    for (what, change, why) in altered {
        let mut world = fitting.clone();
        world.leaves.clear();
        world.heads.clear();
        let mut header = world.header(world.log_stream(), world.genesis.clone());
        header.key = root_id;
        change(&mut header);
        world.leaves.push(header.sign(&world.root).unwrap().leaf);
        because(&world.verify(), Verdict::Invalid, why, what);
    }
}

#[test]
fn the_checkpoint_must_be_of_these_entries() {
    let (world, _) = World::small();
    let size = world.leaves.len();
    let whole = root_at(&world, size);
    let at = |size: usize, root: Hash| Checkpoint { origin: world.origin.clone(), size: size as u64, root };
    let foreign = Checkpoint { origin: "x/y".to_owned(), size: size as u64, root: whole };
    let cases = [
        ("another key", note::sign(&at(size, whole).text(), &world.origin, &signing_key(50)), "is not signed by"),
        ("another log", note::sign(&foreign.text(), &world.origin, &world.log_key), "belongs to log"),
        ("one less", at(size - 1, root_at(&world, size - 1)).sign(&world.log_key), "tile/entries/000"),
        ("one more", at(size + 1, whole).sign(&world.log_key), "tile/entries/000"),
        ("none", at(0, EMPTY_ROOT).sign(&world.log_key), "part `tile/"),
        ("more than the file could hold", at(usize::MAX, whole).sign(&world.log_key), "tile/entries"),
        ("another root", at(size, Hash([7; 32])).sign(&world.log_key), "do not have the root"),
        ("not a checkpoint", note::sign("x\n", &world.origin, &world.log_key), "not three lines"),
    ];
    for (what, checkpoint, why) in cases {
        let mut parts = world.parts();
        parts.insert("checkpoint".to_owned(), checkpoint.into_bytes());
        because(&verify(&world.vkey(), &world.repack(parts), None), Verdict::Invalid, why, what);
    }
}

#[test]
fn signatures_of_others_on_the_checkpoint_are_told_and_not_believed() {
    let (world, _) = World::small();
    let note = world.checkpoint();
    let witness = note::sign(&world.checkpoint(), "witness.example", &signing_key(60));
    let both = note + witness.lines().last().unwrap() + "\n";
    let mut parts = world.parts();
    parts.insert("checkpoint".to_owned(), both.into_bytes());
    let report = verify(&world.vkey(), &world.repack(parts), None);
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    let witnesses = report.facts.as_ref().unwrap().witnesses;
    assert_eq!((witnesses.checked, witnesses.unchecked), (0, 1));
    assert!(report.render().contains("1 other signatures on the checkpoint were not checked"));
}

#[test]
fn a_checkpoint_that_the_auditor_holds_lies_on_the_log_or_shows_a_fork() {
    let (world, _) = World::small();
    let size = world.leaves.len();
    let pack = world.pack();
    let root = world.vkey();
    for earlier in 0..=size {
        let note = Checkpoint {
            origin: world.origin.clone(),
            size: earlier as u64,
            root: if earlier == 0 { EMPTY_ROOT } else { root_at(&world, earlier) },
        };
        let report = verify(&root, &pack, Some(&note.sign(&world.log_key)));
        assert_eq!(report.verdict, Verdict::Valid, "{earlier}: {:?}", report.problems);
        assert_eq!(report.facts.as_ref().unwrap().known, Some(earlier as u64));
        assert!(report.proven.iter().any(|p| p.contains("lies on this log")));
        assert!(
            report.not_proven.iter().any(|p| p.contains(&format!("no second history exists beyond size {earlier}")))
        );
        if earlier > 0 {
            let other = Checkpoint { root: Hash([7; 32]), ..note };
            let report = verify(&root, &pack, Some(&other.sign(&world.log_key)));
            because(&report, Verdict::Invalid, &format!("of another history: size {earlier}"), "a fork");
        }
    }
    let mut later = world.clone();
    later.running();
    let newer = later.checkpoint();
    because(&verify(&root, &pack, Some(&newer)), Verdict::Inconclusive, "is newer (size 9)", "newer");
    // Rolled back and gone on otherwise: the same size, or a larger one, of another history.
    let mut other = world.clone();
    other.at.0 += 1;
    other.running();
    because(&verify(&root, &other.pack(), Some(&newer)), Verdict::Invalid, "of another history: size 9", "a fork");
    let forged = note::sign("x\n", "x", &signing_key(60));
    for (what, note) in [("nonsense", "x"), ("another note", forged.as_str())] {
        because(&verify(&root, &pack, Some(note)), Verdict::Invalid, "cannot be compared", what);
    }
}

#[test]
fn an_anchor_is_taken_as_it_is_and_every_checkpoint_of_the_log_in_it_is_held_to_the_log() {
    let (world, _) = World::small();
    let (pack, root, size) = (world.pack(), world.vkey(), world.leaves.len());
    let mut other = World::new(|g| g.log = countersign_gateway_model::LogId::from_bytes([0x20; 16]));
    other.origin = countersign_ledger_entry::key::origin("countersign.example", other.genesis.log).unwrap();
    let foreign = other.checkpoint();
    let held = |notes: &[&str]| {
        let held = notes.concat();
        check_known(&held, &root).map(|()| verify(&root, &pack, Some(&held)))
    };
    let known = |report: &Report| report.facts.as_ref().unwrap().known;

    // One note a log; and whoever keeps more of one is told of the largest, in whichever order they stand.
    let (early, late) = (world.checkpoint_at(2), world.checkpoint_at(size - 1));
    for notes in [[&foreign, &early, &late], [&late, &foreign, &early], [&early, &late, &foreign]] {
        let report = held(&notes.map(String::as_str)).unwrap();
        assert_eq!((report.verdict, known(&report)), (Verdict::Valid, Some(size as u64 - 1)), "{:?}", report.problems);
    }
    // Each of them counts: one of another history is a fork beside a larger one that fits, and beside one that is newer.
    let forked = Checkpoint { origin: world.origin.clone(), size: 2, root: Hash([7; 32]) }.sign(&world.log_key);
    let mut later = world.clone();
    later.running();
    let newer = later.checkpoint();
    for beside in [&late, &newer, &foreign] {
        let report = held(&[beside.as_str(), &forked]).unwrap();
        because(&report, Verdict::Invalid, "of another history: size 2", "a fork");
    }
    because(&held(&[&late, &newer]).unwrap(), Verdict::Inconclusive, "is newer (size 9)", "newer");
    // One that the log key never signed is no checkpoint of it, whatever stands beside.
    let unsigned =
        Checkpoint { origin: world.origin.clone(), size: 2, root: root_at(&world, 2) }.sign(&signing_key(61));
    because(&held(&[&late, &unsigned]).unwrap(), Verdict::Invalid, "cannot be compared", "not signed by the log");

    // What says nothing of this log accuses nobody.
    for (notes, why) in [
        (&[foreign.as_str(), &foreign][..], "it holds no checkpoint of --key's log"),
        (&[][..], "empty"),
        (&[foreign.as_str(), "x\n"][..], "it was cut short"),
        (&[late.as_str(), &foreign[..foreign.len() - 1]][..], "it was cut short"),
    ] {
        let error = held(notes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    // Another log's may be whatever it is.
    let report = held(&["y\n1\n\n\u{2014} y AAAA\n", &late]).unwrap();
    assert_eq!(known(&report), Some(size as u64 - 1));
}
