//! Performs what the state machine asks: loads streams, asks policy, commits, dispatches, watches clocks, sweeps.
//!
//! It decides nothing: what a proposal becomes is `gateway/flow`'s, what policy says is `policy/decide`'s, what is
//! durable is `ledger/log`'s. Whatever fails between a request and its commit means: not carried out. Absent on
//! purpose: HTTP, SQL, Cedar syntax, the environment.
//!
//! Read next: `actions` (the way of a proposal), `gates` (people), `runs` (runners), `timers` (clocks), `audit`
//! (history and evidence).

pub mod acting;
mod actions;
mod again;
mod answers;
mod api;
mod approvers;
mod asking;
mod audit;
mod backtest;
mod beside;
mod changes;
mod climbing;
mod counted;
mod counters;
mod deciding;
mod decisions;
mod demands;
mod error;
mod evaluations;
mod explanations;
mod face;
mod gates;
mod grants;
mod instances;
mod instead;
mod keyring;
mod ladders;
mod liftable;
mod lifts;
mod lowering;
mod mint;
mod opened;
mod org;
mod overrides;
mod own;
mod own_fold;
mod permissions;
mod permits;
mod person_keys;
mod policies;
mod reasking;
mod receipts;
mod recording;
mod records;
mod recovery;
mod replay;
mod resolving;
mod reviews;
mod roots;
mod runs;
mod settings;
mod stream;
mod terms;
mod timers;
mod tools;
pub mod trail;
mod view;
mod voters;
mod weighing;
mod workflows;
mod writing;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use countersign_gateway_model::{Clock, Duration, OrgId, Timestamp};
use countersign_ledger_log::Logs;
use countersign_policy_decide::{EntityError, PolicySnapshot, Record};
use countersign_runners_contract::Runner;

pub use api::*;
pub use approvers::{Approver, Approvers, ItemApprover};
pub use audit::pack_of;
pub use backtest::{BacktestProgress, BacktestTurn, BacktestWatch, BacktestWindow, all_threads, backtest_log};
pub use changes::InvariantOutcome;
pub use counters::CounterRecord;
pub use countersign_policy_bundle::{BacktestReport, Limits as BacktestLimits};
pub use countersign_policy_decide::WouldBe;
pub use countersign_policy_decide::catalogue::{Catalogue, DataClass, ToolRunner};
pub use countersign_policy_decide::mcp::McpTools;
pub use countersign_policy_decide::registration::{
    Change, Definition, Fault, RegistrationError, ToolChange, ToolReport, Words,
};
pub use countersign_policy_decide::shape::{Blind, Seen};
pub use countersign_policy_decide::terms::{Bound, ToolTerms};
pub use demands::delta_bytes;
pub use error::{EngineError, Refused};
pub use evaluations::*;
pub use explanations::{MAX_SUPPOSED, QuestionExplained};
pub use face::*;
pub use grants::{GrantAsked, GrantBudget, GrantRecord, GrantRequest, GrantRevoked, GrantTool};
pub use mint::{Mint, MintExt};
pub use org::Known;
pub use own::{Allowed, OwnEntry};
pub use permissions::{Permission, Permissions};
pub use person_keys::{NewPersonKey, PersonKeyList, PersonKeyRecord};
pub use policies::{Candidate, CatalogueCandidate, Electorate, Policies, PolicyProblem};
pub use recording::Recording;
pub use roots::root_on_record;
pub use tools::{ToolDetail, ToolRecord, ToolRegistration, ToolsChanged, ToolsRequest};
pub use view::escape;

use crate::org::Org;
use crate::own_fold::OwnFold;

/// A policy snapshot as it is shared.
pub type Snapshot = Arc<PolicySnapshot>;

/// How an engine is run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How long a permit lasts before it lapses unstarted.
    pub permit_ttl: Duration,
    /// Longest run, unless its tool says less.
    pub run_deadline: Duration,
    /// How long after a start without an outcome it is swept to `unknown`: where the agent carries it out, after it could last
    /// be begun; where a runner does, after the longest run that could begin then.
    pub sweep_after: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            permit_ttl: Duration::from_secs(300),
            run_deadline: Duration::from_secs(600),
            sweep_after: Duration::from_secs(3600),
        }
    }
}

/// What an engine holds in memory for one organization. Work that has ended is in none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InMemory {
    /// Entities that policy knows.
    pub entities: usize,
    /// Streams of instances.
    pub streams: usize,
}

/// What the program lends the engine.
pub struct Parts {
    /// The ledger.
    pub logs: Logs,
    /// Policies in force.
    pub policies: Arc<dyn Policies>,
    /// Runners, by kind.
    pub runners: HashMap<String, Arc<dyn Runner>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids and randomness.
    pub mint: Arc<dyn Mint>,
    /// Options.
    pub options: EngineOptions,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    orgs: RwLock<HashMap<OrgId, Arc<Org>>>,
    /// Told whenever a timer may have been set or moved.
    timers: tokio::sync::Notify,
    ending: watch::Sender<bool>,
}

impl Engine {
    /// An engine without organizations; see [`Engine::open_org`].
    pub fn new(parts: Parts) -> Self {
        let inner = Inner {
            parts,
            orgs: RwLock::default(),
            timers: tokio::sync::Notify::new(),
            ending: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens an organization's log in this gateway: boot entry, settings, workflows.
    ///
    /// # Errors
    /// [`EngineError::Ledger`] if the log refuses to be opened: then nothing may be signed.
    pub async fn open_org(&self, id: OrgId, sandbox_level: Option<u8>) -> Result<(), EngineError> {
        let log = self.logs().boot(id, sandbox_level).await.map_err(EngineError::ledger)?;
        let fold = OwnFold::of(&log).await?;
        let org = Org::new(id, log, fold);
        self.load_changes(&org).await?;
        for own in changes::names::workflow_records(id, self.now())? {
            org.entities.put(own).map_err(EngineError::damaged)?;
        }
        for workflow in self.all_workflows(&org).await? {
            if let Some(team) = &workflow.spec.team {
                self.ensure_team(&org, team)?;
            }
            org.entities.put(workflow.spec.record(&org, self.now())).map_err(EngineError::damaged)?;
        }
        self.counted_snapshot(&org).await?;
        tracing::debug!(org = %id, "organization opened");
        self.insert_org(org);
        Ok(())
    }

    /// The ledger.
    pub fn logs(&self) -> &Logs {
        &self.inner.parts.logs
    }

    /// The policies in force.
    pub fn policies(&self) -> &Arc<dyn Policies> {
        &self.inner.parts.policies
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.inner.parts.clock.now()
    }

    /// Ids and randomness.
    pub fn mint(&self) -> &dyn Mint {
        &*self.inner.parts.mint
    }

    pub(crate) fn options(&self) -> &EngineOptions {
        &self.inner.parts.options
    }

    pub(crate) fn runner(&self, kind: &str) -> Result<&Arc<dyn Runner>, EngineError> {
        self.inner.parts.runners.get(kind).ok_or_else(|| EngineError::NoRunner(kind.to_owned()))
    }

    pub(crate) fn runners(&self) -> impl Iterator<Item = (&String, &Arc<dyn Runner>)> {
        self.inner.parts.runners.iter()
    }

    /// The policy snapshot in force for an organization.
    pub fn snapshot(&self, org: OrgId) -> Snapshot {
        self.inner.parts.policies.snapshot(org)
    }

    pub(crate) fn org(&self, id: OrgId) -> Result<Arc<Org>, EngineError> {
        let orgs = self.inner.orgs.read().unwrap_or_else(PoisonError::into_inner);
        orgs.get(&id).cloned().ok_or(EngineError::NotFound("organization"))
    }

    pub(crate) fn insert_org(&self, org: Org) {
        let mut orgs = self.inner.orgs.write().unwrap_or_else(PoisonError::into_inner);
        orgs.insert(org.id, Arc::new(org));
    }

    pub(crate) fn orgs(&self) -> Vec<Arc<Org>> {
        self.inner.orgs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn timers(&self) -> &tokio::sync::Notify {
        &self.inner.timers
    }

    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.inner.ending.subscribe()
    }

    /// Tells timers and watchers to end. What runs under a runner goes on and is adopted at the next start.
    pub fn end(&self) {
        self.inner.ending.send_replace(true);
    }

    /// What is held in memory for an organization.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for an unknown organization.
    pub fn in_memory(&self, org: OrgId) -> Result<InMemory, EngineError> {
        let org = self.org(org)?;
        Ok(InMemory { entities: org.entities.len(), streams: org.cells().len() })
    }

    /// Says who a pseudonym stands for, and what policy may know of them.
    ///
    /// # Errors
    /// [`EntityError`] if the record breaks the base schema or names another organization.
    pub fn introduce(
        &self,
        org: OrgId,
        who: countersign_gateway_model::Pseudonym,
        known: Known,
        record: Record,
    ) -> Result<(), EntityError> {
        if let Ok(org) = self.org(org) {
            of_org(org.id, &record)?;
            org.entities.put(record)?;
            org.introduce(who, known);
        }
        Ok(())
    }

    /// Writes what policy may know of something that is no principal: a team, a group.
    ///
    /// # Errors
    /// [`EntityError`] if the record breaks the base schema or names another organization.
    pub fn describe(&self, org: OrgId, record: Record) -> Result<(), EntityError> {
        if let Ok(org) = self.org(org) {
            of_org(org.id, &record)?;
            org.entities.put(record)?;
        }
        Ok(())
    }
}

/// Nothing of another organization comes into one's entities.
fn of_org(org: OrgId, record: &Record) -> Result<(), EntityError> {
    if record.entity.org == org {
        return Ok(());
    }
    let reference = countersign_policy_decide::EntityRef::organization(org).to_string();
    Err(EntityError::Foreign { entity: record.entity.to_string(), reference })
}
