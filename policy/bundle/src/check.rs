//! Everything that is asked of a bundle before it may become active: text, types, reach, lint, data, its own tests.
//!
//! All findings are gathered, each with file, line, column, rule and next step; one error stands in the way. What this
//! program would not apply is refused, never ignored. Absent: signatures (`bundle`), who may activate (the active bundle
//! decides). Read next: `lint`, `cases`, `lockout`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use cedar_policy::{PolicySet, Schema, SchemaFragment, ValidationMode, Validator};
use countersign_gateway_model::{Name, OrgId};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::counters::Counters;
use countersign_policy_decide::data::{Ages, DataError, Roles};
use countersign_policy_decide::detectors::Detectors;
use countersign_policy_decide::masks::Masks;
use countersign_policy_decide::rules::{Rules, RulesError};
use countersign_policy_decide::{LEVEL, PolicyParts, PolicySnapshot, alike, depth, schema};
use miette::Diagnostic;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bundle::{Bundle, Draft};
use crate::cases::TestRun;
use crate::files::{FileKind, FilePath};
use crate::finding::{Finding, Place, RuleId, Severity, json_place, words};
use crate::invariants::{self, Invariant, Proof};
use crate::lint;
use crate::manifest::Lineage;
use crate::refused;
use crate::source::{self, SourcePolicy};

/// How many policies a bundle may have.
pub const MAX_POLICIES: usize = 50_000;

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// In the order of files and lines, errors and warnings together.
    pub findings: Vec<Finding>,
    /// How many policies there are.
    pub policies: usize,
    /// How the bundle's own tests went; absent if it did not come to that.
    pub tests: Option<TestRun>,
    /// What must never be allowed, and what is known of each: nothing, where no solver was asked.
    pub invariants: Vec<Invariant>,
}

impl Report {
    /// Whether nothing stands in the way.
    pub fn passes(&self) -> bool {
        self.errors() == 0
    }

    /// How many findings stand in the way.
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|f| f.severity == Severity::Error).count()
    }

    /// How many do not.
    pub fn warnings(&self) -> usize {
        self.findings.len() - self.errors()
    }
}

/// One finding a line, then a summary.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        write!(f, "{} policies, {} errors, {} warnings", self.policies, self.errors(), self.warnings())?;
        if let Some(tests) = &self.tests {
            write!(f, "; {tests}")?;
        }
        Ok(())
    }
}

/// A checked bundle: the report, and what decides if nothing stood in the way.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What was found.
    pub report: Report,
    snapshot: Option<Arc<PolicySnapshot>>,
}

impl Checked {
    /// What an activation takes: the snapshot, only if the report passes.
    pub fn accepted(&self) -> Option<&Arc<PolicySnapshot>> {
        self.snapshot.as_ref().filter(|_| self.report.passes())
    }

    /// What a change of the tool catalogue alone takes: the snapshot of a bundle that is in force, if nothing but what this
    /// program has come to refuse since stands against it.
    pub fn stands(&self) -> Option<&Arc<PolicySnapshot>> {
        let since = |finding: &Finding| finding.rule == RuleId::Unsupported || finding.severity != Severity::Error;
        self.snapshot.as_ref().filter(|_| self.report.findings.iter().all(since))
    }

    /// The snapshot if it could be built at all, though tests of the bundle may fail: for reloading what was activated
    /// before, and for trying things out. Never enough for an activation.
    pub fn built(&self) -> Option<&Arc<PolicySnapshot>> {
        self.snapshot.as_ref()
    }

    /// With what a solver said of the invariants, by their ids. One that it said nothing of stays as it was.
    #[must_use]
    pub fn with_proofs(mut self, said: impl IntoIterator<Item = (String, Proof)>) -> Self {
        let Report { findings, invariants, .. } = &mut self.report;
        for (id, proof) in said {
            if let Some(invariant) = invariants.iter_mut().find(|invariant| invariant.id.as_str() == id) {
                invariant.proof = proof;
            }
        }
        findings.retain(|finding| finding.rule != RuleId::Unproved);
        findings.extend(invariants.iter().filter_map(invariants::finding));
        findings.sort();
        findings.dedup();
        self
    }
}

/// Checks a draft, as an author does before sealing: under a stand-in digest that no verdict will ever name.
pub fn check_draft(draft: &Draft, organization: OrgId, catalogue: Option<&Catalogue>) -> Checked {
    let lineage = Lineage { organization, version: 1, predecessor: None, root_version: 1 };
    match draft.clone().seal(lineage) {
        Ok(bundle) => check(&bundle, catalogue),
        Err(error) => {
            let finding = Finding::error(
                Place::start(crate::MANIFEST_FILE),
                RuleId::Limit,
                error.to_string(),
                "correct it before anything else is checked",
            );
            Checked { report: Report { findings: vec![finding], ..Report::default() }, snapshot: None }
        }
    }
}

/// Checks a sealed bundle for its own organization with the catalogue in force. Signatures are not asked for here.
pub fn check(bundle: &Bundle, catalogue: Option<&Catalogue>) -> Checked {
    // Text of others is walked by code that recurses; the limits of `source` and this room together make that safe.
    depth::with_room(|| check_with_room(bundle, catalogue))
}

fn check_with_room(bundle: &Bundle, catalogue: Option<&Catalogue>) -> Checked {
    let mut findings = Vec::new();
    let policies = read_policies(bundle, &mut findings);
    let data = Data::read(bundle, &mut findings);
    let additions = additions(bundle, &mut findings);

    let rules = data.rules.as_ref().map(|r| r.rules.keys().cloned().collect::<BTreeSet<Name>>());
    let reserved = data.counters.iter().flat_map(|c| &c.counters).filter(|(_, counter)| !counter.reserve.is_empty());
    let reserved = reserved.map(|(name, _)| name.clone()).collect();
    findings.extend(lint::lint(bundle, &policies, rules.as_ref(), &reserved));
    if let Some(rules) = &data.rules {
        let text = bundle.files().get("rules.json").map_or("", |text| text);
        lint::approval::lint(rules, text, &policies, catalogue, &mut findings);
    }
    if let (Some(rules), Some(roles)) = (&data.rules, &data.roles) {
        unknown_roles(bundle, rules, roles, &mut findings);
    }
    // Said once the snapshot is built: what was put in force with it is still loaded.
    let mut later = Vec::new();
    if let Some(rules) = &data.rules {
        lint::approval::beyond(rules, bundle.files().get("rules.json").map_or("", |text| text), &mut later);
    }
    if let Some(ages) = &data.ages {
        aged(bundle, ages, &mut later);
    }
    other_catalogue(bundle, catalogue, &mut later);
    let mut snapshot = None;
    if let Data {
        rules: Some(rules),
        roles: Some(roles),
        counters: Some(counters),
        ages: Some(ages),
        masks: Some(masks),
        detectors: Some(detectors),
    } = data
    {
        let parts = PolicyParts {
            org: bundle.manifest().organization,
            bundle: bundle.digest(),
            policies: texts(bundle, FileKind::Policies),
            schema: texts(bundle, FileKind::Schema),
            rules,
            roles: roles.roles.into_keys().collect(),
            counters: counters.counters,
            ages: ages.spans(),
            masks,
            transforms: bundle.manifest().transforms.clone(),
            detectors,
            shadow: bundle.manifest().shadow.policies.iter().map(|s| (s.id.clone(), s.until)).collect(),
            shadow_workflows: bundle.manifest().shadow.workflows.iter().map(|s| (s.id.clone(), s.until)).collect(),
            catalogue: catalogue.cloned(),
        };
        // The snapshot is built by the code that decides: what it refuses is refused, whatever is found here. It stops
        // at its first error; then, or where it need not be tried, Cedar is asked again for all of them.
        let built = no_error(&findings).then(|| PolicySnapshot::build(parts.clone()));
        match built {
            Some(Ok(built)) => {
                misfits(bundle, &built, &parts.masks, &mut later);
                snapshot = Some(Arc::new(built));
            }
            refused => {
                if let Some(schema) = effective_schema(&parts, additions, &mut findings) {
                    types(&policies, &schema, &mut findings);
                }
                if let Some(Err(error)) = refused.filter(|_| no_error(&findings)) {
                    findings.push(refused::snapshot(&error, bundle));
                }
            }
        }
    }
    let tests = snapshot.as_deref().map(|s| crate::cases::run(bundle.files(), &policies, s, &mut findings));
    // After the snapshot: what decides is built all the same, so that it can be proved of, and loaded again.
    let invariants = invariants::read(bundle, &mut findings);
    findings.extend(later);
    findings.sort();
    findings.dedup();
    Checked { report: Report { findings, policies: policies.len(), tests, invariants }, snapshot }
}

fn no_error(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.severity != Severity::Error)
}

fn texts(bundle: &Bundle, kind: FileKind) -> BTreeMap<String, String> {
    bundle.files().of(kind).map(|(path, text)| (path.to_string(), text.to_string())).collect()
}

fn read_policies(bundle: &Bundle, findings: &mut Vec<Finding>) -> Vec<SourcePolicy> {
    let count = bundle.files().of(FileKind::Policies).map(|(_, text)| source::count(text)).sum::<usize>();
    if count > MAX_POLICIES {
        // Before anything is parsed: a limit that costs what it saves is none.
        findings.push(Finding::error(
            Place::start("policies.cedar"),
            RuleId::Limit,
            format!("{count} policies"),
            format!("at most {MAX_POLICIES} are taken; grant by role or team instead of one by one"),
        ));
        return Vec::new();
    }
    let mut policies = Vec::new();
    for (path, text) in bundle.files().of(FileKind::Policies) {
        policies.extend(source::parse(path, text, findings));
    }
    for policy in &policies {
        if ["kernel:", "gateway:"].iter().any(|prefix| policy.id.as_str().starts_with(prefix)) {
            findings.push(
                Finding::error(
                    policy.place(),
                    RuleId::PolicyId,
                    "ids that begin with `kernel:` or `gateway:` are the program's",
                    "choose another `@id`",
                )
                .of(&policy.id),
            );
        }
    }
    policies
}

/// The data files, each `None` if it does not read.
struct Data {
    rules: Option<Rules>,
    roles: Option<Roles>,
    counters: Option<Counters>,
    ages: Option<Ages>,
    masks: Option<Masks>,
    detectors: Option<Detectors>,
}

impl Data {
    fn read(bundle: &Bundle, findings: &mut Vec<Finding>) -> Self {
        Self {
            rules: Self::file(bundle, "rules.json", RuleId::RulesData, (Rules::parse, RulesError::at), findings),
            roles: Self::file(bundle, "roles.json", RuleId::Roles, (Roles::parse, DataError::at), findings),
            counters: Self::file(bundle, "counters.json", RuleId::Data, (Counters::parse, DataError::at), findings),
            ages: Self::file(bundle, "ages.json", RuleId::Data, (Ages::parse, DataError::at), findings),
            masks: Self::file(bundle, "masks.json", RuleId::Data, (Masks::parse, DataError::at), findings),
            detectors: Self::file(bundle, "detectors.json", RuleId::Data, (Detectors::parse, DataError::at), findings),
        }
    }

    fn file<T: DeserializeOwned + Default, E: std::error::Error + 'static>(
        bundle: &Bundle,
        path: &'static str,
        rule: RuleId,
        (parse, at): (impl FnOnce(&[u8]) -> Result<T, E>, impl Fn(&E) -> Option<&str>),
        findings: &mut Vec<Finding>,
    ) -> Option<T> {
        let Some(text) = bundle.files().get(path) else { return Some(T::default()) };
        match parse(text.as_bytes()) {
            Ok(data) => Some(data),
            Err(error) => {
                let finding = if let Some(pointer) = at(&error) {
                    let (message, next) = refused::told(&words(&error), "change that entry");
                    Finding::error(refused::element(bundle, path, pointer), rule, message, next)
                } else {
                    let (place, shape) = json_place::<T>(path, text);
                    let next = match shape {
                        Some(_) => "write there what the form of the file has",
                        None => "write strict JSON: no key twice, nothing behind a last comma",
                    };
                    Finding::error(place, rule, shape.unwrap_or_else(|| words(&error)), next)
                };
                findings.push(finding);
                None
            }
        }
    }
}

/// Every fact is this program's own, so current, and known as of its last change or of the last start: an age would deny
/// what it should not, and bound nothing.
fn aged(bundle: &Bundle, ages: &Ages, findings: &mut Vec<Finding>) {
    let text = bundle.files().get("ages.json").map_or("", |text| text);
    for kind in ages.ages_s.keys() {
        let at = text.find(&format!("\"{kind}\"")).unwrap_or(0);
        let message = format!(
            "a greatest age of `{kind}` would deny every vote that long after its last change or the last start: no other \
             system is a source of facts here, and those of this program do not grow old"
        );
        let next = "leave it out; what is revoked here counts at once";
        findings.push(Finding::error(Place::at("ages.json", text, at), RuleId::Unsupported, message, next));
    }
}

/// A mask that could only ever refuse. The snapshot denies what it cannot mask, so that nothing passes raw either way.
fn misfits(bundle: &Bundle, snapshot: &PolicySnapshot, masks: &Masks, findings: &mut Vec<Finding>) {
    let tools: Vec<_> = snapshot.tools().map(|tool| (&tool.tool.name, &tool.shape)).collect();
    for misfit in masks.misfits(&tools.iter().copied()) {
        let place = refused::element(bundle, "masks.json", &misfit.at);
        let message = format!("`{}`: {}", misfit.rule, misfit.problem);
        let next = "give a constant that the tool's schema takes, or name another place";
        findings.push(Finding::error(place, RuleId::Mask, message, next));
    }
}

/// The manifest may name the tool catalogue that the bundle was written for. Whether it is the one in force is asked again,
/// and held to, where the bundle is put in force: a later catalogue is checked with the bundle as it is.
fn other_catalogue(bundle: &Bundle, catalogue: Option<&Catalogue>, findings: &mut Vec<Finding>) {
    let Some(named) = bundle.manifest().catalogue else { return };
    let digest = catalogue.map(Catalogue::digest);
    if digest != Some(named.digest) {
        let given = digest.map_or_else(|| "none".to_owned(), |digest| format!("`{digest}`"));
        findings.push(Finding::warning(
            refused::element(bundle, crate::MANIFEST_FILE, "/catalogue"),
            RuleId::Catalogue,
            format!("the bundle names tool catalogue `{}`, and is checked with {given}", named.digest),
            "check it with the catalogue in force and name that one, or leave `catalogue` out",
        ));
    }
}

fn unknown_roles(bundle: &Bundle, rules: &Rules, known: &Roles, findings: &mut Vec<Finding>) {
    for (name, rule) in &rules.rules {
        let circles = std::iter::once(&rule.authority)
            .chain(rule.escalation.iter().map(|e| &e.authority))
            .chain(rule.break_glass.iter().map(|b| &b.authority));
        let unknown: BTreeSet<&Name> =
            circles.flat_map(|c| &c.roles).filter(|role| !known.roles.contains_key(*role)).collect();
        for role in unknown {
            let text = bundle.files().get("rules.json").map_or("", |t| t);
            let at = text.find(&format!("\"{role}\"")).unwrap_or(0);
            findings.push(Finding::error(
                Place::at("rules.json", text, at),
                RuleId::Roles,
                format!("rule `{name}` names role `{role}`, which `roles.json` does not list"),
                "add the role there, or correct its name",
            ));
        }
    }
}

/// The schema additions, parsed one by one; none if one of them is not taken.
fn additions(bundle: &Bundle, findings: &mut Vec<Finding>) -> Option<Vec<SchemaFragment>> {
    let mut fragments = Vec::new();
    let mut good = true;
    for (path, text) in bundle.files().of(FileKind::Schema) {
        if let Some((offset, message)) = source::schema_excess(text) {
            let place = Place::at(path.as_str(), text, offset);
            findings.push(Finding::error(place, RuleId::Limit, message, "give the inner types names of their own"));
            good = false;
            continue;
        }
        match SchemaFragment::from_cedarschema_str(text) {
            Err(error) => {
                findings.push(schema_finding(path, text, &error));
                good = false;
            }
            Ok((fragment, warnings)) => {
                for warning in warnings {
                    let place = Place::at(path.as_str(), text, label(&warning));
                    let next = "rename it, so that nothing else can be taken for it";
                    findings.push(Finding::error(place, RuleId::Schema, warning.to_string(), next));
                    good = false;
                }
                good &= own_namespaces(path, &fragment, findings);
                fragments.push(fragment);
            }
        }
    }
    good.then_some(fragments)
}

fn schema_finding(path: &FilePath, text: &str, error: &cedar_policy::CedarSchemaError) -> Finding {
    let place = Place::at(path.as_str(), text, label(error));
    let next = error.help().map_or_else(|| "correct the text there".to_owned(), |help| help.to_string());
    Finding::error(place, RuleId::Schema, words(error), next)
}

/// The first offset that Cedar points to, here or in what lies behind.
fn label(error: &dyn Diagnostic) -> usize {
    let own = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    own.unwrap_or_else(|| error.related().and_then(|mut all| all.next()).map_or(0, label))
}

/// Additions add types in namespaces of their own, and no actions: the program would never ask about one, and one that
/// is called like an action of the base schema could be taken for it.
fn own_namespaces(path: &FilePath, fragment: &SchemaFragment, findings: &mut Vec<Finding>) -> bool {
    let before = findings.len();
    let mut refuse = |message: String, next: &str| {
        findings.push(Finding::error(Place::start(path.as_str()), RuleId::Schema, message, next));
    };
    for namespace in fragment.namespaces() {
        let name = namespace.map(|n| n.to_string()).unwrap_or_default();
        if name.is_empty() || name == schema::NAMESPACE || name.starts_with("Countersign::") {
            refuse(format!("it declares in namespace `{name}`"), "use a namespace of your own");
        }
    }
    let json = fragment.clone().to_json_value().unwrap_or_default();
    for (namespace, declared) in json.as_object().into_iter().flatten() {
        let actions = declared.get("actions").and_then(serde_json::Value::as_object);
        for action in actions.into_iter().flat_map(|map| map.keys()) {
            refuse(
                format!("it declares action `{action}` in `{namespace}`, which nothing ever asks about"),
                "remove it; tools get their actions from the catalogue",
            );
        }
    }
    findings.len() == before
}

fn effective_schema(
    parts: &PolicyParts,
    additions: Option<Vec<SchemaFragment>>,
    findings: &mut Vec<Finding>,
) -> Option<Schema> {
    let refuse = |message: String, findings: &mut Vec<Finding>| {
        let place = Place::start("schema.cedarschema");
        let (message, next) = refused::told(&message, "declare what is named, or correct its name");
        findings.push(Finding::error(place, RuleId::Schema, message, next));
        None
    };
    let tools = match parts.catalogue.as_ref().map(Catalogue::compile).transpose() {
        Ok(tools) => tools.unwrap_or_default(),
        Err(error) => return refuse(words(&error), findings),
    };
    let rules = parts.rules.rules.keys().cloned().collect();
    let text = schema::effective(&parts.roles, &rules, &parts.counters.keys().cloned().collect(), &tools);
    let base = match SchemaFragment::from_cedarschema_str(&text) {
        Ok((base, _)) => base,
        Err(error) => return refuse(words(&error), findings),
    };
    match Schema::from_schema_fragments(std::iter::once(base).chain(additions?)) {
        Ok(schema) => Some(schema),
        Err(error) => refuse(words(&error), findings),
    }
}

/// Cedar's strict validation and its reach, each finding at the place that Cedar points to within the policy.
fn types(policies: &[SourcePolicy], schema: &Schema, findings: &mut Vec<Finding>) {
    let mut by_id: BTreeMap<&str, &SourcePolicy> = BTreeMap::new();
    let (mut set, mut one_of_each, mut forms) = (PolicySet::new(), Vec::new(), HashSet::new());
    for policy in policies {
        // A taken id was found before; its policy is validated once the id is its own.
        if set.add(policy.policy.clone()).is_ok() {
            by_id.insert(policy.id.as_str(), policy);
            if forms.insert(alike::form(&policy.est)) {
                one_of_each.push(policy.policy.clone());
            }
        }
    }
    let validator = Validator::new(schema.clone());
    let validated = |set: &PolicySet| validator.validate_with_level(set, ValidationMode::Strict, LEVEL);
    // Most bundles pass, and then nobody needs to hear of those that are alike.
    if PolicySet::from_policies(one_of_each).is_ok_and(|some| validated(&some).validation_passed_without_warnings()) {
        return;
    }
    let result = validated(&set);
    let mut say = |id: &cedar_policy::PolicyId, error: &dyn Diagnostic, rule: RuleId, text: String| {
        let Some(policy) = by_id.get(AsRef::<str>::as_ref(id)) else { return };
        let next = match (rule, error.help()) {
            (RuleId::Level, _) => {
                format!("reach at most {LEVEL} entities deep; have the attribute put on a nearer one")
            }
            (_, Some(help)) => help.to_string(),
            (RuleId::CedarWarning, None) => "change it so that Cedar has nothing to warn of".to_owned(),
            (_, None) => "compare the policy with the schema".to_owned(),
        };
        // Cedar repeats the policy's id, which the finding names already.
        let text = text.replacen(&format!("for policy `{id}`, "), "", 1);
        findings.push(Finding::error(policy.place_at(label(error)), rule, text, next).of(&policy.id));
    };
    for error in result.validation_errors() {
        let level = matches!(error, cedar_policy::ValidationError::EntityDerefLevelViolation(_));
        let rule = if level { RuleId::Level } else { RuleId::Type };
        say(error.policy_id(), error, rule, words(error));
    }
    for warning in result.validation_warnings() {
        say(warning.policy_id(), warning, RuleId::CedarWarning, words(warning));
    }
}

#[cfg(test)]
mod tests;
