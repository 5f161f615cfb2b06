//! The anchor: a file outside the journal that remembers each log's newest checkpoint.
//!
//! A journal restored from an old backup is a consistent journal; only something outside it can tell. The anchor is
//! read when the ledger is opened, before anything is signed. It is written after COMMIT, never before: an anchor that
//! is behind the journal is harmless, one that is ahead of it would refuse a journal that lost nothing. It is written
//! off the way of a commit, at most once in an interval and once more at shutdown, because a second sync per commit
//! would halve the ledger's rate: so a rollback of less than the interval's work is not seen by it.
//!
//! The file is the signed notes one after another, in the order of their origins. Absent: witnesses and object
//! stores, which remember the same across machines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use countersign_ledger_entry::{VerifiedCheckpoint, note};

use crate::lock;

/// Splits the file into notes, each with the origin that it begins with.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let notes = note::apart(text)?.into_iter();
    Ok(notes.map(|note| (note.lines().next().unwrap_or_default().to_owned(), note.to_owned())).collect())
}

/// Reads the file; no file is an empty anchor, for the first start has none.
pub(crate) fn read(path: &Path) -> Result<Vec<(String, String)>, String> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(str::to_owned),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.to_string()),
    }
}

/// Keeps both sides of a disagreement beside the anchor, so that nothing overwrites what must be investigated.
pub(crate) fn keep_evidence(anchor: &Path, remembered: &str, local: &str) -> PathBuf {
    let mut name = anchor.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(".refused");
    let path = anchor.with_file_name(name);
    let text = format!("the anchor remembers:\n\n{remembered}\nthe journal holds:\n\n{local}");
    if let Err(error) = write_durably(&path, text.as_bytes()) {
        tracing::error!(path = %path.display(), %error, "the evidence could not be kept");
    }
    path
}

/// Replaces a file: after a crash it holds either the old bytes or the new ones, whole.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // Crash before this: the old file stands, and `.new` is overwritten next time.
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Crash before this: either name may be there after a power cut; both are whole.
    File::open(folder)?.sync_all()
}

/// Writes the anchor on a thread of its own.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    path: PathBuf,
    interval: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    notes: BTreeMap<String, String>,
    latest: BTreeMap<String, Arc<VerifiedCheckpoint>>,
    dirty: bool,
    closed: bool,
    failed: Option<String>,
}

impl Writer {
    /// Starts from what the file holds, so that logs that stay idle stay in it.
    pub(crate) fn start(path: &Path, interval: Duration, known: Vec<(String, String)>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            interval,
            state: Mutex::new(State { notes: known.into_iter().collect(), ..State::default() }),
            changed: Condvar::new(),
        });
        let thread = std::thread::Builder::new().name("ledger-anchor".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run()
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Notes that these checkpoints are committed. Cheap; called after every commit.
    pub(crate) fn remember(&self, checkpoints: impl IntoIterator<Item = Arc<VerifiedCheckpoint>>) {
        let mut state = lock(&self.shared.state);
        for checkpoint in checkpoints {
            state.latest.insert(checkpoint.checkpoint().origin.clone(), checkpoint);
        }
        if !std::mem::replace(&mut state.dirty, true) {
            self.shared.changed.notify_one();
        }
    }

    /// Why the last write failed; none if it did not.
    pub(crate) fn failed(&self) -> Option<String> {
        lock(&self.shared.state).failed.clone()
    }

    /// Writes what is left and ends.
    pub(crate) fn close(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the anchor's thread has panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let (bytes, closed) = {
                let mut state = lock(&self.state);
                while !state.dirty && !state.closed {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if !state.dirty {
                    return;
                }
                state.dirty = false;
                for (origin, checkpoint) in std::mem::take(&mut state.latest) {
                    state.notes.insert(origin, checkpoint.note().to_owned());
                }
                (state.notes.values().map(String::as_str).collect::<String>(), state.closed)
            };
            let failed = write_durably(&self.path, bytes.as_bytes()).err().map(|error| {
                tracing::warn!(path = %self.path.display(), %error, "the anchor was not written");
                error.to_string()
            });
            let mut state = lock(&self.state);
            state.failed = failed;
            if !closed && !state.closed {
                // A pause that a shutdown ends at once.
                let pause = self.changed.wait_timeout_while(state, self.interval, |state| !state.closed);
                drop(pause.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "a.example/01\n1\nAAAA\n\n— a.example/01 AAAA\n";
    const TWO: &str = "a.example/02\n7\nBBBB\n\n— a.example/02 BBBB\n— other CCCC\n";

    #[test]
    fn an_anchor_of_many_logs_is_read_back_note_by_note() {
        let both = format!("{ONE}{TWO}");
        let expected = [("a.example/01", ONE), ("a.example/02", TWO)].map(|(o, n)| (o.to_owned(), n.to_owned()));
        assert_eq!(parse(&both), Ok(expected.to_vec()));
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn an_anchor_that_was_cut_short_is_refused() {
        for cut in [&ONE[..ONE.len() - 1], "a.example/01\n1\nAAAA\n", "a.example/01\n1\nAAAA\n\n", "a"] {
            assert!(parse(cut).is_err(), "{cut:?}");
        }
    }

    #[test]
    fn a_missing_anchor_is_empty_and_a_written_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anchor");
        assert_eq!(read(&path), Ok(Vec::new()));
        write_durably(&path, ONE.as_bytes()).unwrap();
        write_durably(&path, TWO.as_bytes()).unwrap();
        assert_eq!(read(&path), Ok(vec![("a.example/02".to_owned(), TWO.to_owned())]));
    }
}
