//! A budget in a bundle's `counters.json` holds from its activation on, over a killed gateway, and in the evidence.

use countersign_tests_testkit::Gateway;
use serde_json::{Value, json};

use crate::first_hour::activate_edited;

const OVER: &str = r#"
@id("over-budget")
@title("No more notes than the budget has")
@agent_message("the budget of notes is used up")
forbid (principal, action in Countersign::Action::"callTool", resource)
when { context.facts.contains("over:notes") };
"#;

fn with_a_budget_of_two_notes(folder: &std::path::Path) {
    let policies = folder.join("policies.cedar");
    let text = std::fs::read_to_string(&policies).unwrap();
    std::fs::write(&policies, format!("{text}{OVER}")).unwrap();
    let reserve = json!([{ "tools": ["notes.append"], "amount": { "fixed": "1.0" } }]);
    let counters = json!({ "counters": { "notes": { "limit": "2.0", "reserve": reserve } } });
    std::fs::write(folder.join("counters.json"), counters.to_string()).unwrap();
}

#[test]
fn a_budget_holds_from_its_activation_on_and_over_a_killed_gateway() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let note = |gateway: &Gateway| {
        let instance = gateway.instance(&dana, "repair", "fixer");
        gateway.propose(&agent, &instance, "notes.append", &json!({ "text": "x" }))
    };
    // What was permitted before there was a budget took nothing from it.
    note(&gateway).expect_status(200);
    activate_edited(&gateway, &dana, with_a_budget_of_two_notes);
    note(&gateway).expect_status(200);
    note(&gateway).expect_status(200);
    gateway.kill();
    gateway.up();
    let standing = gateway.get("/api/v1/counters", &dana).expect_status(200).json();
    let epoch = "1970-01-01T00:00:00.000Z";
    assert_eq!(standing, json!({ "counters": [{ "counter": "notes", "value": "2.0", "version": 2, "since": epoch }] }));
    gateway.get("/api/v1/counters", &agent).expect_status(404);
    let refused = note(&gateway).expect_status(403).json();
    assert_eq!(refused["detail"], "the budget of notes is used up", "{refused}");
    let entries = gateway.entries(&dana);
    let permits = entries.iter().filter(|entry| entry["kind"] == "permit");
    let taken: Vec<Vec<Value>> =
        permits.map(|entry| entry["body"]["reservations"].as_array().unwrap().clone()).collect();
    assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 1]);
    assert_eq!(taken[1][0], json!({ "counter": "notes", "version": 0, "amount": 10_000 }));
    assert_eq!(taken[2][0]["version"], 1);
    let pack = gateway.pack(&dana);
    assert_eq!(gateway.verify(&pack).0, 0);
}
