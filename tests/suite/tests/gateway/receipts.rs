//! What an auditor is handed over HTTP, receipts and proofs, holds under the root key alone; with one bit flipped it does not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ledger_entry::TrustedLog;
use countersign_ledger_merkle::{
    BundleCoord, Hash, Tree, decode_bundle, leaf_hash, verify_consistency, verify_inclusion,
};
use countersign_tests_testkit::Gateway;
use serde_json::{Value, json};

/// The leaves of the log as it is now, below a bundle's 256.
pub(crate) fn leaves(gateway: &Gateway, token: &str) -> Vec<Vec<u8>> {
    let log = format!("/log/{}", gateway.tenants()[0].log);
    let note = String::from_utf8(gateway.get(&format!("{log}/checkpoint"), token).expect_status(200).bytes).unwrap();
    let bundle = BundleCoord::new(0, note.lines().nth(1).unwrap().parse().unwrap()).unwrap();
    let bytes = gateway.get(&format!("{log}/{}", bundle.path()), token).expect_status(200).bytes;
    decode_bundle(bundle, &bytes).unwrap().into_iter().map(<[u8]>::to_vec).collect()
}

/// The root of the first leaves, worked out from them.
fn root(leaves: &[Vec<u8>], size: u64) -> Hash {
    let mut tree = Tree::new();
    for leaf in &leaves[..usize::try_from(size).unwrap()] {
        tree.push_leaf(leaf);
    }
    tree.root().unwrap()
}

/// Hashes in base64, as an answer has them.
fn hashes(list: &Value) -> Option<Vec<Hash>> {
    let hash = |text: &Value| Some(Hash(STANDARD.decode(text.as_str()?).ok()?.try_into().ok()?));
    list.as_array()?.iter().map(hash).collect()
}

/// Whether a receipt proves the leaf to somebody who has the root key and the genesis leaf.
fn holds(log: &TrustedLog, receipt: &Value, leaf: &[u8]) -> bool {
    let hash = leaf_hash(leaf);
    let Some(proof) = hashes(&receipt["proof"]) else { return false };
    let Ok(signed) = log.checkpoint(receipt["checkpoint"].as_str().unwrap()) else { return false };
    let at = signed.checkpoint();
    receipt["leaf_hash"] == hash.to_string()
        && verify_inclusion(&hash, receipt["index"].as_u64().unwrap(), at.size, &proof, &at.root).is_ok()
}

/// One bit of base64 bytes, the other way round.
fn flipped(text: &str, byte: usize) -> String {
    let mut bytes = STANDARD.decode(text).unwrap();
    bytes[byte] ^= 1;
    STANDARD.encode(bytes)
}

/// The same with one bit of each of its parts the other way round: index, leaf hash, each hash of the proof, size and root of
/// the checkpoint, its signature.
fn damaged(receipt: &Value) -> Vec<Value> {
    let with = |name: &str, value: Value| {
        let mut copy = receipt.clone();
        copy[name] = value;
        copy
    };
    let mut all = vec![with("index", json!(receipt["index"].as_u64().unwrap() ^ 1))];
    let mut digits = receipt["leaf_hash"].as_str().unwrap().to_owned();
    let first = u8::from_str_radix(&digits[..1], 16).unwrap() ^ 1;
    digits.replace_range(..1, &format!("{first:x}"));
    all.push(with("leaf_hash", json!(digits)));
    for (place, hash) in receipt["proof"].as_array().unwrap().iter().enumerate() {
        let mut proof = receipt["proof"].clone();
        proof[place] = json!(flipped(hash.as_str().unwrap(), 7));
        all.push(with("proof", proof));
    }
    let note = receipt["checkpoint"].as_str().unwrap();
    let lines: Vec<&str> = note.lines().collect();
    let changed = |place: usize, line: &str| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        line.clone_into(&mut lines[place]);
        with("checkpoint", json!(lines.join("\n") + "\n"))
    };
    all.push(changed(1, &(lines[1].parse::<u64>().unwrap() ^ 1).to_string()));
    all.push(changed(2, &flipped(lines[2], 7)));
    for (place, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with('\u{2014}')) {
        let (signer, signature) = line.rsplit_once(' ').unwrap();
        // Four bytes name the key.
        all.push(changed(place, &format!("{signer} {}", flipped(signature, 40))));
    }
    all
}

/// A `.tlog-proof` file as a receipt.
fn parsed(file: &str, leaf_hash: &Value) -> Value {
    let (head, note) = file.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("c2sp.org/tlog-proof@v1"));
    let index: u64 = lines.next().unwrap().strip_prefix("index ").unwrap().parse().unwrap();
    json!({ "index": index, "leaf_hash": leaf_hash, "proof": lines.collect::<Vec<_>>(), "checkpoint": note })
}

#[test]
fn receipts_and_proofs_as_given_verify_under_the_root_key_and_one_flipped_bit_fails() {
    let gateway = Gateway::start();
    let (dana, decider) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let noted = gateway.propose(&agent, &instance, "notes.append", &json!({ "text": "a" })).expect_status(200).json();
    let refused = gateway.propose(&agent, &instance, "repo.teleport", &json!({})).expect_status(403).json();
    let merge = json!({ "branch": "main", "message": "fix" });
    let waiting = gateway.propose(&agent, &instance, "repo.merge", &merge).expect_status(202).json();
    let path = format!("/api/v1/gates/{}/decisions", waiting["gate"]["id"].as_str().unwrap());
    let decided = gateway.post(&path, &decider, &json!({ "decision": "REJECT" })).expect_status(200).json();
    let frozen = gateway.post("/api/v1/freezes", &dana, &json!({ "team": "nobody" })).expect_status(200).json();

    // What the auditor was given is the root key; the first leaf says the rest, and is checked under it.
    let leaves = leaves(&gateway, &dana);
    let log = TrustedLog::new(&gateway.root_vkey().parse().unwrap(), &leaves[0]).unwrap();
    let leaf = |receipt: &Value| &leaves[usize::try_from(receipt["index"].as_u64().unwrap()).unwrap()];
    let mut sizes = Vec::new();
    for answer in [noted, refused, waiting, decided, frozen] {
        let receipt = &answer["receipt"];
        assert!(holds(&log, receipt, leaf(receipt)), "{answer}");
        for copy in damaged(receipt) {
            assert!(!holds(&log, &copy, leaf(receipt)), "taken for good: {copy}");
        }
        let signed = log.checkpoint(receipt["checkpoint"].as_str().unwrap()).unwrap();
        sizes.push((signed.checkpoint().size, signed.checkpoint().root));
    }
    for (index, leaf) in leaves.iter().enumerate() {
        let path = format!("/api/v1/audit/receipts/{index}");
        let receipt = gateway.get(&path, &dana).expect_status(200).json();
        assert_eq!(receipt["index"], index);
        assert!(holds(&log, &receipt, leaf), "{receipt}");
        let file = gateway.send("GET", &path, &dana, &[("accept", "text/plain")], None).expect_status(200);
        assert!(file.header("content-type").unwrap().starts_with("text/plain"));
        let file = parsed(&String::from_utf8(file.bytes).unwrap(), &receipt["leaf_hash"]);
        assert_eq!(file["index"], index);
        assert!(holds(&log, &file, leaf), "{file}");
        if index == 3 {
            for copy in damaged(&file).into_iter().chain(damaged(&receipt)) {
                assert!(!holds(&log, &copy, leaf), "taken for good: {copy}");
            }
        }
    }

    let all = u64::try_from(leaves.len()).unwrap();
    let proof = |path: &str| hashes(&gateway.get(path, &dana).expect_status(200).json()["proof"]).unwrap();
    for (index, size) in [(3, 4), (3, 7), (3, all), (0, 1), (all - 1, all)] {
        let (hash, root) = (leaf_hash(&leaves[usize::try_from(index).unwrap()]), root(&leaves, size));
        let mut given = proof(&format!("/api/v1/audit/proofs/inclusion?index={index}&size={size}"));
        verify_inclusion(&hash, index, size, &given, &root).unwrap();
        for place in 0..given.len() {
            given[place].0[7] ^= 1;
            assert!(verify_inclusion(&hash, index, size, &given, &root).is_err(), "hash {place} of {index} in {size}");
            given[place].0[7] ^= 1;
        }
    }
    // From the checkpoint of the first answer to that of the last: nothing was taken back in between.
    let ((old, old_root), (new, new_root)) = (sizes[0], *sizes.last().unwrap());
    assert!(old < new, "{old} and {new}");
    assert_eq!((old_root, new_root), (root(&leaves, old), root(&leaves, new)), "signed is what the leaves are");
    let mut given = proof(&format!("/api/v1/audit/proofs/consistency?old={old}&new={new}"));
    verify_consistency(old, new, &given, &old_root, &new_root).unwrap();
    assert!(!given.is_empty());
    for place in 0..given.len() {
        given[place].0[7] ^= 1;
        assert!(verify_consistency(old, new, &given, &old_root, &new_root).is_err(), "hash {place}");
        given[place].0[7] ^= 1;
    }
}
