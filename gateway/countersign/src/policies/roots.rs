//! The next root document of an organization: checked, put in force, and on record in the ledger. Internal.
//!
//! First the document is durable in the store's folder, then the ledger says so. A crash in between leaves a document in
//! force that the ledger does not name yet: the next start names it. The other way round, a ledger that names a
//! document which the folder lacks, is an older folder put back, and nothing is served with it. Absent: who asks
//! (`cli::policy::installing`), the succession (`policy/bundle`).

use countersign_gateway_engine::{Engine, root_on_record};
use countersign_gateway_model::{Digest, OrgId};
use countersign_ledger_log::LogHandle;
use countersign_policy_store::StoreError;
use countersign_policy_store::bundle::{BundleError, RootChain, RootDocument, RootError, SignedRoot};

use super::{LocalPolicies, PoliciesError};

/// A root document that may come into force, and does not yet.
pub(crate) struct NextRoot {
    org: OrgId,
    /// None where it is in force already.
    signed: Option<SignedRoot>,
    chain: RootChain,
    /// Whether a bundle is in force, and stands under it.
    pub stands: bool,
    /// Why the bundle in force would not stand under it.
    pub lost: Option<BundleError>,
}

impl NextRoot {
    /// The document.
    pub(crate) fn document(&self) -> &RootDocument {
        self.chain.current()
    }
}

fn ledger(error: impl std::error::Error + Send + Sync + 'static) -> PoliciesError {
    PoliciesError::Ledger(Box::new(error))
}

/// Refuses a folder whose root documents are older than the ledger says.
pub(super) async fn compare(chain: &RootChain, log: &LogHandle) -> Result<(), PoliciesError> {
    let Some(wanted) = root_on_record(log).await.map_err(ledger)? else { return Ok(()) };
    match place_of(chain, &wanted)? {
        Some(_) => Ok(()),
        None => Err(PoliciesError::RootMissing { wanted, version: chain.current().version }),
    }
}

/// How many documents of a chain come before, and with, the one of that digest.
fn place_of(chain: &RootChain, wanted: &Digest) -> Result<Option<usize>, PoliciesError> {
    for (at, document) in chain.documents().iter().enumerate() {
        if document.root.digest().map_err(StoreError::Root)? == *wanted {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

impl LocalPolicies {
    /// What a root document would change. The key in the data folder signs it, too, where the document before or this one
    /// lists that key: whoever installs holds the folder.
    pub(crate) fn next_root(&self, org: OrgId, mut signed: SignedRoot) -> Result<NextRoot, PoliciesError> {
        let held = self.held(org).ok_or(StoreError::UnknownOrganization(org))?;
        let active = self.store.active(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let chain = self.store.root_chain(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let mut chain = RootChain::clone(&chain);
        let judged = |chain: &RootChain| active.bundle.as_ref().map(|bundle| bundle.verify_active(chain).map(drop));
        if *chain.current() == signed.root {
            let stands = judged(&chain).is_some_and(|judged| judged.is_ok());
            return Ok(NextRoot { org, signed: None, chain, stands, lost: None });
        }
        let wrong = |error: RootError| PoliciesError::Store(StoreError::Root(error));
        let local = held.key.vkey().id();
        if chain.current().keys.iter().chain(&signed.root.keys).any(|key| key.vkey.id() == local) {
            signed.sign(&held.key).map_err(wrong)?;
        }
        chain.extend(signed.clone()).map_err(wrong)?;
        let judged = judged(&chain);
        let stands = judged.as_ref().is_some_and(Result::is_ok);
        Ok(NextRoot { org, signed: Some(signed), chain, stands, lost: judged.and_then(Result::err) })
    }

    /// Puts it in force and on record. Gives its entry; none where the ledger named it before.
    pub(crate) async fn install_root(&self, engine: &Engine, next: NextRoot) -> Result<Option<u64>, PoliciesError> {
        if let Some(signed) = next.signed {
            self.store.add_root(next.org, signed).await?;
        }
        // Crash here: it is in force and not on record; the next start puts it there before anything else.
        self.record_roots(engine, next.org).await
    }

    /// Puts every document in force that the ledger does not name yet on record. Gives the entry of the last one.
    pub(crate) async fn record_roots(&self, engine: &Engine, org: OrgId) -> Result<Option<u64>, PoliciesError> {
        let held = self.held(org).ok_or(StoreError::UnknownOrganization(org))?;
        let chain = self.store.root_chain(&org).ok_or(StoreError::UnknownOrganization(org))?;
        let recorded = match root_on_record(&held.log).await.map_err(ledger)? {
            Some(digest) => place_of(&chain, &digest)?.unwrap_or(1),
            None => 1,
        };
        let mut entry = None;
        for pair in chain.documents().windows(2).skip(recorded.saturating_sub(1)) {
            let [before, document] = pair else { continue };
            let digest = |signed: &SignedRoot| signed.root.digest().map_err(StoreError::Root);
            let content = serde_json::to_value(document).map_err(ledger)?;
            let receipt = engine.record_root(org, (digest(before)?, digest(document)?), content).await;
            entry = Some(receipt.map_err(ledger)?.index);
        }
        Ok(entry)
    }
}
