//! What must stay true of the tree itself: names, arrows, purity, pages, and what no file may say.
//!
//! Each test collects every breach before it fails and says how to comply. Absent: what the compiler, clippy and cargo-deny
//! hold already. The tree is read from the disk, so a folder that nobody has committed yet is judged too.
//! The law that this holds is in `ARCHITECTURE.md`; the check-lists for new rooms are in `CONTRIBUTING.md`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot read the tree has failed, and says so"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that decide and do nothing else: no runtime, no clock, no randomness, no IO.
const PURE: [&str; 8] = [
    "gateway/model",
    "gateway/flow",
    "policy/decide",
    "policy/bundle",
    "policy/import",
    "ledger/merkle",
    "ledger/entry",
    "ledger/verify",
];

/// What no manifest of a pure crate names, not even for its tests. A `*` at the end stands for any rest.
const IMPURE_CRATES: [&str; 26] = [
    "tokio*",
    "async-*",
    "smol*",
    "futures*",
    "mio",
    "sqlx*",
    "rusqlite",
    "libsqlite3-sys",
    "axum*",
    "hyper*",
    "reqwest",
    "ureq",
    "tonic*",
    "tower*",
    "rustls*",
    "rand",
    "rand_chacha",
    "getrandom",
    "fastrand",
    "chrono",
    "time",
    "jiff",
    "libc",
    "nix",
    "socket2",
    "tracing-subscriber",
];

/// What no source of a pure crate names outside its tests.
const IMPURE_PATHS: [&str; 11] = [
    "SystemTime",
    "Instant::now",
    "std::time::Instant",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
];

/// Who may depend on whom: the arrows of the architecture. A room that is not here has no arrows yet and fails.
const ARROWS: [(&str, &[&str]); 19] = [
    ("gateway/model", &[]),
    ("gateway/flow", &["ledger/entry", "gateway/model"]),
    (
        "gateway/engine",
        &[
            "gateway/flow",
            "policy/bundle",
            "policy/decide",
            "ledger/log",
            "ledger/verify",
            "runners/contract",
            "gateway/model",
        ],
    ),
    ("gateway/identity", &["gateway/model"]),
    ("gateway/http", &["gateway/engine", "gateway/identity", "gateway/model"]),
    (
        "gateway/countersign",
        &[
            "gateway/http",
            "gateway/engine",
            "gateway/identity",
            "policy/store",
            "policy/import",
            "policy/prove",
            "ledger/log",
            "ledger/sql",
            "ledger/verify",
            "runners/contract",
            "runners/process",
        ],
    ),
    ("policy/decide", &["gateway/model"]),
    ("policy/bundle", &["policy/decide"]),
    ("policy/import", &["policy/bundle"]),
    ("policy/prove", &["policy/bundle"]),
    ("policy/store", &["policy/bundle"]),
    ("ledger/merkle", &[]),
    ("ledger/entry", &["ledger/merkle", "gateway/model"]),
    ("ledger/log", &["ledger/entry"]),
    ("ledger/sql", &["ledger/log"]),
    ("ledger/verify", &["gateway/flow", "ledger/entry", "ledger/merkle", "gateway/model"]),
    ("runners/contract", &["ledger/entry", "gateway/model"]),
    ("runners/process", &["runners/contract"]),
    ("infra/xtask", &[]),
];

/// Arrows that the table above does not have: types in the public face of an arrow's target, named where they live.
const NAMED_THROUGH: [(&str, &str, &str); 12] = [
    ("gateway/engine", "ledger/merkle", "the handles of `ledger/log` take tile paths and give hashes"),
    (
        "ledger/log",
        "ledger/merkle",
        "the committer extends the tree that `ledger/entry` signs: hashes and proofs are in its face",
    ),
    ("ledger/log", "gateway/model", "organization and instance ids are in the face of `ledger/entry`"),
    ("ledger/sql", "ledger/entry", "the doors of `ledger/log` take and give entries"),
    ("ledger/sql", "ledger/merkle", "the doors of `ledger/log` take and give hashes and tiles"),
    ("ledger/sql", "gateway/model", "the doors of `ledger/log` are keyed by its ids"),
    (
        "gateway/engine",
        "ledger/entry",
        "an append of `ledger/log` is made of entry bodies; a start is a `Committed<Start>`",
    ),
    ("policy/bundle", "gateway/model", "organization and names are in the face of `policy/decide`"),
    ("policy/import", "policy/decide", "the catalogue of an imported bundle is the one that policy decides with"),
    ("policy/prove", "policy/decide", "what is proved is proved of the policy snapshot, which lives there"),
    ("policy/store", "policy/decide", "what the store hands out is the policy snapshot, which lives there"),
    ("gateway/countersign", "gateway/model", "ids are minted in the program, which `gateway/model` only parses"),
];

/// Top-level folders are fixed; a new one is a change of ARCHITECTURE.md first.
const FOLDERS: [&str; 10] =
    ["gateway", "policy", "ledger", "runners", "openapi", "docs", "sdks", "compliance", "infra", "tests"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
}

fn cargo(arguments: &[&str]) -> String {
    // `--offline`: what this asks was resolved when this test was built.
    let output = Command::new(env!("CARGO")).args(arguments).arg("--offline").current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A member of the workspace as its manifest describes it.
struct Room {
    /// Folder, relative to the root, with `/`.
    path: String,
    package: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    package: String,
    dev: bool,
    /// The room it is, if it is one of ours.
    room: Option<String>,
}

fn rooms() -> Vec<Room> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    let root = root();
    let relative =
        |folder: &Path| folder.strip_prefix(&root).ok().map(|path| path.to_str().unwrap().replace('\\', "/"));
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    list(&metadata, "packages")
        .iter()
        .map(|package| Room {
            path: relative(Path::new(&text(package, "manifest_path").unwrap()).parent().unwrap()).unwrap(),
            package: text(package, "name").unwrap(),
            dependencies: list(package, "dependencies")
                .iter()
                .map(|dependency| Dependency {
                    package: text(dependency, "name").unwrap(),
                    dev: text(dependency, "kind").as_deref() == Some("dev"),
                    room: text(dependency, "path").and_then(|path| relative(Path::new(&path))),
                })
                .collect(),
        })
        .collect()
}

/// Every file and folder of the tree but what is built or fetched.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path, bool)) {
    let mut inside: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).collect();
    inside.sort_by_key(fs::DirEntry::file_name);
    for entry in inside {
        let kind = entry.file_type().unwrap();
        let path = entry.path();
        if kind.is_dir() {
            if ["target", ".git", "node_modules", "bench-results", "__pycache__"]
                .iter()
                .any(|name| path.ends_with(name))
            {
                continue;
            }
            visit(&path, true);
            walk(&path, visit);
        } else if kind.is_file() {
            visit(&path, false);
        }
    }
}

fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    walk(&root(), &mut |path, is_folder| {
        if !is_folder {
            files.push(path.to_owned());
        }
    });
    files
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let folder = root().join(folder);
    files()
        .into_iter()
        .filter(|path| path.starts_with(&folder) && path.extension().is_some_and(|x| x == "rs"))
        .collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Fails with every breach on a line of its own, and with what to do.
#[track_caller]
fn none(breaches: &[String], how_to_comply: &str) {
    let mut text = String::new();
    for breach in breaches {
        write!(text, "\n  {breach}").unwrap();
    }
    assert!(breaches.is_empty(), "{how_to_comply}:{text}");
}

#[test]
fn every_package_is_named_after_its_path() {
    let breaches: Vec<_> = rooms()
        .iter()
        .filter_map(|room| {
            let expected = match room.path.as_str() {
                "gateway/countersign" => "countersign".to_owned(),
                "infra/xtask" => "xtask".to_owned(),
                path => format!("countersign-{}", path.replace('/', "-")),
            };
            (room.package != expected).then(|| format!("{}: is `{}`, should be `{expected}`", room.path, room.package))
        })
        .collect();
    none(&breaches, "a package is called `countersign-` and its path with dashes");
}

#[test]
fn every_member_is_listed_with_a_comment_that_says_its_job() {
    let manifest = read(&root().join("Cargo.toml"));
    let members: BTreeMap<_, _> = manifest
        .lines()
        .skip_while(|line| !line.starts_with("members"))
        .skip(1)
        .take_while(|line| !line.starts_with(']'))
        .map(|line| line.split_once('#').unwrap_or((line, "")))
        .map(|(member, comment)| (member.trim().trim_matches([',', '"']).to_owned(), comment.trim().to_owned()))
        .collect();
    let breaches: Vec<_> = rooms()
        .into_iter()
        .filter(|room| members.get(&room.path).is_none_or(String::is_empty))
        .map(|room| room.path)
        .collect();
    none(&breaches, "list the member in Cargo.toml on a line of its own, with a comment behind it");
}

#[test]
fn every_member_keeps_the_workspace_lints() {
    let breaches: Vec<_> = rooms()
        .into_iter()
        .map(|room| room.path)
        .filter(|path| !read(&root().join(path).join("Cargo.toml")).contains("[lints]\nworkspace = true\n"))
        .collect();
    none(&breaches, "add `[lints]` with `workspace = true` to the manifest");
}

#[test]
fn every_rust_file_opens_by_saying_its_job() {
    let breaches: Vec<_> =
        rust_files("").iter().filter(|path| !read(path).starts_with("//! ")).map(|path| shown(path)).collect();
    none(&breaches, "open the file with `//!`: its job, what is absent, where to read next");
}

#[test]
fn no_file_or_folder_is_called_by_a_name_that_says_nothing() {
    let mut breaches = Vec::new();
    walk(&root(), &mut |path, _| {
        if path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| EMPTY_NAMES.contains(&stem)) {
            breaches.push(shown(path));
        }
    });
    none(&breaches, "name it for what it does");
}

#[test]
fn manifests_of_pure_crates_name_no_runtime_clock_or_io() {
    let rooms = rooms();
    let mut breaches = Vec::new();
    for pure in PURE {
        let Some(room) = rooms.iter().find(|room| room.path == pure) else {
            breaches.push(format!("{pure}: is not a member"));
            continue;
        };
        // What only its tests and benches use is not in the crate.
        for dependency in room.dependencies.iter().filter(|dependency| !dependency.dev) {
            let name = dependency.package.as_str();
            let impure = |banned: &str| banned.strip_suffix('*').map_or(name == banned, |stem| name.starts_with(stem));
            if IMPURE_CRATES.iter().any(|banned| impure(banned)) {
                breaches.push(format!("{pure}: `{name}`"));
            }
        }
    }
    none(&breaches, "a pure crate takes bytes, a time and its random bits as arguments; move the deed into a shell");
}

#[test]
fn sources_of_pure_crates_touch_no_clock_file_or_socket() {
    let mut breaches = Vec::new();
    for pure in PURE {
        for path in rust_files(&format!("{pure}/src")) {
            // The auditor's program is the shell of its pure library: it reads one file and writes to the terminal.
            let own_tests =
                path.file_stem().is_some_and(|stem| stem == "tests") || path.parent().unwrap().ends_with("tests");
            if own_tests || path.ends_with("ledger/verify/src/main.rs") {
                continue;
            }
            for (number, line) in without_tests_and_comments(&read(&path)) {
                let grouped =
                    line.starts_with("use std::{") && ["fs", "net", "env", "process"].iter().any(|x| has_word(line, x));
                for banned in IMPURE_PATHS.iter().filter(|banned| line.contains(**banned)) {
                    breaches.push(format!("{}:{number}: `{banned}`", shown(&path)));
                }
                if grouped {
                    breaches.push(format!("{}:{number}: `{line}`", shown(&path)));
                }
            }
        }
    }
    none(&breaches, "a pure crate takes bytes, a time and its random bits as arguments; move the deed into a shell");
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|part| part == word)
}

/// The numbered lines of a formatted source, less comments and what stands under `#[cfg(test)]`.
fn without_tests_and_comments(source: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = source.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("#[cfg(test)]") {
            // What an attribute stands on ends at the first line that closes it at the attribute's own indent.
            for (_, line) in lines.by_ref() {
                let at_indent = line.len() - line.trim_start().len() == indent;
                if at_indent && (line.ends_with(';') || line.trim_start().starts_with('}')) {
                    break;
                }
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push((index + 1, line));
        }
    }
    kept
}

#[test]
fn the_reader_of_sources_sees_code_but_neither_tests_nor_comments() {
    let source = "//! std::fs\nuse a;\n#[cfg(test)]\nmod tests;\nfn b() {\n    // std::net\n    c();\n}\n#[cfg(test)]\n\
                  #[expect(x)]\nmod tests {\n    fn d() {\n    }\n    use std::fs;\n}\nfn e() {}\n";
    let kept: Vec<_> = without_tests_and_comments(source);
    assert_eq!(kept, [(2, "use a;"), (5, "fn b() {"), (7, "    c();"), (8, "}"), (16, "fn e() {}")]);
}

#[test]
fn every_dependency_follows_an_arrow_of_the_architecture() {
    let allowed: BTreeMap<_, BTreeSet<_>> = ARROWS
        .iter()
        .map(|(from, to)| {
            let named = NAMED_THROUGH.iter().filter(|extra| extra.0 == *from).map(|extra| extra.1);
            (*from, to.iter().copied().chain(named).collect())
        })
        .collect();
    let mut breaches = Vec::new();
    for room in rooms().iter().filter(|room| !room.path.starts_with("tests/")) {
        let Some(arrows) = allowed.get(room.path.as_str()) else {
            breaches.push(format!("{}: has no row in the table of arrows", room.path));
            continue;
        };
        for target in room.dependencies.iter().filter(|dependency| !dependency.dev).filter_map(|d| d.room.as_deref()) {
            if !arrows.contains(target) {
                breaches.push(format!("{} ─► {target}", room.path));
            }
        }
    }
    none(&breaches, "no such arrow: put the code where it may look, or change ARCHITECTURE.md and this table together");
}

/// `policy/{store,import}` and `http` as rooms of the table; `runners/*` is every room there.
fn rooms_of_the_picture(words: &str) -> Vec<&'static str> {
    let mut named: Vec<String> = Vec::new();
    let (mut word, mut prefix) = (String::new(), None::<String>);
    for c in words.chars().chain([',']) {
        match (c, &prefix) {
            ('{', _) => prefix = Some(std::mem::take(&mut word)),
            ('}', _) => {
                named.push(format!("{}{}", prefix.take().unwrap_or_default(), std::mem::take(&mut word)));
            }
            (',', Some(before)) => named.push(format!("{before}{}", std::mem::take(&mut word))),
            (',', None) if word.is_empty() => {}
            (',', None) => named.push(std::mem::take(&mut word)),
            (c, _) if c.is_whitespace() => {}
            (c, _) => word.push(c),
        }
    }
    let rooms = ARROWS.iter().map(|(room, _)| *room);
    let is_meant = |room: &str, word: &str| match word.strip_suffix('*') {
        Some(folder) => room.starts_with(folder),
        None => room == word || room.strip_prefix("gateway/") == Some(word),
    };
    let of = |word: String| {
        let meant: Vec<_> = rooms.clone().filter(|room| is_meant(room, &word)).collect();
        assert!(!meant.is_empty(), "the picture names `{word}`, which is no room");
        meant
    };
    named.into_iter().flat_map(of).collect()
}

#[test]
fn the_picture_of_the_arrows_shows_arrows_of_the_table() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let picture = text.split("```\n").find(|block| block.starts_with("countersign ─► ")).unwrap();
    let mut shown = 0;
    for statement in picture.lines().flat_map(|line| line.split("     ")).filter(|part| part.contains('─')) {
        let words: String =
            statement.split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect();
        let chain: Vec<_> = words.split("─►").map(rooms_of_the_picture).collect();
        for (froms, tos) in chain.iter().zip(chain.iter().skip(1)) {
            for from in froms {
                let (_, arrows) = ARROWS.iter().find(|(room, _)| room == from).unwrap();
                for to in tos {
                    assert!(arrows.contains(to), "the picture shows {from} ─► {to}, and the table does not");
                    shown += 1;
                }
            }
        }
    }
    assert!(shown > 25, "{shown} arrows were read from the picture");
}

#[test]
fn a_newcomer_builds_the_program_alone_and_a_release_is_built_with_more_care() {
    let manifest = read(&root().join("Cargo.toml"));
    assert!(manifest.contains("\ndefault-members = [\"gateway/countersign\"]\n"));
    let profile = |name: &str| {
        let (_, rest) = manifest.split_once(&format!("\n[profile.{name}]\n")).unwrap();
        rest.split("\n[").next().unwrap().to_owned()
    };
    assert!(profile("release").contains("lto = \"off\""));
    assert!(profile("dist").contains("lto = \"thin\"") && profile("dist").contains("opt-level = 3"));
}

#[test]
fn the_arrows_have_no_circle() {
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let mut left: BTreeSet<_> = arrows.keys().copied().collect();
    // Whatever points at nothing that is left can be taken away; a rest that cannot is a circle.
    loop {
        let free: Vec<_> =
            left.iter().copied().filter(|room| arrows.get(room).unwrap().iter().all(|to| !left.contains(to))).collect();
        if free.is_empty() {
            break;
        }
        for room in free {
            left.remove(room);
        }
    }
    assert!(left.is_empty(), "these point at each other: {left:?}");
}

#[test]
fn an_auditor_builds_the_verifier_without_the_gateway() {
    let tree = cargo(&["tree", "--package", "countersign-ledger-verify", "--edges", "normal", "--prefix", "none"]);
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains("countersign-ledger-verify"), "{tree}");
    let ours = [
        "countersign-ledger-verify",
        "countersign-ledger-entry",
        "countersign-ledger-merkle",
        "countersign-gateway-flow",
        "countersign-gateway-model",
    ];
    let heavy = ["tokio", "async-trait", "sqlx", "axum", "hyper", "reqwest", "rustls", "cedar-policy", "mio"];
    let breaches: Vec<_> = names
        .iter()
        .filter(|name| (name.starts_with("countersign") && !ours.contains(name)) || heavy.contains(name))
        .map(|name| (*name).to_owned())
        .collect();
    none(
        &breaches,
        "the verifier trusts nobody and stands alone; `cargo tree -p countersign-ledger-verify -i NAME` says why",
    );
}

#[test]
fn top_level_folders_are_the_ones_of_the_architecture() {
    let breaches: Vec<_> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && !["target", "bench-results"].contains(&name.as_str()))
        .filter(|name| !FOLDERS.contains(&name.as_str()))
        .collect();
    none(&breaches, "top-level folders are fixed: find its room, or change ARCHITECTURE.md first");
}

#[test]
fn no_folder_of_later_work_exists_empty() {
    let mut breaches = Vec::new();
    walk(&root(), &mut |path, is_folder| {
        if is_folder {
            let mut full = false;
            walk(path, &mut |_, is_folder| full |= !is_folder);
            if !full {
                breaches.push(shown(path));
            }
        }
    });
    none(&breaches, "a folder comes with its first file");
}

#[test]
fn every_problem_code_has_a_page_and_every_page_a_code() {
    let mut codes = BTreeSet::new();
    // Problems of answers; and what reports, decisions and the program name beyond them.
    for file in ["problem.rs", "pages.rs"] {
        let before = codes.len();
        for (number, line) in without_tests_and_comments(&read(&root().join("gateway/http/src").join(file))) {
            for rest in line.split("code: \"").skip(1) {
                let (code, _) = rest.split_once('"').expect("a code is a string on one line");
                let kebab =
                    !code.is_empty() && code.split('-').all(|word| !word.is_empty() && word.chars().all(is_small));
                assert!(kebab, "{file}:{number}: `{code}` is not kebab-case");
                assert!(codes.insert(code.to_owned()), "{file}:{number}: `{code}` is there twice");
            }
        }
        assert!(codes.len() > before, "no `code: \"…\"` in {file}: this test reads that form");
    }

    let pages: BTreeSet<_> = files()
        .iter()
        .filter(|path| path.parent().is_some_and(|folder| folder == root().join("openapi/problems")))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let expected: BTreeSet<_> = codes.iter().map(|code| format!("{code}.md")).collect();
    let mut breaches: Vec<_> = expected.difference(&pages).map(|page| format!("{page}: no page")).collect();
    breaches.extend(pages.difference(&expected).map(|page| format!("{page}: no such code")));
    for page in pages.intersection(&expected) {
        let text = read(&root().join("openapi/problems").join(page));
        if !text.starts_with("# ") || text.lines().filter(|line| !line.trim().is_empty()).count() < 2 {
            breaches.push(format!("{page}: needs a heading, and what the caller can do"));
        }
    }
    none(
        &breaches,
        "a problem's `type` is a link to openapi/problems/<code>.md: each code has a page, each page a code",
    );
}

#[test]
fn every_defence_of_the_threat_model_has_its_test() {
    let mut tests = BTreeSet::new();
    for path in files().iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        for line in read(path).lines() {
            let named = line.trim_start().trim_start_matches("pub ").trim_start_matches("async ").strip_prefix("fn ");
            tests.extend(named.and_then(|rest| rest.split_once('(')).map(|(name, _)| name.to_owned()));
        }
    }
    let (mut breaches, mut defences) = (Vec::new(), 0);
    for (at, line) in read(&root().join("compliance/threat-model.md")).lines().enumerate() {
        // A threat with its defence: the last cell names the tests that own it.
        let cells: Vec<_> = line.trim_matches('|').split('|').collect();
        let [_, _, held_by] = cells.as_slice() else { continue };
        let names: Vec<_> = held_by.split('`').skip(1).step_by(2).collect();
        defences += names.len();
        let gone = names.into_iter().filter(|name| !tests.contains(*name));
        breaches.extend(gone.map(|name| format!("compliance/threat-model.md:{}: no test `{name}`", at + 1)));
    }
    assert!(defences > 50, "this test no longer finds the tables: {defences}");
    none(&breaches, "a threat model that names a defence names the test that holds it");
}

fn is_small(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

#[test]
fn no_file_names_the_machine_it_was_made_on() {
    // Put together here, so that this file does not say them either.
    let paths = [["/wo", "rk/"], ["/ro", "ot/"], ["/tmp/ba", "sh"], ["/home/ru", "nner/"]].map(|parts| parts.concat());
    let hosts = [["artifac", "tory"], ["index.cra", "tes.io"], ["static.cra", "tes.io"], ["registry.np", "mjs.org"]]
        .into_iter()
        .chain([["files.python", "hosted.org"], ["proxy.gol", "ang.org"], ["repo.maven.", "apache.org"]])
        .map(|parts| parts.concat());
    let needles: Vec<_> = paths.into_iter().chain(hosts).collect();

    let mut breaches = Vec::new();
    for path in files() {
        let Ok(text) = fs::read_to_string(&path) else {
            continue; // Not text: golden bytes and pictures say nothing.
        };
        for (index, line) in text.lines().enumerate() {
            for needle in needles.iter().filter(|needle| stands_alone(line, needle)) {
                breaches.push(format!("{}:{}: `{needle}`", shown(&path), index + 1));
            }
        }
    }
    none(&breaches, "a path or host of one machine is no part of the project");
}

/// Whether `needle` is in `line` as the beginning of a path or name, not as the rest of a longer one (`$HOME/…`, `{dir}/…`).
fn stands_alone(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || "_-}])~.*".contains(c))
    })
}

#[test]
fn continuous_integration_calls_the_one_command_and_nothing_else() {
    let script = read(&root().join(".ci/run"));
    let commands: Vec<_> = script.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).collect();
    assert_eq!(commands, ["set -euo pipefail", "cd \"$(dirname \"$0\")/..\"", "cargo xtask test"]);
}
