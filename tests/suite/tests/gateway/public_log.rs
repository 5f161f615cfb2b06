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

/// Whether the bytes have the word in them.
fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|part| part == word.as_bytes())
}

#[test]
fn no_word_of_a_person_or_an_agent_is_in_any_leaf_nor_in_a_pack_that_discloses_nothing() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "kuckucksuhr");
    let approver = crate::glass::person(&gateway, &dana, "rumpelstilz", "APPROVER");
    gateway.workflow(&dana, "repair");
    let body = json!({
        "workflow": "repair", "agent": "kuckucksuhr", "accountable": "rumpelstilz", "labels": { "bettwaesche": "holle" },
    });
    let made = gateway.post_once("/api/v1/instances", &dana, "siebenschlaefer", &body).expect_status(201).json();
    let instance = made["instance"]["id"].as_str().unwrap();
    let note = json!({ "actions": [{ "tool": "notes.append", "input": { "text": "schneewittchen" } }] });
    let noted = gateway.post_once(&format!("/api/v1/instances/{instance}/actions"), &agent, "froschkoenig", &note);
    let action = noted.expect_status(200).json()["actions"][0]["action"].as_str().unwrap().to_owned();
    gateway.post(&format!("/api/v1/actions/{action}/start"), &agent, &json!({})).expect_status(200);
    let outcome = json!({ "outcome": "succeeded", "output": { "commit": "dornroeschen" } });
    gateway.post(&format!("/api/v1/actions/{action}/outcome"), &agent, &outcome).expect_status(200);
    gateway
        .propose(&agent, instance, "repo.read", &json!({ "path": "sesamoeffnedich/credentials" }))
        .expect_status(403);
    let merge = json!({ "branch": "hagebuttenstrauch", "message": "hexenhaus" });
    let waiting = gateway.propose(&agent, instance, "repo.merge", &merge).expect_status(202).json();
    let path = format!("/api/v1/gates/{}", waiting["gate"]["id"].as_str().unwrap());
    let shown = gateway.get(&path, &approver).expect_status(200).json();
    let body = json!({ "decision": "APPROVE", "justification": "rapunzelhaar", "shown_digest": shown["shown_digest"] });
    // Whom an agent's owner may not approve for is another matter; a vote is on record either way.
    gateway.post(&format!("{path}/decisions"), &approver, &body);

    let leaves = crate::receipts::leaves(&gateway, &dana);
    let silent = gateway.get("/api/v1/audit/pack", &dana).expect_status(200).bytes;
    let disclosed = gateway.get("/api/v1/audit/pack?disclose=true", &dana).expect_status(200).bytes;
    let words = [
        "kuckucksuhr",
        "rumpelstilz",
        "bettwaesche",
        "siebenschlaefer",
        "schneewittchen",
        "froschkoenig",
        "dornroeschen",
        "sesamoeffnedich",
        "hagebuttenstrauch",
        "hexenhaus",
        "rapunzelhaar",
        "Dana",
    ];
    for word in words {
        assert!(!leaves.iter().any(|leaf| holds(leaf, word)), "`{word}` is in a leaf");
        assert!(!holds(&silent, word), "`{word}` is in a pack that discloses nothing");
    }
    // They are on record all the same: whoever may see them is shown them.
    for word in ["kuckucksuhr", "schneewittchen", "sesamoeffnedich", "hexenhaus"] {
        assert!(holds(&disclosed, word), "`{word}` is nowhere: this test looks for what nobody keeps");
    }
}
