//! What holds for a whole organization follows from its log: whoever edits the tables of a stopped gateway changes none of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_gateway_engine::{EngineError, EntityKind, EntityRef, NewPersonKey, Recording, Semantic};
use countersign_gateway_model::{Digest, InstanceId, Principal, PrincipalKind, Scope};
use countersign_ledger_entry::{Bytes32, assertion};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use crate::evaluations::{asks, enforcement_point};
use crate::world::{World, name, org};

/// Every row but those of workflows, whose content the log knows the digest of alone.
const WITHOUT_ROWS: &str = "DELETE FROM view WHERE name NOT IN (SELECT number FROM view_name WHERE name = 'workflows')";

struct At {
    world: World,
    ada: Arc<Principal>,
    agent: Arc<Principal>,
    instance: InstanceId,
}

/// All that can hold for an organization, set.
async fn restrained() -> At {
    let world = World::new().await;
    let ada = world.person("ada", &["ADMIN", "POLICY_ADMIN", "STOP", "AUDITOR", "OPERATOR", "SECURITY"]);
    world.person("grace", &["POLICY_ADMIN"]);
    let agent = world.agent("robot", &ada);
    world.workflow(&ada, "fix").await;
    let instance = world.instance(&ada, "fix", &agent).await.instance.id;
    let engine = &world.engine;
    engine.set_public_read(Arc::clone(&ada), true, None).await.unwrap();
    engine.set_evaluations_record(Arc::clone(&ada), Recording::Denials, None).await.unwrap();
    engine.set_shadow_window(Arc::clone(&ada), 7_200, None).await.unwrap();
    engine.raise_authority(Arc::clone(&ada), None).await.unwrap();
    // Shorter than before: it counts once the one before it has passed.
    engine.set_shadow_window(Arc::clone(&ada), 60, None).await.unwrap();
    let key = SigningKey::from_bytes(&[7; 32]);
    let origin = engine.log_of(org(1)).unwrap().trusted().origin().to_owned();
    let new = NewPersonKey {
        alg: assertion::EDDSA,
        key: Bytes32(key.verifying_key().to_bytes()),
        possession: assertion::possess(&key, &origin, ada.pseudonym),
    };
    let whose = (ada.id.clone(), EntityRef::new(org(1), EntityKind::Person, ada.id.clone()));
    engine.register_person_key(Arc::clone(&ada), whose, new).await.unwrap();
    engine.record_recovery(org(1), Digest([6; 32]), Vec::new()).await.unwrap();
    engine.freeze(Arc::clone(&ada), Some(name("payments")), false, None).await.unwrap();
    engine.freeze(Arc::clone(&ada), None, false, None).await.unwrap();
    At { world, ada, agent, instance }
}

/// All of it, as it can be read.
async fn holds(At { world, ada, .. }: &At) -> (Vec<(String, Value)>, String, Vec<Digest>) {
    let keys = world.engine.person_keys(ada, &ada.id).await.unwrap();
    let settings = world.engine.settings(ada).unwrap();
    (settings, format!("{:?}", keys.keys), world.engine.open_recoveries(org(1)).unwrap())
}

async fn propose(at: &At) -> Result<(), EngineError> {
    at.world.propose(&at.agent, at.instance, &[("notes.append", json!({ "text": "x" }))]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_for_an_organization_follows_from_its_log_whatever_its_tables_say() {
    let mut at = restrained().await;
    let before = holds(&at).await;
    let said = |name: &str| before.0.iter().find(|(setting, _)| setting == name).unwrap().1.clone();
    assert_eq!(said("authority"), "four_eyes");
    assert_eq!(said("frozen"), json!({ "all": true, "teams": ["payments"] }));
    assert_eq!((said("log.public_read"), said("evaluations.record")), (json!(true), json!("denials")));
    assert_eq!(said("policy.shadow_window_s"), 7_200, "the longer one counts until it has passed");
    assert_eq!(before.2, [Digest([6; 32])]);
    assert_eq!(propose(&at).await.unwrap_err().code(), "frozen");

    at.world.restart().await;
    assert_eq!(holds(&at).await, before, "a restart changes nothing");
    at.world.restart_after(WITHOUT_ROWS).await.unwrap();
    assert_eq!(holds(&at).await, before, "an editor changes nothing");
    let log = at.world.engine.log_of(org(1)).unwrap();
    at.world.engine.log_checkpoint(None, log.id()).unwrap();

    // It goes on from there: the same key again is the same key, and who may lifts the freeze.
    assert_eq!(propose(&at).await.unwrap_err().code(), "frozen");
    at.world.engine.freeze(Arc::clone(&at.ada), None, true, None).await.unwrap();
    let scopes = vec![Scope::Act, Scope::Decide];
    let ada = Arc::new(Principal { scopes, ..Principal::clone(&at.ada) });
    at.world.engine.close_recovery(ada, None).await.unwrap();
    at.world.restart().await;
    let after = holds(&at).await;
    assert_eq!(after.1, before.1);
    assert!(after.2.is_empty());
    assert!(after.0.contains(&("frozen".to_owned(), json!({ "all": false, "teams": ["payments"] }))), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_of_which_the_table_says_another_thing_than_the_log_is_not_opened() {
    let other = "UPDATE view SET columns = CAST(replace(CAST(columns AS TEXT), '\"materiality\":1', '\"materiality\":0') AS BLOB)";
    for edit in [other, "DELETE FROM view"] {
        let mut world = World::new().await;
        let ada = world.person("ada", &["ADMIN"]);
        world.workflow(&ada, "fix").await;
        let workflows = "name IN (SELECT number FROM view_name WHERE name = 'workflows')";
        let refused = world.restart_after(&format!("{edit} WHERE {workflows}")).await.unwrap_err();
        assert_eq!(refused.code(), "ledger-damaged", "{edit}");
        let cause = std::error::Error::source(&refused).unwrap().to_string();
        assert!(cause.contains("workflow `fix`"), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_reads_what_came_after_the_fold_that_the_log_key_signed() {
    let mut world = World::new().await;
    let ada = world.person("ada", &["ADMIN", "STOP", "AUDITOR", "SECURITY"]);
    world.agent("fixer", &ada);
    let proxy = enforcement_point(&world, &ada, &["evaluate"]);
    world.engine.freeze(Arc::clone(&ada), None, false, None).await.unwrap();
    for _ in 0..66 {
        let ask = || asks(PrincipalKind::Agent, "fixer", "notes.append", &json!({ "text": "a" }));
        let asked = std::iter::repeat_with(ask).take(64).collect();
        world.engine.evaluate(Arc::clone(&proxy), asked, Semantic::ExecuteAll).await.unwrap();
    }
    let frozen = |world: &World| world.engine.settings(&ada).unwrap().contains(&FROZEN.clone());
    let read_by = |world: &World| world.read.swap(0, Ordering::Relaxed);
    read_by(&world);
    world.restart().await;
    let read = read_by(&world);
    assert!((1..1_000).contains(&read), "{read} of more than 4,000 entries were read");
    assert!(frozen(&world), "what was signed holds");

    // Nobody else's word is taken for it, and the stream itself still says what holds.
    let forged = r#"UPDATE view SET columns = CAST(replace(CAST(columns AS TEXT), 'all\":true', 'all\":false') AS BLOB)
        WHERE name = (SELECT number FROM view_name WHERE name = 'own_fold')"#;
    world.restart_after(forged).await.unwrap();
    assert!(read_by(&world) > 4_000);
    assert!(frozen(&world), "a fold that nobody signed was believed");

    // The next append keeps it again.
    world.engine.set_public_read(Arc::clone(&ada), true, None).await.unwrap();
    world.restart().await;
    assert!(read_by(&world) < 1_000);
    assert!(frozen(&world));
}

/// How the settings say that everything is frozen.
static FROZEN: std::sync::LazyLock<(String, Value)> =
    std::sync::LazyLock::new(|| ("frozen".to_owned(), json!({ "all": true, "teams": [] })));
