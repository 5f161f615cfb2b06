//! What a backtest counts, and that nothing of the past can harm who reads it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use countersign_gateway_model::{Decision, State, Timestamp};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::counters::Counter;
use countersign_policy_decide::rules::Rules;
use countersign_policy_decide::{
    AgentFacts, EntityKind, EntityRef, EntityStore, InstanceFacts, Operation, PersonFacts, PolicyParts, Record,
    WorkflowFacts, decide, input,
};
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_795_219_200_000);

fn org() -> OrgId {
    OrgId::from_bytes([1; 16])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const TOOLS: &str = r#"{"tools":[
    {"name":"repo.read","risk":0,"data_class":"internal","input":{"type":"object","properties":{"path":{"type":"string"}}}},
    {"name":"pay.refund","risk":4,"data_class":"internal","input":{"type":"object","properties":{"amount":{"type":"number"}}}}]}"#;

fn parts(policies: &str, tools: &str) -> PolicyParts {
    let rules = br#"{"rules":{"a":{"authority":{"roles":["R"]}},"b":{"authority":{"roles":["R"]}}}}"#;
    PolicyParts {
        bundle: Digest([7; 32]),
        policies: BTreeMap::from([("p.cedar".to_owned(), policies.to_owned())]),
        rules: Rules::parse(rules).unwrap(),
        roles: [name("R")].into(),
        catalogue: Some(Catalogue::parse(tools.as_bytes()).unwrap()),
        ..PolicyParts::recovery(org())
    }
}

fn snapshot(policies: &str) -> Arc<PolicySnapshot> {
    Arc::new(PolicySnapshot::build(parts(policies, TOOLS)).unwrap())
}

fn permit(id: &str, tool: &str, when: &str) -> String {
    format!(
        "@id(\"{id}\") permit(principal is Countersign::Agent, action == Countersign::Action::\"callTool:{tool}\", resource) {when};"
    )
}

fn gate(id: &str, rule: &str, tool: &str) -> String {
    format!(
        "@id(\"{id}\") @requires_approval(\"{rule}\") forbid(principal, action == Countersign::Action::\"callTool:{tool}\", resource) \
         unless {{ context.satisfied.contains(Countersign::ApprovalRule::\"{rule}\") }};"
    )
}

fn world() -> EntityStore {
    let store = EntityStore::new();
    let facts = PersonFacts { active: true, ..PersonFacts::default() };
    store.put(Record::person(org(), name("p"), facts, NOW)).unwrap();
    store.put(Record::workflow(org(), name("w"), WorkflowFacts::default(), NOW)).unwrap();
    for agent in ["a0", "a1"] {
        let facts = AgentFacts { active: true, owner: name("p"), autonomy: 2, scopes: vec![], teams: vec![] };
        store.put(Record::agent(org(), name(agent), facts, NOW)).unwrap();
    }
    let facts = InstanceFacts {
        workflow: name("w"),
        state: State::Running,
        actor: EntityRef::new(org(), EntityKind::Agent, name("a0")),
        initiator: EntityRef::new(org(), EntityKind::Person, name("p")),
        owner: None,
        accountable: name("p"),
        parent: None,
        team: None,
        legal_hold: false,
        frozen: false,
    };
    store.put(Record::instance(org(), name("i"), facts, NOW)).unwrap();
    store
}

/// A source as a log is one: questions in order, blobs by digest.
#[derive(Clone, Default)]
struct Past {
    questions: std::collections::VecDeque<StoredQuestion>,
    blobs: BTreeMap<String, Vec<u8>>,
    reads: usize,
}

impl StoredQuestions for Past {
    type Error = std::convert::Infallible;

    fn next(&mut self) -> Result<Option<StoredQuestion>, Self::Error> {
        Ok(self.questions.pop_front())
    }

    fn entity(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Self::Error> {
        self.reads += 1;
        Ok(self.blobs.get(&digest.to_string()).cloned())
    }
}

impl Past {
    /// Asks a snapshot, and keeps what the ledger would keep.
    fn record(&mut self, snapshot: &PolicySnapshot, questions: &[Question]) {
        let store = world();
        let (mut answers, mut entities) = (Vec::new(), Vec::new());
        for question in questions {
            let slice = store.slice(snapshot, question);
            answers.push(decide(snapshot, &slice, question));
            for member in slice.members() {
                if !entities.contains(&member.digest()) {
                    entities.push(member.digest());
                    self.blobs.insert(member.digest().to_string(), member.blob().to_vec());
                }
            }
        }
        let (verdict, determining) = combine(&answers);
        let content = format!(
            r#"{{"action":{{"x":1}},"entities":{},"questions":[{}]}}"#,
            serde_json::to_string(&entities).unwrap(),
            questions.iter().map(|q| String::from_utf8(q.canonical()).unwrap()).collect::<Vec<_>>().join(",")
        );
        let index = u64::try_from(self.questions.len()).unwrap() * 3;
        let by = determining.into_iter().flatten().collect();
        self.questions.push_back(StoredQuestion::from_payload(index, content.as_bytes(), verdict, by).unwrap());
    }

    fn against(&self, candidate: &Arc<PolicySnapshot>) -> BacktestReport {
        let Ok(report) = backtest(candidate, &mut self.clone(), Limits::default(), &mut |_| {});
        report
    }
}

fn call(snapshot: &PolicySnapshot, agent: &str, tool: &str, input: &str) -> Question {
    let compiled = snapshot.tool(tool).unwrap();
    let resource = EntityRef::new(org(), EntityKind::Tool, name(tool));
    let asked = EntityRef::new(org(), EntityKind::Agent, name(agent));
    let mut question = Question::new(asked, Operation::CallTool, resource, NOW);
    question.input = Some(Arc::new(input::parse(compiled, input.as_bytes()).unwrap()));
    question.instance = Some(EntityRef::new(org(), EntityKind::Instance, name("i")));
    question
}

fn changed(counts: &Counts) -> Vec<(Shift, u64)> {
    counts.changed.iter().map(|(shift, count)| (*shift, *count)).collect()
}

#[test]
fn every_kind_of_change_is_counted_by_agent_tool_and_policy_with_an_example() {
    let (nothing, read, pay) = (String::new(), permit("read", "repo.read", ""), permit("pay", "pay.refund", ""));
    let (a, b) = (gate("ga", "a", "repo.read"), gate("gb", "b", "repo.read"));
    let hard = "@id(\"hard\") forbid(principal is Countersign::Agent, action == Countersign::Action::\"callTool:repo.read\", resource);";
    for (before, after, shift) in [
        (nothing.clone(), read.clone(), Shift::DenyToAllow),
        (nothing.clone(), format!("{read}{a}"), Shift::DenyToNeedsApproval),
        (format!("{read}{a}"), read.clone(), Shift::NeedsApprovalToAllow),
        (format!("{read}{a}"), format!("{read}{b}"), Shift::OtherRules),
        (read.clone(), format!("{read}{a}"), Shift::AllowToNeedsApproval),
        (read.clone(), nothing.clone(), Shift::AllowToDeny),
        (format!("{read}{a}"), format!("{read}{a}{hard}"), Shift::NeedsApprovalToDeny),
    ] {
        let (old, new) = (snapshot(&format!("{before}{pay}")), snapshot(&format!("{after}{pay}")));
        let mut past = Past::default();
        for agent in ["a0", "a1", "a0"] {
            past.record(&old, &[call(&old, agent, "repo.read", r#"{"path":"x"}"#)]);
        }
        past.record(&old, &[call(&old, "a0", "pay.refund", r#"{"amount":1.5}"#)]);
        let report = past.against(&new);
        assert_eq!((report.asked, report.entries), (4, Some((0, 9))));
        assert_eq!((changed(&report.all), report.all.unchanged), (vec![(shift, 3)], 1), "{shift:?}");
        assert_eq!(report.by_agent["Agent::a0"].changed[&shift], 2);
        assert_eq!(report.by_agent["Agent::a1"].changed[&shift], 1);
        assert_eq!(changed(&report.by_tool["Tool::repo.read"]), [(shift, 3)]);
        assert_eq!(report.by_tool["Tool::pay.refund"].unchanged, 1);
        assert_eq!(report.by_policy["pay"].unchanged, 1);
        let examples = &report.examples[&shift];
        assert_eq!(examples.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 3, 6]);
        let example = &examples[0];
        assert!(example.question.contains(r#""path":"x""#) && example.asked == "Agent::a0");
        assert!(example.after.by.iter().all(|id| report.by_policy[id.as_str()].changed[&shift] == 3));
        assert!(example.before.by.iter().all(|id| report.by_policy_before[id.as_str()].changed[&shift] == 3));
        let loosens = [Shift::DenyToAllow, Shift::DenyToNeedsApproval, Shift::NeedsApprovalToAllow];
        assert_eq!(report.loosens(), loosens.contains(&shift));
        assert!(report.to_html().contains(shift.words().split(' ').next().unwrap()));
        assert_eq!(past.against(&old).all.unchanged, 4, "what decided then says the same again");
    }
}

#[test]
fn what_cannot_be_computed_is_counted_with_its_reason_and_never_as_a_change() {
    let old = snapshot(&permit("read", "repo.read", ""));
    let mut past = Past::default();
    past.record(&old, &[call(&old, "a0", "repo.read", r#"{"path":"x"}"#)]);
    let because = |past: &Past, candidate: &Arc<PolicySnapshot>, why: &str| {
        let report = past.against(candidate);
        assert_eq!((report.all.not_computable, report.all.changes(), report.all.unchanged), (1, 0, 0), "{why}");
        assert_eq!(report.reasons.keys().collect::<Vec<_>>(), [why]);
        assert!(report.to_html().contains("Not computable"));
    };
    let mut erased = past.clone();
    erased.blobs.pop_first();
    because(&erased, &old, "facts of it were erased");

    let candidate = |tools: &str| Arc::new(PolicySnapshot::build(parts("", tools)).unwrap());
    let other = candidate(
        &TOOLS.replace(r#""path":{"type":"string"}"#, r#""path":{"type":"string"},"more":{"type":"string"}"#),
    );
    because(&past, &other, "tool `repo.read` has another definition now");
    let gone = candidate(&TOOLS.replace("repo.read", "repo.look"));
    because(&past, &gone, "tool `repo.read` is not in the catalogue");

    let counting = PolicyParts { counters: [(name("spent"), Counter::default())].into(), ..parts("", TOOLS) };
    because(&past, &Arc::new(PolicySnapshot::build(counting).unwrap()), "counter `spent` was not counted then");

    let mut damaged = past.clone();
    damaged.questions[0].questions[0] = b"{}".to_vec();
    let report = damaged.against(&old);
    assert!(report.reasons.keys().next().unwrap().starts_with("it does not read"), "{:?}", report.reasons);
    let mut swapped = past.clone();
    let blobs: Vec<Vec<u8>> = swapped.blobs.values().cloned().collect();
    for (blob, other) in swapped.blobs.values_mut().zip(blobs.iter().rev()) {
        blob.clone_from(other);
    }
    assert!(swapped.against(&old).reasons.keys().next().unwrap().contains("damaged"));
    let mut empty = past;
    empty.questions[0].questions.clear();
    because(&empty, &old, "it does not read: it holds no question");
}

#[test]
fn everybody_in_a_chain_must_allow_then_and_now() {
    let both = permit("read", "repo.read", "");
    let one = permit("read", "repo.read", "unless { context.asDelegator }");
    let (old, new) = (snapshot(&both), snapshot(&one));
    let mut delegator = call(&old, "a1", "repo.read", "{}");
    delegator.as_delegator = true;
    let mut past = Past::default();
    past.record(&old, &[call(&old, "a0", "repo.read", "{}"), delegator]);
    let report = past.against(&new);
    assert_eq!(changed(&report.all), [(Shift::AllowToDeny, 1)]);
    assert_eq!(report.by_agent.keys().collect::<Vec<_>>(), ["Agent::a0"], "counted by who acts");
}

#[test]
fn a_transform_of_the_candidate_is_applied_before_it_is_asked() {
    let old = snapshot(&permit("read", "repo.read", ""));
    let masks = r#"{"transforms":{"cut":{"steps":[{"at":["/path"],"with":"drop"}]}}}"#;
    let wall = "@id(\"cut\") @transform(\"cut\") forbid(principal, action == Countersign::Action::\"callTool:repo.read\", resource) \
                unless { context.applied.contains(\"cut\") };";
    let masked = PolicyParts {
        masks: countersign_policy_decide::masks::Masks::parse(masks.as_bytes()).unwrap(),
        transforms: vec![name("cut")],
        ..parts(&format!("{}{wall}", permit("read", "repo.read", "")), TOOLS)
    };
    let masked = Arc::new(PolicySnapshot::build(masked).unwrap());
    let mut past = Past::default();
    past.record(&old, &[call(&old, "a0", "repo.read", r#"{"path":"x"}"#)]);
    let report = past.against(&masked);
    assert_eq!(
        (report.all.unchanged, report.all.changes(), report.all.not_computable),
        (1, 0, 0),
        "{:?}",
        report.reasons
    );
}

#[test]
fn another_transform_of_an_input_that_was_transformed_then_is_not_computable() {
    let masks = r#"{"transforms":{"hide":{"steps":[{"at":["/path"],"with":"stars"}]},
                                  "cut":{"steps":[{"at":["/path"],"with":"drop"}]}}}"#;
    let asking = |transforms: &[&str]| {
        let walls = transforms.iter().map(|t| {
            format!(
                "@id(\"{t}\") @transform(\"{t}\") forbid(principal, action == \
                 Countersign::Action::\"callTool:repo.read\", resource) unless {{ context.applied.contains(\"{t}\") }};"
            )
        });
        let text = walls.chain([permit("read", "repo.read", "")]).collect::<String>();
        let parts = PolicyParts {
            masks: countersign_policy_decide::masks::Masks::parse(masks.as_bytes()).unwrap(),
            transforms: vec![name("hide"), name("cut")],
            ..parts(&text, TOOLS)
        };
        Arc::new(PolicySnapshot::build(parts).unwrap())
    };
    let old = asking(&["hide"]);
    let raw = call(&old, "a0", "repo.read", r#"{"path":"x"}"#);
    let slices = vec![world().slice(&old, &raw)];
    let decided = decide_chain(&old, &slices, vec![raw]);
    assert!(decided.before.is_some(), "it was transformed");
    let mut past = Past::default();
    past.record(&old, &decided.questions);
    let report = past.against(&asking(&["hide", "cut"]));
    assert_eq!((report.all.not_computable, report.all.changes(), report.all.unchanged), (1, 0, 0));
    assert!(report.reasons.keys().all(|why| why.starts_with("its input was transformed then")), "{:?}", report.reasons);
    assert_eq!(past.against(&old).all.unchanged, 1);
}

#[test]
fn each_entity_version_is_read_once_and_examples_are_bounded() {
    let (old, new) = (snapshot(&permit("read", "repo.read", "")), snapshot(""));
    let mut past = Past::default();
    for _ in 0..50 {
        past.record(&old, &[call(&old, "a0", "repo.read", "{}")]);
    }
    let mut told = 0;
    let mut source = past.clone();
    let Ok(report) = backtest(&new, &mut source, Limits { examples: 7 }, &mut |asked| told = asked);
    assert_eq!((told, source.reads), (50, past.blobs.len()));
    let examples = &report.examples[&Shift::AllowToDeny];
    assert_eq!((examples.len(), examples[6].index), (7, 18), "the first ones of the log");
    let Ok(none) = backtest(&new, &mut past.clone(), Limits { examples: 0 }, &mut |_| {});
    assert!(none.examples.values().all(Vec::is_empty) && none.all == report.all);
    assert!(!serde_json::to_string(&none).unwrap().contains("path"), "without examples no input is shown");
}

#[test]
fn nothing_of_the_past_is_markup_in_the_page() {
    let (old, new) = (snapshot(&permit("read", "repo.read", "")), snapshot(""));
    let page = |path: &str| {
        let mut past = Past::default();
        let input = serde_json::json!({ "path": path }).to_string();
        past.record(&old, &[call(&old, "a0", "repo.read", &input)]);
        past.against(&new).to_html()
    };
    let marks = |page: &str| page.matches(['<', '>', '"', '\'']).count();
    let plain = page("harmless");
    assert!(plain.contains("harmless") && !plain.contains("://") && !plain.contains("<script"));
    for hostile in ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'\"&lt;", "</pre></details>"] {
        let page = page(hostile);
        assert_eq!(marks(&page), marks(&plain), "{hostile}");
        assert!(!page.contains("<script") && !page.contains("<img"));
    }
    assert!(page("a\u{202e}b\u{1b}c").contains("a\\u{202e}b"), "nothing turns the direction of the text around it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn parts_folded_alone_merge_into_the_whole_in_any_order(
        asked in prop::collection::vec((0_usize..2, 0_usize..2), 1..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        backwards in any::<bool>(),
    ) {
        use std::sync::LazyLock;
        static BOTH: LazyLock<[Arc<PolicySnapshot>; 2]> = LazyLock::new(|| {
            let read = permit("read", "repo.read", "");
            [snapshot(&read), snapshot(&format!("{}{}", gate("g", "a", "repo.read"), permit("pay", "pay.refund", "")))]
        });
        let [old, new] = &*BOTH;
        let mut past = Past::default();
        for (agent, tool) in &asked {
            past.record(old, &[call(old, ["a0", "a1"][*agent], ["repo.read", "pay.refund"][*tool], "{}")]);
        }
        let limits = Limits { examples: 3 };
        let fold = |past: &Past| {
            let Ok(report) = backtest(new, &mut past.clone(), limits, &mut |_| {});
            report
        };
        let whole = fold(&past);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(asked.len())).collect();
        at.extend([0, asked.len()]);
        at.sort_unstable();
        let mut parts: Vec<BacktestReport> = at.windows(2).map(|w| {
            let questions = past.questions.range(w[0]..w[1]).cloned().collect();
            fold(&Past { questions, ..past.clone() })
        }).collect();
        if backwards {
            parts.reverse();
        }
        let mut merged = parts.remove(0);
        for part in parts {
            merged.merge(part);
        }
        prop_assert_eq!(merged, whole);
    }

    #[test]
    fn the_candidate_that_decided_then_changes_nothing(asked in prop::collection::vec((0_usize..2, 0_usize..2, any::<bool>()), 1..12)) {
        let old = snapshot(&format!("{}{}", permit("read", "repo.read", ""), gate("g", "a", "repo.read")));
        let mut past = Past::default();
        for (agent, tool, approved) in &asked {
            let mut question = call(&old, ["a0", "a1"][*agent], ["repo.read", "pay.refund"][*tool], "{}");
            if *approved {
                question.satisfied = [name("a")].into();
            }
            past.record(&old, &[question]);
        }
        let report = past.against(&old);
        prop_assert_eq!(report.all.unchanged, report.asked);
    }
}

#[test]
fn the_json_form_has_words_that_stay() {
    let (old, new) = (snapshot(&permit("read", "repo.read", "")), snapshot(""));
    let mut past = Past::default();
    past.record(&old, &[call(&old, "a0", "repo.read", "{}")]);
    let json = serde_json::to_value(past.against(&new)).unwrap();
    assert_eq!(json["all"]["changed"]["allow_to_deny"], 1);
    assert_eq!(
        json["examples"]["allow_to_deny"][0]["before"]["decision"],
        serde_json::to_value(Decision::Allow).unwrap()
    );
}
