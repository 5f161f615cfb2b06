//! Whoever follows `next` to the end has each item of a list once, in the list's order, also while it grows.

use countersign_tests_testkit::Gateway;
use serde_json::{Value, json};

/// What tells the items of a list apart.
fn id_of(item: &Value) -> String {
    let places = ["/id", "/client_id", "/index", "/person", "/gate/id"];
    let found = places.iter().find_map(|place| item.pointer(place).filter(|value| !value.is_null()));
    found.unwrap_or_else(|| panic!("an item without a name: {item}")).to_string()
}

fn items_of(page: &Value) -> &Vec<Value> {
    page["items"].as_array().or_else(|| page["persons"].as_array()).unwrap_or_else(|| panic!("no list: {page}"))
}

/// The items of each page, three a page. Before the second one is asked for, `between` happens.
fn pages(gateway: &Gateway, token: &str, list: &str, mut between: impl FnMut()) -> Vec<Vec<String>> {
    let query = if list.contains('?') { '&' } else { '?' };
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("{list}{query}limit=3{after}");
        let page = gateway.get(&path, token).expect_status(200).json();
        let items = items_of(&page);
        pages.push(items.iter().map(id_of).collect::<Vec<_>>());
        assert!(items.len() <= 3, "{list}: {page}");
        let Some(next) = page["next"].as_str() else { return pages };
        assert_eq!(items.len(), 3, "{list}: a page that another one follows is full: {page}");
        if pages.len() == 1 {
            between();
        }
        after = format!("&after={next}");
        assert!(pages.len() < 100, "{list} does not end");
    }
}

struct World {
    gateway: Gateway,
    dana: String,
    instance: String,
}

impl World {
    /// At least seven items in each list.
    fn begin() -> Self {
        let gateway = Gateway::start();
        let (dana, _) = gateway.enrol();
        gateway.workflow(&dana, "repair");
        let world = Self { gateway, dana, instance: String::new() };
        let files = json!({ "files": [{ "path": "test.sh", "text": "true\n" }] });
        let tree = world.gateway.post("/api/v1/workspaces", &world.dana, &files).expect_status(201).json();
        let mut last = String::new();
        for n in 0..7 {
            let agent = world.add_accounts(&n.to_string());
            let body = json!({ "workflow": "repair", "agent": format!("agent-{n}"), "workspace": tree["workspace"] });
            let made = world.gateway.post("/api/v1/instances", &world.dana, &body).expect_status(201).json();
            made["instance"]["id"].as_str().unwrap().clone_into(&mut last);
            world.gateway.propose(&agent, &last, "repo.run_tests", &json!({})).expect_status(200);
            let merge = json!({ "branch": "main", "message": "fix" });
            last = world.gateway.instance(&world.dana, "repair", &format!("agent-{n}"));
            world.gateway.propose(&agent, &last, "repo.merge", &merge).expect_status(202);
        }
        Self { instance: last, ..world }
    }

    /// A person, an agent with its credentials, and a service; the agent's token.
    fn add_accounts(&self, n: &str) -> String {
        let new = |kind: &str| json!({ "id": format!("{kind}-{n}"), "display_name": n });
        self.gateway.post("/api/v1/people", &self.dana, &new("person")).expect_status(201);
        let mut service = new("service");
        service["owner"] = json!("dana");
        self.gateway.post("/api/v1/services", &self.dana, &service).expect_status(201);
        self.gateway.agent(&self.dana, &format!("agent-{n}"))
    }

    /// Each of the list once, in the order of the whole list; an item that comes in between takes none away.
    fn follows(&self, list: &str, token: &str, between: impl FnMut()) {
        let query = if list.contains('?') { '&' } else { '?' };
        let whole = || -> Vec<String> {
            let page = self.gateway.get(&format!("{list}{query}limit=200"), token).expect_status(200).json();
            assert!(page["next"].is_null(), "{list}: {page}");
            items_of(&page).iter().map(id_of).collect()
        };
        let before = whole();
        assert!(before.len() >= 4, "{list}: {before:?}");
        let read = pages(&self.gateway, token, list, || ());
        assert!(read.len() >= 2, "{list}: {read:?}");
        assert_eq!(read.concat(), before, "{list}");

        let read = pages(&self.gateway, token, list, between).concat();
        let after = whole();
        let mut once = read.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), read.len(), "{list} repeats one: {read:?}");
        let hidden: Vec<_> = before.iter().filter(|id| !read.contains(id)).collect();
        assert!(hidden.is_empty(), "{list} hides {hidden:?}");
        let mut order = after.iter().filter(|id| read.contains(id));
        assert!(read.iter().all(|id| order.next() == Some(id)), "{list} is in another order: {read:?} and {after:?}");

        for wrong in ["7", "not+a+cursor", "%2e%2e"] {
            let path = format!("{list}{query}after={wrong}");
            let answer = self.gateway.get(&path, token);
            assert_eq!((answer.status, answer.code().as_str()), (400, "parameter-invalid"), "{path}");
        }
    }
}

#[test]
fn each_list_is_read_to_its_end_page_for_page_also_while_it_grows() {
    let world = World::begin();
    let World { gateway, dana, instance } = &world;
    let mut grown = 0;
    let mut grow = || {
        // Before, among and after those that are there, by name.
        grown += 1;
        for n in ["0-new", "3-new", "9-new"] {
            world.add_accounts(&format!("{n}-{grown}"));
        }
    };
    for list in ["people", "agents", "services", "service-accounts"] {
        world.follows(&format!("/api/v1/{list}"), dana, &mut grow);
    }
    let start = || {
        gateway.instance(dana, "repair", "agent-3");
    };
    world.follows("/api/v1/instances", dana, start);
    world.follows("/api/v1/audit/entries", dana, start);
    world.follows(&format!("/api/v1/audit/entries?instance={instance}"), dana, start);
    world.follows("/api/v1/gates", dana, start);
    world.follows("/api/v1/runs", dana, start);
    let gate = gateway.get(&format!("/api/v1/gates?instance={instance}"), dana).expect_status(200).json();
    let gate = gate["items"][0]["id"].as_str().unwrap();
    world.follows(&format!("/api/v1/gates/{gate}/approvers"), dana, grow);
}

#[test]
fn so_are_grants_changes_of_policy_and_reviews() {
    let gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    gateway.workflow(&dana, "repair");
    let agent = gateway.agent(&dana, "fixer");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let world = World { gateway, dana, instance };
    let World { gateway, dana, instance } = &world;
    let grant = || {
        crate::grants::granted(gateway, instance, &agent, &decider);
    };
    for _ in 0..4 {
        grant();
    }
    world.follows(&format!("/api/v1/instances/{instance}/grants"), dana, grant);
    let mut lifted = 0;
    let mut lift = || {
        lifted += 1;
        crate::glass::broken(gateway, dana, &format!("sara-{lifted}"));
    };
    for _ in 0..4 {
        lift();
    }
    world.follows("/api/v1/reviews", dana, lift);
    let mut proposed = 0;
    let mut propose = || {
        proposed += 1;
        let draft = crate::changes::draft(&format!("change {proposed}"));
        crate::changes::propose(gateway, dana, "/api/v1/policies/proposals", &draft);
    };
    for _ in 0..4 {
        propose();
    }
    world.follows("/api/v1/policies/proposals", dana, propose);
}
