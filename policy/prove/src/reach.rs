//! What can go wrong with a bundle by itself: forbids that fail, and kinds of requests that nobody is ever allowed.
//!
//! A forbid that fails on some request denies it at the gateway, which is safe and rarely meant. A kind of request that
//! is always denied is often meant, and sometimes a permit that was forgotten. Absent: judging either. Read next:
//! `prover`.

use cedar_policy::{Effect, Policy, PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::{CompiledPolicy, CompiledPolicySet, Env};
use countersign_policy_bundle::Timestamp;
use serde::Serialize;

use crate::example::{Example, judge};
use crate::prover::{Doubt, Prover, with_prover};
use crate::solver::Solver;
use crate::subject::{Environment, Shadowed, Sorted, Subject, SubjectError};

/// A forbid and a request on which it fails.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failing {
    /// Its id.
    pub policy: String,
    /// Of what kind the request is.
    pub environment: Environment,
    /// The request.
    pub example: Example,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reach {
    /// Forbids that can fail, the first kind of request for each.
    pub failing: Vec<Failing>,
    /// Ids of forbids that are proved never to fail.
    pub never_failing: Vec<String>,
    /// Kinds of requests that are denied whatever is true of them, proved.
    pub always_denied: Vec<Environment>,
    /// What nobody knows: a forbid's id, or none for the kind of request, and why.
    pub not_proved: Vec<(Option<String>, Environment, Doubt)>,
}

/// Looks at every forbid and every kind of request, as enforced from `now` on.
pub fn reach(subject: Subject<'_>, now: Timestamp, solver: Option<&Solver>) -> Result<Reach, SubjectError> {
    with_prover(solver, async |prover| {
        let schema = subject.snapshot.schema();
        let sorted = Sorted::new(subject.snapshot, schema, Shadowed::MostAllowed, now)?;
        let mut found = Reach::default();
        let mut prover = prover;
        let mut forbids: Vec<_> = sorted.policies.policies().filter(|p| p.effect() == Effect::Forbid).collect();
        forbids.sort_by_key(|policy| policy.id().to_string());
        for forbid in forbids {
            let (failing, doubts) = (found.failing.len(), found.not_proved.len());
            for env in forbid.get_valid_request_envs(schema) {
                let environment = Environment::of(&env);
                let answer = match &mut prover {
                    Err(doubt) => Err(doubt.clone()),
                    Ok(prover) => fails(forbid, &env, schema, prover).await,
                };
                match answer {
                    Ok(None) => {}
                    Ok(Some(request)) => {
                        let judgement = judge(&request, &sorted.policies);
                        let policy = forbid.id().to_string();
                        if judgement.failing.contains(&policy) {
                            let example = Example::new(&request, schema, [forbid], judgement);
                            found.failing.push(Failing { policy, environment, example });
                            break;
                        }
                        let doubt = Doubt::ExampleFails { reason: "the forbid does not fail on it".to_owned() };
                        found.not_proved.push((Some(policy), environment, doubt));
                    }
                    Err(doubt) => found.not_proved.push((Some(forbid.id().to_string()), environment, doubt)),
                }
            }
            if (found.failing.len(), found.not_proved.len()) == (failing, doubts) {
                found.never_failing.push(forbid.id().to_string());
            }
        }
        for env in schema.request_envs() {
            let environment = Environment::of(&env);
            let Some(policies) = sorted.permitting(&environment) else {
                found.always_denied.push(environment);
                continue;
            };
            let answer = match &mut prover {
                Err(doubt) => Err(doubt.clone()),
                Ok(prover) => denied(policies, &env, schema, prover).await,
            };
            match answer {
                Ok(true) => found.always_denied.push(environment),
                Ok(false) => {}
                Err(doubt) => found.not_proved.push((None, environment, doubt)),
            }
        }
        Ok(found)
    })?
}

async fn fails(forbid: &Policy, env: &RequestEnv, schema: &Schema, prover: &mut Prover) -> Result<Option<Env>, Doubt> {
    prover.ready()?;
    let compiled = CompiledPolicy::compile(forbid, env, schema)
        .map_err(|error| Doubt::Unsupported { reason: error.to_string() })?;
    prover.ask(async |c| c.check_never_errors_with_counterexample_opt(&compiled).await).await
}

async fn denied(policies: &PolicySet, env: &RequestEnv, schema: &Schema, prover: &mut Prover) -> Result<bool, Doubt> {
    prover.ready()?;
    let compiled = CompiledPolicySet::compile(policies, env, schema)
        .map_err(|error| Doubt::Unsupported { reason: error.to_string() })?;
    let found = prover.ask(async |c| c.check_always_denies_with_counterexample_opt(&compiled).await).await?;
    Ok(found.is_none())
}
