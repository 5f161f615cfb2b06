//! Who is locked out by what.
#![expect(clippy::unwrap_used, reason = "tests")]

use countersign_gateway_model::Digest;
use countersign_policy_decide::PolicyParts;
use countersign_policy_decide::rules::Rules;

use super::*;

const NOW: Timestamp = Timestamp(1_795_219_200_000);

fn org() -> OrgId {
    OrgId::from_bytes([4; 16])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const POLICIES: &str = r#"
@id("propose") permit(principal is Countersign::Person, action in [Countersign::Action::"proposePolicy", Countersign::Action::"activatePolicy"],
  resource is Countersign::PolicyBundle) when { principal in Countersign::Role::"ADMIN" };
@id("stop") permit(principal is Countersign::Person, action == Countersign::Action::"terminate", resource)
  when { principal in Countersign::Role::"STOP" };
@id("vote") permit(principal is Countersign::Person, action == Countersign::Action::"approve", resource is Countersign::Item)
  when { principal in resource.roles };
"#;
const GATE: &str = r#"@id("gate") @requires_approval("change")
forbid(principal, action == Countersign::Action::"activatePolicy", resource) when { context.fourEyes }
unless { context.satisfied.contains(Countersign::ApprovalRule::"change") };"#;

fn snapshot(policies: &str, rules: &str) -> PolicySnapshot {
    PolicySnapshot::build(PolicyParts {
        bundle: Digest([1; 32]),
        policies: BTreeMap::from([("policies.cedar".to_owned(), policies.to_owned())]),
        rules: Rules::parse(format!("{{\"rules\":{{{rules}}}}}").as_bytes()).unwrap(),
        roles: ["ADMIN", "STOP"].map(name).into(),
        ..PolicyParts::recovery(org())
    })
    .unwrap()
}

/// Id, person key, roles, teams, groups.
type Someone = (&'static str, &'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

fn found(policies: &str, rules: &str, someone: &[Someone], four_eyes: bool) -> Vec<String> {
    found_with(policies, rules, (someone, &[]), four_eyes)
}

/// With those who have a second factor.
fn found_with(policies: &str, rules: &str, (someone, sure): (&[Someone], &[&str]), four_eyes: bool) -> Vec<String> {
    let store = EntityStore::new();
    let names = |texts: &[&str]| texts.iter().map(|t| name(t)).collect::<Vec<_>>();
    for (id, key, roles, teams, groups) in someone {
        teams.iter().for_each(|t| drop(store.put(Record::team(org(), name(t), vec![], NOW)).unwrap()));
        groups.iter().for_each(|g| drop(store.put(Record::group(org(), name(g), vec![], NOW)).unwrap()));
        let person = (!key.is_empty()).then(|| name(key));
        let facts = PersonFacts {
            active: *id != "left",
            roles: names(roles),
            teams: names(teams),
            groups: names(groups),
            person,
        };
        store.put(Record::person(org(), name(id), facts, NOW)).unwrap();
    }
    let persons: Vec<Name> = someone.iter().map(|s| name(s.0)).collect();
    let before = store.len();
    let second_factors = sure.iter().map(|id| name(id)).collect();
    let people = People { store: &store, persons: &persons, second_factors: &second_factors, now: NOW, four_eyes };
    let found = locked_out(&snapshot(policies, rules), &people).unwrap();
    assert_eq!(store.len(), before, "the organization's store is left alone");
    found.into_iter().map(|f| f.message).collect()
}

#[test]
fn someone_can_propose_carry_through_and_stop_or_the_bundle_is_refused() {
    let root: Someone = ("root", "k1", &["ADMIN", "STOP"], &[], &[]);
    assert_eq!(found(POLICIES, "", &[root], false), [""; 0]);
    assert_eq!(found(POLICIES, "", &[], false).len(), 3, "nobody is there");
    assert_eq!(
        found(POLICIES, "", &[("left", "k1", &["ADMIN", "STOP"], &[], &[])], false).len(),
        3,
        "nobody is active"
    );
    assert_eq!(found(POLICIES, "", &[("adm", "k1", &["ADMIN"], &[], &[])], false).len(), 1, "nobody stops");
    assert_eq!(found(POLICIES, "", &[("st", "k1", &["STOP"], &[], &[])], false).len(), 2, "nobody changes policy");
    let wall = r#"@id("wall") forbid(principal, action == Countersign::Action::"activatePolicy", resource);"#;
    let walled = found(&format!("{POLICIES}{wall}"), "", &[root], false);
    assert!(walled.len() == 1 && walled[0].contains("wall"), "{walled:?}");
}

#[test]
fn a_rule_that_demands_a_second_factor_counts_those_who_have_one_and_names_the_others() {
    let a: Someone = ("a", "k1", &["ADMIN", "STOP"], &[], &[]);
    let b: Someone = ("b", "k2", &["ADMIN"], &[], &[]);
    let policies = format!("{POLICIES}{GATE}");
    let rule = |demand: &str| format!(r#""change":{{"authority":{{"roles":["ADMIN"]}},"demand":{demand}}}"#);
    for demand in ["{}", r#"{"assurance":"password"}"#, r#"{"fresh_s":60}"#, r#"{"assertion":true}"#] {
        assert_eq!(found(&policies, &rule(demand), &[a, b], true), [""; 0], "{demand}");
    }
    let demanding = rule(r#"{"assurance":"mfa"}"#);
    let refused = found(&policies, &demanding, &[a, b], true);
    assert!(refused.len() == 1, "{refused:?}");
    for words in ["asks for 1 persons, and 0 may vote", "it demands a login with a second factor", "`b` have none"] {
        assert!(refused[0].contains(words), "{refused:?}");
    }
    // Whoever asks for the change does not vote for it: one of two who has one is enough, whichever it is.
    for sure in [&["a"][..], &["b"], &["a", "b"]] {
        assert_eq!(found_with(&policies, &demanding, (&[a, b], sure), true), [""; 0], "{sure:?}");
    }
    let others = [("c", "k3"), ("d", "k4"), ("e", "k5"), ("f", "k6"), ("g", "k7")];
    let many: Vec<Someone> = [a, b].into_iter().chain(others.map(|(id, key)| (id, key, a.2, a.3, a.4))).collect();
    let two = demanding.replace("\"demand\"", r#""quorum":{"persons":2},"demand""#);
    let refused = found_with(&policies, &two, (&many, &["g"]), true);
    assert!(refused.len() == 1 && refused[0].contains("and 1 may vote"), "{refused:?}");
    assert!(refused[0].contains("`b`, `c`, `d`, `e`, `f` have none"), "{refused:?}");
    assert!(refused[0].contains("`a`, `b`, `c`, `d`, `e` and 1 more have none"), "asked by `g`: {refused:?}");
    assert_eq!(found_with(&policies, &two, (&many, &["f", "g", "a"]), true), [""; 0]);
    // A group that must be there is there with a second factor.
    let legal: Someone = ("l", "k8", &["ADMIN"], &[], &["legal"]);
    let group = demanding.replace("\"demand\"", r#""quorum":{"persons":1,"groups":["legal"]},"demand""#);
    let refused = found_with(&policies, &group, (&[a, b, legal], &["a", "b"]), true);
    assert!(refused.len() == 1 && refused[0].contains("of group `legal`") && refused[0].contains("`l`"), "{refused:?}");
    assert_eq!(found_with(&policies, &group, (&[a, b, legal], &["l"]), true), [""; 0]);
}

#[test]
fn what_nobodys_login_has_locks_everybody_out() {
    let a: Someone = ("a", "k1", &["ADMIN", "STOP"], &[], &[]);
    let b: Someone = ("b", "k2", &["ADMIN"], &[], &[]);
    let picky = |condition| POLICIES.replace("principal in Countersign::Role::\"STOP\"", condition);
    // A signature over the operation, or the time of a login, is had by no question.
    for condition in ["context.asserted", "context has authenticatedAt"] {
        let refused = found_with(&picky(condition), "", (&[a, b], &["a", "b"]), false);
        assert!(refused.len() == 1 && refused[0].contains("terminate"), "{condition}: {refused:?}");
    }
    let sure = picky(r#"context.assurance == Countersign::Assurance::"mfa""#);
    let refused = found(&sure, "", &[a, b], false);
    assert!(refused.len() == 1 && refused[0].contains("terminate"), "{refused:?}");
    assert_eq!(found_with(&sure, "", (&[a, b], &["b"]), false), [""; 0]);
}

#[test]
fn the_quorum_of_a_policy_change_is_counted_by_persons_teams_and_groups() {
    let policies = format!("{POLICIES}{GATE}");
    let rule = |quorum: &str| format!(r#""change":{{"authority":{{"roles":["ADMIN"]}},"quorum":{quorum}}}"#);
    let a: Someone = ("a", "k1", &["ADMIN", "STOP"], &["red", "blue"], &["legal"]);
    let b: Someone = ("b", "k2", &["ADMIN"], &["red"], &[]);
    let c: Someone = ("c", "k3", &["ADMIN"], &["red"], &[]);
    let same_as_a: Someone = ("a2", "k1", &["ADMIN"], &["green"], &[]);
    let keyless: Someone = ("x", "", &["ADMIN"], &[], &[]);
    let keyless_too: Someone = ("y", "", &["ADMIN", "STOP"], &[], &[]);
    let reader: Someone = ("r", "k9", &[], &[], &["legal"]);
    for (what, quorum, people, four_eyes, locked) in [
        ("solo asks nobody", r#"{"persons":1}"#, vec![a], false, false),
        ("one alone", r#"{"persons":1}"#, vec![a], true, true),
        ("two", r#"{"persons":1}"#, vec![a, b], true, false),
        ("one with two accounts", r#"{"persons":1}"#, vec![a, same_as_a], true, true),
        ("two without a key are one", r#"{"persons":1}"#, vec![keyless, keyless_too], true, true),
        ("one without a key beside one with", r#"{"persons":1}"#, vec![a, keyless], true, false),
        ("one who may not vote", r#"{"persons":1}"#, vec![a, reader], true, true),
        ("three for two", r#"{"persons":2}"#, vec![a, b, c], true, false),
        ("two for two", r#"{"persons":2}"#, vec![a, b], true, true),
        ("two teams, when the right one asks", r#"{"persons":2,"distinct_teams":2}"#, vec![a, b, c], true, false),
        (
            "two teams, nobody of another",
            r#"{"persons":2,"distinct_teams":2}"#,
            vec![b, c, ("d", "k4", &["ADMIN", "STOP"], &["red"], &[])],
            true,
            true,
        ),
        ("a group that is there", r#"{"persons":1,"groups":["legal"]}"#, vec![a, b], true, false),
        (
            "a group that may not vote",
            r#"{"persons":1,"groups":["legal"]}"#,
            vec![b, ("d", "k4", &["ADMIN", "STOP"], &[], &[]), reader],
            true,
            true,
        ),
    ] {
        let found = found(&policies, &rule(quorum), &people, four_eyes);
        assert_eq!(!found.is_empty(), locked, "{what}: {found:?}");
    }
}

#[test]
fn under_four_eyes_nobody_comes_to_act_alone_by_a_second_factor_that_they_enrol_or_lose() {
    let two: [Someone; 2] = [("a", "k1", &["ADMIN", "STOP"], &[], &[]), ("b", "k2", &["ADMIN", "STOP"], &[], &[])];
    let rules = r#""change":{"authority":{"roles":["ADMIN"]}}"#;
    assert_eq!(found(&format!("{POLICIES}{GATE}"), rules, &two, true), [""; 0]);
    for (gated, sure) in [("!=", &[][..]), ("==", &["a", "b"][..])] {
        let login = format!(r#"context.fourEyes && context.assurance {gated} Countersign::Assurance::"mfa""#);
        let policies = format!("{POLICIES}{}", GATE.replace("context.fourEyes", &login));
        let said = found_with(&policies, rules, (&two, sure), true);
        assert!(said.iter().any(|message| message.contains("one person alone")), "{gated}: {said:?}");
    }
}
