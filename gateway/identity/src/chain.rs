//! On-behalf chains: who lent their authority to whom, outermost first, and the rules every chain keeps.
//!
//! Absent: tokens (`token` issues, `authenticate` checks). Read next: `session`.

use crate::session::ChainLink;
use crate::{IdentityError, Subject};

/// The longest chain of delegators.
pub const MAX_CHAIN_DEPTH: usize = 8;

/// The chain of one who acts for `delegator`, who acts for `of_delegator` already: outermost first.
pub(crate) fn extend(
    of_delegator: &[ChainLink],
    delegator: ChainLink,
    actor: &Subject,
) -> Result<Vec<ChainLink>, IdentityError> {
    let mut chain = of_delegator.to_vec();
    chain.push(delegator);
    check(&chain, actor)?;
    Ok(chain)
}

/// Holds the rules: at most [`MAX_CHAIN_DEPTH`] links, persons and agents only, nobody twice, not the actor itself.
pub(crate) fn check(chain: &[ChainLink], actor: &Subject) -> Result<(), IdentityError> {
    use countersign_gateway_model::PrincipalKind::{Agent, Person};
    if chain.len() > MAX_CHAIN_DEPTH {
        return Err(IdentityError::ChainTooDeep { max: MAX_CHAIN_DEPTH });
    }
    if !chain.is_empty() && actor.kind() != Agent {
        return Err(IdentityError::ChainRefused { reason: "only an agent acts on behalf of others" });
    }
    let mut seen = vec![actor];
    for link in chain {
        if !matches!(link.subject.kind(), Person | Agent) {
            return Err(IdentityError::ChainRefused { reason: "only a person or an agent may delegate" });
        }
        if seen.contains(&&link.subject) {
            return Err(IdentityError::ChainRefused { reason: "somebody stands twice in the chain" });
        }
        seen.push(&link.subject);
    }
    // A person never acts for another here: authority starts with one person and passes through agents.
    if chain.iter().skip(1).any(|link| link.subject.kind() == Person) {
        return Err(IdentityError::ChainRefused { reason: "a person can only stand first in the chain" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use countersign_gateway_model::Name;

    use super::*;

    fn link(subject: &str) -> ChainLink {
        ChainLink {
            subject: subject.parse().unwrap(),
            token: Name::new("tok_1").unwrap(),
            credential: Name::new("cred_1").unwrap(),
        }
    }

    #[test]
    fn chains_hold_their_rules() {
        let long: Vec<String> = (0..=MAX_CHAIN_DEPTH).map(|i| format!("agent:a{i}")).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        for (chain, actor, code) in [
            (&[][..], "person:ada", ""),
            (&[], "service:ci", ""),
            (&["person:ada"], "agent:a", ""),
            (&["person:ada", "agent:a"], "agent:b", ""),
            (&["agent:a"], "agent:b", ""),
            (long.split_last().unwrap().1, "agent:b", ""),
            (&long, "agent:b", "chain-too-deep"),
            (&["person:ada"], "person:bob", "chain-refused"),
            (&["person:ada"], "service:ci", "chain-refused"),
            (&["service:ci"], "agent:a", "chain-refused"),
            (&["agent:a"], "agent:a", "chain-refused"),
            (&["agent:a", "agent:b", "agent:a"], "agent:c", "chain-refused"),
            (&["agent:a", "person:ada"], "agent:c", "chain-refused"),
        ] {
            let links: Vec<_> = chain.iter().map(|s| link(s)).collect();
            let got = check(&links, &actor.parse().unwrap()).map_or_else(|e| e.code(), |()| "");
            assert_eq!(got, code, "{chain:?} {actor}");
        }
    }

    #[test]
    fn extending_keeps_the_outermost_first() {
        let chain = extend(&[link("person:ada")], link("agent:a"), &"agent:b".parse().unwrap()).unwrap();
        let order: Vec<_> = chain.iter().map(|l| l.subject.to_string()).collect();
        assert_eq!(order, ["person:ada", "agent:a"]);
    }
}
