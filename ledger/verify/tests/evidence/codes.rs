//! The codes of reports: each is the answer to a pack of its own, in every form of the report.

use countersign_gateway_model::{DecisionId, Digest, InstanceId};
use countersign_ledger_entry::body::{
    AuthorityMode, Erasure, Finding, Freeze, KeyChange, KeyRole, LiftRef, Review, Reviewed,
};
use countersign_ledger_entry::key::VKey;
use countersign_ledger_entry::note::{self, Checkpoint};
use countersign_ledger_entry::{PayloadRole, SEMANTICS};
use countersign_ledger_merkle::Hash;
use countersign_ledger_verify::{Code, Report, Verdict, too_large, verify};
use serde_json::Value;

use crate::container::local;
use crate::forged::change_of_key;
use crate::granted::given_as;
use crate::signed::signed;
use crate::world::*;

/// A file, and what is said of it.
fn found(code: Code) -> Report {
    let (mut world, _) = World::small();
    let root = world.vkey();
    let mut pack = world.open_pack();
    let freeze = Freeze { lift: false, team: None };
    match code {
        Code::OverLimit => return too_large(&root),
        Code::Compressed => {
            let method = local(&pack, "checkpoint") + 8;
            pack[method] = 8;
        }
        Code::Truncated => pack.truncate(pack.len() / 2),
        Code::NotCanonical => pack.push(0),
        Code::Evidence => {
            let text = evidence_text(&world.origin, &world.parts());
            pack = world.repack_with(world.parts(), note::sign(&text, &world.origin, &signing_key(77)));
        }
        Code::UntrustedRoot => {
            let other = VKey::new(root.name(), signing_key(50).verifying_key()).unwrap();
            return verify(&other, &pack, None);
        }
        Code::Checkpoint => {
            let mut parts = world.parts();
            let other = note::sign("x\n", &world.origin, &world.log_key);
            parts.insert("checkpoint".to_owned(), other.into_bytes());
            pack = world.repack(parts);
        }
        Code::Part => {
            let mut parts = world.parts();
            parts.insert("blob".to_owned(), Vec::new());
            pack = world.repack(parts);
        }
        Code::Entry => {
            world.leaves.last_mut().unwrap().push(0);
            return world.verify();
        }
        Code::Chain => {
            world.put(world.org_stream(), freeze, |h| h.sequence += 1);
            return world.verify();
        }
        Code::Signature => {
            let header = world.header(world.org_stream(), freeze);
            world.push(header.sign(&signing_key(99)).unwrap().leaf);
            return world.verify();
        }
        Code::Unlawful => {
            let nothing = LiftRef { instance: InstanceId::from_bytes([1; 16]), lift: DecisionId::from_bytes([2; 16]) };
            let assurance = countersign_gateway_model::Assurance::Mfa;
            let of = Reviewed::Lift(nothing);
            let review = Review { of, person: ALICE, finding: Finding::Upheld, assurance };
            world.put(world.org_stream(), review, |_| {});
            return world.verify();
        }
        Code::Authority => {
            world.put(world.org_stream(), freeze, |h| h.authority = AuthorityMode::Solo);
            return world.verify();
        }
        Code::PersonKey => return signed(|decision| decision.shown = Some(digest(8))).verify(),
        Code::Terms => {
            let world = given_as(PayloadRole::Description, |terms, _| terms["uses"] = 1.into());
            return verify(&world.vkey(), &world.open_pack(), None);
        }
        Code::Fork => {
            let other = Checkpoint { origin: world.origin.clone(), size: 3, root: Hash([7; 32]) };
            return verify(&root, &pack, Some(&other.sign(&world.log_key)));
        }
        Code::CheckpointForeign => return verify(&root, &pack, Some("x")),
        Code::CheckpointNewer => {
            world.running();
            return verify(&root, &pack, Some(&world.checkpoint()));
        }
        Code::LaterVersion => {
            world.put(world.org_stream(), freeze, |h| h.semantics = SEMANTICS + 1);
            return world.verify();
        }
        Code::KeyChange => {
            let change = change_of_key(&world, KeyChange::Added, KeyRole::Log, 9);
            world.put(world.log_stream(), change, |_| {});
            return world.verify();
        }
        Code::ErasedPayload => {
            let gone: Digest = world.payloads.keys().next().unwrap().parse().unwrap();
            let erasure = Erasure { subject: None, payloads: vec![gone], authority: digest(3) };
            world.put(world.org_stream(), erasure, |_| {});
            pack = world.open_pack();
        }
        other => panic!("no pack shows `{other}`"),
    }
    verify(&root, &pack, None)
}

#[test]
fn each_code_is_the_answer_to_a_pack_of_its_own_and_stands_in_every_form_of_the_report() {
    let inconclusive = [Code::CheckpointNewer, Code::LaterVersion, Code::KeyChange, Code::ErasedPayload];
    let of_an_entry = [
        Code::Entry,
        Code::Chain,
        Code::Signature,
        Code::Unlawful,
        Code::Authority,
        Code::PersonKey,
        Code::Terms,
        Code::KeyChange,
    ];
    for &code in Code::ALL {
        let report = found(code);
        let expected = if inconclusive.contains(&code) { Verdict::Inconclusive } else { Verdict::Invalid };
        assert_eq!(report.verdict, expected, "{code}: {:?}", report.problems);
        let [problem] = report.problems.as_slice() else { panic!("{code}: {:?}", report.problems) };
        assert_eq!(problem.code, code, "{problem:?}");
        assert_eq!(problem.entry.is_some(), of_an_entry.contains(&code), "{problem:?}");
        let text = report.render();
        assert!(text.contains(&format!("\n  ! {code}: {}\n", problem.detail)), "{text}");
        let json: Value = serde_json::to_value(&report).unwrap();
        assert_eq!(json["problems"][0]["code"], code.as_str());
        assert_eq!(json["problems"][0]["entry"].as_u64(), problem.entry);
        assert_eq!(json["problems"][0]["detail"], problem.detail);
    }
}
