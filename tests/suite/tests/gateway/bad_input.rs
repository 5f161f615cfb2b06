//! Bad input gets a clear error of its own and loses nothing: each with its problem code, a page, and no entry.
#![expect(clippy::disallowed_methods, reason = "a token expires in real time")]

use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use countersign_gateway_http::pages;
use countersign_ledger_verify::Code;
use countersign_tests_testkit::{Gateway, countersign, countersign_verify};
use flate2::{Compress, Compression, FlushCompress};
use serde_json::{Value, json};

fn entries(gateway: &Gateway, token: &str) -> usize {
    gateway.entries(token).len()
}

#[test]
fn bad_bodies_and_credentials_are_told_apart_and_leave_no_entry() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let agent = gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    let actions = format!("/api/v1/instances/{instance}/actions");
    let before = entries(&gateway, &dana);

    let forged = {
        let mut parts: Vec<String> = agent.split('.').map(str::to_owned).collect();
        let flipped = if parts[2].starts_with('A') { "B" } else { "A" };
        parts[2].replace_range(0..1, flipped);
        parts.join(".")
    };
    let huge = format!(r#"{{"actions":[{{"tool":"repo.read","input":{{"path":"{}"}}}}]}}"#, "x".repeat(2 << 20));
    let unknown = "/api/v1/instances/inst_00000000000000000000000000000000/actions";
    let good = r#"{"actions":[{"tool":"repo.read","input":{"path":"README"}}]}"#;
    for (what, path, token, body, status, code) in [
        ("malformed JSON", actions.as_str(), agent.as_str(), r#"{"actions":["#, 400, "body-malformed"),
        ("a duplicate key", &actions, &agent, r#"{"actions":[],"actions":[]}"#, 400, "body-duplicate-key"),
        ("an unknown field", &actions, &agent, r#"{"actions":[],"extra":1}"#, 422, "body-unknown-field"),
        ("a wrong type", &actions, &agent, r#"{"actions":7}"#, 422, "body-type-mismatch"),
        ("an over-size body", &actions, &agent, &huge, 413, "body-too-large"),
        ("an empty batch", &actions, &agent, r#"{"actions":[]}"#, 422, "batch-size"),
        ("an unknown instance", unknown, &agent, good, 404, "instance-not-found"),
        ("no credential", &actions, "", good, 401, "token-missing"),
        ("a malformed token", &actions, "abc", good, 401, "token-malformed"),
        ("a forged token", &actions, &forged, good, 401, "token-signature-invalid"),
        (
            "a wrong type in tool input",
            &actions,
            &agent,
            r#"{"actions":[{"tool":"repo.read","input":{"path":7}}]}"#,
            422,
            "input-invalid",
        ),
        (
            "an undeclared property in tool input",
            &actions,
            &agent,
            r#"{"actions":[{"tool":"repo.read","input":{"path":"a","extra":1}}]}"#,
            422,
            "input-invalid",
        ),
        (
            "a smuggled entity in tool input",
            &actions,
            &agent,
            r#"{"actions":[{"tool":"repo.read","input":{"path":{"__entity":{"type":"Role","id":"ADMIN"}}}}]}"#,
            422,
            "input-invalid",
        ),
    ] {
        let answer = gateway.send("POST", path, token, &[], Some(body.as_bytes().to_vec()));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{what}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        let page = gateway.get(answer.json()["type"].as_str().unwrap(), "").expect_status(200);
        assert!(String::from_utf8_lossy(&page.bytes).starts_with("# "), "{what} has a page");
    }
    assert_eq!(entries(&gateway, &dana), before, "what never became a question leaves no entry");

    // An unknown tool is a question: denied, committed.
    let answer = gateway.propose(&agent, &instance, "repo.teleport", &json!({}));
    assert_eq!((answer.status, answer.code().as_str()), (403, "tool-unknown"));
    assert_eq!(entries(&gateway, &dana), before + 1);

    gateway.post(&format!("/api/v1/instances/{instance}/complete"), &agent, &json!({})).expect_status(200);
    let answer = gateway.propose(&agent, &instance, "repo.read", &json!({ "path": "a" }));
    assert_eq!((answer.status, answer.code().as_str()), (409, "instance-finished"));
}

#[test]
fn an_expired_token_is_told_from_a_revoked_one() {
    let mut gateway = Gateway::start();
    let (revoked, _) = gateway.enrol();
    gateway.get("/api/v1/me", &revoked).expect_status(200);
    gateway.post("/api/v1/tokens/revoke", &revoked, &json!({})).expect_status(204);
    let answer = gateway.get("/api/v1/me", &revoked);
    assert_eq!((answer.status, answer.code().as_str()), (401, "token-revoked"));
    // The program's clock is the machine's: nothing but time makes a token expire.
    assert!(gateway.stop());
    gateway.set_variable("COUNTERSIGN_IDENTITY__TOKEN_TTL_S", "1");
    gateway.up();
    let expires = gateway.login("dana", "act");
    let patience = Instant::now() + Duration::from_secs(30);
    let answer = loop {
        let answer = gateway.get("/api/v1/me", &expires);
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < patience, "a token of one second does not expire");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((answer.status, answer.code().as_str()), (401, "token-expired"));
    let answer = gateway.get("/api/v1/me", &revoked);
    assert_eq!(answer.code(), "token-revoked", "and the other one is still told as what it is");
}

/// A ZIP of one part that is `mebibytes` of zeros, compressed, in about a thousandth of that.
fn bomb(mebibytes: u32) -> Vec<u8> {
    let zeros = vec![0; 1 << 20];
    let name = b"EVIDENCE";
    let mut deflate = Compress::new(Compression::best(), false);
    let (mut chunk, mut end) = (Vec::with_capacity(8 << 10), Vec::with_capacity(64));
    // Ended at a byte without the end of the stream, so it may stand any number of times.
    deflate.compress_vec(&zeros, &mut chunk, FlushCompress::Sync).unwrap();
    Compress::new(Compression::best(), false).compress_vec(&[], &mut end, FlushCompress::Finish).unwrap();
    let (one, mut sum) = (crc32fast::hash(&zeros), crc32fast::Hasher::new());
    for _ in 0..mebibytes {
        sum.combine(&crc32fast::Hasher::new_with_initial_len(one, 1 << 20));
    }
    let data = [chunk.repeat(mebibytes as usize), end].concat();
    // Version 2.0, no flags, deflate, 1980-01-01; sum, sizes and lengths.
    let mut common = [20_u16, 0, 8, 0, 0x21].map(u16::to_le_bytes).concat();
    for field in
        [sum.finalize(), u32::try_from(data.len()).unwrap(), mebibytes << 20, u32::try_from(name.len()).unwrap()]
    {
        common.extend(field.to_le_bytes());
    }
    let local = [b"PK\x03\x04".as_slice(), &common, name, &data].concat();
    let central = [b"PK\x01\x02\x14\0".as_slice(), &common, &[0; 14], name].concat();
    let mut end = b"PK\x05\x06\0\0\0\0\x01\0\x01\0".to_vec();
    for length in [central.len(), local.len()] {
        end.extend(u32::try_from(length).unwrap().to_le_bytes());
    }
    [local, central, end, vec![0, 0]].concat()
}

#[test]
fn the_bomb_of_these_tests_is_one() {
    let small = bomb(3);
    let data = &small[30 + b"EVIDENCE".len()..];
    let mut inflated = Vec::new();
    flate2::read::DeflateDecoder::new(data).read_to_end(&mut inflated).unwrap();
    assert_eq!(inflated.len(), 3 << 20);
    assert!(inflated.iter().all(|byte| *byte == 0));
    assert_eq!(small[14..18], crc32fast::hash(&inflated).to_le_bytes(), "the sum is that of what comes out");
    assert!(small.len() < inflated.len() / 500, "{} bytes", small.len());
}

/// What both programs say of a file, as JSON, each with exit code 1; and that their words have the same code.
fn told(gateway: &Gateway, path: &Path) -> [Value; 2] {
    let vkey = gateway.root_vkey();
    [(countersign_verify(), None), (countersign(), Some("verify"))].map(|(program, verb)| {
        let run = |json: Option<&str>| {
            let mut command = Command::new(&program);
            command.env_clear().args(verb).args(json).args(["--key", &vkey]).arg(path);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let report: Value = serde_json::from_str(&run(Some("--json"))).unwrap();
        let (words, problem) = (run(None), &report["problems"][0]);
        let line = format!("  ! {}: {}", problem["code"].as_str().unwrap(), problem["detail"].as_str().unwrap());
        assert_eq!(words.lines().next(), Some("INVALID"), "{words}");
        assert_eq!(words.lines().nth(1), Some(line.as_str()), "{words}");
        report
    })
}

#[test]
fn a_truncated_pack_and_a_zip_bomb_are_invalid_each_by_its_own_code() {
    let gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    let pack = gateway.pack(&dana);
    let whole = std::fs::read(&pack).unwrap();
    let post = |bytes: &[u8]| {
        let path = format!("/api/v1/verify?root={}", urlencode(&gateway.root_vkey()));
        let zip = [("content-type", "application/zip")];
        gateway.send("POST", &path, &dana, &zip, Some(bytes.to_vec())).expect_status(200).json()
    };
    assert_eq!(gateway.verify(&pack).0, 0);
    assert_eq!(post(&whole)["verdict"], "VALID");

    // Three gigabytes in three megabytes, which is a body that is read; and one that says it is no larger than it looks.
    let honest = bomb(3 << 10);
    let mut lying = bomb(3 << 10);
    let looks = lying[18..22].to_vec();
    lying[22..26].copy_from_slice(&looks);
    let entries = gateway.entries(&dana).len();
    // A part that is stored, and claims one byte more than is looked at.
    let mut wide = whole.clone();
    let claimed = ((256_u32 << 20) + 1).to_le_bytes();
    wide[18..26].copy_from_slice(&[claimed, claimed].concat());
    let cases: [(&str, Vec<u8>, &str, &str); 8] = [
        ("cut in a part", whole[..whole.len() / 2].to_vec(), "pack-truncated", "it ends in the middle of a part"),
        (
            "without its last byte",
            whole[..whole.len() - 1].to_vec(),
            "pack-truncated",
            "ends before its directory does",
        ),
        ("empty", Vec::new(), "pack-truncated", "ends before its directory does"),
        (
            "with a byte too many",
            [whole.as_slice(), b"\0"].concat(),
            "pack-not-canonical",
            "not the one canonical form",
        ),
        ("another file", b"%PDF-1.7".to_vec(), "pack-not-canonical", "not the one canonical form"),
        ("a bomb", honest, "pack-compressed", "nothing was unpacked"),
        ("a bomb that lies", lying, "pack-compressed", "nothing was unpacked"),
        ("a part that is too large", wide, "pack-over-limit", "a part is larger than 256 MiB"),
    ];
    for (what, bytes, code, problem) in cases {
        let path = gateway.beside("bad.evidence");
        std::fs::write(&path, &bytes).unwrap();
        let [auditors, programs] = told(&gateway, &path);
        let answer = post(&bytes);
        for report in [&auditors, &programs, &answer] {
            assert_eq!(report["verdict"], "INVALID", "{what}: {report}");
            let problems = report["problems"].as_array().unwrap();
            assert_eq!(problems.len(), 1, "{what}: {report}");
            assert_eq!(problems[0]["code"], code, "{what}: {report}");
            assert!(problems[0]["detail"].as_str().unwrap().contains(problem), "{what}: {report}");
            assert_eq!(report["proven"], json!([]), "{what}: nothing in it is proven");
        }
        let page = gateway.get(&format!("/problems/{code}"), "").expect_status(200);
        assert!(String::from_utf8_lossy(&page.bytes).contains(&format!("`{code}`, verdict INVALID\n")), "{what}");
    }
    let unreadable = gateway.send(
        "POST",
        "/api/v1/verify?root=nonsense",
        &dana,
        &[("content-type", "application/zip")],
        Some(whole.clone()),
    );
    assert_eq!((unreadable.status, unreadable.code().as_str()), (422, "root-key-unreadable"));
    assert_eq!(gateway.entries(&dana).len(), entries, "checking leaves nothing");
}

#[test]
fn every_code_that_anybody_is_told_has_its_page_at_the_gateway() {
    let gateway = Gateway::start();
    let codes: Vec<&str> = pages().map(|page| page.code).collect();
    for code in Code::ALL.iter().map(|code| code.as_str()).chain(["acting-chain", "folder-newer"]) {
        assert!(codes.contains(&code), "{code}");
    }
    for page in pages() {
        let answer = gateway.get(&format!("/problems/{}", page.code), "").expect_status(200);
        let text = String::from_utf8(answer.bytes).unwrap();
        assert_eq!(text, page.text, "{}", page.code);
        let (head, todo) = text.split_once("\n## What to do\n\n").unwrap();
        let met = format!("`{}`, {}\n\n", page.code, page.place);
        assert!(head.starts_with("# ") && head.contains(&met) && !todo.trim().is_empty(), "{text}");
    }
    assert_eq!(gateway.get("/problems/pack-unreadable", "").code(), "route-unknown");
}

fn urlencode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[test]
fn a_full_disk_refuses_cleanly_and_still_lets_people_stop_work() {
    let mut gateway = Gateway::start();
    let (dana, _) = gateway.enrol();
    gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let instance = gateway.instance(&dana, "repair", "fixer");
    assert!(gateway.stop());
    // A reserve that no disk has: everything but stopping is refused.
    std::fs::write(gateway.beside("data/countersign.toml"), "").unwrap();
    let mut full = gateway;
    full.set_variable("COUNTERSIGN_DATA__RESERVE_BYTES", "1000000000000000");
    full.up();
    let dana = full.login("dana", "act");
    let body = json!({ "workflow": "repair", "agent": "fixer" });
    let refused = full.post("/api/v1/instances", &dana, &body);
    assert_eq!((refused.status, refused.code().as_str()), (507, "disk-full"));
    let stopped = full.post(&format!("/api/v1/instances/{instance}/terminate"), &dana, &json!({})).expect_status(200);
    assert_eq!(stopped.json()["state"], "TERMINATED");
}

#[test]
fn who_acts_is_never_in_a_body_but_in_the_credential() {
    /// Fields of that name in bodies, with the reason why they do not say who acts.
    const OF_OTHERS: [(&str, &str, &str); 2] = [
        ("Login", "organization", "where to look for whoever gives the password"),
        ("PermissionsAsked", "principal", "whose permissions are listed; who asks is asked whether they may know"),
    ];
    let gateway = Gateway::start();
    let document = gateway.get("/openapi.json", "").expect_status(200).json();
    let schemas = &document["components"]["schemas"];
    let (mut asked, mut bodies) = (Vec::new(), std::collections::BTreeSet::new());
    for (_, _, operation) in crate::walks::operations(&document) {
        asked.push(operation["requestBody"].clone());
    }
    // Each body with all that it is made of.
    while let Some(value) = asked.pop() {
        if let Some(name) = value["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/"))
            && bodies.insert(name.to_owned())
        {
            asked.push(schemas[name].clone());
        }
        asked.extend(value.as_array().into_iter().flatten().cloned());
        asked.extend(value.as_object().into_iter().flat_map(serde_json::Map::values).cloned());
    }
    assert!(bodies.len() > 25, "{bodies:?}");
    let mut found = Vec::new();
    for body in &bodies {
        for name in schemas[body]["properties"].as_object().into_iter().flat_map(serde_json::Map::keys) {
            let acts = ["actor", "initiator", "principal", "on_behalf_of", "organization", "approver", "decided_by"];
            if acts.contains(&name.as_str()) {
                found.push((body.as_str(), name.as_str()));
            }
        }
    }
    found.sort_unstable();
    assert_eq!(found, OF_OTHERS.map(|(body, name, _)| (body, name)));

    // Whoever is named in a body as answering for it did not do it.
    let (dana, _) = gateway.enrol();
    crate::glass::person(&gateway, &dana, "eve", "OPERATOR");
    gateway.agent(&dana, "fixer");
    gateway.workflow(&dana, "repair");
    let me = gateway.get("/api/v1/me", &dana).expect_status(200).json();
    let body = json!({ "workflow": "repair", "agent": "fixer", "accountable": "eve" });
    let made = gateway.post("/api/v1/instances", &dana, &body).expect_status(201).json();
    let path = format!("/api/v1/audit/entries?instance={}", made["instance"]["id"].as_str().unwrap());
    let entries = gateway.listed(&path, &dana);
    assert!(entries.iter().any(|entry| entry["kind"] == "created"), "{entries:?}");
    for entry in entries.iter().filter(|entry| entry["kind"] == "created" || entry["kind"] == "start") {
        assert_eq!((&entry["actor"], &entry["actor_name"]), (&me["pseudonym"], &json!("person/dana")), "{entry}");
    }
}
