//! What holds for an organization as its own stream says it: authority mode, freezes, settings, keys of persons, workflows,
//! recoveries under review.
//!
//! It is folded from leaf bytes whenever an organization is opened, and no table is asked: whoever edits the database of a
//! stopped gateway lifts no freeze by it and lowers no mode. The entries are held together by their links, and the last one
//! is proven in the signed checkpoint. What an editor can still do is to cut entries off the end, which `ledger fsck` and
//! every auditor find.
//!
//! The stream may be long, because evaluations are in it. So the fold is kept in a row now and then, signed with the log key
//! under its own heading, and an opening reads what came after that: at most [`KEPT_EVERY`] entries and those of one append,
//! some 15 µs each. A row that the key did not sign counts for nothing; an older one that it did sign makes the opening
//! longer and changes nothing. Where there is none, the stream is read from its beginning, once.
//!
//! Absent: what an instance may do, which folds from its own stream (`gateway/flow`). Read next: `settings`, `writing`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use countersign_gateway_model::{Digest, Duration, Name};
use countersign_ledger_entry::body::{AuthorityMode, Body, Freeze, PersonKey, SettingValue, Settings};
use countersign_ledger_entry::{Entry, Header, Row, Stream, StreamKind, assertion};
use countersign_ledger_log::{AppendedEntry, LogHandle};
use countersign_ledger_merkle::{Hash, leaf_hash, verify_inclusion};

use crate::error::EngineError;
use crate::keyring::KeyRow;
use crate::recording::Recording;
use crate::terms::{EVALUATIONS_RECORD, Frozen, PUBLIC_READ, ROOT, SHADOW_WINDOW, ShadowWindow};

/// Table of the kept fold: one row.
const OWN_FOLD: &str = "own_fold";

/// What the log key signs the fold as.
const HEADING: &str = "countersign own fold v1";

/// After how many entries of the stream the fold is kept again.
const KEPT_EVERY: u64 = 4096;

/// Entries read at a time.
const PAGE: usize = 512;

/// What holds for an organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnFold {
    /// Sequence of the stream's next entry.
    next: u64,
    /// Leaf hash of its last one.
    last: Option<Digest>,
    /// What `next` was when the fold was kept last.
    #[serde(skip)]
    kept: u64,
    pub(crate) authority: AuthorityMode,
    pub(crate) frozen: Frozen,
    pub(crate) public_read: bool,
    pub(crate) recording: Recording,
    pub(crate) shadow_window: ShadowWindow,
    /// The root document in force, where it is not the one that genesis names.
    pub(crate) root: Option<Digest>,
    pub(crate) person_keys: BTreeMap<Digest, KeyRow>,
    /// The newest version of each workflow.
    pub(crate) workflows: BTreeMap<Name, Digest>,
    /// Bundles of recoveries whose reviews are open, the oldest first.
    pub(crate) recoveries: Vec<Digest>,
}

/// The fold as a row keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// JSON of a [`OwnFold`], as it was signed.
    fold: String,
    note: String,
}

fn damaged(sequence: u64, what: &str) -> EngineError {
    EngineError::damaged(format!("entry {sequence} of the organization's stream: {what}"))
}

impl OwnFold {
    fn new(authority: AuthorityMode) -> Self {
        Self {
            next: 0,
            last: None,
            kept: 0,
            authority,
            frozen: Frozen::default(),
            public_read: false,
            recording: Recording::default(),
            shadow_window: ShadowWindow::default(),
            root: None,
            person_keys: BTreeMap::new(),
            workflows: BTreeMap::new(),
            recoveries: Vec::new(),
        }
    }

    /// Reads it from a log.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] where the stream does not hold together: then nothing is known of the organization.
    pub(crate) async fn of(log: &LogHandle) -> Result<Self, EngineError> {
        let genesis = log.trusted().genesis_header().authority;
        let mut fold = Self::kept_in(log).await?.unwrap_or_else(|| Self::new(genesis));
        let stream = Stream { kind: StreamKind::Organization, id: log.org().into() };
        // The last entry of the kept fold is read again: it must be there, and be the one.
        let mut from = fold.next.saturating_sub(1);
        let mut newest = None;
        loop {
            let page = log.stream_entries(stream, from, PAGE).await.map_err(EngineError::ledger)?;
            for stored in &page {
                let hash = Digest(leaf_hash(&stored.leaf).0);
                if from < fold.next {
                    if fold.last != Some(hash) {
                        return Err(damaged(from, "it is not the one that was there before"));
                    }
                } else {
                    let header = Entry::parse(&stored.leaf)?.header;
                    if (header.stream, header.origin.as_str()) != (stream, log.trusted().origin()) {
                        return Err(damaged(from, "it is of another stream"));
                    }
                    fold.follow(&header, hash)?;
                }
                newest = Some((stored.index, hash));
                from += 1;
            }
            if page.len() < PAGE {
                break;
            }
        }
        if from < fold.next {
            return Err(damaged(from, "it was there before, and is missing"));
        }
        if let Some((index, hash)) = newest {
            let checkpoint = log.checkpoint();
            let at = checkpoint.checkpoint();
            let proof = log.proof(index, at.size).await.map_err(EngineError::ledger)?;
            verify_inclusion(&Hash(hash.0), index, at.size, &proof, &at.root).map_err(EngineError::damaged)?;
        }
        Ok(fold)
    }

    /// The fold that was kept last, if the log key signed it.
    async fn kept_in(log: &LogHandle) -> Result<Option<Self>, EngineError> {
        let Some(row) = log.view(OWN_FOLD, b"").await.map_err(EngineError::ledger)? else { return Ok(None) };
        let read = || {
            let Kept { fold, note } = serde_json::from_slice(&row).ok()?;
            let digest = Digest(Sha256::digest(fold.as_bytes()).into());
            log.vouches(HEADING, &digest, &note).then_some(())?;
            serde_json::from_str::<Self>(&fold).ok()
        };
        let Some(mut fold) = read() else {
            // It costs time and nothing else: the stream itself is read.
            tracing::warn!(org = %log.org(), "the kept fold of the organization's stream is not one of this log: not used");
            return Ok(None);
        };
        fold.kept = fold.next;
        Ok(Some(fold))
    }

    /// The row that keeps it, where it is time for that. `next` is the sequence that the append to come begins with.
    pub(crate) fn to_keep(&self, log: &LogHandle, next: u64) -> Option<Row> {
        if self.next != next || self.next.saturating_sub(self.kept) < KEPT_EVERY {
            return None;
        }
        let fold = serde_json::to_string(self).ok()?;
        let note = log.vouch(HEADING, &Digest(Sha256::digest(fold.as_bytes()).into()));
        let columns = serde_json::to_vec(&Kept { fold, note }).ok()?;
        Some(Row { table: OWN_FOLD, key: Vec::new(), columns: Some(columns) })
    }

    /// Takes up what was appended. `kept` says that the fold before it was kept with it.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] where it does not follow: another has written to the stream.
    pub(crate) fn appended(&mut self, entries: &[AppendedEntry], kept: bool) -> Result<(), EngineError> {
        if kept {
            self.kept = self.next;
        }
        for (place, entry) in entries.iter().enumerate() {
            // The log has checked that each names the one before it; only the last one's hash is nowhere yet.
            let named = entries.get(place + 1).and_then(|next| next.header.previous);
            let hash = named.unwrap_or_else(|| Digest(leaf_hash(&entry.leaf).0));
            self.follow(&entry.header, hash)?;
        }
        Ok(())
    }

    fn follow(&mut self, header: &Header, hash: Digest) -> Result<(), EngineError> {
        if (header.sequence, header.previous) != (self.next, self.last) {
            return Err(damaged(header.sequence, "it does not follow the one before it"));
        }
        match &header.body {
            Body::Settings(set) => self.set(header, set)?,
            Body::Freeze(Freeze { lift, team: None }) => self.frozen.all = !lift,
            Body::Freeze(Freeze { lift: false, team: Some(team) }) => drop(self.frozen.teams.insert(team.clone())),
            Body::Freeze(Freeze { lift: true, team: Some(team) }) => drop(self.frozen.teams.remove(team)),
            Body::PersonKey(key) => self.key(header, key)?,
            Body::Workflow(workflow) => drop(self.workflows.insert(workflow.workflow.clone(), workflow.version)),
            Body::Recovery(recovery) if !recovery.reviewed => self.recoveries.push(recovery.bundle),
            Body::Recovery(recovery) => {
                if let Some(at) = self.recoveries.iter().position(|bundle| *bundle == recovery.bundle) {
                    self.recoveries.remove(at);
                }
            }
            _ => {}
        }
        self.next = header.sequence + 1;
        self.last = Some(hash);
        Ok(())
    }

    fn set(&mut self, header: &Header, set: &Settings) -> Result<(), EngineError> {
        let wrong = || damaged(header.sequence, "a setting's value");
        let choice = || match &set.new {
            SettingValue::Choice(word) => Ok(word.as_str()),
            _ => Err(wrong()),
        };
        match (set.setting.as_str(), &set.new) {
            (AuthorityMode::SETTING, _) => self.authority = AuthorityMode::of(set).ok_or_else(wrong)?,
            (PUBLIC_READ, SettingValue::Flag(on)) => self.public_read = *on,
            (SHADOW_WINDOW, SettingValue::Number(seconds)) => {
                let window = Duration::from_secs(*seconds);
                self.shadow_window = self.shadow_window.changed(window, self.authority, header.claimed);
            }
            (EVALUATIONS_RECORD, _) => self.recording = Recording::parse(choice()?).ok_or_else(wrong)?,
            (ROOT, _) => self.root = Some(choice()?.parse().map_err(|_| wrong())?),
            (PUBLIC_READ | SHADOW_WINDOW, _) => return Err(wrong()),
            _ => {}
        }
        Ok(())
    }

    fn key(&mut self, header: &Header, key: &PersonKey) -> Result<(), EngineError> {
        let id = assertion::key_id(&key.key);
        if key.revoked {
            let held = self.person_keys.get_mut(&id).filter(|held| held.revoked.is_none());
            let held = held.ok_or_else(|| damaged(header.sequence, "it takes back a key that nobody has"))?;
            held.revoked = Some(header.claimed);
            return Ok(());
        }
        let row = KeyRow { principal: key.principal, key: key.key, registered: header.claimed, revoked: None };
        match self.person_keys.insert(id, row) {
            None => Ok(()),
            Some(_) => Err(damaged(header.sequence, "it registers a key again")),
        }
    }
}
