//! A watched folder (or bundle file): what is put there is offered as the next bundle, once it has stopped changing.
//!
//! It is read again and again rather than listened to: notices of change do not cross network and container mounts, and
//! what counts is the bytes. Something is offered when two looks in a row saw the same bytes, so nothing half-written is;
//! what was refused is offered again only after it changed, and what failed (a disk that did not answer, a ledger that did
//! not take it) is tried again at the next look. Whatever happens here, what is in force stays until an offer
//! is committed. Absent: who may activate and the ledger entry, which the caller's offer goes through. Read next: `store`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_policy_bundle::{Bundle, Digest, MAX_TRANSPORT_BYTES, sha256};
use tracing::{error, info, warn};

use crate::folder::{FolderError, read_bounded, read_bundle, read_folder};
use crate::store::StoreError;

/// What one look saw.
#[derive(Debug)]
pub enum Look {
    /// What was seen before: nothing is to be done.
    Same,
    /// Something else than at the look before: it may still be written.
    Settling,
    /// Something new that did not change since the look before.
    Candidate(Box<Bundle>),
    /// Something new that is no bundle, or nothing that can be read. Told once.
    Bad(FolderError),
}

/// Why an offer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken<E> {
    /// It was judged: the same bytes are not offered again.
    Refused(E),
    /// It was judged, and whether it is taken is for people to say: the same bytes are not offered again.
    Left(E),
    /// It could not be judged or committed now: the same bytes are offered again, each time after a longer pause.
    Failed(E),
}

/// A disk that does not answer and work that was interrupted say nothing of the bundle; everything else judges it.
impl From<StoreError> for NotTaken<StoreError> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Interrupted | StoreError::Disk(FolderError::Io { .. }) => Self::Failed(error),
            judged => Self::Refused(judged),
        }
    }
}

/// A place that is looked at.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    /// What the last look saw; an unreadable place has no bytes.
    last: Option<Digest>,
    told: Told,
}

/// What was said of it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Unreadable,
    Bytes(Digest),
}

impl Watched {
    /// A folder or a bundle file; it need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), last: None, told: Told::Nothing }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is there now.
    pub fn look(&mut self) -> Look {
        let seen = match fingerprint(&self.path) {
            Ok(digest) => digest,
            Err(error) => {
                self.last = None;
                return self.unreadable(error);
            }
        };
        if self.told == Told::Bytes(seen) {
            self.last = Some(seen);
            return Look::Same;
        }
        if self.last.replace(seen) != Some(seen) {
            return Look::Settling;
        }
        match read_bundle(&self.path) {
            // Changed between the two reads: the next look sees it as new.
            Ok(_) if fingerprint(&self.path).ok() != Some(seen) => {
                self.told = Told::Nothing;
                Look::Settling
            }
            Ok(bundle) => {
                self.told = Told::Bytes(seen);
                Look::Candidate(Box::new(bundle))
            }
            // Nothing was learnt of the bytes: the next look reads them again.
            Err(error @ FolderError::Io { .. }) => self.unreadable(error),
            Err(error) => {
                self.told = Told::Bytes(seen);
                Look::Bad(error)
            }
        }
    }

    /// Said once for as long as it lasts.
    fn unreadable(&mut self, error: FolderError) -> Look {
        let before = std::mem::replace(&mut self.told, Told::Unreadable);
        if before == Told::Unreadable { Look::Same } else { Look::Bad(error) }
    }

    /// What was offered last is offered again at the next look, if it is still there.
    pub fn offer_again(&mut self) {
        self.told = Told::Nothing;
    }
}

/// The digest of everything that is there: names, lengths, bytes.
fn fingerprint(path: &Path) -> Result<Digest, FolderError> {
    let files = if path.is_dir() {
        read_folder(path)?
    } else {
        vec![(String::new(), read_bounded(path, MAX_TRANSPORT_BYTES)?)]
    };
    let mut all = Vec::new();
    for (name, bytes) in files {
        for part in [name.as_bytes(), &bytes] {
            all.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            all.extend_from_slice(part);
        }
    }
    Ok(sha256(&all))
}

/// Longest pause after what failed.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How long to wait, beside the usual, after so many failures in a row: a disk or a ledger that is in trouble is not helped
/// by being asked all the time.
fn pause(every: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => every.saturating_mul(2_u32.saturating_pow(doubled)).min(LONGEST_PAUSE),
    }
}

/// Looks at a place for as long as it is polled, and offers what is new. `offer` prepares, commits the ledger entry and
/// activates; whatever it refuses changes nothing and is reported once, and what failed is offered again. To stop, drop
/// the future.
pub async fn watch<O, F, E>(path: PathBuf, every: Duration, offer: O)
where
    O: FnMut(Bundle) -> F,
    F: Future<Output = Result<(), NotTaken<E>>>,
    E: std::fmt::Display,
{
    watch_by(Watched::look, path, every, offer).await;
}

async fn watch_by<L, O, F, E>(look: L, path: PathBuf, every: Duration, mut offer: O)
where
    L: Fn(&mut Watched) -> Look + Clone + Send + 'static,
    O: FnMut(Bundle) -> F,
    F: Future<Output = Result<(), NotTaken<E>>>,
    E: std::fmt::Display,
{
    let mut watched = Watched::new(path);
    let mut failures = 0_u32;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Files of a slow mount are not read on a thread that serves requests.
        let before = Watched { path: watched.path.clone(), last: None, told: watched.told };
        let look = look.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let look = look(&mut watched);
            (watched, look)
        });
        let look = match looked.await {
            Ok((again, look)) => {
                watched = again;
                look
            }
            // The program ends.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                watched = before;
                error!(path = %watched.path().display(), %error, "a look at the watched bundle failed; it goes on");
                continue;
            }
        };
        match look {
            Look::Same | Look::Settling => {}
            Look::Bad(trouble) => {
                warn!(path = %watched.path().display(), %trouble, "the watched bundle is not one; what is in force stays");
            }
            Look::Candidate(bundle) => {
                let digest = bundle.digest();
                let offered = offer(*bundle).await;
                failures = if matches!(offered, Err(NotTaken::Failed(_))) { failures.saturating_add(1) } else { 0 };
                match offered {
                    Ok(()) => info!(bundle = %digest, path = %watched.path().display(), "the watched bundle was taken"),
                    Err(NotTaken::Refused(trouble)) => {
                        warn!(bundle = %digest, %trouble, "the watched bundle is refused; what is in force stays");
                    }
                    Err(NotTaken::Left(what)) => {
                        info!(bundle = %digest, %what, "the watched bundle is left to people; what is in force stays");
                    }
                    Err(NotTaken::Failed(trouble)) => {
                        watched.offer_again();
                        warn!(bundle = %digest, %trouble, "the watched bundle could not be taken; it is offered again");
                        tokio::time::sleep(pause(every, failures)).await;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use countersign_policy_bundle::{Draft, Lineage, OrgId};

    use super::*;

    fn bundle(text: &str) -> Bundle {
        let files = [("README.md".to_owned(), text.as_bytes().to_vec())];
        let lineage =
            Lineage { organization: OrgId::from_bytes([1; 16]), version: 1, predecessor: None, root_version: 1 };
        Draft::from_files(files).unwrap().seal(lineage).unwrap()
    }

    fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
        fs::create_dir_all(folder).unwrap();
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_pause_up_to_a_minute() {
        let every = Duration::from_secs(5);
        let pauses: Vec<u64> = (0..8).map(|failures| pause(every, failures).as_secs()).collect();
        assert_eq!(pauses, [0, 5, 10, 20, 40, 60, 60, 60]);
        assert_eq!(pause(every, u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn what_still_changes_is_not_offered_and_what_was_seen_is_not_offered_twice() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("policy");
        let mut watched = Watched::new(&folder);
        assert!(matches!(watched.look(), Look::Bad(_)), "not there yet");
        assert!(matches!(watched.look(), Look::Same), "told once");

        let files = bundle("one").to_files().unwrap();
        let (name, bytes) = files.iter().next().unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), &bytes[..1]).unwrap();
        assert!(matches!(watched.look(), Look::Settling));
        write(&folder, &files);
        assert!(matches!(watched.look(), Look::Settling), "it changed since the look before");
        assert!(matches!(watched.look(), Look::Candidate(seen) if *seen == bundle("one")));
        assert!(matches!(watched.look(), Look::Same));

        fs::write(folder.join(name), "another").unwrap();
        assert!(matches!(watched.look(), Look::Settling));
        assert!(matches!(watched.look(), Look::Bad(FolderError::Bundle { .. })), "not what was sealed");
        assert!(matches!(watched.look(), Look::Same), "told once");
        write(&folder, &bundle("two").to_files().unwrap());
        assert!(matches!(watched.look(), Look::Settling));
        assert!(matches!(watched.look(), Look::Candidate(seen) if *seen == bundle("two")));
        write(&folder, &files);
        assert!(matches!(watched.look(), Look::Settling));
        assert!(
            matches!(watched.look(), Look::Candidate(seen) if *seen == bundle("one")),
            "an older one is judged again"
        );
        fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(watched.look(), Look::Bad(_)));
    }

    /// Offers what a look finds until it is taken, and says how often it was offered.
    fn offers(
        look: impl Fn(&mut Watched) -> Look + Clone + Send + 'static,
        answers: &[Result<(), NotTaken<&str>>],
    ) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.bundle");
        fs::write(&file, bundle("one").to_bytes().unwrap()).unwrap();
        let offered = std::cell::Cell::new(0);
        let offer = |seen: Bundle| {
            assert_eq!(seen, bundle("one"));
            let answer = answers.get(offered.get()).copied().unwrap_or(Ok(()));
            offered.set(offered.get() + 1);
            std::future::ready(answer)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let watching = watch_by(look, file, Duration::from_millis(2), offer);
            let enough = async {
                while offered.get() < answers.len() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                // Long enough for many more looks, and an offer too many.
                tokio::time::sleep(Duration::from_millis(300)).await;
            };
            tokio::select! {
                () = watching => panic!("the watch ended"),
                waited = tokio::time::timeout(Duration::from_secs(30), enough) => waited.unwrap(),
            }
        });
        offered.get()
    }

    #[test]
    fn what_failed_is_offered_again_and_what_was_refused_is_not() {
        let (failed, refused) = (Err(NotTaken::Failed("no disk")), Err(NotTaken::Refused("no signature")));
        assert_eq!(offers(Watched::look, &[failed, failed, Ok(())]), 3);
        assert_eq!(offers(Watched::look, &[failed, refused]), 2);
        assert_eq!(offers(Watched::look, &[refused]), 1);
    }

    #[test]
    fn a_look_that_panics_does_not_end_the_watch() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU32, Ordering};
        let looks = Arc::new(AtomicU32::new(0));
        let look = move |watched: &mut Watched| {
            if looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(4) {
                // Unlike `panic!`, it says nothing, which takes long with a backtrace.
                std::panic::resume_unwind(Box::new("a look that fails"));
            }
            watched.look()
        };
        assert_eq!(offers(look, &[Err(NotTaken::Refused("no signature"))]), 1, "and what was said is remembered");
    }

    #[test]
    fn what_could_not_be_read_once_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut watched = Watched::new(dir.path().join("policy.bundle"));
        let trouble = || FolderError::Io { path: PathBuf::new(), source: std::io::ErrorKind::TimedOut.into() };
        fs::write(watched.path(), bundle("one").to_bytes().unwrap()).unwrap();
        assert!(matches!(watched.look(), Look::Settling));
        assert!(matches!(watched.unreadable(trouble()), Look::Bad(_)));
        assert!(matches!(watched.unreadable(trouble()), Look::Same), "told once");
        assert!(matches!(watched.look(), Look::Candidate(seen) if *seen == bundle("one")));
        assert!(matches!(watched.look(), Look::Same));
        watched.offer_again();
        assert!(matches!(watched.look(), Look::Candidate(_)));
    }

    #[test]
    fn a_bundle_file_is_watched_like_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.bundle");
        fs::write(&file, bundle("one").to_bytes().unwrap()).unwrap();
        let mut watched = Watched::new(&file);
        assert!(matches!(watched.look(), Look::Settling));
        assert!(matches!(watched.look(), Look::Candidate(seen) if *seen == bundle("one")));
    }
}
