//! Stored bytes give the same verdict again, and canonical forms do not depend on how they came to be.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use std::sync::Arc;

use countersign_gateway_model::{Assurance, Decision, OrgId, State};
use countersign_policy_decide::{EntityVersion, Question, Record, ReplayError, decide, replay};
use proptest::prelude::*;
use world::{NOW, PERMIT, agent, call, entity, gate, instance, name, org, parts, read, snapshot, world};

fn full(snapshot: &countersign_policy_decide::PolicySnapshot) -> Question {
    let mut q = call(snapshot, "pay.refund", r#"{"amount":12.5,"currency":"\u00e9\"\\ \u0001"}"#);
    q.satisfied = [name("a")].into();
    q.overridden = [name("a")].into();
    q.granted = [name("b")].into();
    q.facts = [name("secret-in-content")].into();
    q.claims = ["ticket=\"1\"".to_owned(), "é=2".to_owned()].into();
    q.scopes = ["act", "decide"].into();
    q.assurance = Assurance::Mfa;
    q.authenticated_at = Some(NOW);
    (q.asserted, q.delegated, q.as_delegator, q.four_eyes) = (true, true, true, true);
    q.denials = 3;
    q.revision = Some("sha256:00".to_owned());
    q.standing_in_for = Some(entity("Person::ida"));
    q.role = Some(name("APPROVER"));
    q
}

#[test]
fn a_question_round_trips_through_its_canonical_form() {
    let s = snapshot(PERMIT);
    for question in [read(&s), full(&s)] {
        let bytes = question.canonical();
        assert_eq!(countersign_policy_decide::json::Json::parse(&bytes).unwrap().canonical(), bytes, "rfc 8785");
        let again = Question::parse(&bytes, &s).unwrap();
        assert_eq!(again.canonical(), bytes);
        assert_eq!(format!("{again:?}"), format!("{question:?}"));
    }
    let size = read(&s).canonical().len();
    assert!(size < 420, "a plain question stays small: {size} bytes");
}

#[test]
fn a_stored_verdict_is_computed_again_from_its_bytes_alone() {
    for policies in [
        PERMIT.to_owned(),
        format!("{PERMIT}{}", gate("g", "b", "")),
        format!(
            "{PERMIT}@id(\"o\") forbid (principal is Countersign::Agent, action, resource) when {{ principal.owner in Countersign::Team::\"{}/outer\" }};",
            org()
        ),
        String::new(),
    ] {
        let s = snapshot(&policies);
        let store = world();
        for question in [read(&s), full(&s)] {
            let slice = store.slice(&s, &question);
            let answer = decide(&s, &slice, &question);
            let blobs: Vec<Arc<[u8]>> = slice.members().iter().map(|m| Arc::clone(m.blob())).collect();
            let blobs: Vec<&[u8]> = blobs.iter().map(|b| &**b).collect();
            // Another process: everything is built again.
            let fresh = snapshot(&policies);
            assert_eq!(fresh.digests(), s.digests());
            assert_eq!(replay(&fresh, &question.canonical(), &blobs).unwrap(), answer, "{policies}");
        }
    }
}

#[test]
fn a_replay_that_lacks_bytes_says_so_and_never_allows() {
    let s = snapshot(PERMIT);
    let question = read(&s);
    let answer = replay(&s, &question.canonical(), &[]).unwrap();
    assert_eq!(answer.decision(), countersign_gateway_model::Decision::Deny);
    assert!(matches!(replay(&s, b"{}", &[]), Err(ReplayError::Question(_))));
    assert!(matches!(replay(&s, &question.canonical(), &[b"{}"]), Err(ReplayError::Entity(_))));
    let mut changed = parts(PERMIT);
    changed.catalogue.as_mut().unwrap().tools.iter_mut().for_each(|t| t.description = "other".to_owned());
    let other = countersign_policy_decide::PolicySnapshot::build(changed).unwrap();
    assert!(
        matches!(replay(&other, &question.canonical(), &[]), Err(ReplayError::Question(_))),
        "another tool version"
    );
}

#[test]
fn what_was_denied_for_an_unknown_ancestor_is_denied_from_its_bytes_too() {
    let s = snapshot(PERMIT);
    let question = read(&s);
    for gone in ["Team::inner", "Team::middle", "Team::outer"] {
        let store = world();
        store.forget(&entity(gone));
        let slice = store.slice(&s, &question);
        let answer = decide(&s, &slice, &question);
        let blobs: Vec<&[u8]> = slice.members().iter().map(|m| &**m.blob()).collect();
        let again = replay(&s, &question.canonical(), &blobs).unwrap();
        assert_eq!(answer.decision(), Decision::Deny, "{gone}");
        assert_eq!((&again.verdict, &again.determining), (&answer.verdict, &answer.determining), "{gone}");
    }
}

#[test]
fn entity_versions_repeat_and_read_back_as_themselves() {
    let (a, b) = (world(), world());
    for id in ["Agent::coder", "Person::olga", "Instance::i1", "Workflow::fix", "Team::inner"] {
        let version = a.get(&entity(id)).unwrap();
        assert_eq!(version.digest(), b.get(&entity(id)).unwrap().digest(), "{id}");
        let again = EntityVersion::from_blob(org(), version.blob()).unwrap();
        assert_eq!((again.digest(), again.blob()), (version.digest(), version.blob()), "{id}");
        assert!(
            EntityVersion::from_blob(OrgId::from_bytes([9; 16]), version.blob()).is_err(),
            "{id} of another organization"
        );
    }
    let before = a.get(&entity("Instance::i1")).unwrap().digest();
    a.put(Record::instance(org(), name("i1"), instance(State::WaitingForHuman), NOW)).unwrap();
    assert_ne!(a.get(&entity("Instance::i1")).unwrap().digest(), before);
    a.put(Record::instance(org(), name("i1"), instance(State::Running), NOW)).unwrap();
    assert_eq!(a.get(&entity("Instance::i1")).unwrap().digest(), before, "the same facts are the same version");
}

#[test]
fn a_snapshot_does_not_depend_on_the_order_of_its_parts() {
    let one = snapshot(&format!("{PERMIT}{}", gate("g", "a", "")));
    let mut reversed = parts(&format!("{}{PERMIT}", gate("g", "a", "")));
    reversed.catalogue.as_mut().unwrap().tools.reverse();
    let two = countersign_policy_decide::PolicySnapshot::build(reversed).unwrap();
    assert_eq!(one.schema_text(), two.schema_text());
    assert_eq!(one.digests(), two.digests());
    let question = read(&one);
    let store = world();
    assert_eq!(
        decide(&one, &store.slice(&one, &question), &question),
        decide(&two, &store.slice(&two, &question), &question)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_in_a_question_round_trips(claims in prop::collection::btree_set(".{0,20}", 0..4), revision in ".{0,20}", denials in 0_u64..1_000_000) {
        use std::sync::OnceLock;
        static SNAPSHOT: OnceLock<countersign_policy_decide::PolicySnapshot> = OnceLock::new();
        let s = SNAPSHOT.get_or_init(|| snapshot(PERMIT));
        let mut question = read(s);
        question.claims = claims;
        question.revision = Some(revision);
        question.denials = denials;
        let bytes = question.canonical();
        prop_assert_eq!(countersign_policy_decide::json::Json::parse(&bytes).unwrap().canonical(), bytes.clone());
        prop_assert_eq!(Question::parse(&bytes, s).unwrap().canonical(), bytes);
    }

    #[test]
    fn any_agent_facts_round_trip(autonomy in 0_u8..5, active in any::<bool>(), scopes in prop::collection::vec("[a-z:]{1,8}", 0..5)) {
        let mut facts = agent();
        (facts.autonomy, facts.active) = (autonomy, active);
        facts.scopes = scopes.iter().map(|s| name(s)).collect();
        let version = world().put(Record::agent(org(), name("x"), facts, NOW)).unwrap();
        prop_assert_eq!(EntityVersion::from_blob(org(), version.blob()).unwrap().digest(), version.digest());
    }
}
