//! Verifier keys as others write them, and certificates.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::codec::{Bytes32, Bytes64};

fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

/// Published verifier keys: of the signed-note specification, of Go's `sumdb/note`, of transparency-dev's formats, and of
/// Go's checksum database.
const PUBLISHED: [&str; 5] = [
    "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop",
    "TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6",
    "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
];

#[test]
fn published_verifier_keys_are_read_and_written_byte_for_byte() {
    for text in PUBLISHED {
        let key: VKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(const_hex::encode(key.id()), text.split('+').nth(1).unwrap(), "the key id of {text}");
    }
}

#[test]
fn every_piece_and_every_changed_character_of_a_verifier_key_is_refused() {
    for text in PUBLISHED {
        for from in 0..=text.len() {
            for to in from..=text.len() {
                if (from, to) != (0, text.len()) {
                    assert!(text.get(from..to).unwrap().parse::<VKey>().is_err(), "{from}..{to} of {text}");
                }
            }
        }
        for (at, old) in text.char_indices() {
            for new in "aA0+/= \n".chars().filter(|new| *new != old) {
                let mut changed = text.to_owned();
                changed.replace_range(at..=at, new.encode_utf8(&mut [0; 4]));
                assert!(changed.parse::<VKey>().is_err(), "{changed}");
            }
        }
    }
}

#[test]
fn keys_of_other_types_lengths_and_orders_are_refused() {
    for bad in [
        "",
        "+",
        "++",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        // Another length and another algorithm, each with the key id that would fit.
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ] {
        assert!(matches!(bad.parse::<VKey>(), Err(EntryError::PublicKey(_))), "{bad}");
    }
    // The neutral point and one of order two: signatures under them mean nothing.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut order_two = [0xff; 32];
    order_two[0] = 0xec;
    order_two[31] = 0x7f;
    for weak in [neutral, order_two, [0; 32]] {
        assert!(public_key(&weak).is_err());
    }
    assert!(public_key(&[0x02; 32]).is_err(), "not a point");
}

#[test]
fn names_have_no_white_space_plus_or_control_character() {
    let key = signing_key(1).verifying_key();
    for good in ["a", "countersign.example/ab/root", "\u{e9}"] {
        assert!(VKey::new(good, key).is_ok(), "{good}");
    }
    for bad in ["", " ", "a b", "a+b", "a\nb", "a\tb", "a\u{a0}b", "a\u{7f}b", "a\0b", "a\u{2028}b"] {
        assert!(matches!(VKey::new(bad, key), Err(EntryError::Note(_))), "{bad:?}");
        assert!(origin(bad, LogId::from_bytes([1; 16])).is_err(), "{bad:?}");
    }
}

#[test]
fn names_of_keys_follow_from_the_log() {
    let origin = origin("countersign.example", LogId::from_bytes([0xab; 16])).unwrap();
    let hex = "ab".repeat(16);
    assert_eq!(origin, format!("countersign.example/{hex}"));
    assert_eq!(root_name(&origin), format!("countersign.example/{hex}/root"));
    let gateway = gateway_name(&origin, GatewayId::from_bytes([0xcd; 16]));
    assert_eq!(gateway, format!("countersign.example/{hex}/gateway/{}", "cd".repeat(16)));
}

#[test]
fn a_certificate_is_for_one_log_one_name_and_one_key() {
    let (by, key) = (signing_key(1), signing_key(2).verifying_key());
    let certificate = certify(&by, "origin", "name", &key);
    let bytes = key.to_bytes();
    check_certificate(&by.verifying_key(), "origin", "name", &bytes, &certificate).unwrap();
    let mut flipped = certificate;
    flipped[0] ^= 1;
    let other = signing_key(3).verifying_key();
    let cases = [
        ("another signer", check_certificate(&other, "origin", "name", &bytes, &certificate)),
        ("another log", check_certificate(&by.verifying_key(), "origin2", "name", &bytes, &certificate)),
        ("another name", check_certificate(&by.verifying_key(), "origin", "name2", &bytes, &certificate)),
        ("names that run together", check_certificate(&by.verifying_key(), "originn", "ame", &bytes, &certificate)),
        ("another key", check_certificate(&by.verifying_key(), "origin", "name", other.as_bytes(), &certificate)),
        ("a flipped bit", check_certificate(&by.verifying_key(), "origin", "name", &bytes, &flipped)),
    ];
    for (what, result) in cases {
        assert!(matches!(result, Err(EntryError::Signature("certificate"))), "{what}");
    }
}

#[test]
fn a_change_of_a_key_is_for_one_log_change_role_and_key_and_is_no_certificate() {
    let root = signing_key(1);
    let key = signing_key(2).verifying_key().to_bytes();
    let change = |change, role, certificate| Key { change, role, key: Bytes32(key), certificate: Bytes64(certificate) };
    let signed = |what, role| root.sign(&change_bytes("origin", what, role, &key)).to_bytes();
    let good = signed(KeyChange::Revoked, KeyRole::Gateway);
    let check = |change: &Key, origin: &str| check_change(&root.verifying_key(), origin, change);
    check(&change(KeyChange::Revoked, KeyRole::Gateway, good), "origin").unwrap();
    let introduced = certify(&root, "origin", "name", &public_key(&key).unwrap());
    let cases = [
        ("another log", check(&change(KeyChange::Revoked, KeyRole::Gateway, good), "origin2")),
        ("another change", check(&change(KeyChange::Retired, KeyRole::Gateway, good), "origin")),
        ("another role", check(&change(KeyChange::Revoked, KeyRole::Log, good), "origin")),
        ("a certificate", check(&change(KeyChange::Revoked, KeyRole::Gateway, introduced), "origin")),
    ];
    for (what, result) in cases {
        assert!(matches!(result, Err(EntryError::Signature("key change"))), "{what}");
    }
}
