//! A process under strace, and the disk that its calls leave behind when the power fails.
//!
//! strace writes down every call that changes a file of the data folder, with its bytes, in the order in which they happened.
//! [`Disk`] plays them again and keeps apart what was synced from what was not. An image of it is what a disk may hold
//! after a power cut: all that was synced, and of the rest any part, sector by sector, in any order. Absent: a sector that
//! is itself torn, and a disk that lies about a sync.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file uses a part of it"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Tells the process that it is the one to be traced, and where it works.
pub const FOLDER: &str = "LEDGER_TEST_FOLDER";

/// What a disk writes whole.
const SECTOR: usize = 512;

/// Files whose contents are not part of what must survive: the lock, and the index that SQLite makes anew.
const FLEETING: [&str; 2] = ["ledger.lock", "ledger.db-shm"];

/// Calls that the model knows. A `?` says that some machines have no such call.
const KNOWN: &str = "openat,?open,write,pwrite64,fsync,fdatasync,ftruncate,?unlink,unlinkat";

/// Calls that change files in ways that the model does not know: seen on the folder, they fail the test.
const UNKNOWN: &str = "?creat,writev,pwritev,?pwritev2,sync_file_range,?truncate,fallocate,?rename,?renameat,renameat2,\
                       ?link,linkat,?symlink,symlinkat,?sendfile,copy_file_range,splice,?sync,syncfs,msync";

/// strace, or why this test cannot run; with `CI=true` the runner of the tests counts that as failed.
pub fn strace_or_skip(test: &str) -> bool {
    let there = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|s| s.success());
    if !there {
        let line = format!("skipped: {test}: `strace` is missing or may not trace: apt-get install strace\n");
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    }
    there
}

/// What a traced process did.
pub struct Trace {
    pub events: Vec<Event>,
    pub status: ExitStatus,
    /// Calls that strace has made fail or skipped.
    pub injected: Vec<Injected>,
}

/// A call that was tampered with.
#[derive(Clone, Debug)]
pub struct Injected {
    pub call: String,
    pub path: String,
    /// Place among the events.
    pub at: usize,
    pub thread: u32,
}

/// Something that happened to the folder, or was said on standard error.
#[derive(Clone, Debug)]
pub enum Event {
    Create {
        name: String,
    },
    Write {
        name: String,
        offset: u64,
        bytes: Vec<u8>,
        thread: u32,
    },
    Resize {
        name: String,
        length: u64,
    },
    Remove {
        name: String,
    },
    /// What comes before is on its way; it is durable once the sync has ended.
    SyncBegins {
        sync: usize,
        name: String,
        thread: u32,
    },
    SyncEnds {
        sync: usize,
        worked: bool,
    },
    Said(String),
}

/// Runs `test` of this test binary again under strace, on `folder`, with further arguments for strace.
pub fn run(test: &str, folder: &Path, inject: &[String], environment: &[(&str, &str)]) -> Trace {
    let temp = tempfile::tempdir().unwrap();
    let output = temp.path().join("trace");
    let folder = folder.canonicalize().unwrap();
    let status = Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "1000000", "-e", "signal=none", "-e"])
        .arg(format!("trace={KNOWN},{UNKNOWN},?pread64"))
        .args(inject)
        .arg("-o")
        .arg(&output)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, &folder)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    // Bytes that are not ASCII are written as escapes.
    parse(&std::fs::read_to_string(&output).unwrap(), &folder, status)
}

/// A call, put together from the two lines that it may stand in.
struct Call {
    thread: u32,
    name: String,
    arguments: String,
    /// None: it never came back.
    result: Option<i64>,
    injected: bool,
    begin: usize,
    end: usize,
}

fn parse(text: &str, folder: &Path, status: ExitStatus) -> Trace {
    let (mut open, mut unseen): (HashMap<u32, Call>, HashSet<u32>) = Default::default();
    let mut calls = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let thread: u32 = thread.parse().unwrap();
        let rest = rest.trim_start();
        // Signals, ends, and a call that strace had not yet seen when its process ended.
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if rest.starts_with("???(") {
            unseen.insert(thread);
            continue;
        }
        let (mut call, ending) = if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, ending) = resumed.split_once(" resumed>").unwrap();
            let Some(call) = open.remove(&thread) else {
                assert!(unseen.remove(&thread), "a call comes back that never began: {line}");
                continue;
            };
            (call, ending.to_owned())
        } else {
            let (name, ending) = rest.split_once('(').unwrap();
            let name = name.to_owned();
            let call = Call {
                thread,
                name,
                arguments: String::new(),
                result: None,
                injected: false,
                begin: at,
                end: lines.len(),
            };
            (call, ending.to_owned())
        };
        let cut = ending.strip_suffix("<unfinished ...>").or_else(|| ending.strip_suffix("<detached ...>"));
        if let Some(part) = cut {
            call.arguments.push_str(part);
            open.insert(thread, call);
            continue;
        }
        // The last one: file contents may hold the same characters, results do not.
        let Some((arguments, result)) = ending.rsplit_once(" = ") else { panic!("strace wrote `{line}`") };
        call.arguments.push_str(arguments.trim_end().strip_suffix(')').unwrap());
        call.injected = result.ends_with("(INJECTED)");
        call.result = result.split_whitespace().next().and_then(|r| r.split('<').next()?.parse().ok());
        call.end = at;
        calls.push(call);
    }
    calls.extend(open.into_values());
    events(calls, folder, status)
}

fn events(calls: Vec<Call>, folder: &Path, status: ExitStatus) -> Trace {
    let prefix = format!("{}/", folder.display());
    let mut placed: Vec<(usize, Event)> = Vec::new();
    let mut tampered = Vec::new();
    for (sync, call) in calls.into_iter().enumerate() {
        let fd_path = call.arguments.split_once('<').and_then(|(_, rest)| Some(rest.split_once('>')?.0.to_owned()));
        let quoted = || call.arguments.split_once('"').and_then(|(_, rest)| Some(rest.split_once('"')?.0.to_owned()));
        let path = match call.name.as_str() {
            "open" | "openat" | "unlink" | "unlinkat" => quoted(),
            _ => fd_path,
        };
        let path = path.unwrap_or_default();
        let own = if Path::new(&path) == folder { Some("") } else { path.strip_prefix(&prefix) };
        if call.injected {
            tampered.push((call.begin, call.name.clone(), path.clone(), call.thread));
        }
        let thread = call.thread;
        if call.name == "write" && call.arguments.starts_with("2<") {
            let text = String::from_utf8_lossy(&bytes(&call.arguments)).into_owned();
            placed.push((call.begin, Event::Said(text)));
            continue;
        }
        let Some(name) = own.filter(|name| !FLEETING.contains(name)).map(str::to_owned) else { continue };
        let failed = call.result.is_some_and(|result| result < 0);
        let skipped = call.injected;
        let last = || call.arguments.rsplit(", ").next().unwrap().trim().parse::<u64>().unwrap();
        match call.name.as_str() {
            "open" | "openat" if !failed && call.arguments.contains("O_CREAT") => {
                assert!(!call.arguments.contains("O_TRUNC"), "the model does not know O_TRUNC: {}", call.arguments);
                placed.push((call.begin, Event::Create { name }));
            }
            "pwrite64" if !failed && !skipped => {
                let event = Event::Write { name, offset: last(), bytes: bytes(&call.arguments), thread };
                placed.push((call.begin, event));
            }
            "ftruncate" if !failed && !skipped => placed.push((call.begin, Event::Resize { name, length: last() })),
            "unlink" | "unlinkat" if !failed && !skipped => placed.push((call.begin, Event::Remove { name })),
            "fsync" | "fdatasync" => {
                placed.push((call.begin, Event::SyncBegins { sync, name, thread }));
                if call.result.is_some() {
                    // One that strace has skipped has synced nothing, whatever it said.
                    placed.push((call.end, Event::SyncEnds { sync, worked: call.result == Some(0) && !skipped }));
                }
            }
            // A look, or a change that did not happen.
            "open" | "openat" | "pread64" | "pwrite64" | "ftruncate" | "unlink" | "unlinkat" => {}
            other => panic!("the model does not know `{other}` on `{path}`"),
        }
    }
    placed.sort_by_key(|(at, _)| *at);
    let injected = tampered
        .into_iter()
        .map(|(begin, call, path, thread)| {
            let at = placed.iter().take_while(|(place, _)| *place < begin).count();
            Injected { call, path, at, thread }
        })
        .collect();
    Trace { events: placed.into_iter().map(|(_, event)| event).collect(), status, injected }
}

/// The bytes of the quoted argument.
fn bytes(arguments: &str) -> Vec<u8> {
    let (_, quoted) = arguments.split_once('"').unwrap();
    let mut out = Vec::new();
    let mut rest = quoted.bytes().peekable();
    loop {
        match rest.next().unwrap() {
            b'"' => break,
            b'\\' => match rest.next().unwrap() {
                b'n' => out.push(b'\n'),
                b't' => out.push(b'\t'),
                b'r' => out.push(b'\r'),
                b'v' => out.push(0x0b),
                b'f' => out.push(0x0c),
                digit @ b'0'..=b'7' => {
                    let mut value = u32::from(digit - b'0');
                    for _ in 0..2 {
                        let Some(next) = rest.next_if(|b| (b'0'..=b'7').contains(b)) else { break };
                        value = value * 8 + u32::from(next - b'0');
                    }
                    out.push(u8::try_from(value).unwrap());
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    let after: Vec<u8> = rest.collect();
    assert!(!after.starts_with(b"..."), "strace has cut a string short");
    out
}

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A later sync takes it.
    Waits,
    Durable,
    /// A sync failed while it waited: the kernel may take it for written, so that no later sync takes it.
    Dropped,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

#[derive(Default)]
struct File {
    base: Vec<u8>,
    /// How many changes are in the base.
    folded: usize,
    changes: Vec<(Change, Fate)>,
}

enum Entry {
    Link(String, usize),
    Unlink(String),
}

/// A folder on a disk, with what was synced and what was not.
#[derive(Default)]
pub struct Disk {
    files: Vec<File>,
    /// Names as a process sees them.
    live: BTreeMap<String, usize>,
    names: Vec<(Entry, bool)>,
    /// Of a sync under way: the file (none: the folder) and how many changes it takes.
    syncs: HashMap<usize, (Option<usize>, usize)>,
}

/// What of the changes that were not synced reaches the disk all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Everything,
    Nothing,
    /// Every call whole, with one chance in so many of being lost.
    Calls(u64),
    /// Every sector by itself, with one chance in so many of being lost.
    Sectors(u64),
    /// All but one call.
    AllButOne,
}

/// Chance that can be repeated.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

impl Disk {
    /// A folder all of which is durable.
    pub fn of(folder: &Path) -> Self {
        let mut disk = Self::default();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !FLEETING.contains(&name.as_str()) {
                disk.live.insert(name.clone(), disk.files.len());
                disk.names.push((Entry::Link(name, disk.files.len()), true));
                disk.files.push(File { base: std::fs::read(&path).unwrap(), ..File::default() });
            }
        }
        disk
    }

    pub fn apply(&mut self, event: &Event) {
        let file = |live: &BTreeMap<String, usize>, name: &String| *live.get(name).unwrap();
        match event {
            Event::Create { name } => {
                if !self.live.contains_key(name) {
                    self.live.insert(name.clone(), self.files.len());
                    self.names.push((Entry::Link(name.clone(), self.files.len()), false));
                    self.files.push(File::default());
                }
            }
            Event::Write { name, offset, bytes, .. } => {
                let change = Change::Write { offset: usize::try_from(*offset).unwrap(), bytes: bytes.clone() };
                self.files[file(&self.live, name)].changes.push((change, Fate::Waits));
            }
            Event::Resize { name, length } => {
                let change = Change::Resize(usize::try_from(*length).unwrap());
                self.files[file(&self.live, name)].changes.push((change, Fate::Waits));
            }
            Event::Remove { name } => {
                if self.live.remove(name).is_some() {
                    self.names.push((Entry::Unlink(name.clone()), false));
                }
            }
            Event::SyncBegins { sync, name, .. } => {
                let target = if name.is_empty() {
                    (None, self.names.len())
                } else {
                    let file = file(&self.live, name);
                    (Some(file), self.files[file].folded + self.files[file].changes.len())
                };
                self.syncs.insert(*sync, target);
            }
            Event::SyncEnds { sync, worked } => match self.syncs.remove(sync).unwrap() {
                (None, count) if *worked => self.names[..count].iter_mut().for_each(|(_, durable)| *durable = true),
                (None, _) => {}
                (Some(file), count) => self.files[file].synced(count, *worked),
            },
            Event::Said(_) => {}
        }
    }

    /// The process is gone, but not the machine: what it was about to sync is not.
    pub fn process_ends(&mut self) {
        self.syncs.clear();
    }

    /// Whether there is anything that a power cut could lose.
    pub fn has_unsynced(&self) -> bool {
        self.files.iter().any(|file| file.changes.iter().any(|(_, fate)| *fate != Fate::Durable))
            || self.names.iter().any(|(_, durable)| !durable)
    }

    /// Writes what the disk may hold after a power cut into an empty folder.
    pub fn image(&self, lost: Lost, dice: &mut Dice, to: &Path) {
        let held = self.names.iter().take_while(|(_, durable)| *durable).count();
        let waiting = u64::try_from(self.names.len() - held).unwrap();
        // A file system writes its journal of names in order.
        let kept = match lost {
            Lost::Everything => 0,
            Lost::Nothing => waiting,
            Lost::Calls(_) | Lost::Sectors(_) | Lost::AllButOne => dice.below(waiting + 1),
        };
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (entry, _) in &self.names[..held + usize::try_from(kept).unwrap()] {
            match entry {
                Entry::Link(name, file) => drop(names.insert(name, *file)),
                Entry::Unlink(name) => drop(names.remove(name.as_str())),
            }
        }
        let changes: usize = self.files.iter().map(|file| file.changes.len()).sum();
        let mut one = dice.below(u64::try_from(changes.max(1)).unwrap());
        for (name, file) in names {
            std::fs::write(to.join(name), self.files[file].image(lost, dice, &mut one)).unwrap();
        }
    }
}

impl File {
    fn synced(&mut self, count: usize, worked: bool) {
        // Another sync may have ended since this one began.
        let count = count.saturating_sub(self.folded);
        for (_, fate) in &mut self.changes[..count] {
            if *fate == Fate::Waits {
                *fate = if worked { Fate::Durable } else { Fate::Dropped };
            }
        }
        // What is durable up to the first that is not never changes again.
        let whole = self.changes.iter().take_while(|(_, fate)| *fate == Fate::Durable).count();
        self.folded += whole;
        for (change, _) in self.changes.drain(..whole).collect::<Vec<_>>() {
            change.write(&mut self.base, &mut |_| true);
        }
    }

    fn image(&self, lost: Lost, dice: &mut Dice, one: &mut u64) -> Vec<u8> {
        let mut bytes = self.base.clone();
        for (change, fate) in &self.changes {
            if *fate == Fate::Durable {
                change.write(&mut bytes, &mut |_| true);
                continue;
            }
            match lost {
                Lost::Everything => {}
                Lost::Nothing => change.write(&mut bytes, &mut |_| true),
                Lost::Calls(n) => {
                    let kept = dice.below(n) != 0;
                    change.write(&mut bytes, &mut |_| kept);
                }
                Lost::Sectors(n) => change.write(&mut bytes, &mut |_| dice.below(n) != 0),
                Lost::AllButOne => {
                    let kept = *one == 0;
                    change.write(&mut bytes, &mut |_| kept);
                    *one = one.wrapping_sub(1);
                }
            }
        }
        bytes
    }
}

impl Change {
    /// Writes the sectors that `kept` says.
    fn write(&self, to: &mut Vec<u8>, kept: &mut dyn FnMut(usize) -> bool) {
        match self {
            Self::Resize(length) => {
                if kept(0) {
                    to.resize(*length, 0);
                }
            }
            Self::Write { offset, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let at = offset + from;
                    let until = bytes.len().min(from + SECTOR - at % SECTOR);
                    if kept(at / SECTOR) {
                        let end = offset + until;
                        if to.len() < end {
                            to.resize(end, 0);
                        }
                        to[at..end].copy_from_slice(&bytes[from..until]);
                    }
                    from = until;
                }
            }
        }
    }
}
