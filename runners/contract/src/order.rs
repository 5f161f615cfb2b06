//! A job joined to the committed start that lets it begin; the only thing a runner runs.
//!
//! An [`Order`] has one constructor, and it checks. Its sealed form crosses a process boundary or a network and is
//! checked again on the other side, against the root key that side was configured with. Absent: any way to build one
//! without a `Committed<Start>`.
//!
//! Read next: `runner`, whose `submit` takes one.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use countersign_gateway_model::{Name, OrgId, PermitId, RunId, Timestamp};
use countersign_ledger_entry::body::{RunStart, Start, StartedBy};
use countersign_ledger_entry::key::VKey;
use countersign_ledger_entry::{Committed, EntryError, Receipt, TrustedLog};
use serde::{Deserialize, Serialize};

use crate::{Job, JobError, JobSalt};

/// A sealed order, at most: a job with inputs, a leaf, a proof.
pub const MAX_SEALED_BYTES: usize = 4 * 1024 * 1024;

/// Why nothing may be begun.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The start names another job.
    #[error("the start of run `{run}` is bound to another job than this one: ask for a permit for this job")]
    OtherJob {
        /// The run.
        run: RunId,
    },
    /// The start is in the log of another organization.
    #[error("the start belongs to organization `{found}`, not to `{expected}`")]
    OtherOrganization {
        /// Whose order it was to be.
        expected: OrgId,
        /// Whose log the start is in.
        found: OrgId,
    },
    /// The start is for another backend.
    #[error("the start of run `{run}` is bound to backend `{found}`, not to `{expected}`")]
    OtherBackend {
        /// The run.
        run: RunId,
        /// The runner that was asked.
        expected: Name,
        /// The runner that the start names.
        found: Name,
    },
    /// The permit was taken by the agent itself.
    #[error("permit `{0}` was started by the agent itself, so no runner may act on it")]
    NotARun(PermitId),
    /// A part that binds is missing or contradicts the entry.
    #[error("the start of run `{run}` is not whole: {why}")]
    NotWhole {
        /// The run.
        run: RunId,
        /// What is wrong.
        why: &'static str,
    },
    /// Too late.
    #[error("the start of run `{run}` expired at {not_after}: a new attempt needs a permit of its own")]
    Expired {
        /// The run.
        run: RunId,
        /// Nothing may be begun after this.
        not_after: Timestamp,
    },
    /// No root key is configured for the organization.
    #[error("no root key is configured for organization `{0}`, so its orders cannot be checked")]
    NoRoot(OrgId),
    /// The proof does not hold.
    #[error("the start is not proven to be in the log")]
    NotProven(#[source] EntryError),
    /// The job inside is no job.
    #[error("the job in the order is refused")]
    Job(#[source] JobError),
    /// The bytes are no sealed order.
    #[error("the bytes are not a sealed order: {0}")]
    Malformed(&'static str),
}

/// What a runner is configured with to check the log of one organization.
#[derive(Clone, Debug)]
pub struct LogTrust {
    /// The organization's root key, given by whoever set the runner up; never one that came with an order.
    pub root: VKey,
    /// The log's first leaf. It need not be trusted: the root key vouches for it.
    pub genesis: Arc<[u8]>,
}

impl LogTrust {
    /// The log, if the root key vouches for this genesis.
    pub fn log(&self) -> Result<TrustedLog, EntryError> {
        TrustedLog::new(&self.root, &self.genesis)
    }
}

/// The root keys that a runner was configured with.
pub trait Trust: Send + Sync {
    /// What is trusted for one organization; none refuses its orders.
    fn of(&self, org: OrgId) -> Option<LogTrust>;
}

/// One organization's trust: the embedded profile's.
#[derive(Clone, Debug)]
pub struct SingleTrust {
    /// The organization.
    pub org: OrgId,
    /// Its log.
    pub log: LogTrust,
}

impl Trust for SingleTrust {
    fn of(&self, org: OrgId) -> Option<LogTrust> {
        (org == self.org).then(|| self.log.clone())
    }
}

/// A job that may be begun once, by one backend, under one name, until one moment.
#[derive(Clone, Debug)]
pub struct Order {
    job: Job,
    salt: JobSalt,
    start: Committed<Start>,
    run: RunStart,
}

impl Order {
    /// Joins a job to its start. `now` is the caller's clock.
    ///
    /// # Errors
    /// Every [`OrderError`] but those of the sealed form.
    pub fn new(
        org: OrgId,
        job: Job,
        salt: JobSalt,
        start: Committed<Start>,
        now: Timestamp,
    ) -> Result<Self, OrderError> {
        if start.org() != org {
            return Err(OrderError::OtherOrganization { expected: org, found: start.org() });
        }
        let StartedBy::Run(run) = &start.fact().by else {
            return Err(OrderError::NotARun(start.fact().permit));
        };
        let run = run.clone();
        if run.job != job.digest(&salt) {
            return Err(OrderError::OtherJob { run: run.run });
        }
        let not_whole = |why| Err(OrderError::NotWhole { run: run.run, why });
        if run.attempt == 0 {
            return not_whole("attempts are counted from 1");
        }
        if run.fence == 0 || run.fence != start.header().sequence {
            return not_whole("its fence is not its place in the stream");
        }
        let order = Self { job, salt, start, run };
        order.check_time(now)?;
        Ok(order)
    }

    /// Refuses an order that may no longer be begun. A runner asks again right before it begins.
    pub fn check_time(&self, now: Timestamp) -> Result<(), OrderError> {
        let not_after = self.start.fact().not_after;
        if now > not_after { Err(OrderError::Expired { run: self.run.run, not_after }) } else { Ok(()) }
    }

    /// Refuses an order that names another backend.
    pub fn check_backend(&self, backend: &Name) -> Result<(), OrderError> {
        if self.run.backend == *backend {
            Ok(())
        } else {
            Err(OrderError::OtherBackend {
                run: self.run.run,
                expected: backend.clone(),
                found: self.run.backend.clone(),
            })
        }
    }

    /// What is to be run.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The salt of the job's digest.
    pub fn salt(&self) -> &JobSalt {
        &self.salt
    }

    /// The proof that it may.
    pub fn start(&self) -> &Committed<Start> {
        &self.start
    }

    /// Run, attempt, backend, external name, job digest and fence, as they stand in the entry.
    pub fn run(&self) -> &RunStart {
        &self.run
    }

    /// The organization.
    pub fn org(&self) -> OrgId {
        self.start.org()
    }

    /// The order as bytes, with all that another process needs to check it but the root key.
    ///
    /// # Errors
    /// [`OrderError::NotProven`] if `trust` is not for the log that the start is in; [`OrderError::Malformed`] if it
    /// grew beyond what is read back.
    pub fn seal(&self, trust: &LogTrust) -> Result<Vec<u8>, OrderError> {
        let log = trust.log().map_err(OrderError::NotProven)?;
        let receipt = self.start.receipt();
        log.checkpoint(receipt.checkpoint.note()).map_err(OrderError::NotProven)?;
        let sealed = Sealed {
            format: 1,
            org: self.org(),
            job: BASE64.encode(self.job.canonical()),
            salt: self.salt,
            genesis: BASE64.encode(&trust.genesis),
            leaf: BASE64.encode(self.start.leaf()),
            index: receipt.index,
            proof: receipt.proof.iter().map(|hash| BASE64.encode(hash.0)).collect(),
            checkpoint: receipt.checkpoint.note().to_owned(),
        };
        let bytes = serde_json::to_vec(&sealed).map_err(|_| OrderError::Malformed("it cannot be written"))?;
        if bytes.len() > MAX_SEALED_BYTES {
            return Err(OrderError::Malformed("it is larger than 4 MiB"));
        }
        Ok(bytes)
    }

    /// Reads sealed bytes and checks everything again: log, checkpoint, inclusion, binding, time.
    ///
    /// # Errors
    /// Every [`OrderError`].
    pub fn open(bytes: &[u8], trust: &dyn Trust, now: Timestamp) -> Result<Self, OrderError> {
        Self::open_at(bytes, trust, Some(now))
    }

    /// As [`Order::open`], for a run that has begun already: its start was checked in time then, and is history now.
    pub fn open_begun(bytes: &[u8], trust: &dyn Trust) -> Result<Self, OrderError> {
        Self::open_at(bytes, trust, None)
    }

    fn open_at(bytes: &[u8], trust: &dyn Trust, now: Option<Timestamp>) -> Result<Self, OrderError> {
        if bytes.len() > MAX_SEALED_BYTES {
            return Err(OrderError::Malformed("it is larger than 4 MiB"));
        }
        let sealed: Sealed = serde_json::from_slice(bytes).map_err(|_| OrderError::Malformed("not its shape"))?;
        if sealed.format != 1 {
            return Err(OrderError::Malformed("its format is not known here"));
        }
        let decode = |text: &str| BASE64.decode(text).map_err(|_| OrderError::Malformed("not base64"));
        let trusted = trust.of(sealed.org).ok_or(OrderError::NoRoot(sealed.org))?;
        // The genesis that came along may be used: it counts only if the configured root key signed it.
        let log = TrustedLog::new(&trusted.root, &decode(&sealed.genesis)?).map_err(OrderError::NotProven)?;
        let checkpoint = log.checkpoint(&sealed.checkpoint).map_err(OrderError::NotProven)?;
        let proof = sealed
            .proof
            .iter()
            .map(|hash| {
                let bytes: [u8; 32] = decode(hash)?.try_into().map_err(|_| OrderError::Malformed("not a hash"))?;
                Ok(bytes.into())
            })
            .collect::<Result<Vec<_>, OrderError>>()?;
        let leaf: Arc<[u8]> = decode(&sealed.leaf)?.into();
        // The check computes the leaf's hash itself and puts it here.
        let leaf_hash = [0; 32].into();
        let receipt = Receipt { index: sealed.index, leaf_hash, proof, checkpoint: Arc::new(checkpoint) };
        let start = Committed::<Start>::check(leaf, receipt).map_err(OrderError::NotProven)?;
        let job = Job::from_canonical(&decode(&sealed.job)?).map_err(OrderError::Job)?;
        let now = now.unwrap_or(start.fact().not_after);
        Self::new(sealed.org, job, sealed.salt, start, now)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    format: u32,
    org: OrgId,
    job: String,
    salt: JobSalt,
    genesis: String,
    leaf: String,
    index: u64,
    proof: Vec<String>,
    checkpoint: String,
}
