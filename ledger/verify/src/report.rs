//! What a verification says, as data and as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

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

/// How many entries of each sort the covered range has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Entries by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Refusals committed.
    pub refused: u64,
    /// Decisions that resolved a gate by APPROVE.
    pub approved: u64,
    /// Decisions that resolved a gate by OVERRIDE.
    pub overridden: u64,
    /// Gates that ended by REJECT.
    pub rejected: u64,
    /// Outcomes by name, sweeps counted as `unknown`.
    pub outcomes: BTreeMap<String, u64>,
    /// Edges recorded against policy's objection.
    pub objections: u64,
}

/// The instances in the covered range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Streams {
    /// Instances.
    pub instances: u64,
    /// Of these, terminal with every start closed.
    pub closed: u64,
    /// Instances by state.
    pub states: BTreeMap<String, u64>,
    /// Starts without an outcome at the end of the range.
    pub open_starts: u64,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The answer.
    pub verdict: Verdict,
    /// Why it is not VALID, in words.
    pub problems: Vec<String>,
    /// Origin line of the log.
    pub origin: String,
    /// Organization.
    pub organization: String,
    /// The root key that was given.
    pub root_key: String,
    /// First index covered, and first not covered.
    pub covered: (u64, u64),
    /// Root of the tree at that size, in hex.
    pub root: String,
    /// `per_entry` or `checkpoint_only`.
    pub signatures: String,
    /// When receipts were released.
    pub durability: String,
    /// Entries by authority mode.
    pub authority: BTreeMap<String, u64>,
    /// The log is a demonstration.
    pub demo: bool,
    /// First and last claimed time, RFC 3339.
    pub claimed: Option<(String, String)>,
    /// Gateway boots.
    pub boots: u64,
    /// Sandbox levels of those boots.
    pub sandbox_levels: Vec<u8>,
    /// Entries by sort.
    pub counts: Counts,
    /// Instances.
    pub streams: Streams,
    /// Payloads named by entries; of these, disclosed in the pack.
    pub payloads: (u64, u64),
    /// Erasure entries.
    pub erasures: u64,
    /// Witness cosignatures that were checked.
    pub witnesses: u64,
    /// Size of the checkpoint that the auditor holds and that lies on this log.
    pub known: Option<u64>,
    /// What holds.
    pub proven: Vec<String>,
    /// What cannot be shown from these bytes.
    pub not_proven: Vec<String>,
}

impl Report {
    /// The report of something that could not be looked at any further.
    pub(crate) fn invalid(root_key: &str, problem: String) -> Self {
        Self {
            verdict: Verdict::Invalid,
            problems: vec![problem],
            origin: String::new(),
            organization: String::new(),
            root_key: root_key.to_owned(),
            covered: (0, 0),
            root: String::new(),
            signatures: String::new(),
            durability: String::new(),
            authority: BTreeMap::new(),
            demo: false,
            claimed: None,
            boots: 0,
            sandbox_levels: Vec::new(),
            counts: Counts::default(),
            streams: Streams::default(),
            payloads: (0, 0),
            erasures: 0,
            witnesses: 0,
            known: None,
            proven: Vec::new(),
            not_proven: Vec::new(),
        }
    }

    /// The report for people.
    pub fn render(&self) -> String {
        let mut out = format!("{}\n", self.verdict.as_str());
        // Writing to a string cannot fail.
        for problem in &self.problems {
            let _ = writeln!(out, "  ! {problem}");
        }
        if self.verdict == Verdict::Invalid {
            out.push_str("  Nothing in this file is proven. Ask for the pack again, and keep this one as evidence.\n");
            return out;
        }
        let joined = |map: &BTreeMap<String, u64>| {
            map.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
        };
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<14}{value}");
        };
        line("log", self.origin.clone());
        line("organization", self.organization.clone());
        line("covered", format!("entries {} to {}, whole", self.covered.0, self.covered.1.saturating_sub(1)));
        line("root", self.root.clone());
        line("signatures", self.signatures.clone());
        line("durability", self.durability.clone());
        line("authority", joined(&self.authority));
        if self.demo {
            line("demo", "this log is a demonstration: its human is a stand-in".to_owned());
        }
        if let Some((first, last)) = &self.claimed {
            line("time", format!("{first} to {last}, as the gateway claims"));
        }
        let levels: Vec<String> = self.sandbox_levels.iter().map(|l| format!("L{l}")).collect();
        line("boots", format!("{}{}", self.boots, if levels.is_empty() { String::new() } else { format!(", sandbox {}", levels.join(" ")) }));
        line("instances", format!("{}, closed {}; {}", self.streams.instances, self.streams.closed, joined(&self.streams.states)));
        line("entries", joined(&self.counts.kinds));
        line(
            "decisions",
            format!(
                "approved {}, overridden {}, rejected {}, refused by policy {}",
                self.counts.approved, self.counts.overridden, self.counts.rejected, self.counts.refused
            ),
        );
        line("outcomes", if self.counts.outcomes.is_empty() { "none".to_owned() } else { joined(&self.counts.outcomes) });
        line("payloads", format!("{} named, {} disclosed, {} erasures", self.payloads.0, self.payloads.1, self.erasures));
        line("witnesses", self.witnesses.to_string());
        let _ = writeln!(out, "Proven:");
        for item in &self.proven {
            let _ = writeln!(out, "  + {item}");
        }
        let _ = writeln!(out, "Not proven:");
        for item in &self.not_proven {
            let _ = writeln!(out, "  - {item}");
        }
        out
    }
}
