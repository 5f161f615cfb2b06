//! Signed notes and checkpoints as others write them, and what is none.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;

const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_SEED: &str = "gQoUAtUUbI2E8kQzMPVAgOv5juF9nHT2JS/F1ccoMXM=";
const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
const TEXT: &str =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const LINE: &str =
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

/// A checkpoint of Go's checksum database, as it was served.
const SUM_KEY: &str = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
const SUM_NOTE: &str = "go.sum database tree\n31700353\nqINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=\n\n\
    — sum.golang.org Az3grnmrIUEDFqHzAElIQCPNoRFRAAdFo47fooyWKMHb89k11GJh5zHIfNCOBmwn/C3YI8oW9/C8DJ87F61QqspBYwM=\n";

/// The example of the signed-note specification.
const SPEC_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const SPEC_NOTE: &str = "This is an example message.\n\n— example.com/foo \
    Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

fn peter() -> VKey {
    PETER.parse().unwrap()
}

fn peters_key() -> SigningKey {
    SigningKey::from_bytes(&STANDARD.decode(PETER_SEED).unwrap().try_into().unwrap())
}

#[test]
fn the_published_note_verifies_and_is_signed_alike() {
    let note = format!("{TEXT}\n{LINE}");
    let parsed = Note::parse(&note).unwrap();
    assert_eq!(parsed.text, TEXT);
    assert_eq!(parsed.signers().collect::<Vec<_>>(), ["PeterNeumann"]);
    parsed.verify(&peter()).unwrap();
    // Ed25519 is deterministic: what we sign is what Go signed.
    assert_eq!(sign(TEXT, "PeterNeumann", &peters_key()), note);
}

#[test]
fn the_example_of_the_specification_verifies() {
    Note::parse(SPEC_NOTE).unwrap().verify(&SPEC_KEY.parse().unwrap()).unwrap();
}

#[test]
fn a_checkpoint_of_a_public_log_verifies() {
    let parsed = Note::parse(SUM_NOTE).unwrap();
    parsed.verify(&SUM_KEY.parse().unwrap()).unwrap();
    let checkpoint = Checkpoint::parse(parsed.text).unwrap();
    assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("go.sum database tree", 31_700_353));
    assert_eq!(checkpoint.text(), parsed.text);
}

#[test]
fn a_note_is_text_a_blank_line_and_signature_lines() {
    let unknown =
        "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";
    // Text of the note, whether it can be read, and whether it is Peter's.
    let many = format!("{TEXT}\n{}", LINE.repeat(64));
    let too_many = format!("{TEXT}\n{}", LINE.repeat(65));
    let long = format!("{}\n{LINE}", "x\n".repeat(40_000));
    let short = "— PeterNeumann x08go/ZJkuBS9UG/SffcvA==\n";
    let cases: [(&str, String, Option<bool>); 25] = [
        ("as published", format!("{TEXT}\n{LINE}"), Some(true)),
        ("another before", format!("{TEXT}\n{unknown}{LINE}"), Some(true)),
        ("another after", format!("{TEXT}\n{LINE}{unknown}"), Some(true)),
        ("twice", format!("{TEXT}\n{LINE}{LINE}"), Some(true)),
        ("64 lines", many, Some(true)),
        ("a text that has blank lines", format!("{TEXT}\n{TEXT}\n{LINE}"), Some(false)),
        ("only another", format!("{TEXT}\n{unknown}"), Some(false)),
        ("another text", format!("{TEXT}more\n\n{LINE}"), Some(false)),
        ("a known key with a signature that is too short", format!("{TEXT}\n{short}"), Some(false)),
        ("the key's id under another name", format!("{TEXT}\n{}", LINE.replace("PeterNeumann", "Peter")), Some(false)),
        (
            "one good and one bad of the same key",
            format!("{TEXT}\n{LINE}{}", LINE.replace("JnAM=", "JnAI=")),
            Some(false),
        ),
        ("65 lines", too_many, None),
        ("longer than 64 KiB", long, None),
        ("nothing", String::new(), None),
        ("no signature", TEXT.to_owned(), None),
        ("no signature after the blank line", format!("{TEXT}\n"), None),
        ("no blank line", format!("{TEXT}{LINE}"), None),
        ("no last line feed", format!("{TEXT}\n{}", LINE.trim_end()), None),
        ("a blank line after the signatures", format!("{TEXT}\n{LINE}\n"), None),
        ("a hyphen for the dash", format!("{TEXT}\n{}", LINE.replace('—', "-")), None),
        ("no name", format!("{TEXT}\n— {}", LINE.split(' ').nth(2).unwrap()), None),
        ("a name with a plus", format!("{TEXT}\n{}", LINE.replace("Neumann", "+Neumann")), None),
        ("a carriage return", format!("{TEXT}\n{LINE}").replace('\n', "\r\n"), None),
        ("a control character", format!("{TEXT}\u{1b}[2J\n\n{LINE}"), None),
        ("four bytes for a signature", format!("{TEXT}\n— PeterNeumann x08gow==\n"), None),
    ];
    for (what, note, expected) in cases {
        match (Note::parse(&note), expected) {
            (Ok(note), Some(peters)) => assert_eq!(note.verify(&peter()).is_ok(), peters, "{what}"),
            (Err(EntryError::Note(_)), None) => {}
            (result, _) => panic!("{what}: {result:?}"),
        }
    }
}

#[test]
fn an_absent_signature_and_a_wrong_one_are_told_apart() {
    let note = format!("{TEXT}\n{LINE}");
    let absent = Note::parse(&note).unwrap().verify(&ENOCH.parse().unwrap());
    assert!(matches!(absent, Err(EntryError::NotSignedBy(name)) if name == "EnochRoot"));
    let changed = note.replace("cryptography", "Cryptography");
    assert!(matches!(Note::parse(&changed).unwrap().verify(&peter()), Err(EntryError::Signature("note"))));
    // A known key whose signature fails makes the note invalid, whatever stands beside it.
    let other = sign("x\n", "PeterNeumann", &peters_key());
    let both = format!("{TEXT}\n{LINE}{}\n", other.lines().last().unwrap());
    assert!(matches!(Note::parse(&both).unwrap().verify(&peter()), Err(EntryError::Signature("note"))));
}

#[test]
fn base64_has_one_spelling() {
    let note = format!("{TEXT}\n{LINE}");
    for other in [note.replace("nAM=", "nAM"), note.replace("nAM=", "nAN="), note.replace("x08go/", "x08go_")] {
        assert_ne!(other, note);
        assert!(Note::parse(&other).is_err(), "{other}");
    }
}

#[test]
fn a_checkpoint_is_three_lines_in_their_shortest_form() {
    let root = STANDARD.encode([7; 32]);
    let good = format!("example.com/log\n123\n{root}\n");
    let parsed = Checkpoint::parse(&good).unwrap();
    assert_eq!(parsed, Checkpoint { origin: "example.com/log".to_owned(), size: 123, root: Hash([7; 32]) });
    assert_eq!(parsed.text(), good);
    for size in ["0", "18446744073709551615"] {
        let text = format!("x\n{size}\n{root}\n");
        assert_eq!(Checkpoint::parse(&text).unwrap().text(), text);
    }
    for bad in [
        String::new(),
        "\n".to_owned(),
        format!("\n1\n{root}\n"),
        format!("x\n1\n{root}"),
        format!("x\n1\n{root}\n\n"),
        format!("x\n1\n{root}\nextension\n"),
        format!("x\n01\n{root}\n"),
        format!("x\n+1\n{root}\n"),
        format!("x\n-1\n{root}\n"),
        format!("x\n 1\n{root}\n"),
        format!("x\n1e3\n{root}\n"),
        format!("x\n\n{root}\n"),
        format!("x\n18446744073709551616\n{root}\n"),
        format!("x\n1\n{}\n", STANDARD.encode([7; 31])),
        format!("x\n1\n{}\n", STANDARD.encode([7; 33])),
        format!("x\n1\n{}\n", root.trim_end_matches('=')),
        format!("x\n1\n{}\n", "!".repeat(44)),
        "x\n1\n\n".to_owned(),
    ] {
        assert!(matches!(Checkpoint::parse(&bad), Err(EntryError::Checkpoint(_))), "{bad:?}");
    }
}
