//! Signatures of requests that the schema admitted: one that passed need not be checked again. Internal.
//!
//! Absent: what a signature holds (`asking`).

use std::collections::HashSet;

use countersign_gateway_model::Digest;

/// How many request signatures one generation holds; there are two.
const MAX_YOUNG: usize = 2048;

/// Signatures of requests that the schema admitted, by digest: a request may be large, what is remembered of it is not.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    young: HashSet<Digest>,
    /// What was young while the generation before filled. A request of it is checked again and is young again.
    old: HashSet<Digest>,
}

impl Admitted {
    pub(crate) fn contains(&self, signature: &Digest) -> bool {
        self.young.contains(signature) || self.old.contains(signature)
    }

    /// The newest are always kept, so that nobody's requests crowd out everybody else's for good.
    pub(crate) fn insert(&mut self, signature: Digest) {
        if self.young.len() >= MAX_YOUNG {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(signature);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_bounded_and_the_newest_are_kept() {
        let mut admitted = Admitted::default();
        let digest = |n: usize| crate::sha256(&n.to_le_bytes());
        for n in 0..5 * MAX_YOUNG {
            admitted.insert(digest(n));
            assert!(admitted.contains(&digest(n)), "what came last is known: {n}");
            assert!(admitted.young.len() + admitted.old.len() <= 2 * MAX_YOUNG);
        }
        assert!(admitted.contains(&digest(4 * MAX_YOUNG)) && !admitted.contains(&digest(0)));
    }
}
