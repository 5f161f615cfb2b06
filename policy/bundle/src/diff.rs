//! What changes from one bundle to the next, in words, with everything that certainly loosens it marked.
//!
//! Syntactic: a change whose effect cannot be read from the text alone is `unclear` and asks for a reader. A solver may
//! say more later; nothing here says "proved". Absent: what it would have decided (that is a backtest).
//! Read next: `diff::rules`.

mod examples;
mod rules;

pub use examples::{Example, examples};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cedar_policy::Effect;
use countersign_gateway_model::{Name, Timestamp};
use countersign_policy_decide::rules::Rules;
use serde::Serialize;
use serde_json::Value;

use crate::bundle::Draft;
use crate::files::{FileKind, Files};
use crate::lint::{REQUIRES, SEVERITY, TRANSFORM, covers, rule_of};
use crate::manifest::Shadowed;
use crate::source::SourcePolicy;

/// Which way a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It certainly lets more pass, or asks fewer people.
    Weaker,
    /// It may; the text does not say.
    Unclear,
    /// It certainly lets less pass, or asks more people.
    Stricter,
    /// It changes no decision.
    Neutral,
}

/// One change, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Which way it goes.
    pub direction: Direction,
    /// What it is about: `policy x`, `rule y`, `file z`.
    pub subject: String,
    /// What changes, for people.
    pub words: String,
    /// The text before, where it is short and helps.
    pub before: Option<String>,
    /// The text after.
    pub after: Option<String>,
}

impl Change {
    fn new(direction: Direction, subject: impl Into<String>, words: impl Into<String>) -> Self {
        Self { direction, subject: subject.into(), words: words.into(), before: None, after: None }
    }

    fn texts(self, before: Option<&str>, after: Option<&str>) -> Self {
        Self { before: before.map(str::to_owned), after: after.map(str::to_owned), ..self }
    }
}

/// `WEAKER policy x: it is gone …`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.direction {
            Direction::Weaker => "WEAKER  ",
            Direction::Unclear => "unclear ",
            Direction::Stricter => "stricter",
            Direction::Neutral => "neutral ",
        };
        write!(f, "{mark} {}: {}", self.subject, self.words)
    }
}

/// All changes, what loosens first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The changes.
    pub changes: Vec<Change>,
}

impl Diff {
    /// Whether something certainly loosens.
    pub fn weakens(&self) -> bool {
        self.changes.iter().any(|c| c.direction == Direction::Weaker)
    }

    /// Whether something loosens or might: what a policy about policy changes should be told.
    pub fn may_weaken(&self) -> bool {
        self.changes.iter().any(|c| c.direction <= Direction::Unclear)
    }

    /// The changes of one direction.
    pub fn of(&self, direction: Direction) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| change.direction == direction)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

/// Compares two bundles. What does not parse in one of them is compared as text and is unclear.
pub fn diff(old: &Draft, new: &Draft) -> Diff {
    countersign_policy_decide::depth::with_room(|| diff_with_room(old, new))
}

fn diff_with_room(old: &Draft, new: &Draft) -> Diff {
    let mut changes = Vec::new();
    let (before, broken_before) = policies(&old.files);
    let (after, broken_after) = policies(&new.files);
    if broken_before || broken_after {
        changes.push(Change::new(
            Direction::Unclear,
            "policies",
            "some do not parse, so the comparison is not whole; run the check first",
        ));
    }
    let ids: BTreeSet<&Name> = before.keys().chain(after.keys()).collect();
    for id in ids {
        match (before.get(id), after.get(id)) {
            (None, Some(new)) => changes.push(added(new)),
            (Some(old), None) => changes.push(removed(old)),
            (Some(old), Some(new)) => changes.extend(changed(old, new)),
            (None, None) => {}
        }
    }
    match (rules_of(&old.files), rules_of(&new.files)) {
        (Some(old), Some(new)) => rules::compare(&old, &new, &mut changes),
        _ => changes.push(Change::new(Direction::Unclear, "rules.json", "it does not read; run the check first")),
    }
    other_files(&old.files, &new.files, &mut changes);
    let effect = |id: &Name| match (before.get(id).map(SourcePolicy::effect), after.get(id).map(SourcePolicy::effect)) {
        (Some(a), Some(b)) if a != b => None,
        (a, b) => b.or(a),
    };
    settings(old, new, &effect, &mut changes);
    changes.sort();
    changes.dedup();
    Diff { changes }
}

fn policies(files: &Files) -> (BTreeMap<Name, SourcePolicy>, bool) {
    let mut findings = Vec::new();
    let mut out = BTreeMap::new();
    let mut twice = false;
    for (path, text) in files.of(FileKind::Policies) {
        for policy in crate::source::parse(path, text, &mut findings) {
            twice |= out.insert(policy.id.clone(), policy).is_some();
        }
    }
    (out, twice || !findings.is_empty())
}

fn rules_of(files: &Files) -> Option<Rules> {
    match files.get("rules.json") {
        Some(text) => Rules::parse(text.as_bytes()).ok(),
        None => Some(Rules::default()),
    }
}

fn subject(policy: &SourcePolicy) -> String {
    match policy.annotation("title").or_else(|| policy.annotation("doc")) {
        Some(title) => format!("policy `{}` ({})", policy.id, title.escape_debug()),
        None => format!("policy `{}`", policy.id),
    }
}

fn added(new: &SourcePolicy) -> Change {
    let (direction, words) = match (new.effect(), rule_of(new)) {
        (Effect::Permit, _) => (Direction::Weaker, "it is new and permits more".to_owned()),
        (Effect::Forbid, Some(rule)) => {
            (Direction::Stricter, format!("it is new and asks for approval by rule `{rule}`"))
        }
        (Effect::Forbid, None) => (Direction::Stricter, "it is new and denies more; no approval lifts it".to_owned()),
    };
    Change::new(direction, subject(new), words).texts(None, Some(new.text()))
}

fn removed(old: &SourcePolicy) -> Change {
    let (direction, words) = match (old.effect(), rule_of(old)) {
        (Effect::Permit, _) => (Direction::Stricter, "it is gone; what only it permitted is denied".to_owned()),
        (Effect::Forbid, Some(rule)) => {
            (Direction::Weaker, format!("it is gone; what it covered no longer waits for rule `{rule}`"))
        }
        (Effect::Forbid, None) => {
            (Direction::Weaker, "it is gone; what it denied is not denied by it any more".to_owned())
        }
    };
    Change::new(direction, subject(old), words).texts(Some(old.text()), None)
}

/// Turns "applies to more" into a direction: more of a permit is weaker, more of a forbid is stricter.
fn more(effect: Effect) -> Direction {
    if effect == Effect::Permit { Direction::Weaker } else { Direction::Stricter }
}

fn less(effect: Effect) -> Direction {
    if effect == Effect::Permit { Direction::Stricter } else { Direction::Weaker }
}

fn changed(old: &SourcePolicy, new: &SourcePolicy) -> Vec<Change> {
    let change = |direction, words: String| {
        Change::new(direction, subject(new), words).texts(Some(old.text()), Some(new.text()))
    };
    let mut out = Vec::new();
    if old.effect() != new.effect() {
        let (direction, words) = match new.effect() {
            Effect::Permit => (Direction::Weaker, "it was a forbid and is now a permit"),
            Effect::Forbid => (Direction::Stricter, "it was a permit and is now a forbid"),
        };
        return vec![change(direction, words.to_owned())];
    }
    let effect = new.effect();
    // A gate's own clause names its rule or transform, so it is compared by that and left out of the clauses.
    out.extend(lifts(old, new).into_iter().map(|(direction, words)| change(direction, words)));
    for key in ["principal", "action", "resource"] {
        let (a, b) = (old.est.get(key), new.est.get(key));
        if a == b {
            continue;
        }
        let (direction, words) = match (covers(b, a), covers(a, b)) {
            (true, false) => (more(effect), format!("its {key} is wider than before")),
            (false, true) => (less(effect), format!("its {key} is narrower than before")),
            _ => (Direction::Unclear, format!("its {key} is another one")),
        };
        out.push(change(direction, words));
    }
    let (gone, came) = clauses(old, new);
    match (gone, came) {
        (0, 0) => {}
        (_, 0) => out.push(change(more(effect), "a condition is gone, so it applies to more".to_owned())),
        (0, _) => out.push(change(less(effect), "a condition is new, so it applies to less".to_owned())),
        _ => out.push(change(Direction::Unclear, "its conditions changed".to_owned())),
    }
    let annotations = |p: &SourcePolicy| -> BTreeMap<String, String> {
        let own = p.policy.annotations().filter(|(key, _)| ![REQUIRES, TRANSFORM, "id"].contains(key));
        own.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    let (a, b) = (annotations(old), annotations(new));
    if a != b {
        let (direction, words) = match (a.get(SEVERITY), b.get(SEVERITY)) {
            (Some(_), None) => {
                (Direction::Weaker, "it is no longer `@severity(\"hard\")`, so it could be put in shadow")
            }
            (None, Some(_)) => (Direction::Stricter, "it is now `@severity(\"hard\")` and cannot be put in shadow"),
            _ => (Direction::Neutral, "its words for people changed"),
        };
        out.push(change(direction, words.to_owned()));
    }
    out
}

/// What lifts it that is another than before: a rule, or a transform of the input.
fn lifts(old: &SourcePolicy, new: &SourcePolicy) -> Vec<(Direction, String)> {
    let of = |policy: &SourcePolicy, annotation: &str| policy.annotation(annotation).map(str::to_owned);
    // What nothing lifted and something lifts now is weaker; one way of lifting for another is for a reader.
    let first = match (of(old, REQUIRES), of(old, TRANSFORM)) {
        (None, None) => Direction::Weaker,
        _ => Direction::Unclear,
    };
    let rule = match (of(old, REQUIRES), of(new, REQUIRES)) {
        (Some(a), Some(b)) if a != b => {
            Some((Direction::Unclear, format!("it asked for rule `{a}` and now asks for rule `{b}`")))
        }
        (Some(a), None) => {
            Some((Direction::Unclear, format!("it no longer waits for rule `{a}`; read what it does instead")))
        }
        (None, Some(b)) => Some((first, format!("what it denied can now be approved by rule `{b}`"))),
        _ => None,
    };
    let transform = match (of(old, TRANSFORM), of(new, TRANSFORM)) {
        (Some(a), Some(b)) if a != b => {
            Some((Direction::Unclear, format!("it asked for transform `{a}` and now asks for transform `{b}`")))
        }
        (Some(a), None) => {
            Some((Direction::Unclear, format!("it no longer asks for transform `{a}`; read what it does instead")))
        }
        (None, Some(b)) => Some((first, format!("what it denied now passes after transform `{b}`"))),
        _ => None,
    };
    rule.into_iter().chain(transform).collect()
}

/// How many condition clauses only the old one has, and how many only the new one has; gate clauses aside.
fn clauses(old: &SourcePolicy, new: &SourcePolicy) -> (usize, usize) {
    let of = |policy: &SourcePolicy| -> Vec<Value> {
        let all = policy.est.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let gate = crate::lint::gate_of(policy);
        all.into_iter().filter(|c| gate.is_none() || c.get("kind").and_then(Value::as_str) != Some("unless")).collect()
    };
    let (a, mut b) = (of(old), of(new));
    let mut gone = 0;
    for clause in &a {
        match b.iter().position(|other| other == clause) {
            Some(at) => drop(b.swap_remove(at)),
            None => gone += 1,
        }
    }
    (gone, b.len())
}

fn other_files(old: &Files, new: &Files, changes: &mut Vec<Change>) {
    let paths: BTreeSet<_> = old.iter().chain(new.iter()).map(|(path, _)| path).collect();
    for path in paths {
        let (a, b) = (old.get(path.as_str()), new.get(path.as_str()));
        if a == b {
            continue;
        }
        let verb = match (a, b) {
            (None, _) => "is new",
            (_, None) => "is gone",
            _ => "changed",
        };
        let (direction, what) = match path.kind() {
            FileKind::Policies | FileKind::Rules => continue,
            FileKind::Notes => (Direction::Neutral, "words for people"),
            FileKind::Tests if b.is_none() => (Direction::Unclear, "tests: less is checked before an activation"),
            FileKind::Tests => (Direction::Neutral, "tests"),
            FileKind::Invariants if a.is_none() => (Direction::Neutral, "invariants: more is checked"),
            FileKind::Invariants => (Direction::Unclear, "invariants: what must never be allowed"),
            FileKind::Masks if b.is_none() => (Direction::Weaker, "masks: fields are seen raw"),
            FileKind::Masks => (Direction::Unclear, "masks: which fields are never seen raw"),
            FileKind::Detectors => (Direction::Unclear, "detectors: which facts policies are told"),
            FileKind::Counters => (Direction::Unclear, "counters: which totals policies are told"),
            FileKind::Ages => (Direction::Unclear, "ages: how old facts may be"),
            FileKind::Roles => (Direction::Neutral, "roles: which names exist; who holds them is not policy"),
            FileKind::Schema => (Direction::Unclear, "schema additions"),
        };
        changes.push(Change::new(direction, format!("file `{path}`"), format!("{verb} ({what})")));
    }
}

fn settings(old: &Draft, new: &Draft, effect: &dyn Fn(&Name) -> Option<Effect>, changes: &mut Vec<Change>) {
    let (a, b) = (&old.settings, &new.settings);
    shadow("policy", &a.shadow.policies, &b.shadow.policies, effect, changes);
    // A workflow's rules hold something back, as forbids do.
    shadow("workflow", &a.shadow.workflows, &b.shadow.workflows, &|_| Some(Effect::Forbid), changes);
    if a.transforms != b.transforms {
        changes.push(Change::new(Direction::Unclear, "transforms", "which are applied, or in which order, changed"));
    }
    if a.purpose != b.purpose {
        changes.push(Change::new(Direction::Unclear, "purpose", format!("{:?} becomes {:?}", a.purpose, b.purpose)));
    }
    if a.expires != b.expires {
        let words = match b.expires {
            Some(at) => format!("it is not activated after {at}"),
            None => "it has no end date any more".to_owned(),
        };
        changes.push(Change::new(Direction::Neutral, "end date", words));
    }
}

fn shadow(
    what: &str,
    old: &[Shadowed],
    new: &[Shadowed],
    effect: &dyn Fn(&Name) -> Option<Effect>,
    changes: &mut Vec<Change>,
) {
    let until = |list: &[Shadowed], id: &Name| list.iter().find(|s| s.id == *id).map(|s| s.until);
    let ids: BTreeSet<&Name> = old.iter().chain(new).map(|s| &s.id).collect();
    for id in ids {
        let (a, b): (Option<Timestamp>, Option<Timestamp>) = (until(old, id), until(new, id));
        // In shadow a permit grants nothing, as a forbid holds nothing back.
        let way = |turn: fn(Effect) -> Direction| effect(id).map_or(Direction::Unclear, turn);
        let (direction, words) = match (a, b) {
            (None, Some(b)) => (way(less), format!("it is put in shadow until {b}: judged, not enforced")),
            (Some(_), None) => (way(more), "it leaves the shadow and is enforced".to_owned()),
            (Some(a), Some(b)) if b > a => (way(less), format!("it stays in shadow until {b}, longer than before")),
            (Some(a), Some(b)) if b < a => (way(more), format!("it is in shadow only until {b}")),
            _ => continue,
        };
        changes.push(Change::new(direction, format!("{what} `{id}`"), words));
    }
}

#[cfg(test)]
mod tests;
