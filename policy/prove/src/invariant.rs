//! Invariants: what a bundle must never allow, written as ordinary Cedar and proved of the policies in force with it.
//!
//! An invariant is a `permit` in `invariants/*.cedar`: it describes requests, and the proof says that none of them is
//! ever allowed. One that describes nothing at all would hold of any bundle, and is therefore not proved but unsound.
//! Absent: what a missing proof means for an activation. Read next: `difference`.

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{Effect, Policy, PolicyId, PolicySet, RequestEnv, Schema, ValidationMode, Validator};
use cedar_policy_symcc::CompiledPolicySet;
use countersign_policy_bundle::{FileKind, Place, Timestamp};
use countersign_policy_decide::depth;
use serde::Serialize;

use crate::example::{Example, judge};
use crate::prover::{Doubt, Prover, with_prover};
use crate::solver::Solver;
use crate::subject::{Environment, Shadowed, Sorted, Subject, SubjectError};

/// What was found of one invariant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The bundle never allows it.
    Proved {
        /// In how many environments it was proved; in all others it describes nothing.
        environments: usize,
    },
    /// The bundle allows it.
    Refuted {
        /// Such a request.
        example: Box<Example>,
    },
    /// Nobody knows.
    NotProved {
        /// Why.
        doubt: Doubt,
        /// Where, if it is known of one environment only.
        environment: Option<Environment>,
    },
}

/// One invariant and what was found of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proof {
    /// Its `@id`, or its place where it has none.
    pub invariant: String,
    /// Its `@title` or `@doc`.
    pub title: Option<String>,
    /// Where it stands.
    pub place: Place,
    /// What was found.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Proof {
    /// Whether it is proved.
    pub fn holds(&self) -> bool {
        matches!(self.outcome, Outcome::Proved { .. })
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: `{}` ", self.place, self.invariant)?;
        match &self.outcome {
            Outcome::Proved { environments: 1 } => f.write_str("is proved for the one kind of request it is about"),
            Outcome::Proved { environments } => {
                write!(f, "is proved for the {environments} kinds of requests it is about")
            }
            Outcome::Refuted { example } => {
                write!(f, "is refuted: {}; it is {}", example.words, example.judgement.words())
            }
            Outcome::NotProved { doubt, environment: None } => write!(f, "is not proved: {doubt}"),
            Outcome::NotProved { doubt, environment: Some(environment) } => {
                write!(f, "is not proved: {doubt} (about {environment})")
            }
        }
    }
}

/// Proves or refutes every invariant of a bundle, in the order of its files, as it is enforced from `now` on.
/// Without a solver none is proved.
pub fn prove(subject: Subject<'_>, now: Timestamp, solver: Option<&Solver>) -> Result<Vec<Proof>, SubjectError> {
    with_prover(solver, async |prover| {
        let schema = subject.snapshot.schema();
        let sorted = Sorted::new(subject.snapshot, schema, Shadowed::MostAllowed, now)?;
        let mut prover = prover;
        let mut proofs = Vec::new();
        for mut proof in read(subject) {
            if let Ok(policy) = proof.policy {
                proof.proof.outcome = match &mut prover {
                    Ok(prover) => one(&policy, &sorted, schema, prover).await,
                    Err(doubt) => doubted(doubt.clone()),
                };
            }
            proofs.push(proof.proof);
        }
        Ok(proofs)
    })?
}

struct Read {
    policy: Result<Policy, ()>,
    proof: Proof,
}

fn doubted(doubt: Doubt) -> Outcome {
    Outcome::NotProved { doubt, environment: None }
}

fn unsound(reason: impl Into<String>) -> Outcome {
    doubted(Doubt::Unsound { reason: reason.into() })
}

/// Every invariant of the bundle's files; one that does not read is there with the reason.
fn read(subject: Subject<'_>) -> Vec<Read> {
    let mut invariants = Vec::new();
    let mut taken = BTreeSet::new();
    for (path, text) in subject.files.of(FileKind::Invariants) {
        let broken = |at: usize, reason: String| {
            let place = Place::at(path.as_str(), text, at);
            let proof = Proof { invariant: place.to_string(), title: None, place, outcome: unsound(reason) };
            Read { policy: Err(()), proof }
        };
        if let Some(at) = depth::too_deep(text).or_else(|| depth::too_many_ifs(text)) {
            invariants.push(broken(at, "it nests too deep; say it in several invariants".to_owned()));
            continue;
        }
        let set = match depth::with_room(|| PolicySet::from_str(text).map_err(Box::new)) {
            Ok(set) => set,
            Err(error) => {
                let labels = miette::Diagnostic::labels(&*error);
                let at = labels.and_then(|mut all| all.next()).map_or(0, |label| label.offset());
                invariants.push(broken(at, format!("it does not parse: {error}; correct the text there")));
                continue;
            }
        };
        if set.templates().next().is_some() {
            invariants.push(broken(0, "a template describes nothing until it is linked; write it out".to_owned()));
        }
        // Cedar numbers policies in the order of the text.
        let mut policies: Vec<&Policy> = set.policies().collect();
        policies
            .sort_by_key(|p| p.id().to_string().trim_start_matches("policy").parse::<usize>().unwrap_or(usize::MAX));
        for policy in policies {
            let Some(id) = policy.annotation("id") else {
                invariants.push(broken(0, "an invariant has no `@id`; give it one, proofs are named by it".to_owned()));
                continue;
            };
            let at = text.find(&format!("@id(\"{id}\")")).unwrap_or(0);
            let title = policy.annotation("title").or_else(|| policy.annotation("doc")).map(str::to_owned);
            let mut proof = Proof {
                invariant: id.to_owned(),
                title,
                place: Place::at(path.as_str(), text, at),
                outcome: doubted(Doubt::NoSolver),
            };
            let sound = if !taken.insert(id.to_owned()) {
                Err("its `@id` is that of another invariant; choose another")
            } else if policy.effect() == Effect::Forbid {
                Err("an invariant is a `permit` that describes what must never be allowed; turn it around")
            } else {
                Ok(policy.new_id(PolicyId::new(id)))
            };
            let policy = sound.map_err(|reason| proof.outcome = unsound(reason));
            invariants.push(Read { policy, proof });
        }
    }
    invariants
}

async fn one(invariant: &Policy, sorted: &Sorted, schema: &Schema, prover: &mut Prover) -> Outcome {
    let mut set = PolicySet::new();
    if let Err(error) = set.add(invariant.clone()) {
        return unsound(error.to_string());
    }
    let validation = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    if let Some(error) = validation.validation_errors().next() {
        return unsound(format!("it does not fit the schema: {error}"));
    }
    if let Err(doubt) = prover.ready() {
        return doubted(doubt);
    }
    let mut environments = 0;
    for env in invariant.get_valid_request_envs(schema) {
        match within(&set, invariant, sorted, schema, &env, prover).await {
            Ok(described) => environments += usize::from(described),
            Err(outcome) => return *outcome,
        }
    }
    if environments == 0 {
        return unsound("it describes no request that could be asked, so that it would hold of any bundle; correct it");
    }
    Outcome::Proved { environments }
}

/// Whether it describes requests here. None of them is allowed; otherwise it is an outcome of its own.
async fn within(
    set: &PolicySet,
    invariant: &Policy,
    sorted: &Sorted,
    schema: &Schema,
    env: &RequestEnv,
    prover: &mut Prover,
) -> Result<bool, Box<Outcome>> {
    let environment = Environment::of(env);
    let not_proved = |doubt| Box::new(Outcome::NotProved { doubt, environment: Some(environment.clone()) });
    let compile = |set: &PolicySet| {
        CompiledPolicySet::compile(set, env, schema)
            .map_err(|error| not_proved(Doubt::Unsupported { reason: error.to_string() }))
    };
    let described = compile(set)?;
    let some = prover.ask(async |c| c.check_always_denies_with_counterexample_opt(&described).await).await;
    if some.map_err(not_proved)?.is_none() {
        return Ok(false);
    }
    let Some(in_force) = sorted.permitting(&environment) else { return Ok(true) };
    let allowed = compile(in_force)?;
    let both = prover.ask(async |c| c.check_disjoint_with_counterexample_opt(&described, &allowed).await).await;
    let Some(found) = both.map_err(not_proved)? else { return Ok(true) };
    let judgement = judge(&found, &sorted.policies);
    let described = judge(&found, set);
    if !described.allowed {
        return Err(not_proved(Doubt::ExampleFails { reason: "the invariant does not describe it".to_owned() }));
    }
    if !judgement.allowed {
        return Err(not_proved(Doubt::ExampleFails { reason: format!("it is {}", judgement.words()) }));
    }
    let determining = judgement.determining.clone();
    let in_play = determining.iter().filter_map(|id| sorted.policies.policy(&PolicyId::new(id)));
    let example = Example::new(&found, schema, in_play.chain([invariant]), judgement);
    Err(Box::new(Outcome::Refuted { example: Box::new(example) }))
}
