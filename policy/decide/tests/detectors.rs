//! Detectors: what is found becomes a fact that Cedar decides on, with its place and never with its text.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::collections::BTreeSet;

use countersign_gateway_model::{Decision, Name};
use countersign_policy_decide::catalogue::Catalogue;
use countersign_policy_decide::detectors::{Detectors, MAX_FINDS, SECRETS};
use countersign_policy_decide::{PolicySnapshot, Question, input, replay};
use world::{PERMIT, ask, call, name, parts, world};

const CATALOGUE: &[u8] =
    br#"{"tools":[{"name":"repo.read","risk":0,"data_class":"internal","input":{"type":"object","properties":{
        "path":{"type":"string"},"command":{"type":"string"},"image":{"type":"string"},
        "labels":{"type":"object","additionalProperties":{"type":"string"}},"any":{},
        "packages":{"type":"array","items":{"type":"string"}}}}}]}"#;

fn snapshot(policies: &str, detectors: &str) -> PolicySnapshot {
    let mut parts = parts(policies);
    parts.catalogue = Some(Catalogue::parse(CATALOGUE).unwrap());
    parts.detectors = Detectors::parse(detectors.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    PolicySnapshot::build(parts).unwrap_or_else(|e| panic!("{e}"))
}

/// The names of what was found.
fn found(s: &PolicySnapshot, input: &serde_json::Value) -> Vec<String> {
    let typed = input::parse(s.tool("repo.read").unwrap(), input.to_string().as_bytes()).unwrap();
    assert_eq!(typed.detected(), &typed.found().iter().map(|f| f.detector.clone()).collect::<BTreeSet<Name>>());
    typed.found().iter().map(|f| format!("{} {} {}", f.detector, f.at, f.what)).collect()
}

const ALL: &str = r#"{"detectors":{
    "command":{"tools":["repo.*"],"at":["/command"],"find":{"patterns":["(?i)rm\\s+-rf","\\bmkfs\\b"]}},
    "escape":{"at":["/path"],"find":"path_traversal"},
    "stack":{"at":["/packages/*"],"find":{"not_listed":["React","axum"]}},
    "image":{"at":["/image"],"find":{"image":{"registries":["ghcr.io/acme"],"pinned":true}}},
    "labels":{"at":["/labels"],"find":{"labels":{"required":["team"],"allowed":{"env":["dev","test"]}}}},
    "large":{"at":["/any"],"find":{"size":{"bytes":20,"items":3}}},
    "secret":{"find":{"secrets":{"also":{"acme":"\\bacme_[a-z]{8}\\b"}}}},
    "elsewhere":{"tools":["pay.*"],"find":{"patterns":["."]}}}}"#;

#[test]
fn each_kind_of_detector_finds_what_it_is_for_and_where() {
    let s = snapshot(PERMIT, ALL);
    let digest = format!("ghcr.io/acme/app@sha256:{}", "0a".repeat(32));
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    for (input, expected) in [
        (json(r#"{"command":"RM  -rf /"}"#), vec!["command /command pattern 1"]),
        (json(r#"{"command":"ls; mkfs x"}"#), vec!["command /command pattern 2"]),
        (json(r#"{"command":"ls","path":"rm -rf"}"#), vec![]),
        (json(r#"{"packages":["react","AXUM","left-pad"]}"#), vec!["stack /packages/2 not on the list"]),
        (json(r#"{"image":"ghcr.io/acme/app:latest"}"#), vec!["image /image not pinned by a digest"]),
        (json(r#"{"image":"ghcr.io/acme-evil/app:1"}"#), vec!["image /image from another registry"]),
        (serde_json::json!({"image": digest}), vec![]),
        (json(r#"{"labels":{"team":"core","env":"dev"}}"#), vec![]),
        (
            json(r#"{"labels":{"team":" ","env":"prod"}}"#),
            vec!["labels /labels a required label is absent", "labels /labels a label has another value than allowed"],
        ),
        (json(r#"{"any":[1,2,3]}"#), vec![]),
        (json(r#"{"any":[1,2,3,4]}"#), vec!["large /any more items"]),
        (json(r#"{"any":"123456789012345678901"}"#), vec!["large /any more bytes"]),
        (json(r#"{"any":{"deep":["x acme_abcdefgh"]}}"#), vec!["large /any more bytes", "secret /any/deep/0 acme"]),
    ] {
        assert_eq!(found(&s, &input), expected, "{input}");
    }
}

#[test]
fn another_port_is_another_registry() {
    let rule =
        r#"{"detectors":{"image":{"at":["/image"],"find":{"image":{"registries":["ghcr.io","quay.io/a/app"]}}}}}"#;
    let s = snapshot(PERMIT, rule);
    for (image, admitted) in [
        ("ghcr.io/x", true),
        ("ghcr.io/x:1", true),
        ("quay.io/a/app:1", true),
        ("quay.io/a/app@sha256:00", true),
        ("quay.io/a/app:1@sha256:00", true),
        ("ghcr.io:8443/x", false),
        ("ghcr.io:8443/x:1", false),
        ("ghcr.io@evil.example/x", false),
        ("ghcr.io.evil.example/x", false),
    ] {
        assert_eq!(found(&s, &serde_json::json!({ "image": image })).is_empty(), admitted, "{image}");
    }
}

#[test]
fn paths_that_leave_their_folder_are_found_in_every_spelling() {
    let s = snapshot(PERMIT, ALL);
    for path in [
        "../a",
        "a/../../b",
        "a/..",
        "..",
        "/etc/passwd",
        "~/x",
        "~root/x",
        "C:\\x",
        "c:/x",
        "..\\x",
        "a\\..\\x",
        "%2e%2e/x",
        "%2E%2e%2Fx",
        "a/%2e./x",
        "file:///etc",
        "a\0b",
        "a%00b",
        "\\\\host\\share",
        "a/.. /b",
        "%252e%252e%252fx",
        "a/%25252e%25252E/x",
        "a%2500b",
        "%7e/x",
        "%257Eroot/x",
        " /etc/passwd",
        "\t~/x",
        " c:/x",
    ] {
        assert_eq!(found(&s, &serde_json::json!({ "path": path })).len(), 1, "{path:?}");
    }
    for path in ["a", "a/b.rs", "a..b", "...", "a/...", ".", "./a", "a/~b", "a b", "100%25", "%25", "25/a", "x:y"] {
        let hits = found(&s, &serde_json::json!({ "path": path }));
        assert!(hits.is_empty() || path == "x:y", "{path:?}: {hits:?}");
    }
}

#[test]
fn every_kind_of_secret_is_found_and_plain_text_is_not() {
    let s = snapshot(PERMIT, r#"{"detectors":{"secret":{"find":{"secrets":{}}}}}"#);
    // Put together here, so that no scanner of this repository takes them for real ones.
    let long = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t0U1v2W3x4Y5z6";
    let part = |n: usize| long.get(..n).unwrap();
    let samples = [
        ("private-key", format!("-----BEGIN {} PRIVATE KEY-----", "RSA")),
        ("aws-access-key", format!("id {}{}", "AKIA", "ABCDEFGHIJKLMNOP")),
        ("github-token", format!("{}_{}", "ghp", part(36))),
        ("github-fine-grained-token", format!("{}_{}", "github_pat", part(30))),
        ("gitlab-token", format!("{}-{}", "glpat", part(20))),
        ("slack-token", format!("{}-{}", "xoxb", part(20))),
        ("slack-webhook", format!("https://hooks.slack.com/{}/T0/B0/{}", "services", part(24))),
        ("google-api-key", format!("{}{}", "AIza", part(35))),
        ("stripe-key", format!("{}_live_{}", "sk", part(24))),
        ("npm-token", format!("{}_{}", "npm", part(36))),
        ("pypi-token", format!("{}-AgE{}", "pypi", part(52))),
        ("model-provider-key", format!("{}-ant-{}", "sk", part(40))),
        ("json-web-token", format!("{}.{}.{}", "eyJhbGciOiJI", "eyJzdWIiOiIx", part(20))),
        ("authorization-header", format!("Authorization: {} {}", "Bearer", part(20))),
        ("url-with-password", format!("postgres://user:{}@host/db", "pw")),
        ("assigned-secret", format!("DB_{} = \"{}\"", "PASSWORD", part(12))),
    ];
    let kinds: Vec<&str> = SECRETS.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(samples.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), kinds, "one sample a kind");
    for (kind, text) in samples {
        let hits = found(&s, &serde_json::json!({"any": {"deep": [format!("before {text} after")]}}));
        assert!(hits.contains(&format!("secret /any/deep/0 {kind}")), "{kind}: {hits:?}");
        assert!(!format!("{hits:?}").contains(part(12)), "the text itself is kept nowhere");
    }
    for plain in
        ["the password policy", "fn main() {}", "git@host:repo.git", "secret = $TOKEN", "https://a.b/c?d=e", "sk-learn"]
    {
        assert_eq!(found(&s, &serde_json::json!({ "any": plain })), Vec::<String>::new(), "{plain}");
    }
}

#[test]
fn names_that_the_agent_chose_are_searched_like_values() {
    let detectors = r#"{"detectors":{
        "command":{"find":{"patterns":["rm -rf","command"]}},
        "escape":{"at":["/labels"],"find":"path_traversal"},
        "listed":{"at":["/any"],"find":{"not_listed":["v"]}},
        "secret":{"find":{"secrets":{}}}}}"#;
    let s = snapshot(PERMIT, detectors);
    let token = format!("{}_{}", "ghp", "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8");
    let one = |place: &str, name: &str, value: &str| serde_json::json!({ place: { "in": { name: value } } });
    for (input, expected) in [
        (one("any", "rm -rf", "v"), vec!["command /any/in pattern 1".to_owned()]),
        (one("any", &token, "v"), vec!["secret /any/in github-token".to_owned()]),
        (
            one("any", "DB_PASSWORD", "A1b2C3d4E5f6"),
            vec![
                "listed /any/in/DB_PASSWORD not on the list".to_owned(),
                "secret /any/in/DB_PASSWORD assigned-secret".to_owned(),
            ],
        ),
        (one("any", "n", "v"), vec![]),
        (serde_json::json!({"labels": {"../x": "v"}}), vec!["escape /labels a step to the folder above".to_owned()]),
        // A declared name is the schema's, not the agent's.
        (serde_json::json!({"command": "ls"}), vec![]),
        (serde_json::json!({"any": [{"rm -rf": 1}]}), vec!["command /any/0 pattern 1".to_owned()]),
    ] {
        assert_eq!(found(&s, &input), expected, "{input}");
    }
}

#[test]
fn cedar_decides_on_what_was_found_and_the_verdict_repeats() {
    let forbid = r#"@id("no-secrets") @severity("hard") forbid (principal, action in Countersign::Action::"callTool", resource)
        when { context.facts.contains("secret") };"#;
    let s = snapshot(&format!("{PERMIT}{forbid}"), ALL);
    let clean = call(&s, "repo.read", r#"{"any":"nothing"}"#);
    assert_eq!(ask(&s, &world(), &clean).decision(), Decision::Allow);
    let dirty = call(&s, "repo.read", r#"{"any":"acme_abcdefgh"}"#);
    let answer = ask(&s, &world(), &dirty);
    assert_eq!(answer.determining, [name("no-secrets")]);
    // A find follows from the input and the bundle: it is not a word of the question that could be left out.
    let bytes = dirty.canonical();
    assert!(!String::from_utf8(bytes.clone()).unwrap().contains("facts"));
    assert_eq!(Question::parse(&bytes, &s).unwrap().input.unwrap().detected(), &BTreeSet::from([name("secret")]));
    let slice = world().slice(&s, &dirty);
    let blobs: Vec<&[u8]> = slice.members().iter().map(|m| &**m.blob()).collect();
    assert_eq!(replay(&s, &bytes, &blobs).unwrap(), answer);
}

#[test]
fn a_hostile_input_is_searched_in_time_linear_in_its_length_and_leaves_a_bounded_record() {
    let s = snapshot(
        PERMIT,
        r#"{"detectors":{"slow":{"find":{"patterns":["(a+)+$","(x*)*y"]}},"secret":{"find":{"secrets":{}}}}}"#,
    );
    // A matcher that backtracks would not end.
    let text = format!("{}!", "a".repeat(900_000));
    let typed =
        input::parse(s.tool("repo.read").unwrap(), serde_json::json!({ "any": text }).to_string().as_bytes()).unwrap();
    assert!(typed.detected().is_empty());
    let many = serde_json::json!({"any": vec!["a"; 500]});
    let typed = input::parse(s.tool("repo.read").unwrap(), many.to_string().as_bytes()).unwrap();
    assert_eq!((typed.found().len(), typed.detected().len()), (MAX_FINDS, 1));
}

#[test]
fn a_detector_that_looks_where_no_tool_has_anything_does_not_load() {
    for (tools, at, fits) in [
        ("repo.read", "/command", true),
        ("repo.read", "/comand", false),
        ("*", "/packages/*", true),
        ("*", "/packages/0", true),
        ("*", "/packages/*/name", false),
        ("repo.*", "/any/deep/*", true),
        ("gone.tool", "/comand", true),
    ] {
        let mut parts = parts(PERMIT);
        parts.catalogue = Some(Catalogue::parse(CATALOGUE).unwrap());
        let text = format!(r#"{{"detectors":{{"d":{{"tools":["{tools}"],"at":["{at}"],"find":"path_traversal"}}}}}}"#);
        parts.detectors = Detectors::parse(text.as_bytes()).unwrap();
        match PolicySnapshot::build(parts) {
            Ok(_) => assert!(fits, "{tools} {at}"),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                assert!(!fits && format!("{error} {source}").contains(at), "{error}: {source}");
            }
        }
    }
}

#[test]
fn detectors_that_could_not_be_applied_do_not_load() {
    for (detector, part) in [
        (r#"{"find":{"patterns":[]}}"#, "no pattern"),
        (r#"{"find":{"patterns":["("]}}"#, "regex parse error"),
        (r#"{"find":{"patterns":["(?:(?:\\w{200}){200}){200}"]}}"#, "size limit"),
        (r#"{"find":{"patterns":["(a)\\1"]}}"#, "backreferences"),
        (r#"{"find":{"size":{}}}"#, "neither"),
        (r#"{"find":"everything"}"#, "wrong shape"),
        (r#"{"tools":[],"find":"path_traversal"}"#, "names no tools"),
        (r#"{"at":["path"],"find":"path_traversal"}"#, "wrong shape"),
    ] {
        let error =
            Detectors::parse(format!(r#"{{"detectors":{{"d":{detector}}}}}"#).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{detector}: {error}");
    }
    let patterns = |n: usize| format!(r#"{{"find":{{"patterns":[{}]}}}}"#, vec![r#""a""#; n].join(","));
    let many = |n: usize| {
        let each: Vec<String> = (0..n).map(|i| format!(r#""d{i}":{{"find":"path_traversal"}}"#)).collect();
        format!(r#"{{"detectors":{{{}}}}}"#, each.join(","))
    };
    for (at, beyond, part) in [
        (many(128), many(129), "more than 128"),
        (
            format!(r#"{{"detectors":{{"d":{}}}}}"#, patterns(256)),
            format!(r#"{{"detectors":{{"d":{}}}}}"#, patterns(257)),
            "more than 256",
        ),
    ] {
        assert!(Detectors::parse(at.as_bytes()).is_ok(), "at the limit: {part}");
        let error = Detectors::parse(beyond.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(
        Detectors::parse(br#"{"detectors":{"masked:x":{"find":"path_traversal"}}}"#).is_err(),
        "the program's own facts"
    );
}
