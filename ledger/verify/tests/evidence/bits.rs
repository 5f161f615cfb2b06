//! Every flipped bit of every byte, every truncation, every appended byte; and the same where the forger mends what the
//! bit broke, as far as their keys go.

use countersign_ledger_entry::note::{self, Checkpoint};
use countersign_ledger_merkle::{Tree, leaf_hash};
use countersign_ledger_verify::{Report, Verdict, verify};

use crate::world::*;

/// Runs `check` for every bit of `bytes`, on two threads.
fn every_flipped_bit(bytes: &[u8], check: impl Fn(usize, u8, Vec<u8>) + Sync) {
    std::thread::scope(|scope| {
        for half in 0..2 {
            let check = &check;
            scope.spawn(move || {
                for at in (half..bytes.len()).step_by(2) {
                    for bit in 0..8 {
                        let mut flipped = bytes.to_vec();
                        flipped[at] ^= 1 << bit;
                        check(at, bit, flipped);
                    }
                }
            });
        }
    });
}

fn assert_invalid(report: &Report, what: impl Fn() -> String) {
    assert_eq!(report.verdict, Verdict::Invalid, "{}", what());
    assert_eq!(report.verdict.exit_code(), 1);
    assert!(report.facts.is_none() && report.problems.len() == 1, "{}", what());
}

#[test]
fn every_flipped_bit_of_every_byte_of_a_pack_is_invalid() {
    let (world, _) = World::small();
    let (root, pack) = (world.vkey(), world.open_pack());
    assert_eq!(verify(&root, &pack, None).verdict, Verdict::Valid);
    every_flipped_bit(&pack, |at, bit, flipped| {
        assert_invalid(&verify(&root, &flipped, None), || format!("byte {at} bit {bit}"));
    });
}

#[test]
fn every_flipped_bit_of_every_part_is_invalid_in_a_container_that_fits() {
    let (world, _) = World::small();
    let root = world.vkey();
    let parts = unpack(&world.open_pack());
    for (name, data) in &parts {
        every_flipped_bit(data, |at, bit, flipped| {
            let mut parts = parts.clone();
            parts.insert(name.clone(), flipped);
            let pack = zip(&parts.into_iter().collect::<Vec<_>>());
            assert_invalid(&verify(&root, &pack, None), || format!("`{name}` byte {at} bit {bit}"));
        });
    }
}

#[test]
fn every_flipped_bit_of_every_part_is_invalid_under_evidence_signed_again() {
    let (world, _) = World::small();
    let root = world.vkey();
    let parts = world.parts();
    for (name, data) in &parts {
        every_flipped_bit(data, |at, bit, flipped| {
            let mut parts = parts.clone();
            parts.insert(name.clone(), flipped);
            assert_invalid(&verify(&root, &world.repack(parts), None), || format!("`{name}` byte {at} bit {bit}"));
        });
    }
}

/// Whoever holds the log key, and no other, cannot change an entry.
#[test]
fn every_flipped_bit_of_every_entry_is_invalid_under_a_log_signed_again() {
    let mut world = World::booted();
    world.running();
    let root = world.vkey();
    for (index, leaf) in world.leaves.iter().enumerate() {
        every_flipped_bit(leaf, |at, bit, flipped| {
            let mut leaves = world.leaves.clone();
            leaves[index] = flipped;
            let tree: Tree = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
            let checkpoint = Checkpoint { origin: world.origin.clone(), size: tree.size(), root: tree.root().unwrap() };
            let contents = countersign_ledger_verify::Contents {
                origin: &world.origin,
                checkpoint: &checkpoint.sign(&world.log_key),
                leaves: leaves.iter().map(Vec::as_slice).collect(),
                ..Default::default()
            };
            let sign = |text: &str| note::sign(text, &world.origin, &world.log_key);
            let pack = countersign_ledger_verify::write(&contents, sign).unwrap();
            assert_invalid(&verify(&root, &pack, None), || format!("entry {index} byte {at} bit {bit}"));
        });
    }
}

#[test]
fn every_truncation_is_invalid() {
    let (world, _) = World::small();
    let (root, pack) = (world.vkey(), world.open_pack());
    for length in 0..pack.len() {
        assert_invalid(&verify(&root, &pack[..length], None), || format!("{length} bytes"));
        assert_invalid(&verify(&root, &pack[length + 1..], None), || format!("from byte {}", length + 1));
    }
}

#[test]
fn every_appended_or_prefixed_byte_is_invalid() {
    let (world, _) = World::small();
    let (root, pack) = (world.vkey(), world.open_pack());
    for byte in 0..=u8::MAX {
        assert_invalid(&verify(&root, &[&pack[..], &[byte]].concat(), None), || format!("{byte} after"));
        assert_invalid(&verify(&root, &[&[byte], &pack[..]].concat(), None), || format!("{byte} before"));
    }
    assert_invalid(&verify(&root, &[pack.as_slice(), &pack].concat(), None), || "twice".to_owned());
}
