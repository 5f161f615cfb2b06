//! The AuthZEN Authorization API 1.0 for enforcement points: `/access/v1/evaluation`, `/access/v1/evaluations`, discovery.
//!
//! The mapping of its four parts to questions is this file's table ([`target`], [`subject`], [`claims`]), told to users
//! in `docs/authzen.md`. The answer is never a permit. Absent: the search endpoints of the specification, and deciding
//! (the engine's `evaluations`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use countersign_gateway_engine::{
    EntityKind, EvaluationAnswer, EvaluationRequest, EvaluationSubject, EvaluationTarget, MAX_EVALUATIONS, Operation,
    Semantic,
};
use countersign_gateway_model::{Decision, Name, PrincipalKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::EnforcementPoint;
use crate::context;
use crate::input::Input;
use crate::layers::REQUEST_ID;
use crate::problem::{PARAMETER_INVALID, Problem};
use crate::reply;
use crate::state::AppState;

/// Longest type, id or name, in bytes.
const LONGEST_WORD: usize = 256;

/// Longest claim, `key=value`, in bytes.
const LONGEST_CLAIM: usize = 320;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(evaluate)).routes(routes!(evaluate_many)).routes(routes!(discovery))
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// A subject or a resource.
#[derive(Deserialize, Serialize, Clone, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "type": "agent", "id": "fixer" }))]
pub(crate) struct EvaluatedEntity<'a> {
    /// Its sort.
    r#type: String,
    /// Its id.
    id: String,
    /// Of a subject `instance`: the instance in which it would call a tool, which must be its own. Policy does not see any
    /// other, nor any of a resource, and they are not kept.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    properties: Option<Members<'a>>,
}

/// What the subject would do.
#[derive(Deserialize, Serialize, Clone, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "name": "callTool", "properties": { "text": "a" } }))]
pub(crate) struct EvaluatedAction<'a> {
    /// Its name.
    name: String,
    /// The input of a tool.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    properties: Option<Members<'a>>,
}

/// One question: may this subject do this to that?
#[derive(Deserialize, Serialize, Clone, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "subject": {
        "type": "agent", "id": "fixer", "properties": { "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a" }
    },
    "action": { "name": "callTool", "properties": { "text": "a" } },
    "resource": { "type": "tool", "id": "notes.append" }, "context": { "time": "2026-11-21T09:00:00Z" }
}))]
pub(crate) struct EvaluationBody<'a> {
    /// Who.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    subject: Option<EvaluatedEntity<'a>>,
    /// Does what.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    action: Option<EvaluatedAction<'a>>,
    /// To what.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    resource: Option<EvaluatedEntity<'a>>,
    /// What the caller says of the circumstances: it reaches policy as claims, never as facts.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    context: Option<Members<'a>>,
}

/// Several questions. What stands beside `evaluations` is the default of each.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "subject": {
        "type": "agent", "id": "fixer", "properties": { "instance": "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a" }
    },
    "action": { "name": "dispatch", "properties": { "path": "README.md" } },
    "evaluations": [{ "resource": { "type": "tool", "id": "repo.read" } }],
    "options": { "evaluations_semantic": "execute_all" }
}))]
pub(crate) struct EvaluationsBody<'a> {
    /// Who, unless a question says otherwise.
    #[serde(borrow, default)]
    subject: Option<EvaluatedEntity<'a>>,
    /// Does what, unless a question says otherwise.
    #[serde(borrow, default)]
    action: Option<EvaluatedAction<'a>>,
    /// To what, unless a question says otherwise.
    #[serde(borrow, default)]
    resource: Option<EvaluatedEntity<'a>>,
    /// The circumstances, unless a question says otherwise.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    context: Option<Members<'a>>,
    /// The questions, 1 to 64. Absent or empty: the defaults are the question, and the answer is a single one.
    #[serde(borrow, default)]
    evaluations: Vec<EvaluationBody<'a>>,
    /// How to go on after each.
    #[serde(default)]
    options: EvaluationOptions,
}

/// How several questions are gone through.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluationOptions {
    /// `execute_all` (the default), `deny_on_first_deny` or `permit_on_first_permit`.
    evaluations_semantic: Option<String>,
}

/// The answer to one question.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "decision": false, "context": { "verdict": "needs_approval", "reason": "a person would have to approve it", "entry": 41 }
}))]
pub(crate) struct EvaluationDecision {
    /// Whether policy allows it as it stands. Never a permit: nothing may be carried out on the strength of it alone where
    /// a permit is needed.
    decision: bool,
    /// The verdict in full.
    context: EvaluationContext,
}

/// What goes with a decision.
#[derive(Serialize, ToSchema)]
pub(crate) struct EvaluationContext {
    /// `allow`, `needs_approval` or `deny`.
    #[schema(value_type = String)]
    verdict: &'static str,
    /// Why not, in words for the enforcement point.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The entry that records it; absent where the organization records less.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<u64>,
}

/// The answers, in the order of the questions.
#[derive(Serialize, ToSchema)]
pub(crate) struct EvaluationDecisions {
    /// One for each question that was gone through.
    evaluations: Vec<EvaluationDecision>,
}

/// What an enforcement point finds here.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "policy_decision_point": "https://gateway.example", "access_evaluation_endpoint":
    "https://gateway.example/access/v1/evaluation", "access_evaluations_endpoint":
    "https://gateway.example/access/v1/evaluations"
}))]
pub(crate) struct AuthzenConfiguration {
    /// This gateway.
    policy_decision_point: String,
    /// Where one question goes.
    access_evaluation_endpoint: String,
    /// Where several go.
    access_evaluations_endpoint: String,
}

impl From<EvaluationAnswer> for EvaluationDecision {
    fn from(answer: EvaluationAnswer) -> Self {
        let verdict = match answer.decision {
            Decision::Allow => "allow",
            Decision::NeedsApproval => "needs_approval",
            Decision::Deny => "deny",
        };
        let entry = answer.receipt.map(|receipt| receipt.index);
        let context = EvaluationContext { verdict, reason: answer.reason, entry };
        Self { decision: answer.decision == Decision::Allow, context }
    }
}

/// Evaluate one question (AuthZEN)
///
/// What policy says to a subject's request, for an enforcement point that holds `evaluateFor` on the subject. It is on
/// record before it is answered, and it is never a permit.
#[utoipa::path(
    post, path = "/access/v1/evaluation", operation_id = "evaluate", tag = "authzen",
    request_body = EvaluationBody,
    responses((status = 200, description = "What policy says", body = EvaluationDecision)),
)]
async fn evaluate(
    State(app): State<AppState>,
    EnforcementPoint(who): EnforcementPoint,
    headers: HeaderMap,
    input: Input,
) -> Result<Response, Problem> {
    let own = own_id(&headers)?;
    let body: EvaluationBody<'_> = input.read()?;
    let answers = app.engine.evaluate(who, vec![request(&body)?], Semantic::ExecuteAll).await?;
    let answer = answers.into_iter().next().map(EvaluationDecision::from);
    let answer = answer.ok_or_else(|| Problem::internal("an evaluation has no answer", &std::fmt::Error))?;
    note(std::slice::from_ref(&answer));
    Ok(identified(reply::json(StatusCode::OK, &answer)?, own))
}

/// Evaluate several questions (AuthZEN)
///
/// In order, each on record before it is answered. `deny_on_first_deny` and `permit_on_first_permit` end early.
#[utoipa::path(
    post, path = "/access/v1/evaluations", operation_id = "evaluateMany", tag = "authzen",
    request_body = EvaluationsBody,
    responses((status = 200, description = "What policy says to each", body = EvaluationDecisions)),
)]
async fn evaluate_many(
    State(app): State<AppState>,
    EnforcementPoint(who): EnforcementPoint,
    headers: HeaderMap,
    input: Input,
) -> Result<Response, Problem> {
    let own = own_id(&headers)?;
    let body: EvaluationsBody<'_> = input.read()?;
    if body.evaluations.len() > MAX_EVALUATIONS {
        let detail = format!("ask for at most {MAX_EVALUATIONS} at a time");
        return Err(Problem::new(PARAMETER_INVALID, detail).at("/evaluations"));
    }
    let single = body.evaluations.is_empty();
    let semantic = match body.options.evaluations_semantic.as_deref() {
        None | Some("execute_all") => Semantic::ExecuteAll,
        Some("deny_on_first_deny") => Semantic::DenyOnFirstDeny,
        Some("permit_on_first_permit") => Semantic::PermitOnFirstPermit,
        Some(other) => {
            let detail = format!("`evaluations_semantic` has no `{}`", other.chars().take(40).collect::<String>());
            return Err(Problem::new(PARAMETER_INVALID, detail).at("/options/evaluations_semantic"));
        }
    };
    let questions = if single { vec![EvaluationBody::default()] } else { body.evaluations };
    let requests = questions.into_iter().map(|question| {
        request(&EvaluationBody {
            subject: question.subject.or_else(|| body.subject.clone()),
            action: question.action.or_else(|| body.action.clone()),
            resource: question.resource.or_else(|| body.resource.clone()),
            context: question.context.or_else(|| body.context.clone()),
        })
    });
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    let answers = app.engine.evaluate(who, requests, semantic).await?;
    let mut evaluations: Vec<EvaluationDecision> = answers.into_iter().map(EvaluationDecision::from).collect();
    note(&evaluations);
    let reply = match (single, evaluations.pop()) {
        (true, Some(answer)) => reply::json(StatusCode::OK, &answer)?,
        (_, last) => {
            evaluations.extend(last);
            reply::json(StatusCode::OK, &EvaluationDecisions { evaluations })?
        }
    };
    Ok(identified(reply, own))
}

/// Discover the evaluation endpoints (AuthZEN)
#[utoipa::path(
    get, path = "/.well-known/authzen-configuration", operation_id = "authzenConfiguration", tag = "authzen", security(()),
    responses((status = 200, description = "Where to ask", body = AuthzenConfiguration)),
)]
async fn discovery(uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    // Whoever asked reached this gateway by that name; TLS in front of it is told by the header that proxies set.
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let host = named.or_else(|| uri.authority().cloned());
    let host = host.ok_or_else(|| Problem::new(PARAMETER_INVALID, "the request names no host that could be told"))?;
    let forwarded = headers.get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    let loopback = match host.host().trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.host() == "localhost",
    };
    let scheme = forwarded.filter(|proto| ["http", "https"].contains(proto));
    let scheme = scheme.unwrap_or(if loopback { "http" } else { "https" });
    let base = format!("{scheme}://{host}");
    reply::ok(&AuthzenConfiguration {
        access_evaluation_endpoint: format!("{base}/access/v1/evaluation"),
        access_evaluations_endpoint: format!("{base}/access/v1/evaluations"),
        policy_decision_point: base,
    })
}

fn note(answers: &[EvaluationDecision]) {
    if let Some(entry) = answers.iter().rev().find_map(|answer| answer.context.entry) {
        context::note_entry(entry);
    }
}

/// The caller's own request id, checked before anything is on record.
fn own_id(headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    let Some(id) = headers.get(REQUEST_ID) else { return Ok(None) };
    if id.len() <= 128 && id.as_bytes().iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        return Ok(Some(id.clone()));
    }
    Err(Problem::new(PARAMETER_INVALID, "`x-request-id` has at most 128 visible ASCII characters"))
}

/// Gives it back, as the specification has it.
fn identified(mut response: Response, own: Option<HeaderValue>) -> Response {
    if let Some(id) = own {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn request(body: &EvaluationBody<'_>) -> Result<EvaluationRequest, Problem> {
    let missing = |part: &str| Problem::new(PARAMETER_INVALID, format!("`{part}` is missing")).at(&format!("/{part}"));
    let subject_in = body.subject.as_ref().ok_or_else(|| missing("subject"))?;
    let action = body.action.as_ref().ok_or_else(|| missing("action"))?;
    let resource = body.resource.as_ref().ok_or_else(|| missing("resource"))?;
    let instance = subject_in.properties.as_ref().and_then(instance);
    let words = [&subject_in.r#type, &subject_in.id, &action.name, &resource.r#type, &resource.id];
    if words.into_iter().chain(&instance).any(|word| word.len() > LONGEST_WORD) {
        return Err(Problem::new(PARAMETER_INVALID, format!("types, ids and names have at most {LONGEST_WORD} bytes")));
    }
    let internal = |error: serde_json::Error| Problem::internal("a question could not be written", &error);
    // No other properties: the typed question holds what policy may see of them.
    let mut asked = serde_json::json!({
        "subject": { "type": subject_in.r#type, "id": subject_in.id },
        "action": action.name,
        "resource": { "type": resource.r#type, "id": resource.id },
    });
    if let (Some(members), Some(instance)) = (asked.as_object_mut(), &instance) {
        members.insert("instance".to_owned(), instance.as_str().into());
    }
    Ok(EvaluationRequest {
        subject: subject(subject_in),
        target: target(action, resource).map_err(internal)?,
        instance,
        claims: body.context.as_ref().map(claims).transpose()?.unwrap_or_default(),
        asked,
    })
}

/// The instance that a subject's properties name. What is no text names none, and stays so that it is refused.
fn instance(properties: &Members<'_>) -> Option<String> {
    let named = properties.get("instance")?.get();
    Some(serde_json::from_str::<String>(named).unwrap_or_else(|_| named.to_owned()))
}

/// `user` and `person` are persons, `agent` and `service` what they say; anything else is nobody.
fn subject(entity: &EvaluatedEntity<'_>) -> Option<EvaluationSubject> {
    let kind = match entity.r#type.as_str() {
        "user" | "person" => PrincipalKind::Person,
        "agent" => PrincipalKind::Agent,
        "service" => PrincipalKind::Service,
        _ => return None,
    };
    Some((kind, Name::new(&entity.id).ok()?))
}

/// What is asked: a tool by its name, one of the gateway's operations, or the tool `<resource type>.<action>`.
fn target(
    action: &EvaluatedAction<'_>,
    resource: &EvaluatedEntity<'_>,
) -> Result<Option<EvaluationTarget>, serde_json::Error> {
    let properties = action.properties.clone().unwrap_or_default();
    if resource.r#type == "tool" {
        let known = ["callTool", "dispatch"].contains(&action.name.as_str());
        let tool = Name::new(&resource.id).ok().filter(|_| known);
        let input = serde_json::to_vec(&properties)?;
        return Ok(tool.map(|tool| EvaluationTarget::Tool { tool, input }));
    }
    if let Some(kind) = kind(&resource.r#type) {
        let operation = Operation::parse(&action.name);
        return Ok(operation.zip(Name::new(&resource.id).ok()).map(|(operation, id)| EvaluationTarget::Operation {
            operation,
            kind,
            id,
        }));
    }
    let Ok(tool) = Name::new(&format!("{}.{}", resource.r#type, action.name)) else { return Ok(None) };
    let id = serde_json::value::to_raw_value(&resource.id)?;
    let mut properties = properties;
    // What is decided on is what the enforcement point guards, whatever its caller wrote beside it.
    properties.insert("id".to_owned(), &id);
    Ok(Some(EvaluationTarget::Tool { tool, input: serde_json::to_vec(&properties)? }))
}

/// `policy_bundle` is the entity type `PolicyBundle`.
fn kind(text: &str) -> Option<EntityKind> {
    let snake = |kind: &EntityKind| {
        let mut out = String::new();
        for (at, letter) in kind.as_str().char_indices() {
            if at > 0 && letter.is_ascii_uppercase() {
                out.push('_');
            }
            out.push(letter.to_ascii_lowercase());
        }
        out
    };
    EntityKind::ALL.iter().copied().find(|kind| snake(kind) == text)
}

/// Members of the context as `key=value`: text without its quotes, anything else as JSON.
fn claims(members: &Members<'_>) -> Result<BTreeSet<String>, Problem> {
    members
        .iter()
        .map(|(key, value)| {
            let text = serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().to_owned());
            let claim = format!("{key}={text}");
            if claim.len() > LONGEST_CLAIM || key.is_empty() || key.contains('=') {
                let detail =
                    format!("a member has a name without `=` and at most {LONGEST_CLAIM} bytes with its value");
                return Err(Problem::new(PARAMETER_INVALID, detail).at("/context"));
            }
            Ok(claim)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> EvaluationBody<'_> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn each_row_of_the_mapping_leads_to_its_question() {
        let cases = [
            (
                r#"{"subject":{"type":"agent","id":"a"},"action":{"name":"callTool","properties":{"n":1.10}},
                    "resource":{"type":"tool","id":"repo.read"}}"#,
                "Some((Agent, Name(\"a\")))",
                r#"tool repo.read {"n":1.10}"#,
            ),
            (
                r#"{"subject":{"type":"user","id":"d"},"action":{"name":"terminate"},
                    "resource":{"type":"instance","id":"inst_1"}}"#,
                "Some((Person, Name(\"d\")))",
                "terminate Instance inst_1",
            ),
            (
                r#"{"subject":{"type":"service","id":"s"},"action":{"name":"activatePolicy"},
                    "resource":{"type":"policy_bundle","id":"b"}}"#,
                "Some((Service, Name(\"s\")))",
                "activatePolicy PolicyBundle b",
            ),
            (
                r#"{"subject":{"type":"user","id":"alice@acmecorp.com"},
                    "action":{"name":"can_read","properties":{"method":"GET","id":"mine"}},
                    "resource":{"type":"account","id":"123"}}"#,
                "None",
                r#"tool account.can_read {"id":"123","method":"GET"}"#,
            ),
            (
                r#"{"subject":{"type":"robot","id":"r"},"action":{"name":"drill"},"resource":{"type":"tool","id":"t"}}"#,
                "None",
                "nothing",
            ),
        ];
        for (text, who, what) in cases {
            let body = body(text);
            let request = request(&body).unwrap();
            let got = match &request.target {
                None => "nothing".to_owned(),
                Some(EvaluationTarget::Tool { tool, input }) => {
                    format!("tool {tool} {}", std::str::from_utf8(input).unwrap())
                }
                Some(EvaluationTarget::Operation { operation, kind, id }) => {
                    format!("{} {} {id}", operation.as_str(), kind.as_str())
                }
            };
            assert_eq!(got, what, "{text}");
            let subject = request.subject.map(|(kind, id)| format!("Some(({kind:?}, Name(\"{id}\")))"));
            assert_eq!(subject.as_deref().unwrap_or("None"), who, "{text}");
        }
    }

    #[test]
    fn a_subjects_instance_is_kept_and_no_other_property() {
        let with = |subject: &str, resource: &str| {
            let text = format!(
                r#"{{"subject":{{"type":"agent","id":"a","properties":{subject}}},"action":{{"name":"callTool"}},
                "resource":{{"type":"tool","id":"t","properties":{resource}}}}}"#
            );
            request(&body(&text)).unwrap()
        };
        let named = with(r#"{"instance":"inst_1","mood":"good"}"#, "{}");
        assert_eq!(named.instance.as_deref(), Some("inst_1"));
        let kept = serde_json::json!({
            "subject": { "type": "agent", "id": "a" }, "action": "callTool", "instance": "inst_1",
            "resource": { "type": "tool", "id": "t" },
        });
        assert_eq!(named.asked, kept);
        // The properties of a resource are its own: a database has instances too.
        assert_eq!(with("{}", r#"{"instance":"inst_1"}"#).instance, None);
        for odd in ["7", "null", r#"["inst_1"]"#, r#"{"id":"inst_1"}"#] {
            let asked = with(&format!(r#"{{"instance":{odd}}}"#), "{}");
            assert_eq!(asked.instance.as_deref(), Some(odd), "it is there, and names none");
        }
        let long = format!(
            r#"{{"subject":{{"type":"agent","id":"a","properties":{{"instance":"{}"}}}},"action":{{"name":"callTool"}},
            "resource":{{"type":"tool","id":"t"}}}}"#,
            "x".repeat(LONGEST_WORD + 1)
        );
        assert_eq!(request(&body(&long)).unwrap_err().code(), "parameter-invalid");
    }

    #[test]
    fn context_becomes_claims_and_nothing_else() {
        let text = r#"{"subject":{"type":"user","id":"d"},"action":{"name":"start"},"resource":{"type":"workflow","id":"w"},
            "context":{"time":"1985-10-26T01:22-07:00","satisfied":["merge"],"n":1}}"#;
        let request = request(&body(text)).unwrap();
        let claims: Vec<&str> = request.claims.iter().map(String::as_str).collect();
        assert_eq!(claims, ["n=1", "satisfied=[\"merge\"]", "time=1985-10-26T01:22-07:00"]);
    }

    #[test]
    fn a_question_without_one_of_its_parts_is_refused() {
        for (text, part) in [
            (r#"{"action":{"name":"a"},"resource":{"type":"t","id":"i"}}"#, "subject"),
            (r#"{"subject":{"type":"user","id":"d"},"resource":{"type":"t","id":"i"}}"#, "action"),
            (r#"{"subject":{"type":"user","id":"d"},"action":{"name":"a"}}"#, "resource"),
        ] {
            let problem = request(&body(text)).unwrap_err();
            assert_eq!(problem.code(), "parameter-invalid", "{part}");
        }
    }
}
