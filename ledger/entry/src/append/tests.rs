//! An append chains its entries and is 1 to 64 long.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use countersign_gateway_model::OrgId;

use super::*;
use crate::body::{Freeze, StreamKind, Sweep};
use crate::entry::Entry;

fn frame() -> Frame {
    Frame {
        origin: "example.com/log".to_owned(),
        stream: Stream { kind: StreamKind::Organization, id: OrgId::from_bytes([1; 16]).into() },
        sequence: 7,
        previous: Some(Digest([9; 32])),
        policy: None,
        authority: AuthorityMode::FourEyes,
        gateway: GatewayId::from_bytes([2; 16]),
        boot: 3,
        key: [1, 2, 3, 4],
        claimed: Timestamp(5),
    }
}

fn drafts(count: usize) -> Vec<Draft> {
    vec![Draft::new(Freeze { lift: false, team: None }, Pseudonym::from_bytes([4; 16])); count]
}

#[test]
fn entries_of_an_append_follow_one_another() {
    let key = SigningKey::from_bytes(&[3; 32]);
    for count in [1, 2, 64] {
        let sealed = seal(&frame(), drafts(count), Some(&key)).unwrap();
        assert_eq!(sealed.len(), count);
        let mut previous = frame().previous;
        for (index, entry) in sealed.iter().enumerate() {
            let header = Entry::parse(&entry.leaf).unwrap().header;
            assert_eq!(header, entry.header);
            assert_eq!(header.sequence, 7 + index as u64);
            assert_eq!((usize::from(header.append.index), usize::from(header.append.length)), (index, count));
            assert_eq!(header.previous, previous);
            previous = Some(Digest(entry.hash.0));
        }
    }
}

#[test]
fn an_append_has_1_to_64_entries() {
    for count in [0, 65, 256, 300] {
        assert!(matches!(seal(&frame(), drafts(count), None), Err(EntryError::Position { .. })), "{count}");
    }
}

#[test]
fn without_a_key_entries_are_unsigned_and_otherwise_the_same() {
    let signed = seal(&frame(), drafts(1), Some(&SigningKey::from_bytes(&[3; 32]))).unwrap();
    let unsigned = seal(&frame(), drafts(1), None).unwrap();
    assert_eq!(signed[0].header, unsigned[0].header);
    assert!(Entry::parse(&unsigned[0].leaf).unwrap().signature.is_none());
}

#[test]
fn what_may_not_stand_in_the_stream_is_not_sealed() {
    let draft =
        Draft::new(Sweep { permit: countersign_gateway_model::PermitId::from_bytes([1; 16]) }, Pseudonym::SYSTEM);
    assert!(matches!(seal(&frame(), vec![draft], None), Err(EntryError::Misplaced { .. })));
}
