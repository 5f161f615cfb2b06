//! Salts, digests and commitments.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

#[test]
fn a_payload_is_its_salt_and_its_content() {
    let salt = Salt([7; 32]);
    let sealed = seal(&salt, b"content");
    let (opened, content) = open(&sealed).unwrap();
    assert!(opened == salt && content == b"content");
    assert!(open(&seal(&salt, b"")).is_some());
    assert!(open(sealed.get(..31).unwrap()).is_none());
}

#[test]
fn every_domain_gives_its_own_digest() {
    let salt = Salt([7; 32]);
    let domains = [ACTION, JOB, SHOWN, OUTPUT, DELTA, QUESTION, GRANT, IDEMPOTENCY];
    let mut seen: HashSet<Digest> = domains.iter().map(|domain| salted(domain, &salt, b"x")).collect();
    seen.insert(digest(&seal(&salt, b"x")));
    seen.insert(field_commitment(&field_salt(&salt, "x"), "x", b"x"));
    assert_eq!(seen.len(), domains.len() + 2);
}

#[test]
fn a_fields_salt_is_hmac_of_its_path() {
    // Computed with another implementation (Python 3, `hmac`).
    let salt = field_salt(&Salt([0x0b; 32]), "Hi There");
    let hex: String = salt.0.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert_eq!(hex, "198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7");
}

proptest! {
    #[test]
    fn what_is_committed_cannot_be_read_as_another_field(
        salt in any::<[u8; 32]>(),
        other_salt in any::<[u8; 32]>(),
        path in "[a-z/]{0,8}",
        other_path in "[a-z/]{0,8}",
        value in proptest::collection::vec(any::<u8>(), 0..8),
        other_value in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let one = field_commitment(&field_salt(&Salt(salt), &path), &path, &value);
        let two = field_commitment(&field_salt(&Salt(other_salt), &other_path), &other_path, &other_value);
        let same = salt == other_salt && path == other_path && value == other_value;
        prop_assert_eq!(one == two, same);
        // Path and value do not run into each other, under one and the same salt.
        let joined = [path.as_bytes(), &value].concat();
        let fixed = Salt(salt);
        if !path.is_empty() {
            prop_assert_ne!(field_commitment(&fixed, &path, &value), field_commitment(&fixed, "", &joined));
        }
    }

    #[test]
    fn a_payload_opens_to_what_was_sealed(salt in any::<[u8; 32]>(), content in proptest::collection::vec(any::<u8>(), 0..64)) {
        let sealed = seal(&Salt(salt), &content);
        let (opened, inner) = open(&sealed).unwrap();
        prop_assert!(opened.0 == salt && inner == content);
    }
}
