//! Revocation: ends tokens before their time, by token, by credential, or by everything of one account.
//!
//! A revocation hits what was issued until its instant, and is forgotten when the last such token would have ended.
//! A chain is hit by a revocation of any of its delegators. Absent: storage. Read next: `cache`.

use std::collections::HashMap;
use std::fmt;

use countersign_gateway_model::{Name, OrgId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Subject;
use crate::session::ChainLink;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationTarget {
    /// One token or consent, by its id, with all that came of a consent.
    Token(Name),
    /// All tokens of one credential.
    Credential(Name),
    /// All tokens of one account, and all in whose chain it stands.
    Principal(Subject),
}

impl fmt::Display for RevocationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(id) => write!(f, "token/{id}"),
            Self::Credential(id) => write!(f, "credential/{id}"),
            Self::Principal(subject) => write!(f, "principal/{subject}"),
        }
    }
}

/// One revocation, as it is stored and as it travels between gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Whose.
    pub org: OrgId,
    /// What.
    pub target: RevocationTarget,
    /// Tokens issued until then, inclusive, have ended.
    pub at: Timestamp,
    /// No such token can live longer: the revocation is forgotten then.
    pub until: Timestamp,
}

/// The facts of a token that a revocation can hit.
pub(crate) struct Facts<'a> {
    pub(crate) org: OrgId,
    pub(crate) token: &'a Name,
    pub(crate) credential: Option<&'a Name>,
    pub(crate) subject: &'a Subject,
    pub(crate) chain: &'a [ChainLink],
    pub(crate) issued: Timestamp,
}

impl Facts<'_> {
    fn targets(&self) -> impl Iterator<Item = RevocationTarget> {
        let own = [RevocationTarget::Token(self.token.clone()), RevocationTarget::Principal(self.subject.clone())];
        let credential = self.credential.cloned().map(RevocationTarget::Credential);
        let links = self.chain.iter().flat_map(|link| {
            [
                RevocationTarget::Token(link.token.clone()),
                RevocationTarget::Credential(link.credential.clone()),
                RevocationTarget::Principal(link.subject.clone()),
            ]
        });
        own.into_iter().chain(credential).chain(links)
    }

    /// Whether `revocation` ends this token.
    pub(crate) fn hit_by(&self, revocation: &Revocation) -> bool {
        self.org == revocation.org
            && self.issued <= revocation.at
            && self.targets().any(|target| target == revocation.target)
    }
}

/// All live revocations.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    by_target: HashMap<(OrgId, RevocationTarget), Revocation>,
}

impl Revocations {
    /// Adds one; of two for the same target the later instant and the later end hold.
    pub(crate) fn add(&mut self, new: &Revocation) {
        let slot = self.by_target.entry((new.org, new.target.clone())).or_insert_with(|| new.clone());
        slot.at = slot.at.max(new.at);
        slot.until = slot.until.max(new.until);
    }

    /// Whether any of them ends this token.
    pub(crate) fn hit(&self, facts: &Facts<'_>) -> bool {
        let revoked_at = |target| self.by_target.get(&(facts.org, target)).map(|revocation| revocation.at);
        !self.by_target.is_empty() && facts.targets().any(|t| revoked_at(t).is_some_and(|at| facts.issued <= at))
    }

    /// Drops those whose tokens have all ended.
    pub(crate) fn sweep(&mut self, now: Timestamp) {
        self.by_target.retain(|_, revocation| now < revocation.until);
    }

    pub(crate) fn len(&self) -> usize {
        self.by_target.len()
    }
}
