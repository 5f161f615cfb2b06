//! What is to be run, with every limit, as canonical bytes and a salted digest.
//!
//! Absent: who may run it (the policy's), when and under which permit (`order`), and values of secrets.
//!
//! Read next: `order`, which joins a job to its committed start.

use std::collections::BTreeMap;

use countersign_gateway_model::{Digest, Duration};
use countersign_ledger_entry::payload;
use serde::{Deserialize, Serialize};

use crate::{Pattern, SecretRef, TreePath};

/// Canonical bytes of a job, at most.
pub const MAX_JOB_BYTES: usize = 1024 * 1024;

/// Arguments and environment together, at most; well below what `execve` takes.
pub const MAX_ARGUMENT_BYTES: usize = 128 * 1024;

/// Environment variables with this prefix are the runner's.
pub const RESERVED_ENV: &str = "COUNTERSIGN_";

/// Why a job is refused.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The command is empty or cannot be passed to a program.
    #[error("`command` cannot be run: {0}")]
    Command(&'static str),
    /// A variable cannot be set.
    #[error("environment variable `{name}` cannot be set: {why}")]
    Env {
        /// Its name.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A limit is zero or out of range.
    #[error("limit `{name}` is out of range: {why}")]
    Limit {
        /// Which one.
        name: &'static str,
        /// What would be in range.
        why: &'static str,
    },
    /// An image reference that no registry would take.
    #[error("`{0}` is not an image reference")]
    Image(String),
    /// Too much.
    #[error("the job is larger than {0} bytes: move inputs into the workspace")]
    TooLarge(usize),
    /// The bytes are no job, or not in canonical form.
    #[error("the bytes are not a job in canonical form")]
    Malformed(#[source] Option<serde_json::Error>),
}

/// The salt of a job's digest: 32 random bytes, kept beside the job. Text form: 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobSalt(Digest);

impl JobSalt {
    /// Wraps 32 bytes that were drawn at random.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Digest(bytes))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// What a workload can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Nothing.
    #[default]
    None,
    /// The gateway alone.
    Gateway,
    /// Whatever the machine reaches.
    Open,
}

impl NetworkMode {
    /// The name as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gateway => "gateway",
            Self::Open => "open",
        }
    }
}

/// Limits. Each is enforced or the run is refused; which were is in the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory in bytes: of the run where there is a memory cgroup, else the address space of each process.
    pub memory_bytes: u64,
    /// CPU time in seconds, of each process.
    pub cpu_seconds: u64,
    /// Processes and threads at one time.
    pub pids: u32,
    /// The largest file that may be written, in bytes.
    pub file_bytes: u64,
    /// Everything in the workspace together, in bytes.
    pub workspace_bytes: u64,
    /// The size of the private `/tmp`, in bytes.
    pub tmp_bytes: u64,
    /// Open files of each process.
    pub open_files: u32,
    /// How long the run may take, from its start.
    pub wall: Duration,
    /// Stored output of both streams together, in bytes; what is beyond is counted and dropped.
    pub output_bytes: u64,
    /// All artifacts together, in bytes.
    pub artifact_bytes: u64,
}

impl Default for Resources {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            memory_bytes: 2048 * MIB,
            cpu_seconds: 600,
            pids: 256,
            file_bytes: 256 * MIB,
            workspace_bytes: 1024 * MIB,
            tmp_bytes: 256 * MIB,
            open_files: 1024,
            wall: Duration::from_secs(600),
            output_bytes: 16 * MIB,
            artifact_bytes: 256 * MIB,
        }
    }
}

/// A small file that is given to the workload read-only, beside the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its bytes. In canonical form base64 without padding.
    #[serde(with = "base64_bytes")]
    pub bytes: Vec<u8>,
    /// True if it may be executed.
    pub executable: bool,
}

/// The parts of a job, before they are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Program and arguments. The program is searched in the sandbox's `PATH` if it has no slash.
    pub command: Vec<String>,
    /// The environment, whole: nothing is inherited but a fixed `PATH`, `HOME`, `LANG` and `TMPDIR`, which this may replace.
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets, resolved just before the start.
    pub secrets: BTreeMap<String, SecretRef>,
    /// The folder of the workspace to start in; none is its root.
    pub workdir: Option<TreePath>,
    /// A container image, for backends that run images; the process runner refuses one.
    pub image: Option<String>,
    /// Small files in the read-only folder that `COUNTERSIGN_INPUTS` names.
    pub inputs: BTreeMap<TreePath, Input>,
    /// The content-addressed tree that the workspace starts as; none is an empty one.
    pub workspace: Option<Digest>,
    /// What is collected from the workspace afterwards, whatever the exit code.
    pub artifacts: Vec<Pattern>,
    /// What can be reached.
    pub network: NetworkMode,
    /// The limits.
    pub resources: Resources,
    /// Stop the run when nobody has followed it for so long. None: the deadline alone stops it.
    pub lease: Option<Duration>,
    /// False where policy was judged and not enforced, because the workflow is in shadow: a runner may refuse it. Left out of
    /// the canonical form where it is true.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enforced: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_yes(enforced: &bool) -> bool {
    *enforced
}

impl JobSpec {
    /// A command with default limits, an empty workspace and no network.
    pub fn command<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            workdir: None,
            image: None,
            inputs: BTreeMap::new(),
            workspace: None,
            artifacts: Vec::new(),
            network: NetworkMode::None,
            resources: Resources::default(),
            lease: None,
            enforced: true,
        }
    }
}

/// A job whose every part was checked. Immutable; its digest is what a start is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    spec: JobSpec,
    canonical: Vec<u8>,
}

impl Job {
    /// Checks the parts.
    pub fn new(spec: JobSpec) -> Result<Self, JobError> {
        check(&spec)?;
        let canonical =
            serde_json::to_vec(&Versioned { format: 1, job: &spec }).map_err(|e| JobError::Malformed(Some(e)))?;
        if canonical.len() > MAX_JOB_BYTES {
            return Err(JobError::TooLarge(MAX_JOB_BYTES));
        }
        Ok(Self { spec, canonical })
    }

    /// Reads canonical bytes back; any other spelling of the same job is refused.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, JobError> {
        if bytes.len() > MAX_JOB_BYTES {
            return Err(JobError::TooLarge(MAX_JOB_BYTES));
        }
        let read: Versioned<JobSpec> = serde_json::from_slice(bytes).map_err(|e| JobError::Malformed(Some(e)))?;
        if read.format != 1 {
            return Err(JobError::Malformed(None));
        }
        let job = Self::new(read.job)?;
        if job.canonical == bytes { Ok(job) } else { Err(JobError::Malformed(None)) }
    }

    /// The parts.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// The bytes that are hashed and stored: compact JSON, fields in the order they are declared, maps sorted by key,
    /// nothing left out but `enforced` where it is true.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// SHA-256 over `countersign/job/v1\0`, the salt and the canonical bytes.
    pub fn digest(&self, salt: &JobSalt) -> Digest {
        payload::salted(payload::JOB, &payload::Salt(*salt.as_bytes()), &self.canonical)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Versioned<J> {
    format: u32,
    job: J,
}

fn check(spec: &JobSpec) -> Result<(), JobError> {
    match spec.command.first() {
        None => return Err(JobError::Command("it names no program")),
        Some(program) if program.is_empty() => return Err(JobError::Command("the program's name is empty")),
        Some(_) => {}
    }
    if spec.command.iter().any(|arg| arg.contains('\0')) {
        return Err(JobError::Command("an argument has a NUL byte"));
    }
    let mut argument_bytes: usize = spec.command.iter().map(String::len).sum();
    for name in spec.env.keys().chain(spec.secrets.keys()) {
        let refuse = |why| Err(JobError::Env { name: name.chars().take(80).collect(), why });
        let sound = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.bytes().all(sound) {
            return refuse("a name is letters, digits and underscores, and begins with none of the digits");
        }
        if name.starts_with(RESERVED_ENV) {
            return refuse("the prefix `COUNTERSIGN_` is the runner's");
        }
        if spec.env.contains_key(name) && spec.secrets.contains_key(name) {
            return refuse("it is both a plain value and a secret");
        }
        argument_bytes += name.len();
    }
    for (name, value) in &spec.env {
        if value.contains('\0') {
            return Err(JobError::Env { name: name.clone(), why: "the value has a NUL byte" });
        }
        argument_bytes += value.len();
    }
    if argument_bytes > MAX_ARGUMENT_BYTES {
        return Err(JobError::Command("arguments and environment together are longer than 128 KiB"));
    }
    if let Some(image) = &spec.image {
        let sound = |b: u8| b.is_ascii_alphanumeric() || b"._:/@-".contains(&b);
        if !(1..=255).contains(&image.len()) || !image.bytes().all(sound) || image.starts_with('-') {
            return Err(JobError::Image(image.chars().take(80).filter(|c| !c.is_control()).collect()));
        }
    }
    // One input may not be a folder of another.
    for path in spec.inputs.keys() {
        let parents = path.as_str().match_indices('/').filter_map(|(at, _)| path.as_str().get(..at));
        for parent in parents {
            if TreePath::new(parent).is_ok_and(|parent| spec.inputs.contains_key(&parent)) {
                return Err(JobError::Limit { name: "inputs", why: "an input cannot be a folder of another" });
            }
        }
    }
    if spec.artifacts.len() > 64 {
        return Err(JobError::Limit { name: "artifacts", why: "at most 64 patterns" });
    }
    limits(&spec.resources)?;
    match spec.lease {
        Some(lease) if lease < Duration::from_secs(5) => {
            Err(JobError::Limit { name: "lease", why: "at least 5 seconds" })
        }
        _ => Ok(()),
    }
}

fn limits(r: &Resources) -> Result<(), JobError> {
    const TIB: u64 = 1 << 40;
    const MIB: u64 = 1 << 20;
    let range = |name, value: u64, low: u64, high: u64, why| {
        if (low..=high).contains(&value) { Ok(()) } else { Err(JobError::Limit { name, why }) }
    };
    range("memory_bytes", r.memory_bytes, 16 * MIB, 64 * TIB, "16 MiB to 64 TiB")?;
    range("cpu_seconds", r.cpu_seconds, 1, 604_800, "1 second to 7 days")?;
    range("pids", r.pids.into(), 1, 65_536, "1 to 65536")?;
    range("file_bytes", r.file_bytes, 4096, TIB, "4 KiB to 1 TiB")?;
    range("workspace_bytes", r.workspace_bytes, 4096, TIB, "4 KiB to 1 TiB")?;
    range("tmp_bytes", r.tmp_bytes, 4096, TIB, "4 KiB to 1 TiB")?;
    range("open_files", r.open_files.into(), 16, 65_536, "16 to 65536")?;
    range("wall", r.wall.0, 1, 604_800_000, "1 millisecond to 7 days")?;
    range("output_bytes", r.output_bytes, 0, TIB, "up to 1 TiB")?;
    range("artifact_bytes", r.artifact_bytes, 0, TIB, "up to 1 TiB")
}

mod base64_bytes {
    //! Bytes as base64 without padding, which has one spelling only.

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    use serde::Deserialize as _;

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        STANDARD_NO_PAD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn full() -> JobSpec {
        let mut spec = JobSpec::command(["sh", "-c", "exit 3"]);
        spec.env.insert("LANG".into(), "C \"quoted\" ü".into());
        spec.secrets.insert("TOKEN".into(), "secret://env/TOKEN".parse().unwrap());
        spec.workdir = Some(TreePath::new("a/b").unwrap());
        spec.inputs.insert(TreePath::new("patch.diff").unwrap(), Input { bytes: vec![0, 255, 10], executable: false });
        spec.workspace = Some(Digest([7; 32]));
        spec.artifacts.push(Pattern::new("**/*.xml").unwrap());
        spec.lease = Some(Duration::from_secs(180));
        spec
    }

    #[test]
    fn canonical_bytes_round_trip_and_have_one_spelling() {
        let job = Job::new(full()).unwrap();
        assert_eq!(Job::from_canonical(job.canonical()).unwrap(), job);
        let text = String::from_utf8(job.canonical().to_vec()).unwrap();
        for other in [
            text.replacen(':', ": ", 1),
            text.replacen("\"format\":1", "\"format\":2", 1),
            text.replacen("\"lease\":180000", "\"lease\":180000,\"more\":1", 1),
            text.replacen(",\"lease\":180000", "", 1),
            text.replacen("AP8K", "AP8K=", 1),
        ] {
            assert_ne!(other, text);
            assert!(Job::from_canonical(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn that_policy_was_enforced_is_not_written_and_that_it_was_not_is() {
        let job = |enforced| Job::new(JobSpec { enforced, ..full() }).unwrap();
        let text = |job: &Job| String::from_utf8(job.canonical().to_vec()).unwrap();
        assert!(!text(&job(true)).contains("enforced"), "jobs are named as they ever were");
        assert!(text(&job(false)).contains("\"enforced\":false"));
        for enforced in [true, false] {
            let made = job(enforced);
            assert_eq!(Job::from_canonical(made.canonical()).unwrap(), made);
        }
        let spelt = text(&job(false)).replacen("\"enforced\":false", "\"enforced\":true", 1);
        assert!(Job::from_canonical(spelt.as_bytes()).is_err(), "another spelling of the same job");
    }

    #[test]
    fn the_digest_is_the_published_one_and_moves_with_salt_and_job() {
        let job = Job::new(JobSpec::command(["true"])).unwrap();
        let salt = JobSalt::from_bytes([9; 32]);
        let mut hash = Sha256::new();
        hash.update(b"countersign/job/v1\0");
        hash.update([9; 32]);
        hash.update(job.canonical());
        let expected: [u8; 32] = hash.finalize().into();
        assert_eq!(job.digest(&salt), Digest(expected));
        assert_ne!(job.digest(&salt), job.digest(&JobSalt::from_bytes([8; 32])));
        assert_ne!(job.digest(&salt), Job::new(JobSpec::command(["false"])).unwrap().digest(&salt));
    }

    #[test]
    fn what_cannot_be_run_safely_is_no_job() {
        type Spoil = fn(&mut JobSpec);
        let spoils: [(&str, Spoil); 15] = [
            ("no program", |s| s.command.clear()),
            ("empty program", |s| s.command = vec![String::new()]),
            ("NUL in an argument", |s| s.command.push("a\0b".into())),
            ("NUL in a value", |s| drop(s.env.insert("A".into(), "\0".into()))),
            ("bad name", |s| drop(s.env.insert("1A".into(), String::new()))),
            ("name with =", |s| drop(s.env.insert("A=B".into(), String::new()))),
            ("reserved", |s| drop(s.env.insert("COUNTERSIGN_X".into(), String::new()))),
            ("both", |s| drop(s.env.insert("TOKEN".into(), String::new()))),
            ("image", |s| s.image = Some("--privileged".into())),
            ("memory", |s| s.resources.memory_bytes = 0),
            ("wall", |s| s.resources.wall = Duration(0)),
            ("pids", |s| s.resources.pids = 0),
            ("lease", |s| s.lease = Some(Duration(1))),
            ("arguments", |s| s.command.push("x".repeat(MAX_ARGUMENT_BYTES))),
            ("nested input", |s| {
                let input = Input { bytes: vec![], executable: false };
                s.inputs.insert(TreePath::new("patch.diff/x").unwrap(), input);
            }),
        ];
        for (name, spoil) in spoils {
            let mut spec = full();
            spoil(&mut spec);
            assert!(Job::new(spec).is_err(), "{name}");
        }
        let mut large = full();
        large.inputs.insert(TreePath::new("x").unwrap(), Input { bytes: vec![0; MAX_JOB_BYTES], executable: false });
        assert!(matches!(Job::new(large), Err(JobError::TooLarge(_))));
    }
    proptest::proptest! {
        #[test]
        fn every_job_is_read_back_from_its_bytes(
            command in proptest::collection::vec("[^\u{0}]{1,20}", 1..4),
            env in proptest::collection::btree_map("[A-Z_][A-Z0-9_]{0,8}", "[^\u{0}]{0,20}", 0..4),
            wall in 1u64..604_800_000,
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..50),
        ) {
            let mut spec = JobSpec::command(command);
            spec.env = env.into_iter().filter(|(name, _)| !name.starts_with(RESERVED_ENV)).collect();
            spec.resources.wall = Duration(wall);
            spec.inputs.insert(TreePath::new("in").unwrap(), Input { bytes, executable: true });
            let job = Job::new(spec).unwrap();
            proptest::prop_assert_eq!(Job::from_canonical(job.canonical()).unwrap(), job);
        }
    }
}
