//! Tools: the catalogue in force, and its changes as an operation like any other.
//!
//! What a registrar hands in is checked by itself and with the active bundle (strict, every test), asked of policy,
//! committed as the next signed version of the whole catalogue, and only then put in force: one swap, no question is
//! held up by it. At the next start the newest version in the ledger is loaded. Where policy asks for people, the change
//! waits at a gate (`changes/registration`). Absent: how tools are defined and typed (`policy/decide`), signing and disk
//! (`policies`). Read next: `policies`.

use std::sync::Arc;

use serde_json::json;

use countersign_gateway_model::{Decision, Digest, GateId, InstanceId, Name, Principal, Timestamp};
use countersign_ledger_entry::Receipt;
use countersign_policy_decide::catalogue::{Catalogue, CompiledTool};
use countersign_policy_decide::mcp::McpTools;
use countersign_policy_decide::registration::{self, Definition, Fault, Registration, ToolChange, ToolReport};
use countersign_policy_decide::{EntityRef, Operation};

use crate::Engine;
use crate::api::ProposalStep;
use crate::asking::{Answered, ask, chain, question};
use crate::error::EngineError;
use crate::org::Org;
use crate::policies::{CatalogueCandidate, PolicyProblem};

/// A tool of the catalogue as people and agents read it.
#[derive(Clone, Debug)]
pub struct ToolRecord {
    /// `<server>.<tool>`.
    pub name: Name,
    /// What it does; text of others.
    pub description: String,
    /// JSON Schema of its input.
    pub input: serde_json::Value,
    /// JSON Schema of its output, if it has one.
    pub output: Option<serde_json::Value>,
    /// 0 reads only … 4 cannot be undone.
    pub risk: u8,
    /// The most confidential data it touches.
    pub data_class: &'static str,
    /// Scopes that the caller must hold.
    pub scopes: Vec<Name>,
    /// Its target has no revision that a permit could be bound to.
    pub mutable_target: bool,
    /// The runner's kind, where a runner carries it out; none: the agent does.
    pub runner: Option<&'static str>,
    /// Digest of its definition.
    pub version: Digest,
}

impl From<&CompiledTool> for ToolRecord {
    fn from(compiled: &CompiledTool) -> Self {
        let tool = &compiled.tool;
        Self {
            name: tool.name.clone(),
            description: tool.description.clone(),
            input: tool.input.clone(),
            output: tool.output.clone(),
            risk: tool.risk,
            data_class: tool.data_class.as_str(),
            scopes: tool.scopes.clone(),
            mutable_target: tool.mutable_target,
            runner: tool.runner.as_ref().map(|runner| runner.kind.as_str()),
            version: compiled.version,
        }
    }
}

/// A tool with what policy cannot see of its input.
#[derive(Clone, Debug)]
pub struct ToolDetail {
    /// The tool.
    pub tool: ToolRecord,
    /// What policy knows of it.
    pub report: ToolReport,
}

/// What is to become of the catalogue.
#[derive(Clone, Debug)]
pub enum ToolsRequest {
    /// These are listed; each replaces what is listed under its name.
    Register(Vec<Definition>),
    /// Those of an MCP server are listed.
    ImportMcp(Box<McpTools>),
    /// This one is not listed any more.
    Retire(Name),
}

/// What became of the catalogue, or would.
#[derive(Clone, Debug)]
pub struct ToolsChanged {
    /// Digest of the catalogue.
    pub catalogue: Digest,
    /// The catalogue before it.
    pub predecessor: Option<Digest>,
    /// Its version.
    pub version: u64,
    /// What becomes of each tool.
    pub changes: Vec<ToolChange>,
    /// What an import left out, and why.
    pub skipped: Vec<Fault>,
    /// Members of an imported list that were not taken over.
    pub ignored: Vec<String>,
    /// Tools that are listed for an imported server and that it does not offer any more.
    pub missing: Vec<Name>,
    /// Proof of the entry; none: nothing was changed.
    pub receipt: Option<Receipt>,
    /// Where people are asked about it first; then nothing has changed yet.
    pub registration: Option<ToolRegistration>,
}

/// A change of the catalogue that people are, or were, asked about.
#[derive(Clone, Debug)]
pub struct ToolRegistration {
    /// Its id: that of the instance whose one action it is.
    pub id: InstanceId,
    /// Digest of the catalogue.
    pub catalogue: Digest,
    /// The catalogue that it follows.
    pub predecessor: Option<Digest>,
    /// Its version.
    pub version: u64,
    /// `waiting`, `approved`, `activated`, `failed` or `withdrawn`.
    pub state: &'static str,
    /// Who registers.
    pub registrar: String,
    /// When.
    pub registered: Timestamp,
    /// The gate that it waits, or waited, at.
    pub gate: Option<GateId>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Its steps, in order.
    pub steps: Vec<ProposalStep>,
    /// What becomes of each tool, as people are shown it.
    pub words: String,
}

/// The next catalogue, and what an import has to say beside it.
struct Planned {
    next: Registration,
    skipped: Vec<Fault>,
    ignored: Vec<String>,
    missing: Vec<Name>,
}

impl Engine {
    /// The tools of the catalogue in force, by name.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not list them.
    pub fn tools(&self, who: &Principal) -> Result<Vec<ToolRecord>, EngineError> {
        self.may(who, Operation::ListTools, EntityRef::organization(who.org), "tool list")?;
        // A map by name: its order is that of the names.
        Ok(self.snapshot(who.org).tools().map(|compiled| ToolRecord::from(&**compiled)).collect())
    }

    /// A tool with its report.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for a tool that is not listed, and for those who may not list tools.
    pub fn tool(&self, who: &Principal, name: &Name) -> Result<ToolDetail, EngineError> {
        self.may(who, Operation::ListTools, EntityRef::organization(who.org), "tool")?;
        let snapshot = self.snapshot(who.org);
        let compiled = snapshot.tool(name.as_str()).ok_or(EngineError::NotFound("tool"))?;
        Ok(ToolDetail { tool: (&**compiled).into(), report: registration::report(compiled) })
    }

    /// Says what a change of the catalogue would come to, with every check. Changes nothing.
    ///
    /// # Errors
    /// [`EngineError::Tools`] and [`EngineError::Catalogue`] with every finding.
    pub async fn check_tools(&self, who: &Principal, request: ToolsRequest) -> Result<ToolsChanged, EngineError> {
        let org = self.org(who.org)?;
        self.may_read(&org, who, Operation::ReadPolicy, EntityRef::organization(org.id), "policy")?;
        let planned = self.planned(&org, request).await?;
        if planned.next.changes_nothing() {
            return Ok(self.unchanged(&org, planned));
        }
        let candidate = self.catalogue_candidate(&org, planned.next.catalogue.clone()).await?;
        Ok(changed(planned, &candidate, None))
    }

    /// Changes the catalogue: every check, policy's word, the entry, then the swap. Where policy asks for people a gate is
    /// opened, and the change waits there.
    ///
    /// # Errors
    /// [`EngineError::Tools`] and [`EngineError::Catalogue`] with every finding; [`EngineError::Refused`] where policy says
    /// no, with code `approval-unavailable` where it asks for people about what is done for somebody else;
    /// [`EngineError::RegistrationWaiting`] and [`EngineError::RegistrationsWaiting`] where people are asked enough already.
    pub async fn change_tools(&self, who: Arc<Principal>, request: ToolsRequest) -> Result<ToolsChanged, EngineError> {
        let this = self.clone();
        Self::whole(async move {
            let org = this.org(who.org)?;
            if this.decision_on(&org, &who) == Decision::Deny {
                // On record, before anything of what was handed in is read.
                let details = json!({ "operation": "registerTool" });
                let here = EntityRef::organization(org.id);
                this.authorize(&who, Operation::RegisterTool, here, &details).await?;
            }
            let one_at_a_time = org.in_force.lock().await;
            let planned = this.planned(&org, request).await?;
            let digest = planned.next.catalogue.digest();
            let tools: Vec<_> = planned.next.changes.iter().map(line).collect();
            let details = json!({ "operation": "registerTool", "catalogue": digest, "tools": tools });
            let here = EntityRef::organization(org.id);
            // Asked without a record first: who may not change tools does not set a check of the whole bundle to work.
            let decision = this.decision_on(&org, &who);
            let asks_people = decision == Decision::NeedsApproval;
            if asks_people && who.on_behalf_of.is_empty() {
                if planned.next.changes_nothing() {
                    return Ok(this.unchanged(&org, planned));
                }
                let id = this.ask_people(&org, &who, &planned, &details).await?;
                drop(one_at_a_time);
                return this.waiting(&org, &who, planned, id).await;
            }
            if decision != Decision::Allow {
                match this.authorize(&who, Operation::RegisterTool, here.clone(), &details).await {
                    // It was given just now: asked again below, where it counts.
                    Ok(_) => {}
                    Err(EngineError::Refused(mut refused)) if asks_people => {
                        refused.code = "approval-unavailable";
                        "policy asks for people's approval of this: register in your own name, not for another"
                            .clone_into(&mut refused.message);
                        return Err(EngineError::Refused(refused));
                    }
                    Err(error) => return Err(error),
                }
            }
            if planned.next.changes_nothing() {
                return Ok(this.unchanged(&org, planned));
            }
            let mut candidate = this.catalogue_candidate(&org, planned.next.catalogue.clone()).await?;
            let allowed = this.authorize(&who, Operation::RegisterTool, here, &details).await?;
            let mut entry = candidate.entry();
            if let Some(serde_json::Value::Object(description)) = &mut entry.description {
                description.insert("tools".to_owned(), json!(tools));
            }
            let receipt = this.commit_own(&who, allowed, entry).await?;
            // Durable: a crash here leaves an entry whose catalogue is not in force. The next start loads the catalogue of
            // the newest such entry, so the swap below is only the first of two ways to the same state.
            let prepared = std::mem::replace(&mut candidate.prepared, Box::new(()));
            this.policies().activate(org.id, prepared)?;
            Ok(changed(planned, &candidate, Some(receipt)))
        })
        .await
    }

    /// What policy says of `who` changing tools.
    fn decision_on(&self, org: &Org, who: &Principal) -> Decision {
        self.answer_on(org, who).verdict.decision
    }

    fn answer_on(&self, org: &Org, who: &Principal) -> Answered {
        let mut asked = question(who, Operation::RegisterTool, EntityRef::organization(org.id), self.now());
        asked.four_eyes = crate::stream::four_eyes(org);
        ask(&self.snapshot(org.id), org.facts(), chain(who, asked))
    }

    /// Opens the gate of a change, after every check; the one that is open for the same change by the same account, if any.
    async fn ask_people(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        planned: &Planned,
        details: &serde_json::Value,
    ) -> Result<InstanceId, EngineError> {
        if let Some(open) = self.registration_under_way(org, who, &planned.next.catalogue.digest()) {
            return Ok(open);
        }
        self.room_for_registration(org, who)?;
        // Before the bundle is checked: what nobody could weigh is not asked about.
        let lines = self.registration_lines(org, &planned.next.catalogue, &planned.next.changes)?;
        let candidate = self.catalogue_candidate(org, planned.next.catalogue.clone()).await?;
        // What is on record is what policy said of the very same moment.
        let answered = self.answer_on(org, who);
        if answered.verdict.decision == Decision::Deny {
            let here = EntityRef::organization(org.id);
            self.authorize(who, Operation::RegisterTool, here, details).await?;
        }
        let candidate = (candidate, planned.next.changes.as_slice(), lines);
        self.await_registration(org, who, candidate, (answered, details)).await
    }

    /// What waits for people, taken as far as it goes now.
    async fn waiting(
        &self,
        org: &Arc<Org>,
        who: &Principal,
        planned: Planned,
        id: InstanceId,
    ) -> Result<ToolsChanged, EngineError> {
        if let Err(error) = Box::pin(self.advance(org, id)).await {
            tracing::warn!(%error, change = %id, "a registration could not be taken further yet");
        }
        self.timers().notify_one();
        let registration = self.tool_registration(who, id).await?;
        let (predecessor, version) = (registration.predecessor, registration.version);
        let unchanged = self.unchanged(org, planned);
        Ok(ToolsChanged { predecessor, version, registration: Some(registration), ..unchanged })
    }

    /// The next catalogue, checked by itself.
    async fn planned(&self, org: &Org, request: ToolsRequest) -> Result<Planned, EngineError> {
        let snapshot = self.snapshot(org.id);
        // Hundreds of schemas may be in it: not on a thread that serves requests.
        let plan = move || plan(snapshot.catalogue(), request);
        tokio::task::spawn_blocking(plan).await.map_err(EngineError::damaged)?
    }

    /// The next catalogue, checked with the active bundle, and signed.
    pub(crate) async fn catalogue_candidate(
        &self,
        org: &Org,
        next: Catalogue,
    ) -> Result<CatalogueCandidate, EngineError> {
        let (policies, id) = (Arc::clone(self.policies()), org.id);
        let one_at_a_time = Arc::clone(&org.checking).lock_owned().await;
        let check = move || {
            let _one_at_a_time = one_at_a_time;
            policies.check_catalogue(id, next)
        };
        let checked = tokio::task::spawn_blocking(check).await.map_err(EngineError::damaged)?;
        checked.map_err(|problem| match problem {
            PolicyProblem::Rejected(words) | PolicyProblem::LockedOut(words) => EngineError::Catalogue(words),
        })
    }

    fn unchanged(&self, org: &Org, planned: Planned) -> ToolsChanged {
        let Planned { next, skipped, ignored, missing } = planned;
        ToolsChanged {
            catalogue: next.catalogue.digest(),
            predecessor: None,
            version: self.policies().catalogue_version(org.id),
            changes: next.changes,
            skipped,
            ignored,
            missing,
            receipt: None,
            registration: None,
        }
    }
}

fn plan(current: &Catalogue, request: ToolsRequest) -> Result<Planned, EngineError> {
    let bare = |next| Planned { next, skipped: Vec::new(), ignored: Vec::new(), missing: Vec::new() };
    Ok(match request {
        ToolsRequest::Register(tools) => {
            bare(current.register(tools.into_iter().map(Definition::into_tool).collect())?)
        }
        ToolsRequest::Retire(name) => bare(current.retire(&name).ok_or(EngineError::NotFound("tool"))?),
        ToolsRequest::ImportMcp(list) => {
            let import = list.import(current)?;
            Planned {
                next: current.register(import.tools)?,
                skipped: import.skipped,
                ignored: import.ignored.into_iter().collect(),
                missing: import.missing,
            }
        }
    })
}

/// One changed tool in the record: names and digests, nothing of others' text.
fn line(change: &ToolChange) -> serde_json::Value {
    json!({ "name": change.name, "change": change.change, "before": change.before, "version": change.version })
}

fn changed(planned: Planned, candidate: &CatalogueCandidate, receipt: Option<Receipt>) -> ToolsChanged {
    let Planned { next, skipped, ignored, missing } = planned;
    ToolsChanged {
        catalogue: candidate.digest,
        predecessor: candidate.predecessor,
        version: candidate.version,
        changes: next.changes,
        skipped,
        ignored,
        missing,
        receipt,
        registration: None,
    }
}
