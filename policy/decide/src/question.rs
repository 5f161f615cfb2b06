//! One question to policy: who asks to do what with which thing, and the facts that come with it.
//!
//! Its canonical JSON is the blob that is stored beside the ledger and from which the verdict is computed again.
//! `satisfied`, `overridden` and `granted` are the engine's count of signed decisions, never a caller's word.
//! Absent: entities (they come by slice), answers. Read next: `store`, `decide`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_gateway_model::{Assurance, Digest, Name, OrgId, Scope, Timestamp};

use crate::catalogue::CompiledTool;
use crate::input::{self, TypedInput};
use crate::json::{Json, JsonError, shown, write_text};
use crate::masks;
use crate::operation::Operation;
use crate::reference::{EntityKind, EntityRef, ReferenceError, write_org};
use crate::shape::InputError;
use crate::snapshot::PolicySnapshot;

#[expect(clippy::struct_excessive_bools, reason = "independent facts, each an attribute of the context")]
/// A question. Build it with [`Question::new`] and set what differs from the defaults.
#[derive(Clone, Debug)]
pub struct Question {
    /// The organization, from the credential.
    pub org: OrgId,
    /// Who is asked about: the acting principal, or one on whose behalf it acts.
    pub asked: EntityRef,
    /// What is asked.
    pub operation: Operation,
    /// What it is done to.
    pub resource: EntityRef,
    /// When, by the gateway's clock.
    pub now: Timestamp,
    /// A tool's input, typed.
    pub input: Option<Arc<TypedInput>>,
    /// The instance it happens in.
    pub instance: Option<EntityRef>,
    /// Rules met for exactly this question.
    pub satisfied: BTreeSet<Name>,
    /// Those of them that were met for an input that a person changed.
    pub overridden: BTreeSet<Name>,
    /// Those of them that a task grant met.
    pub granted: BTreeSet<Name>,
    /// What is known beyond that. What masks and detectors say of the input comes with the input.
    pub facts: BTreeSet<Name>,
    /// What the caller says of itself, `key=value`.
    pub claims: BTreeSet<String>,
    /// The value of every counter that the bundle names, open reservations included: decimal text with 1 to 4 places.
    pub counters: BTreeMap<Name, String>,
    /// What the credential may be used for.
    pub scopes: BTreeSet<&'static str>,
    /// How sure the login was.
    pub assurance: Assurance,
    /// When the login was.
    pub authenticated_at: Option<Timestamp>,
    /// Whatever the answer is, nothing is taken from counters: each of them is advisory to this question.
    pub unreserved: bool,
    /// The decider signed with a key of their own.
    pub asserted: bool,
    /// Someone acts on behalf of others.
    pub delegated: bool,
    /// `asked` is one of those others.
    pub as_delegator: bool,
    /// How often this principal was denied in this instance.
    pub denials: u64,
    /// The organization's authority mode is `four_eyes`.
    pub four_eyes: bool,
    /// The target's revision: commit, image or content digest.
    pub revision: Option<String>,
    /// Whom the decider stands in for.
    pub standing_in_for: Option<EntityRef>,
    /// The role that the decider uses.
    pub role: Option<Name>,
}

/// The text of a scope, as questions carry it.
pub fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Act => "act",
        Scope::Decide => "decide",
    }
}

pub(crate) fn assurance_name(assurance: Assurance) -> (&'static str, i64) {
    match assurance {
        Assurance::Demo => ("demo", 0),
        Assurance::Secret => ("secret", 1),
        Assurance::Password => ("password", 2),
        Assurance::Mfa => ("mfa", 3),
    }
}

/// Why a stored question cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// Not strict JSON.
    #[error("a question cannot be read")]
    Json(#[from] JsonError),
    /// Another shape.
    #[error("a question has a wrong shape at `{0}`")]
    Shape(String),
    /// A reference that is none.
    #[error("a question names no entity")]
    Entity(#[from] ReferenceError),
    /// The input does not pass the tool's schema in this snapshot.
    #[error("the input does not pass the schema of tool `{tool}`")]
    Input {
        /// The tool.
        tool: String,
        /// Why.
        source: InputError,
    },
    /// The snapshot's catalogue has another version of the tool than the question was asked about.
    #[error("tool `{tool}` has another version in this catalogue; use the snapshot that the verdict names")]
    ToolVersion {
        /// The tool.
        tool: String,
    },
}

impl Question {
    /// A question with nothing satisfied, no input, a client secret's assurance, and no scopes.
    pub fn new(asked: EntityRef, operation: Operation, resource: EntityRef, now: Timestamp) -> Self {
        Self {
            org: asked.org,
            asked,
            operation,
            resource,
            now,
            input: None,
            instance: None,
            satisfied: BTreeSet::new(),
            overridden: BTreeSet::new(),
            granted: BTreeSet::new(),
            facts: BTreeSet::new(),
            claims: BTreeSet::new(),
            counters: BTreeMap::new(),
            scopes: BTreeSet::new(),
            assurance: Assurance::Secret,
            authenticated_at: None,
            unreserved: false,
            asserted: false,
            delegated: false,
            as_delegator: false,
            denials: 0,
            four_eyes: false,
            revision: None,
            standing_in_for: None,
            role: None,
        }
    }

    /// The canonical bytes (RFC 8785); defaults are left out, so that later fields change no older question.
    pub fn canonical(&self) -> Vec<u8> {
        let mut w = Writer { out: String::with_capacity(512), first: true };
        if let Some(input) = &self.input {
            w.names("applied", input.applied());
        }
        w.flag("as_delegator", self.as_delegator);
        w.reference("asked", Some(&self.asked));
        w.flag("asserted", self.asserted);
        w.text("assurance", assurance_name(self.assurance).0);
        w.number("authenticated_at", self.authenticated_at.map(|t| t.0));
        if !self.claims.is_empty() {
            w.texts("claims", self.claims.iter().map(String::as_str));
        }
        if !self.counters.is_empty() {
            w.key("counters");
            let members = self.counters.iter().map(|(k, v)| (k.as_str().to_owned(), Json::text(v.clone())));
            Json::object(members).write(&mut w.out);
        }
        w.flag("delegated", self.delegated);
        w.number("denials", Some(self.denials).filter(|n| *n > 0));
        match &self.input {
            // What masks did is part of what was asked: the raw value, from which it could be told again, is gone.
            Some(input) if !input.masked().is_empty() => {
                w.names("facts", &self.facts.iter().chain(input.masked()).cloned().collect());
            }
            _ => w.names("facts", &self.facts),
        }
        w.flag("four_eyes", self.four_eyes);
        w.names("granted", &self.granted);
        if let Some(input) = &self.input {
            w.key("input");
            w.out.push_str(std::str::from_utf8(input.canonical()).unwrap_or("null"));
        }
        w.reference("instance", self.instance.as_ref());
        w.number("now", Some(self.now.0));
        w.text("op", self.operation.as_str());
        w.key("org");
        w.out.push('"');
        write_org(self.org, &mut w.out);
        w.out.push('"');
        w.names("overridden", &self.overridden);
        w.reference("resource", Some(&self.resource));
        if let Some(revision) = &self.revision {
            w.text("revision", revision);
        }
        if let Some(role) = &self.role {
            w.text("role", role.as_str());
        }
        w.names("satisfied", &self.satisfied);
        if !self.scopes.is_empty() {
            w.texts("scopes", self.scopes.iter().copied());
        }
        w.reference("standing_in_for", self.standing_in_for.as_ref());
        if let Some(input) = &self.input {
            w.text("tool_version", &input.version().to_string());
        }
        w.flag("unreserved", self.unreserved);
        w.number("v", Some(1));
        w.out.push('}');
        w.out.into_bytes()
    }

    /// Plain SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        crate::sha256(&self.canonical())
    }

    /// Reads a stored question; a tool's input is typed again by the snapshot's catalogue.
    pub fn parse(bytes: &[u8], snapshot: &PolicySnapshot) -> Result<Self, QuestionError> {
        Self::from_json(&Json::parse(bytes)?, snapshot)
    }

    /// The same from JSON. Where no `org` stands (a bundle's tests), the snapshot's is meant.
    pub fn from_json(json: &Json, snapshot: &PolicySnapshot) -> Result<Self, QuestionError> {
        Self::read(json, snapshot, input::restored)
    }

    /// A question that was never asked (a bundle's test): masks apply to its input as to any proposal's.
    pub fn proposed(json: &Json, snapshot: &PolicySnapshot) -> Result<Self, QuestionError> {
        Self::read(json, snapshot, |tool, input, _, _| input::masked(tool, input.clone()))
    }

    fn read(
        json: &Json,
        snapshot: &PolicySnapshot,
        typing: impl FnOnce(&CompiledTool, &Json, BTreeSet<Name>, BTreeSet<Name>) -> Result<TypedInput, InputError>,
    ) -> Result<Self, QuestionError> {
        const KEYS: [&str; 26] = [
            "applied",
            "as_delegator",
            "asked",
            "asserted",
            "assurance",
            "authenticated_at",
            "claims",
            "counters",
            "delegated",
            "denials",
            "facts",
            "four_eyes",
            "granted",
            "input",
            "instance",
            "now",
            "op",
            "org",
            "overridden",
            "resource",
            "revision",
            "role",
            "satisfied",
            "scopes",
            "standing_in_for",
            "unreserved",
        ];
        let bad = |at: &str| QuestionError::Shape(at.to_owned());
        let members = json.as_object().ok_or_else(|| bad(""))?;
        if let Some((key, _)) =
            members.iter().find(|(k, _)| !KEYS.contains(&k.as_str()) && k != "v" && k != "tool_version")
        {
            return Err(bad(&shown(key)));
        }
        if json.get("v").is_some_and(|v| v.as_integer() != Some(1)) {
            return Err(bad("v"));
        }
        let org = match json.get("org") {
            None => snapshot.org(),
            Some(text) => text.as_text().and_then(|t| t.parse().ok()).ok_or_else(|| bad("org"))?,
        };
        let text = |key: &str| match json.get(key) {
            None => Ok(None),
            Some(value) => value.as_text().map(Some).ok_or_else(|| bad(key)),
        };
        let reference = |key: &str| match text(key)? {
            None => Ok::<_, QuestionError>(None),
            Some(text) => Ok(Some(EntityRef::parse(org, text)?)),
        };
        let number = |key: &str| match json.get(key) {
            None => Ok(None),
            Some(n) => n.as_integer().and_then(|n| u64::try_from(n).ok()).map(Some).ok_or_else(|| bad(key)),
        };
        let flag = |key: &str| match json.get(key) {
            None => Ok(false),
            Some(b) => b.as_bool().ok_or_else(|| bad(key)),
        };
        let texts = |key: &str| match json.get(key) {
            None => Ok(Vec::new()),
            Some(list) => list.as_array().and_then(|l| l.iter().map(Json::as_text).collect()).ok_or_else(|| bad(key)),
        };
        let names = |key: &str| -> Result<BTreeSet<Name>, QuestionError> {
            texts(key)?.into_iter().map(|t: &str| Name::new(t).map_err(|_| bad(key))).collect()
        };
        let operation = text("op")?.and_then(Operation::parse).ok_or_else(|| bad("op"))?;
        let resource = reference("resource")?.ok_or_else(|| bad("resource"))?;
        let assurance = match text("assurance")? {
            None | Some("secret") => Assurance::Secret,
            Some("demo") => Assurance::Demo,
            Some("password") => Assurance::Password,
            Some("mfa") => Assurance::Mfa,
            Some(_) => return Err(bad("assurance")),
        };
        let scopes = texts("scopes")?
            .into_iter()
            .map(|s: &str| match s {
                "act" => Ok("act"),
                "decide" => Ok("decide"),
                _ => Err(bad("scopes")),
            })
            .collect::<Result<_, _>>()?;
        let mut counters = BTreeMap::new();
        if let Some(map) = json.get("counters") {
            for (name, value) in map.as_object().ok_or_else(|| bad("counters"))? {
                let name = Name::new(name).map_err(|_| bad("counters"))?;
                counters.insert(name, value.as_text().ok_or_else(|| bad("counters"))?.to_owned());
            }
        }
        let applied = names("applied")?;
        let (masked, facts): (BTreeSet<Name>, BTreeSet<Name>) = names("facts")?.into_iter().partition(masks::is_fact);
        let input = match json.get("input") {
            None if !applied.is_empty() || !masked.is_empty() => return Err(bad("input")),
            None => None,
            Some(value) => {
                let tool = snapshot.tool(resource.id.as_str()).ok_or_else(|| bad("input"))?;
                if text("tool_version")?.is_some_and(|v| v != tool.version.to_string()) {
                    return Err(QuestionError::ToolVersion { tool: resource.id.to_string() });
                }
                let typed = typing(tool, value, applied, masked)
                    .map_err(|source| QuestionError::Input { tool: resource.id.to_string(), source })?;
                Some(Arc::new(typed))
            }
        };
        Ok(Self {
            org,
            asked: reference("asked")?.ok_or_else(|| bad("asked"))?,
            operation,
            resource,
            now: Timestamp(number("now")?.unwrap_or(0)),
            input,
            instance: reference("instance")?,
            satisfied: names("satisfied")?,
            overridden: names("overridden")?,
            granted: names("granted")?,
            facts,
            claims: texts("claims")?.into_iter().map(str::to_owned).collect(),
            counters,
            scopes,
            assurance,
            authenticated_at: number("authenticated_at")?.map(Timestamp),
            unreserved: flag("unreserved")?,
            asserted: flag("asserted")?,
            delegated: flag("delegated")?,
            as_delegator: flag("as_delegator")?,
            denials: number("denials")?.unwrap_or(0),
            four_eyes: flag("four_eyes")?,
            revision: text("revision")?.map(str::to_owned),
            standing_in_for: reference("standing_in_for")?,
            role: match text("role")? {
                None => None,
                Some(role) => Some(Name::new(role).map_err(|_| bad("role"))?),
            },
        })
    }

    /// Every entity it names.
    pub fn names(&self) -> impl Iterator<Item = &EntityRef> {
        [Some(&self.asked), Some(&self.resource), self.instance.as_ref(), self.standing_in_for.as_ref()]
            .into_iter()
            .flatten()
    }

    /// Whether it asks about a tool.
    pub fn is_tool(&self) -> bool {
        matches!(self.operation, Operation::CallTool | Operation::Dispatch) && self.resource.kind == EntityKind::Tool
    }
}

/// Writes one object whose keys are given in canonical order.
struct Writer {
    out: String,
    first: bool,
}

impl Writer {
    fn key(&mut self, key: &str) {
        self.out.push(if std::mem::take(&mut self.first) { '{' } else { ',' });
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        write_text(text, &mut self.out);
    }

    fn flag(&mut self, key: &str, flag: bool) {
        if flag {
            self.key(key);
            self.out.push_str("true");
        }
    }

    fn number(&mut self, key: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.key(key);
            Json::from(i64::try_from(number).unwrap_or(i64::MAX)).write(&mut self.out);
        }
    }

    fn reference(&mut self, key: &str, entity: Option<&EntityRef>) {
        if let Some(entity) = entity {
            self.key(key);
            self.out.push('"');
            self.out.push_str(entity.kind.as_str());
            self.out.push_str("::");
            self.out.push_str(entity.id.as_str());
            self.out.push('"');
        }
    }

    fn texts<'a>(&mut self, key: &str, texts: impl Iterator<Item = &'a str>) {
        self.key(key);
        for (i, text) in texts.enumerate() {
            self.out.push(if i == 0 { '[' } else { ',' });
            write_text(text, &mut self.out);
        }
        self.out.push(']');
    }

    fn names(&mut self, key: &str, names: &BTreeSet<Name>) {
        if !names.is_empty() {
            self.texts(key, names.iter().map(Name::as_str));
        }
    }
}
