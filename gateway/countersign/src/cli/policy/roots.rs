//! `root`: root documents, offline. Version 1, the next one after it, a further signature, and what they say; and on a
//! stopped gateway, which one is in force (`installing`).
//!
//! A next document needs the thresholds of the one before and of itself. A key that is revoked counts for nothing any
//! more, whatever it signed and when, and never comes back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use countersign_gateway_model::{Digest, OrgId};
use countersign_policy_store::bundle::{
    Custody, KeyId, RootChain, RootDocument, RootKeyEntry, SignedRoot, Thresholds, Vkey,
};
use serde_json::{Value, json};

use super::super::Global;
use super::installing::{Install, install};
use super::signing::{private_keys, read_root};

/// Root documents.
#[derive(Debug, Subcommand)]
pub(crate) enum Root {
    /// Make version 1, whose digest an organization's first ledger entry names
    #[command(after_help = "Example:\n  countersign policy root new --organization org_… --public VKEY --public VKEY \
        --threshold 2 --key root-1.key --key root-2.key --out root-1.json")]
    New(New),
    /// Make the next version: keys added, taken out, revoked, other thresholds
    #[command(
        after_help = "A gateway keeps the documents of an organization in its data folder, under policy/<organization>/roots.\n\
        Give them as they lie there: the key in the data folder signs when a document is installed.\n\n\
        Examples:\n  countersign policy root next --root 1.json --add VKEY --add VKEY --threshold 2 --catalogue 1 \
        --key root-1.key --key root-2.key --out root-2.json\n  \
        countersign policy root next --root 1.json --root 2.json --revoke root-1+0123abcd \
        --key root-2.key --key root-3.key --out root-3.json"
    )]
    Next(Next),
    /// Add a signature to a root document
    #[command(after_help = "Example:\n  countersign policy root sign root-2.json --key root-3.key")]
    Sign(SignRoot),
    /// Check root documents one after another, and say which keys count
    #[command(
        after_help = "Example:\n  countersign policy root show --root root-1.json --root root-2.json --genesis HEX"
    )]
    Show(Show),
    /// Put the next version in force, on a stopped gateway: from then on its keys and thresholds count
    #[command(
        after_help = "The key in the data folder signs it, too, where the document before or this one lists that key. The ledger says\n\
        which document is in force; an older one does not come back.\n\n\
        Example:\n  countersign policy root install root-2.json --data-dir ./countersign-data\n\n\
        Exit codes: 0 in force and on record, 2 it was refused, or the message says how far it came; given again, it is finished."
    )]
    Install(Install),
}

/// How many must sign what.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Numbers {
    /// How many keys must sign bundles, catalogues, recoveries and the next root document.
    #[arg(long, value_name = "N")]
    threshold: Option<u32>,
    /// How many must sign a recovery, if more than that.
    #[arg(long, value_name = "N")]
    recovery: Option<u32>,
    /// How many must sign a tool catalogue. A gateway signs those itself, with the key in its data folder, and nobody else
    /// does: above 1 no tool is registered.
    #[arg(long, value_name = "N")]
    catalogue: Option<u32>,
}

impl Numbers {
    fn over(self, before: Thresholds) -> Thresholds {
        let all = self.threshold.map_or(before, Thresholds::all);
        let (recovery, catalogue) = (self.recovery.unwrap_or(all.recovery), self.catalogue.unwrap_or(all.catalogue));
        Thresholds { recovery, catalogue, ..all }
    }
}

/// Makes version 1.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// Whose.
    #[arg(long, value_name = "ORG")]
    organization: OrgId,
    /// Public root key, as `policy key` prints it; once for each.
    #[arg(long, value_name = "VKEY", required = true)]
    public: Vec<Vkey>,
    #[command(flatten)]
    numbers: Numbers,
    /// File of a private root key that signs; once for each.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// The file; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Makes the next version.
#[derive(Debug, Args)]
pub(crate) struct Next {
    /// Signed root documents, from version 1 on, in their order.
    #[arg(long, value_name = "FILE", required = true)]
    root: Vec<PathBuf>,
    /// Public root key that joins.
    #[arg(long, value_name = "VKEY")]
    add: Vec<Vkey>,
    /// Key that is taken out; what it signed before still counts.
    #[arg(long, value_name = "KEY")]
    remove: Vec<KeyId>,
    /// Key that is taken out and counts for nothing any more, whatever it signed.
    #[arg(long, value_name = "KEY")]
    revoke: Vec<KeyId>,
    #[command(flatten)]
    numbers: Numbers,
    /// File of a private root key that signs; once for each.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// The file; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Adds a signature.
#[derive(Debug, Args)]
pub(crate) struct SignRoot {
    /// The root document.
    file: PathBuf,
    /// File of a private root key; once for each.
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
}

/// Checks root documents.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Signed root documents, from version 1 on, in their order.
    #[arg(long, value_name = "FILE", required = true)]
    root: Vec<PathBuf>,
    /// Digest of version 1, as the organization's first ledger entry names it.
    #[arg(long, value_name = "HEX")]
    genesis: Digest,
}

pub(super) async fn root(verb: &Root, global: &Global) -> Result<bool> {
    match verb {
        Root::New(args) => {
            let keys = args.public.iter().map(|vkey| entry(vkey.clone())).collect();
            let document = RootDocument::first(args.organization, keys, args.numbers.over(Thresholds::all(1)))?;
            written(document, &args.key, &args.out, global)
        }
        Root::Next(args) => next(args, global),
        Root::Install(args) => install(args, global).await.map(|()| true),
        Root::Sign(args) => {
            let mut signed = read_root(&args.file)?;
            for key in private_keys(&args.key)? {
                signed.sign(&key)?;
            }
            super::replace(&args.file, &signed.to_bytes()?)?;
            global.answer(&told(&signed)?)?;
            Ok(true)
        }
        Root::Show(args) => {
            let documents = args.root.iter().map(|file| read_root(file)).collect::<Result<Vec<_>>>()?;
            match RootChain::verify(documents, &args.genesis) {
                Ok(chain) => {
                    let last = chain.documents().last().context("there is no root document")?;
                    global.answer(&told(last)?)?;
                    Ok(true)
                }
                Err(error) => {
                    global.answer(&json!({ "verified": false, "why": crate::words(&error) }))?;
                    Ok(false)
                }
            }
        }
    }
}

/// A key that is kept away from the gateway. The gateway makes its own local one.
fn entry(vkey: Vkey) -> RootKeyEntry {
    RootKeyEntry { vkey, custody: Custody::Offline }
}

fn next(args: &Next, global: &Global) -> Result<bool> {
    let mut documents = Vec::new();
    for file in &args.root {
        documents.push(read_root(file)?);
    }
    let first = documents.first().context("there is no root document")?.root.digest()?;
    // Whether the first one is the right one is asked by whoever verifies; here the succession is.
    let chain = RootChain::verify(documents, &first)?;
    let current = chain.current();
    let gone = |id: &KeyId| args.remove.contains(id) || args.revoke.contains(id);
    if let Some(unknown) =
        args.remove.iter().chain(&args.revoke).find(|id| !current.keys.iter().any(|k| k.vkey.id() == *id))
    {
        bail!("`{unknown}` is no key of root version {}: `countersign policy root show` lists them", current.version);
    }
    let keys = current.keys.iter().filter(|key| !gone(key.vkey.id())).cloned();
    let keys = keys.chain(args.add.iter().cloned().map(entry)).collect();
    let document = current.successor(keys, args.numbers.over(current.thresholds), args.revoke.iter().cloned())?;
    written(document, &args.key, &args.out, global)
}

fn written(document: RootDocument, keys: &[PathBuf], file: &Path, global: &Global) -> Result<bool> {
    let mut signed = SignedRoot::unsigned(document);
    for key in private_keys(keys)? {
        signed.sign(&key)?;
    }
    super::write_new(file, &signed.to_bytes()?)?;
    global.answer(&told(&signed)?)?;
    Ok(true)
}

fn told(signed: &SignedRoot) -> Result<Value> {
    let root = &signed.root;
    let keys: Vec<String> = root.keys.iter().map(|key| key.vkey.id().to_string()).collect();
    let revoked: Vec<String> = root.revoked.iter().map(ToString::to_string).collect();
    let signatures: Vec<String> = signed.signatures.iter().map(|s| s.key.to_string()).collect();
    Ok(json!({
        "digest": root.digest()?, "organization": root.organization, "version": root.version, "keys": keys,
        "thresholds": root.thresholds, "revoked": revoked, "signatures": signatures,
    }))
}
