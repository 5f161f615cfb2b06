//! A gateway on an empty folder, with the one person who sets it up.
//!
//! Absent: what is measured (`actions.rs`, `evaluations.rs`). Next: `exchange.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::exchange::{Connection, free_address, text};
use super::server::{Bench, Process};

/// Password of the benchmark's person.
const PASSWORD: &str = "a long benchmark password 12345";

/// A gateway, and its person signed in.
pub struct Gateway {
    /// The program.
    pub process: Process,
    /// A connection to it.
    pub connection: Connection,
    /// The person's token: `bench`, with every role.
    pub person: String,
}

impl Gateway {
    /// Starts one, enrols its person and signs them in.
    pub fn start(bench: &Bench, pass: u32) -> Result<Self> {
        let data = bench.folder.join(format!("data-{pass}"));
        let address = free_address()?;
        let mut command = Command::new(bench.programs.join("countersign"));
        command
            .env_clear()
            // One caller makes all the requests here; its rate limit is not what is measured.
            .env("COUNTERSIGN_LIMITS__REQUESTS_PER_SECOND", "1000000")
            .env("COUNTERSIGN_LIMITS__BURST", "1000000")
            .env("COUNTERSIGN_LOG__FILTER", "warn")
            .args(["up", "--listen", &address, "--data-dir"])
            .arg(&data);
        let mut process = Process::start(&mut command, address, "/readyz")?;
        process.data = Some(data.clone());
        let mut connection = Connection::open(&process.address)?;
        let enrolment = find(&data, "enrol").context("the enrolment token's file")?;
        let token = std::fs::read_to_string(enrolment)?.trim().to_owned();
        let person =
            json!({ "token": token, "id": "bench", "display_name": "Bench", "password": PASSWORD, "person": "bench" });
        connection.call("/api/v1/enrol/person", "", &person)?;
        let login = json!({ "id": "bench", "password": PASSWORD, "scope": "act" });
        let person = text(&connection.call("/api/v1/tokens/login", "", &login)?["access_token"])?;
        Ok(Self { process, connection, person })
    }

    /// POST by the person, which has to succeed.
    pub fn call(&mut self, path: &str, body: &Value) -> Result<Value> {
        self.connection.call(path, &self.person, body)
    }

    /// A token of a service account bound to `principal`, such as `agent:bench`.
    pub fn credential(&mut self, principal: &str) -> Result<String> {
        let account = self.call("/api/v1/service-accounts", &json!({ "bound_to": principal }))?;
        let credentials = json!({
            "client_id": account["service_account"]["client_id"], "client_secret": account["client_secret"],
        });
        text(&self.connection.call("/api/v1/tokens/client-credentials", "", &credentials)?["access_token"])
    }
}

/// A file below `folder` whose name has `part` in it.
fn find(folder: &Path, part: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    let named =
        |path: &&PathBuf| path.is_file() && path.file_name().is_some_and(|n| n.to_string_lossy().contains(part));
    entries.iter().find(named).cloned().or_else(|| entries.iter().filter(|p| p.is_dir()).find_map(|p| find(p, part)))
}
