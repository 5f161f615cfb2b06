//! Authority follows from the leaves alone: it is the same with every payload there and with every payload erased.

use std::sync::Arc;

use countersign_gateway_engine::{
    ActionResult, Effect, GateQuery, InstanceQuery, OutcomeReport, Proposed, verify_evidence,
};
use countersign_gateway_model::{ActionId, Digest, GateId, InstanceId, Outcome, Principal, State};
use serde_json::json;

use crate::bench::with_rule;
use crate::runner::Asked;
use crate::world::{Deciding, World, name, org, read, replace};

/// A life in the middle: votes counted, permits waiting, work begun by an agent and by a runner, a team frozen.
struct Life {
    world: World,
    owner: Arc<Principal>,
    agent: Arc<Principal>,
    gates: [(InstanceId, GateId); 3],
    working: InstanceId,
    permitted: ActionId,
    begun: ActionId,
    dispatched: ActionId,
}

fn only(proposed: &Proposed) -> ActionId {
    proposed.items[0].action
}

async fn life() -> Life {
    let world = World::under(&with_rule("merge", |rule| rule["quorum"]["persons"] = 2.into())).await;
    let owner = world.person("olga", &["OPERATOR", "ADMIN", "STOP", "AUDITOR"]);
    let anna = world.person("anna", &["APPROVER"]);
    let agent = world.agent("robot", &owner);
    world.workflow(&owner, "fix").await;
    let mut gates = Vec::new();
    for _ in 0..3 {
        let instance = world.instance(&owner, "fix", &agent).await.instance.id;
        let merge = ("repo.merge", json!({ "branch": "main", "message": "m" }));
        let gate = world.propose(&agent, instance, &[merge]).await.unwrap().gate.unwrap();
        let vote = world.decide(&anna, gate, Deciding::Approve).await.unwrap();
        assert_eq!((vote.effect, vote.remaining[0].counted), (Effect::Counted, 1));
        gates.push((instance, gate));
    }
    let working = world.instance(&owner, "fix", &agent).await.instance.id;
    let note = |text: &str| [("notes.append", json!({ "text": text }))];
    let permitted = only(&world.propose(&agent, working, &note("later")).await.unwrap());
    let begun = only(&world.propose(&agent, working, &note("now")).await.unwrap());
    world.engine.begin(Arc::clone(&agent), begun, None).await.unwrap();
    let dispatched = only(&world.propose(&agent, working, &[read("README.md")]).await.unwrap());
    world.engine.freeze(Arc::clone(&owner), Some(name("payments")), false, None).await.unwrap();
    Life { world, owner, agent, gates: gates.try_into().unwrap(), working, permitted, begun, dispatched }
}

impl Life {
    /// Whatever says what may be done, as it can be read.
    async fn authority(&self) -> Vec<String> {
        let (engine, owner) = (&self.world.engine, &self.owner);
        let mut said = Vec::new();
        let instances: Vec<InstanceId> = self.gates.iter().map(|(id, _)| *id).chain([self.working]).collect();
        for id in instances {
            said.push(format!("{:?}", engine.instance(owner, id).await.unwrap()));
        }
        let all = InstanceQuery { limit: 200, ..InstanceQuery::default() };
        said.push(format!("{:?}", engine.instances(owner, all).await.unwrap().items));
        let open = GateQuery { limit: 200, ..GateQuery::default() };
        said.push(format!("{:?}", engine.gates(owner, open).await.unwrap().items));
        for (_, gate) in self.gates {
            // Items, rules, votes, what is missing; not the view, which is text.
            said.push(format!("{:?}", engine.gate(owner, gate).await.unwrap().gate));
        }
        for action in [self.permitted, self.begun, self.dispatched] {
            said.push(engine.action(owner, action).await.unwrap().status);
        }
        said.push(format!("{:?}", engine.settings(owner).unwrap()));
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authority_is_the_same_with_all_payloads_and_with_all_erased() {
    let mut at = life().await;
    let before = at.authority().await;
    at.world.restart().await;
    let with_all = at.authority().await;
    assert_eq!(with_all, before);
    at.world.restart_after("DELETE FROM payload").await.unwrap();
    let erased = at.authority().await;
    assert_eq!(erased, with_all);

    // And it goes on from there. What nobody can be shown is not approved, and a vote is not lost by it.
    let bert = at.world.person("bert", &["APPROVER"]);
    let [(first, at_first), (second, at_second), (third, _)] = at.gates;
    let detail = at.world.engine.gate(&bert, at_first).await.unwrap();
    assert!(detail.view.contains("erased") && detail.salt.is_none(), "{}", detail.view);
    let item = detail.gate.items[0].item;
    for decision in [Deciding::Approve, replace(item, "/branch", json!("next"))] {
        let refused = at.world.decide(&bert, at_first, decision.clone()).await.unwrap_err();
        assert_eq!(refused.code(), "view-stale", "{decision:?}");
    }
    assert_eq!(at.authority().await, erased, "a refusal changes nothing");
    // Stopping never fails closed: whether by a person at the gate, with what they were shown or without, or from outside.
    let rejected = at.world.decide(&bert, at_first, Deciding::Reject).await.unwrap();
    assert_eq!((rejected.effect, rejected.state), (Effect::Resolving, State::Terminated));
    assert_eq!(at.world.state(&at.owner, first).await, State::Terminated);
    let rejected = at.world.decide_shown(&bert, at_second, Deciding::Reject, Digest([9; 32]));
    assert_eq!(rejected.await.unwrap().state, State::Terminated);
    assert_eq!(at.world.state(&at.owner, second).await, State::Terminated);
    at.world.engine.terminate(Arc::clone(&at.owner), third, None).await.unwrap();

    // Nobody can tell any more what a permit is for, so it is not begun; a start is still good for one outcome.
    let refused = at.world.engine.begin(Arc::clone(&at.agent), at.permitted, None).await.unwrap_err();
    assert_eq!(refused.code(), "not-found", "{refused}");
    let report = OutcomeReport { outcome: Outcome::Succeeded, output: None };
    at.world.engine.report(Arc::clone(&at.agent), at.begun, report, None).await.unwrap();
    // A job that was erased is not guessed: its start is closed, and nobody gets an order.
    at.world.engine.adopt().await.unwrap();
    at.world.until_status(&at.owner, at.dispatched, "unknown").await;
    assert!(!at.world.runner.asked().iter().any(|asked| matches!(asked, Asked::Order(_))));
    // New work is judged as ever.
    let again = [("notes.append", json!({ "text": "y" }))];
    let proposed = at.world.propose(&at.agent, at.working, &again).await.unwrap();
    assert!(matches!(proposed.items[0].result, ActionResult::Permitted { .. }), "{proposed:?}");
    at.world.engine.complete(Arc::clone(&at.owner), at.working, None).await.unwrap();

    let pack = at.world.engine.pack(&at.owner, true).await.unwrap();
    let report = verify_evidence(&at.world.root_vkey(org(1)), &pack).unwrap();
    assert_eq!(report.verdict.as_str(), "VALID", "{:?}", report.problems);
}
