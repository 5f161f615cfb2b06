//! What a verification says, as data. Text: `text`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use countersign_ledger_entry::body::SignatureMode;

use crate::Code;

/// The three answers. Their exit codes are 0, 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Everything that the pack claims is proven.
    Valid,
    /// Tampered with, truncated, over limits, or not a pack.
    Invalid,
    /// Nothing wrong was found, but not everything could be judged.
    Inconclusive,
}

impl Verdict {
    /// Exit code of the program.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Inconclusive => 2,
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Invalid => "INVALID",
            Self::Inconclusive => "INCONCLUSIVE",
        }
    }
}

/// One reason for which a pack is not VALID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its kind, which a program can rely on.
    pub code: Code,
    /// The entry that it is about, where it is about a single one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// The single case, in words; printable ASCII.
    pub detail: String,
}

/// The whole report. As JSON, the facts stand beside the verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The answer.
    pub verdict: Verdict,
    /// Why it is not VALID; none if it is.
    pub problems: Vec<Problem>,
    /// The root key that was given, as a vkey.
    pub root_key: String,
    /// What the pack shows; none if it is INVALID, since then nothing in it is proven.
    #[serde(flatten)]
    pub facts: Option<Facts>,
    /// What holds.
    pub proven: Vec<String>,
    /// What cannot be shown from these bytes.
    pub not_proven: Vec<String>,
}

impl Report {
    /// The report of something that could not be looked at any further.
    pub(crate) fn invalid(root_key: String, problem: Problem) -> Self {
        Self {
            verdict: Verdict::Invalid,
            problems: vec![problem],
            root_key,
            facts: None,
            proven: Vec::new(),
            not_proven: Vec::new(),
        }
    }
}

/// What a pack shows that is not INVALID.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Origin line of the log.
    pub origin: String,
    /// Organization.
    pub organization: String,
    /// Which entries are covered.
    pub population: Population,
    /// Root of the tree at that size, in hex.
    pub root: String,
    /// `per_entry` or `checkpoint_only`.
    pub signatures: &'static str,
    /// When receipts were released.
    pub durability: &'static str,
    /// The log is a demonstration.
    pub demo: bool,
    /// Entries by authority mode.
    pub authority: BTreeMap<&'static str, u64>,
    /// Indices at which the mode is another than at the entry before.
    pub authority_changes: Vec<u64>,
    /// Policy snapshots in the order in which they first decided.
    pub policies: Vec<PolicySeen>,
    /// First and latest claimed time.
    pub claimed: TimeRange,
    /// Gateways that booted.
    pub gateways: u64,
    /// Their boots.
    pub boots: u64,
    /// Sandbox levels of those boots, ascending.
    pub sandbox_levels: Vec<u8>,
    /// Entries by sort.
    pub counts: Counts,
    /// Instances.
    pub streams: Streams,
    /// What is kept beside the ledger.
    pub payloads: Payloads,
    /// Outside memories.
    pub witnesses: Witnesses,
    /// Size of the checkpoint that the auditor holds and that lies on this log.
    pub known: Option<u64>,
    /// Shipped bundles that were put in force with the root threshold, and whose reviews are open at the end of the range: the
    /// oldest first.
    #[serde(rename = "recovery", skip_serializing_if = "Vec::is_empty")]
    pub open_recoveries: Vec<Recovered>,
    /// How often that was done, reviewed or not.
    #[serde(skip_serializing_if = "is_zero")]
    pub recoveries: u64,
    /// Rules lifted without their quorum.
    #[serde(skip_serializing_if = "Lifts::none")]
    pub lifts: Lifts,
    /// Keys that persons registered to sign their decisions with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub person_keys: Vec<PersonKeySeen>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Facts {
    /// What holds, given that nothing wrong was found.
    pub(crate) fn proven(&self) -> Vec<String> {
        let size = self.population.to;
        let last = size.saturating_sub(1);
        let mut out = vec![
            format!("every byte of entries 0 to {last} is what the log key signed at size {size}"),
            format!("population: entries 0 to {last} are complete, and so is each stream within them"),
        ];
        out.push(if self.signatures == SignatureMode::PerEntry.as_str() {
            "each entry is signed by a gateway key that the root key or its log key certified before".to_owned()
        } else {
            "each entry names a gateway that the root key or its log key certified before; entries are unsigned in this \
             log, so the log key alone vouches for them"
                .to_owned()
        });
        let judged = if self.counts.later.is_empty() { "every" } else { "every judged" };
        out.push(format!("{judged} transition replays through the state machine"));
        let (unenforced, against) = (self.counts.unenforced_permits, self.counts.unenforced_against);
        let but = if unenforced == 0 && against == 0 {
            String::new()
        } else {
            format!(
                ", but for {unenforced} of workflows in shadow, which say themselves that policy was not enforced: {against} \
                 times a permit, start or completion of these it had not allowed"
            )
        };
        out.push(format!(
            "{judged} start consumed a permit of its own, once and in time; every permit had policy's yes{but}"
        ));
        out.push(format!(
            "{judged} approval was of the very digests that the gate showed, met the rules pinned there, and was by \
             nobody in the acting chain and never by SYSTEM"
        ));
        if self.counts.asserted > 0 {
            out.push(format!(
                "{} decisions are signed over gate, items, change and view, by keys that those who decided had registered \
                 before the gate opened and that were not taken back",
                self.counts.asserted
            ));
        }
        if self.counts.grants.used > 0 {
            out.push(format!(
                "each of {} uses of what people gave in advance was counted, within the count, the time, the tools and the \
                 budget that stood at its gate, and before it was taken back",
                self.counts.grants.used
            ));
        }
        if self.counts.grants.terms > 0 {
            out.push(format!(
                "the terms of {} grants name the rule, the tools, the uses, the budget and the time that are counted",
                self.counts.grants.terms
            ));
        }
        if let Some(size) = self.known {
            out.push(format!("the checkpoint that you hold, of size {size}, lies on this log"));
        }
        out
    }

    /// What cannot be shown from these bytes.
    pub(crate) fn not_proven(&self) -> Vec<String> {
        let mut out = Vec::new();
        match self.known {
            None => {
                out.push("that no second history exists: no witness cosigned, and you gave no checkpoint".to_owned());
                out.push("rollback not excluded: entries after the last one here may exist or have existed".to_owned());
            }
            Some(size) => {
                out.push(format!("that no second history exists beyond size {size}, which your checkpoint covers"));
                out.push(format!("rollback not excluded beyond size {size}: later entries may exist or have existed"));
            }
        }
        out.push("that no request was left out: a log shows what was committed, not what was asked".to_owned());
        out.push(self.unproven_approvers());
        if self.counts.grants.used > 0 {
            out.push(
                "that the inputs which rested on grants are within their terms: the entries hold digests of both"
                    .to_owned(),
            );
        }
        let Grants { asked, terms, .. } = self.counts.grants;
        if asked > terms {
            out.push(format!(
                "that {} grants are what people read: their terms are not here, and no view is compared with terms",
                asked.saturating_sub(terms)
            ));
        }
        if terms > 0 {
            out.push(format!("that people read the terms of {terms} grants: no view is compared with terms"));
        }
        out.push("that claimed times are true, beyond their order within 5 s".to_owned());
        out.push(
            "that verdicts follow from the policies: the gateway replays them from the stored questions".to_owned(),
        );
        if self.counts.shadow_instances > 0 {
            out.push(format!(
                "that {} instances of workflows in shadow were held to policy: only a no of the kernel, of a policy marked hard, \
                 or by an error stops there, and which no was of that kind is not in these bytes",
                self.counts.shadow_instances
            ));
        }
        for open in &self.open_recoveries {
            out.push(format!(
                "that anybody has reviewed the recovery at entry {}: what was decided since then rests on a bundle that \
                 the root threshold put in force past the policy of then",
                open.from
            ));
        }
        if !self.lifts.open.is_empty() {
            out.push(format!(
                "that anybody has reviewed {} rules lifted without their quorum, the first at entry {}",
                self.lifts.open.len(),
                self.lifts.open.first().map_or(0, |open| open.entry)
            ));
        }
        if self.lifts.lifted > 0 {
            out.push(
                "that the rules which were lifted could be, and by those who did: that is in the bundles that the entries \
                 name"
                    .to_owned(),
            );
        }
        if self.demo {
            out.push("that any human was involved: this log is a demonstration".to_owned());
        }
        out
    }
}

impl Facts {
    /// How far it is open who decided.
    fn unproven_approvers(&self) -> String {
        let (signed, unchecked) = (self.counts.asserted, self.counts.unchecked_signatures);
        let mut words = "that an approval came from the person named: ".to_owned();
        if signed == 0 {
            words.push_str("no approver signed with a key of their own");
        } else {
            let rest = self.counts.by_people().saturating_sub(signed);
            let _ = write!(
                words,
                "of {signed} decisions it is proven that the holder of a registered key signed them; that the key is that \
                 person's own, only they can say (compare its id with theirs); for {rest} decisions the gateway's word is all \
                 there is"
            );
        }
        if unchecked > 0 {
            let _ =
                write!(words, "; {unchecked} signatures of semantics version 1 have no key here to check them with");
        }
        words
    }
}

/// A key that a person registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PersonKeySeen {
    /// The person's account.
    pub principal: String,
    /// SHA-256 of the key.
    pub key: String,
    /// The entry that registers it.
    pub from: u64,
    /// The entry that takes it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
    /// Decisions signed with it.
    pub signed: u64,
}

/// Which entries of the log a pack covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Population {
    /// First index.
    pub from: u64,
    /// First index not covered: the size of the log at its checkpoint.
    pub to: u64,
    /// Every entry between is there.
    pub complete: bool,
}

/// A recovery whose review is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Digest of the bundle.
    pub bundle: String,
    /// The entry that says so.
    pub from: u64,
}

/// Rules lifted without their quorum, and their reviews.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lifts {
    /// How many.
    pub lifted: u64,
    /// Of the reviews, those that found that it was not right.
    pub not_upheld: u64,
    /// Those that nobody has reviewed at the end of the range, in the order of the log.
    pub open: Vec<OpenReview>,
}

impl Lifts {
    fn none(&self) -> bool {
        self.lifted == 0
    }
}

/// A lift that nobody has reviewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenReview {
    /// The entry that says so.
    pub entry: u64,
    /// The instance.
    pub instance: String,
    /// The lift.
    pub lift: String,
    /// The rule.
    pub rule: String,
    /// The review is owed until then.
    pub review_by: String,
    /// That is before the latest claimed time of the range.
    pub overdue: bool,
}

/// Times as gateways claimed them, RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimeRange {
    /// Of the first entry.
    pub first: String,
    /// The latest of all.
    pub latest: String,
}

/// A policy bundle that decided something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicySeen {
    /// Digest of the bundle.
    pub bundle: String,
    /// First entry under this snapshot.
    pub from: u64,
}

/// How many entries of each sort the covered range has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Entries by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Entries of a later version, by the number of their kind.
    pub later: BTreeMap<u16, u64>,
    /// Refusals committed.
    pub refused: u64,
    /// Decisions that resolved a gate by APPROVE.
    pub approved: u64,
    /// Decisions that resolved a gate by OVERRIDE.
    pub overridden: u64,
    /// Gates that ended by a person's REJECT.
    pub rejected: u64,
    /// Gates that ended by SYSTEM's REJECT: nobody answered, somebody stopped, or policy denied by then.
    pub system_rejected: u64,
    /// Decisions that moved nothing: counted towards a quorum, or not effective.
    pub other_decisions: u64,
    /// Decisions that carry the approver's own signature, each checked against the key that they registered.
    pub asserted: u64,
    /// Decisions of semantics version 1 with a signature that nobody checked.
    #[serde(skip_serializing_if = "is_zero")]
    pub unchecked_signatures: u64,
    /// Instances of workflows that were in shadow when they began: policy is judged there, and not enforced.
    #[serde(skip_serializing_if = "is_zero")]
    pub shadow_instances: u64,
    /// Permits that say that policy was not enforced.
    #[serde(skip_serializing_if = "is_zero")]
    pub unenforced_permits: u64,
    /// Permits, starts and completions of workflows in shadow that policy did not allow.
    #[serde(skip_serializing_if = "is_zero")]
    pub unenforced_against: u64,
    /// Outcomes by name, sweeps counted as `unknown`.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Of the outcomes, those that replaced an earlier `unknown`.
    pub superseding: u64,
    /// Claims against a final outcome, which changed nothing.
    pub conflicts: u64,
    /// Instances ended against policy's objection: stopping cannot be vetoed.
    pub objections: u64,
    /// Freezes and lifts.
    pub freezes: u64,
    /// Rules that people met in advance.
    #[serde(skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
}

/// Task grants: what people gave in advance, and what rests on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grants {
    /// Asked for.
    pub asked: u64,
    /// Given by their rule's quorum.
    pub given: u64,
    /// Uses: permits that rest on one, once for each that they rest on.
    pub used: u64,
    /// Taken back.
    pub revoked: u64,
    /// Of those asked for, those whose terms are disclosed, and are what is counted.
    pub terms: u64,
}

impl Grants {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Counts {
    /// Decisions that were a person's.
    pub(crate) fn by_people(&self) -> u64 {
        self.approved + self.overridden + self.rejected + self.other_decisions
    }
}

/// The instances in the covered range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Streams {
    /// Of the instances, those that are terminal with every start closed: their streams are complete.
    pub closed: u64,
    /// Instances by state.
    pub states: BTreeMap<String, u64>,
    /// Starts without an outcome at the end of the range.
    pub open_starts: u64,
    /// Each of them, by id.
    pub instances: Vec<InstanceReport>,
}

/// One instance at the end of the covered range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceReport {
    /// Its id.
    pub id: String,
    /// Its state; `unjudged` where an entry of a later version stands in its stream.
    pub state: &'static str,
    /// Terminal, and every start has an outcome: nothing of it can follow but a late outcome or a conflict.
    pub closed: bool,
    /// Entries of its stream.
    pub entries: u64,
    /// Starts without an outcome.
    pub open_starts: u64,
}

/// Bytes kept beside the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Payloads {
    /// Named by entries.
    pub named: u64,
    /// Of these, in the pack and checked against their names.
    pub disclosed: u64,
    /// Of these, named by an erasure entry.
    pub erased: u64,
    /// Erasure entries.
    pub erasures: u64,
    /// Shared blobs in the pack, checked against their names.
    pub blobs: u64,
}

/// Outside memories that vouch for the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Witnesses {
    /// Cosignatures that were checked; this version has no trust policy to check them under.
    pub checked: u64,
    /// Signature lines on the checkpoint by others than the log key, which say nothing here.
    pub unchecked: u64,
}
