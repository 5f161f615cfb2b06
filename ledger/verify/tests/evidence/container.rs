//! The file format: one canonical form, whatever else ZIP allows.

use countersign_ledger_entry::note;
use countersign_ledger_verify::{Code, Verdict, too_large, verify};
use proptest::prelude::*;

use crate::world::*;

fn refused(pack: &[u8], code: Code, why: &str, what: &str) {
    let (world, _) = World::small();
    let report = verify(&world.vkey(), pack, None);
    assert_eq!(report.verdict, Verdict::Invalid, "{what}");
    assert_eq!(report.problems[0].code, code, "{what}: {:?}", report.problems);
    assert!(report.problems[0].detail.contains(why), "{what}: {:?}", report.problems);
}

/// Where the local header of a part begins.
pub(crate) fn local(pack: &[u8], name: &str) -> usize {
    let at = pack.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
    at - 30
}

#[test]
fn this_files_own_writer_and_the_pack_agree() {
    let (world, _) = World::small();
    let pack = world.open_pack();
    assert_eq!(zip(&unpack(&pack).into_iter().collect::<Vec<_>>()), pack);
}

/// What is altered, at which offset of the local header, the bytes put there, and why it is refused.
type Altered<'a> = (&'a str, usize, &'a [u8], (Code, &'a str));

#[test]
fn everything_that_zip_allows_beyond_the_canonical_form_is_refused() {
    let (world, _) = World::small();
    let pack = world.open_pack();
    let at = local(&pack, "checkpoint");
    let canonical = (Code::NotCanonical, "not the one canonical form");
    let torn = (Code::Truncated, "ends in the middle of a part");
    let compressed = (Code::Compressed, "a part is compressed");
    let beyond = [0, 0, 0, 1, 0, 0, 0, 1];
    let headers: [Altered<'_>; 15] = [
        ("a later version", 4, &[20], canonical),
        ("encrypted", 6, &[1], canonical),
        ("lengths behind the data", 6, &[8], canonical),
        ("names in UTF-8", 7, &[8], canonical),
        ("compressed", 8, &[8], compressed),
        ("compressed in a way that nobody knows", 9, &[1], compressed),
        ("a time", 10, &[1], canonical),
        ("a date", 12, &[0x22], canonical),
        ("another checksum", 14, &[0, 0, 0, 0], canonical),
        ("a packed size of its own", 18, &[1, 0, 0, 0], canonical),
        ("a size of its own", 22, &[0, 0, 0, 1], canonical),
        // What no reader can tell: whether the lengths lie or the file was cut.
        ("a size to the end of the file and beyond", 18, &beyond, torn),
        ("a bomb", 22, &[0xff, 0xff, 0xff, 0xff], (Code::OverLimit, "larger than 256 MiB")),
        ("a name to the end of the file and beyond", 26, &[0xff, 0xff], torn),
        ("an extra field", 28, &[4], canonical),
    ];
    for (what, offset, bytes, (code, why)) in headers {
        let mut pack = pack.clone();
        pack[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
        refused(&pack, code, why, what);
    }
    let (code, why) = canonical;
    let mut comment = pack.clone();
    let end = comment.len();
    comment[end - 2] = 4;
    comment.extend(b"note");
    refused(&comment, code, why, "a comment");
    refused(&[b"#!/bin/sh\n", pack.as_slice()].concat(), code, why, "a prefix");
    refused(b"countersign.example/root+0f+AA\n", code, why, "another file");
    refused(&[pack.as_slice(), b"\0"].concat(), code, why, "a byte more");
    refused(&[&pack[..pack.len() - 9], &[0; 9]].concat(), code, why, "cut, and filled up to its length");
    refused(&[], Code::Truncated, "ends before its directory does", "nothing");
    refused(&pack[pack.len() - 22..], code, why, "an end without parts");
    refused(&zip(&[]), Code::Evidence, "no part `EVIDENCE`", "no parts");
}

#[test]
fn every_beginning_of_a_pack_is_told_as_truncated() {
    let (world, _) = World::small();
    let (root, pack) = (world.vkey(), world.open_pack());
    assert_eq!(verify(&root, &pack, None).problems, []);
    for length in 0..pack.len() {
        let problems = verify(&root, &pack[..length], None).problems;
        assert_eq!(problems[0].code, Code::Truncated, "{length} bytes: {problems:?}");
        assert!(problems[0].entry.is_none(), "{length} bytes: {problems:?}");
    }
}

#[test]
fn a_bomb_of_any_ratio_is_refused_before_it_is_unpacked() {
    // A deflated stream of 2 GiB of zeros claims its size in the header; nothing here can inflate at all.
    let (world, _) = World::small();
    let mut parts = unpack(&world.open_pack());
    parts.insert("payloads/bomb".to_owned(), vec![0; 4096]);
    let mut pack = zip(&parts.into_iter().collect::<Vec<_>>());
    let at = local(&pack, "payloads/bomb");
    pack[at + 8] = 8;
    pack[at + 22..at + 26].copy_from_slice(&(200_u32 << 20).to_le_bytes());
    refused(&pack, Code::Compressed, "nothing was unpacked", "deflated");
    let many: Vec<_> = (0..70_000).map(|n| (format!("payloads/{n:06}"), Vec::new())).collect();
    let listed: Vec<_> = many.iter().take(65_535).cloned().collect();
    refused(&zip(&listed), Code::OverLimit, "more than 65534 parts", "too many parts");
    let report = too_large(&world.vkey());
    assert!(report.verdict == Verdict::Invalid && report.problems[0].detail.contains("larger than 2 GiB"));
    assert_eq!(report.problems[0].code, Code::OverLimit);
}

#[test]
fn names_are_plain_sorted_and_single() {
    let (world, _) = World::small();
    let with = |name: &str| {
        let mut parts = world.parts();
        parts.insert(name.to_owned(), b"x".to_vec());
        world.repack(parts)
    };
    let long = "a".repeat(201);
    for name in [
        "",
        "/etc/passwd",
        "../x",
        "tile/../x",
        "tile//x",
        "./x",
        "tile/.",
        "x/",
        "a\\b",
        "C:x",
        "a b",
        "\u{e9}",
        "a\0b",
        "a\nb",
        "~x",
        "%2e%2e",
        &long,
    ] {
        refused(&with(name), Code::NotCanonical, "not a plain relative path", name);
    }
    for name in ["blob", "tile/0/001", "tile/0/000.p/1", "tile/entries/001", "payloadsx", "META-INF/MANIFEST.MF"] {
        refused(&with(name), Code::Part, &format!("part `{name}`"), name);
    }
    let parts: Vec<_> = unpack(&world.open_pack()).into_iter().collect();
    let mut swapped = parts.clone();
    swapped.swap(1, 2);
    refused(&zip(&swapped), Code::NotCanonical, "not sorted by name, or one stands twice", "unsorted");
    let mut twice = parts.clone();
    twice.insert(1, parts[1].clone());
    refused(&zip(&twice), Code::NotCanonical, "not sorted by name, or one stands twice", "twice");
    let mut hidden = parts.clone();
    hidden.insert(2, (parts[1].0.clone(), b"another".to_vec()));
    refused(&zip(&hidden), Code::NotCanonical, "not sorted by name, or one stands twice", "twice with other bytes");
}

#[test]
fn parts_that_are_missing_swapped_or_changed_are_named() {
    let (world, _) = World::small();
    let names: Vec<String> = world.parts().into_keys().collect();
    for name in &names {
        let mut parts = world.parts();
        parts.remove(name).unwrap();
        let report = verify(&world.vkey(), &world.repack(parts), None);
        if name.starts_with("payloads/") {
            // Withholding is redaction, which is lawful and counted.
            assert_eq!(report.verdict, Verdict::Valid, "{name}");
        } else {
            assert_eq!(report.verdict, Verdict::Invalid, "{name}");
            let stem = name.split(".p").next().unwrap();
            assert_eq!(report.problems[0].code, Code::Part, "{name}: {:?}", report.problems);
            assert!(report.problems[0].detail.contains(stem), "{name}: {:?}", report.problems);
        }
    }
    let mut parts = world.parts();
    let payloads: Vec<String> = parts.keys().filter(|n| n.starts_with("payloads/")).cloned().collect();
    let (a, b) = (parts[&payloads[0]].clone(), parts[&payloads[1]].clone());
    parts.insert(payloads[0].clone(), b);
    parts.insert(payloads[1].clone(), a);
    refused(&world.repack(parts), Code::Part, &format!("part `{}`", payloads[0]), "swapped payloads");
    for (name, data) in [
        (format!("payloads/{}", "0".repeat(64)), b"x".to_vec()),
        ("payloads/x".to_owned(), b"x".to_vec()),
        (format!("blobs/{}", sha256(b"y")), b"x".to_vec()),
        (format!("blobs/{}", sha256(b"x").to_uppercase()), b"x".to_vec()),
        (format!("blobs/{}/x", sha256(b"x")), b"x".to_vec()),
    ] {
        let mut parts = world.parts();
        parts.insert(name.clone(), data);
        refused(&world.repack(parts), Code::Part, &format!("part `{name}`"), &name);
    }
}

#[test]
fn the_evidence_note_must_be_the_one_that_fits() {
    let (world, _) = World::small();
    let parts = world.parts();
    let text = evidence_text(&world.origin, &parts);
    let sign = |text: &str| note::sign(text, &world.origin, &world.log_key);
    let other = |n: u8| note::sign(&text, &world.origin, &signing_key(n));
    let lines = |n: usize, with: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines[n] = with;
        sign(&(lines.join("\n") + "\n"))
    };
    let count = parts.len();
    let (less, padded) = ((count - 1).to_string(), format!("0{count}"));
    let foreign = "countersign.example/11111111111111111111111111111111";
    let cases = [
        ("another key under the log's name", other(77), "is not signed by"),
        ("the gateway's key", note::sign(&text, "x", &world.by.key), "is not signed by"),
        ("two signatures", sign(&text) + other(77).lines().last().unwrap() + "\n", "exactly one signature"),
        ("another title", lines(0, "countersign evidence v2"), "not that of this version"),
        ("another log", lines(1, foreign), "it is of another log"),
        ("another count", lines(2, &less), "the number of parts is another"),
        ("a count that is not shortest", lines(2, &padded), "the number of parts is another"),
        ("another root", lines(3, "AAAA"), "not those that were signed"),
        ("a line more", sign(&format!("{text}more\n")), "not that of this version"),
        (
            "a line less",
            sign(text.split_inclusive('\n').take(3).collect::<String>().as_str()),
            "not that of this version",
        ),
        ("no signature", text.clone(), "no blank line"),
        ("no text", String::new(), "no blank line"),
        ("a carriage return", sign(&text).replace('\n', "\r\n"), "control characters"),
    ];
    for (what, evidence, why) in cases {
        refused(&world.repack_with(parts.clone(), evidence), Code::Evidence, why, what);
    }
    let mut all = parts.clone();
    all.insert("EVIDENCE".to_owned(), vec![0xff, 0xfe]);
    refused(&zip(&all.into_iter().collect::<Vec<_>>()), Code::Evidence, "it is not text", "not UTF-8");
}

proptest! {
    #[test]
    fn no_bytes_whatever_make_the_verifier_fail(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let (world, _) = World::small();
        prop_assert_eq!(verify(&world.vkey(), &bytes, None).verdict, Verdict::Invalid);
        let mut parts = world.parts();
        parts.insert("tile/entries/000.p/7".to_owned(), bytes.clone());
        prop_assert_eq!(verify(&world.vkey(), &world.repack(parts.clone()), None).verdict, Verdict::Invalid);
        parts.insert("checkpoint".to_owned(), bytes);
        prop_assert_eq!(verify(&world.vkey(), &world.repack(parts), None).verdict, Verdict::Invalid);
    }
}
