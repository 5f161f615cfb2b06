//! Questions about policy that permit nothing: who may approve a gate, what a principal may do, what-if by the dozen.
//!
//! For persons and services that hold `queryPolicy`, never for agents. Nothing is recorded. Absent: why one question is
//! answered as it is (`policies`).

use axum::extract::State;
use axum::response::Response;
use countersign_gateway_engine as engine;
use countersign_gateway_identity::Subject;
use countersign_gateway_model::{Decision, GateId, InstanceId, ItemId, Name};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::gates::Gate;
use crate::input::{Cursor, Id, Input, Paging, Params, Upload};
use crate::policies::QuestionExplained;
use crate::problem::Problem;
use crate::reply;
use crate::state::AppState;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_approvers))
        .routes(routes!(list_permissions))
        .routes(routes!(explain_questions))
}

/// Which persons.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Persons {
    /// Cursor that the page before gave as `next`.
    after: Option<String>,
    /// How many at most: 1 to 200, usually 50.
    limit: Option<usize>,
}

/// One person, for one item.
#[derive(Serialize, ToSchema)]
pub(crate) struct ItemApprover {
    /// The item.
    #[schema(value_type = String)]
    item: ItemId,
    /// A vote of theirs would count now.
    may: bool,
    /// The rules that it would count for.
    #[schema(value_type = Vec<String>)]
    rules: Vec<Name>,
    /// They have voted for it.
    voted: bool,
    /// What stands in the way, in words.
    why_not: Vec<String>,
}

/// One person, for one gate.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approver {
    /// Who.
    #[schema(value_type = String)]
    person: Name,
    /// A vote of theirs would count for an item now.
    may: bool,
    /// Per item.
    items: Vec<ItemApprover>,
}

/// Who may approve a gate.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "gate": {
        "id": "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a",
        "subject": "actions", "open": true, "opened": "2026-11-20T09:00:00.000Z", "items": []
    },
    "notes": [], "demands": [],
    "persons": [{ "person": "ann", "may": true, "items": [{
        "item": "item_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "may": true, "rules": ["merge"], "voted": false, "why_not": []
    }] }]
}))]
pub(crate) struct Approvers {
    gate: Gate,
    /// What stands in everybody's way.
    notes: Vec<String>,
    /// What a vote must bring besides, rule by rule; whether somebody has it is not looked at.
    demands: Vec<String>,
    /// Every person who is known, by id.
    persons: Vec<Approver>,
    /// Where the next page begins; absent: this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl From<engine::Approvers> for Approvers {
    fn from(answer: engine::Approvers) -> Self {
        let item = |item: engine::ItemApprover| ItemApprover {
            item: item.item,
            may: item.may,
            rules: item.rules,
            voted: item.voted,
            why_not: item.why_not,
        };
        let person = |person: engine::Approver| Approver {
            person: person.person,
            may: person.may,
            items: person.items.into_iter().map(item).collect(),
        };
        Self {
            gate: answer.gate.into(),
            notes: answer.notes,
            demands: answer.demands,
            persons: answer.persons.into_iter().map(person).collect(),
            next: answer.next.as_ref().map(Cursor::write),
        }
    }
}

/// Whose permissions, and in which instance.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "principal": "agent:fixer", "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a" }))]
pub(crate) struct PermissionsAsked {
    /// `person:<id>`, `agent:<id>` or `service:<id>`.
    #[schema(value_type = String)]
    principal: Subject,
    /// The instance in which tools are asked about; absent: the newest open one in which the principal acts.
    #[schema(value_type = Option<String>)]
    instance: Option<InstanceId>,
}

/// One thing that can be asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct Permission {
    /// What: an operation's name.
    operation: &'static str,
    /// Of what: `Tool::repo.read`.
    resource: String,
    /// `allow`, `needs_approval` or `deny`.
    #[schema(value_type = String)]
    decision: Decision,
    /// The rules by which people would have to approve.
    #[schema(value_type = Vec<String>)]
    rules: Vec<Name>,
    /// The policies that determine it.
    #[schema(value_type = Vec<String>)]
    determining: Vec<Name>,
}

/// What a principal may do now.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "principal": "Agent::fixer", "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a", "notes": [],
    "permissions": [{
        "operation": "dispatch", "resource": "Tool::repo.read", "decision": "allow", "rules": [],
        "determining": ["agent-uses-tools"]
    }]
}))]
#[expect(clippy::struct_field_names, reason = "this is the name on the wire")]
pub(crate) struct Permissions {
    /// Whose they are.
    principal: String,
    /// The instance in which tools were asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    instance: Option<InstanceId>,
    /// What the lines do not say.
    notes: Vec<String>,
    /// One line a question.
    permissions: Vec<Permission>,
}

impl From<engine::Permissions> for Permissions {
    fn from(answer: engine::Permissions) -> Self {
        let line = |line: engine::Permission| Permission {
            operation: line.operation.as_str(),
            resource: line.resource.to_string(),
            decision: line.decision,
            rules: line.rules,
            determining: line.determining,
        };
        Self {
            principal: answer.principal.to_string(),
            instance: answer.instance,
            notes: answer.notes,
            permissions: answer.lines.into_iter().map(line).collect(),
        }
    }
}

/// Questions that nobody has asked yet.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "questions": [
    { "asked": "Agent::fixer", "op": "callTool", "resource": "Tool::notes.append", "input": { "text": "a" } }
] }))]
pub(crate) struct QuestionsAsked<'a> {
    /// 1 to 100 questions in the form of a bundle's tests.
    #[serde(borrow)]
    #[schema(value_type = Vec<Object>)]
    questions: Vec<&'a RawValue>,
}

/// The answer to one of several questions.
#[derive(Serialize, ToSchema)]
pub(crate) struct QuestionAnswered {
    /// Its explanation.
    #[serde(skip_serializing_if = "Option::is_none")]
    explained: Option<QuestionExplained>,
    /// Why it is no question.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Answers, in the order of the questions.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "answers": [{ "explained": {
    "asked": "Agent::fixer", "operation": "callTool", "resource": "Tool::notes.append",
    "verdict": { "decision": "allow", "rules": [], "error": false }, "determining": ["agent-uses-tools"],
    "policies": [], "found": [], "text": "allowed by agent-uses-tools\n"
} }] }))]
pub(crate) struct QuestionsAnswered {
    answers: Vec<QuestionAnswered>,
}

/// Ask who may approve a gate
///
/// For every person who is known: whether a vote of theirs would count now, and in words why not. Not for agents.
#[utoipa::path(
    get, path = "/api/v1/gates/{id}/approvers", operation_id = "listApprovers", tag = "policies",
    params(("id" = String, Path, description = "The gate"), Persons),
    responses((status = 200, description = "Persons by id", body = Approvers)),
)]
async fn list_approvers(
    State(app): State<AppState>,
    Auth(who): Auth,
    Id(id): Id<GateId>,
    Params(persons): Params<Persons>,
) -> Result<Response, Problem> {
    let after = Cursor::<Name>::read(persons.after.as_deref())?;
    let limit = Paging::limit(persons.limit)?;
    reply::ok(&Approvers::from(app.engine.approvers(&who, id, after.as_ref(), limit).await?))
}

/// Ask what a principal may do
///
/// Every operation on the organization, its workflows and tools, and on one instance: allowed, with people's approval, or
/// not. What needs a gate, a person or a bundle to be named is not in it. Nothing is permitted by it, and nothing is
/// recorded. Not for agents.
#[utoipa::path(
    post, path = "/api/v1/policies/permissions", operation_id = "listPermissions", tag = "policies",
    request_body = PermissionsAsked,
    responses((status = 200, description = "One line a question", body = Permissions)),
)]
async fn list_permissions(State(app): State<AppState>, Auth(who): Auth, input: Input) -> Result<Response, Problem> {
    let body: PermissionsAsked = input.read()?;
    let principal = (body.principal.kind(), body.principal.id());
    reply::ok(&Permissions::from(app.engine.permissions(&who, principal, body.instance).await?))
}

/// Explain what policy would say to many questions
///
/// As `explainQuestion`, for up to 100 at a time; one that is none does not stand in the way of the others. Not for agents.
#[utoipa::path(
    post, path = "/api/v1/policies/what-if", operation_id = "explainQuestions", tag = "policies",
    request_body = QuestionsAsked<'static>,
    responses((status = 200, description = "One answer a question", body = QuestionsAnswered)),
)]
async fn explain_questions(State(app): State<AppState>, Auth(who): Auth, upload: Upload) -> Result<Response, Problem> {
    let body: QuestionsAsked<'_> = upload.read()?;
    let questions: Vec<&[u8]> = body.questions.iter().map(|question| question.get().as_bytes()).collect();
    let mut answers = Vec::with_capacity(questions.len());
    for answer in app.engine.what_if_each(&who, &questions).await? {
        answers.push(match answer {
            Ok(explained) => QuestionAnswered { explained: Some(explained.try_into()?), problem: None },
            Err(engine::EngineError::Invalid { problem, .. }) => {
                QuestionAnswered { explained: None, problem: Some(problem) }
            }
            Err(engine::EngineError::NotFound(what)) => {
                let problem = format!("there is no such {what}, or it is not yours to see");
                QuestionAnswered { explained: None, problem: Some(problem) }
            }
            Err(error) => return Err(error.into()),
        });
    }
    reply::ok(&QuestionsAnswered { answers })
}
