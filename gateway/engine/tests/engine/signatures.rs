//! What a person signs with a key of their own: it is checked before anything is recorded, a rule may demand it, and an
//! auditor checks it from the log's bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_gateway_engine::{
    Assertion, Bytes32, DecisionAnswer, DecisionKind, DecisionRequest, Effect, EngineError, EntityKind, EntityRef,
    EntryQuery, LiftRequest, NewPersonKey, PersonKeyRecord, Salt, Signed, delta_bytes, verify_evidence,
};
use countersign_gateway_model::{Digest, Duration, GateId, InstanceId, ItemId, Principal, Scope, State};
use countersign_ledger_entry::assertion::{self, LiftStatement, Statement};
use countersign_ledger_entry::payload;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use crate::bench::{Files, with_rule};
use crate::faulty::Fault;
use crate::world::{Deciding, World, name, org, replace};

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn code<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> &'static str {
    answer.unwrap_err().code()
}

struct At {
    world: World,
    owner: Arc<Principal>,
    agent: Arc<Principal>,
}

/// A gateway where a merge demands its approvers' signatures.
async fn demanding(change: impl FnOnce(&mut Value)) -> At {
    let files = with_rule("merge", |rule| {
        rule["demand"] = json!({ "assertion": true });
        change(rule);
    });
    under(&files).await
}

async fn under(files: &Files) -> At {
    let world = World::under(files).await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "AUDITOR"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    At { world, owner, agent }
}

impl At {
    async fn gate(&self) -> (InstanceId, GateId) {
        // What was registered before has an earlier time.
        self.world.clock.forward(Duration(10));
        let instance = self.world.instance(&self.owner, "fix", &self.agent).await.instance.id;
        let merge = ("repo.merge", json!({ "branch": "main", "message": "m" }));
        (instance, self.world.propose(&self.agent, instance, &[merge]).await.unwrap().gate.unwrap())
    }

    fn origin(&self) -> String {
        self.world.engine.log_of(org(1)).unwrap().trusted().origin().to_owned()
    }

    fn new_key(&self, n: u8, who: &Principal) -> NewPersonKey {
        let possession = assertion::possess(&key(n), &self.origin(), who.pseudonym);
        NewPersonKey { alg: assertion::EDDSA, key: Bytes32(key(n).verifying_key().to_bytes()), possession }
    }

    async fn register(&self, n: u8, who: &Arc<Principal>) -> Result<PersonKeyRecord, EngineError> {
        self.register_as(who, who, self.new_key(n, who)).await
    }

    async fn register_as(
        &self,
        by: &Arc<Principal>,
        of: &Principal,
        new: NewPersonKey,
    ) -> Result<PersonKeyRecord, EngineError> {
        let whose = (of.id.clone(), EntityRef::new(of.org, EntityKind::Person, of.id.clone()));
        self.world.engine.register_person_key(Arc::clone(by), whose, new).await.map(|(record, _)| record)
    }

    async fn revoke(&self, by: &Arc<Principal>, of: &Principal, n: u8) -> Result<PersonKeyRecord, EngineError> {
        let whose = (of.id.clone(), EntityRef::new(of.org, EntityKind::Person, of.id.clone()));
        let id = assertion::key_id(&Bytes32(key(n).verifying_key().to_bytes()));
        self.world.engine.revoke_person_key(Arc::clone(by), whose, id).await.map(|(record, _)| record)
    }

    /// Approves, signed with a key over what `change` makes of the truth.
    async fn approve(
        &self,
        who: &Arc<Principal>,
        gate: GateId,
        signed: Option<(u8, Change)>,
    ) -> Result<DecisionAnswer, EngineError> {
        let shown = self.world.engine.gate(who, gate).await?;
        let signed = signed.map(|(n, change)| {
            let mut statement = Statement {
                origin: self.origin(),
                gate,
                kind: DecisionKind::Approve,
                items: shown.gate.items.iter().map(|item| (item.item, item.digest)).collect(),
                delta: None,
                shown: Some(shown.shown_digest),
            };
            change(&mut statement);
            Signed { assertion: statement.sign(&key(n)), delta_salt: None }
        });
        self.send(who, gate, (DecisionKind::Approve, BTreeMap::new()), shown.shown_digest, signed).await
    }

    async fn send(
        &self,
        who: &Arc<Principal>,
        gate: GateId,
        (kind, delta): (DecisionKind, BTreeMap<ItemId, Option<BTreeMap<String, Value>>>),
        shown: Digest,
        assertion: Option<Signed>,
    ) -> Result<DecisionAnswer, EngineError> {
        let request = DecisionRequest {
            kind,
            items: Vec::new(),
            justification: Some("seen and weighed".to_owned()),
            shown_digest: Some(shown),
            delta,
            role: None,
            assertion,
        };
        self.world.engine.decide(Arc::clone(who), gate, request, None).await
    }

    async fn decisions(&self, instance: InstanceId) -> usize {
        let query = EntryQuery { instance: Some(instance), from: 0, limit: 500 };
        let entries = self.world.engine.entries(&self.owner, query).await.unwrap().items;
        entries.iter().filter(|entry| entry.kind == "decision").count()
    }

    /// Verifies the whole log; gives the report.
    async fn verifies(&self) -> String {
        let pack = self.world.engine.pack(&self.owner, true).await.unwrap();
        let report = verify_evidence(&self.world.root_vkey(org(1)), &pack).unwrap();
        assert_eq!(report.verdict.as_str(), "VALID", "{report:?}");
        report.render()
    }
}

/// What is signed instead of the truth.
type Change = fn(&mut Statement);

const AS_IT_IS: Change = |_| {};

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_demands_a_signature_counts_no_vote_without_one_that_holds() {
    let mut at = demanding(|_| {}).await;
    let (anna, bert) = (at.world.person("anna", &["APPROVER"]), at.world.person("bert", &["APPROVER"]));
    at.register(1, &anna).await.unwrap();
    at.register(2, &bert).await.unwrap();
    at.world.restart().await;
    let (instance, gate) = at.gate().await;
    at.register(3, &anna).await.unwrap();
    let answer = at.approve(&anna, gate, None).await;
    assert_eq!(code(answer), "signature-missing");
    let item = at.world.engine.gate(&anna, gate).await.unwrap().gate.items[0].item;
    assert_eq!(code(at.world.decide(&anna, gate, replace(item, "/branch", json!("next"))).await), "signature-missing");
    let wrong: [(u8, Change); 9] = [
        (1, |s| s.origin.push('x')),
        (1, |s| s.gate = GateId::from_bytes([9; 16])),
        (1, |s| s.kind = DecisionKind::Override),
        (1, |s| s.items.clear()),
        (1, |s| s.delta = Some(Digest([1; 32]))),
        (1, |s| s.shown = None),
        // Another's key, one that was registered after the gate opened, and one that nobody registered.
        (2, AS_IT_IS),
        (3, AS_IT_IS),
        (4, AS_IT_IS),
    ];
    for (at_place, (n, change)) in wrong.into_iter().enumerate() {
        assert_eq!(code(at.approve(&anna, gate, Some((n, change))).await), "signature-refused", "{at_place}");
    }
    assert_eq!((at.decisions(instance).await, at.world.state(&anna, instance).await), (0, State::WaitingForHuman));
    let vote = at.approve(&anna, gate, Some((1, AS_IT_IS))).await.unwrap();
    assert_eq!((vote.effect, vote.state), (Effect::Resolving, State::Running));
    let report = at.verifies().await;
    assert!(report.contains("1, 1 with the approver's own signature"), "{report}");
    assert!(report.contains("of 1 decisions it is proven that the holder of a registered key signed them"), "{report}");
    assert_eq!(report.matches("person key").count(), 3, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_algorithm_is_refused_in_its_own_words() {
    let at = demanding(|_| {}).await;
    let anna = at.world.person("anna", &["APPROVER"]);
    at.register(1, &anna).await.unwrap();
    let es256 = NewPersonKey { alg: -7, ..at.new_key(2, &anna) };
    let refused = at.register_as(&anna, &anna, es256).await.unwrap_err();
    assert_eq!(refused.code(), "signature-refused");
    assert!(refused.to_string().contains("algorithm -7"), "{refused}");
    let (_, gate) = at.gate().await;
    let shown = at.world.engine.gate(&anna, gate).await.unwrap().shown_digest;
    let key_id = assertion::key_id(&Bytes32(key(1).verifying_key().to_bytes()));
    let signed = Signed { assertion: Assertion { alg: -7, key_id, signature: vec![0; 64] }, delta_salt: None };
    let refused =
        at.send(&anna, gate, (DecisionKind::Approve, BTreeMap::new()), shown, Some(signed)).await.unwrap_err();
    assert!(refused.to_string().contains("algorithm -7"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_registered_by_its_person_alone_once_and_taken_back_for_good() {
    let at = demanding(|_| {}).await;
    let (anna, bert) = (at.world.person("anna", &["APPROVER"]), at.world.person("bert", &["APPROVER"]));
    let (admin, robot) = (&at.owner, &at.agent);
    // Not by another, an administrator among them, nor by a program, nor with a login that is for acting alone.
    assert_eq!(code(at.register_as(&bert, &anna, at.new_key(1, &anna)).await), "policy-denied");
    assert_eq!(code(at.register_as(admin, &anna, at.new_key(1, &anna)).await), "parameter-invalid");
    assert_eq!(code(at.register_as(robot, &anna, at.new_key(1, &anna)).await), "policy-denied");
    let acting = Arc::new(Principal { scopes: vec![Scope::Act], ..(*at.owner).clone() });
    assert_eq!(code(at.register(1, &acting).await), "scope-missing");
    // Not without holding it, and not somebody else's.
    let bent = NewPersonKey { key: Bytes32(key(2).verifying_key().to_bytes()), ..at.new_key(1, &anna) };
    assert_eq!(code(at.register_as(&anna, &anna, bent).await), "signature-refused");
    assert_eq!(code(at.register_as(&anna, &anna, at.new_key(1, &bert)).await), "signature-refused");
    at.register(1, &anna).await.unwrap();
    assert_eq!(code(at.register(1, &anna).await), "key-known");
    assert_eq!(code(at.register(1, &bert).await), "key-known");
    // Seen by its person and by who may list principals.
    assert_eq!(at.world.engine.person_keys(&anna, &anna.id).await.unwrap().keys.len(), 1);
    assert_eq!(at.world.engine.person_keys(admin, &anna.id).await.unwrap().keys.len(), 1);
    assert_eq!(code(at.world.engine.person_keys(robot, &anna.id).await), "not-found");
    // Taken back: by others only if policy lets them, and never again registered.
    let (instance, gate) = at.gate().await;
    assert_eq!(code(at.revoke(&bert, &anna, 1).await), "policy-denied");
    assert_eq!(code(at.revoke(&anna, &anna, 2).await), "parameter-invalid");
    assert!(at.revoke(admin, &anna, 1).await.unwrap().revoked.is_some());
    assert_eq!(code(at.revoke(&anna, &anna, 1).await), "parameter-invalid");
    assert_eq!(code(at.register(1, &anna).await), "key-known");
    assert_eq!(code(at.approve(&anna, gate, Some((1, AS_IT_IS))).await), "signature-refused");
    assert_eq!(at.decisions(instance).await, 0);
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_is_signed_with_its_change_and_a_rejection_may_be() {
    let at = demanding(|rule| rule["override_counts"] = true.into()).await;
    let anna = at.world.person("anna", &["APPROVER"]);
    at.register(1, &anna).await.unwrap();
    let (_, gate) = at.gate().await;
    let shown = at.world.engine.gate(&anna, gate).await.unwrap();
    let item = &shown.gate.items[0];
    let Deciding::Override(delta) = replace(item.item, "/branch", json!("next")) else { unreachable!() };
    let salt = [7; 32];
    let bytes = delta_bytes(serde_json::to_value(&delta).unwrap()).unwrap();
    let statement = Statement {
        origin: at.origin(),
        gate,
        kind: DecisionKind::Override,
        items: vec![(item.item, item.digest)],
        delta: Some(payload::salted(payload::DELTA, &Salt(salt), &bytes)),
        shown: Some(shown.shown_digest),
    };
    let signed = |salt: Option<[u8; 32]>| Signed { assertion: statement.sign(&key(1)), delta_salt: salt.map(Salt) };
    let send =
        |delta, salt| at.send(&anna, gate, (DecisionKind::Override, delta), shown.shown_digest, Some(signed(salt)));
    assert_eq!(code(send(delta.clone(), None).await), "signature-refused");
    assert_eq!(code(send(delta.clone(), Some([8; 32])).await), "signature-refused");
    let Deciding::Override(other) = replace(item.item, "/branch", json!("main2")) else { unreachable!() };
    assert_eq!(code(send(other, Some(salt)).await), "signature-refused");
    let vote = send(delta, Some(salt)).await.unwrap();
    assert!(matches!(vote.effect, Effect::Counted | Effect::Resolving), "{vote:?}");

    let (instance, gate) = at.gate().await;
    let shown = at.world.engine.gate(&anna, gate).await.unwrap().shown_digest;
    let statement = Statement {
        kind: DecisionKind::Reject,
        gate,
        items: Vec::new(),
        delta: None,
        shown: Some(shown),
        ..statement.clone()
    };
    let signed = Signed { assertion: statement.sign(&key(1)), delta_salt: None };
    at.send(&anna, gate, (DecisionKind::Reject, BTreeMap::new()), shown, Some(signed)).await.unwrap();
    assert_eq!(at.world.state(&anna, instance).await, State::Terminated);
    assert!(at.verifies().await.contains("2, 2 with the approver's own signature"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lift_is_held_to_the_signature_that_its_rule_demands() {
    let mut files = with_rule("merge", |rule| {
        rule["quorum"]["persons"] = 2.into();
        rule["demand"] = json!({ "assertion": true });
        rule["break_glass"] = json!({ "authority": { "roles": ["SECURITY"] }, "review_within_s": 3600 });
    });
    let glass = "\n@id(\"glass\")\npermit (principal is Countersign::Person, action == Countersign::Action::\"breakGlass\", \
                 resource is Countersign::Item)\nwhen { principal in Countersign::Role::\"SECURITY\" && resource.open };\n";
    files.get_mut("policies.cedar").unwrap().push_str(glass);
    let at = under(&files).await;
    let sara = at.world.person("sara", &["SECURITY"]);
    at.register(1, &sara).await.unwrap();
    let (instance, gate) = at.gate().await;
    let shown = at.world.engine.gate(&sara, gate).await.unwrap();
    let statement = LiftStatement {
        origin: at.origin(),
        gate,
        item: (shown.gate.items[0].item, shown.gate.items[0].digest),
        rule: name("merge"),
        shown: shown.shown_digest,
    };
    let lift = |assertion| {
        let request = LiftRequest {
            rule: name("merge"),
            item: None,
            justification: "production is down".to_owned(),
            shown_digest: shown.shown_digest,
            role: None,
            assertion,
        };
        at.world.engine.break_glass(Arc::clone(&sara), gate, request, None)
    };
    assert_eq!(code(lift(None).await), "signature-missing");
    let other = LiftStatement { rule: name("payment"), ..statement.clone() };
    assert_eq!(code(lift(Some(other.sign(&key(1)))).await), "signature-refused");
    assert_eq!(code(lift(Some(statement.sign(&key(2)))).await), "signature-refused");
    assert_eq!(at.world.state(&sara, instance).await, State::WaitingForHuman);
    let lifted = lift(Some(statement.sign(&key(1)))).await.unwrap();
    assert_eq!(lifted.answer.effect, Effect::Resolving);
    at.verifies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_that_signs_at_a_gate_is_said_not_to_approve_it() {
    let at = demanding(|_| {}).await;
    let (anna, bert) = (at.world.person("anna", &["APPROVER"]), at.world.person("bert", &["APPROVER"]));
    at.register(1, &anna).await.unwrap();
    let (_, gate) = at.gate().await;
    at.register(2, &bert).await.unwrap();
    let answer = at.world.engine.approvers(&at.owner, gate, None, 200).await.unwrap();
    let of = |who: &Principal| answer.persons.iter().find(|one| one.person == who.id).unwrap();
    assert!(of(&anna).may, "{answer:?}");
    assert!(!of(&bert).may, "{answer:?}");
    assert!(of(&bert).items[0].why_not[0].contains("demands their own signature"), "{answer:?}");
    assert!(answer.demands[0].contains("a signature by a key of the voter's own"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_without_a_signature_is_gone_once_its_rule_demands_one() {
    let two = |rule: &mut Value| rule["quorum"]["persons"] = 2.into();
    let at = under(&with_rule("merge", two)).await;
    let (anna, bert) = (at.world.person("anna", &["APPROVER"]), at.world.person("bert", &["APPROVER"]));
    at.register(1, &anna).await.unwrap();
    at.register(2, &bert).await.unwrap();
    let (instance, gate) = at.gate().await;
    assert_eq!(at.approve(&anna, gate, None).await.unwrap().effect, Effect::Counted);
    let files = with_rule("merge", |rule| {
        two(rule);
        rule["demand"] = json!({ "assertion": true });
    });
    at.world.policies.install(org(1), &files);
    let vote = at.approve(&bert, gate, Some((2, AS_IT_IS))).await.unwrap();
    assert_eq!((vote.effect, at.world.state(&bert, instance).await), (Effect::Counted, State::WaitingForHuman));
    let vote = at.approve(&anna, gate, Some((1, AS_IT_IS))).await.unwrap();
    assert_eq!(vote.effect, Effect::Resolving);
    at.verifies().await;
}

impl At {
    /// The keys of a person as memory has them, each with whether it was taken back; and how many entries the ledger holds.
    async fn keys_and_size(&self, who: &Principal) -> (Vec<(Digest, bool)>, u64) {
        let keys = self.world.engine.person_keys(who, &who.id).await.unwrap().keys;
        let size = self.world.engine.log_of(org(1)).unwrap().checkpoint().checkpoint().size;
        (keys.into_iter().map(|key| (key.id, key.revoked.is_some())).collect(), size)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_ledger_at_a_key_leaves_memory_and_ledger_the_same() {
    let faults = [
        (Fault::Full, "disk-full", true, false),
        (Fault::NotStored, "ledger-refusing", false, false),
        // Nobody knows, so the ledger stops, and the next start reads what became durable.
        (Fault::StoredAndLost, "outcome-unknown", false, true),
    ];
    for (fault, told, goes_on, stored) in faults {
        for takes_back in [false, true] {
            let case = format!("{fault:?}, taking back: {takes_back}");
            let mut at = demanding(|_| ()).await;
            let anna = at.world.person("anna", &["APPROVER"]);
            if takes_back {
                at.register(1, &anna).await.unwrap();
            }
            let before = at.keys_and_size(&anna).await;
            *at.world.faults.lock().unwrap() = Some(fault);
            let change = async |at: &At| {
                if takes_back { at.revoke(&anna, &anna, 1).await } else { at.register(1, &anna).await }
            };
            assert_eq!(code(change(&at).await), told, "{case}");
            assert!(at.world.faults.lock().unwrap().is_none(), "{case}: it went wrong where it should");
            assert_eq!(at.keys_and_size(&anna).await, before, "{case}: memory is not ahead of what was acknowledged");
            if !goes_on {
                assert_eq!(code(change(&at).await), "ledger-refusing", "{case}");
                at.world.restart().await;
                let id = assertion::key_id(&Bytes32(key(1).verifying_key().to_bytes()));
                let now = if stored { vec![(id, takes_back)] } else { before.0 };
                assert_eq!(at.keys_and_size(&anna).await.0, now, "{case}");
            }
            let again = change(&at).await;
            match (stored, takes_back) {
                (false, _) => assert_eq!(again.unwrap().revoked.is_some(), takes_back, "{case}"),
                (true, false) => assert_eq!(code(again), "key-known", "{case}"),
                (true, true) => assert_eq!(code(again), "parameter-invalid", "{case}"),
            }
            let pack = at.world.engine.pack(&at.owner, true).await.unwrap();
            let report = verify_evidence(&at.world.root_vkey(org(1)), &pack).unwrap();
            assert_eq!(report.verdict.as_str(), "VALID", "{case}: {:?}", report.problems);
        }
    }
}
