//! What the committer writes, the verifier accepts; what the committer refuses to write, the verifier refuses to believe.
//!
//! The real journal (SQLite in an empty folder), the real committer, the real state machine; two boots, both signature
//! modes. Forged packs are `ledger/verify`'s own tests; packs of a whole gateway are in `gateway`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_gateway_flow::{Actor, Asked, Complete, Create, Instance, Now, Proposal, decide};
use countersign_gateway_model::{
    ActionId, Clock, Digest, GatewayId, InstanceId, LogId, Name, OrgId, PrincipalKind, Pseudonym, Timestamp,
    Verdict as Said,
};
use countersign_ledger_entry::body::{
    AuthorityMode, Created, Durability, Edge, OnDeny, SettingValue, Settings, SignatureMode,
};
use countersign_ledger_entry::key::{VKey, origin, root_name};
use countersign_ledger_entry::payload::{self, Salt};
use countersign_ledger_entry::{Draft, Payload, PayloadRef, PayloadRole, Stream, StreamKind, note};
use countersign_ledger_log::{
    Append, AppendError, Appended, KeyError, KeyRing, LogHandle, Logs, LogsConfig, NewLog, Sealing,
};
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use countersign_ledger_verify::{Contents, Report, Verdict, verify, write};
use ed25519_dalek::SigningKey;

const NAME: &str = "ledger.test";
const AGENT: Pseudonym = Pseudonym::from_bytes([5; 16]);
const LOG: LogId = LogId::from_bytes([0x10; 16]);
const ORG: OrgId = OrgId::from_bytes([0x0a; 16]);

/// A clock that moves only when told.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

struct Ring;

impl KeyRing for Ring {
    fn root(&self, log: LogId) -> Result<VKey, KeyError> {
        Ok(VKey::new(&root_name(&origin(NAME, log).unwrap()), root_signer().verifying_key()).unwrap())
    }

    fn log_key(&self, _: LogId) -> Result<SigningKey, KeyError> {
        Ok(SigningKey::from_bytes(&[2; 32]))
    }
}

fn root_signer() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// One boot of a gateway on a folder.
struct Gateway {
    logs: Logs,
    log: LogHandle,
    clock: Arc<Hand>,
}

impl Gateway {
    async fn boot(folder: &Path, signatures: SignatureMode, clock: &Arc<Hand>, secret: u8) -> Self {
        let mut options = SqlOptions::new(folder);
        options.reserve = 0;
        let journal = Arc::new(SqlJournal::open(options).await.unwrap());
        let shared: Arc<dyn Clock> = Arc::<Hand>::clone(clock);
        let entropy = Arc::new(move || Ok([secret; 32]));
        let mut config = LogsConfig::new(NAME, GatewayId::from_bytes([9; 16]), shared, entropy);
        config.reserve = 0;
        let logs = Logs::open(journal, config, Arc::new(Ring)).await.unwrap();
        if logs.log(ORG).await.is_err() {
            let new = NewLog {
                org: ORG,
                log: LOG,
                root_keys: vec![root_signer().verifying_key()],
                root_signer: root_signer(),
                root_threshold: 1,
                root_document: Digest([4; 32]),
                signatures,
                durability: Durability::Journal,
                authority: AuthorityMode::FourEyes,
                demo: false,
            };
            logs.create(new).await.unwrap();
        }
        let log = logs.boot(ORG, Some(1)).await.unwrap();
        Self { logs, log, clock: Arc::clone(clock) }
    }

    async fn append(
        &self,
        stream: Stream,
        drafts: Vec<Draft>,
        payloads: Vec<Payload>,
    ) -> Result<Appended, AppendError> {
        let head = self.log.head(stream).await?;
        let sealing = Sealing {
            stream,
            sequence: head.map_or(0, |head| head.next_sequence),
            previous: head.map(|head| head.last_hash),
            policy: None,
            authority: AuthorityMode::FourEyes,
            claimed: self.clock.now(),
        };
        let entries = self.log.seal(&sealing, drafts).unwrap();
        self.log.append(Append { expected: sealing.sequence, entries, payloads, ..Append::default() }).await
    }

    async fn propose(&self, instance: &mut Option<Instance>, id: InstanceId, proposal: Proposal) -> Appended {
        let by = Actor { actor: AGENT, on_behalf_of: Vec::new() };
        let now = Now { at: self.clock.now(), frozen: false, by };
        let decided = decide(instance.as_ref(), proposal, &now).unwrap();
        let stream = Stream { kind: StreamKind::Instance, id: id.into() };
        let appended = self.append(stream, decided.drafts, Vec::new()).await.unwrap();
        for entry in &appended.entries {
            let hash = Digest(entry.receipt.leaf_hash.0);
            *instance = Some(Instance::evolve(instance.take(), &entry.header, hash).unwrap());
        }
        appended
    }

    /// A setting of the organization, with a description beside it.
    async fn setting(&self, n: u8) -> Payload {
        let bytes = payload::seal(&Salt([n; 32]), b"because");
        let payload = Payload { digest: payload::digest(&bytes), bytes };
        let length = u32::try_from(payload.bytes.len()).unwrap();
        let body =
            Settings { setting: name("log.public_read"), old: None, new: SettingValue::Flag(n.is_multiple_of(2)) };
        let mut draft = Draft::new(body, AGENT);
        draft.payloads = vec![PayloadRef { role: PayloadRole::Description, digest: payload.digest, length }];
        let stream = Stream { kind: StreamKind::Organization, id: ORG.into() };
        self.append(stream, vec![draft], vec![payload.clone()]).await.unwrap();
        payload
    }

    async fn pack(&self, payloads: &[Payload]) -> Vec<u8> {
        let checkpoint = self.log.checkpoint();
        let entries = self.log.entries(0..checkpoint.checkpoint().size).await.unwrap();
        let contents = Contents {
            origin: self.log.trusted().origin(),
            checkpoint: checkpoint.note(),
            leaves: entries.iter().map(|entry| entry.leaf.as_slice()).collect(),
            payloads: payloads.iter().map(|p| (p.digest.to_string(), p.bytes.as_slice())).collect(),
            blobs: BTreeMap::new(),
        };
        write(&contents, |text| note::sign(text, contents.origin, &Ring.log_key(LOG).unwrap())).unwrap()
    }
}

fn created() -> Created {
    Created {
        workflow: name("fix-tests"),
        workflow_version: Digest([1; 32]),
        initiator: AGENT,
        accountable: AGENT,
        owner: None,
        acting: AGENT,
        acting_kind: PrincipalKind::Agent,
        parent: None,
        on_deny: OnDeny::Refuse,
        deadline: None,
        enforced: true,
    }
}

fn verdict(pack: &[u8], known: Option<&str>) -> Report {
    verify(&Ring.root(LOG).unwrap(), pack, known)
}

async fn life_of_a_log(signatures: SignatureMode) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand(AtomicU64::new(1_800_000_000_000)));
    let gateway = Gateway::boot(folder.path(), signatures, &clock, 0x71).await;
    let id = InstanceId::from_bytes([7; 16]);
    let mut instance = None;
    let create = Create {
        instance: id,
        created: created(),
        start: true,
        action: Some(ActionId::from_bytes([8; 16])),
        asked: Asked::answer(Said::allow(), vec![vec![name("permit")]]),
        digest: None,
        gate: None,
        item: None,
    };
    let begun = gateway.propose(&mut instance, id, Proposal::Create(Box::new(create))).await;
    // What the caller is given as committed is what the auditor finds.
    let edge = begun.first::<Edge>().unwrap().unwrap();
    assert_eq!(edge.receipt().index, 3);
    let mut payloads = vec![gateway.setting(1).await];
    let held = gateway.log.checkpoint().note().to_owned();
    gateway.logs.shutdown().await.unwrap();

    // A second boot under another key; its clock is a little behind, as far as it may be.
    clock.0.fetch_sub(5_000, Ordering::SeqCst);
    let gateway = Gateway::boot(folder.path(), signatures, &clock, 0x72).await;
    payloads.push(gateway.setting(2).await);
    clock.0.fetch_add(60_000, Ordering::SeqCst);
    let complete = Complete {
        action: Some(ActionId::from_bytes([9; 16])),
        asked: Asked::answer(Said::allow(), vec![vec![name("permit")]]),
        digest: None,
        gate: None,
        item: None,
    };
    gateway.propose(&mut instance, id, Proposal::Complete(Box::new(complete))).await;

    let pack = gateway.pack(&payloads).await;
    let report = verdict(&pack, Some(&held));
    assert_eq!(report.verdict, Verdict::Valid, "{:?}", report.problems);
    let facts = report.facts.as_ref().unwrap();
    assert_eq!(facts.signatures, signatures.as_str());
    assert_eq!((facts.population.to, facts.boots, facts.streams.closed), (8, 2, 1));
    assert_eq!((facts.payloads.named, facts.payloads.disclosed), (2, 2));
    assert_eq!(facts.known, Some(5));
    for at in [100, pack.len() / 3, pack.len() / 2, pack.len() - 30] {
        let mut flipped = pack.clone();
        *flipped.get_mut(at).unwrap() ^= 1;
        assert_eq!(verdict(&flipped, None).verdict, Verdict::Invalid, "byte {at}");
    }
    gateway.logs.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_log_that_signs_each_entry_is_valid_as_it_was_written() {
    life_of_a_log(SignatureMode::PerEntry).await;
}

#[tokio::test]
async fn a_log_that_signs_checkpoints_only_is_valid_as_it_was_written() {
    life_of_a_log(SignatureMode::CheckpointOnly).await;
}

/// The journal put back from an old copy, and gone on with: what an auditor's own checkpoint is for.
#[tokio::test]
async fn a_log_that_was_rolled_back_is_caught_by_the_checkpoint_that_the_auditor_holds() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = Arc::new(Hand(AtomicU64::new(1_800_000_000_000)));
    let gateway = Gateway::boot(folder.path(), SignatureMode::PerEntry, &clock, 0x71).await;
    gateway.setting(1).await;
    gateway.logs.shutdown().await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    let gateway = Gateway::boot(folder.path(), SignatureMode::PerEntry, &clock, 0x72).await;
    gateway.setting(2).await;
    let held = gateway.log.checkpoint().note().to_owned();
    assert_eq!(verdict(&gateway.pack(&[]).await, Some(&held)).verdict, Verdict::Valid);
    gateway.logs.shutdown().await.unwrap();

    let restored = Gateway::boot(copy.path(), SignatureMode::PerEntry, &clock, 0x73).await;
    let shorter = verdict(&restored.pack(&[]).await, Some(&held));
    assert_eq!(shorter.verdict, Verdict::Inconclusive, "{:?}", shorter.problems);
    restored.setting(3).await;
    restored.setting(4).await;
    let pack = restored.pack(&[]).await;
    let alone = verdict(&pack, None);
    assert_eq!(alone.verdict, Verdict::Valid, "{:?}", alone.problems);
    assert!(alone.not_proven.iter().any(|said| said.starts_with("rollback not excluded")));
    let caught = verdict(&pack, Some(&held));
    assert_eq!(caught.verdict, Verdict::Invalid);
    assert!(
        caught.problems.iter().any(|said| said.detail.contains("of another history: size 5")),
        "{:?}",
        caught.problems
    );
    restored.logs.shutdown().await.unwrap();
}
