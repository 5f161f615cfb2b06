//! The OpenAPI 3.1 document: made of the handlers, with what holds for every operation added in one place.
//!
//! Also the two lists that tests hold the document to: operations without a credential, and changing operations
//! without an entry, each with its reason. Absent: any operation.

use serde_json::json;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ArrayItems, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder,
    SecurityRequirement,
};

/// Operations that answer without a credential, by operation id, with the reason.
pub const OPEN: &[(&str, &str)] = &[
    ("authzenConfiguration", "discovery: it says where to ask, and nothing about any organization"),
    ("clientCredentials", "it is how a service account gets a credential; the secret is in the body"),
    ("enrolPerson", "it is how the first person gets in; the one-time token is in the body"),
    ("enrolServiceAccount", "it is how an agent or a runner gets in; the one-time token is in the body"),
    ("getCheckpoint", "open where the organization has set `log.public_read`, else as if there were no log"),
    ("getProblemPage", "pages about problems are the same for everybody"),
    ("getTile", "open where the organization has set `log.public_read`, else as if there were no log"),
    ("healthz", "a probe has no credential, and learns nothing but that the process is alive"),
    ("info", "version and root keys are public by their nature: auditors compare them"),
    ("login", "it is how a person gets a credential; the password is in the body"),
    ("metrics", "open where the gateway listens on loopback only; no figure names a tenant"),
    ("readyz", "a probe has no credential, and learns only whether work is taken"),
    ("startupz", "a probe has no credential, and learns only whether the start is over"),
];

/// Operations with a changing method that leave no entry, by operation id, with the reason.
pub const WITHOUT_ENTRY: &[(&str, &str)] = &[
    ("backtestPolicy", "it asks a candidate about the past, permits nothing and changes nothing"),
    ("checkPolicy", "it reads a candidate and changes nothing"),
    ("clientCredentials", "a credential for a token: counted and logged; what the token does is asked and recorded"),
    ("consent", "it confers nothing by itself: each use is asked of the delegator too, and recorded with the chain"),
    ("explainQuestion", "it answers a question about policy, permits nothing and changes nothing"),
    ("explainQuestions", "it answers questions about policy, permits nothing and changes nothing"),
    ("exchangeConsent", "a credential for a token: counted and logged; what the token does is recorded with the chain"),
    ("listPermissions", "it answers a question about policy, permits nothing and changes nothing"),
    (
        "login",
        "a credential for a token: counted and logged; what the token does is recorded, and a code that is spent",
    ),
    ("uploadWorkspace", "bytes under their own digest, which no authority rests on until an entry names them"),
    ("verifyPack", "it checks bytes and keeps nothing"),
];

/// Changing operations that take no `Idempotency-Key`, by operation id, with the reason.
pub const WITHOUT_IDEMPOTENCY: &[(&str, &str)] = &[
    ("activatePolicy", "the confirmed difference is to the bundle active now: a repeat finds another one"),
    ("backtestPolicy", "it changes nothing"),
    ("changeAgent", "it sets values: a repeat sets the same"),
    ("changePerson", "it sets values: a repeat sets the same"),
    ("changeService", "it sets values: a repeat sets the same"),
    ("changeServiceAccount", "it sets a value: a repeat sets the same"),
    ("beginSecondFactor", "an answer with a secret is not kept to be given again; a repeat begins anew"),
    ("checkPolicy", "it changes nothing"),
    ("clientCredentials", "an answer with a secret is not kept to be given again"),
    ("confirmSecondFactor", "the token ends with it; with a new one a repeat is `second-factor-in-force`"),
    ("consent", "an answer with a secret is not kept to be given again"),
    ("createAgent", "the caller chooses the id: a repeat is `account-exists`"),
    ("createPerson", "the caller chooses the id: a repeat is `account-exists`"),
    ("createService", "the caller chooses the id: a repeat is `account-exists`"),
    ("createServiceAccount", "an answer with a secret is not kept to be given again; disable the one that was lost"),
    ("enrolPerson", "the token is good once: a repeat is `enrolment-used`"),
    ("enrolServiceAccount", "the token is good once: a repeat is `enrolment-used`"),
    ("erasePerson", "a repeat is `account-unknown`"),
    ("evaluate", "each call is a question of its own, with its own entry"),
    ("evaluateMany", "each call is a question of its own, with its own entries"),
    ("exchangeConsent", "an answer with a secret is not kept to be given again"),
    ("explainQuestion", "it changes nothing"),
    ("explainQuestions", "it changes nothing"),
    ("importMcpTools", "it sets what is listed: a repeat changes nothing, or finds what waits"),
    ("invitePerson", "an answer with a secret is not kept to be given again; the lost one ends after 15 minutes"),
    (
        "inviteServiceAccount",
        "an answer with a secret is not kept to be given again; the lost one ends after 15 minutes",
    ),
    ("listPermissions", "it changes nothing"),
    ("login", "an answer with a secret is not kept to be given again"),
    ("registerPersonKey", "a key is registered once: a repeat is `key-known`"),
    ("registerTools", "it sets what is listed: a repeat changes nothing, or finds what waits"),
    ("registerWorkflow", "the caller chooses id and version: a repeat finds them registered"),
    ("removeSecondFactor", "a repeat is `second-factor-unknown`"),
    ("retireTool", "a repeat is `not-found`"),
    ("revokePersonKey", "a key is taken back once: a repeat is `parameter-invalid`"),
    ("revokeToken", "a repeat revokes what is revoked"),
    ("rotateClientSecret", "an answer with a secret is not kept to be given again"),
    ("setPassword", "a repeat sets the same password"),
    ("uploadWorkspace", "the same tree has the same digest"),
    ("verifyPack", "it changes nothing"),
];

/// Operations that take `Prefer: wait=N`.
const WAITING: [&str; 6] = ["createInstance", "getGate", "getInstance", "getRun", "getRunLogs", "proposeActions"];

const DESCRIPTION: &str = "Countersign stands in front of AI agents and the machines that run their work: each \
    proposal is asked of policy, paused for people where policy says so, committed as a signed entry to a Merkle ledger, \
    and only then carried out.\n\n\
    Errors are `application/problem+json` (RFC 9457); `code` is stable, and `type` leads to a page that says what to do. \
    Words in answers may grow: treat one that you do not know as neither success nor failure. Cursors are opaque. Ids have \
    a prefix that names their kind. Each answer has an `x-request-id`; those to an authenticated caller have `ratelimit` \
    headers.";

/// The frame that operations are put into.
pub(crate) fn frame() -> OpenApi {
    let tags = [
        ("instances", "Governed executions"),
        ("actions", "What agents propose, start and report"),
        ("gates", "What waits for people, and their decisions"),
        ("runs", "What runners carry out, and workspaces"),
        ("workflows", "What instances are made of"),
        ("tools", "What agents may call: the catalogue, and how it changes"),
        ("policies", "The policy in force, and how it changes"),
        ("authzen", "What policy would say, for enforcement points (AuthZEN Authorization API 1.0)"),
        ("audit", "History, proofs and evidence"),
        ("log", "The log in tlog-tiles form"),
        ("accounts", "Persons, agents, services and their credentials"),
        ("enrolments", "One-time tokens to come in with"),
        ("tokens", "Credentials to tokens"),
        ("settings", "What holds for the whole organization"),
        ("health", "The gateway itself"),
    ];
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(
            "A token of this gateway: `POST /api/v1/tokens/login` or `/api/v1/tokens/client-credentials`",
        ))
        .build();
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Countersign")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .license(Some(license)),
        )
        .tags(Some(tags.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build())))
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme("bearer", SecurityScheme::Http(bearer))
                .schema("Problem", problem_schema())
                .response("Problem", problem_response())
                .build(),
        ))
        .build()
}

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

fn problem_schema() -> Schema {
    let integer = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
    ObjectBuilder::new()
        .description(Some("A request that was not carried out (RFC 9457). Members beside these may come."))
        .property("type", string().description(Some("Where its page is, relative to this gateway")))
        .property("title", string().description(Some("The same for every occurrence")))
        .property("status", integer().description(Some("The HTTP status")))
        .property("detail", string().description(Some("What is the matter this time")))
        .property("code", string().description(Some("Stable name; more may come")))
        .property("instance", string().description(Some("The request id")))
        .property("retry_after", integer().description(Some("Seconds after which trying again makes sense")))
        .property(
            "gate",
            ObjectBuilder::new()
                .description(Some("The gate that the instance waits at"))
                .property("id", string())
                .property("href", string()),
        )
        .property("receipt", Ref::from_schema_name("Receipt"))
        .property(
            "allowed",
            utoipa::openapi::schema::ArrayBuilder::new().items(string()).description(Some("Fields that are known")),
        )
        .property(
            "errors",
            utoipa::openapi::schema::ArrayBuilder::new()
                .description(Some("Each fault with its place in the body, as a JSON pointer"))
                .items(ObjectBuilder::new().property("pointer", string()).property("detail", string())),
        )
        .required("type")
        .required("title")
        .required("status")
        .required("detail")
        .required("code")
        .examples([json!({
            "type": "/problems/policy-denied", "title": "Policy refuses", "status": 403, "detail": "refused by policy",
            "code": "policy-denied", "instance": "req_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a"
        })])
        .build()
        .into()
}

fn problem_response() -> utoipa::openapi::Response {
    ResponseBuilder::new()
        .description("It was not carried out")
        .content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build(),
        )
        .build()
}

/// Adds to every operation what holds for it: problems, credential, and the headers that it takes.
pub(crate) fn complete(api: &mut OpenApi) {
    let paths = std::mem::take(&mut api.paths.paths);
    for (path, mut item) in paths {
        for (method, operation) in operations(&mut item) {
            complete_operation(&path, &method, operation);
        }
        // The router marks what takes the rest of a path; the document knows no such thing.
        api.paths.paths.insert(path.replace("{*", "{"), item);
    }
    for (name, schema) in api.components.iter_mut().flat_map(|components| &mut components.schemas) {
        if let Some(item) = name.strip_prefix("Page_") {
            refer(schema, item);
        }
    }
}

/// A page refers to what it is a page of, which generic types would repeat.
fn refer(page: &mut RefOr<Schema>, item: &str) {
    if let RefOr::T(Schema::Object(page)) = page
        && let Some(RefOr::T(Schema::Array(list))) = page.properties.get_mut("items")
    {
        list.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(item).into()));
    }
}

fn complete_operation(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let id = operation.operation_id.clone().unwrap_or_default();
    let listed = |list: &[(&str, &str)]| list.iter().any(|(name, _)| *name == id);
    let changes = !matches!(method, HttpMethod::Get);
    let open = listed(OPEN);
    if operation.security.is_none() && !open {
        operation.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    }
    if changes && !listed(WITHOUT_IDEMPOTENCY) {
        let text = "Makes a repeat of this request the same request: the same key with the same body gets the same \
                    answer, another body gets 409. 1 to 255 visible ASCII characters.";
        header(operation, "Idempotency-Key", text, "5f0c2b9e-6a55-4f0e-9f6d-2f0d8f6a2b11");
    }
    if WAITING.contains(&id.as_str()) {
        header(operation, "Prefer", "`wait=N`: wait up to N seconds, at most 25, for what is asked for.", "wait=25");
    }
    let mut statuses = vec!["429", "500", "503"];
    if !open || operation.security.as_ref().is_some_and(|all| all.len() > 1) {
        statuses.extend(["401", "403"]);
    }
    if matches!(id.as_str(), "login" | "clientCredentials" | "enrolPerson" | "enrolServiceAccount") {
        statuses.push("401");
    }
    if path.starts_with("/api/") || path.contains('{') {
        statuses.push("400");
    }
    if path.contains('{') || path.starts_with("/api/v1/") {
        statuses.push("404");
    }
    if changes {
        statuses.extend(["409", "413", "415", "422"]);
    }
    // Any other status is a problem too, and one that comes later will be.
    statuses.push("default");
    for status in statuses {
        let response = RefOr::Ref(Ref::from_response_name("Problem"));
        operation.responses.responses.entry(status.to_owned()).or_insert(response);
    }
}

fn header(operation: &mut Operation, name: &str, text: &str, example: &str) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(text))
        .schema(Some(string()))
        .example(Some(json!(example)))
        .build();
    operation.parameters.get_or_insert_with(Vec::new).push(parameter.into());
}

/// The operations of a path, in a fixed order.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    [
        (HttpMethod::Get, item.get.as_mut()),
        (HttpMethod::Post, item.post.as_mut()),
        (HttpMethod::Put, item.put.as_mut()),
        (HttpMethod::Patch, item.patch.as_mut()),
        (HttpMethod::Delete, item.delete.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.map(|operation| (method, operation)))
}

#[cfg(test)]
mod tests;
