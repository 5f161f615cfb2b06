//! An imported bundle decides as the source's rules say: for each format, the rules once more as a few lines of this
//! file (or, for Cedar, the source's own policies), asked about generated questions beside the bundle.
//!
//! Where something could not be carried, the bundle never allows what the source denies.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use cedar_policy::{Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression};
use countersign_gateway_model::Decision;
use countersign_policy_bundle::{OrgId, RuleId, check_draft};
use countersign_policy_decide::case::CaseFile;
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::json::Json;
use countersign_policy_decide::{EntityStore, PolicySnapshot, Question, combine, decide};
use countersign_policy_import::{Caller, Fate, Format, ImportError, Imported, Options, Source, import};
use proptest::prelude::*;
use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

fn org() -> OrgId {
    OrgId::from_bytes([7; 16])
}

fn read(format: Format, text: &str, options: &Options) -> Result<Imported, ImportError> {
    import(format, Source { file: "source", text }, options)
}

/// A bundle that is asked.
struct Asked {
    snapshot: Arc<PolicySnapshot>,
    store: EntityStore,
}

impl Asked {
    fn new(imported: &Imported) -> Self {
        Self::with(imported, &imported.catalogue().unwrap(), &[])
    }

    fn with(imported: &Imported, catalogue: &Catalogue, entities: &[Value]) -> Self {
        let checked = check_draft(&imported.draft().unwrap(), org(), Some(catalogue));
        let snapshot = checked.accepted().unwrap_or_else(|| panic!("{:#?}", checked.report));
        let tests: Value = serde_json::from_slice(&imported.files["tests/imported.json"]).unwrap();
        let mut all = tests["entities"].as_array().unwrap().clone();
        all.extend(entities.iter().cloned());
        let file = CaseFile::parse(json!({"entities": all}).to_string().as_bytes()).unwrap();
        Self { store: file.store(snapshot).unwrap(), snapshot: Arc::clone(snapshot) }
    }

    fn ask(&self, ask: &Value) -> (Decision, Vec<String>) {
        let question = Question::from_json(&Json::from_serde(ask), &self.snapshot).unwrap();
        let answer = decide(&self.snapshot, &self.store.slice(&self.snapshot, &question), &question);
        let (verdict, _) = combine(std::slice::from_ref(&answer));
        (verdict.decision, verdict.rules.iter().map(ToString::to_string).collect())
    }

    fn tool(&self, tool: &str, input: &Value) -> (Decision, Vec<String>) {
        self.ask(&json!({
            "asked": "Agent::worker", "op": "callTool", "resource": format!("Tool::{tool}"),
            "instance": "Instance::run", "now": 1_795_219_200_000_u64, "input": input,
        }))
    }
}

fn named(name: &str) -> Options {
    Options { name: Some(name.to_owned()), ..Options::default() }
}

/// Each case checks a whole bundle.
fn few(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

// ---------- materiality ----------

const LEVELS: [&str; 4] = ["LOW", "MEDIUM", "HIGH", "CRITICAL"];

proptest! {
    #![proptest_config(few(8))]

    #[test]
    fn a_start_waits_where_the_materiality_is_high_or_the_policy_requires_it(
        level in proptest::option::of(0_usize..4),
        required in proptest::option::of(any::<bool>()),
        flow in any::<bool>(),
    ) {
        prop_assume!(level.is_some() || required.is_some());
        let mut text = String::new();
        if let Some(level) = level {
            writeln!(text, "materiality: {}", LEVELS[level]).unwrap();
        }
        if let Some(required) = required {
            writeln!(text, "requires_human_approval: {required}").unwrap();
        }
        text += if flow { "approvers: [{role: LEAD}]\n" } else { "approvers:\n- role: LEAD\n" };
        let asked = Asked::new(&read(Format::Materiality, &text, &Options::default()).unwrap());
        for workflow in 1..=4_usize {
            let ask = json!({
                "asked": "Person::owner", "op": "start", "resource": format!("Workflow::of-{workflow}"), "now": 1,
            });
            let waits = required == Some(true) || level.is_some_and(|level| level >= 2) || workflow >= 3;
            let expected = if waits { Decision::NeedsApproval } else { Decision::Allow };
            prop_assert_eq!(asked.ask(&ask).0, expected, "{} {}", text, workflow);
        }
    }

    #[test]
    fn spans_are_read_as_they_are_written(hours in 0_u64..40, minutes in 0_u64..90, seconds in 0_u64..90) {
        prop_assume!(hours + minutes + seconds > 0);
        let text = format!("materiality: HIGH\napproval_timeout_seconds: {hours}h{minutes}m{seconds}s\n");
        let imported = read(Format::Materiality, &text, &Options::default()).unwrap();
        let rules: Value = serde_json::from_slice(&imported.files["rules.json"]).unwrap();
        prop_assert_eq!(&rules["rules"]["imported"]["timeout_s"], &json!(hours * 3600 + minutes * 60 + seconds));
    }
}

#[test]
fn circles_and_timeouts_become_an_escalation() {
    let text = "materiality: HIGH\napprovers: ['role:LEAD']\nescalation_roles: [CTO]\n\
                timeouts: {primary: 30m, escalation: 1h}\n";
    let imported = read(Format::Materiality, text, &Options::default()).unwrap();
    let rules: Value = serde_json::from_slice(&imported.files["rules.json"]).unwrap();
    let rule = &rules["rules"]["imported"];
    assert_eq!(rule["timeout_s"], 3600);
    assert_eq!(rule["authority"], json!({"roles": ["LEAD"]}));
    assert_eq!(rule["escalation"], json!([{"after_s": 1800, "authority": {"roles": ["CTO"]}}]));
}

#[test]
fn what_would_decide_otherwise_than_meant_is_no_bundle() {
    for (format, text, part) in [
        (Format::Materiality, "materiality: HIGH\napprovers: [{user: bob}]", "a `role` or a `group`"),
        (Format::Materiality, "materiality: HIGH\nrequires_human_approval: 3", "neither true nor false"),
        (Format::Materiality, "materiality: HIGH\ntimeouts: {primary: soon}", "no span"),
        (Format::Materiality, "owner: me", "nothing that `materiality` reads"),
        (Format::Materiality, "kind: Other\nspec: {rules: []}", "not `Policy`"),
        (
            Format::Materiality,
            "kind: Policy\nspec: {rules: [{name: a, condition: f(x), action: REQUIRE_APPROVAL}]}",
            "simpler terms",
        ),
        (Format::ToolScopes, "scopes: [a.b]", "it is missing"),
        (Format::ToolScopes, "scopes: [a.b, a.b]\npolicies: {default_allowlist: []}", "twice"),
        (Format::ToolScopes, "policies: {default_allowlist: all}", "not a list"),
        (Format::ForbiddenPatterns, "max_files: many", "no whole number"),
        (Format::ForbiddenPatterns, "forbidden_patterns: [1]", "quote it"),
        (Format::Materiality, "kind: Policy\nmetadata: [p]\nspec: {rules: []}", "`metadata`: it is a list, not a map"),
        (Format::Materiality, "kind: Policy\nspec: {rules: [a]}", "a rule: it is text, not a map"),
        (Format::Admission, "admissionPolicy: {labels: [a]}", "not a map"),
        (Format::Admission, "admissionPolicy: [labels: {denied: [a]}]", "`admissionPolicy`: it is a list, not a map"),
        (Format::Admission, "controller: {admissionPolicy: denied}", "`admissionPolicy`: it is text, not a map"),
        (
            Format::Admission,
            "kind: Agent\nmetadata: {name: a}\nspec: {security: [allowedSecrets: [b]]}",
            "`security`: it is a list, not a map",
        ),
        (Format::Admission, "kind: Agent\nspec: {}", "no `metadata.name`"),
        (Format::Admission, "replicas: 3", "nothing that `admission` reads"),
        (Format::AgentCore, "permit (principal);", "correct the policies"),
        (Format::AgentCore, "// nothing", "nothing that `agentcore` reads"),
        (Format::AgentCore, "permit (principal == ?principal, action, resource);", "template"),
        (
            Format::AgentCore,
            "permit (principal, action, resource == AgentCore::Gateway::\"a\");\n\
             permit (principal, action, resource == AgentCore::Gateway::\"b\");",
            "several gateways",
        ),
    ] {
        let error = read(format, text, &Options::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(matches!(read(Format::Admission, "a: 1", &named("a b")), Err(ImportError::Name)));
}

// ---------- conditions ----------

/// A condition as its writer sees it.
#[derive(Clone, Debug)]
enum Shape {
    Amount(&'static str, i64),
    Currency(&'static str, &'static str),
    Urgent,
    Not(Box<Shape>),
    And(Box<Shape>, Box<Shape>),
    Or(Box<Shape>, Box<Shape>),
}

impl Shape {
    fn text(&self) -> String {
        match self {
            Self::Amount(operator, cents) => format!("order.amount {operator} {}.{:02}", cents / 100, cents % 100),
            Self::Currency(operator, text) => format!("order.currency {operator} '{text}'"),
            Self::Urgent => "order.urgent".to_owned(),
            Self::Not(inner) => format!("!({})", inner.text()),
            Self::And(a, b) => format!("({}) && ({})", a.text(), b.text()),
            Self::Or(a, b) => format!("({}) || ({})", a.text(), b.text()),
        }
    }

    fn holds(&self, amount: i64, currency: &str, urgent: bool) -> bool {
        match self {
            Self::Amount(operator, cents) => match *operator {
                "<" => amount < *cents,
                "<=" => amount <= *cents,
                ">" => amount > *cents,
                ">=" => amount >= *cents,
                "==" => amount == *cents,
                _ => amount != *cents,
            },
            Self::Currency(operator, text) => (currency == *text) == (*operator == "=="),
            Self::Urgent => urgent,
            Self::Not(inner) => !inner.holds(amount, currency, urgent),
            Self::And(a, b) => a.holds(amount, currency, urgent) && b.holds(amount, currency, urgent),
            Self::Or(a, b) => a.holds(amount, currency, urgent) || b.holds(amount, currency, urgent),
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let operator = prop::sample::select(vec!["<", "<=", ">", ">=", "==", "!="]);
    let equality = prop::sample::select(vec!["==", "!="]);
    let leaf = prop_oneof![
        (operator, prop::sample::select(vec![0_i64, 50, 100, 12_345])).prop_map(|(o, n)| Shape::Amount(o, n)),
        (equality, prop::sample::select(vec!["EUR", "USD"])).prop_map(|(o, t)| Shape::Currency(o, t)),
        Just(Shape::Urgent),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| Shape::Not(Box::new(a))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Shape::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Shape::Or(Box::new(a), Box::new(b))),
        ]
    })
}

proptest! {
    #![proptest_config(few(10))]

    #[test]
    fn rules_with_conditions_ask_waive_and_otherwise_ask(rules in prop::collection::vec((shape(), any::<bool>()), 1..4)) {
        let mut text = String::from("kind: Policy\nmetadata: {name: p}\nspec:\n  rules:\n");
        // One rule that names every field, so that every input has the same fields.
        let whole = "order.amount > 90000 && order.currency == 'XXX' && order.urgent";
        writeln!(text, "  - {{name: r-whole, condition: \"{whole}\", action: REQUIRE_APPROVAL}}").unwrap();
        for (index, (shape, requires)) in rules.iter().enumerate() {
            let action = if *requires { "REQUIRE_APPROVAL" } else { "AUTO_APPROVE" };
            writeln!(text, "  - {{name: r-{index}, condition: \"{}\", action: {action}}}", shape.text()).unwrap();
        }
        let asked = Asked::new(&read(Format::Materiality, &text, &Options::default()).unwrap());
        for amount in [-1_i64, 0, 1, 49, 50, 100, 101, 12_345, 12_346] {
            for (currency, urgent) in [("EUR", false), ("USD", true), ("other", true)] {
                let holds = |shape: &Shape| shape.holds(amount, currency, urgent);
                let mut expected: Vec<String> = rules.iter().enumerate()
                    .filter(|(_, (shape, requires))| *requires && holds(shape))
                    .map(|(index, _)| format!("r-{index}"))
                    .collect();
                let waived = rules.iter().any(|(shape, requires)| !requires && holds(shape));
                if expected.is_empty() && !waived {
                    expected.push("p.order-otherwise".to_owned());
                }
                #[expect(clippy::cast_precision_loss, reason = "small numbers of cents")]
                let input = json!({"amount": amount as f64 / 100.0, "currency": currency, "urgent": urgent});
                let (decision, rules) = asked.tool("p.order", &input);
                prop_assert_eq!(&rules, &expected, "{} {}", text, input);
                let waits = if expected.is_empty() { Decision::Allow } else { Decision::NeedsApproval };
                prop_assert_eq!(decision, waits);
            }
        }
    }
}

#[test]
fn a_number_that_policy_cannot_see_is_never_waved_through() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/conditions/source.yaml")).unwrap();
    let asked = Asked::new(&read(Format::Materiality, &text, &Options::default()).unwrap());
    for amount in [json!(1e-7), json!(50.123_456), json!(1e300)] {
        let (decision, rules) = asked.tool("finance.transaction", &json!({"amount": amount, "currency": "EUR"}));
        assert_eq!(decision, Decision::NeedsApproval, "{amount}");
        assert!(rules.contains(&"large-transfer".to_owned()), "{rules:?}");
    }
    let (decision, _) = asked.tool("finance.transaction", &json!({"amount": 99.99, "currency": "EUR"}));
    assert_eq!(decision, Decision::Allow);
}

// ---------- tool scopes ----------

proptest! {
    #![proptest_config(few(8))]

    #[test]
    fn a_tool_is_used_if_all_its_scopes_are_on_the_list(
        allowed in prop::collection::btree_set(0_usize..6, 0..6),
        tools in prop::collection::vec(prop::collection::btree_set(0_usize..7, 0..4), 1..8),
    ) {
        const SCOPES: [&str; 7] = ["repo.read", "repo.write", "shell.exec", "git.write", "ci.run", "odd", "notifications.send"];
        let list: Vec<&str> = allowed.iter().map(|index| SCOPES[*index]).collect();
        // The last scope is no scope of the file: whoever asks for it is refused.
        let text = format!("scopes: {}\npolicies: {{default_allowlist: {}}}\n", json!(SCOPES[..6]), json!(list));
        let imported = read(Format::ToolScopes, &text, &named("s")).unwrap();
        let mut catalogue: Value = serde_json::from_slice(&imported.files["tools/catalogue.json"]).unwrap();
        for (index, scopes) in tools.iter().enumerate() {
            let scopes: Vec<&str> = scopes.iter().map(|scope| SCOPES[*scope]).collect();
            let tool = json!({"name": format!("made.t{index}"), "input": {"type": "object"}, "scopes": scopes});
            catalogue["tools"].as_array_mut().unwrap().push(tool);
        }
        let catalogue = Catalogue::parse(catalogue.to_string().as_bytes()).unwrap();
        let asked = Asked::with(&imported, &catalogue, &[]);
        for (index, scopes) in tools.iter().enumerate() {
            let expected = if scopes.is_subset(&allowed) { Decision::Allow } else { Decision::Deny };
            prop_assert_eq!(asked.tool(&format!("made.t{index}"), &json!({})).0, expected);
        }
    }
}

// ---------- forbidden patterns ----------

const STRICT: &str = include_str!("golden/forbidden-patterns/source.yaml");

static STRICT_ASKED: LazyLock<Asked> =
    LazyLock::new(|| Asked::new(&read(Format::ForbiddenPatterns, STRICT, &named("f")).unwrap()));

/// The source's own way: each pattern searched in each file's contents, letter case ignored.
static STRICT_PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    STRICT
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- "))
        .map(|quoted| serde_json::from_str::<String>(quoted).unwrap())
        .map(|pattern| RegexBuilder::new(&pattern).case_insensitive(true).build().unwrap())
        .collect()
});

fn build(stack: &str, contents: &[String]) -> Value {
    let files: Vec<Value> =
        contents.iter().enumerate().map(|(n, content)| json!({"path": format!("f{n}"), "content": content})).collect();
    json!({"project_name": "a", "stack": stack, "files": files, "audit_command": "x", "run_command": "x"})
}

fn ask_build(asked: &Asked, stack: &str, contents: &[String]) -> Decision {
    asked.tool("f.submit_build", &build(stack, contents)).0
}

proptest! {
    #![proptest_config(few(200))]

    #[test]
    fn a_build_is_refused_as_the_source_refuses_it(
        stack in prop::sample::select(vec!["python", "node", "rust", "Python", "go", ""]),
        contents in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![
            "rm ", "-rf", "RM -RF", "mkfs", ":(){ :|:& };:", "os.system", "(", ")", "subprocess.run", "shell", "=", " ",
            "True", "eval", "open", "'/etc/", "\n", "reverse", "stratum+tcp", "STRATUM", "x", "é",
        ]), 0..8), 1..13),
    ) {
        let contents: Vec<String> = contents.into_iter().map(|pieces| pieces.concat()).collect();
        let forbidden = STRICT_PATTERNS.iter().any(|regex| contents.iter().any(|content| regex.is_match(content)));
        let refused = forbidden || contents.len() > 10 || !["python", "node", "rust"].contains(&stack);
        let expected = if refused { Decision::Deny } else { Decision::Allow };
        prop_assert_eq!(ask_build(&STRICT_ASKED, stack, &contents), expected);
    }
}

#[test]
fn a_pattern_that_cannot_be_run_leaves_every_build_waiting() {
    let text = "forbidden_patterns:\n  - 'a(?=b)'\n  - 'rm -rf'\n";
    let imported = read(Format::ForbiddenPatterns, text, &named("f")).unwrap();
    let stricter: Vec<_> = imported.report.of(Fate::Stricter).collect();
    assert_eq!((stricter.len(), stricter[0].place.line), (1, 2), "{}", imported.report);
    let asked = Asked::new(&imported);
    assert_eq!(ask_build(&asked, "any", &["fine".to_owned()]), Decision::NeedsApproval);
    assert_eq!(ask_build(&asked, "any", &["rm -rf".to_owned()]), Decision::Deny);
}

#[test]
fn an_end_before_the_last_line_break_is_an_end() {
    let text = "forbidden_patterns: ['bad$', '[$]x', 'y\\$', 'q\\Z']\n";
    let asked = Asked::new(&read(Format::ForbiddenPatterns, text, &named("f")).unwrap());
    for (content, refused) in [
        ("bad", true),
        ("bad\n", true),
        ("bad\n\n", false),
        ("bads", false),
        ("$x", true),
        ("y$", true),
        ("q", true),
        ("q\n", false),
    ] {
        let expected = if refused { Decision::Deny } else { Decision::Allow };
        assert_eq!(ask_build(&asked, "any", &[content.to_owned()]), expected, "{content:?}");
    }
}

// ---------- admission ----------

/// The source's own way of matching: `*` stands for anything.
fn matches(value: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(rest) = value.strip_prefix(pieces.next().unwrap()) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, between)) = pieces.split_last() else { return rest.is_empty() };
    let mut rest = rest;
    for piece in between {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

fn any_matches(value: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| matches(value, pattern))
}

const LABELS: [&str; 8] =
    ["team", "cost-center", "app.example.com/a", "internal/x", "privileged", "internal", "x/internal/", "ateam"];
const IMAGES: [&str; 7] = [
    "registry.example.com/app:1",
    "registry.example.com/app:latest",
    "ghcr.io/acme/x",
    "ghcr.io/acmes/x",
    "ghcr.io/acme",
    "docker.io/registry.example.com/app",
    "registry.example.com/",
];
const SECRETS: [&str; 3] = ["github-token", "root-credentials", "other"];

fn picked<'a>(from: &'a [&'a str], picks: &BTreeSet<usize>) -> Vec<&'a str> {
    picks.iter().filter_map(|index| from.get(*index).copied()).collect()
}

proptest! {
    #![proptest_config(few(10))]

    #[test]
    fn a_run_is_refused_as_the_source_refuses_it(
        required in prop::collection::btree_set(0_usize..2, 0..2),
        allowed in prop::collection::btree_set(0_usize..8, 0..5),
        denied in prop::collection::btree_set(0_usize..6, 0..3),
        images_allowed in prop::collection::btree_set(0_usize..4, 0..3),
        images_denied in prop::collection::btree_set(0_usize..3, 0..2),
        limited in any::<bool>(),
        runs in prop::collection::vec((
            prop::collection::btree_set(0_usize..8, 0..4), 0_usize..7, prop::collection::btree_set(0_usize..3, 0..2),
            any::<bool>(), any::<bool>(),
        ), 40),
    ) {
        let denied = picked(&["internal/*", "privileged", "*/internal/*", "*team", "cost*er", "x*"], &denied);
        let images_allowed = picked(&["registry.example.com/*", "ghcr.io/acme/*", "*:latest", "*"], &images_allowed);
        let images_denied = picked(&["*:latest", "docker.io/*", "*acme*"], &images_denied);
        let (required, allowed) = (picked(&LABELS, &required), picked(&LABELS, &allowed));
        let accounts: &[&str] = if limited { &["reviewer"] } else { &[] };
        let secrets: &[&str] = if limited { &["github-token"] } else { &[] };
        let text = format!(
            "admissionPolicy:\n  labels: {}\n  images: {}\n  secrets: {}\n---\nkind: Agent\nmetadata: {{name: bot}}\nspec:\n  security: {}\n",
            json!({"required": required, "allowed": allowed, "denied": denied}),
            json!({"allowed": images_allowed, "denied": images_denied}),
            json!({"blocked": ["root-credentials"]}),
            json!({"allowedSecrets": secrets, "allowedServiceAccounts": accounts}),
        );
        let asked = Asked::new(&read(Format::Admission, &text, &named("r")).unwrap());
        for (labels, image, wanted, bot, own) in runs {
            let (labels, wanted, image) = (picked(&LABELS, &labels), picked(&SECRETS, &wanted), IMAGES[image]);
            let (agent, account) = (if bot { "bot" } else { "other" }, if own { "reviewer" } else { "default" });
            let refused = required.iter().any(|key| !labels.contains(key))
                || labels.iter().any(|key| any_matches(key, &denied))
                || (!allowed.is_empty() && labels.iter().any(|key| !any_matches(key, &allowed)))
                || any_matches(image, &images_denied)
                || (!images_allowed.is_empty() && !any_matches(image, &images_allowed))
                || wanted.contains(&"root-credentials")
                || (bot && !secrets.is_empty() && wanted.iter().any(|secret| !secrets.contains(secret)))
                || (bot && !accounts.is_empty() && !accounts.contains(&account));
            let input = json!({"agent": agent, "image": image, "labels": labels, "secrets": wanted, "serviceAccount": account});
            let (decision, _) = asked.tool("r.submit_run", &input);
            // Of patterns within a label it is only said that nothing more is let through.
            let exact = denied.iter().all(|pattern| !pattern.trim_matches('*').contains('*'));
            if refused || exact {
                let expected = if refused { Decision::Deny } else { Decision::Allow };
                prop_assert_eq!(decision, expected, "{} {}", text, input);
            }
        }
    }
}

#[test]
fn labels_that_only_a_pattern_allows_wait_for_a_person() {
    let text = "admissionPolicy: {labels: {allowed: [team, 'app/*']}}";
    let asked = Asked::new(&read(Format::Admission, text, &named("r")).unwrap());
    for (labels, expected) in [
        (vec![], Decision::Allow),
        (vec!["team"], Decision::Allow),
        (vec!["team", "app/a"], Decision::NeedsApproval),
        (vec!["nowhere"], Decision::NeedsApproval),
    ] {
        let input = json!({"agent": "a", "image": "i", "labels": labels, "secrets": [], "serviceAccount": "s"});
        assert_eq!(asked.tool("r.submit_run", &input).0, expected, "{labels:?}");
    }
}

#[test]
fn nothing_that_is_unknown_disappears_in_silence() {
    for (format, text, lines) in [
        (Format::Materiality, "materiality: LOW\nextra: 1\ntimeouts:\n  primary: 1h\n  third: 2h\n", vec![2, 5]),
        (
            Format::Materiality,
            "kind: Policy\nmetadata:\n  name: a\n  labels: {}\nspec:\n  rules:\n  - condition: x.y > 1\n    action: REQUIRE_APPROVAL\n    note: z\n  more: 1\n",
            vec![4, 9, 10],
        ),
        (
            Format::ToolScopes,
            "scopes:\n- name: a.b\n  owner: me\npolicies:\n  default_allowlist: []\n  other: []\nmore: 1\n",
            vec![3, 6, 7],
        ),
        (Format::ForbiddenPatterns, "max_files: 3\nmax_size: 4\n", vec![2]),
        (
            Format::Admission,
            "kind: Agent\nmetadata:\n  name: a\n  labels: {}\nspec:\n  config: {}\n  security:\n    other: []\n",
            vec![4, 6, 8],
        ),
        (Format::Admission, "admissionPolicy:\n  labels:\n    odd: []\n  volumes: {}\n", vec![3, 4]),
        (
            Format::AgentCore,
            "@description(\"x\")\npermit (principal, action == AgentCore::Action::\"A___b\", resource);",
            vec![1],
        ),
    ] {
        let report = read(format, text, &Options::default()).unwrap().report;
        let found: Vec<u32> = report.of(Fate::LeftOut).map(|entry| entry.place.line).collect();
        assert_eq!(found, lines, "{text}\n{report}");
    }
}

// ---------- AgentCore ----------

/// What Cedar says to the source itself.
fn source_allows(
    source: &PolicySet,
    action: &str,
    gateway: &str,
    tags: &BTreeMap<String, String>,
    input: &Value,
) -> bool {
    fn decimals(input: &Value) -> Value {
        match input {
            Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), decimals(value))).collect(),
            Value::Number(n) if n.is_f64() => {
                json!({"__extn": {"fn": "decimal", "arg": format!("{:.2}", n.as_f64().unwrap())}})
            }
            other => other.clone(),
        }
    }
    let uid = |text: String| EntityUid::from_str(&text).unwrap();
    let principal = uid("AgentCore::OAuthUser::\"worker\"".to_owned());
    let tags = tags.iter().map(|(key, value)| (key.clone(), RestrictedExpression::new_string(value.clone())));
    let attrs = [("id".to_owned(), RestrictedExpression::new_string("worker".to_owned()))];
    let entity = Entity::new_with_tags(principal.clone(), attrs, [], tags).unwrap();
    let entities = Entities::from_entities([entity], None).unwrap();
    let context = Context::from_json_value(json!({"input": decimals(input)}), None).unwrap();
    let action = uid(format!("AgentCore::Action::{action:?}"));
    let gateway = uid(format!("AgentCore::Gateway::{gateway:?}"));
    let request = Request::new(principal, action, gateway, context, None).unwrap();
    Authorizer::new().is_authorized(&request, source, &entities).decision() == cedar_policy::Decision::Allow
}

/// A condition of the source, and whether it can be carried exactly.
fn clause() -> impl Strategy<Value = (String, bool)> {
    let number = || prop::sample::select(vec![1_i64, 5, 100]);
    let leaf = prop_oneof![
        number().prop_map(|n| (format!("context.input.count < {n}"), true)),
        number().prop_map(|n| (format!("context.input.count * 2 >= {n}"), true)),
        number().prop_map(|n| (format!("context.input.amount.lessThan(decimal(\"{n}.5\"))"), true)),
        number().prop_map(|n| (format!("context.input.amount.greaterThanOrEqual(decimal(\"{n}.0\"))"), true)),
        Just(("context.input.currency == \"EUR\"".to_owned(), true)),
        Just(("[\"EUR\", \"USD\"].contains(context.input.currency)".to_owned(), true)),
        Just(("context.input.currency like \"U*\"".to_owned(), true)),
        Just(("context.input.tags.containsAny([\"a\", \"b\"])".to_owned(), true)),
        Just(("context.input.urgent".to_owned(), true)),
        Just(("(context.input has note && context.input.note == \"x\")".to_owned(), true)),
        Just(("(principal.hasTag(\"scope\") && principal.getTag(\"scope\") like \"*pay:write*\")".to_owned(), false)),
        Just(("(principal.hasTag(\"role\") && principal.getTag(\"role\") == \"boss\")".to_owned(), false)),
        Just(("principal.id == \"someone\"".to_owned(), false)),
        Just(("principal is AgentCore::OAuthUser".to_owned(), true)),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|(text, exact)| (format!("!({text})"), exact)),
            (inner.clone(), inner.clone()).prop_map(|((a, x), (b, y))| (format!("({a} && {b})"), x && y)),
            (inner.clone(), inner).prop_map(|((a, x), (b, y))| (format!("({a} || {b})"), x && y)),
        ]
    })
}

proptest! {
    #![proptest_config(few(16))]

    #[test]
    fn cedar_is_carried_exactly_or_on_the_safe_side(
        policies in prop::collection::vec((any::<bool>(), clause(), proptest::option::of(clause())), 1..4),
    ) {
        let mut text = String::new();
        // One policy that names every field, so that every input has the same fields; it says nothing by itself.
        let all = "context.input.count > 9000000 && context.input.amount.lessThan(decimal(\"-9.0\")) && \
                   context.input.currency == \"none\" && context.input.tags.contains(\"none\") && context.input.urgent && \
                   context.input has note && context.input.note == \"none\"";
        let scope = "principal is AgentCore::OAuthUser, action == AgentCore::Action::\"Pay___send\", \
                     resource == AgentCore::Gateway::\"arn\"";
        writeln!(text, "permit ({scope}) when {{ {all} }};").unwrap();
        for (permits, (when, _), unless) in &policies {
            let effect = if *permits { "permit" } else { "forbid" };
            let unless = unless.as_ref().map(|(text, _)| format!("unless {{ {text} }}")).unwrap_or_default();
            writeln!(text, "{effect} ({scope}) when {{ {when} }} {unless};").unwrap();
        }
        let exact = policies.iter().all(|(_, (_, x), unless)| *x && unless.as_ref().is_none_or(|(_, y)| *y));
        let source = PolicySet::from_str(&text).unwrap();
        let imported = read(Format::AgentCore, &text, &named("p")).unwrap();
        if exact {
            prop_assert!(imported.report.of(Fate::Stricter).next().is_none(), "{}\n{}", text, imported.report);
        }
        let scopes = json!([{
            "entity": "Agent::worker",
            "attrs": {"active": true, "owner": {"ref": "Person::owner"}, "autonomy": 1, "scopes": ["pay:write", "pay:read"]},
        }]);
        let checked = check_draft(&imported.draft().unwrap(), org(), Some(&imported.catalogue().unwrap()));
        // What is left of a policy may say nothing, which the check refuses; that is on the safe side, too.
        let Some(_) = checked.accepted() else {
            prop_assert!(checked.report.findings.iter().any(|f| f.rule == RuleId::CedarWarning), "{}\n{:#?}", text, checked.report);
            return Ok(());
        };
        let asked = Asked::with(&imported, &imported.catalogue().unwrap(), scopes.as_array().unwrap());
        let tags = BTreeMap::from([("scope".to_owned(), "pay:write pay:read".to_owned()), ("role".to_owned(), "clerk".to_owned())]);
        for count in [0_i64, 3, 100] {
            for (amount, currency) in [(0.5_f64, "EUR"), (5.5, "USD"), (100.5, "CHF")] {
                for (tagged, urgent, note) in [(vec!["a"], true, Some("x")), (vec![], false, None), (vec!["c"], true, Some("y"))] {
                    let mut input = json!({"count": count, "amount": amount, "currency": currency, "tags": tagged, "urgent": urgent});
                    if let Some(note) = note {
                        input["note"] = json!(note);
                    }
                    let there = source_allows(&source, "Pay___send", "arn", &tags, &input);
                    let here = asked.tool("Pay.send", &input).0 == Decision::Allow;
                    prop_assert!(there || !here, "more is allowed: {}\n{}\n{}", text, input, imported.report);
                    if exact {
                        prop_assert_eq!(there, here, "{}\n{}", text, input);
                    }
                }
            }
        }
    }
}

#[test]
fn one_principal_is_named_only_where_the_organization_is_known() {
    let text = "permit (principal == AgentCore::OAuthUser::\"worker\", action == AgentCore::Action::\"A___b\", resource);\n\
                forbid (principal == AgentCore::OAuthUser::\"stranger\", action == AgentCore::Action::\"A___b\", resource);";
    let without = read(Format::AgentCore, text, &named("p")).unwrap();
    assert_eq!(without.report.of(Fate::Stricter).count(), 2, "{}", without.report);
    let with = read(Format::AgentCore, text, &Options { organization: Some(org()), ..named("p") }).unwrap();
    assert_eq!(with.report.of(Fate::Stricter).count(), 0, "{}", with.report);
    let asked = Asked::new(&with);
    assert_eq!(asked.tool("A.b", &json!({})).0, Decision::Allow);
}

#[test]
fn a_persons_roles_say_for_whom_an_agent_may_act() {
    let text = include_str!("golden/agentcore-person/source.cedar");
    let imported = read(Format::AgentCore, text, &Options { caller: Caller::Person, ..named("hr") }).unwrap();
    let asked = Asked::new(&imported);
    let ask = |person: &str, tool: &str, delegator: bool| {
        asked.ask(&json!({
            "asked": person, "op": "callTool", "resource": format!("Tool::{tool}"), "instance": "Instance::run", "now": 1,
            "input": {}, "delegated": true, "as_delegator": delegator,
        })).0
    };
    let (record, export) = ("HRTools.get_employee_record", "HRTools.export_salary_report");
    assert_eq!(ask("Person::holder-1", record, true), Decision::Allow);
    assert_eq!(ask("Person::holder-1", export, true), Decision::Deny);
    assert_eq!(ask("Person::answers", record, true), Decision::Deny, "who answers for the instance has no such role");
    assert_eq!(ask("Person::holder-1", record, false), Decision::Deny, "a person does not call tools themselves");
    assert_eq!(ask("Agent::worker", record, false), Decision::Allow);
    assert_eq!(asked.tool(record, &json!({})).0, Decision::Deny, "an agent that acts for nobody has no one's roles");
}

/// A permit for one tool, and who it is for.
fn permitting(principal: &str, when: &str) -> String {
    let when = if when.is_empty() { String::new() } else { format!(" when {{ {when} }}") };
    format!("permit ({principal}, action == AgentCore::Action::\"A___b\", resource){when};\n")
}

#[test]
fn a_principal_of_a_type_that_is_unknown_is_permitted_nothing() {
    let options = Options { organization: Some(org()), ..named("p") };
    for text in [
        permitting("principal is Acme::Admin", ""),
        permitting("principal == Acme::Admin::\"worker\"", ""),
        permitting("principal", "principal is Acme::Admin"),
        permitting("principal", "principal == Acme::Admin::\"worker\""),
        permitting("principal", "principal is AgentCore::OAuthUser in Acme::Group::\"g\""),
    ] {
        let imported = read(Format::AgentCore, &text, &options).unwrap();
        assert_eq!(imported.report.of(Fate::Stricter).count(), 1, "{text}{}", imported.report);
        assert_eq!(Asked::new(&imported).tool("A.b", &json!({})).0, Decision::Deny, "{text}");
    }
}

#[test]
fn every_caller_is_read_as_the_one_type_of_the_source_and_as_none_of_two() {
    for (principal, when) in [
        ("principal is AgentCore::IamEntity", ""),
        ("principal", "principal is AgentCore::IamEntity"),
        ("principal", "!(principal is AgentCore::IamEntity) || principal is AgentCore::IamEntity"),
    ] {
        let imported = read(Format::AgentCore, &permitting(principal, when), &named("p")).unwrap();
        let read_as = imported.report.of(Fate::Interpreted).any(|entry| entry.how.contains("AgentCore::IamEntity"));
        assert!(read_as, "{when}: {}", imported.report);
        assert_eq!(Asked::new(&imported).tool("A.b", &json!({})).0, Decision::Allow, "{when}");
    }
    let both = "principal is AgentCore::OAuthUser || principal is AgentCore::IamEntity";
    let imported = read(Format::AgentCore, &permitting("principal", both), &named("p")).unwrap();
    assert!(imported.report.of(Fate::Stricter).next().is_none(), "{}", imported.report);
    assert_eq!(Asked::new(&imported).tool("A.b", &json!({})).0, Decision::Allow);

    let iam = permitting("principal is AgentCore::IamEntity", "");
    for other in [
        permitting("principal is AgentCore::OAuthUser", ""),
        permitting("principal", "!(principal is AgentCore::OAuthUser)"),
        permitting("principal == AgentCore::OAuthUser::\"x\"", ""),
    ] {
        let imported = read(Format::AgentCore, &format!("{iam}{other}"), &named("p")).unwrap();
        assert_eq!(imported.report.of(Fate::Stricter).count(), 2, "{other}{}", imported.report);
        assert_eq!(Asked::new(&imported).tool("A.b", &json!({})).0, Decision::Deny, "{other}");
    }
    let forbids = permitting("principal is AgentCore::IamEntity", "").replace("permit", "forbid");
    let text = format!("{forbids}{}", permitting("principal", "!(principal is AgentCore::OAuthUser) || true"));
    let imported = read(Format::AgentCore, &text, &named("p")).unwrap();
    assert_eq!(Asked::new(&imported).tool("A.b", &json!({})).0, Decision::Deny, "{}", imported.report);
}

#[test]
fn a_group_of_actions_that_is_asked_for_itself_permits_no_tool() {
    let named_tool = permitting("principal", "false");
    for group in ["CallTool", "Mcp"] {
        let all = |op: &str| format!("permit (principal, action {op} AgentCore::Action::\"{group}\", resource);\n");
        for (text, expected, fate) in [
            (all("in"), Decision::Allow, Fate::Carried),
            (all("=="), Decision::Deny, Fate::LeftOut),
            (format!("{}{}", all("in"), all("==").replace("permit", "forbid")), Decision::Deny, Fate::Stricter),
        ] {
            let text = format!("{named_tool}{text}");
            let imported = read(Format::AgentCore, &text, &named("p")).unwrap();
            assert!(imported.report.of(fate).next().is_some(), "{text}{}", imported.report);
            assert_eq!(Asked::new(&imported).tool("A.b", &json!({})).0, expected, "{text}");
        }
    }
}

// ---------- names and texts of the source ----------

#[test]
fn a_file_s_name_and_a_text_of_the_source_stay_within_their_line() {
    let break_out = "x.yaml`\n@id(\"all\") permit (principal, action, resource); // \r\u{2028}";
    let text = "forbidden_patterns: [\"a\\nb(?=c)\", \"d\\ne\"]\nallowed_stacks: [\"f\\ng\"]\n";
    let source = Source { file: break_out, text };
    let imported = import(Format::ForbiddenPatterns, source, &Options::default()).unwrap();
    let plain = read(Format::ForbiddenPatterns, text, &Options::default()).unwrap();
    let policies = |imported: &Imported| {
        let text = String::from_utf8(imported.files["policies/imported.cedar"].clone()).unwrap();
        PolicySet::from_str(&text).unwrap().policies().count()
    };
    assert_eq!(policies(&imported), policies(&plain));
    assert!(imported.report.entries.iter().any(|entry| entry.what.contains("a\\nb(?=c)")), "{}", imported.report);
    let lines = imported.report.to_string().lines().count();
    assert_eq!(lines, imported.report.entries.len() + 1, "{}", imported.report);
    let note = String::from_utf8(imported.files["IMPORT.md"].clone()).unwrap();
    assert!(!note.contains(['\r', '\u{2028}']) && !note.contains("\n@id"), "{note}");
}

#[test]
fn two_texts_of_the_source_never_become_one_name() {
    for (format, text) in [
        (Format::ToolScopes, "scopes: [repo-write]\npolicies: {default_allowlist: ['repo write']}"),
        (Format::ToolScopes, "scopes: ['repo write', 'repo~write']\npolicies: {default_allowlist: []}"),
        (Format::Materiality, "materiality: HIGH\napprovers: ['role:TEAM LEAD']\nescalation_roles: [TEAM-LEAD]"),
        (Format::Materiality, "materiality: HIGH\napprovers: [{group: 'a b'}, {group: 'a+b'}]"),
    ] {
        let error = read(format, text, &Options::default()).unwrap_err().to_string();
        assert!(error.contains("in the bundle, as is"), "{text}: {error}");
    }
    let text = "scopes: ['repo write']\npolicies: {default_allowlist: ['repo write']}";
    assert!(read(Format::ToolScopes, text, &Options::default()).is_ok(), "the same text is the same scope");
}
