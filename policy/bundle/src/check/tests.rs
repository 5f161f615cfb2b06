//! What a check finds, and where.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;

use countersign_gateway_model::{Decision, Timestamp};

use super::*;
use crate::manifest::{Settings, Shadow, Shadowed};

fn org() -> OrgId {
    OrgId::from_bytes([1; 16])
}

const GOOD: &str = r#"@id("list")
permit (principal is Countersign::Person, action == Countersign::Action::"listTools", resource)
when { principal in Countersign::Role::"ADMIN" };
@id("gate")
@requires_approval("change")
forbid (principal, action == Countersign::Action::"activatePolicy", resource)
unless { context.satisfied.contains(Countersign::ApprovalRule::"change") };
@id("propose")
permit (principal is Countersign::Person, action == Countersign::Action::"activatePolicy", resource);
"#;
const RULES: &str = r#"{"rules":{"change":{"authority":{"roles":["ADMIN"]}}}}"#;
const ROLES: &str = r#"{"roles":{"ADMIN":{}}}"#;
const TESTS: &str = r#"{"entities": [
  {"entity": "Person::ann", "attrs": {"active": true}, "roles": ["ADMIN"]},
  {"entity": "PolicyBundle::b", "attrs": {"version": 2, "checked": true, "shadowed": true, "weakens": false, "rollback": false}}],
 "cases": [
  {"name": "an administrator lists tools",
   "ask": {"asked": "Person::ann", "op": "listTools", "resource": "Organization::self", "now": 1},
   "expect": {"decision": "allow", "determining": ["list"]}},
  {"name": "activation waits",
   "ask": {"asked": "Person::ann", "op": "activatePolicy", "resource": "PolicyBundle::b", "now": 1},
   "expect": {"decision": "needs_approval", "rules": ["change"], "determining": ["gate"]}},
  {"name": "and then goes",
   "ask": {"asked": "Person::ann", "op": "activatePolicy", "resource": "PolicyBundle::b", "now": 1, "satisfied": ["change"]},
   "expect": {"decision": "allow", "determining": ["propose"]}}]}"#;

/// The good bundle, with some files replaced; an empty text removes a file.
fn with(files: &[(&str, &str)]) -> Draft {
    let mut all = BTreeMap::from([
        ("policies.cedar", GOOD),
        ("rules.json", RULES),
        ("roles.json", ROLES),
        ("tests/a.json", TESTS),
    ]);
    all.extend(files.iter().copied());
    let raw = all.into_iter().filter(|(_, text)| !text.is_empty());
    Draft::from_files(raw.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))).unwrap()
}

fn first_error(draft: &Draft) -> (RuleId, String) {
    let checked = check_draft(draft, org(), None);
    assert!(checked.accepted().is_none(), "{}", checked.report);
    let error = checked.report.findings.iter().find(|f| f.severity == Severity::Error).unwrap();
    assert!(!error.message.is_empty() && !error.next_step.is_empty() && !error.message.contains('\n'), "{error}");
    // A step is more than that something is to be corrected.
    let empty = ["correct what it names", "correct the file", "correct it"];
    assert!(empty.iter().all(|words| !error.next_step.starts_with(words)), "{error}");
    (error.rule, error.place.to_string())
}

#[test]
fn a_good_bundle_passes_with_every_policy_covered() {
    let checked = check_draft(&with(&[]), org(), None);
    assert!(checked.accepted().is_some(), "{}", checked.report);
    let tests = checked.report.tests.as_ref().unwrap();
    assert_eq!((tests.passed, tests.failed, tests.percent()), (3, 0, 100));
    assert_eq!(checked.report.findings, []);
    assert_eq!(
        checked.report.to_string(),
        "3 policies, 0 errors, 0 warnings; 3 of 3 tests pass, 3 of 3 policies covered (100 %), both ways of 1 approval rules (100 %)"
    );
    assert_eq!(tests.covered[&Name::new("gate").unwrap()], 1);
    assert_eq!(tests.rules[&Name::new("change").unwrap()], crate::Branches { asked: 1, met: 1 });
}

#[test]
fn every_failure_names_file_line_column_and_rule() {
    let policy = |text: &str| format!("{GOOD}{text}\n");
    let mut wrong = Vec::new();
    for (path, text, rule, place) in [
        (
            "policies.cedar",
            policy("@id(\"x\")\npermit (principal, action, resource) when { 1 + };"),
            RuleId::Syntax,
            "policies.cedar:11:49",
        ),
        ("policies.cedar", policy("permit (principal, action, resource);"), RuleId::PolicyId, "policies.cedar:10:1"),
        (
            "policies.cedar",
            policy("@id(\"kernel:x\") permit (principal, action, resource);"),
            RuleId::PolicyId,
            "policies.cedar:10:1",
        ),
        (
            "policies.cedar",
            policy(
                "@id(\"x\") permit (principal is Countersign::Agent, action == Countersign::Action::\"start\", resource)\nwhen { principal.autonomie > 1 };",
            ),
            RuleId::Type,
            "policies.cedar:11:8",
        ),
        (
            "policies.cedar",
            policy(
                "@id(\"x\") permit (principal is Countersign::Person, action == Countersign::Action::\"start\", resource)\nwhen { principal in Countersign::Role::\"ADMINN\" };",
            ),
            RuleId::Type,
            "policies.cedar:11:21",
        ),
        (
            "policies.cedar",
            policy(
                "@id(\"x\") permit (principal is Countersign::Run, action == Countersign::Action::\"start\", resource);",
            ),
            RuleId::CedarWarning,
            "policies.cedar:10:1",
        ),
        (
            "policies.cedar",
            policy(
                "@id(\"x\") permit (principal is Countersign::Person, action == Countersign::Action::\"readRun\", resource is Countersign::Run)\nwhen { resource.instance.workflow.materiality > 1 };",
            ),
            RuleId::Level,
            "policies.cedar:11:8",
        ),
        (
            "policies.cedar",
            policy(
                "@id(\"x\") forbid (principal is Countersign::Person, action == Countersign::Action::\"start\", resource)\nwhen { principal.person == \"p\" };",
            ),
            RuleId::Type,
            "policies.cedar:11:8",
        ),
        (
            "policies.cedar",
            policy(
                "@id(\"x\") forbid (principal is Countersign::Person, action == Countersign::Action::\"start\", resource is Countersign::Workflow)\nwhen { decimal(resource.version) == decimal(\"1.0\") };",
            ),
            RuleId::Type,
            "policies.cedar:11:8",
        ),
        (
            "policies.cedar",
            GOOD.replace("@requires_approval(\"change\")\n", ""),
            RuleId::ReservedFact,
            "policies.cedar:6:18",
        ),
        (
            "rules.json",
            "{\"rules\":\n {\"change\":{\"authority\":{\"rolls\":[]}}}}".to_owned(),
            RuleId::RulesData,
            "rules.json:2:32",
        ),
        ("rules.json", "{\"rules\":{},\n\"rules\":{}}".to_owned(), RuleId::RulesData, "rules.json:2:1"),
        ("rules.json", RULES.replace("\"ADMIN\"", "\"BOSS\""), RuleId::Roles, "rules.json:1:43"),
        ("roles.json", "{\"roles\":[\"ADMIN\"]}".to_owned(), RuleId::Roles, "roles.json:1:9"),
        ("counters.json", "{".to_owned(), RuleId::Data, "counters.json:1:2"),
        (
            "schema.cedarschema",
            "namespace Mine {\n entity X in Y;\n action }".to_owned(),
            RuleId::Schema,
            "schema.cedarschema:3:9",
        ),
        (
            "schema/a.cedarschema",
            "namespace Countersign { entity X; }".to_owned(),
            RuleId::Schema,
            "schema/a.cedarschema:1:1",
        ),
        (
            "schema/a.cedarschema",
            "namespace Mine { action approve; }".to_owned(),
            RuleId::Schema,
            "schema/a.cedarschema:1:1",
        ),
        ("masks.json", "{\"masks\":[\"/x\"]}".to_owned(), RuleId::Data, "masks.json:1:9"),
        ("detectors.json", "{\"detectors\":[]}".to_owned(), RuleId::Data, "detectors.json:1:13"),
        (
            "detectors.json",
            "{\"detectors\":{\"d\":{\"find\":{\"patterns\":[\"(\"]}}}}".to_owned(),
            RuleId::Data,
            "detectors.json:1:40",
        ),
        (
            "detectors.json",
            "{\"detectors\":\n{\"d\":{\"find\":{\"patterns\":[\"a\",\n \"(\"]}}}}".to_owned(),
            RuleId::Data,
            "detectors.json:3:2",
        ),
        (
            "rules.json",
            "{\"rules\":\n {\"change\":\n {\"authority\":{\"roles\":[\"ADMIN\"]},\n \"quorum\":{\"persons\":0}}}}"
                .to_owned(),
            RuleId::RulesData,
            "rules.json:4:12",
        ),
        (
            "rules.json",
            "{\"rules\":\n {\"change\":{\"authority\":\n {}}}}".to_owned(),
            RuleId::RulesData,
            "rules.json:2:13",
        ),
        (
            "counters.json",
            "{\"counters\":{\n \"spent\":{\n\"window_s\":0}}}".to_owned(),
            RuleId::Data,
            "counters.json:3:1",
        ),
        ("masks.json", "{\"masks\":\n{\"m\":{\"steps\":[]}}}".to_owned(), RuleId::Data, "masks.json:2:7"),
        (
            "masks.json",
            "{\"transforms\":\n{\"cut\":{\"steps\":[{\"at\":[\"/x\"],\"with\":\"drop\"}]}}}".to_owned(),
            RuleId::Snapshot,
            "masks.json:2:2",
        ),
        ("bundle.json", "{\"transforms\":\n [\"cut\"]}".to_owned(), RuleId::Snapshot, "bundle.json:2:3"),
        (
            "bundle.json",
            "{\"shadow\":{\"policies\":[\n{\"id\":\"gone\",\"until\":9}],\"workflows\":[]}}".to_owned(),
            RuleId::Shadow,
            "bundle.json:2:2",
        ),
        ("tests/a.json", "{\"cases\":[}".to_owned(), RuleId::TestData, "tests/a.json:1:11"),
        (
            "tests/a.json",
            TESTS.replace("\"determining\": [\"list\"]", "\"determining\": [\"gate\"]"),
            RuleId::Test,
            "tests/a.json:5:12",
        ),
        ("tests/a.json", TESTS.replace("\"active\": true", "\"activ\": true"), RuleId::TestData, "tests/a.json:2:39"),
        ("tests/a.json", TESTS.replace("\"checked\": true", "\"checked\": 7"), RuleId::TestData, "tests/a.json:3:3"),
        (
            "tests/a.json",
            TESTS.replace("{\"decision\": \"allow\", \"determining\": [\"propose\"]}", "{\"decision\": \"perhaps\"}"),
            RuleId::TestData,
            "tests/a.json:13:15",
        ),
        ("tests/a.json", TESTS.replace("\"ask\":", "\"asks\":"), RuleId::TestData, "tests/a.json:6:4"),
    ] {
        let found = first_error(&with(&[(path, &text)]));
        if found != (rule, place.to_owned()) {
            wrong.push(format!("{found:?} instead of {rule} {place} in {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
}

#[test]
fn a_failing_test_shows_question_expectation_and_what_determined_the_answer() {
    let wrong = TESTS.replace("\"decision\": \"needs_approval\", \"rules\": [\"change\"]", "\"decision\": \"allow\"");
    let checked = check_draft(&with(&[("tests/a.json", &wrong)]), org(), None);
    let finding = checked.report.findings.iter().find(|f| f.rule == RuleId::Test).unwrap().to_string();
    for part in
        ["tests/a.json:8:12", "activation waits", "\"op\":\"activatePolicy\"", "expected Allow", "gate", "change"]
    {
        assert!(finding.contains(part), "{part} in {finding}");
    }
    let tests = checked.report.tests.as_ref().unwrap();
    let failed = tests.cases.iter().find(|case| !case.passed).unwrap();
    let failure = failed.failure.as_ref().unwrap();
    assert_eq!((&failure.question["op"], &failure.expected["decision"]), (&"activatePolicy".into(), &"allow".into()));
    assert_eq!((failed.place.line, failed.determining[0].as_str()), (8, "gate"));
    assert!(checked.built().is_some() && checked.accepted().is_none(), "reloading needs no test, activation does");
}

#[test]
fn a_policy_without_a_test_is_named_and_does_not_stand_in_the_way() {
    let checked = check_draft(&with(&[("tests/a.json", "")]), org(), None);
    let of = |f: &Finding| (f.rule, f.policy.as_ref().map(ToString::to_string).unwrap_or_default());
    let uncovered: Vec<_> = checked.report.findings.iter().map(of).collect();
    assert_eq!(uncovered, ["list", "gate", "propose", ""].map(|id| (RuleId::Coverage, id.to_owned())));
    assert_eq!(
        checked.report.findings[3].to_string().split(';').next().unwrap(),
        "rules.json:1:11: warning[coverage]: no passing test asks for rule `change`"
    );
    assert!(checked.accepted().is_some());
    let unmet = TESTS
        .replace(r#", "satisfied": ["change"]"#, "")
        .replace(r#""allow", "determining": ["propose"]"#, r#""needs_approval""#);
    let checked = check_draft(&with(&[("tests/a.json", &unmet)]), org(), None);
    let tests = checked.report.tests.as_ref().unwrap();
    assert_eq!((tests.failed, tests.rule_percent()), (0, 50), "{}", checked.report);
}

#[test]
fn shadow_transforms_and_detectors_reach_what_decides() {
    let shadow = Shadow {
        policies: vec![Shadowed { id: Name::new("gate").unwrap(), until: Timestamp(9) }],
        workflows: vec![Shadowed { id: Name::new("trial").unwrap(), until: Timestamp(9) }],
    };
    let settings = Settings { shadow, transforms: vec![Name::new("cut").unwrap()], ..Settings::default() };
    // Both take effect in one test: the note with a secret is cut, and the clean one is not.
    let tools = r#"{"tools":[{"name":"notes.append","risk":1,"data_class":"internal",
        "input":{"type":"object","properties":{"x":{"type":"string"},"y":{"type":"string"}}}}]}"#;
    let policies = format!(
        "{GOOD}@id(\"call\") permit (principal is Countersign::Person, action in Countersign::Action::\"callTool\", resource);\n\
         @id(\"cuts\") @transform(\"cut\") forbid (principal, action in Countersign::Action::\"callTool\", resource)\n\
         when {{ context.facts.contains(\"secret\") }} unless {{ context.applied.contains(\"cut\") }};\n\
         @id(\"was-cut\") @requires_approval(\"change\") forbid (principal, action in Countersign::Action::\"callTool\", resource)\n\
         when {{ context.facts.contains(\"masked:cut\") && context.denials > 0 }}\n\
         unless {{ context.satisfied.contains(Countersign::ApprovalRule::\"change\") }};\n"
    );
    let secret = "-----BEGIN RSA PRIVATE KEY-----";
    let case = |name: &str, ask: &str, expect: &str| {
        format!(
            "{{\"name\":\"{name}\",\"ask\":{{\"asked\":\"Person::ann\",\"op\":\"callTool\",\"resource\":\"Tool::notes.append\",\
             \"now\":1,{ask}}},\"expect\":{{{expect}}}}}"
        )
    };
    let cases = [
        case(
            "a secret is cut",
            &format!("\"input\":{{\"x\":\"{secret}\",\"y\":\"a\"}}"),
            "\"decision\":\"allow\",\"determining\":[\"call\"],\"input\":{\"y\":\"a\"}",
        ),
        case("others stay", "\"input\":{\"x\":\"b\"}", "\"decision\":\"allow\",\"input\":{\"x\":\"b\"}"),
        case(
            "what was cut waits for one who was denied",
            &format!("\"denials\":1,\"input\":{{\"x\":\"{secret}\"}}"),
            "\"decision\":\"needs_approval\",\"rules\":[\"change\"],\"determining\":[\"was-cut\"]",
        ),
    ];
    let tests = TESTS.replace("\"cases\": [", &format!("\"cases\": [{},", cases.join(",\n")));
    let files = [
        ("policies.cedar", policies.as_str()),
        ("masks.json", r#"{"transforms":{"cut":{"steps":[{"at":["/x"],"with":"drop"}]}}}"#),
        ("detectors.json", r#"{"detectors":{"secret":{"at":["/x"],"find":{"secrets":{}}}}}"#),
        ("tests/a.json", tests.as_str()),
    ];
    let catalogue = Catalogue::parse(tools.as_bytes()).unwrap();
    let draft = Draft { settings, ..with(&files) };
    let checked = check_draft(&draft, org(), Some(&catalogue));
    assert!(checked.built().is_some(), "{}", checked.report);
    let snapshot = checked.built().unwrap();
    let run = checked.report.tests.as_ref().unwrap();
    // The activation that must wait does not, while its gate is in shadow.
    assert_eq!((run.passed, run.failed), (5, 1), "{}", checked.report);
    assert_eq!(run.covered.get(&Name::new("cuts").unwrap()), Some(&2), "the policy that asks for it is covered");
    assert_eq!(run.cases[0].transforming, [Name::new("cuts").unwrap()]);
    // A bundle without the transform is another one, for the questions of its tests too.
    let settings = Settings { transforms: vec![], ..draft.settings.clone() };
    let plain = policies.split("@id(\"cuts\")").next().unwrap();
    let plain = [("policies.cedar", plain), ("detectors.json", files[2].1), ("tests/a.json", files[3].1)];
    let plain = Draft { settings, ..with(&plain) };
    let without = check_draft(&plain, org(), Some(&catalogue));
    let shown = crate::examples((without.built().unwrap(), &plain.files), (snapshot, &draft.files));
    let shown: Vec<_> = shown.iter().map(|e| (e.name.as_str(), e.before, e.after)).collect();
    let waits = "what was cut waits for one who was denied";
    assert_eq!(shown, [(waits, Decision::Allow, Decision::NeedsApproval)]);
    let wrong = tests.replace("\"input\":{\"y\":\"a\"}", "\"input\":{\"y\":\"b\"}");
    let draft = Draft { files: with(&[files[0], files[1], files[2], ("tests/a.json", &wrong)]).files, ..draft };
    let report = check_draft(&draft, org(), Some(&catalogue)).report;
    let failed: Vec<String> = report
        .tests
        .iter()
        .flat_map(|run| &run.cases)
        .filter_map(|c| Some(c.failure.as_ref()?.difference.clone()))
        .collect();
    assert_eq!(failed[0], "expected input {\"y\":\"b\"}, got {\"y\":\"a\"}");
    let gate = snapshot.policies().iter().find(|p| p.id.as_str() == "gate").unwrap();
    assert_eq!(gate.shadow_until, Some(Timestamp(9)));
    let trial = |at| snapshot.workflow_in_shadow(&Name::new("trial").unwrap(), Timestamp(at));
    assert!(trial(8) && !trial(9), "until its instant and no longer");
}

#[test]
fn what_the_manifest_orders_must_be_there_and_the_gateways_own_workflows_are_never_in_shadow() {
    let until = Timestamp(9);
    let workflow = Shadow {
        policies: vec![],
        workflows: vec![Shadowed { id: Name::new("countersign.policy-change").unwrap(), until }],
    };
    for (settings, rule) in [
        (Settings { shadow: workflow, ..Settings::default() }, RuleId::Shadow),
        (Settings { transforms: vec![Name::new("gone").unwrap()], ..Settings::default() }, RuleId::Snapshot),
    ] {
        assert_eq!(first_error(&Draft { settings, ..with(&[]) }).0, rule);
    }
}

#[test]
fn empty_parts_and_types_of_ones_own_are_taken() {
    let files =
        [("masks.json", "{}"), ("schema/a.cedarschema", "namespace Mine { entity Robot; }"), ("README.md", "# hi")];
    let checked = check_draft(&with(&files), org(), None);
    assert!(checked.accepted().is_some(), "{}", checked.report);
}

#[test]
fn places_are_right_in_a_long_file_and_findings_about_it_are_bounded() {
    let mut grants = String::new();
    for n in 0..150 {
        let agent = format!("Countersign::Agent::\"{}/a{n}\"", org());
        writeln!(grants, "@id(\"grant-{n}\")\npermit (principal == {agent},").unwrap();
        grants += "action == Countersign::Action::\"readInstance\", resource is Countersign::Instance);\n";
    }
    let checked = check_draft(&with(&[("policies/grants.cedar", &grants)]), org(), None);
    assert!(checked.accepted().is_some(), "{}", checked.report);
    assert_eq!(checked.report.policies, 153);
    let last = checked.report.findings.last().unwrap();
    assert_eq!((checked.report.findings.len(), &*last.place.to_string()), (100, "policies/grants.cedar:298:1"));
    assert_eq!(checked.report.tests.as_ref().unwrap().uncovered.len(), 150);
}

#[test]
fn an_attribute_that_may_be_missing_is_refused_with_the_way_to_ask_for_it() {
    let text = format!(
        "{GOOD}@id(\"x\") forbid (principal is Countersign::Person, action == Countersign::Action::\"start\", resource) \
         when {{ principal.person == \"p\" }};"
    );
    let checked = check_draft(&with(&[("policies.cedar", &text)]), org(), None);
    let finding = checked.report.findings.iter().find(|f| f.rule == RuleId::Type).unwrap();
    assert!(finding.next_step.contains("has person"), "{finding}");
    let safe = text.replace("principal.person ==", "principal has person && principal.person ==");
    assert!(check_draft(&with(&[("policies.cedar", &safe)]), org(), None).report.passes());
}

#[test]
fn more_policies_than_are_taken_are_refused_before_one_is_parsed() {
    let many = "permit(principal,action,resource);".repeat(MAX_POLICIES + 1);
    let checked = check_draft(&with(&[("policies/many.cedar", &many), ("policies.cedar", "")]), org(), None);
    let limit = checked.report.findings.iter().find(|f| f.rule == RuleId::Limit).unwrap();
    assert!(limit.message.contains("50001 policies"), "{limit}");
    assert!(checked.report.findings.iter().all(|f| f.rule != RuleId::PolicyId), "none was looked at");
    assert!(checked.accepted().is_none());
}

#[test]
fn what_this_program_has_nothing_for_is_refused_and_what_was_in_force_with_it_still_loads() {
    let draft = with(&[("ages.json", "{\"ages_s\":\n{\"Person\":3600}}")]);
    assert_eq!(first_error(&draft), (RuleId::Unsupported, "ages.json:2:2".to_owned()));
    let checked = check_draft(&draft, org(), None);
    assert!(checked.built().is_some() && checked.stands().is_some() && checked.accepted().is_none());
    let demanding = RULES.replace("[\"ADMIN\"]}", "[\"ADMIN\"]},\n\"demand\":{\"assurance\":\"mfa\"}");
    assert!(check_draft(&with(&[("rules.json", &demanding)]), org(), None).accepted().is_some());
    let other = with(&[("roles.json", "{}")]);
    assert!(check_draft(&other, org(), None).stands().is_none(), "nothing else is passed over");
    assert!(check_draft(&with(&[("ages.json", "{\"ages_s\":{}}")]), org(), None).accepted().is_some());
}

#[test]
fn a_policy_that_names_an_entity_of_nobody_or_of_others_neither_passes_nor_decides() {
    let forbid = |id: &str| {
        let head = "action == Countersign::Action::\"listTools\", resource)";
        format!("{GOOD}@id(\"stop\")\nforbid (principal == Countersign::Agent::\"{id}\", {head};\n")
    };
    let own = forbid(&format!("{}/fixer", org()));
    let draft = with(&[("policies.cedar", &own)]);
    assert!(check_draft(&draft, org(), None).accepted().is_some());
    assert_eq!(draft.names_organization(), Some(org()));
    assert_eq!(with(&[]).names_organization(), None);
    for wrong in ["fixer".to_owned(), format!("{}/fixer", OrgId::from_bytes([2; 16]))] {
        let draft = with(&[("policies.cedar", &forbid(&wrong))]);
        assert_eq!(first_error(&draft), (RuleId::ForeignEntity, "policies.cedar:11:42".to_owned()));
        let checked = check_draft(&draft, org(), None);
        assert!(checked.built().is_none(), "what decides is not even built");
        let finding = &checked.report.findings[0];
        assert!(finding.next_step.contains(&format!("Countersign::Agent::\"{}/fixer\"", org())), "{finding}");
    }
    // An invariant about nobody would be proved, and say nothing.
    let never = "@id(\"never\")\npermit (principal == Countersign::Agent::\"fixer\", action, resource);";
    let draft = with(&[("invariants/a.cedar", never)]);
    assert_eq!(first_error(&draft), (RuleId::ForeignEntity, "invariants/a.cedar:2:42".to_owned()));
}

#[test]
fn a_mask_that_could_only_refuse_does_not_pass_and_what_it_cannot_mask_is_denied() {
    let catalogue = r#"{"tools":[{"name":"pay.out","risk":1,"data_class":"internal","input":{"type":"object","required":["amount","to"],
        "properties":{"amount":{"type":"number"},"to":{"type":"string"},"note":{"type":"number"}}}}]}"#;
    let catalogue = Catalogue::parse(catalogue.as_bytes()).unwrap();
    let checked = |at: &str, with: &str| {
        let masks =
            format!("{{\"masks\":{{\"m\":{{\"steps\":[\n {{\"at\":[\"/to\",\n  \"{at}\"],\"with\":{with}}}]}}}}}}");
        check_draft(&with_masks(&masks), org(), Some(&catalogue))
    };
    for (at, with) in [("/amount", "\"stars\""), ("/note", "\"last4\""), ("/to", "{\"constant\":7}")] {
        let checked = checked(at, with);
        let found: Vec<_> = checked.report.findings.iter().filter(|f| f.rule == RuleId::Mask).collect();
        let place = if at == "/to" { "masks.json:2:9" } else { "masks.json:3:3" };
        assert_eq!(found.iter().map(|f| f.place.to_string()).collect::<Vec<_>>(), [place], "{}", checked.report);
        assert!(found[0].message.contains("`pay.out`") && found[0].message.contains(at), "{}", found[0]);
        assert!(checked.accepted().is_none() && checked.built().is_some(), "what was in force with it still loads");
    }
    assert!(checked("/to", "\"stars\"").accepted().is_some());
}

fn with_masks(masks: &str) -> Draft {
    with(&[("masks.json", masks)])
}

#[test]
fn what_the_snapshot_refuses_of_masks_and_detectors_is_named_where_it_stands_with_what_to_do() {
    let tools = r#"{"tools":[{"name":"a.b","risk":1,"data_class":"internal","input":{"type":"object",
        "properties":{"x":{"type":"string"},"list":{"type":"array","items":{"type":"string"}}}}}]}"#;
    let catalogue = Catalogue::parse(tools.as_bytes()).unwrap();
    for (file, text, place, next) in [
        (
            "masks.json",
            "{\"masks\":{\"a\":{\"steps\":[{\"at\":[\"/x\"],\"with\":\"drop\"}]},\n \"m\":{\"steps\":[{\"at\":[\"/x\",\n \"/y\"],\"with\":\"drop\"}]}}}",
            "masks.json:3:2",
            "correct the pointer or the tools",
        ),
        (
            "masks.json",
            "{\"masks\":{\"m\":{\"steps\":[\n{\"at\":[\"/list/0\"],\"with\":\"drop\"}]}}}",
            "masks.json:2:8",
            "name all of them by `*`",
        ),
        (
            "detectors.json",
            "{\"detectors\":{\"d\":\n{\"at\":[\"/x\",\n\"/y\"],\"find\":\"path_traversal\"}}}",
            "detectors.json:3:1",
            "correct the pointer or the tools",
        ),
    ] {
        let report = check_draft(&with(&[(file, text)]), org(), Some(&catalogue)).report;
        let found: Vec<_> = report.findings.iter().filter(|f| f.rule == RuleId::Snapshot).collect();
        assert_eq!(found.len(), 1, "{report}");
        assert_eq!((&*found[0].place.to_string(), &*found[0].next_step), (place, next), "{}", found[0]);
    }
}

#[test]
fn a_sealed_bundle_names_the_place_in_its_manifest_as_it_is_sealed() {
    let settings = Settings { transforms: vec![Name::new("gone").unwrap()], ..Settings::default() };
    let lineage = Lineage { organization: org(), version: 1, predecessor: None, root_version: 1 };
    let bundle = Draft { settings, ..with(&[]) }.seal(lineage).unwrap();
    let manifest = bundle.to_files().unwrap().remove("bundle.json").unwrap();
    let manifest = String::from_utf8(manifest).unwrap();
    let report = check(&bundle, None).report;
    let found = report.findings.iter().find(|f| f.rule == RuleId::Snapshot).unwrap();
    let column = manifest.find("\"gone\"").unwrap() + 1;
    assert_eq!(found.place.to_string(), format!("bundle.json:1:{column}"), "{found}");
}
