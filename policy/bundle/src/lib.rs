//! A policy bundle as a value: sealed by digest, signed by root keys, checked, tested, compared. Pure.
//!
//! Absent on purpose: files, clocks, randomness (keys are minted by the program), Cedar evaluation (`policy/decide`),
//! activation (`policy/store`). Read next: `bundle` for the thing itself, `check` for what is asked of it.
#![cfg_attr(test, expect(clippy::indexing_slicing, reason = "tests"))]

mod authority;
mod backtest;
mod bundle;
mod canonical;
mod cases;
mod catalogue;
mod check;
mod diff;
mod digest;
mod element;
mod files;
mod finding;
mod format;
mod invariants;
mod keys;
mod lint;
mod lockout;
mod manifest;
mod refused;
mod root;
mod signature;
mod source;

pub use countersign_gateway_model::{Digest, Name, OrgId, Timestamp};

pub use authority::{AUTHORITY_FORMAT, AuthorityStatement, SignedAuthority};
pub use backtest::{
    Backtest, BacktestReport, Counts, Example as BacktestExample, Group, Limits, NotComputable, Said, Shift,
    StoredQuestion, StoredQuestions, backtest,
};
pub use bundle::{Bundle, BundleError, Draft, MAX_TRANSPORT_BYTES};
pub use canonical::CanonicalError;
pub use cases::{Branches, CaseFailure, CaseRun, TestRun};
pub use catalogue::{CATALOGUE_FORMAT, CatalogueStatement, SignedCatalogue};
pub use check::{Checked, MAX_POLICIES, Report, check, check_draft};
pub use diff::{Change, Diff, Direction, Example, diff, examples};
pub use digest::sha256;
pub use files::{
    CATALOGUE_FILE, FileError, FileKind, FilePath, Files, MANIFEST_FILE, MAX_BUNDLE_BYTES, MAX_FILE_BYTES, MAX_FILES,
    SIGNATURES_FILE,
};
pub use finding::{Finding, Place, RuleId, Severity};
pub use format::{first_difference, format, has_format};
pub use invariants::{Invariant, Proof};
pub use keys::{KeyError, KeyId, RootKey, Vkey};
pub use lint::RESERVED_WORKFLOWS;
pub use lockout::{LockoutError, People, locked_out};
pub use manifest::{CatalogueRef, FORMAT, Lineage, Manifest, Purpose, Settings, Shadow, Shadowed};
pub use root::{
    Custody, ROOT_FORMAT, RootChain, RootDocument, RootError, RootKeyEntry, SignedRoot, Standing, Thresholds,
};
pub use signature::{Domain, Signature, Signatures};
