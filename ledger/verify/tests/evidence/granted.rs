//! What people gave in advance: counted and told, and refused where a forger makes more of it than stood at its gate.

use countersign_gateway_flow::AskGrant;
use countersign_gateway_model::{
    ActionId, Assurance, Decision as Answer, GrantId, InstanceId, PermitId, Pseudonym, Timestamp, Verdict as Said,
};
use countersign_ledger_entry::body::{DecisionKind, Permit, QuestionKind, Reservation, TaskGrant, TaskGrantUse};
use countersign_ledger_entry::{Body, Draft, PayloadRef, PayloadRole, payload};
use countersign_ledger_verify::{Grants, Verdict, verify};
use serde_json::{Value, json};

use crate::world::*;

fn votes(world: &mut World, instance: InstanceId) {
    world.vote(instance, DecisionKind::Approve, ALICE, Assurance::Password);
    world.vote(instance, DecisionKind::Approve, BOB, Assurance::Password);
}

/// A grant for two calls, given by two persons; one of them is used.
fn granted() -> (World, InstanceId, GrantId) {
    let mut world = World::booted();
    let instance = world.running();
    let grant = world.ask_grant(instance, 2);
    votes(&mut world, instance);
    world.call_on(instance, grant);
    (world, instance, grant)
}

fn allowed(body: impl Into<Body>, by: Pseudonym) -> Draft {
    Draft { verdict: Some(Said::allow()), ..Draft::new(body, by) }
}

/// A use and its permit, as a gateway would write them.
fn resting(grant: GrantId, used: u32) -> Vec<Draft> {
    let action = ActionId::from_bytes([0x77; 16]);
    let permit = Permit {
        permit: PermitId::from_bytes([0x78; 16]),
        action,
        item: None,
        question: QuestionKind::CallTool,
        tool: name("repo/write"),
        tool_version: digest(2),
        digest: digest(6),
        expires: Timestamp(9_000_000_000_000),
        mutable_target: false,
        reservations: Vec::new(),
        enforced: true,
    };
    vec![allowed(TaskGrantUse { grant, action, used }, AGENT), allowed(permit, AGENT)]
}

/// What a forger changes of a grant.
type Wider = (&'static str, fn(&mut TaskGrant));

/// The grant as it was given.
fn given(world: &World) -> TaskGrant {
    let all = world.leaves.iter().map(|leaf| countersign_ledger_entry::Entry::parse(leaf).unwrap().header.body);
    let mut grants = all.filter_map(|body| if let Body::TaskGrant(grant) = body { Some(grant) } else { None });
    grants.rfind(|grant| !grant.approvers.is_empty()).unwrap()
}

#[test]
fn grants_and_their_uses_are_counted_and_told() {
    let (mut world, instance, grant) = granted();
    world.call_on(instance, grant);
    world.revoke(instance, grant);
    let report = world.verify();
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    assert_eq!(
        report.facts.as_ref().unwrap().counts.grants,
        Grants { asked: 1, given: 1, used: 2, revoked: 1, terms: 0 }
    );
    let text = report.render();
    assert!(text.contains("asked 1, given 1, used 2 times, taken back 1"), "{text}");
    assert!(text.contains("each of 2 uses of what people gave in advance was counted"), "{text}");
    assert!(text.contains("that the inputs which rested on grants are within their terms"), "{text}");
    assert!(text.contains("that 1 grants are what people read: their terms are not here"), "{text}");
    assert!(!text.contains("the terms of"), "{text}");
    // A log without any says nothing of them.
    let (plain, _) = World::small();
    let report = plain.verify();
    assert!(!report.render().contains("grant"), "{}", report.render());
    let counts = &serde_json::to_value(&report).unwrap()["counts"];
    assert!(counts["kinds"].is_object() && counts.get("grants").is_none(), "{counts}");
}

#[test]
fn nobody_gets_more_out_of_a_grant_than_stood_at_its_gate() {
    type Forgery = fn(&mut World, InstanceId, GrantId);
    let forgeries: [(&str, Forgery, &str); 9] = [
        (
            "one use more than was given",
            |world, instance, grant| {
                world.call_on(instance, grant);
                world.append(World::stream(instance), resting(grant, 3), |_, _| {});
            },
            "the grant is used up",
        ),
        (
            "a use counted twice as one",
            |world, instance, grant| world.append(World::stream(instance), resting(grant, 1), |_, _| {}),
            "a use is not counted as the next one",
        ),
        (
            "a use after its time",
            |world, instance, grant| {
                world.at.0 += 60_001;
                world.append(World::stream(instance), resting(grant, 2), |_, _| {});
            },
            "the grant has expired",
        ),
        (
            "a use of what was taken back",
            |world, instance, grant| {
                world.revoke(instance, grant);
                world.append(World::stream(instance), resting(grant, 2), |_, _| {});
            },
            "the grant was taken back",
        ),
        (
            "a use for another tool",
            |world, instance, grant| {
                let mut drafts = resting(grant, 2);
                if let Body::Permit(permit) = &mut drafts[1].body {
                    permit.tool = name("repo/delete");
                }
                world.append(World::stream(instance), drafts, |_, _| {});
            },
            "the grant is not for this tool",
        ),
        (
            "a use of what nobody gave",
            |world, instance, _| {
                world.append(World::stream(instance), resting(GrantId::from_bytes([5; 16]), 1), |_, _| {});
            },
            "it rests on a grant that nobody gave",
        ),
        (
            "a use without a permit",
            |world, instance, grant| {
                let drafts = resting(grant, 2).into_iter().take(1).collect();
                world.append(World::stream(instance), drafts, |_, _| {});
            },
            "no permit rests on a grant's use",
        ),
        (
            "a grant that came through no gate",
            |world, instance, _| {
                let grant = TaskGrant { grant: GrantId::from_bytes([6; 16]), ..given(world) };
                world.append(World::stream(instance), vec![Draft::new(grant, AGENT)], |_, _| {});
            },
            "what is asked for is neither given nor taken back",
        ),
        (
            "a grant taken back by somebody whose it is not, without policy's yes",
            |world, instance, _| {
                let grant = TaskGrant { revoked: true, ..given(world) };
                let said = Said { decision: Answer::Deny, rules: Vec::new(), error: false };
                let draft = Draft { verdict: Some(said), ..Draft::new(grant, who(99)) };
                world.append(World::stream(instance), vec![draft], |_, _| {});
            },
            "neither its giver nor policy takes it back",
        ),
    ];
    for (what, forge, why) in forgeries {
        let (mut world, instance, grant) = granted();
        assert_eq!(world.verify().verdict, Verdict::Valid, "{what}");
        forge(&mut world, instance, grant);
        let report = world.verify();
        assert_eq!(report.verdict, Verdict::Invalid, "{what}");
        assert!(report.problems[0].detail.contains(why), "{what}: {:?}", report.problems);
    }
}

#[test]
fn what_is_given_is_what_was_asked_for_by_the_quorum_of_its_rule() {
    let wider: [Wider; 5] = [
        ("more uses", |grant| grant.count = 9),
        ("more tools", |grant| grant.tools.push(name("repo/x"))),
        ("other terms", |grant| grant.scope = digest(8)),
        ("more time", |grant| grant.until.0 += 1),
        ("fewer people", |grant| {
            grant.approvers.pop();
        }),
    ];
    for (what, change) in wider {
        let mut world = World::booted();
        let instance = world.running();
        world.ask_grant(instance, 2);
        world.vote(instance, DecisionKind::Approve, ALICE, Assurance::Password);
        let mut forged = world.clone();
        world.vote(instance, DecisionKind::Approve, BOB, Assurance::Password);
        // The last append again, with another grant at its end.
        let drafts = world.leaves[forged.leaves.len()..].iter().map(|leaf| {
            let header = countersign_ledger_entry::Entry::parse(leaf).unwrap().header;
            let mut draft = Draft {
                body: header.body,
                verdict: header.verdict,
                determining: header.determining,
                actor: header.actor,
                on_behalf_of: header.on_behalf_of,
                payloads: header.payloads,
                fields: header.fields,
            };
            if let Body::TaskGrant(grant) = &mut draft.body {
                change(grant);
            }
            draft
        });
        let drafts: Vec<Draft> = drafts.collect();
        forged.payloads.clone_from(&world.payloads);
        forged.append(World::stream(instance), drafts, |_, _| {});
        let report = forged.verify();
        assert_eq!(report.verdict, Verdict::Invalid, "{what}");
        assert!(report.problems[0].detail.contains("it is not what was approved"), "{what}: {:?}", report.problems);
    }
}

/// A budget as an entry says it.
fn budget(amount: u64) -> Reservation {
    Reservation { counter: name("spent"), version: 0, amount }
}

/// A log in which two persons gave a grant that was asked for like this.
fn given_after(change: fn(&mut Value, &mut AskGrant)) -> World {
    let mut world = World::booted();
    let instance = world.running();
    world.ask_grant_with(instance, 2, change);
    votes(&mut world, instance);
    world
}

#[test]
fn terms_that_are_disclosed_are_those_that_are_counted() {
    let sound: [fn(&mut Value, &mut AskGrant); 3] = [
        |_, _| {},
        |terms, ask| {
            terms["budget"] = json!({ "counter": "spent", "amount": "500.5" });
            ask.budget = Some(budget(5_005_000));
        },
        |terms, ask| {
            terms["budget"] = json!({ "counter": "spent", "amount": "0.0001" });
            ask.budget = Some(budget(1));
        },
    ];
    for change in sound {
        let world = given_after(change);
        let report = verify(&world.vkey(), &world.open_pack(), None);
        assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
        assert_eq!(report.facts.as_ref().unwrap().counts.grants.terms, 1);
        let text = report.render();
        assert!(text.contains("the terms of 1 grants name the rule"), "{text}");
        assert!(text.contains("that people read the terms of 1 grants: no view is compared with terms"), "{text}");
        assert!(!text.contains("their terms are not here"), "{text}");
    }
}

#[test]
fn whoever_is_shown_other_terms_than_are_counted_has_approved_nothing() {
    type Apart = (&'static str, fn(&mut Value, &mut AskGrant), &'static str);
    let apart: [Apart; 12] = [
        ("fewer uses read", |terms, _| terms["uses"] = 1.into(), "another number of uses"),
        ("more uses counted", |_, ask| ask.count = 9, "another number of uses"),
        ("another rule read", |terms, _| terms["rule"] = "one-eye".into(), "another rule"),
        ("fewer tools read", |_, ask| ask.tools.push(name("repo/x")), "other tools"),
        ("another tool read", |terms, _| terms["tools"] = json!({ "repo/read": {} }), "other tools"),
        ("less time read", |terms, _| terms["for_s"] = 59.into(), "another time"),
        ("more time counted", |_, ask| ask.lasts.0 += 1, "another time"),
        (
            "a budget read and none counted",
            |terms, _| terms["budget"] = json!({ "counter": "spent", "amount": "1.0" }),
            "another budget",
        ),
        ("a budget counted and none read", |_, ask| ask.budget = Some(budget(10_000)), "another budget"),
        (
            "a larger budget counted",
            |terms, ask| {
                terms["budget"] = json!({ "counter": "spent", "amount": "500.5" });
                ask.budget = Some(budget(5_005_001));
            },
            "another budget",
        ),
        ("what nobody can read", |terms, _| terms["and"] = "more".into(), "cannot be read"),
        ("terms of another digest", |_, ask| ask.scope = digest(8), "not those that its digest is of"),
    ];
    for (what, change, why) in apart {
        let world = given_after(change);
        // Who was given no terms can only count.
        assert_eq!(world.verify().verdict, Verdict::Valid, "{what}");
        let report = verify(&world.vkey(), &world.open_pack(), None);
        assert_eq!(report.verdict, Verdict::Invalid, "{what}");
        assert!(report.problems[0].detail.contains(why), "{what}: {:?}", report.problems);
    }
}

/// A payload that is no terms, as an entry names it, and its bytes.
fn decoy() -> (PayloadRef, Vec<u8>) {
    let bytes = payload::seal(&payload::Salt([7; 32]), b"what it is good for");
    let length = u32::try_from(bytes.len()).unwrap();
    (PayloadRef { role: PayloadRole::Description, digest: payload::digest(&bytes), length }, bytes)
}

/// A log whose grant names its terms under this role, beside what else the change names; the decoy's bytes are there.
pub(crate) fn given_as(role: PayloadRole, change: fn(&mut Value, &mut AskGrant)) -> World {
    let mut world = World::booted();
    let instance = world.running();
    world.ask_grant_as(instance, 2, role, change);
    votes(&mut world, instance);
    let (named, bytes) = decoy();
    if asking(&world).contains(&named) {
        world.payloads.insert(named.digest.to_string(), bytes);
    }
    world
}

/// The payloads of the entry that asks.
fn asking(world: &World) -> Vec<PayloadRef> {
    let mut all = world.leaves.iter().map(|leaf| countersign_ledger_entry::Entry::parse(leaf).unwrap().header);
    all.find(|header| matches!(header.body, Body::TaskGrant(_))).unwrap().payloads
}

/// The same log with its terms kept back.
fn without_terms(mut world: World) -> World {
    let (decoy, _) = decoy();
    for named in asking(&world).iter().filter(|named| **named != decoy) {
        world.payloads.remove(&named.digest.to_string()).unwrap();
    }
    world
}

#[test]
fn terms_are_compared_under_whatever_role_they_are_named() {
    let beside: [fn(&mut Value, &mut AskGrant); 2] = [|_, _| {}, |_, ask| ask.payloads.push(decoy().0)];
    let apart: [fn(&mut Value, &mut AskGrant); 2] = [
        |terms, _| terms["uses"] = 1.into(),
        |terms, ask| {
            terms["uses"] = 1.into();
            ask.payloads.push(decoy().0);
        },
    ];
    for role in [PayloadRole::Description, PayloadRole::Question, PayloadRole::Job] {
        for sound in beside {
            let world = given_as(role, sound);
            let report = verify(&world.vkey(), &world.open_pack(), None);
            assert_eq!(report.verdict, Verdict::Valid, "{role:?}: {:?}", report.problems);
            assert_eq!(report.facts.unwrap().counts.grants.terms, 1, "{role:?}");
        }
        for forged in apart {
            let world = given_as(role, forged);
            let report = verify(&world.vkey(), &world.open_pack(), None);
            assert_eq!(report.verdict, Verdict::Invalid, "{role:?}");
            assert!(report.problems[0].detail.contains("another number of uses"), "{role:?}: {:?}", report.problems);
        }
    }
}

#[test]
fn terms_that_are_kept_back_are_told_and_those_that_are_nowhere_are_refused() {
    // One description is here and is no terms; the other one may be.
    let world = without_terms(given_as(PayloadRole::Description, |_, ask| ask.payloads.push(decoy().0)));
    let report = verify(&world.vkey(), &world.open_pack(), None);
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    assert_eq!(report.facts.as_ref().unwrap().counts.grants.terms, 0);
    let line = "that 1 grants are what people read: their terms are not here, and no view is compared with terms";
    assert!(report.not_proven.iter().any(|said| said == line), "{:?}", report.not_proven);
    assert!(!report.proven.iter().any(|said| said.contains("the terms of")), "{:?}", report.proven);
    // What is here is all that is described, or all that is named.
    let forgeries: [fn(&mut Value, &mut AskGrant); 2] =
        [|_, ask| ask.payloads.push(decoy().0), |_, ask| ask.scope = digest(8)];
    for change in forgeries {
        let mut world = given_as(PayloadRole::Question, change);
        if asking(&world).len() > 1 {
            world = without_terms(world);
        }
        let report = verify(&world.vkey(), &world.open_pack(), None);
        assert_eq!(report.verdict, Verdict::Invalid);
        assert!(report.problems[0].detail.contains("not those that its digest is of"), "{:?}", report.problems);
    }
}
