//! The leaf has one form. What is tried on it: the golden bytes of every kind (`tests/golden`), each item of each of them
//! spelled otherwise, each bit flipped, each length cut, each array grown, shrunk and reordered.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use countersign_gateway_model::{Decision, GatewayId, InstanceId, Name, PermitId};

use super::*;
use crate::body::{Freeze, Sweep};

/// Every golden leaf, by file.
fn golden() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let mut out = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("entry-") {
            let text: String = std::fs::read_to_string(path).unwrap().split_whitespace().collect();
            let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            out.push((name, (0..text.len()).step_by(2).map(byte).collect()));
        }
    }
    out.sort();
    out
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// One CBOR item, found by a reader that shares nothing with the one under test.
#[derive(Debug)]
struct Item {
    at: usize,
    /// Bytes of its head.
    head: usize,
    major: u8,
    argument: u64,
    /// Where it ends, with what is in it.
    end: usize,
    children: Vec<Item>,
}

/// Reads one item and asserts that it is deterministic: shortest heads, definite lengths, no maps, tags or floats.
fn item(bytes: &[u8], at: usize) -> Item {
    let (major, info) = (bytes[at] >> 5, bytes[at] & 31);
    let (argument, head) = match info {
        0..=23 => (u64::from(info), 1),
        24..=27 => {
            let width = 1 << (info - 24);
            let argument = bytes[at + 1..at + 1 + width].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
            let least = [24, 1 << 8, 1 << 16, 1 << 32][usize::from(info - 24)];
            assert!(argument >= least || major == 7, "not the shortest head at {at}");
            (argument, 1 + width)
        }
        _ => panic!("indefinite length or reserved at {at}"),
    };
    let mut end = at + head;
    let mut children = Vec::new();
    match major {
        0 | 1 => {}
        2 | 3 => {
            end += usize::try_from(argument).unwrap();
            assert!(major == 2 || std::str::from_utf8(&bytes[at + head..end]).is_ok());
        }
        4 => {
            for _ in 0..argument {
                let child = item(bytes, end);
                end = child.end;
                children.push(child);
            }
        }
        7 => assert!(matches!(info, 20..=22), "only false, true and null at {at}"),
        _ => panic!("a map or a tag at {at}"),
    }
    Item { at, head, major, argument, end, children }
}

fn each<'i>(item: &'i Item, visit: &mut impl FnMut(&'i Item)) {
    visit(item);
    item.children.iter().for_each(|child| each(child, visit));
}

fn with(bytes: &[u8], range: std::ops::Range<usize>, new: &[u8]) -> Vec<u8> {
    [&bytes[..range.start], new, &bytes[range.end..]].concat()
}

/// Whatever is accepted is written back as it was read: there is no second form. And it is not what was signed.
fn assert_single(changed: &[u8], what: impl Fn() -> String) {
    if let Ok(entry) = Entry::parse(changed) {
        let again = match entry.signature {
            Some(signature) => [&[0x82], entry.header.encode().as_slice(), &[0x58, 64], &signature].concat(),
            None => [&[0x82], entry.header.encode().as_slice(), &[0x40]].concat(),
        };
        assert!(again == changed, "{}", what());
        assert!(entry.verify(changed, &key().verifying_key()).is_err(), "{}", what());
    }
}

#[test]
fn the_golden_leaf_of_every_kind_is_read_and_written_back() {
    let mut kinds = BTreeSet::new();
    for (file, leaf) in golden() {
        let entry = Entry::parse(&leaf).unwrap_or_else(|e| panic!("{file}: {e}"));
        kinds.insert(entry.header.body.kind());
        let signed = entry.header.clone();
        let again = if entry.signature.is_some() { signed.sign(&key()) } else { signed.unsigned() }.unwrap();
        assert_eq!((again.leaf.as_slice(), again.hash), (leaf.as_slice(), leaf_hash(&leaf)), "{file}");
        let unknown = UnknownEntry::parse(&leaf).unwrap();
        assert_eq!(unknown.signature, entry.signature);
        assert_eq!(unknown.header.clone().with_body(()), entry.header.clone().with_body(()));
        assert_eq!(
            unknown.header.body,
            UnknownBody { kind: entry.header.body.kind().number(), bytes: entry.header.body.encode() }
        );
        let verified = entry.verify(&leaf, &key().verifying_key()).is_ok();
        assert_eq!(verified, entry.signature.is_some(), "{file}");
        assert_eq!(verified, unknown.verify(&leaf, &key().verifying_key()).is_ok(), "{file}");
        assert!(entry.verify(&leaf, &SigningKey::from_bytes(&[4; 32]).verifying_key()).is_err(), "{file}");
    }
    assert_eq!(
        kinds,
        Kind::ALL.iter().copied().collect::<BTreeSet<_>>(),
        "run the golden tests with COUNTERSIGN_BLESS=1"
    );
}

#[test]
fn every_leaf_is_deterministic_cbor_to_another_reader() {
    for (file, leaf) in golden() {
        let whole = item(&leaf, 0);
        assert_eq!((whole.end, whole.children.len(), whole.children[0].children.len()), (leaf.len(), 2, 21), "{file}");
    }
}

#[test]
fn no_item_of_a_leaf_has_a_second_spelling() {
    for (file, leaf) in golden() {
        let whole = item(&leaf, 0);
        each(&whole, &mut |item| {
            if item.major == 7 {
                return;
            }
            let refused = |changed: &[u8], what: &str| {
                assert!(Entry::parse(changed).is_err(), "{file}: {what} of the item at {}", item.at);
            };
            let head = item.at..item.at + item.head;
            for (info, width) in [(24_u8, 1), (25, 2), (26, 4), (27, 8)].into_iter().filter(|(_, w)| w + 1 > item.head)
            {
                let argument = item.argument.to_be_bytes();
                let longer = [&[item.major << 5 | info], &argument[8 - width..]].concat();
                refused(&with(&leaf, head.clone(), &longer), "a longer head");
            }
            let content = &leaf[item.at + item.head..item.end];
            let indefinite = match item.major {
                // A string in one piece, or in none.
                2 | 3 => [&[item.major << 5 | 31], &leaf[item.at..item.end], &[0xff]].concat(),
                4 => [&[0x9f], content, &[0xff]].concat(),
                _ => return,
            };
            refused(&with(&leaf, item.at..item.end, &indefinite), "an indefinite length");
        });
    }
}

#[test]
fn arrays_take_no_item_more_and_what_is_left_out_or_swapped_is_another_entry_or_none() {
    for (file, leaf) in golden() {
        let whole = item(&leaf, 0);
        each(&whole, &mut |item| {
            if item.major != 4 || item.argument > 22 {
                return;
            }
            let content = &leaf[item.at + item.head..item.end];
            let count = 0x80 | u8::try_from(item.argument).unwrap();
            let grown = |more| with(&leaf, item.at..item.end, &[&[count + 1], content, &[more]].concat());
            for more in [0xf6, 0x00, 0x40] {
                assert!(Entry::parse(&grown(more)).is_err(), "{file}: {more:02x} more in the array at {}", item.at);
            }
            // An empty list is a lawful item of one list alone.
            assert_single(&grown(0x80), || format!("{file}: an empty list more at {}", item.at));
            if let Some(last) = item.children.last() {
                let less = [&[count - 1], &leaf[item.at + item.head..last.at]].concat();
                assert_single(&with(&leaf, item.at..item.end, &less), || format!("{file}: less at {}", item.at));
            }
            for pair in item.children.windows(2) {
                let (one, two) = (&leaf[pair[0].at..pair[0].end], &leaf[pair[1].at..pair[1].end]);
                if one != two {
                    let swapped = with(&leaf, pair[0].at..pair[1].end, &[two, one].concat());
                    assert_single(&swapped, || format!("{file}: swapped at {}", pair[0].at));
                }
            }
        });
    }
}

#[test]
fn a_flipped_bit_is_another_entry_or_none_and_never_a_signed_one() {
    for (file, leaf) in golden() {
        // Checking a signature is what takes time: all bits where entries are short, one in nine elsewhere.
        let step = if file.contains("-lean") { 1 } else { 9 };
        for bit in (0..leaf.len() * 8).step_by(step) {
            let mut flipped = leaf.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_single(&flipped, || format!("{file}: bit {bit}"));
        }
    }
}

#[test]
fn a_leaf_cut_or_continued_is_none() {
    for (file, leaf) in golden() {
        for length in 0..leaf.len() {
            assert!(Entry::parse(&leaf[..length]).is_err(), "{file}: {length} bytes");
            assert!(UnknownEntry::parse(&leaf[..length]).is_err(), "{file}: {length} bytes");
        }
        for byte in [0x00, 0x40, 0x80, 0xf6, 0xff] {
            assert!(Entry::parse(&[leaf.as_slice(), &[byte]].concat()).is_err(), "{file}: {byte:02x} behind");
        }
    }
}

fn header() -> Header {
    let body = Sweep { permit: PermitId::from_bytes([7; 16]) };
    Header {
        semantics: 1,
        origin: "example.com/log".to_owned(),
        stream: Stream { kind: StreamKind::Instance, id: InstanceId::from_bytes([1; 16]).into() },
        sequence: 0,
        previous: None,
        append: AppendPosition { index: 0, length: 1 },
        body: body.into(),
        verdict: None,
        determining: Vec::new(),
        policy: None,
        authority: AuthorityMode::Solo,
        actor: Pseudonym::SYSTEM,
        on_behalf_of: Vec::new(),
        gateway: GatewayId::from_bytes([2; 16]),
        boot: 1,
        key: [1, 2, 3, 4],
        claimed: Timestamp(0),
        payloads: Vec::new(),
        fields: Vec::new(),
    }
}

/// `h` as it is or changed, closed without a signature.
fn leaf_of(h: &[u8]) -> Vec<u8> {
    [&[0x82], h, &[0x40]].concat()
}

/// What was changed, how, and how it is refused.
type Refused = (&'static str, fn(&mut Header), fn(&EntryError) -> bool);

#[test]
fn what_can_be_no_entry_is_neither_written_nor_read() {
    let cases: [Refused; 7] = [
        ("past its append", |h| h.append.index = 1, |e| matches!(e, EntryError::Position { index: 1, length: 1 })),
        ("in no append", |h| h.append.length = 0, |e| matches!(e, EntryError::Position { .. })),
        ("in too long an append", |h| h.append.length = 65, |e| matches!(e, EntryError::Position { .. })),
        (
            "in the organization's stream",
            |h| h.stream.kind = StreamKind::Organization,
            |e| matches!(e, EntryError::Misplaced { kind: "sweep", stream: StreamKind::Organization }),
        ),
        ("in the log's stream", |h| h.stream.kind = StreamKind::Log, |e| matches!(e, EntryError::Misplaced { .. })),
        (
            "an organization's in an instance",
            |h| h.body = Freeze { lift: false, team: None }.into(),
            |e| matches!(e, EntryError::Misplaced { kind: "freeze", .. }),
        ),
        ("too long", |h| h.origin = "x".repeat(65_535), |e| matches!(e, EntryError::TooLong(_))),
    ];
    for (what, change, expected) in cases {
        let mut header = header();
        change(&mut header);
        assert!(header.clone().sign(&key()).is_err_and(|e| expected(&e)), "{what}");
        assert!(header.clone().unsigned().is_err_and(|e| expected(&e)), "{what}");
        assert!(Entry::parse(&leaf_of(&header.encode())).is_err_and(|e| expected(&e)), "{what}");
    }
    let mut longest = header();
    longest.origin = "x".repeat(65_535 - header().sign(&key()).unwrap().leaf.len() + header().origin.len() - 2);
    let leaf = longest.sign(&key()).unwrap().leaf;
    assert_eq!(leaf.len(), MAX_LEAF);
    Entry::parse(&leaf).unwrap();
}

#[test]
fn formats_kinds_and_signatures_of_other_shapes_are_refused_by_name() {
    let h = header().encode();
    assert_eq!(h[..4], [0x95, 1, 1, 0x6f], "21 items, format 1, semantics 1, an origin of 15 bytes");
    for format in [0, 2, 3, 23] {
        let other = leaf_of(&with(&h, 1..2, &[format]));
        assert!(matches!(Entry::parse(&other), Err(EntryError::Format(found)) if found == format));
        assert!(matches!(UnknownEntry::parse(&other), Err(EntryError::Format(_))));
    }
    let kind = h.windows(2).position(|w| w == [0x0d, 0x81]).unwrap();
    let unknown = leaf_of(&with(&h, kind..kind + 1, &[0x18, 99]));
    assert!(matches!(Entry::parse(&unknown), Err(EntryError::UnknownKind(99))));
    assert_eq!(UnknownEntry::parse(&unknown).unwrap().header.body.kind, 99);
    // A body that is another kind's is none of this one.
    let other = leaf_of(&with(&h, kind..kind + 1, &[2]));
    assert!(matches!(Entry::parse(&other), Err(EntryError::Body { kind: "edge", .. })));
    for signature in [
        [&[0x58, 63], [7; 63].as_slice()].concat(),
        [&[0x58, 65], [7; 65].as_slice()].concat(),
        vec![0x41, 7],
        vec![0xf6],
        vec![0x60],
        vec![0x80],
    ] {
        assert!(Entry::parse(&[&[0x82], h.as_slice(), &signature].concat()).is_err(), "{signature:02x?}");
    }
    for (items, form) in [(0x81, "one"), (0x83, "three")] {
        let leaf = [&[items], h.as_slice(), &[0x40, 0x40]].concat();
        assert!(Entry::parse(&leaf).is_err(), "an array of {form}");
    }
}

#[test]
fn a_signature_is_over_the_domain_and_the_header() {
    let signed = header().sign(&key()).unwrap();
    let entry = Entry::parse(&signed.leaf).unwrap();
    let bytes = [b"countersign/entry/v1\0".as_slice(), &header().encode()].concat();
    assert_eq!(entry.signature.unwrap(), key().sign(&bytes).to_bytes());
    // Under another leaf the same signature says nothing.
    let other = Header { boot: 2, ..header() }.sign(&key()).unwrap().leaf;
    assert!(entry.verify(&other, &key().verifying_key()).is_err());
    assert!(entry.verify(&[], &key().verifying_key()).is_err());
    // Nobody signed this one.
    let unsigned = header().unsigned().unwrap();
    let entry = Entry::parse(&unsigned.leaf).unwrap();
    assert_eq!(entry.signature, None);
    assert!(entry.verify(&unsigned.leaf, &key().verifying_key()).is_err());
}

fn names() -> impl Strategy<Value = Vec<Name>> {
    proptest::collection::vec("[A-Za-z0-9._:/-]{1,12}".prop_map(|text| Name::new(&text).unwrap()), 0..3)
}

prop_compose! {
    fn any_header()(
        (semantics, sequence, boot, claimed) in any::<(u16, u64, u64, u64)>(),
        (previous, stream, permit, actor) in any::<(Option<[u8; 32]>, [u8; 16], [u8; 16], [u8; 16])>(),
        (length, index) in (1_u8..=64).prop_flat_map(|length| (Just(length), 0..length)),
        origin in "[a-z./]{1,40}",
        rules in proptest::option::of((names(), any::<bool>())),
        determining in proptest::collection::vec(names(), 0..3),
        policy in any::<Option<[[u8; 32]; 4]>>(),
        chain in proptest::collection::vec(any::<[u8; 16]>(), 0..4),
        payloads in proptest::collection::vec(any::<([u8; 32], u32)>(), 0..4),
        fields in proptest::collection::vec(any::<[u8; 32]>(), 0..4),
        key in any::<[u8; 4]>(),
    ) -> Header {
        Header {
            semantics,
            origin,
            stream: Stream { kind: StreamKind::Instance, id: InstanceId::from_bytes(stream).into() },
            sequence,
            previous: previous.map(Digest),
            append: AppendPosition { index, length },
            body: Sweep { permit: PermitId::from_bytes(permit) }.into(),
            verdict: rules.map(|(rules, error)| Verdict { decision: Decision::Deny, rules, error }),
            determining,
            policy: policy.map(|[kernel, schema, bundle, catalogue]| PolicyDigests {
                kernel: Digest(kernel),
                schema: Digest(schema),
                bundle: Digest(bundle),
                catalogue: Digest(catalogue),
            }),
            actor: Pseudonym::from_bytes(actor),
            on_behalf_of: chain.into_iter().map(Pseudonym::from_bytes).collect(),
            boot,
            key,
            claimed: Timestamp(claimed),
            payloads: payloads
                .into_iter()
                .map(|(digest, length)| PayloadRef { role: PayloadRole::Job, digest: Digest(digest), length })
                .collect(),
            fields: fields.into_iter().map(Digest).collect(),
            ..header()
        }
    }
}

proptest! {
    #[test]
    fn every_header_is_read_as_it_was_written(header in any_header()) {
        let sealed = header.clone().sign(&key()).unwrap();
        let entry = Entry::parse(&sealed.leaf).unwrap();
        prop_assert_eq!(&entry.header, &header);
        prop_assert!(entry.verify(&sealed.leaf, &key().verifying_key()).is_ok());
        prop_assert_eq!(item(&sealed.leaf, 0).end, sealed.leaf.len());
    }

    #[test]
    fn no_bytes_whatever_make_the_reader_fail(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Entry::parse(&bytes).is_err());
        let _ = UnknownEntry::parse(&bytes);
        // Behind a true beginning the reader goes deeper.
        let h = header().encode();
        for cut in [1, 3, 20, 40, 60] {
            assert_single(&leaf_of(&[&h[..cut.min(h.len())], &bytes].concat()), || format!("{bytes:02x?}"));
        }
    }
}
