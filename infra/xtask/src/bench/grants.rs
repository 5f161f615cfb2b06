//! Who may do what in the benchmark of evaluations: N agents, each granted one table, told to Cedar and to OPA alike.
//!
//! Also the requests that ask for it, in the form of AuthZEN, about 500 bytes each. Absent: servers, files, the clock.
//! Next: `evaluations.rs`, which hands all of it to the servers.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// The lookup in the grants, for OPA.
pub const REGO: &str = include_str!("grants.rego");

/// Different requests that are sent in turn.
const REQUESTS: u64 = 1_000;

/// Bytes of each request.
const LENGTH: usize = 500;

/// As many grants as agents.
#[derive(Clone, Copy)]
pub struct Grants(pub u32);

impl Grants {
    /// The ids of the agents.
    pub fn agents(self) -> impl Iterator<Item = String> {
        (0..self.0).map(agent)
    }

    /// As policies of an organization.
    pub fn policies(self, organization: &str) -> String {
        let mut text = String::new();
        for n in 0..self.0 {
            let _ = writeln!(
                text,
                "@id(\"grant-{n:05}\")\npermit (\n  principal == Countersign::Agent::\"{organization}/{}\",\n  \
                 action == Countersign::Action::\"callTool:table.read\",\n  \
                 resource == Countersign::Tool::\"{organization}/table.read\"\n)\nwhen {{ context.input.id == \"{}\" && \
                 context.claims.contains(\"env=prod\") }};",
                agent(n),
                table(n)
            );
        }
        text
    }

    /// As data of OPA.
    pub fn data(self) -> Value {
        let grant = |n| (agent(n), json!({ "actions": { "read": true }, "resource": table(n), "env": "prod" }));
        json!({ "grants": (0..self.0).map(grant).collect::<serde_json::Map<_, _>>() })
    }

    /// Requests that are granted, all different.
    pub fn granted(self) -> Vec<Value> {
        let ask = |serial| {
            let n = u32::try_from(scattered(serial) % u64::from(self.0)).unwrap_or(0);
            request(serial, n, n)
        };
        (0..REQUESTS).map(ask).collect()
    }

    /// An agent asks for what another one was granted.
    pub fn ungranted(self) -> Value {
        request(REQUESTS, 0, self.0 - 1)
    }
}

/// The tool that reading a table is, as it is registered.
pub fn tool() -> Value {
    json!({
        "name": "table.read", "description": "Reads a table.", "risk": 0, "data_class": "internal", "scopes": [],
        "input": {
            "type": "object", "properties": { "id": { "type": "string", "maxLength": 100 } }, "required": ["id"],
            "additionalProperties": false,
        },
    })
}

fn agent(n: u32) -> String {
    format!("agent-{n:05}")
}

fn table(n: u32) -> String {
    format!("res-{n:05}")
}

/// Agent `n` would read the table of agent `of`.
fn request(serial: u64, n: u32, of: u32) -> Value {
    let hex = |salt: u64| format!("{:016x}{:016x}", scattered(serial ^ salt), scattered(serial ^ (salt + 1)));
    let mut request = json!({
        "subject": {
            "type": "agent", "id": agent(n),
            "properties": { "role": "reader", "tenant": "acme", "session": format!("s-{}", hex(1 << 32)) },
        },
        "action": { "name": "read" },
        "resource": { "type": "table", "id": table(of), "properties": { "owner": "team-data" } },
        "context": {
            "env": "prod", "tool": "sql.query", "purpose": "nightly revenue report", "request_id": hex(1 << 33),
            "args_digest": format!("sha256:{}{}", hex(1 << 34), hex(1 << 35)), "note": "",
        },
    });
    let missing = LENGTH.saturating_sub(request.to_string().len());
    request["context"]["note"] = json!("n".repeat(missing));
    request
}

/// The same numbers in every run, without order (the finaliser of `SplitMix64`).
fn scattered(serial: u64) -> u64 {
    let mut x = serial.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use super::*;

    /// The lookup of `grants.rego`.
    fn opa_allows(data: &Value, request: &Value) -> bool {
        let grant = &data["grants"][request["subject"]["id"].as_str().unwrap()];
        grant["actions"][request["action"]["name"].as_str().unwrap()] == true
            && grant["resource"] == request["resource"]["id"]
            && grant["env"] == request["context"]["env"]
    }

    #[test]
    fn a_thousand_different_requests_are_granted_and_one_is_not() {
        for count in [2, 10_000] {
            let grants = Grants(count);
            let data = grants.data();
            let granted = grants.granted();
            let different: BTreeSet<String> = granted.iter().map(Value::to_string).collect();
            assert_eq!(different.len(), 1_000);
            assert!(granted.iter().all(|request| opa_allows(&data, request)));
            assert!(different.iter().all(|request| request.len() == LENGTH));
            assert!(!opa_allows(&data, &grants.ungranted()));
            assert_eq!(data["grants"].as_object().unwrap().len(), grants.agents().count());
        }
    }

    #[test]
    fn cedar_and_opa_are_told_the_same_grants() {
        let grants = Grants(20);
        let policies = grants.policies("org_1");
        for (id, grant) in grants.data()["grants"].as_object().unwrap() {
            let policy = policies.split("@id").find(|policy| policy.contains(&format!("\"org_1/{id}\""))).unwrap();
            assert!(policy.contains(&format!("context.input.id == {}", grant["resource"])), "{policy}");
        }
        assert_eq!(policies.matches("permit (").count(), 20);
    }
}
