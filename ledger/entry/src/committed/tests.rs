//! Trust in a log, its checkpoints, and facts that are in it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use countersign_gateway_model::{Digest, GatewayId, PermitId, Pseudonym, Timestamp};
use countersign_ledger_merkle::{ProofError, Tree};
use ed25519_dalek::SigningKey;

use super::*;
use crate::append::{Draft, Frame, seal};
use crate::body::{AuthorityMode, Freeze, Start, StartedBy, Sweep};
use crate::entry::{AppendPosition, Stream};
use crate::{Bytes32, SEMANTICS};

fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn genesis(change: impl FnOnce(&mut Header, &mut Genesis)) -> Vec<u8> {
    let log = LogId::from_bytes([0x10; 16]);
    let origin = key::origin("countersign.example", log).unwrap();
    let root = signing_key(1).verifying_key();
    let mut body = Genesis {
        org: OrgId::from_bytes([0x0a; 16]),
        log,
        root_keys: vec![Bytes32(root.to_bytes())],
        root_threshold: 1,
        root_document: Digest([9; 32]),
        log_key: Bytes32(signing_key(2).verifying_key().to_bytes()),
        signatures: SignatureMode::PerEntry,
        durability: Durability::Journal,
        demo: false,
    };
    let mut header = Header {
        semantics: SEMANTICS,
        stream: Stream { kind: StreamKind::Log, id: log.into() },
        sequence: 0,
        previous: None,
        append: AppendPosition { index: 0, length: 1 },
        body: Body::Genesis(body.clone()),
        verdict: None,
        determining: Vec::new(),
        policy: None,
        authority: AuthorityMode::Solo,
        actor: Pseudonym::SYSTEM,
        on_behalf_of: Vec::new(),
        gateway: GatewayId::from_bytes([0x67; 16]),
        boot: 0,
        key: key::key_id(&key::root_name(&origin), &root),
        claimed: Timestamp(0),
        payloads: Vec::new(),
        fields: Vec::new(),
        origin,
    };
    change(&mut header, &mut body);
    if matches!(header.body, Body::Genesis(_)) {
        header.body = Body::Genesis(body);
    }
    header.sign(&signing_key(1)).unwrap().leaf
}

fn root() -> VKey {
    let origin = key::origin("countersign.example", LogId::from_bytes([0x10; 16])).unwrap();
    VKey::new(&key::root_name(&origin), signing_key(1).verifying_key()).unwrap()
}

fn log() -> TrustedLog {
    TrustedLog::new(&root(), &genesis(|_, _| {})).unwrap()
}

#[test]
fn a_log_is_trusted_through_its_genesis() {
    let log = log();
    assert_eq!(log.root(), &root());
    assert_eq!(log.log().key(), &signing_key(2).verifying_key());
    assert_eq!(log.log().name(), log.origin());
    assert_eq!((log.id(), log.org()), (LogId::from_bytes([0x10; 16]), OrgId::from_bytes([0x0a; 16])));
}

/// What was changed, how, and how it is refused.
type Refused = (&'static str, fn(&mut Header, &mut Genesis), fn(&EntryError) -> bool);

#[test]
fn a_genesis_that_the_root_key_does_not_vouch_for_is_refused() {
    let cases: [Refused; 9] = [
        ("a later entry", |h, _| h.sequence = 1, |e| matches!(e, EntryError::Genesis(_))),
        ("a linked entry", |h, _| h.previous = Some(Digest([1; 32])), |e| matches!(e, EntryError::Genesis(_))),
        (
            "another stream",
            |h, _| h.stream.id = LogId::from_bytes([1; 16]).into(),
            |e| matches!(e, EntryError::Genesis(_)),
        ),
        ("another log", |_, g| g.log = LogId::from_bytes([1; 16]), |e| matches!(e, EntryError::Genesis(_))),
        ("another origin", |h, _| h.origin = "x/10".to_owned(), |e| matches!(e, EntryError::OtherLog { .. })),
        ("a boot", |h, _| h.boot = 1, |e| matches!(e, EntryError::Genesis(_))),
        ("another key id", |h, _| h.key = [0; 4], |e| matches!(e, EntryError::Genesis(_))),
        ("without its key", |_, g| g.root_keys = vec![Bytes32([7; 32])], |e| matches!(e, EntryError::Genesis(_))),
        ("a weak log key", |_, g| g.log_key = Bytes32([0; 32]), |e| matches!(e, EntryError::PublicKey(_))),
    ];
    for (what, change, expected) in cases {
        let result = TrustedLog::new(&root(), &genesis(change));
        assert!(result.as_ref().is_err_and(expected), "{what}: {result:?}");
    }
    let mut flipped = genesis(|_, _| {});
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    assert!(matches!(TrustedLog::new(&root(), &flipped), Err(EntryError::Signature("entry"))));
    let other = VKey::new(root().name(), signing_key(9).verifying_key()).unwrap();
    assert!(matches!(TrustedLog::new(&other, &genesis(|_, _| {})), Err(EntryError::Signature("entry"))));
    let renamed = VKey::new("other/root", signing_key(1).verifying_key()).unwrap();
    assert!(TrustedLog::new(&renamed, &genesis(|_, _| {})).is_err());
    // An origin that is prefixed by the right name, with the id of another log at its end.
    let prefixed = VKey::new("countersign.example/x/root", signing_key(1).verifying_key()).unwrap();
    let leaf = genesis(|h, _| {
        h.origin = "countersign.example/x".to_owned();
        h.key = key::key_id("countersign.example/x/root", &signing_key(1).verifying_key());
    });
    assert!(matches!(TrustedLog::new(&prefixed, &leaf), Err(EntryError::Genesis(_))));
}

#[test]
fn a_checkpoint_is_the_logs_and_signed_by_its_key() {
    let log = log();
    let checkpoint = Checkpoint { origin: log.origin().to_owned(), size: 3, root: Hash([1; 32]) };
    let good = log.checkpoint(&checkpoint.sign(&signing_key(2))).unwrap();
    assert_eq!((good.checkpoint(), good.org()), (&checkpoint, log.org()));
    assert_eq!(good.note(), checkpoint.sign(&signing_key(2)));
    let by_another = checkpoint.sign(&signing_key(9));
    assert!(matches!(log.checkpoint(&by_another), Err(EntryError::NotSignedBy(_))));
    let foreign = Checkpoint { origin: "x".to_owned(), ..checkpoint.clone() };
    let signed = crate::note::sign(&foreign.text(), log.origin(), &signing_key(2));
    assert!(matches!(log.checkpoint(&signed), Err(EntryError::OtherLog { .. })));
    let changed = checkpoint.sign(&signing_key(2)).replace("\n3\n", "\n4\n");
    assert!(matches!(log.checkpoint(&changed), Err(EntryError::Signature("note"))));
}

/// A log of genesis, a start and a freeze, and what proves the start.
fn with_a_start(origin: &str) -> (Vec<Arc<[u8]>>, Tree) {
    let start = Start { permit: PermitId::from_bytes([5; 16]), not_after: Timestamp(9), by: StartedBy::Agent };
    let frame = |kind, id: [u8; 16]| Frame {
        origin: origin.to_owned(),
        stream: Stream { kind, id: OrgId::from_bytes(id).into() },
        sequence: 0,
        previous: None,
        policy: None,
        authority: AuthorityMode::Solo,
        gateway: GatewayId::from_bytes([0x67; 16]),
        boot: 1,
        key: [0; 4],
        claimed: Timestamp(0),
    };
    let draft = |body: Body| vec![Draft::new(body, Pseudonym::SYSTEM)];
    let key = signing_key(3);
    let mut leaves: Vec<Arc<[u8]>> = vec![genesis(|_, _| {}).into()];
    for (kind, body) in
        [(StreamKind::Instance, start.into()), (StreamKind::Organization, Freeze { lift: false, team: None }.into())]
    {
        leaves.extend(seal(&frame(kind, [1; 16]), draft(body), Some(&key)).unwrap().into_iter().map(|e| e.leaf.into()));
    }
    let tree = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    (leaves, tree)
}

fn receipt(log: &TrustedLog, tree: &Tree, index: u64) -> Receipt {
    let size = tree.size();
    let checkpoint = Checkpoint { origin: log.origin().to_owned(), size, root: tree.root().unwrap() };
    Receipt {
        index,
        leaf_hash: Hash([0; 32]),
        proof: tree.inclusion(index, size).unwrap(),
        checkpoint: Arc::new(log.checkpoint(&checkpoint.sign(&signing_key(2))).unwrap()),
    }
}

#[test]
fn a_fact_is_committed_only_at_its_index_in_its_log_and_as_its_kind() {
    let log = log();
    let (leaves, tree) = with_a_start(log.origin());
    let committed = Committed::<Start>::check(leaves[1].clone(), receipt(&log, &tree, 1)).unwrap();
    assert_eq!(committed.fact().permit, PermitId::from_bytes([5; 16]));
    assert_eq!((committed.leaf(), committed.org()), (&leaves[1], log.org()));
    assert_eq!(committed.receipt().leaf_hash, leaf_hash(&leaves[1]), "computed, whatever the receipt says");
    assert!(matches!(committed.header().body, Body::Start(_)));

    let at = |index| receipt(&log, &tree, index);
    let not_included = |leaf: &Arc<[u8]>, receipt, what: &str| {
        let result = Committed::<Start>::check(leaf.clone(), receipt);
        assert!(matches!(result, Err(EntryError::NotIncluded(_))), "{what}");
    };
    not_included(&leaves[1], at(0), "the proof of another index");
    not_included(&leaves[1], Receipt { index: 0, ..at(1) }, "another index");
    not_included(&leaves[1], Receipt { index: 2, ..at(1) }, "another index");
    not_included(&leaves[1], Receipt { index: u64::MAX, ..at(1) }, "an index outside");
    not_included(&leaves[2], at(1), "another leaf");
    let mut flipped = leaves[1].to_vec();
    flipped[40] ^= 1;
    not_included(&flipped.into(), at(1), "a changed leaf");
    let mut short = at(1);
    short.proof.pop();
    not_included(&leaves[1], short, "a proof that is too short");
    let mut long = at(1);
    long.proof.push(Hash([0; 32]));
    not_included(&leaves[1], long, "a proof that is too long");
    let smaller: Tree = leaves[..1].iter().map(|leaf| leaf_hash(leaf)).collect();
    let before = Receipt { checkpoint: receipt(&log, &smaller, 0).checkpoint, ..at(1) };
    assert!(matches!(
        Committed::<Start>::check(leaves[1].clone(), before),
        Err(EntryError::NotIncluded(ProofError::IndexBeyondSize { .. }))
    ));

    let other_kind = Committed::<Sweep>::check(leaves[1].clone(), at(1));
    assert!(matches!(other_kind, Err(EntryError::OtherKind("start"))));
    assert!(matches!(Committed::<Start>::check(leaves[2].clone(), at(2)), Err(EntryError::OtherKind("freeze"))));

    // In this log's tree, and naming another.
    let (foreign, tree) = with_a_start("other/10");
    let result = Committed::<Start>::check(foreign[1].clone(), receipt(&log, &tree, 1));
    assert!(matches!(result, Err(EntryError::OtherLog { found, .. }) if found == "other/10"));
    // In the tree, and no entry at all.
    let tree: Tree = [leaf_hash(b"x")].into_iter().collect();
    let result = Committed::<Start>::check(b"x".to_vec().into(), receipt(&log, &tree, 0));
    assert!(matches!(result, Err(EntryError::Decode(_) | EntryError::NotCanonical)));
}

#[test]
fn a_receipt_is_a_tlog_proof() {
    let log = log();
    let (_, tree) = with_a_start(log.origin());
    let receipt = receipt(&log, &tree, 1);
    let text = receipt.tlog_proof();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("c2sp.org/tlog-proof@v1"));
    assert_eq!(lines.next(), Some("index 1"));
    for hash in &receipt.proof {
        assert_eq!(lines.next(), Some(STANDARD.encode(hash.0).as_str()));
    }
    assert_eq!(lines.next(), Some(""));
    assert!(text.ends_with(receipt.checkpoint.note()));
    log.checkpoint(text.split_once("\n\n").unwrap().1).unwrap();
}
