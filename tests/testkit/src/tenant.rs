//! Organizations of one gateway, begun and listed as its operator does it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::{Gateway, PASSWORD, countersign};

/// One organization.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// `default`, or what the operator called it.
    pub name: String,
    /// Its id.
    pub organization: String,
    /// Its log.
    pub log: String,
    /// The root key of its log.
    pub root_vkey: String,
    folder: PathBuf,
}

impl Tenant {
    /// The one-time token of its first person.
    pub fn enrolment_token(&self) -> String {
        let path = self.folder.join("enrolment.token");
        std::fs::read_to_string(path).expect("there is nobody yet").trim().to_owned()
    }
}

impl Gateway {
    /// Begins an organization: stops, creates, starts again.
    pub fn begin(&mut self, name: &str) -> Tenant {
        assert!(self.stop(), "it ends in good order");
        let (ok, said) = self.operate(&["organization", "create", name]);
        assert!(ok, "{said}");
        self.up();
        self.tenants().into_iter().find(|tenant| tenant.name == name).expect("it is listed")
    }

    /// Every organization.
    pub fn tenants(&self) -> Vec<Tenant> {
        let (ok, said) = self.operate(&["organization", "list"]);
        assert!(ok, "{said}");
        let listed: Value = serde_json::from_str(&said).expect("JSON");
        let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
        let tenant = |row: &Value| {
            let name = text(row, "name");
            let folder = if name == "default" { self.data() } else { self.data().join("organizations").join(&name) };
            let (organization, log) = (text(row, "organization"), text(row, "log"));
            Tenant { name, organization, log, root_vkey: text(row, "root_vkey"), folder }
        };
        listed["items"].as_array().expect("a list").iter().map(tenant).collect()
    }

    /// Runs a command of the operator on the data folder: whether it did, and what it said.
    pub fn operate(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(countersign())
            .env_clear()
            .arg("--json")
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data())
            .output()
            .expect("the program runs");
        let bytes = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes the first person of an organization, with every role.
    pub fn enrol_in(&self, tenant: &Tenant, id: &str) {
        let body = json!({
            "token": tenant.enrolment_token(), "id": id, "display_name": id, "password": PASSWORD,
        });
        self.post("/api/v1/enrol/person", "", &body).expect_status(201);
    }

    /// Logs a person of an organization in.
    pub fn login_in(&self, tenant: &Tenant, id: &str, scope: &str) -> String {
        let body = json!({ "id": id, "password": PASSWORD, "scope": scope, "organization": tenant.organization });
        let answer = self.post("/api/v1/tokens/login", "", &body).expect_status(200);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }
}
