//! A log that its organization has opened is read by anybody, and its root can be worked out from what is read; one that it
//! has not opened is not there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ledger_merkle::{BundleCoord, Hash, TileCoord, Tree, decode_bundle, decode_tile, leaf_hash};
use countersign_tests_testkit::Gateway;
use rs_merkle::{Hasher, MerkleTree};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// RFC 6962 for a tree by somebody else, with hashes that are not this project's either.
#[derive(Clone)]
struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update([0]).chain_update(data).finalize().into()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        right.map_or(*left, |right| {
            Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
        })
    }
}

#[test]
fn an_opened_log_is_read_by_anybody_and_its_root_follows_from_its_entries() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    gateway.propose(&agent, &instance, "notes.append", &json!({ "text": "not for everybody" })).expect_status(200);
    let log = format!("/log/{}", gateway.tenants()[0].log);
    let entries = u16::try_from(gateway.entries(&dana).len()).unwrap();
    let size = 9.min(entries);
    let bundle = BundleCoord::new(0, size).unwrap();
    let hashes = TileCoord::new(0, 0, size).unwrap();
    let paths = ["checkpoint".to_owned(), hashes.path(), bundle.path()].map(|path| format!("{log}/{path}"));
    let elsewhere = format!("/log/log_{}/checkpoint", "0".repeat(32));
    for path in &paths {
        let hidden = gateway.get(path, "");
        assert_eq!((hidden.status, hidden.code()), (404, gateway.get(&elsewhere, "").code()), "{path}");
        gateway.get(path, &dana).expect_status(200);
    }

    let open = |value: bool| {
        let body = json!({ "value": value }).to_string().into_bytes();
        gateway.send("PUT", "/api/v1/settings/log.public_read", &dana, &[], Some(body)).expect_status(200);
    };
    open(true);
    for path in &paths {
        gateway.get(path, "").expect_status(200);
    }
    gateway.get(&elsewhere, "").expect_status(404);

    let note = String::from_utf8(gateway.get(&paths[0], "").bytes).unwrap();
    let mut lines = note.lines();
    assert!(gateway.root_vkey().starts_with(lines.next().unwrap()), "the origin is that of the root key: {note}");
    let size: u16 = lines.next().unwrap().parse().unwrap();
    assert!((entries..256).contains(&size), "one bundle: {note}");
    let root: [u8; 32] = STANDARD.decode(lines.next().unwrap()).unwrap().try_into().unwrap();

    let bundle = BundleCoord::new(0, size).unwrap();
    let bytes = gateway.get(&format!("{log}/{}", bundle.path()), "").expect_status(200).bytes;
    let read = decode_bundle(bundle, &bytes).unwrap();
    let mut ours = Tree::new();
    for entry in &read {
        ours.push_leaf(entry);
    }
    assert_eq!(ours.root().unwrap(), Hash(root), "the checkpoint signs these entries");
    let leaves: Vec<[u8; 32]> = read.iter().map(|entry| Rfc6962::hash(entry)).collect();
    assert_eq!(MerkleTree::<Rfc6962>::from_leaves(&leaves).root(), Some(root), "and another's tree says so too");
    let tile = TileCoord::new(0, 0, size).unwrap();
    let bytes = gateway.get(&format!("{log}/{}", tile.path()), "").expect_status(200).bytes;
    let hashes = decode_tile(tile, &bytes).unwrap();
    assert_eq!(hashes, read.iter().map(|entry| leaf_hash(entry)).collect::<Vec<_>>(), "tile and entries agree");
    let words = b"not for everybody";
    assert!(!read.iter().any(|entry| entry.windows(words.len()).any(|part| part == words)), "no payload is in it");

    open(false);
    assert_eq!(gateway.get(&paths[0], "").status, 404, "and it is closed again");
}
