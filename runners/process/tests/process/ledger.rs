//! A ledger that is as small as one can be: a genesis and one start for each order, with real keys and proofs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_ledger_merkle::node_hash;
use countersign_runners_contract::conformance::Wanted;
use countersign_runners_contract::entry::body::{
    AuthorityMode, Body, Durability, Genesis, RunStart, SignatureMode, Start, StartedBy, StreamKind,
};
use countersign_runners_contract::entry::note::Checkpoint;
use countersign_runners_contract::entry::{
    AppendPosition, Bytes32, Committed, Header, Receipt, SEMANTICS, Stream, TrustedLog, key,
};
use countersign_runners_contract::model::{
    Clock, Digest, GatewayId, LogId, Name, OrgId, PermitId, Pseudonym, RunId, StreamId, Timestamp,
};
use countersign_runners_contract::{Job, JobSalt, JobSpec, LogTrust, Order, OrderError, SingleTrust, external_name};
use ed25519_dalek::SigningKey;

use crate::RealClock;

pub(crate) struct TestLedger {
    org: OrgId,
    origin: String,
    log_key: SigningKey,
    trust: LogTrust,
    log: TrustedLog,
    counter: AtomicU64,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

impl TestLedger {
    pub(crate) fn new() -> Self {
        Self::from_seed(random())
    }

    /// The same ledger for the same seed, so that two processes can trust one.
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        let (root, log_key) = (SigningKey::from_bytes(&seed), SigningKey::from_bytes(&seed.map(|b| !b)));
        let half: [u8; 16] = seed[..16].try_into().unwrap();
        let (org, id) = (OrgId::from_bytes(half), LogId::from_bytes(half));
        let origin = key::origin("test", id).unwrap();
        let vkey = key::VKey::new(&key::root_name(&origin), root.verifying_key()).unwrap();
        let genesis = Genesis {
            org,
            log: id,
            root_keys: vec![Bytes32(root.verifying_key().to_bytes())],
            root_threshold: 1,
            root_document: Digest([1; 32]),
            log_key: Bytes32(log_key.verifying_key().to_bytes()),
            signatures: SignatureMode::PerEntry,
            durability: Durability::Journal,
            demo: false,
        };
        let stream = Stream { kind: StreamKind::Log, id: id.into() };
        let header = header(&origin, stream, 0, Body::Genesis(genesis), vkey.id());
        let genesis: Arc<[u8]> = header.sign(&root).unwrap().leaf.into();
        let trust = LogTrust { root: vkey, genesis };
        let log = trust.log().unwrap();
        Self { org, origin, log_key, trust, log, counter: AtomicU64::new(0) }
    }

    pub(crate) fn trust(&self) -> SingleTrust {
        SingleTrust { org: self.org, log: self.trust.clone() }
    }

    pub(crate) fn order(&self, wanted: Wanted) -> Result<Order, OrderError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let salt = JobSalt::from_bytes(random());
        let job = Job::new(wanted.job).unwrap();
        let bound =
            if wanted.forged { Job::new(JobSpec::command(["something", "else"])).unwrap() } else { job.clone() };
        let run = wanted.run.unwrap_or_else(|| {
            let mut bytes = random::<16>();
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            RunId::from_bytes(bytes)
        });
        let now = RealClock.now();
        let start = Start {
            permit: PermitId::from_bytes(random()),
            not_after: Timestamp(now.0.saturating_add_signed(wanted.expires_in_ms)),
            by: StartedBy::Run(RunStart {
                run,
                attempt: wanted.attempt,
                backend: Name::new(if wanted.elsewhere { "docker" } else { "process" }).unwrap(),
                external_name: external_name(run, wanted.attempt).unwrap(),
                job: bound.digest(&salt),
                fence: wanted.fence,
            }),
        };
        let stream = Stream { kind: StreamKind::Instance, id: StreamId::from_bytes(random()) };
        let header = header(&self.origin, stream, wanted.fence, Body::Start(start), [0; 4]);
        let entry = header.sign(&self.log_key).unwrap();
        let first = countersign_ledger_merkle::leaf_hash(&self.trust.genesis);
        let checkpoint = Checkpoint { origin: self.origin.clone(), size: 2, root: node_hash(&first, &entry.hash) };
        let checkpoint = self.log.checkpoint(&checkpoint.sign(&self.log_key)).unwrap();
        let receipt = Receipt { index: 1, leaf_hash: entry.hash, proof: vec![first], checkpoint: checkpoint.into() };
        let start = Committed::<Start>::check(entry.leaf.into(), receipt).unwrap();
        Order::new(self.org, job, salt, start, now)
    }
}

fn header(origin: &str, stream: Stream, sequence: u64, body: Body, key: [u8; 4]) -> Header {
    Header {
        semantics: SEMANTICS,
        origin: origin.to_owned(),
        stream,
        sequence,
        previous: (sequence > 0).then_some(Digest([2; 32])),
        append: AppendPosition { index: 0, length: 1 },
        body,
        verdict: None,
        determining: Vec::new(),
        policy: None,
        authority: AuthorityMode::Solo,
        actor: Pseudonym::SYSTEM,
        on_behalf_of: Vec::new(),
        gateway: GatewayId::from_bytes([3; 16]),
        boot: u64::from(sequence > 0),
        key,
        claimed: Timestamp(1_700_000_000_000),
        payloads: Vec::new(),
        fields: Vec::new(),
    }
}
