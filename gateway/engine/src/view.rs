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
    /// Commit, image or content digest; none where the tool cannot say.
    pub(crate) revision: Option<String>,
    /// The amount, as the catalogue says where to find it.
    pub(crate) amount: Option<Value>,
    /// Risk (0 to 4) and data class of the tool.
    pub(crate) risk: Option<String>,
    /// Each rule that stands in the way, in words.
    pub(crate) why: Vec<String>,
    /// Who changed the input, where it is no longer what the agent proposed.
    pub(crate) changed_by: Option<String>,
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
        let changed = self.items.iter().any(|item| item.changed_by.is_some());
        let hand = if changed { "the agent, or changed where Override says so" } else { "the agent" };
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
    let revision = item.revision.as_deref().unwrap_or("mutable: the tool cannot say which");
    let _ = writeln!(out, "{:<11}{}", "Revision:", bounded(revision));
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
                amount: None,
                risk: None,
                why: vec!["rule r".into()],
                changed_by: None,
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
