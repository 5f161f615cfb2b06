//! The approval view: what a person is shown before deciding, as one text.
//!
//! The gateway renders it from typed input, entities and verdict, in fixed fields and fixed order. Whatever an agent
//! supplied comes last, labelled, quoted, bounded and escaped, so that it can neither imitate a field nor reorder one.
//! The digest of these bytes is `shown_digest`; the same bytes feed terminal, console and messages.
//!
//! Absent: locales, markup, links. Read next: `gates`, which keeps the view as a payload of the gate's entry.

use std::fmt::Write as _;

use serde_json::Value;

use countersign_gateway_model::Timestamp;

/// Most characters of one line of the gateway's own.
const MAX_LINE: usize = 2000;

/// Most characters of one agent-supplied value.
const MAX_VALUE: usize = 400;

/// Most agent-supplied lines of one item.
const MAX_LINES: usize = 40;

/// Deepest agent-supplied value that is taken apart line by line.
const MAX_DEPTH: usize = 6;

/// One item as the person sees it. All fields but `input` are the gateway's own words and ids.
#[derive(Clone, Debug)]
pub(crate) struct ItemView {
    /// Place among the items of the gate, from 1, and how many there are.
    pub(crate) position: (usize, usize),
    /// Kind and id of who acts, and who answers for it.
    pub(crate) who: String,
    /// The delegators, outermost first; none: itself.
    pub(crate) for_whom: Vec<String>,
    /// The question in words, with tool and tool version.
    pub(crate) what: String,
    /// What it acts on, as the catalogue says where to find it.
    pub(crate) target: Option<Value>,
    /// Commit, image or content digest; none where nobody named one.
    pub(crate) revision: Option<String>,
    /// Whether the tool is declared as one whose target has no revision; none where no tool is called.
    pub(crate) mutable: Option<bool>,
    /// The amount, as the catalogue says where to find it.
    pub(crate) amount: Option<Value>,
    /// Risk (0 to 4) and data class of the tool.
    pub(crate) risk: Option<String>,
    /// Each rule that stands in the way, in words.
    pub(crate) why: Vec<String>,
    /// Who changed the input, where it is no longer what the agent proposed.
    pub(crate) changed_by: Option<String>,
    /// The masks and transforms of policy that made the input what it is.
    pub(crate) rewritten: Vec<String>,
    /// Canonical typed input; null where nobody supplied any.
    pub(crate) input: Value,
    /// What the gateway itself found, line by line, of what it would carry out itself.
    pub(crate) found: Vec<String>,
    /// What is asked for in advance, field by field; values are escaped.
    pub(crate) terms: Vec<(&'static str, String)>,
}

/// What a gate shows: head, items, what happens next.
#[derive(Clone, Debug)]
pub(crate) struct GateView {
    /// The gate's id.
    pub(crate) gate: String,
    /// The instance's id and its workflow.
    pub(crate) instance: String,
    /// `solo` or `four_eyes`.
    pub(crate) authority: String,
    /// What approval does, in words.
    pub(crate) next: String,
    /// When silence is acted on, and how.
    pub(crate) expires: Option<(Timestamp, String)>,
    /// The items.
    pub(crate) items: Vec<ItemView>,
}

impl GateView {
    /// The text. Lines end in a line feed; nothing but printable characters is in it.
    pub(crate) fn render(&self) -> String {
        let mut out = String::with_capacity(1024);
        let field = |out: &mut String, name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name:<11}{}", bounded(value));
        };
        field(&mut out, "Gate:", &self.gate);
        field(&mut out, "Instance:", &self.instance);
        field(&mut out, "Authority:", &self.authority);
        for item in &self.items {
            let (at, of) = item.position;
            let _ = writeln!(out, "\nItem {at} of {of}");
            field(&mut out, "Who:", &item.who);
            let whom = if item.for_whom.is_empty() { "itself".to_owned() } else { item.for_whom.join(", for ") };
            field(&mut out, "For whom:", &whom);
            field(&mut out, "What:", &item.what);
            for (name, words) in &item.terms {
                let _ = writeln!(out, "{name:<11}{words}");
            }
            if item.terms.is_empty() {
                act(&mut out, item);
            }
            for why in &item.why {
                field(&mut out, "Why gated:", why);
            }
            if !item.rewritten.is_empty() {
                let what = format!("by {}; what is permitted is not what the agent sent", item.rewritten.join(", "));
                field(&mut out, "Rewritten:", &what);
            }
            if let Some(who) = &item.changed_by {
                field(&mut out, "Override:", &format!("{who} changed the input; earlier approvals do not count"));
            }
            if !item.found.is_empty() {
                let _ = writeln!(out, "\nFound by the gateway (names and quoted text are the proposer's):");
                for line in &item.found {
                    let _ = writeln!(out, "| {}", bounded(line));
                }
            }
        }
        out.push('\n');
        field(&mut out, "Next:", &self.next);
        match &self.expires {
            Some((at, what)) => field(&mut out, "Silence:", &format!("until {at}, then {what}")),
            None => field(&mut out, "Silence:", "waits without end"),
        }
        if self.items.iter().all(|item| item.input.is_null()) {
            return out;
        }
        let any = |is: fn(&ItemView) -> bool| self.items.iter().any(is);
        let hand = match (any(|item| item.changed_by.is_some()), any(|item| !item.rewritten.is_empty())) {
            (false, false) => "the agent",
            (true, false) => "the agent, or changed where Override says so",
            (false, true) => "the agent, or changed where Rewritten says so",
            (true, true) => "the agent, or changed where Override or Rewritten says so",
        };
        let _ = writeln!(out, "\nSupplied by {hand}, not checked by anybody:");
        for item in &self.items {
            let mut lines = Vec::new();
            flatten(&mut lines, &format!("{}", item.position.0), &item.input, 0);
            let more = lines.len().saturating_sub(MAX_LINES);
            for line in lines.iter().take(MAX_LINES) {
                let _ = writeln!(out, "| {line}");
            }
            if more > 0 {
                let _ = writeln!(out, "| … {more} more values are in the input, which the digest covers");
            }
        }
        out
    }
}

/// What one action acts on, and how much is at stake.
fn act(out: &mut String, item: &ItemView) {
    // Writing to a string cannot fail.
    let target = item.target.as_ref().map_or_else(|| "none named".to_owned(), quote);
    let _ = writeln!(out, "{:<11}{target}", "Target:");
    let revision = match (&item.revision, item.mutable) {
        (Some(revision), Some(true)) => format!("{revision}; mutable: the tool is not bound to it"),
        (Some(revision), _) => revision.clone(),
        (None, Some(true)) => "mutable: the tool cannot say which".to_owned(),
        (None, Some(false)) => "mutable: the proposer named none".to_owned(),
        (None, None) => "none: no tool is called".to_owned(),
    };
    let _ = writeln!(out, "{:<11}{}", "Revision:", bounded(&revision));
    let amount = item.amount.as_ref().map_or_else(|| "none".to_owned(), quote);
    let _ = writeln!(out, "{:<11}{amount}", "Amount:");
    if let Some(risk) = &item.risk {
        let _ = writeln!(out, "{:<11}{}", "Risk:", bounded(risk));
    }
}

/// One line a leaf: `path = quoted value`.
fn flatten(lines: &mut Vec<String>, path: &str, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if depth < MAX_DEPTH && !map.is_empty() => {
            for (key, inner) in map {
                flatten(lines, &format!("{path}.{}", escape(key, 60)), inner, depth + 1);
            }
        }
        Value::Array(list) if depth < MAX_DEPTH && !list.is_empty() => {
            for (at, inner) in list.iter().enumerate() {
                flatten(lines, &format!("{path}[{at}]"), inner, depth + 1);
            }
        }
        leaf => lines.push(format!("{path} = {}", quote(leaf))),
    }
}

/// A line of the gateway's own, escaped and bounded; the full length is said where it is cut.
fn bounded(text: &str) -> String {
    let (count, shown) = (text.chars().count(), escape(text, MAX_LINE));
    if count > MAX_LINE { format!("{shown} … cut: {count} characters in all") } else { shown }
}

/// A value in quotes, escaped and bounded; the full length is said where it is cut.
pub(crate) fn quote(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let count = text.chars().count();
    let shown = escape(&text, MAX_VALUE);
    if count > MAX_VALUE { format!("\"{shown}\" … cut: {count} characters in all") } else { format!("\"{shown}\"") }
}

/// Escapes everything that is not a plain printable character, and what could become a link or markup.
///
/// Non-ASCII letters and digits stay readable; every other non-ASCII character (bidi controls, zero-width and format
/// characters, separators, tags, symbols) is written as `\u{…}`.
pub fn escape(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max * 2));
    let mut last = '\0';
    for c in text.chars().take(max) {
        // Letters by Unicode's books that print as nothing.
        let filler = matches!(c, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}');
        let plain = match c {
            '<' | '>' | '&' | '`' | '"' | '\\' | '|' => false,
            // `://` would be taken for a link by most that display text.
            '/' => last != ':',
            c if c.is_ascii() => c == ' ' || c.is_ascii_graphic(),
            c => c.is_alphanumeric() && !filler,
        };
        if plain {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        last = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_text_cannot_imitate_reorder_or_link() {
        for (hostile, shown) in [
            ("ok\nNext: harmless", "ok\\u{a}Next: harmless"),
            ("\u{202e}gnp.exe", "\\u{202e}gnp.exe"),
            ("a\u{200b}b\u{feff}\u{2028}", "a\\u{200b}b\\u{feff}\\u{2028}"),
            ("\u{e0041}\u{3164}", "\\u{e0041}\\u{3164}"),
            ("<b>&`x`|\"\\", "\\u{3c}b\\u{3e}\\u{26}\\u{60}x\\u{60}\\u{7c}\\u{22}\\u{5c}"),
            ("https://evil.example", "https:\\u{2f}/evil.example"),
            ("\u{1b}[2J\r\u{7}", "\\u{1b}[2J\\u{d}\\u{7}"),
            ("größe 数", "größe 数"),
        ] {
            assert_eq!(escape(hostile, 400), shown);
        }
    }

    /// A view that is kept as text: what people sign is a digest of these bytes.
    #[track_caller]
    fn assert_golden(view: &GateView, name: &str) {
        let path = format!("{}/../../tests/golden/view-{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(view.render(), golden, "{path}");
    }

    /// An item with every field of its own, and what an agent would write to be taken for the gateway.
    fn whole() -> ItemView {
        ItemView {
            position: (1, 1),
            who: "agent/fixer, owned by person/olga".into(),
            for_whom: vec!["person/dana".into(), "agent/planner".into()],
            what: "call payments.refund, version 9f86d081".into(),
            target: Some(serde_json::json!("main\nNext:      it is harmless")),
            revision: Some("4f2a9c".into()),
            mutable: Some(false),
            amount: Some(serde_json::json!(250.5)),
            risk: Some("4 of 4, confidential data".into()),
            why: vec![
                "payment: A payment needs a person (2 of role APPROVER)".into(),
                "policy: Payments are gated".into(),
            ],
            changed_by: None,
            rewritten: Vec::new(),
            found: Vec::new(),
            terms: Vec::new(),
            // In the order of canonical JSON, as every input comes.
            input: serde_json::json!({
                "Who:": "person/olga",
                "amount": 250.5,
                "lines": [{ "count": 2, "sku": "a-1" }, {}],
                "note": "\u{202e}approved by https://evil.example <b>",
            }),
        }
    }

    fn gate(items: Vec<ItemView>) -> GateView {
        GateView {
            gate: "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a".into(),
            instance: "inst_0192f3a1b2c37d4e8f9a0b1c2d3e4f5b, workflow repair".into(),
            authority: "four_eyes".into(),
            next: "if approved, the agent gets permits for what is approved; a rejection ends the instance".into(),
            expires: Some((Timestamp(1_795_219_200_000), "SYSTEM rejects and the instance ends".into())),
            items,
        }
    }

    #[test]
    fn a_view_with_every_field_is_what_it_was() {
        assert_golden(&gate(vec![whole()]), "whole");
    }

    #[test]
    fn a_view_of_a_batch_is_what_it_was() {
        let merge = ItemView {
            position: (1, 2),
            for_whom: Vec::new(),
            what: "call repo.merge, version 11aa22bb".into(),
            revision: None,
            amount: None,
            input: serde_json::json!({ "branch": "main" }),
            ..whole()
        };
        let patch = ItemView {
            position: (2, 2),
            what: "dispatch repo.write_patch, version 33cc44dd".into(),
            target: None,
            mutable: Some(true),
            input: serde_json::json!({ "content": "x".repeat(401) }),
            ..merge.clone()
        };
        assert_golden(&GateView { expires: None, ..gate(vec![merge, patch]) }, "batch");
    }

    #[test]
    fn a_view_of_what_was_changed_says_by_whom_and_by_what() {
        let changed = ItemView {
            changed_by: Some("person/bert".into()),
            rewritten: vec!["mask card".into(), "transform shorten (it did not fit: the field is left out)".into()],
            ..whole()
        };
        assert_golden(&gate(vec![changed]), "changed");
    }

    #[test]
    fn a_view_of_an_operation_and_of_a_grant_is_what_it_was() {
        let operation = ItemView {
            what: "put policy version 2 in force".into(),
            mutable: None,
            risk: None,
            found: vec!["What changes:".into(), "rule merge: 1 -> 2 persons".into()],
            input: Value::Null,
            ..whole()
        };
        assert_golden(&gate(vec![operation]), "operation");
        let grant = ItemView {
            what: "meet rule external-communication in advance, for the agent's calls within these terms".into(),
            mutable: None,
            terms: vec![("Uses:", "5".into()), ("Lasts:", "3600 s".into())],
            input: serde_json::json!({ "reason": "five reminders" }),
            ..whole()
        };
        assert_golden(&gate(vec![grant]), "grant");
    }

    #[test]
    fn long_and_many_values_are_cut_with_a_notice() {
        let view = GateView {
            gate: "gate_1".into(),
            instance: "inst_1".into(),
            authority: "solo".into(),
            next: "the permit is given".into(),
            expires: None,
            items: vec![ItemView {
                position: (1, 1),
                who: "agent a".into(),
                for_whom: vec![],
                what: "call tool x.y".into(),
                target: None,
                revision: None,
                mutable: None,
                amount: None,
                risk: None,
                why: vec!["rule r".into()],
                changed_by: None,
                rewritten: Vec::new(),
                found: vec!["y".repeat(2000), "z".repeat(2001)],
                terms: Vec::new(),
                input: serde_json::json!({ "long": "x".repeat(1000), "many": (0..100).collect::<Vec<_>>() }),
            }],
        };
        let text = view.render();
        assert!(text.contains("cut: 1000 characters in all"), "{text}");
        assert!(text.contains("61 more values"), "{text}");
        assert!(text.contains(&format!("{}\n", "y".repeat(2000))), "{text}");
        assert!(text.contains(&format!("{} … cut: 2001 characters in all\n", "z".repeat(2000))), "{text}");
        assert!(text.lines().skip_while(|l| !l.starts_with("Supplied")).skip(1).all(|l| l.starts_with("| ")), "{text}");
    }
}
