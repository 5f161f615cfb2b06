//! The report for people.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use crate::{Counts, Facts, Grants, Lifts, PersonKeySeen, Report, Streams, Verdict};

/// Instances and policies named in the text; JSON names all. Open reviews and keys of persons are all named here, too:
/// somebody must look at each.
const NAMED: usize = 20;

impl Report {
    /// The report as plain text, lines ending in a line feed.
    pub fn render(&self) -> String {
        let mut out = Lines(format!("{}\n", self.verdict.as_str()));
        for problem in &self.problems {
            out.item('!', &format!("{}: {}", problem.code, problem.detail));
        }
        out.line("root key", &self.root_key);
        match &self.facts {
            Some(facts) => out.facts(facts),
            None => out.note("Nothing in this file is proven. Keep it as evidence, and ask for the pack again."),
        }
        for (title, mark, items) in [("Proven:", '+', &self.proven), ("Not proven:", '-', &self.not_proven)] {
            if !items.is_empty() {
                out.note(title);
                for item in items {
                    out.item(mark, item);
                }
            }
        }
        debug_assert!(self.verdict != Verdict::Invalid || self.proven.is_empty(), "INVALID proves nothing");
        out.0
    }
}

/// Text under way. Writing to a string cannot fail.
struct Lines(String);

impl Lines {
    fn note(&mut self, text: &str) {
        let _ = writeln!(self.0, "{text}");
    }

    fn item(&mut self, mark: char, text: &str) {
        let _ = writeln!(self.0, "  {mark} {text}");
    }

    fn line(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "  {name:<14}{value}");
    }

    fn lifts(&mut self, lifts: &Lifts) {
        let Lifts { lifted, not_upheld, open } = lifts;
        if *lifted == 0 {
            return;
        }
        let reviewed = lifted.saturating_sub(u64::try_from(open.len()).unwrap_or(u64::MAX));
        let judged = if *not_upheld > 0 { format!(", {not_upheld} of them not upheld") } else { String::new() };
        self.line("lifted rules", format!("{lifted} without their quorum, {reviewed} reviewed{judged}"));
        for owed in open {
            let late = if owed.overdue { ", overdue by the claimed times" } else { "" };
            let words = format!("the review of `{}` at entry {} is OPEN", owed.rule, owed.entry);
            self.line("lifted rules", format!("{words}, owed until {}{late}", owed.review_by));
        }
    }

    /// Each of them: whose key it is, its person alone can tell.
    fn person_keys(&mut self, keys: &[PersonKeySeen]) {
        for key in keys {
            let until = key.revoked.map(|entry| format!(" until entry {entry}")).unwrap_or_default();
            let (id, person) = (&key.key, &key.principal);
            self.line("person key", format!("{id} of {person}, from entry {}{until}: signed {}", key.from, key.signed));
        }
    }

    fn facts(&mut self, facts: &Facts) {
        self.line("log", &facts.origin);
        self.line("organization", &facts.organization);
        let covered = facts.population;
        self.line("covered", format!("entries {} to {}, whole", covered.from, covered.to.saturating_sub(1)));
        self.line("root", &facts.root);
        self.line("signatures", facts.signatures);
        self.line("durability", facts.durability);
        let changes = match facts.authority_changes.as_slice() {
            [] => String::new(),
            [first, rest @ ..] => format!("; changed at entry {first} and {} times more", rest.len()),
        };
        self.line("authority", format!("{}{changes}", joined(&facts.authority)));
        if facts.demo {
            self.line("demo", "this log is a demonstration: its human is a stand-in");
        }
        for open in &facts.open_recoveries {
            let words = format!("the review of the one at entry {} is OPEN: {}", open.from, open.bundle);
            self.line("recovery", words);
        }
        if facts.recoveries > 0 && facts.open_recoveries.is_empty() {
            self.line("recovery", format!("{}, reviewed", facts.recoveries));
        }
        self.lifts(&facts.lifts);
        self.line("time", format!("{} to {}, as gateways claim", facts.claimed.first, facts.claimed.latest));
        let levels: Vec<String> = facts.sandbox_levels.iter().map(|level| format!(" L{level}")).collect();
        let sandbox = if levels.is_empty() { String::new() } else { format!("; sandbox{}", levels.concat()) };
        self.line("boots", format!("{} of {} gateways{sandbox}", facts.boots, facts.gateways));
        match facts.policies.as_slice() {
            [] => self.line("policy", "none was asked"),
            policies => {
                for seen in policies.iter().take(NAMED) {
                    self.line("policy", format!("{} from entry {}", seen.bundle, seen.from));
                }
                self.more(policies.len());
            }
        }
        self.streams(&facts.streams);
        self.counts(&facts.counts);
        self.person_keys(&facts.person_keys);
        let p = facts.payloads;
        let payloads = format!("{} named, {} disclosed and checked, {} erased", p.named, p.disclosed, p.erased);
        self.line("payloads", format!("{payloads}; {} blobs; {} erasures", p.blobs, p.erasures));
        let others = match facts.witnesses.unchecked {
            0 => String::new(),
            n => format!(" ({n} other signatures on the checkpoint were not checked)"),
        };
        self.line("witnesses", format!("{}{others}", facts.witnesses.checked));
        if let Some(size) = facts.known {
            self.line("known", format!("your checkpoint of size {size} lies on this log"));
        }
    }

    fn streams(&mut self, streams: &Streams) {
        let total = streams.instances.len();
        let states = if streams.states.is_empty() { String::new() } else { format!("; {}", joined(&streams.states)) };
        self.line("instances", format!("{total}, of these closed {}{states}", streams.closed));
        let open = streams.instances.iter().filter(|instance| !instance.closed);
        for instance in open.clone().take(NAMED) {
            let starts = match instance.open_starts {
                0 => String::new(),
                n => format!(", {n} starts without an outcome"),
            };
            self.line("  open", format!("{} {}, {} entries{starts}", instance.id, instance.state, instance.entries));
        }
        self.more(open.count());
    }

    fn more(&mut self, count: usize) {
        if let Some(more @ 1..) = count.checked_sub(NAMED) {
            self.line("", format!("and {more} more, which JSON names"));
        }
    }

    fn counts(&mut self, counts: &Counts) {
        self.line("entries", joined(&counts.kinds));
        if !counts.later.is_empty() {
            self.line("later kinds", joined(&counts.later));
        }
        let Counts { approved, overridden, rejected, system_rejected, other_decisions, refused, .. } = counts;
        let by_people = format!("approved {approved}, overridden {overridden}, rejected {rejected}");
        self.line("gates", format!("{by_people}, rejected by SYSTEM {system_rejected}; other votes {other_decisions}"));
        if counts.shadow_instances > 0 {
            let words =
                format!("{} instances, {} unenforced permits", counts.shadow_instances, counts.unenforced_permits);
            self.line("shadow", format!("{words}, {} against policy's word", counts.unenforced_against));
        }
        if counts.by_people() > 0 {
            let words = format!("{}, {} with the approver's own signature", counts.by_people(), counts.asserted);
            self.line("decisions", words);
        }
        let grants = counts.grants;
        if grants != Grants::default() {
            let Grants { asked, given, used, revoked, terms: _ } = grants;
            self.line("grants", format!("asked {asked}, given {given}, used {used} times, taken back {revoked}"));
        }
        self.line(
            "refused",
            format!("{refused} by policy or freeze; ended against its objection {}", counts.objections),
        );
        let outcomes = if counts.outcomes.is_empty() { "none".to_owned() } else { joined(&counts.outcomes) };
        let notes = format!("superseding {}, conflicting claims {}", counts.superseding, counts.conflicts);
        self.line("outcomes", format!("{outcomes}; {notes}"));
    }
}

fn joined<K: Display>(map: &BTreeMap<K, u64>) -> String {
    map.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenReview;

    #[test]
    fn every_open_review_and_every_persons_key_is_named() {
        let mut out = Lines(String::new());
        let open = |entry: u64| OpenReview {
            entry,
            instance: "inst".to_owned(),
            lift: format!("dec_{entry}"),
            rule: "production".to_owned(),
            review_by: "2026-11-20T09:00:00.000Z".to_owned(),
            overdue: false,
        };
        let key = |from: u64| PersonKeySeen {
            principal: "ada".to_owned(),
            key: format!("key{from}."),
            from,
            revoked: None,
            signed: 0,
        };
        let count = 3 * u64::try_from(NAMED).unwrap_or_default();
        out.lifts(&Lifts { lifted: count, not_upheld: 0, open: (0..count).map(open).collect() });
        out.person_keys(&(0..count).map(key).collect::<Vec<_>>());
        for at in 0..count {
            assert!(out.0.contains(&format!("at entry {at} is OPEN")), "{at}");
            assert!(out.0.contains(&format!("key{at}. of ada")), "{at}");
        }
        assert!(!out.0.contains("more"), "{}", out.0);
    }
}
