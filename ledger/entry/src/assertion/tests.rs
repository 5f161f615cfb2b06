//! A signature holds for exactly what was decided, by exactly that key, in exactly that log.
#![expect(clippy::unwrap_used, reason = "tests")]

use countersign_gateway_model::{GateId, ItemId, Name};

use super::*;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn public(n: u8) -> Bytes32 {
    Bytes32(key(n).verifying_key().to_bytes())
}

fn statement() -> Statement {
    Statement {
        origin: "countersign.example/07".to_owned(),
        gate: GateId::from_bytes([1; 16]),
        kind: DecisionKind::Approve,
        items: vec![(ItemId::from_bytes([3; 16]), Digest([4; 32])), (ItemId::from_bytes([2; 16]), Digest([5; 32]))],
        delta: None,
        shown: Some(Digest([6; 32])),
    }
}

#[test]
fn a_signature_holds_for_what_was_signed_whatever_the_order_of_the_items() {
    let signed = statement().sign(&key(1));
    statement().check(&signed, &public(1)).unwrap();
    let mut turned = statement();
    turned.items.reverse();
    turned.check(&signed, &public(1)).unwrap();
}

#[test]
fn a_signature_holds_for_nothing_else() {
    let signed = statement().sign(&key(1));
    let others = [
        Statement { origin: "countersign.example/08".to_owned(), ..statement() },
        Statement { gate: GateId::from_bytes([9; 16]), ..statement() },
        Statement { kind: DecisionKind::Reject, ..statement() },
        Statement { kind: DecisionKind::Override, ..statement() },
        Statement { items: statement().items.into_iter().take(1).collect(), ..statement() },
        Statement {
            items: statement().items.into_iter().map(|(item, _)| (item, Digest([9; 32]))).collect(),
            ..statement()
        },
        Statement { delta: Some(Digest([6; 32])), shown: None, ..statement() },
        Statement { shown: None, ..statement() },
        Statement { shown: Some(Digest([7; 32])), ..statement() },
    ];
    for other in others {
        assert!(matches!(other.check(&signed, &public(1)), Err(EntryError::Signature(_))), "{other:?}");
    }
    assert!(statement().check(&signed, &public(2)).is_err(), "another key");
    let renamed = Assertion { key_id: key_id(&public(2)), ..signed.clone() };
    assert!(statement().check(&renamed, &public(2)).is_err(), "another key's name");
    for at in 0..signed.signature.len() {
        let mut bent = signed.clone();
        if let Some(byte) = bent.signature.get_mut(at) {
            *byte ^= 1;
        }
        assert!(statement().check(&bent, &public(1)).is_err(), "byte {at}");
    }
    let short = Assertion { signature: signed.signature.iter().copied().take(63).collect(), ..signed };
    assert!(statement().check(&short, &public(1)).is_err(), "a byte short");
}

#[test]
fn a_lift_is_signed_for_itself_and_is_no_decision() {
    let lift = LiftStatement {
        origin: "countersign.example/07".to_owned(),
        gate: GateId::from_bytes([1; 16]),
        item: (ItemId::from_bytes([2; 16]), Digest([5; 32])),
        rule: Name::new("merge").unwrap(),
        shown: Digest([6; 32]),
    };
    let signed = lift.sign(&key(1));
    lift.check(&signed, &public(1)).unwrap();
    let others = [
        LiftStatement { origin: "x".to_owned(), ..lift.clone() },
        LiftStatement { gate: GateId::from_bytes([9; 16]), ..lift.clone() },
        LiftStatement { item: (ItemId::from_bytes([2; 16]), Digest([9; 32])), ..lift.clone() },
        LiftStatement { rule: Name::new("other").unwrap(), ..lift.clone() },
        LiftStatement { shown: Digest([9; 32]), ..lift.clone() },
    ];
    for other in others {
        assert!(other.check(&signed, &public(1)).is_err(), "{other:?}");
    }
    assert!(
        statement().check(&signed, &public(1)).is_err() && lift.check(&statement().sign(&key(1)), &public(1)).is_err()
    );
}

#[test]
fn every_algorithm_but_eddsa_is_refused_in_its_own_words() {
    for alg in [-7, -35, -257, 0, 8] {
        let signed = Assertion { alg, ..statement().sign(&key(1)) };
        let refused = statement().check(&signed, &public(1)).unwrap_err();
        assert!(matches!(refused, EntryError::Algorithm(found) if found == alg), "{refused}");
    }
}

#[test]
fn a_key_is_registered_by_who_holds_it_for_one_person_in_one_log() {
    let (who, other) = (Pseudonym::from_bytes([7; 16]), Pseudonym::from_bytes([8; 16]));
    let registered = PersonKey {
        principal: who,
        alg: EDDSA,
        key: public(1),
        revoked: false,
        possession: Some(possess(&key(1), "log", who)),
    };
    check_possession("log", &registered).unwrap();
    assert!(check_possession("gol", &registered).is_err(), "another log");
    assert!(check_possession("log", &PersonKey { principal: other, ..registered.clone() }).is_err(), "another person");
    assert!(check_possession("log", &PersonKey { key: public(2), ..registered.clone() }).is_err(), "another key");
    assert!(check_possession("log", &PersonKey { possession: None, ..registered.clone() }).is_err(), "no proof");
    let weak = PersonKey { key: Bytes32([0; 32]), ..registered.clone() };
    assert!(matches!(check_possession("log", &weak), Err(EntryError::PublicKey(_))), "a weak key");
    assert!(matches!(check_possession("log", &PersonKey { alg: -7, ..registered }), Err(EntryError::Algorithm(-7))));
}
