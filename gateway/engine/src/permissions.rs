//! What a principal may do now: every operation that needs no more than the organization, every workflow, every tool, and
//! what can be done with one instance. Allowed, with people's approval by which rules, or not.
//!
//! Each line is one question to the policy in force, asked as a proposal of the principal would be. A tool is asked about
//! with the smallest input that its schema takes: another input may be answered otherwise. Nothing is permitted or
//! recorded, and no agent may ask. Absent: what needs a gate, a person or a bundle to be named (`what_if`).

use std::sync::Arc;

use countersign_gateway_model::{Decision, InstanceId, Name, Principal, PrincipalKind, Scope};
use countersign_policy_decide::input;
use countersign_policy_decide::{EntityKind, EntityRef, Operation, Question, decide_chain, scope_name};

use crate::error::EngineError;
use crate::org::Org;
use crate::stream::{Held, four_eyes};
use crate::{Engine, Snapshot};

/// Most lines of one answer.
const MAX_LINES: usize = 4000;

/// Operations on the organization.
const OF_ORGANIZATION: [Operation; 27] = [
    Operation::ListInstances,
    Operation::ListGates,
    Operation::ListRuns,
    Operation::ListWorkflows,
    Operation::ListPrincipals,
    Operation::ListTools,
    Operation::ReadPolicy,
    Operation::ReadSettings,
    Operation::ReadHealth,
    Operation::ReadVerdict,
    Operation::QueryPolicy,
    Operation::ExportPack,
    Operation::CreatePerson,
    Operation::RegisterAgent,
    Operation::CreateService,
    Operation::CreateServiceAccount,
    Operation::RegisterTool,
    Operation::RegisterWorkflow,
    Operation::RegisterWebhook,
    Operation::ManageSettings,
    Operation::RotateKeys,
    Operation::Recover,
    Operation::Freeze,
    Operation::Lift,
    Operation::EvaluateFor,
    Operation::SetLegalHold,
    Operation::EraseData,
];

/// Operations on a workflow.
const OF_WORKFLOW: [Operation; 2] = [Operation::ReadWorkflow, Operation::Start];

/// Operations on an instance.
const OF_INSTANCE: [Operation; 7] = [
    Operation::ReadInstance,
    Operation::ReadVerdict,
    Operation::ExportPack,
    Operation::Complete,
    Operation::Terminate,
    Operation::SetLegalHold,
    Operation::EraseData,
];

/// One thing that can be asked for.
#[derive(Clone, Debug)]
pub struct Permission {
    /// What.
    pub operation: Operation,
    /// Of what.
    pub resource: EntityRef,
    /// What policy says.
    pub decision: Decision,
    /// The rules by which people would have to approve.
    pub rules: Vec<Name>,
    /// The policies that determine it.
    pub determining: Vec<Name>,
}

/// What a principal may do now.
#[derive(Clone, Debug)]
pub struct Permissions {
    /// Whose they are.
    pub principal: EntityRef,
    /// The instance that tools were asked about in.
    pub instance: Option<InstanceId>,
    /// What an answer here does not say.
    pub notes: Vec<String>,
    /// By operation, in a fixed order.
    pub lines: Vec<Permission>,
}

impl Engine {
    /// What a principal may do now; tools in `instance`, else in the newest open one in memory in which it acts.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for those who may not ask, for a principal that is not known, and for an instance that is
    /// not there.
    pub async fn permissions(
        &self,
        who: &Principal,
        (kind, id): (PrincipalKind, &Name),
        instance: Option<InstanceId>,
    ) -> Result<Permissions, EngineError> {
        let org = self.org(who.org)?;
        self.may_query(&org, who)?;
        let (pseudonym, known) = org.known_by_id(kind, id).ok_or(EngineError::NotFound("principal"))?;
        let mut notes = Vec::new();
        let instance = match instance {
            Some(instance) => Some(instance),
            None => self.acts_in(&org, pseudonym),
        };
        let held = match instance {
            Some(instance) => Some(self.hold(&org, instance).await?),
            None => None,
        };
        if let Some(held) = &held {
            self.visible(&org, who, held.fold()?)?;
        } else {
            notes.push("it acts in no open instance: tools are asked about without one; name an instance".to_owned());
        }
        notes.push(
            "tools are asked about with the smallest input that their schema takes; another may fare otherwise"
                .to_owned(),
        );
        let workflows = self.all_workflows(&org).await?.into_iter().map(|workflow| workflow.spec.id).collect();
        let principal = known.entity(org.id);
        let (this, asked) = (self.clone(), principal.clone());
        let snapshot = self.counted_snapshot(&org).await?;
        // Thousands of questions: not on a thread that serves requests. The instance stays as it is until they are answered.
        let asking = move || this.lines(&org, &snapshot, &asked, held.as_ref(), workflows);
        let (lines, more, unasked) = tokio::task::spawn_blocking(asking).await.map_err(EngineError::damaged)??;
        if !unasked.is_empty() {
            notes
                .push(format!("no input can be made up for {}, which ask for a text of a pattern", unasked.join(", ")));
        }
        if more {
            notes.push(format!("there is more than the {MAX_LINES} lines that are shown"));
        }
        Ok(Permissions { principal, instance, notes, lines })
    }

    /// The newest open instance in memory in which somebody acts.
    fn acts_in(&self, org: &Org, who: countersign_gateway_model::Pseudonym) -> Option<InstanceId> {
        let cells = org.cells().into_iter().filter(|(_, cell)| {
            // One that is at work just now is passed over: the caller can name it.
            let Ok(live) = cell.live.try_lock() else { return false };
            live.fold.as_ref().is_some_and(|fold| !fold.is_closed() && fold.created().acting == who)
        });
        cells.map(|(id, _)| id).max()
    }

    fn lines(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        principal: &EntityRef,
        held: Option<&Held>,
        workflows: Vec<Name>,
    ) -> Result<(Vec<Permission>, bool, Vec<String>), EngineError> {
        let here = EntityRef::organization(org.id);
        let mut questions: Vec<Question> =
            OF_ORGANIZATION.iter().map(|operation| self.asked(org, principal, *operation, here.clone())).collect();
        for id in workflows {
            let resource = EntityRef::new(org.id, EntityKind::Workflow, id);
            questions.extend(OF_WORKFLOW.iter().map(|op| self.asked(org, principal, *op, resource.clone())));
        }
        let instance = match held {
            Some(held) => Some(Self::instance_entity(org, held.fold()?.id())?),
            None => None,
        };
        if let Some(instance) = &instance {
            questions.extend(OF_INSTANCE.iter().map(|op| self.asked(org, principal, *op, instance.clone())));
        }
        let denials = held.map(|held| held.fold().map(|fold| u64::from(fold.denials()))).transpose()?.unwrap_or(0);
        let mut unasked = Vec::new();
        for tool in snapshot.tools() {
            // Read as a proposal's input is, masks and all.
            let smallest = tool.shape.smallest().map(|input| input::parse(tool, &input.canonical()));
            let Some(Ok(input)) = smallest else {
                unasked.push(tool.tool.name.to_string());
                continue;
            };
            let dispatched = tool.tool.runner.is_some();
            let operation = if dispatched { Operation::Dispatch } else { Operation::CallTool };
            let resource = EntityRef::new(org.id, EntityKind::Tool, tool.tool.name.clone());
            let mut asked = self.asked(org, principal, operation, resource);
            asked.instance.clone_from(&instance);
            asked.denials = denials;
            asked.input = Some(Arc::new(input));
            questions.push(asked);
        }
        let more = questions.len() > MAX_LINES;
        questions.truncate(MAX_LINES);
        let counters = org.counting.reading(snapshot, self.now(), None).counters();
        for question in &mut questions {
            question.counters.clone_from(&counters);
        }
        let lines = questions.into_iter().map(|asked| {
            let (operation, resource) = (asked.operation, asked.resource.clone());
            let slices = org.entities.slices(snapshot, std::slice::from_ref(&asked));
            let answer = decide_chain(snapshot, &slices, vec![asked]).answers.pop();
            let (decision, rules, determining) = match answer {
                Some(answer) => (answer.verdict.decision, answer.verdict.rules, answer.determining),
                None => (Decision::Deny, Vec::new(), Vec::new()),
            };
            Permission { operation, resource, decision, rules, determining }
        });
        Ok((lines.collect(), more, unasked))
    }

    /// The question as a usual credential of the principal would ask it.
    fn asked(&self, org: &Org, principal: &EntityRef, operation: Operation, resource: EntityRef) -> Question {
        let mut question = Question::new(principal.clone(), operation, resource, self.now());
        question.scopes.insert(scope_name(Scope::Act));
        if principal.kind == EntityKind::Person {
            question.assurance = org.assurance_of(&principal.id);
        }
        question.four_eyes = four_eyes(org);
        question
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations whose resource must be named: at a gate, of a person, of a run, of a bundle.
    const NAMED: [Operation; 22] = [
        Operation::CallTool,
        Operation::Dispatch,
        Operation::Approve,
        Operation::Reject,
        Operation::Override,
        Operation::BreakGlass,
        Operation::GrantTask,
        Operation::RevokeGrant,
        Operation::Remind,
        Operation::Escalate,
        Operation::Expire,
        Operation::Reassign,
        Operation::Comment,
        Operation::RequestInformation,
        Operation::SetDeputy,
        Operation::ReadRun,
        Operation::ReadGate,
        Operation::UpdatePrincipal,
        Operation::IssueToken,
        Operation::RevokeToken,
        Operation::ProposePolicy,
        Operation::ActivatePolicy,
    ];

    #[test]
    fn no_operation_is_forgotten() {
        let all = OF_ORGANIZATION.iter().chain(&OF_WORKFLOW).chain(&OF_INSTANCE).chain(&NAMED);
        let missing: Vec<_> = Operation::ALL.iter().filter(|op| !all.clone().any(|known| known == *op)).collect();
        assert!(missing.is_empty(), "{missing:?}: put each where its resource is");
    }
}
