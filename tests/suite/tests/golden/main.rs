//! Format 1 is signed for ever: the bytes of every entry kind, of the enums in them, of checkpoint, receipt, `EVIDENCE` and
//! pack are these and no others. A change here is a new format version.
//!
//! Files: `tests/golden/`, binary ones as hex. With `COUNTERSIGN_BLESS=1` they are written instead of compared.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod enums;
mod samples;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_gateway_model::{
    Decision as Answer, Digest, GatewayId, InstanceId, LogId, OrgId, PolicyDigests, PrincipalKind, State, Timestamp,
    Verdict as Said,
};
use countersign_ledger_entry::append::{Frame, seal};
use countersign_ledger_entry::assertion::{self, LiftStatement, Statement};
use countersign_ledger_entry::body::*;
use countersign_ledger_entry::key::{self, VKey};
use countersign_ledger_entry::note::{self, Checkpoint};
use countersign_ledger_entry::{
    AppendPosition, Bytes32, Bytes64, Committed, Draft, Entry, Header, PayloadRef, PayloadRole, Receipt, Stream,
    TrustedLog, payload,
};
use countersign_ledger_merkle::{Tree, leaf_hash};
use countersign_ledger_verify::{Contents, Verdict, verify, write};
use ed25519_dalek::SigningKey;

use samples::{digest, full, id, lean, name, who};

/// A change of bytes that are signed.
const FORMAT: &str = "a change here is a new format version: what was signed before would no longer verify. If that is meant, \
                      raise the version in `ledger/entry`, keep reading the old one, and write these files anew with \
                      COUNTERSIGN_BLESS=1";

/// A change of what people read.
const WORDS: &str = "what an auditor reads has changed; if that is meant, write the file anew with COUNTERSIGN_BLESS=1";

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../golden")).join(name)
}

#[expect(clippy::disallowed_methods, reason = "a switch for whoever runs this test, not configuration of the program")]
fn blessing() -> bool {
    std::env::var("COUNTERSIGN_BLESS").is_ok_and(|value| value == "1")
}

/// Compares all files before it fails, so that one run shows every change.
#[derive(Default)]
struct Golden {
    changed: Vec<String>,
}

impl Golden {
    fn text(&mut self, name: &str, text: &str) {
        if blessing() {
            // Whole at once: the tests beside this one read the same files.
            let mut whole = tempfile::NamedTempFile::new_in(file("")).unwrap();
            whole.write_all(text.as_bytes()).unwrap();
            whole.persist(file(name)).unwrap();
        }
        let there = std::fs::read_to_string(file(name)).unwrap_or_default();
        if there != text {
            self.changed.push(format!("tests/golden/{name}\n--- golden\n{there}\n--- now\n{text}"));
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        let text: String = bytes.chunks(48).map(|line| hex(line) + "\n").collect();
        self.text(name, &text);
    }

    fn log(&mut self, log: &Log) {
        let (pack, evidence) = log.pack();
        self.text("root.vkey", &format!("{}\n", log.root));
        self.text("checkpoint", &log.checkpoint());
        self.text("EVIDENCE", &evidence);
        self.bytes("pack.evidence.hex", &pack);
    }

    fn done(self, message: &str) {
        assert!(self.changed.is_empty(), "{}\n\n{message}", self.changed.join("\n"));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn unhex(name: &str) -> Vec<u8> {
    let text: String = std::fs::read_to_string(file(name)).unwrap().split_whitespace().collect();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn origin() -> String {
    key::origin("countersign.example", LogId::from_bytes(id(47))).unwrap()
}

fn stream(kind: StreamKind) -> Stream {
    let id = match kind {
        StreamKind::Instance => InstanceId::from_bytes(id(44)).into(),
        StreamKind::Organization => OrgId::from_bytes(id(46)).into(),
        StreamKind::Log => LogId::from_bytes(id(47)).into(),
    };
    Stream { kind, id }
}

fn policy() -> PolicyDigests {
    PolicyDigests { kernel: digest(60), schema: digest(61), bundle: digest(62), catalogue: digest(63) }
}

/// A header with every field set, around a body.
fn header(body: Body) -> Header {
    let kinds = [StreamKind::Instance, StreamKind::Organization, StreamKind::Log];
    let home = kinds.into_iter().find(|kind| body.kind().belongs_in(*kind)).unwrap();
    Header {
        semantics: body.kind().since(),
        origin: origin(),
        stream: stream(home),
        sequence: 4_294_967_296,
        previous: Some(digest(64)),
        append: AppendPosition { index: 23, length: 64 },
        body,
        verdict: Some(Said {
            decision: Answer::NeedsApproval,
            rules: vec![name("four-eyes"), name("security-review")],
            error: true,
        }),
        determining: vec![vec![name("gate-merge"), name("permit-write")], Vec::new()],
        policy: Some(policy()),
        authority: AuthorityMode::FourEyes,
        actor: who(65),
        on_behalf_of: vec![who(66), who(67)],
        gateway: GatewayId::from_bytes(id(52)),
        boot: 41,
        key: [0xde, 0xad, 0xbe, 0xef],
        claimed: Timestamp(1_800_000_000_000),
        payloads: vec![
            PayloadRef { role: PayloadRole::Question, digest: digest(68), length: 23 },
            PayloadRef { role: PayloadRole::Shown, digest: digest(69), length: 70_000 },
        ],
        fields: vec![digest(70), digest(71)],
    }
}

/// The same with everything left out that may be.
fn bare(body: Body) -> Header {
    Header {
        sequence: 0,
        previous: None,
        append: AppendPosition { index: 0, length: 1 },
        verdict: None,
        determining: Vec::new(),
        policy: None,
        authority: AuthorityMode::Solo,
        on_behalf_of: Vec::new(),
        boot: 0,
        payloads: Vec::new(),
        fields: Vec::new(),
        ..header(body)
    }
}

#[test]
fn the_bytes_of_every_entry_kind_are_those_of_format_1() {
    let mut golden = Golden::default();
    let key = signing_key(3);
    let mut entries: Vec<(String, Header, bool)> = Vec::new();
    for kind in Kind::ALL {
        entries.push((format!("entry-{}.hex", kind.as_str()), header(full(*kind)), true));
    }
    for (text, body) in lean() {
        entries.push((format!("entry-{text}-lean.hex"), bare(body), true));
    }
    entries.push(("entry-sweep-unsigned.hex".to_owned(), bare(full(Kind::Sweep)), false));
    for (file, header, signed) in entries {
        let sealed = if signed { header.clone().sign(&key) } else { header.clone().unsigned() }.unwrap();
        golden.bytes(&file, &sealed.leaf);
        let read = Entry::parse(&sealed.leaf).unwrap();
        assert_eq!(read.header, header, "{file}");
        assert_eq!(read.verify(&sealed.leaf, &key.verifying_key()).is_ok(), signed, "{file}");
    }
    golden.done(FORMAT);
}

#[test]
fn the_numbers_of_every_enum_and_kind_are_those_of_format_1() {
    let mut golden = Golden::default();
    golden.text("enums.txt", &enums::numbers());
    golden.done(FORMAT);
}

#[test]
fn what_is_hashed_and_signed_beside_entries_is_that_of_format_1() {
    let mut out = String::new();
    let salt = payload::Salt(digest(80).0);
    let sealed = payload::seal(&salt, b"content");
    let field_salt = payload::field_salt(&salt, "input/amount");
    let mut line = |what: &str, bytes: &[u8]| writeln!(out, "{what} {}", hex(bytes)).unwrap();
    line("payload", &sealed);
    line("payload digest", &payload::digest(&sealed).0);
    let domains = [
        payload::ACTION,
        payload::JOB,
        payload::SHOWN,
        payload::OUTPUT,
        payload::DELTA,
        payload::QUESTION,
        payload::GRANT,
        payload::IDEMPOTENCY,
    ];
    for domain in domains {
        line(domain, &payload::salted(domain, &salt, b"content").0);
    }
    line("field salt", &field_salt.0);
    line("field commitment", &payload::field_commitment(&field_salt, "input/amount", b"12").0);
    let gateway = key::gateway_name(&origin(), GatewayId::from_bytes(id(52)));
    line("certificate", &key::certificate_bytes(&origin(), &gateway, &digest(53).0));
    line("key change", &key::change_bytes(&origin(), KeyChange::Revoked, KeyRole::Gateway, &digest(55).0));
    line("key id", &key::key_id(&gateway, &signing_key(3).verifying_key()));
    let mut golden = Golden::default();
    golden.text("digests.txt", &out);
    golden.done(FORMAT);
}

#[test]
fn what_an_approver_signs_is_that_of_version_1() {
    let (mut out, key) = (String::new(), signing_key(4));
    let Body::Decision(decision) = full(Kind::Decision) else { unreachable!() };
    let statement = Statement::of(&origin(), &decision);
    let bare = Statement { items: Vec::new(), delta: None, shown: None, ..statement.clone() };
    let public = Bytes32(key.verifying_key().to_bytes());
    let mut line = |what: &str, bytes: &[u8]| writeln!(out, "{what} {}", hex(bytes)).unwrap();
    line("key id", &assertion::key_id(&public).0);
    line("statement", &statement.bytes());
    line("signature", &statement.sign(&key).signature);
    line("bare statement", &bare.bytes());
    let Body::Lift(lift) = full(Kind::Lift) else { unreachable!() };
    line("lift statement", &LiftStatement::of(&origin(), &lift).bytes());
    line("possession", &assertion::possession_bytes(&origin(), who(76), &public));
    line("proof", &assertion::possess(&key, &origin(), who(76)).0);
    let mut golden = Golden::default();
    golden.text("assertion.txt", &out);
    golden.done(FORMAT);
}

/// A whole lawful log: genesis, a boot, one governed action from creation to completion, and every kind that stands in the
/// organization's stream.
struct Log {
    root: VKey,
    leaves: Vec<Vec<u8>>,
    payloads: Vec<Vec<u8>>,
    semantics: u16,
}

impl Log {
    /// As version 1 wrote it.
    fn new() -> Self {
        let root_key = signing_key(1);
        let root = VKey::new(&key::root_name(&origin()), root_key.verifying_key()).unwrap();
        let mut log = Self { root, leaves: Vec::new(), payloads: Vec::new(), semantics: 1 };
        let Body::Genesis(genesis) = full(Kind::Genesis) else { unreachable!() };
        let genesis = Genesis {
            root_keys: vec![Bytes32(root_key.verifying_key().to_bytes())],
            root_threshold: 1,
            log_key: Bytes32(signing_key(2).verifying_key().to_bytes()),
            signatures: SignatureMode::PerEntry,
            durability: Durability::Journal,
            ..genesis
        };
        let first = Header { key: log.root.id(), ..bare(genesis.into()) };
        log.leaves.push(first.sign(&root_key).unwrap().leaf);
        let gateway = GatewayId::from_bytes(id(52));
        let public = signing_key(3).verifying_key();
        let name = key::gateway_name(&origin(), gateway);
        let boot = Boot {
            gateway,
            boot: 1,
            key: Bytes32(public.to_bytes()),
            certificate: Bytes64(key::certify(&signing_key(2), &origin(), &name, &public)),
            certified_by: CertifiedBy::Log,
            size_seen: 1,
            sandbox_level: Some(2),
        };
        log.append(StreamKind::Log, vec![Draft::new(boot, who(0))]);
        let of_version_1 = |kind: &&Kind| kind.belongs_in(StreamKind::Organization) && kind.since() == 1;
        for kind in Kind::ALL.iter().filter(of_version_1) {
            log.append(StreamKind::Organization, vec![Draft::new(full(*kind), who(65))]);
        }
        log.governed_action();
        log
    }

    fn append(&mut self, kind: StreamKind, drafts: Vec<Draft>) {
        let of_stream = |leaf: &Vec<u8>| Entry::parse(leaf).unwrap().header.stream == stream(kind);
        let last = self.leaves.iter().filter(|leaf| of_stream(leaf)).count();
        let previous = self.leaves.iter().rfind(|leaf| of_stream(leaf));
        let gateway = GatewayId::from_bytes(id(52));
        let key = signing_key(3);
        let frame = Frame {
            origin: origin(),
            stream: stream(kind),
            sequence: last as u64,
            previous: previous.map(|leaf| Digest(leaf_hash(leaf).0)),
            policy: Some(policy()),
            authority: AuthorityMode::Solo,
            gateway,
            boot: 1,
            key: key::key_id(&key::gateway_name(&origin(), gateway), &key.verifying_key()),
            claimed: Timestamp(1_800_000_000_000 + 10 * self.leaves.len() as u64),
        };
        let mut previous = frame.previous;
        for entry in seal(&frame, drafts, Some(&key)).unwrap() {
            let entry = Header { semantics: self.semantics, previous, ..entry.header }.sign(&key).unwrap();
            previous = Some(Digest(entry.hash.0));
            self.leaves.push(entry.leaf);
        }
    }

    fn governed_action(&mut self) {
        let edge = |from, to, cause| Edge { from, to, cause, action: None, objection: false };
        let Body::Created(created) = full(Kind::Created) else { unreachable!() };
        let Body::Permit(permit) = full(Kind::Permit) else { unreachable!() };
        let Body::Start(start) = full(Kind::Start) else { unreachable!() };
        let Body::Outcome(outcome) = full(Kind::Outcome) else { unreachable!() };
        let allowed = |body: Body| Draft {
            verdict: Some(Said::allow()),
            determining: vec![vec![name("permit-write")]],
            ..Draft::new(body, who(5))
        };
        let sealed = payload::seal(&payload::Salt(digest(80).0), b"{\"path\":\"src/lib.rs\"}");
        let input = PayloadRef {
            role: PayloadRole::Input,
            digest: payload::digest(&sealed),
            length: u32::try_from(sealed.len()).unwrap(),
        };
        self.payloads.push(sealed);
        let created = Created { acting_kind: PrincipalKind::Agent, ..created };
        let started = edge(State::Created, State::Running, Cause::Start);
        self.append(StreamKind::Instance, vec![allowed(created.into()), allowed(started.into())]);
        let permit = Permit { item: None, question: QuestionKind::CallTool, ..permit };
        let start = Start { by: StartedBy::Agent, ..start };
        let permitted = Draft { payloads: vec![input], ..allowed(permit.into()) };
        self.append(StreamKind::Instance, vec![permitted, allowed(start.into())]);
        let outcome = Outcome { supersedes: false, ..outcome };
        self.append(StreamKind::Instance, vec![Draft::new(outcome, who(5))]);
        let completed = edge(State::Running, State::Completed, Cause::Complete);
        self.append(StreamKind::Instance, vec![allowed(completed.into())]);
    }

    fn tree(&self) -> Tree {
        self.leaves.iter().map(|leaf| leaf_hash(leaf)).collect()
    }

    fn checkpoint(&self) -> String {
        let tree = self.tree();
        Checkpoint { origin: origin(), size: tree.size(), root: tree.root().unwrap() }.sign(&signing_key(2))
    }

    fn pack(&self) -> (Vec<u8>, String) {
        let checkpoint = self.checkpoint();
        let origin = origin();
        let contents = Contents {
            origin: &origin,
            checkpoint: &checkpoint,
            leaves: self.leaves.iter().map(Vec::as_slice).collect(),
            payloads: self.payloads.iter().map(|p| (payload::digest(p).to_string(), p.as_slice())).collect(),
            ..Contents::default()
        };
        let mut evidence = String::new();
        let pack = write(&contents, |text| {
            evidence = note::sign(text, &origin, &signing_key(2));
            evidence.clone()
        });
        (pack.unwrap(), evidence)
    }
}

#[test]
fn checkpoint_receipt_evidence_and_pack_are_those_of_version_1() {
    let log = Log::new();
    let trusted = TrustedLog::new(&log.root, &log.leaves[0]).unwrap();
    let checkpoint = Arc::new(trusted.checkpoint(&log.checkpoint()).unwrap());
    let tree = log.tree();
    let is_start = |leaf: &Vec<u8>| matches!(Entry::parse(leaf).unwrap().header.body, Body::Start(_));
    let index = log.leaves.iter().position(is_start).unwrap();
    let leaf = &log.leaves[index];
    let receipt = Receipt {
        index: index as u64,
        leaf_hash: leaf_hash(leaf),
        proof: tree.inclusion(index as u64, tree.size()).unwrap(),
        checkpoint,
    };
    let mut golden = Golden::default();
    golden.text("receipt.tlog-proof", &receipt.tlog_proof());
    golden.log(&log);
    Committed::<Start>::check(leaf.clone().into(), receipt).unwrap();
    golden.done(FORMAT);
}

/// Read from the files alone: whatever this program becomes, it verifies what version 1 wrote.
#[test]
fn a_pack_of_version_1_is_valid_for_ever() {
    if blessing() {
        Golden::default().log(&Log::new());
    }
    let root: VKey = std::fs::read_to_string(file("root.vkey")).unwrap().trim().parse().unwrap();
    let held = std::fs::read_to_string(file("checkpoint")).unwrap();
    let report = verify(&root, &unhex("pack.evidence.hex"), Some(&held));
    assert_eq!(report.verdict, Verdict::Valid, "{:?}\n{FORMAT}", report.problems);
    let mut golden = Golden::default();
    golden.text("report.txt", &report.render());
    golden.text("report.json", &(serde_json::to_string_pretty(&report).unwrap() + "\n"));
    golden.done(WORDS);
}
