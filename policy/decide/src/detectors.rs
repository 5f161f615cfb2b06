//! Detectors: what to look for in a tool's input, as data; what is found becomes names in `context.facts`.
//!
//! ```json
//! {"detectors": {
//!   "secret-in-input": {"find": {"secrets": {}}},
//!   "forbidden-command": {"tools": ["shell.*"], "at": ["/command"], "find": {"patterns": ["(?i)rm\\s+-rf", "mkfs"]}},
//!   "path-escape": {"at": ["/path"], "find": "path_traversal"},
//!   "other-stack": {"at": ["/packages/*"], "find": {"not_listed": ["react", "axum"]}},
//!   "foreign-image": {"at": ["/image"], "find": {"image": {"registries": ["ghcr.io/acme"], "pinned": true}}},
//!   "bad-labels": {"at": ["/labels"], "find": {"labels": {"required": ["team"], "allowed": {"env": ["dev"]}}}},
//!   "too-large": {"find": {"size": {"bytes": 65536}}}}}
//! ```
//!
//! Cedar decides what a find means; a detector that matches denies nothing by itself. Patterns run in time linear in the
//! input (`regex`), and their programs are bounded. Detectors see the input as it is carried out: after masks, opaque
//! parts and the names of their members included. The places of the finds are kept, never the text that matched. Absent: policies. Read next: `input`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use countersign_gateway_model::Name;
use regex::{RegexSet, RegexSetBuilder};
use serde::{Deserialize, Serialize};

use crate::data::DataError;
use crate::json::Json;
use crate::locate::{Pointer, ToolPattern, all_tools, each_open_member, each_text};
use crate::shape::Shape;

/// How many detectors a bundle may have.
const MAX_DETECTORS: usize = 128;
/// How many patterns one may have.
const MAX_PATTERNS: usize = 256;
/// How large the program of one detector's patterns may be, in bytes.
const MAX_PROGRAM: usize = 4 << 20;
/// How many finds are kept of one input; the facts are complete whatever their number.
pub const MAX_FINDS: usize = 64;

/// `detectors.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detectors {
    /// By name, which is the fact.
    #[serde(default)]
    pub detectors: BTreeMap<Name, Detector>,
}

/// One detector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detector {
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// Of which tools. Absent: of all.
    #[serde(default = "all_tools")]
    pub tools: Vec<ToolPattern>,
    /// In which parts of the input. Absent: in all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<Pointer>,
    /// What is looked for.
    pub find: Find,
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    /// A text that one of these regular expressions matches somewhere.
    Patterns(Vec<String>),
    /// A text that holds a secret: of the kinds in [`SECRETS`], or of these. In a part that is opaque, a member is
    /// also read as `name: value`.
    Secrets(Secrets),
    /// A text that, as a path, leaves its folder: absolute, `..`, a drive, a home, a NUL.
    PathTraversal,
    /// A text that is none of these, letter case ignored.
    NotListed(BTreeSet<String>),
    /// A text that, as an image reference, breaks the rule.
    Image(ImageRule),
    /// An object that, as labels, breaks the rule.
    Labels(LabelRule),
    /// A value that is larger.
    Size(SizeRule),
}

/// Secrets beyond the built-in kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Kind to pattern.
    #[serde(default)]
    pub also: BTreeMap<Name, String>,
}

/// What an image reference must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRule {
    /// It begins with one of these, followed by `/`, by `:` and a tag, or by `@`. Empty: from anywhere.
    #[serde(default)]
    pub registries: Vec<String>,
    /// It ends with `@sha256:` and a digest.
    #[serde(default)]
    pub pinned: bool,
}

/// What labels must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRule {
    /// Keys that are there, with a text that is not empty.
    #[serde(default)]
    pub required: BTreeSet<String>,
    /// Key to the values that it may have.
    #[serde(default)]
    pub allowed: BTreeMap<String, BTreeSet<String>>,
}

/// How large a value may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeRule {
    /// Bytes of a text, or of the canonical form of anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// Elements of an array, members of an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<usize>,
}

/// The kinds of secrets that are always looked for, with their patterns.
pub const SECRETS: [(&str, &str); 16] = [
    ("private-key", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY( BLOCK)?-----"),
    ("aws-access-key", r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b"),
    ("github-token", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
    ("github-fine-grained-token", r"\bgithub_pat_[A-Za-z0-9_]{22,255}\b"),
    ("gitlab-token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("slack-token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("slack-webhook", r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,}"),
    ("google-api-key", r"\bAIza[0-9A-Za-z_-]{35}\b"),
    ("stripe-key", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}\b"),
    ("npm-token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("pypi-token", r"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
    ("model-provider-key", r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}"),
    ("json-web-token", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    ("authorization-header", r"(?i)\bauthorization:\s*(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{12,}"),
    ("url-with-password", r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^/\s:@]{1,100}:[^/\s:@]{1,100}@"),
    (
        "assigned-secret",
        r#"(?i)\b[a-z0-9_-]{0,40}(?:passwd|password|secret|api[_-]?key|access[_-]?token)["']?\s*[:=]\s*["']?[^\s"'$<{]{8,}"#,
    ),
];

/// Where a detector found something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Found {
    /// Which detector.
    pub detector: Name,
    /// JSON pointer of the value.
    pub at: String,
    /// What, in words or by kind; never the text that matched.
    pub what: String,
}

/// A detector, ready.
#[derive(Debug)]
pub(crate) struct Compiled {
    name: Name,
    tools: Vec<ToolPattern>,
    at: Vec<Pointer>,
    finder: Finder,
}

#[derive(Debug)]
enum Finder {
    Patterns(RegexSet, Vec<String>),
    Secrets(RegexSet, Vec<String>),
    PathTraversal,
    NotListed(BTreeSet<String>),
    Image(ImageRule),
    Labels(LabelRule),
    Size(SizeRule),
}

fn program(patterns: &[String]) -> Result<RegexSet, String> {
    RegexSetBuilder::new(patterns)
        .size_limit(MAX_PROGRAM)
        .nest_limit(64)
        .build()
        .map_err(|error| error.to_string().replace('\n', " "))
}

impl Detectors {
    /// Reads `detectors.json`, strictly; every pattern is tried.
    pub fn parse(bytes: &[u8]) -> Result<Self, DataError> {
        let detectors: Self = crate::data::read(bytes)?;
        detectors.compile()?;
        Ok(detectors)
    }

    /// A place that every tool it is meant for lacks: a name mistyped there would find nothing, ever.
    pub(crate) fn misplaced<'t>(
        &self,
        tools: &(impl Iterator<Item = (&'t Name, &'t Shape)> + Clone),
    ) -> Result<(), DataError> {
        for (name, detector) in &self.detectors {
            let admitted = |tool: &Name| detector.tools.iter().any(|pattern| pattern.admits(tool.as_str()));
            for (number, pointer) in detector.at.iter().enumerate() {
                let mut meant = tools.clone().filter(|(tool, _)| admitted(tool)).peekable();
                if meant.peek().is_some() && !meant.any(|(_, shape)| shape.declares(pointer.steps())) {
                    let problem =
                        format!("no tool that it is meant for has `{pointer}`; correct the pointer or the tools");
                    return Err(DataError::rule("detectors", name.as_str(), &format!("/at/{number}"), &problem));
                }
            }
        }
        Ok(())
    }

    /// Checks every detector and makes it ready.
    pub(crate) fn compile(&self) -> Result<Vec<Arc<Compiled>>, DataError> {
        let bad = |name: &str, member: &str, problem: &str| Err(DataError::rule("detectors", name, member, problem));
        if self.detectors.len() > MAX_DETECTORS {
            return bad("", "", "there are more than 128; put patterns together");
        }
        let mut compiled = Vec::with_capacity(self.detectors.len());
        for (name, detector) in &self.detectors {
            let taken = ["masked:", "mask-failed:", "over:"];
            if taken.iter().any(|prefix| name.as_str().starts_with(prefix)) {
                return bad(name.as_str(), "", "facts of such a name are the program's; rename it");
            }
            if detector.tools.is_empty() {
                return bad(name.as_str(), "/tools", "it names no tools; leave `tools` out for all");
            }
            let finder = match &detector.find {
                Find::Patterns(patterns) if patterns.is_empty() || patterns.len() > MAX_PATTERNS => {
                    return bad(
                        name.as_str(),
                        "/find/patterns",
                        "it has no pattern, or more than 256; give between 1 and that many",
                    );
                }
                Find::Patterns(patterns) => {
                    let numbered = (1..=patterns.len()).map(|n| format!("pattern {n}")).collect();
                    match program(patterns) {
                        Ok(set) => Finder::Patterns(set, numbered),
                        Err(problem) => {
                            let wrong = patterns.iter().position(|one| program(std::slice::from_ref(one)).is_err());
                            let member = wrong.map_or("/find/patterns".to_owned(), |n| format!("/find/patterns/{n}"));
                            return bad(name.as_str(), &member, &format!("{problem}; correct the pattern"));
                        }
                    }
                }
                Find::Secrets(secrets) => match secret_program(secrets) {
                    Ok((set, kinds)) => Finder::Secrets(set, kinds),
                    Err(problem) => {
                        let problem = format!("{problem}; correct the pattern");
                        return bad(name.as_str(), "/find/secrets/also", &problem);
                    }
                },
                Find::PathTraversal => Finder::PathTraversal,
                Find::NotListed(listed) => Finder::NotListed(listed.iter().map(|one| one.to_lowercase()).collect()),
                Find::Image(rule) => Finder::Image(rule.clone()),
                Find::Labels(rule) => Finder::Labels(rule.clone()),
                Find::Size(SizeRule { bytes: None, items: None }) => {
                    return bad(name.as_str(), "/find/size", "it limits neither `bytes` nor `items`; name one");
                }
                Find::Size(rule) => Finder::Size(rule.clone()),
            };
            let (tools, at) = (detector.tools.clone(), detector.at.clone());
            compiled.push(Arc::new(Compiled { name: name.clone(), tools, at, finder }));
        }
        Ok(compiled)
    }
}

fn secret_program(secrets: &Secrets) -> Result<(RegexSet, Vec<String>), String> {
    static BUILT_IN: LazyLock<Result<RegexSet, String>> =
        LazyLock::new(|| program(&SECRETS.map(|(_, pattern)| pattern.to_owned())));
    let mut kinds: Vec<String> = SECRETS.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    if secrets.also.is_empty() {
        return BUILT_IN.clone().map(|set| (set, kinds));
    }
    kinds.extend(secrets.also.keys().map(ToString::to_string));
    let patterns: Vec<String> =
        SECRETS.iter().map(|(_, pattern)| (*pattern).to_owned()).chain(secrets.also.values().cloned()).collect();
    program(&patterns).map(|set| (set, kinds))
}

impl Compiled {
    /// Whether it is for that tool.
    pub(crate) fn concerns(&self, tool: &str) -> bool {
        self.tools.iter().any(|pattern| pattern.admits(tool))
    }
}

/// What all detectors of a tool found in an input: the facts, and the first places.
/// `opaque`: where the input is of no declared form, so that its members' names are the agent's words, too.
pub(crate) fn detect(
    detectors: &[Arc<Compiled>],
    input: &Json,
    opaque: &BTreeSet<String>,
) -> (BTreeSet<Name>, Vec<Found>) {
    let (mut facts, mut finds) = (BTreeSet::new(), Vec::new());
    for detector in detectors {
        let mut note = |at: &str, what: &str| {
            facts.insert(detector.name.clone());
            if finds.len() < MAX_FINDS {
                finds.push(Found { detector: detector.name.clone(), at: at.to_owned(), what: what.to_owned() });
            }
        };
        let mut look = |path: &str, value: &Json| {
            detector.finder.look(path, value, &mut note);
            if detector.finder.reads_names() {
                let mut visit =
                    |at: &str, name: &str, value: &Json| detector.finder.look_at_name(at, name, value, &mut note);
                each_open_member(value, &mut path.to_owned(), opaque, &mut visit);
            }
        };
        if detector.at.is_empty() {
            look("", input);
        }
        for pointer in &detector.at {
            pointer.each(input, &mut look);
        }
    }
    (facts, finds)
}

impl Finder {
    fn look(&self, path: &str, value: &Json, note: &mut dyn FnMut(&str, &str)) {
        match self {
            Self::Labels(rule) => rule.look(path, value, note),
            Self::Size(rule) => rule.look(path, value, note),
            text => each_text(value, &mut path.to_owned(), &mut |at, found| text.look_at_text(at, found, note)),
        }
    }

    /// Whether the names of members are texts like any other to it.
    fn reads_names(&self) -> bool {
        matches!(self, Self::Patterns(..) | Self::Secrets(..) | Self::PathTraversal)
    }

    fn look_at_name(&self, at: &str, name: &str, value: &Json, note: &mut dyn FnMut(&str, &str)) {
        // The place is the object, for the name itself may be what must not be shown.
        let object = at.rsplit_once('/').map_or("", |(object, _)| object);
        self.look_at_text(object, name, note);
        if let (Self::Secrets(set, kinds), Json::Text(text)) = (self, value) {
            let (alone, name_alone) = (set.matches(text), set.matches(name));
            let named = set.matches(&format!("{name}: {text}"));
            let news = named.into_iter().filter(|kind| !alone.matched(*kind) && !name_alone.matched(*kind));
            for kind in news.filter_map(|index| kinds.get(index)) {
                note(at, kind);
            }
        }
    }

    fn look_at_text(&self, at: &str, text: &str, note: &mut dyn FnMut(&str, &str)) {
        match self {
            Self::Patterns(set, kinds) | Self::Secrets(set, kinds) => {
                for kind in set.matches(text).into_iter().filter_map(|index| kinds.get(index)) {
                    note(at, kind);
                }
            }
            Self::PathTraversal => {
                if let Some(what) = escapes(text) {
                    note(at, what);
                }
            }
            Self::NotListed(listed) => {
                if !listed.contains(&text.to_lowercase()) {
                    note(at, "not on the list");
                }
            }
            Self::Image(rule) => {
                if let Some(what) = rule.breaks(text) {
                    note(at, what);
                }
            }
            Self::Labels(_) | Self::Size(_) => {}
        }
    }
}

/// Every `%25`, however often it is nested, as the `%` that it stands for, in one pass.
fn without_nested_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('%');
    out.extend(parts.next());
    for part in parts {
        out.push('%');
        let mut rest = part;
        while let Some(shorter) = rest.strip_prefix("25") {
            rest = shorter;
        }
        out.push_str(rest);
    }
    out
}

/// How a path leaves the folder that it is meant to stay in, if it does.
fn escapes(path: &str) -> Option<&'static str> {
    let lower = path.to_lowercase();
    let drive = |p: &str| p.as_bytes().get(1) == Some(&b':') && p.starts_with(|c: char| c.is_ascii_alphabetic());
    // Whoever carries the path out may decode it once more than we do, or more often.
    let lower = without_nested_escapes(&lower);
    if path.contains('\0') || lower.contains("%00") {
        return Some("a nul character");
    }
    let decoded =
        lower.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace("%7e", "~").replace('\\', "/");
    let decoded = decoded.trim_start();
    if decoded.split('/').any(|step| step.trim() == "..") {
        return Some("a step to the folder above");
    }
    if decoded.starts_with('/') || drive(decoded) || decoded.contains("://") {
        return Some("an absolute path");
    }
    if decoded.starts_with('~') {
        return Some("a home folder");
    }
    None
}

impl ImageRule {
    fn breaks(&self, image: &str) -> Option<&'static str> {
        let from = |registry: &String| {
            // After a colon comes a tag. With a `/` behind it, it is a port, and the registry another one.
            image
                .strip_prefix(registry.trim_end_matches('/'))
                .is_some_and(|rest| rest.starts_with('/') || (rest.starts_with([':', '@']) && !rest.contains('/')))
        };
        if !self.registries.is_empty() && !self.registries.iter().any(from) {
            return Some("from another registry");
        }
        let digest = image.rsplit_once("@sha256:").map(|(_, digest)| digest);
        let whole = |d: &str| d.len() == 64 && d.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if self.pinned && !digest.is_some_and(whole) {
            return Some("not pinned by a digest");
        }
        None
    }
}

impl LabelRule {
    fn look(&self, path: &str, value: &Json, note: &mut dyn FnMut(&str, &str)) {
        let Some(labels) = value.as_object() else { return note(path, "no labels") };
        for key in &self.required {
            if value.get(key).and_then(Json::as_text).is_none_or(|text| text.trim().is_empty()) {
                note(path, "a required label is absent");
            }
        }
        for (key, label) in labels {
            let fits = |values: &BTreeSet<String>| label.as_text().is_some_and(|text| values.contains(text));
            if self.allowed.get(key).is_some_and(|values| !fits(values)) {
                note(path, "a label has another value than allowed");
            }
        }
    }
}

impl SizeRule {
    fn look(&self, path: &str, value: &Json, note: &mut dyn FnMut(&str, &str)) {
        if let Some(most) = self.bytes {
            let bytes = value.as_text().map_or_else(|| value.canonical().len(), str::len);
            if bytes > most {
                note(path, "more bytes");
            }
        }
        let items = value.as_array().map(<[Json]>::len).or_else(|| value.as_object().map(<[(String, Json)]>::len));
        if self.items.is_some_and(|most| items.is_some_and(|items| items > most)) {
            note(path, "more items");
        }
    }
}
