//! What an activation promises: nothing bad becomes active, nothing good is lost, no reader waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use countersign_policy_bundle::{CatalogueRef, Custody, RootDocument, RootKey, RootKeyEntry, Settings, Thresholds};

use super::*;

const NOW: Timestamp = Timestamp(1_000);

fn key(n: u8) -> RootKey {
    RootKey::from_seed(&format!("root-{n}"), &[n; 32]).unwrap()
}

fn org(n: u8) -> OrgId {
    OrgId::from_bytes([n; 16])
}

fn root(org: OrgId) -> SignedRoot {
    let keys = vec![RootKeyEntry { vkey: key(1).vkey().clone(), custody: Custody::Local }];
    let mut signed = SignedRoot::unsigned(RootDocument::first(org, keys, Thresholds::all(1)).unwrap());
    signed.sign(&key(1)).unwrap();
    signed
}

fn policy(id: &str) -> String {
    format!(
        "@id(\"{id}\") permit(principal is Countersign::Person, action == Countersign::Action::\"listTools\", \
         resource is Countersign::Organization);"
    )
}

const TEST: &str = r#"{"entities":[{"entity":"Person::ann","attrs":{"active":true}}],
  "cases":[{"name":"ann lists tools","expect":{"decision":"DECISION"},
            "ask":{"asked":"Person::ann","op":"listTools","resource":"Organization::self","now":1}}]}"#;

fn draft(text: &str, expected: &str) -> Draft {
    let files = [("policies.cedar", text.to_owned()), ("tests/a.json", TEST.replace("DECISION", expected))];
    Draft::from_files(files.map(|(path, text)| (path.to_owned(), text.into_bytes()))).unwrap()
}

fn sealed(org: OrgId, version: u64, predecessor: Option<Digest>, draft: Draft) -> Bundle {
    let mut bundle = draft.seal(Lineage { organization: org, version, predecessor, root_version: 1 }).unwrap();
    bundle.sign(&key(1));
    bundle
}

fn good(org: OrgId, version: u64, predecessor: Option<Digest>) -> Bundle {
    sealed(org, version, predecessor, draft(&policy(&format!("v{version}")), "allow"))
}

fn change(bundle: Bundle) -> Change {
    Change { bundle: Some(bundle), catalogue: None }
}

async fn activate(store: &Store, bundle: Bundle) -> Digest {
    let digest = bundle.digest();
    let org = bundle.manifest().organization;
    let prepared = store.prepare(org, change(bundle), NOW).await.unwrap();
    assert!(store.commit(prepared).await.remembered);
    assert_eq!(store.snapshot(&org).unwrap().digests().bundle, digest);
    digest
}

#[tokio::test]
async fn a_bundle_is_in_force_only_after_both_phases() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    assert!(matches!(
        store.prepare(org(1), change(good(org(1), 1, None)), NOW).await,
        Err(StoreError::UnknownOrganization(_))
    ));
    store.create(root(org(1))).await.unwrap();
    assert!(store.snapshot(&org(1)).unwrap().is_recovery());
    assert!(matches!(store.create(root(org(1))).await, Err(StoreError::Exists(_))));

    let prepared = store.prepare(org(1), change(good(org(1), 1, None)), NOW).await.unwrap();
    assert!(store.snapshot(&org(1)).unwrap().is_recovery(), "prepared is not in force");
    assert!(prepared.diff().weakens(), "the first permit lets something pass");
    drop(prepared);
    assert!(store.snapshot(&org(1)).unwrap().is_recovery(), "dropped changes nothing");

    let first = activate(&store, good(org(1), 1, None)).await;
    let active = store.active(&org(1)).unwrap();
    assert!(active.standing.as_ref().unwrap().local, "signed by a key that the gateway keeps");
    let lineage = store.next_lineage(org(1)).unwrap();
    assert_eq!((lineage.version, lineage.predecessor, lineage.root_version), (2, Some(first), 1));
    let second = activate(&store, good(org(1), 2, Some(first))).await;
    assert_eq!(active.snapshot.digests().bundle, first, "who began with the old policy ends with it");
    assert_eq!(store.bundle(org(1), first).await.unwrap().digest(), first, "the old one is still there for replay");
    assert_eq!(store.past(org(1), Some(first), None).await.unwrap().digests(), active.snapshot.digests());
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_bad_bundle_never_replaces_a_good_one() {
    type Wanted = fn(&StoreError) -> bool;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    store.create(root(org(1))).await.unwrap();
    store.create(root(org(2))).await.unwrap();
    let first = activate(&store, good(org(1), 1, None)).await;
    let second = activate(&store, good(org(1), 2, Some(first))).await;

    let mut unsigned = draft(&policy("x"), "allow")
        .seal(Lineage { organization: org(1), version: 3, predecessor: Some(second), root_version: 1 })
        .unwrap();
    let next = |text: &str, expected: &str| sealed(org(1), 3, Some(second), draft(text, expected));
    let expired = Draft {
        settings: Settings { expires: Some(Timestamp(NOW.0 - 1)), ..Settings::default() },
        ..draft(&policy("x"), "allow")
    };
    let cases: Vec<(&str, Bundle, Wanted)> = vec![
        ("nobody signed it", unsigned.clone(), |e| matches!(e, StoreError::Bundle(BundleError::Root(_)))),
        ("replayed", good(org(1), 1, None), |e| matches!(e, StoreError::Lineage { .. })),
        ("the active one again", good(org(1), 2, Some(first)), |e| matches!(e, StoreError::Lineage { .. })),
        ("forked", good(org(1), 3, Some(first)), |e| matches!(e, StoreError::Lineage { .. })),
        ("skipped", good(org(1), 4, Some(second)), |e| matches!(e, StoreError::Lineage { .. })),
        ("another organization's", good(org(2), 1, None), |e| {
            matches!(e, StoreError::Bundle(BundleError::Organization))
        }),
        ("expired", sealed(org(1), 3, Some(second), expired), |e| matches!(e, StoreError::Expired(_))),
        ("does not parse", next("permit(", "allow"), |e| matches!(e, StoreError::Rejected(_))),
        ("its test fails", next(&policy("x"), "deny"), |e| matches!(e, StoreError::Rejected(_))),
    ];
    for (what, bundle, wanted) in cases {
        let error = store.prepare(org(1), change(bundle), NOW).await.unwrap_err();
        assert!(wanted(&error), "{what}: {error}");
        assert_eq!(store.snapshot(&org(1)).unwrap().digests().bundle, second, "{what}");
    }
    unsigned.sign(&key(2));
    assert!(store.prepare(org(1), change(unsigned), NOW).await.is_err(), "a stranger's signature");
    assert!(matches!(store.prepare(org(1), Change::default(), NOW).await, Err(StoreError::Nothing)));
    activate(&store, good(org(1), 3, Some(second))).await;
}

#[tokio::test]
async fn the_next_start_loads_what_the_ledger_names() {
    let dir = tempfile::tempdir().unwrap();
    let genesis = root(org(1)).root.digest().unwrap();
    let (first, second);
    {
        let store = Store::new(dir.path());
        store.create(root(org(1))).await.unwrap();
        first = activate(&store, good(org(1), 1, None)).await;
        // The ledger's entry is durable, the process dies before the swap.
        let prepared = store.prepare(org(1), change(good(org(1), 2, Some(first))), NOW).await.unwrap();
        second = prepared.next().snapshot.digests().bundle;
    }
    let open = |last_good| async move {
        let store = Store::new(dir.path().to_owned());
        let opened = store.open(org(1), genesis, last_good).await;
        (store, opened, dir)
    };
    let (_, opened, dir) = open(LastGood::Remembered).await;
    assert_eq!(opened.unwrap().active.head, Some(first));
    let open = |last_good| {
        let folder = dir.path().to_owned();
        async move {
            let store = Store::new(folder);
            let opened = store.open(org(1), genesis, last_good).await;
            (store, opened)
        }
    };
    let ledgered = |bundle| LastGood::Ledgered { bundle, catalogue: None };
    let (store, opened) = open(ledgered(second)).await;
    assert!(opened.unwrap().trouble.is_none());
    assert_eq!(store.snapshot(&org(1)).unwrap().digests().bundle, second);
    let (_, opened) = open(LastGood::Remembered).await;
    assert_eq!(opened.unwrap().active.head, Some(second), "the pointer was corrected");
    let (_, opened) = open(LastGood::Nothing).await;
    assert!(opened.unwrap().active.snapshot.is_recovery());

    let other = Store::new(dir.path());
    assert!(other.open(org(1), Digest([3; 32]), LastGood::Nothing).await.is_err(), "another genesis");
    assert!(other.open(org(2), genesis, LastGood::Nothing).await.is_err(), "no such organization");
}

#[tokio::test]
async fn a_damaged_bundle_leaves_the_kernel_alone_and_no_older_one_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let genesis = root(org(1)).root.digest().unwrap();
    let (first, second);
    {
        let store = Store::new(dir.path());
        store.create(root(org(1))).await.unwrap();
        first = activate(&store, good(org(1), 1, None)).await;
        second = activate(&store, good(org(1), 2, Some(first))).await;
    }
    let bundles = dir.path().join(org(1).to_string()).join("bundles");
    let (old, new) = (bundles.join(format!("{first}.json")), bundles.join(format!("{second}.json")));
    let whole = std::fs::read(&new).unwrap();
    let damages: Vec<(&str, Vec<u8>)> =
        vec![("torn", whole[..whole.len() / 2].to_vec()), ("swapped", std::fs::read(&old).unwrap()), ("empty", vec![])];
    for (what, bytes) in damages {
        std::fs::write(&new, bytes).unwrap();
        let store = Store::new(dir.path());
        let last_good = LastGood::Ledgered { bundle: second, catalogue: None };
        let opened = store.open(org(1), genesis, last_good).await.unwrap();
        assert!(opened.trouble.is_some(), "{what}");
        assert!(opened.active.snapshot.is_recovery(), "{what}");
        assert!(matches!(store.next_lineage(org(1)), Err(StoreError::VersionUnknown(_))), "{what}");
        assert!(store.prepare(org(1), change(good(org(1), 2, Some(first))), NOW).await.is_err(), "{what}: replayed");
    }
    // A newly signed successor of what the ledger names repairs it.
    let store = Store::new(dir.path());
    store.open(org(1), genesis, LastGood::Ledgered { bundle: second, catalogue: None }).await.unwrap();
    activate(&store, good(org(1), 3, Some(second))).await;
}

#[tokio::test]
async fn a_catalogue_changes_only_if_the_bundle_in_force_still_passes() {
    let tool = |name: &str| {
        format!(r#"{{"tools":[{{"name":"{name}","input":{{"type":"object","properties":{{}}}},"risk":0}}]}}"#)
    };
    let catalogue = |name: &str| Catalogue::parse(tool(name).as_bytes()).unwrap();
    let text = format!(
        "{} @id(\"t\") permit(principal is Countersign::Person, action == Countersign::Action::\"callTool:a.b\", resource);",
        policy("p")
    );
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    store.create(root(org(1))).await.unwrap();
    let bundle = sealed(org(1), 1, None, draft(&text, "allow"));
    assert!(store.prepare(org(1), change(bundle.clone()), NOW).await.is_err(), "the tool is unknown");
    let both = Change { bundle: Some(bundle.clone()), catalogue: Some(catalogue("a.b")) };
    let prepared = store.prepare(org(1), both, NOW).await.unwrap();
    store.commit(prepared).await;
    let digest = store.snapshot(&org(1)).unwrap().digests();
    assert_eq!(digest.catalogue, catalogue("a.b").digest());
    let alone = Change { bundle: None, catalogue: Some(catalogue("c.d")) };
    assert!(matches!(store.prepare(org(1), alone, NOW).await, Err(StoreError::Rejected(_))));
    assert_eq!(store.snapshot(&org(1)).unwrap().digests(), digest);

    let genesis = root(org(1)).root.digest().unwrap();
    let again = Store::new(dir.path());
    let last_good = LastGood::Ledgered { bundle: digest.bundle, catalogue: Some(digest.catalogue) };
    assert!(again.open(org(1), genesis, last_good).await.unwrap().trouble.is_none());
    assert_eq!(again.snapshot(&org(1)).unwrap().digests(), digest);
}

#[tokio::test]
async fn a_bundle_that_names_a_catalogue_comes_into_force_with_that_one_alone() {
    let catalogue = |name: &str| {
        let text =
            format!(r#"{{"tools":[{{"name":"{name}","input":{{"type":"object","properties":{{}}}},"risk":0}}]}}"#);
        Catalogue::parse(text.as_bytes()).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    store.create(root(org(1))).await.unwrap();
    let mut named = draft(&policy("p"), "allow");
    named.settings.catalogue = Some(CatalogueRef { version: 1, digest: catalogue("a.b").digest() });
    let bundle = sealed(org(1), 1, None, named);
    for other in [None, Some(catalogue("c.d"))] {
        let change = Change { bundle: Some(bundle.clone()), catalogue: other };
        let error = store.prepare(org(1), change, NOW).await.unwrap_err();
        assert!(matches!(error, StoreError::OtherCatalogue { .. }), "{error}");
        assert!(error.to_string().contains(&catalogue("a.b").digest().to_string()), "{error}");
    }
    let same = Change { bundle: Some(bundle), catalogue: Some(catalogue("a.b")) };
    store.commit(store.prepare(org(1), same, NOW).await.unwrap()).await;
    // Tools change under it as under any other: the bundle is checked with them as it is.
    let later = Change { bundle: None, catalogue: Some(catalogue("c.d")) };
    let prepared = store.prepare(org(1), later, NOW).await.unwrap();
    assert!(prepared.report().to_string().contains("warning[catalogue]"), "{}", prepared.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_never_wait_and_never_see_half_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::new(dir.path()));
    store.create(root(org(1))).await.unwrap();
    let first = activate(&store, good(org(1), 1, None)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        move || {
            let mut seen = std::collections::BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                let active = store.active(&org(1)).expect("always one");
                assert_eq!(Some(active.snapshot.digests().bundle), active.head);
                assert_eq!(active.bundle.as_ref().map(|b| b.digest()), active.head);
                seen.insert(active.head);
            }
            seen.len()
        }
    });
    let mut last = first;
    for version in 2..6 {
        last = activate(&store, good(org(1), version, Some(last))).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() >= 2);

    // Of two that follow the same one, one wins: the second waits its turn and is then a fork.
    let one = good(org(1), 6, Some(last));
    let two = sealed(org(1), 6, Some(last), draft(&policy("other"), "allow"));
    let race = |bundle: Bundle| {
        let store = Arc::clone(&store);
        async move {
            match store.prepare(org(1), change(bundle), NOW).await {
                Ok(prepared) => {
                    store.commit(prepared).await;
                    true
                }
                Err(_) => false,
            }
        }
    };
    let (a, b) = tokio::join!(race(one), race(two));
    assert!(a ^ b);
}

#[tokio::test]
async fn the_next_root_document_governs_the_next_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    store.create(root(org(1))).await.unwrap();
    let first = activate(&store, good(org(1), 1, None)).await;
    let chain = store.root_chain(&org(1)).unwrap();
    let keys = vec![RootKeyEntry { vkey: key(2).vkey().clone(), custody: Custody::Offline }];
    let next = chain.current().successor(keys, Thresholds::all(1), [key(1).vkey().id().clone()]).unwrap();
    let mut signed = SignedRoot::unsigned(next);
    signed.sign(&key(2)).unwrap();
    assert!(store.add_root(org(1), signed.clone()).await.is_err(), "the old key has to sign too");
    signed.sign(&key(1)).unwrap();
    store.add_root(org(1), signed).await.unwrap();
    assert!(store.prepare(org(1), change(good(org(1), 2, Some(first))), NOW).await.is_err(), "the old key");

    let lineage = Lineage { organization: org(1), version: 2, predecessor: Some(first), root_version: 2 };
    let mut bundle = draft(&policy("v2"), "allow").seal(lineage).unwrap();
    bundle.sign(&key(2));
    let second = activate(&store, bundle).await;

    let genesis = root(org(1)).root.digest().unwrap();
    let again = Store::new(dir.path());
    let good = LastGood::Ledgered { bundle: second, catalogue: None };
    assert!(again.open(org(1), genesis, good).await.unwrap().trouble.is_none(), "roots are read back");
    let revoked = Store::new(dir.path());
    let old = LastGood::Ledgered { bundle: first, catalogue: None };
    assert!(
        revoked.open(org(1), genesis, old).await.unwrap().trouble.is_some(),
        "a revoked key keeps nothing in force"
    );
}

/// Asks real questions until it is told to stop; counts them.
fn asker(store: &Arc<Store>, stop: &Arc<AtomicBool>) -> (std::thread::JoinHandle<()>, Arc<AtomicUsize>) {
    use countersign_policy_decide::{EntityRef, EntityStore, Operation, PersonFacts, Question, Record, decide};

    let entities = EntityStore::new();
    let ann = EntityRef::parse(org(1), "Person::ann").unwrap();
    let facts = PersonFacts { active: true, ..PersonFacts::default() };
    entities.put(Record::person(org(1), ann.id.clone(), facts, NOW)).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (store, stop, count) = (Arc::clone(store), Arc::clone(stop), Arc::clone(&asked));
    let thread = std::thread::spawn(move || {
        let question = Question::new(ann, Operation::ListTools, EntityRef::organization(org(1)), NOW);
        while !stop.load(Ordering::Relaxed) {
            let active = store.active(&org(1)).expect("always one");
            let version = active.bundle.as_ref().expect("never less than a bundle").manifest().version;
            let answer = decide(&active.snapshot, &entities.slice(&active.snapshot, &question), &question);
            // The policy that says it is the one of the bundle that is in force: nothing of two bundles is mixed.
            assert_eq!(answer.determining, [countersign_policy_bundle::Name::new(&format!("v{version}")).unwrap()]);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (thread, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_question_is_dropped_or_blocked_while_policy_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::new(dir.path()));
    store.create(root(org(1))).await.unwrap();
    let mut last = activate(&store, good(org(1), 1, None)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..3).map(|_| asker(&store, &stop)).collect();
    let all_go_on = || async {
        let before: Vec<usize> = askers.iter().map(|(_, asked)| asked.load(Ordering::Relaxed)).collect();
        let further = || askers.iter().zip(&before).all(|((_, asked), b)| asked.load(Ordering::Relaxed) >= b + 20);
        let wait = async {
            while !further() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_mins(1), wait).await.expect("nobody waits for a change");
    };
    for version in 2..12 {
        // The organization's turn is held, and everybody who asks goes on.
        let prepared = store.prepare(org(1), change(good(org(1), version, Some(last))), NOW).await.unwrap();
        all_go_on().await;
        last = prepared.next().snapshot.digests().bundle;
        store.commit(prepared).await;
        all_go_on().await;
        // One that is refused changes nothing for them.
        assert!(store.prepare(org(1), change(good(org(1), version, Some(last))), NOW).await.is_err());
    }
    stop.store(true, Ordering::Relaxed);
    for (thread, _) in askers {
        thread.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_folder_activates_what_is_good_and_keeps_the_last_good_one_whatever_is_put_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("watched");
    let store = Arc::new(Store::new(dir.path().join("store")));
    store.create(root(org(1))).await.unwrap();
    let put = |bundle: &Bundle| {
        let _ = std::fs::remove_dir_all(&folder);
        for (name, bytes) in bundle.to_files().unwrap() {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    };
    let (told, mut news) = tokio::sync::mpsc::channel(8);
    let watching = tokio::spawn(crate::watch(folder.clone(), std::time::Duration::from_millis(5), {
        let store = Arc::clone(&store);
        move |bundle| {
            let (store, told) = (Arc::clone(&store), told.clone());
            async move {
                let digest = bundle.digest();
                let result = match store.prepare(org(1), change(bundle), NOW).await {
                    Ok(prepared) => {
                        // Here the gateway commits its ledger entry.
                        store.commit(prepared).await;
                        Ok(())
                    }
                    Err(error) => Err(crate::NotTaken::from(error)),
                };
                told.send((digest, result.is_ok())).await.unwrap();
                result
            }
        }
    }));
    let mut next = async || {
        let wait = tokio::time::timeout(std::time::Duration::from_mins(1), news.recv());
        wait.await.expect("the folder is looked at").unwrap()
    };
    let first = good(org(1), 1, None);
    put(&first);
    assert_eq!(next().await, (first.digest(), true));
    let in_force = || store.snapshot(&org(1)).unwrap().digests().bundle;
    assert_eq!(in_force(), first.digest());

    let bad = sealed(org(1), 2, Some(first.digest()), draft(&policy("x"), "deny"));
    put(&bad);
    assert_eq!(next().await, (bad.digest(), false), "its test fails");
    assert_eq!(in_force(), first.digest());
    put(&first);
    assert_eq!(next().await, (first.digest(), false), "replayed");
    // No bundle at all: never offered; the next good one is.
    std::fs::write(folder.join("policies.cedar"), "permit(").unwrap();
    let second = good(org(1), 2, Some(first.digest()));
    put(&second);
    assert_eq!(next().await, (second.digest(), true));
    assert_eq!(in_force(), second.digest());
    std::fs::remove_dir_all(&folder).unwrap();
    watching.abort();
    assert_eq!(in_force(), second.digest(), "what is in force does not depend on the folder");
}
