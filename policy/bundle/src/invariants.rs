//! Invariants of a bundle, and what is known of each: what must never be allowed, written as Cedar.
//!
//! Here they are only read: that one can be proved at all is for a solver to say, which is a program of its own. What it
//! said is passed in. One that is refuted stands in the way of an activation. One of which nobody knows does so where it
//! says `@unproved("refuse")`, and is a warning elsewhere: it never counts as proved. Absent: proving (`policy/prove`).

use cedar_policy::Effect;
use countersign_gateway_model::Name;
use serde::Serialize;

use crate::bundle::Bundle;
use crate::files::FileKind;
use crate::finding::{Finding, Place, RuleId};
use crate::{lint, source};

/// Says what a missing proof means.
const UNPROVED: &str = "unproved";

/// What is known of an invariant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Proof {
    /// The bundle never allows it.
    Proved,
    /// The bundle allows it.
    Refuted {
        /// A request that shows it, in words.
        words: String,
        /// The request.
        question: serde_json::Value,
    },
    /// Nobody knows.
    NotProved {
        /// Why.
        why: String,
    },
}

/// One invariant and what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Invariant {
    /// Its `@id`.
    pub id: Name,
    /// Its `@title` or `@doc`.
    pub title: Option<String>,
    /// Where it stands.
    #[serde(flatten)]
    pub place: Place,
    /// `@unproved("refuse")`: without a proof the bundle is not activated.
    pub required: bool,
    /// What is known.
    #[serde(flatten)]
    pub proof: Proof,
}

impl std::fmt::Display for Invariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "invariant `{}` ", self.id)?;
        match &self.proof {
            Proof::Proved => f.write_str("is proved"),
            Proof::Refuted { words, .. } => write!(f, "is refuted: {words}"),
            Proof::NotProved { why } => write!(f, "is not proved: {why}"),
        }
    }
}

/// Reads the invariants of a bundle. What nobody could prove anything about is an error.
pub(crate) fn read(bundle: &Bundle, findings: &mut Vec<Finding>) -> Vec<Invariant> {
    let mut invariants: Vec<Invariant> = Vec::new();
    for (path, text) in bundle.files().of(FileKind::Invariants) {
        for policy in source::parse(path, text, findings) {
            let mut wrong = |message: &str, next: &str| {
                findings.push(Finding::error(policy.place(), RuleId::Invariant, message, next).of(&policy.id));
            };
            if policy.effect() == Effect::Forbid {
                wrong("an invariant is a `permit` that describes what must never be allowed", "turn it around");
            }
            if invariants.iter().any(|known| known.id == policy.id) {
                wrong("its `@id` is that of another invariant", "choose another; proofs are named by it");
                continue;
            }
            let annotation = |name: &str| policy.annotation(name);
            let required = match annotation(UNPROVED) {
                Some("refuse") => true,
                None | Some("warn") => false,
                Some(_) => {
                    wrong("`@unproved` says neither `refuse` nor `warn`", "say which, or leave it out: it warns then");
                    true
                }
            };
            lint::foreign(bundle.manifest().organization, &policy, findings);
            invariants.push(Invariant {
                title: annotation("title").or_else(|| annotation("doc")).map(str::to_owned),
                place: policy.place(),
                required,
                proof: Proof::NotProved { why: "no solver was asked".to_owned() },
                id: policy.id.clone(),
            });
        }
    }
    findings.extend(invariants.iter().filter_map(finding));
    invariants
}

/// What a check has to say of it.
pub(crate) fn finding(invariant: &Invariant) -> Option<Finding> {
    let (place, text) = (invariant.place.clone(), invariant.to_string());
    let rule = RuleId::Unproved;
    let finding = match &invariant.proof {
        Proof::Proved => return None,
        Proof::Refuted { .. } => Finding::error(place, rule, text, "forbid that request, or correct the invariant"),
        Proof::NotProved { .. } if invariant.required => {
            let next = "prove it with a solver (`policy.solver`); its `@unproved(\"refuse\")` takes nothing less";
            Finding::error(place, rule, text, next)
        }
        Proof::NotProved { .. } => {
            Finding::warning(place, rule, text, "prove it with `countersign policy prove`, or write tests for it")
        }
    };
    Some(finding.of(&invariant.id))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use countersign_gateway_model::OrgId;
    use countersign_policy_decide::catalogue::Catalogue;

    use super::*;
    use crate::{Checked, Draft, Severity, check_draft};

    fn checked(invariants: &str) -> Checked {
        let policies = "@id(\"read\")\npermit (principal, action == Countersign::Action::\"readPolicy\", resource);\n";
        let files = [("policies.cedar", policies), ("invariants/all.cedar", invariants)];
        let draft = Draft::from_files(files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))).unwrap();
        let none = Catalogue::parse(br#"{"version":1,"tools":[]}"#).ok();
        check_draft(&draft, OrgId::from_bytes([1; 16]), none.as_ref())
    }

    fn of_invariants(checked: &Checked) -> Vec<(Severity, &str)> {
        let rules = [RuleId::Unproved, RuleId::Invariant, RuleId::Syntax];
        let found = checked.report.findings.iter().filter(|finding| rules.contains(&finding.rule));
        found.map(|finding| (finding.severity, finding.message.as_str())).collect()
    }

    const NEVER: &str =
        "permit (principal is Countersign::Agent, action == Countersign::Action::\"readPolicy\", resource);\n";

    #[test]
    fn what_nobody_proved_is_never_passed_and_refuses_where_it_says_so() {
        for (annotation, severity) in [
            ("", Severity::Warning),
            ("@unproved(\"warn\")", Severity::Warning),
            ("@unproved(\"refuse\")", Severity::Error),
        ] {
            let checked = checked(&format!("@id(\"never\")\n{annotation}{NEVER}"));
            assert_eq!(
                of_invariants(&checked),
                [(severity, "invariant `never` is not proved: no solver was asked")],
                "{annotation}"
            );
            let proved = checked.clone().with_proofs([("never".to_owned(), Proof::Proved)]);
            assert_eq!((of_invariants(&proved), &proved.report.invariants[0].proof), (vec![], &Proof::Proved));
            let why = || Proof::NotProved { why: "it took too long".to_owned() };
            let unknown =
                checked.clone().with_proofs([("never".to_owned(), why()), ("other".to_owned(), Proof::Proved)]);
            assert_eq!(of_invariants(&unknown), [(severity, "invariant `never` is not proved: it took too long")]);
            let words = "an agent reads it".to_owned();
            let refuted = Proof::Refuted { words, question: serde_json::Value::Null };
            let refuted = checked.with_proofs([("never".to_owned(), refuted)]);
            assert_eq!(of_invariants(&refuted), [(Severity::Error, "invariant `never` is refuted: an agent reads it")]);
            assert!(refuted.accepted().is_none(), "it is not activated");
        }
    }

    #[test]
    fn an_invariant_that_nobody_could_prove_anything_about_is_an_error() {
        let forbid = NEVER.replacen("permit", "forbid", 1);
        for (text, words) in [
            (format!("@id(\"never\")\n{forbid}"), "is a `permit`"),
            (format!("@id(\"never\")\n{NEVER}@id(\"never\")\n{NEVER}"), "that of another invariant"),
            (format!("@id(\"never\")\n@unproved(\"perhaps\")\n{NEVER}"), "neither `refuse` nor `warn`"),
            ("permit (nonsense".to_owned(), ""),
            (NEVER.to_owned(), ""),
        ] {
            let checked = checked(&text);
            assert!(checked.accepted().is_none(), "{text}");
            assert!(checked.report.findings.iter().any(|finding| finding.message.contains(words)), "{text}: {words}");
        }
    }
}
