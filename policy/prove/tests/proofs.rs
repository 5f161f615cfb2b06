//! Proofs by a real solver about the default bundle and about small ones: what is proved is true, what is refuted comes
//! with a request that Cedar judges the same way, and without a solver nothing is proved.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_policy_bundle::{Draft, Files, OrgId, Settings, Timestamp, check_draft};
use countersign_policy_decide::PolicySnapshot;
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_prove::{Doubt, Environment, Limits, Outcome, Proof, Solver, Subject, compare, prove, reach};
use proptest::prelude::*;

const POLICIES: &str = include_str!("../../bundles/default/policies.cedar");
const RULES: &str = include_str!("../../bundles/default/rules.json");
const ROLES: &str = include_str!("../../bundles/default/roles.json");
const CATALOGUE: &str = include_str!("../../bundles/default/tools/catalogue.json");

/// When everything is proved.
const NOW: Timestamp = Timestamp(1_795_219_200_000);

/// The solver that `cargo xtask test` names, or the one that it has laid down before. None: the test is skipped.
#[expect(clippy::disallowed_methods, reason = "a test finds out what the machine has")]
fn solver(test: &str) -> Option<Solver> {
    let named = std::env::var_os("COUNTERSIGN_CVC5").map(PathBuf::from);
    let laid_down = std::env::var_os("HOME")
        .map(|home| PathBuf::from(home).join(".cache/countersign/tools/cvc5-1.3.1/bin/cvc5"))
        .filter(|path| path.is_file());
    let limits = Limits { query: Duration::from_mins(1), ..Limits::default() };
    if let Some(path) = named.or(laid_down) {
        return Some(Solver::at(&path, limits).unwrap());
    }
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(!in_ci, "no cvc5: `cargo xtask test` lays it down");
    // Past the capture of the test's output, so that whoever runs the tests sees it.
    let line = format!("skipped: {test}: no cvc5; `cargo xtask test` lays it down\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

struct Bundle {
    snapshot: Arc<PolicySnapshot>,
    files: Files,
    settings: Settings,
}

impl Bundle {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::with(files, CATALOGUE)
    }

    fn with(files: &[(&str, &str)], catalogue: &str) -> Self {
        let raw = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
        let draft = Draft::from_files(raw).unwrap();
        let catalogue = Catalogue::parse(catalogue.as_bytes()).unwrap();
        let checked = check_draft(&draft, OrgId::from_bytes([1; 16]), Some(&catalogue));
        let snapshot = checked.built().unwrap_or_else(|| panic!("{:#?}", checked.report));
        Self { snapshot: Arc::clone(snapshot), files: draft.files, settings: draft.settings }
    }

    fn default(policies: &str, invariants: &str) -> Self {
        let all = [
            ("policies.cedar", policies),
            ("rules.json", RULES),
            ("roles.json", ROLES),
            ("invariants/all.cedar", invariants),
        ];
        Self::new(&all)
    }

    fn subject(&self) -> Subject<'_> {
        Subject { snapshot: &self.snapshot, files: &self.files, settings: &self.settings }
    }
}

fn invariant(id: &str, scope: &str, condition: &str) -> String {
    format!("@id(\"{id}\")\npermit ({scope})\nwhen {{ {condition} }};\n")
}

fn find<'p>(proofs: &'p [Proof], id: &str) -> &'p Proof {
    proofs.iter().find(|proof| proof.invariant == id).unwrap()
}

const REFUND: &str = r#"principal, action == Countersign::Action::"callTool:payments.refund", resource"#;

#[test]
fn invariants_of_the_default_bundle_are_proved_or_refuted_with_a_request() {
    let Some(solver) = solver("invariants_of_the_default_bundle_are_proved_or_refuted_with_a_request") else { return };
    let text = [
        invariant("no-refund-alone", REFUND, r#"!context.satisfied.contains(Countersign::ApprovalRule::"payment")"#),
        invariant(
            "agents-never-approve",
            r#"principal is Countersign::Agent, action == Countersign::Action::"approve", resource"#,
            "true",
        ),
        invariant("organizations-do-not-mix", "principal, action, resource", "principal.org != resource.org"),
        invariant(
            "involved-never-approve",
            r#"principal is Countersign::Person, action == Countersign::Action::"approve", resource is Countersign::Item"#,
            "resource.involved.contains(principal)",
        ),
        invariant("no-refund-ever", REFUND, "context.input.currency == \"EUR\""),
    ]
    .concat();
    let bundle = Bundle::default(POLICIES, &text);
    let proofs = prove(bundle.subject(), NOW, Some(&solver)).unwrap();
    for (id, environments) in [("no-refund-alone", 4), ("agents-never-approve", 1), ("involved-never-approve", 1)] {
        assert_eq!(find(&proofs, id).outcome, Outcome::Proved { environments }, "{}", find(&proofs, id));
    }
    assert!(find(&proofs, "organizations-do-not-mix").holds(), "{}", find(&proofs, "organizations-do-not-mix"));

    let refuted = find(&proofs, "no-refund-ever");
    let Outcome::Refuted { example } = &refuted.outcome else { panic!("{refuted}") };
    assert!(example.judgement.allowed, "{example:?}");
    assert!(example.words.contains("`callTool:payments.refund`"), "{}", example.words);
    assert!(example.words.contains("context.input.currency is \"EUR\""), "{}", example.words);
    assert_eq!(example.question["op"], "callTool:payments.refund");
    assert_eq!(example.question["context"]["input"]["currency"], "EUR");
    assert!(example.question["asked"].as_str().is_some_and(|asked| !asked.is_empty()));
    assert!(refuted.to_string().starts_with("invariants/all.cedar:"), "{refuted}");
    assert!(refuted.to_string().contains("it is allowed by"), "{refuted}");
}

#[test]
fn what_is_no_invariant_is_never_proved() {
    let Some(solver) = solver("what_is_no_invariant_is_never_proved") else { return };
    let reads = r#"principal is Countersign::Person, action == Countersign::Action::"readPolicy", resource"#;
    let text = [
        invariant("impossible", reads, "1 == 2"),
        invariant("impossible-to-be", reads, "context.denials > 3 && context.denials < 2"),
        format!("@id(\"turned\") forbid ({reads});\n"),
        format!("permit ({reads});\n"),
        invariant("mistyped", reads, "context.nothing == 1"),
        invariant("nowhere", "principal is Countersign::Role, action, resource", "true"),
        invariant("twice", reads, "context.denials > 3"),
        invariant("twice", reads, "context.denials > 4"),
    ]
    .concat();
    let bundle = Bundle::default(POLICIES, &text);
    let proofs = prove(bundle.subject(), NOW, Some(&solver)).unwrap();
    assert_eq!(proofs.len(), 8);
    for proof in &proofs {
        assert!(!proof.holds(), "{proof}");
    }
    for (id, part) in [
        ("impossible", "no request"),
        ("impossible-to-be", "no request"),
        ("turned", "turn it around"),
        ("invariants/all.cedar:1:1", "no `@id`"),
        ("mistyped", "does not fit the schema"),
        ("nowhere", "no request"),
    ] {
        assert!(find(&proofs, id).to_string().contains(part), "{}", find(&proofs, id));
    }
    assert!(proofs.iter().any(|proof| proof.to_string().contains("that of another invariant")));
    let broken = Bundle::default(POLICIES, "@id(\"a\")\npermit (principal, action);");
    let proofs = prove(broken.subject(), NOW, Some(&solver)).unwrap();
    assert!(proofs[0].to_string().contains("does not parse"), "{}", proofs[0]);
    assert_eq!((proofs[0].place.line, proofs[0].holds()), (2, false));
}

#[test]
fn without_a_solver_nothing_is_proved_and_nothing_passes() {
    let text = invariant("agents-never-approve", "principal is Countersign::Agent, action, resource", "true");
    let bundle = Bundle::default(POLICIES, &text);
    let proofs = prove(bundle.subject(), NOW, None).unwrap();
    assert_eq!(proofs.len(), 1);
    let Outcome::NotProved { doubt: Doubt::NoSolver, .. } = &proofs[0].outcome else { panic!("{}", proofs[0]) };
    assert!(!proofs[0].holds() && proofs[0].to_string().contains("install cvc5"), "{}", proofs[0]);

    let other = Bundle::default(&POLICIES.replace("context.denials >= 50", "context.denials >= 60"), "");
    let difference = compare(bundle.subject(), other.subject(), NOW, None).unwrap();
    assert!(!difference.allows_nothing_more());
    assert!(difference.not_proved.iter().all(|(_, doubt)| *doubt == Doubt::NoSolver));

    let reach = reach(bundle.subject(), NOW, None).unwrap();
    assert!(reach.failing.is_empty() && reach.never_failing.is_empty());
    assert!(reach.not_proved.iter().all(|(_, _, doubt)| *doubt == Doubt::NoSolver));
}

#[test]
fn a_solver_without_time_or_memory_proves_nothing() {
    let Some(solver) = solver("a_solver_without_time_or_memory_proves_nothing") else { return };
    let text =
        invariant("no-refund-alone", REFUND, r#"!context.satisfied.contains(Countersign::ApprovalRule::"payment")"#);
    let bundle = Bundle::default(POLICIES, &text);
    let with = |limits| Solver::at(solver.program(), limits).unwrap();
    for (limits, part) in [
        (Limits { total: Duration::ZERO, ..Limits::default() }, "took longer than 0 s"),
        (Limits { query: Duration::from_millis(1), ..Limits::default() }, "no answer within"),
        (Limits { memory: 8 * 1024 * 1024, ..Limits::default() }, "the solver failed"),
    ] {
        let proofs = prove(bundle.subject(), NOW, Some(&with(limits))).unwrap();
        assert!(!proofs[0].holds() && proofs[0].to_string().contains(part), "{}", proofs[0]);
    }
}

#[test]
fn a_difference_names_what_is_newly_allowed_and_denied_with_a_request_for_each() {
    let Some(solver) = solver("a_difference_names_what_is_newly_allowed_and_denied_with_a_request_for_each") else {
        return;
    };
    let old = Bundle::default(POLICIES, "");
    let ungated = POLICIES.replace(
        "[Countersign::Action::\"callTool:payments.refund\",\n     Countersign::Action::\"callTool:payments.transfer\"],\n  resource is Countersign::Tool\n)\nunless",
        "[Countersign::Action::\"callTool:payments.transfer\"],\n  resource is Countersign::Tool\n)\nunless",
    );
    assert_ne!(ungated, POLICIES);
    let stricter = ungated.replace("context.denials >= 50", "context.denials >= 40");
    assert_ne!(ungated, stricter);
    let new = Bundle::default(&stricter, "");
    let difference = compare(old.subject(), new.subject(), NOW, Some(&solver)).unwrap();
    assert!(difference.not_proved.is_empty(), "{:?}", difference.not_proved);
    assert!(!difference.allows_nothing_more());
    let actions: Vec<&str> = difference.newly_allowed.iter().map(|change| change.environment.action.as_str()).collect();
    assert!(!actions.is_empty() && actions.iter().all(|action| *action == "callTool:payments.refund"), "{actions:?}");
    let change = &difference.newly_allowed[0];
    assert!(change.example.judgement.allowed && !change.before.allowed);
    assert_eq!(change.before.asks_for.iter().collect::<Vec<_>>(), ["payment"], "{change}");
    assert!(
        change.to_string().contains("before it was denied until `payment` is met, now it is allowed by"),
        "{change}"
    );
    // Forty refusals are now too many, for agents and every tool.
    assert!(!difference.newly_denied.is_empty());
    for change in &difference.newly_denied {
        assert_eq!(change.environment.principal, "Agent");
        assert!(change.example.judgement.determining.contains(&"too-many-denials".to_owned()), "{change}");
        let denials = change.example.question["context"]["denials"].as_i64().unwrap();
        assert!((40..50).contains(&denials), "{denials}");
    }
    let back = compare(new.subject(), old.subject(), NOW, Some(&solver)).unwrap();
    assert_eq!(back.newly_denied.len(), difference.newly_allowed.len());
    assert_eq!(back.newly_allowed.len(), difference.newly_denied.len());
    let same = compare(old.subject(), old.subject(), NOW, Some(&solver)).unwrap();
    assert!(same.allows_nothing_more() && same.newly_denied.is_empty() && same.alike > 100, "{same:?}");
}

#[test]
fn roles_and_rules_of_either_bundle_are_known_when_both_are_compared() {
    let Some(solver) = solver("roles_and_rules_of_either_bundle_are_known_when_both_are_compared") else { return };
    let permit = |role: &str| {
        format!(
            "@id(\"reads\") permit (principal is Countersign::Person, action == Countersign::Action::\"readPolicy\", \
             resource) when {{ principal in Countersign::Role::\"{role}\" }};"
        )
    };
    let bundle = |role: &str| {
        let roles = format!("{{\"roles\": {{\"{role}\": {{}}}}}}");
        Bundle::new(&[("policies.cedar", &permit(role)), ("roles.json", &roles)])
    };
    let (old, new) = (bundle("CLERK"), bundle("JUDGE"));
    let difference = compare(old.subject(), new.subject(), NOW, Some(&solver)).unwrap();
    assert_eq!((difference.newly_allowed.len(), difference.newly_denied.len()), (1, 1), "{difference:?}");
    let change = difference.newly_allowed[0].to_string();
    assert!(change.contains("before it was denied, as nothing permits it, now it is allowed by `reads`"), "{change}");
}

#[test]
fn a_forbid_that_can_fail_is_found_with_a_request_on_which_it_does() {
    let Some(solver) = solver("a_forbid_that_can_fail_is_found_with_a_request_on_which_it_does") else { return };
    let policies = r#"
        @id("reads") permit (principal, action == Countersign::Action::"readPolicy", resource);
        @id("counts") forbid (principal, action == Countersign::Action::"readPolicy", resource)
        when { context.denials * 4 > 100 };
        @id("fine") forbid (principal, action == Countersign::Action::"readPolicy", resource)
        when { context.denials > 100 };
    "#;
    let bundle = Bundle::new(&[("policies.cedar", policies)]);
    let reach = reach(bundle.subject(), NOW, Some(&solver)).unwrap();
    assert!(reach.not_proved.is_empty(), "{:?}", reach.not_proved);
    assert_eq!(reach.failing.iter().map(|f| f.policy.as_str()).collect::<Vec<_>>(), ["counts"]);
    let denials = reach.failing[0].example.question["context"]["denials"].as_i64().unwrap();
    assert!(denials.checked_mul(4).is_none(), "{denials}");
    assert!(reach.never_failing.contains(&"fine".to_owned()));
    assert!(reach.never_failing.contains(&"kernel:organizations-do-not-mix".to_owned()));
    let read = |principal: &str| Environment {
        principal: principal.to_owned(),
        action: "readPolicy".to_owned(),
        resource: "Organization".to_owned(),
    };
    assert!(!reach.always_denied.contains(&read("Person")));
    let start = Environment { action: "start".to_owned(), resource: "Workflow".to_owned(), ..read("Agent") };
    assert!(reach.always_denied.contains(&start), "{:?}", reach.always_denied);
}

#[test]
fn a_permit_that_the_kernel_never_lets_through_is_always_denied() {
    let Some(solver) = solver("a_permit_that_the_kernel_never_lets_through_is_always_denied") else { return };
    let policies = r#"@id("all") permit (principal, action == Countersign::Action::"approve", resource);"#;
    let bundle = Bundle::new(&[("policies.cedar", policies)]);
    let reach = reach(bundle.subject(), NOW, Some(&solver)).unwrap();
    let approve: Vec<&str> = reach
        .always_denied
        .iter()
        .filter(|environment| environment.action == "approve")
        .map(|environment| environment.principal.as_str())
        .collect();
    assert_eq!(approve.len(), 3, "{approve:?}");
    assert!(!approve.contains(&"Person"));
}

#[test]
fn a_forbid_in_shadow_proves_nothing_and_a_permit_in_shadow_counts() {
    let Some(solver) = solver("a_forbid_in_shadow_proves_nothing_and_a_permit_in_shadow_counts") else { return };
    let scope = r#"principal is Countersign::Person, action == Countersign::Action::"readPolicy", resource"#;
    let policies = format!(
        "@id(\"all\") permit ({scope}) when {{ context.denials < 9 }};\n\
         @id(\"few\") forbid ({scope}) when {{ context.denials > 4 && context.denials < 9 }};\n\
         @id(\"more\") permit ({scope}) when {{ context.denials == 20 }};\n"
    );
    let text = [
        invariant("not-after-four", scope, "context.denials > 4 && context.denials < 9"),
        invariant("not-twenty", scope, "context.denials == 20"),
        invariant("not-nine", scope, "context.denials == 9"),
    ]
    .concat();
    let bundle = |shadow: &str| {
        let manifest = format!("{{\"shadow\": {{\"policies\": [{shadow}]}}}}");
        Bundle::new(&[("policies.cedar", &policies), ("invariants/i.cedar", &text), ("bundle.json", &manifest)])
    };
    let until = |id: &str, end: u64| format!("{{\"id\": \"{id}\", \"until\": {end}}}");
    let holding = |bundle: &Bundle| -> Vec<bool> {
        prove(bundle.subject(), NOW, Some(&solver)).unwrap().iter().map(Proof::holds).collect()
    };
    let (open, few, more) = (bundle(""), bundle(&until("few", NOW.0 + 1)), bundle(&until("more", NOW.0 + 1)));
    assert_eq!(holding(&open), [true, false, true]);
    assert_eq!(holding(&few), [false, false, true]);
    assert_eq!(holding(&more), [true, false, true]);
    let difference = compare(open.subject(), few.subject(), NOW, Some(&solver)).unwrap();
    assert_eq!((difference.newly_allowed.len(), difference.newly_denied.len()), (1, 0), "{difference:?}");
    assert_eq!(difference.shadowed, ["few"]);
    // From its last instant on, a policy is enforced, and is compared as such.
    let over = bundle(&until("few", NOW.0));
    assert_eq!(holding(&over), [true, false, true]);
    let same = compare(open.subject(), over.subject(), NOW, Some(&solver)).unwrap();
    assert!(same.allows_nothing_more() && same.newly_denied.is_empty() && same.shadowed.is_empty(), "{same:?}");
    let ended = compare(few.subject(), over.subject(), NOW, Some(&solver)).unwrap();
    assert_eq!((ended.newly_allowed.len(), ended.newly_denied.len()), (0, 1), "{ended:?}");
}

#[test]
fn where_the_same_request_reaches_policies_with_other_facts_nothing_is_said_to_be_alike() {
    let policies = "@id(\"reads\") permit (principal, action == Countersign::Action::\"readPolicy\", resource);\n\
                    @id(\"calls\") permit (principal, action in Countersign::Action::\"callTool\", resource);";
    let with = |files: &[(&str, &str)], catalogue: &str| {
        Bundle::with(&[&[("policies.cedar", policies)], files].concat(), catalogue)
    };
    let compared = |one: &Bundle, other: &Bundle| compare(one.subject(), other.subject(), NOW, None).unwrap();
    let plain = with(&[], CATALOGUE);
    let about = |doubt: &Doubt, part: &str| matches!(doubt, Doubt::Unsupported { reason } if reason.contains(part));
    let cut = |steps: &str| format!("{{\"transforms\": {{\"a\": {steps}, \"b\": {steps}}}}}");
    let cut = cut("{\"steps\": [{\"at\": [\"/path\"], \"with\": \"drop\"}]}");
    let ordered = |order: &str| {
        let manifest = format!("{{\"transforms\": [{order}]}}");
        with(&[("masks.json", &cut), ("bundle.json", &manifest)], CATALOGUE)
    };
    for (one, other, part) in [
        (
            &plain,
            &with(&[("detectors.json", "{\"detectors\": {\"s\": {\"find\": {\"secrets\": {}}}}}")], CATALOGUE),
            "detectors",
        ),
        (&plain, &with(&[("masks.json", "{\"masks\": {}}")], CATALOGUE), "masks"),
        (&plain, &with(&[("counters.json", "{\"counters\": {\"c\": {}}}")], CATALOGUE), "counters"),
        (&plain, &with(&[("ages.json", "{\"ages_s\": {\"Person\": 60}}")], CATALOGUE), "ages"),
        (&ordered("\"a\", \"b\""), &ordered("\"b\", \"a\""), "transforms"),
        (&plain, &with(&[], &CATALOGUE.replacen("\"risk\": 0", "\"risk\": 4", 1)), "the risk, data"),
    ] {
        for (old, new) in [(one, other), (other, one)] {
            let found = compared(old, new);
            assert!(found.alike == 0 && !found.allows_nothing_more(), "{part}");
            assert!(found.not_proved.iter().all(|(_, doubt)| about(doubt, part)), "{part}: {:?}", found.not_proved);
        }
    }
    // A tool of one catalogue alone is not compared; the layout of data is nothing.
    let renamed = with(&[], &CATALOGUE.replacen("\"repo.list\"", "\"repo.lists\"", 1));
    let found = compared(&plain, &renamed);
    assert!(found.alike > 100 && !found.allows_nothing_more(), "{}", found.alike);
    for (environment, doubt) in found.not_proved {
        assert!(
            environment.action.contains("repo.list") && about(&doubt, "not defined alike"),
            "{environment}: {doubt}"
        );
    }
    let layouts = ["{\"counters\":{}}", "{ \"counters\": {} }"].map(|text| with(&[("counters.json", text)], CATALOGUE));
    assert!(compared(&layouts[0], &layouts[1]).allows_nothing_more());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// The oracle is arithmetic: a permit up to `most` and an invariant from `least` on meet unless `least > most`.
    #[test]
    fn proofs_agree_with_arithmetic(most in 0_i64..6, least in 0_i64..6, stopped in proptest::option::of(0_i64..6)) {
        let Some(solver) = solver("proofs_agree_with_arithmetic") else { return Ok(()) };
        let scope = r#"principal is Countersign::Agent, action == Countersign::Action::"start", resource"#;
        let mut policies = format!("@id(\"p\") permit ({scope}) when {{ resource.materiality <= {most} }};");
        if let Some(stopped) = stopped {
            let forbid = format!("@id(\"f\") forbid ({scope}) when {{ resource.materiality >= {stopped} }};");
            policies.push_str(&forbid);
        }
        let text = invariant("i", scope, &format!("resource.materiality >= {least}"));
        let bundle = Bundle::new(&[("policies.cedar", &policies), ("invariants/i.cedar", &text)]);
        let proofs = prove(bundle.subject(), NOW, Some(&solver)).unwrap();
        let meets = least <= most && stopped.is_none_or(|stopped| least < stopped);
        match &proofs[0].outcome {
            Outcome::Proved { .. } => prop_assert!(!meets, "{}", proofs[0]),
            Outcome::Refuted { example } => {
                prop_assert!(meets, "{}", proofs[0]);
                prop_assert!(example.judgement.allowed);
            }
            Outcome::NotProved { .. } => prop_assert!(false, "{}", proofs[0]),
        }
    }
}
