//! The report as one page that needs nothing else: no script, no font, no picture, no link out. Everything that comes
//! from the past is escaped.
//!
//! Absent: numbers that are not in the report.

use std::fmt::Write as _;

use super::report::{BacktestReport, Counts, Example, Group, Said, Shift};

/// How many rows a table shows; the JSON form has all.
const MAX_ROWS: usize = 50;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;\
    background:#fff}table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{text-align:left;padding:.3rem .6rem;\
    border-bottom:1px solid #ddd;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
    .weaker{color:#a40000;font-weight:600}.stricter{color:#1a4f8a}code,pre{font-family:ui-monospace,monospace;\
    font-size:.85em;white-space:pre-wrap;overflow-wrap:anywhere}details{margin:.5rem 0}";

impl BacktestReport {
    /// The page.
    pub fn to_html(&self) -> String {
        let mut page = String::with_capacity(64 * 1024);
        // Writing to a text cannot fail.
        let _ = self.write_html(&mut page);
        page
    }

    fn write_html(&self, page: &mut String) -> std::fmt::Result {
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'unsafe-inline'\"><title>Backtest</title><style>{STYLE}</style></head><body>\n<h1>Backtest</h1>\n"
        )?;
        let range = self.entries.map(|(a, b)| format!(", entries {a} to {b}")).unwrap_or_default();
        writeln!(page, "<p>Candidate <code>{}</code>, {} questions{range}.</p>", self.bundle, self.asked)?;
        self.overview(page)?;
        if !self.reasons.is_empty() {
            page.push_str("<h2>Not computable</h2>\n<table><tr><th>why</th><th class=\"n\">questions</th></tr>\n");
            for (why, count) in self.reasons.iter().take(MAX_ROWS) {
                writeln!(page, "<tr><td>{}</td><td class=\"n\">{count}</td></tr>", escaped(why))?;
            }
            page.push_str("</table>\n");
        }
        for (title, group) in [
            ("By who asked", &self.by_agent),
            ("By tool or operation", &self.by_tool),
            ("By policy that decides now", &self.by_policy),
            ("By policy that decided then", &self.by_policy_before),
        ] {
            table(page, title, group)?;
        }
        page.push_str("<h2>Examples</h2>\n");
        for shift in Shift::ALL {
            for example in self.examples.get(&shift).into_iter().flatten() {
                one(page, shift, example)?;
            }
        }
        page.push_str("</body></html>\n");
        Ok(())
    }

    fn overview(&self, page: &mut String) -> std::fmt::Result {
        page.push_str("<table><tr><th>what</th><th class=\"n\">questions</th></tr>\n");
        for shift in Shift::ALL {
            let count = self.all.changed.get(&shift).copied().unwrap_or(0);
            writeln!(
                page,
                "<tr><td class=\"{}\">{}</td><td class=\"n\">{count}</td></tr>",
                class(shift),
                escaped(shift.words())
            )?;
        }
        writeln!(page, "<tr><td>unchanged</td><td class=\"n\">{}</td></tr>", self.all.unchanged)?;
        writeln!(page, "<tr><td>not computable</td><td class=\"n\">{}</td></tr></table>", self.all.not_computable)
    }
}

fn class(shift: Shift) -> &'static str {
    match shift {
        Shift::DenyToAllow | Shift::DenyToNeedsApproval | Shift::NeedsApprovalToAllow => "weaker",
        Shift::OtherRules => "",
        Shift::AllowToNeedsApproval | Shift::AllowToDeny | Shift::NeedsApprovalToDeny => "stricter",
    }
}

/// Those with most changes first; those without are left out.
fn table(page: &mut String, title: &str, group: &Group) -> std::fmt::Result {
    let mut rows: Vec<(&String, &Counts)> = group.iter().filter(|(_, counts)| counts.changes() > 0).collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_by(|a, b| b.1.changes().cmp(&a.1.changes()).then_with(|| a.0.cmp(b.0)));
    write!(page, "<h2>{}</h2>\n<table><tr><th>name</th>", escaped(title))?;
    for shift in Shift::ALL {
        write!(page, "<th class=\"n {}\">{}</th>", class(shift), escaped(shift.words()))?;
    }
    page.push_str("<th class=\"n\">unchanged</th></tr>\n");
    for (name, counts) in rows.iter().take(MAX_ROWS) {
        write!(page, "<tr><td><code>{}</code></td>", escaped(name))?;
        for shift in Shift::ALL {
            write!(page, "<td class=\"n\">{}</td>", counts.changed.get(&shift).copied().unwrap_or(0))?;
        }
        writeln!(page, "<td class=\"n\">{}</td></tr>", counts.unchanged)?;
    }
    page.push_str("</table>\n");
    if rows.len() > MAX_ROWS {
        writeln!(page, "<p>{} more; the JSON form has all.</p>", rows.len() - MAX_ROWS)?;
    }
    Ok(())
}

fn one(page: &mut String, shift: Shift, example: &Example) -> std::fmt::Result {
    writeln!(
        page,
        "<details><summary><span class=\"{}\">{}</span> entry {}: <code>{}</code> {} <code>{}</code></summary>",
        class(shift),
        escaped(shift.words()),
        example.index,
        escaped(&example.asked),
        escaped(&example.operation),
        escaped(&example.resource)
    )?;
    writeln!(page, "<p>then: {}<br>now: {}</p>", said(&example.before), said(&example.after))?;
    for reason in &example.reasons {
        writeln!(page, "<p>{}</p>", escaped(reason))?;
    }
    writeln!(page, "<pre>{}</pre></details>", escaped(&example.question))
}

fn said(said: &Said) -> String {
    let list = |names: &[countersign_gateway_model::Name]| {
        let names: Vec<String> = names.iter().map(|name| escaped(name.as_str())).collect();
        names.join(", ")
    };
    let decision = match said.decision {
        countersign_gateway_model::Decision::Allow => "ALLOW",
        countersign_gateway_model::Decision::NeedsApproval => "NEEDS_APPROVAL",
        countersign_gateway_model::Decision::Deny => "DENY",
    };
    let rules = if said.rules.is_empty() { String::new() } else { format!(" with rules {}", list(&said.rules)) };
    format!("{decision}{rules} by {}", list(&said.by))
}

/// Text of the past, as text: nothing of it is markup, and nothing of it turns the direction of what stands around it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}
