//! What the two forms, the digest and the signatures of a bundle promise.
#![expect(clippy::unwrap_used, reason = "tests")]

use countersign_gateway_model::{OrgId, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::manifest::Shadowed;
use crate::root::{Custody, RootDocument, RootKeyEntry, SignedRoot, Thresholds};

fn key(n: u8) -> RootKey {
    RootKey::from_seed(&format!("root-{n}"), &[n; 32]).unwrap()
}

fn org() -> OrgId {
    OrgId::from_bytes([7; 16])
}

fn chain() -> RootChain {
    let entry = |n, custody| RootKeyEntry { vkey: key(n).vkey().clone(), custody };
    let keys = vec![entry(1, Custody::Offline), entry(2, Custody::Offline), entry(3, Custody::Local)];
    let thresholds = Thresholds { recovery: 3, ..Thresholds::all(2) };
    let mut signed = SignedRoot::unsigned(RootDocument::first(org(), keys, thresholds).unwrap());
    signed.sign(&key(1)).unwrap();
    signed.sign(&key(2)).unwrap();
    RootChain::first(signed).unwrap()
}

fn lineage(version: u64) -> Lineage {
    let predecessor = (version > 1).then_some(Digest([9; 32]));
    Lineage { organization: org(), version, predecessor, root_version: 1 }
}

fn draft() -> Draft {
    Draft::from_files([
        ("policies.cedar".to_owned(), b"// \xc3\xa4 \"quoted\"\r\n\tpermit\n".to_vec()),
        ("tests/a.json".to_owned(), b"{ }".to_vec()),
        ("README.md".to_owned(), b"".to_vec()),
    ])
    .unwrap()
}

fn sealed() -> Bundle {
    draft().seal(lineage(1)).unwrap()
}

#[test]
fn a_bundle_is_verified_by_the_threshold_its_purpose_asks_for() {
    let mut bundle = sealed();
    let digest = bundle.digest();
    bundle.sign(&key(1));
    assert!(matches!(
        bundle.verify_candidate(&chain()),
        Err(BundleError::Root(RootError::Threshold { got: 1, wanted: 2, .. }))
    ));
    bundle.sign(&key(2));
    assert!(!bundle.verify_candidate(&chain()).unwrap().local);
    assert_eq!(bundle.digest(), digest, "signatures do not change the name");
    bundle.sign(&key(3));
    assert!(!bundle.verify_candidate(&chain()).unwrap().local, "the key kept by the gateway is not enough alone");

    let recovery = Settings { purpose: Purpose::Recovery, ..Settings::default() };
    let mut recovery = Draft { settings: recovery, ..draft() }.seal(lineage(1)).unwrap();
    recovery.sign(&key(1));
    recovery.sign(&key(2));
    assert!(recovery.verify_candidate(&chain()).is_err());
    recovery.sign(&key(3));
    assert!(recovery.verify_candidate(&chain()).is_ok());
}

#[test]
fn a_bundle_of_another_organization_or_root_version_does_not_become_active() {
    let with = |lineage: Lineage| {
        let mut bundle = draft().seal(lineage).unwrap();
        bundle.sign(&key(1));
        bundle.sign(&key(2));
        bundle.verify_candidate(&chain())
    };
    assert!(with(lineage(1)).is_ok());
    let foreign = Lineage { organization: OrgId::from_bytes([8; 16]), ..lineage(1) };
    assert!(matches!(with(foreign), Err(BundleError::Organization)));
    assert!(matches!(with(Lineage { root_version: 2, ..lineage(1) }), Err(BundleError::RootVersion { .. })));
}

#[test]
fn an_older_bundle_however_well_signed_does_not_come_back() {
    let next = |version, predecessor| {
        draft().seal(Lineage { organization: org(), version, predecessor, root_version: 1 }).unwrap()
    };
    let first = next(1, None);
    let second = draft().seal(first.next_lineage()).unwrap();
    assert!(second.follows(&first).is_ok());
    for (what, replayed) in [
        ("the first one again", first.clone()),
        ("itself", second.clone()),
        ("a fork", next(3, Some(first.digest()))),
        ("a leap", next(4, Some(second.digest()))),
        ("a step back", next(2, Some(second.digest()))),
    ] {
        assert!(matches!(replayed.follows(&second), Err(BundleError::Succession { wanted: 3, .. })), "{what}");
    }
    let rollback = first.to_draft().seal(second.next_lineage()).unwrap();
    assert!(rollback.follows(&second).is_ok(), "old content in a new manifest is the way back");
    let foreign = Lineage { organization: OrgId::from_bytes([8; 16]), ..second.next_lineage() };
    assert!(matches!(draft().seal(foreign).unwrap().follows(&second), Err(BundleError::Organization)));
}

#[test]
fn a_changed_missing_or_added_file_breaks_the_seal() {
    type Raw = BTreeMap<String, Vec<u8>>;
    let files = sealed().to_files().unwrap();
    assert_eq!(Bundle::from_files(files.clone()).unwrap(), sealed());
    let with = |edit: &dyn Fn(&mut Raw)| {
        let mut files = files.clone();
        edit(&mut files);
        Bundle::from_files(files).unwrap_err()
    };
    assert!(matches!(with(&|f| drop(f.insert("tests/a.json".into(), vec![]))), BundleError::Changed(_)));
    assert!(matches!(with(&|f| drop(f.remove("tests/a.json"))), BundleError::Missing(_)));
    assert!(matches!(with(&|f| drop(f.insert("tests/b.json".into(), vec![]))), BundleError::Unlisted(_)));
    assert!(matches!(with(&|f| drop(f.remove("bundle.json"))), BundleError::NoManifest));
    assert!(matches!(with(&|f| f.get_mut("bundle.json").unwrap().push(b'\n')), BundleError::Document { .. }));
}

#[test]
fn a_manifest_with_an_unknown_field_or_an_impossible_value_is_refused() {
    let text = String::from_utf8(sealed().to_files().unwrap().remove("bundle.json").unwrap()).unwrap();
    for (from, to) in [
        ("\"format\":1", "\"extra\":1,\"format\":1"),
        ("\"format\":1", "\"format\":2"),
        ("\"version\":1", "\"version\":0"),
        ("\"version\":1", "\"version\":2"),
        ("\"shadow\":{", "\"shadow\":{\"more\":[],"),
        ("\"purpose\":\"regular\"", "\"purpose\":\"other\""),
        ("\"policies\":[]", "\"policies\":[{\"id\":\"b\",\"until\":1},{\"id\":\"a\",\"until\":1}]"),
        ("\"transforms\":[]", "\"transforms\":[\"a\",\"a\"]"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let mut files = sealed().to_files().unwrap();
        files.insert("bundle.json".to_owned(), changed.into_bytes());
        assert!(Bundle::from_files(files).is_err(), "{to}");
    }
}

#[test]
fn a_draft_keeps_settings_and_forgets_seals() {
    let until = Shadowed { id: Name::new("p").unwrap(), until: Timestamp(5) };
    let settings = Settings {
        shadow: Shadow { policies: vec![until], workflows: vec![] },
        expires: Some(Timestamp(9)),
        ..Settings::default()
    };
    let mut bundle = Draft { settings: settings.clone(), ..draft() }.seal(lineage(1)).unwrap();
    bundle.sign(&key(1));
    let mut files = bundle.to_files().unwrap();
    files.insert("policies.cedar".to_owned(), b"edited".to_vec());
    let draft = Draft::from_files(files).unwrap();
    assert_eq!(draft.settings, settings);
    let next = draft.seal(lineage(2)).unwrap();
    assert!(next.signatures().is_empty());
    assert_ne!(next.digest(), bundle.digest());
    let typo = Draft::from_files([("bundle.json".to_owned(), br#"{"shadows":{}}"#.to_vec())]);
    assert!(matches!(typo, Err(BundleError::Document { .. })));
}

proptest! {
    #[test]
    fn both_forms_round_trip_exactly(
        texts in proptest::collection::btree_map("policies/[a-z]{1,8}\\.cedar|tests/[a-z]{1,6}\\.json|[A-Z]{1,6}\\.md", ".*", 0..8),
        version in 1u64..9,
        signers in proptest::collection::vec(1u8..5, 0..4),
    ) {
        let raw = texts.iter().map(|(path, text)| (path.clone(), text.clone().into_bytes()));
        let mut bundle = Draft::from_files(raw).unwrap().seal(lineage(version)).unwrap();
        for n in &signers {
            bundle.sign(&key(*n));
        }
        let files = bundle.to_files().unwrap();
        let bytes = bundle.to_bytes().unwrap();
        let from_files = Bundle::from_files(files.clone()).unwrap();
        let from_bytes = Bundle::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&from_files, &bundle);
        prop_assert_eq!(&from_bytes, &bundle);
        prop_assert_eq!(from_files.to_bytes().unwrap(), bytes);
        prop_assert_eq!(from_bytes.to_files().unwrap(), files);
    }

    #[test]
    fn no_changed_byte_of_the_transport_form_is_accepted(at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let mut bundle = sealed();
        bundle.sign(&key(1));
        bundle.sign(&key(2));
        let mut bytes = bundle.to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let accepted = Bundle::from_bytes(&bytes).ok().and_then(|b| b.verify_candidate(&chain()).ok());
        prop_assert!(accepted.is_none());
    }
}

/// Sizes and counts: what is at the limit is taken, what is beyond has an error of its own.
#[test]
fn every_limit_of_a_bundle_holds_with_an_error_of_its_own() {
    let shadow = |n: usize| Settings {
        shadow: Shadow {
            policies: (0..n)
                .map(|i| Shadowed { id: Name::new(&format!("p{i:04}")).unwrap(), until: Timestamp(5) })
                .collect(),
            workflows: vec![],
        },
        ..Settings::default()
    };
    let transforms = |n: usize| Settings {
        transforms: (0..n).map(|i| Name::new(&format!("t{i:04}")).unwrap()).collect(),
        ..Settings::default()
    };
    let seal = |settings: Settings| Draft { settings, ..draft() }.seal(lineage(1));
    let (most_shadowed, most_transforms) = (crate::manifest::MAX_SHADOWED, crate::manifest::MAX_TRANSFORMS);
    assert!(seal(shadow(most_shadowed)).is_ok() && seal(transforms(most_transforms)).is_ok());
    let error = seal(shadow(most_shadowed + 1)).unwrap_err().to_string();
    assert!(error.contains("shadow.policies") && error.contains("256"), "{error}");
    let error = seal(transforms(most_transforms + 1)).unwrap_err().to_string();
    assert!(error.contains("transforms") && error.contains("64"), "{error}");

    // A manifest's size is bounded by its files' names; one that is padded is not read at all.
    let padded = vec![b' '; MAX_MANIFEST_BYTES + 1];
    for file in [MANIFEST_FILE, SIGNATURES_FILE] {
        let read = Bundle::from_files([(file.to_owned(), padded.clone())]);
        assert!(matches!(read, Err(BundleError::TooLarge(n)) if n == MAX_MANIFEST_BYTES + 1), "{file}");
    }
    assert!(matches!(Bundle::from_bytes(&vec![b' '; MAX_TRANSPORT_BYTES + 1]), Err(BundleError::TooLarge(_))));

    let mut signed = sealed();
    for n in 0..crate::signature::MAX_SIGNATURES {
        signed.sign(&RootKey::from_seed(&format!("k{n:03}"), &[u8::try_from(n).unwrap(); 32]).unwrap());
    }
    assert_eq!(Bundle::from_bytes(&signed.to_bytes().unwrap()).unwrap(), signed);
    signed.sign(&RootKey::from_seed("one-more", &[200; 32]).unwrap());
    let error = Bundle::from_bytes(&signed.to_bytes().unwrap()).unwrap_err().to_string();
    assert!(error.contains("more than 64 signatures"), "{error}");
}

/// What is signed for ever. A change of one of these bytes is another format, with another number.
#[test]
fn the_bytes_of_format_1_stay_as_they_are() {
    let settings = Settings {
        shadow: Shadow {
            policies: vec![Shadowed { id: Name::new("p").unwrap(), until: Timestamp(5) }],
            workflows: vec![],
        },
        transforms: vec![Name::new("mask-pan").unwrap()],
        catalogue: Some(CatalogueRef { version: 3, digest: Digest([3; 32]) }),
        expires: Some(Timestamp(9)),
        purpose: Purpose::Recovery,
    };
    let files = Files::new([("policies.cedar".to_owned(), b"// none\n".to_vec())]).unwrap();
    let mut bundle = Draft { settings, files }.seal(lineage(2)).unwrap();
    bundle.sign(&key(1));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let files = bundle.to_files().unwrap();
    assert_eq!(text(files["bundle.json"].clone()), MANIFEST);
    assert_eq!(bundle.digest().to_string(), DIGEST);
    assert_eq!(text(files["signatures.json"].clone()), SIGNATURES);
    let files = r#"{"policies.cedar":"// none\n"}"#;
    let transport = format!(
        r#"{{"files":{files},"manifest":{MANIFEST},"signatures":{SIGNATURES},"type":"countersign-bundle/v1"}}"#
    );
    assert_eq!(text(bundle.to_bytes().unwrap()), transport);
    assert_eq!(text(chain().documents()[0].to_bytes().unwrap()), ROOT);
}

const MANIFEST: &str = concat!(
    r#"{"catalogue":{"digest":"0303030303030303030303030303030303030303030303030303030303030303","versi"#,
    r#"on":3},"expires":9,"files":{"policies.cedar":"354761a0f01952c4803cece78326ef479738f59c8fc26dbea5"#,
    r#"512eb61719b813"},"format":1,"organization":"org_07070707070707070707070707070707","predecessor":"#,
    r#""0909090909090909090909090909090909090909090909090909090909090909","purpose":"recovery","root_ve"#,
    r#"rsion":1,"shadow":{"policies":[{"id":"p","until":5}],"workflows":[]},"transforms":["mask-pan"],""#,
    r#"version":2}"#,
);
const DIGEST: &str = "7d96bb00d837e59b7c7d4ca4c4b1034bda054187654a63df52837a7f5ae37e56";
const SIGNATURES: &str = concat!(
    r#"[{"key":"root-1+fc09beeb","sig":"0qXl8xoUCAC8eVHvHfE/6hswGqdLoOCq8NhpiNapZWGyh1idO4m6cbKbTit58CO"#,
    r#"fXWs7GlOMLmbUQ1601xK9Dg=="}]"#,
);
const ROOT: &str = concat!(
    r#"{"root":{"format":1,"keys":[{"custody":"offline","vkey":"root-1+fc09beeb+AYqI4910CfGV/VLbLTy6XXL"#,
    r#"KZwm/HZQSG/N0iAG0D29c"},{"custody":"offline","vkey":"root-2+c483fc94+AYE5dw6ofRdfVqNUZsNMfszLjYq"#,
    r#"RtO43ol32D1uPybOU"},{"custody":"local","vkey":"root-3+36820e68+Ae1JKMYo0cLG6ukDOJBZlWEpWSc6XGP5N"#,
    r#"jbBRhSshzfR"}],"organization":"org_07070707070707070707070707070707","previous":null,"revoked":["#,
    r#"],"thresholds":{"bundle":2,"catalogue":2,"recovery":3,"root":2},"version":1},"signatures":[{"key"#,
    r#"":"root-1+fc09beeb","sig":"+EoftvIlBD0lxCTGqVOb8D/8Uqm8ackvjnJSTwQduMr7to671WCWs7nN2tZdbTCWnRTZp"#,
    r#"VhVARFqAKKJqs5MAQ=="},{"key":"root-2+c483fc94","sig":"EPsjBzpVw7gYvkokLAwSCOdVFnK4QKFi24hsj1SCbS"#,
    r#"CYVnuag1mjl8cR/3PVo7YiDyhKbmHgjbsWXaOZ+NgwAA=="}]}"#,
);
