//! Tools: what agents may call, registered from a file or from an MCP server's own list.
//!
//! Every check is the gateway's; here a file is read, and what the gateway says of it is shown with line and column.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Global, confirm, out, query};
use crate::client::{Client, ProblemError, segment};
use crate::text::plain;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 32 << 20;

/// Tools.
#[derive(Debug, Subcommand)]
pub(crate) enum Tool {
    /// Register tools; each replaces, whole, what is listed under its name
    #[command(after_help = "The file holds one tool, or {\"tools\": […]}:\n  \
        {\"name\": \"tickets.create\", \"description\": \"Creates a ticket\",\n   \
        \"input\": {\"type\": \"object\", \"properties\": {\"title\": {\"type\": \"string\"}}, \"required\": [\"title\"]},\n   \
        \"risk\": 2, \"data_class\": \"internal\", \"scopes\": [\"tickets:write\"]}\n\n\
        What is left out is the highest: risk 4, data class `restricted`, a scope `<server>:<tool>` that nobody holds.\n\
        risk: 0 reads only, 1 changes what is the agent's own, 2 changes what others see, 3 is hard to undo, 4 cannot be\n\
        undone. data_class: public, internal, confidential, restricted.\n\n\
        Another definition (name, description, input, output, runner) is another version: gates and permits name theirs.\n\n\
        Examples:\n  countersign tool register ticket.json --check\n  countersign tool register ticket.json\n\n\
        Exit codes: 0 in force, or waiting for people (with --check: nothing stands in the way), 1 not, or it failed.")]
    Register {
        /// A JSON file; `-` reads the standard input.
        file: PathBuf,
        /// Say what would change, and change nothing.
        #[arg(long)]
        check: bool,
    },
    /// Register the tools of an MCP server from the result of its `tools/list`
    #[command(
        name = "import-mcp",
        after_help = "What a server says of its own harm (`annotations`) is not taken over. Without words of yours a tool is of the\n\
        highest risk; words given before stay as long as its definition does. --words names a file with words for single\n\
        tools, by their name at the server: {\"create_issue\": {\"risk\": 2, \"scopes\": [\"issues:write\"]}}\n\n\
        Examples:\n  countersign tool import-mcp tools.json --as github --check\n  \
        countersign tool import-mcp tools.json --as github --data-class internal --words words.json\n\n\
        Exit codes: 0 in force, or waiting for people (with --check: nothing stands in the way), 1 not, or it failed."
    )]
    ImportMcp {
        /// A JSON file with the result of `tools/list`, or the whole JSON-RPC answer; `-` reads the standard input.
        file: PathBuf,
        /// What the server is called here: the part before the dot of each name.
        #[arg(long = "as", value_name = "NAME")]
        name: String,
        #[command(flatten)]
        words: Words,
        /// Words about single tools.
        #[arg(long = "words", value_name = "FILE")]
        each: Option<PathBuf>,
        /// Say what would change, and change nothing.
        #[arg(long)]
        check: bool,
    },
    /// List tools
    #[command(after_help = "Example:\n  countersign tool list")]
    List,
    /// Show a tool, and what of its input policy sees
    #[command(after_help = "Example:\n  countersign tool show github.create_issue")]
    Show {
        /// The tool.
        name: String,
    },
    /// Show a change of the catalogue that people are, or were, asked about
    #[command(
        after_help = "Whoever registered withdraws it with `countersign instance terminate` and the same id.\n\n\
        Example:\n  countersign tool registration inst_0192…"
    )]
    Registration {
        /// The registration.
        id: String,
    },
    /// Take a tool from the list; every call of it is refused from then on
    #[command(
        after_help = "A tool that a policy or a test of the active bundle names is not taken from under it: change the bundle first.\n\n\
        Example:\n  countersign tool retire github.create_issue\n\nExit codes: 0 retired, or waiting for people, 1 not."
    )]
    Retire {
        /// The tool.
        name: String,
        /// Say what would change, and change nothing.
        #[arg(long)]
        check: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// The registrar's words about every tool of a list.
#[derive(Debug, Args)]
pub(crate) struct Words {
    /// 0 reads only to 4 cannot be undone.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=4))]
    risk: Option<u8>,
    /// The most confidential data that they touch: public, internal, confidential or restricted.
    #[arg(long, value_name = "CLASS")]
    data_class: Option<String>,
    /// A scope that the caller must hold; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", conflicts_with = "no_scope")]
    scopes: Vec<String>,
    /// They ask for no scope.
    #[arg(long)]
    no_scope: bool,
}

impl Words {
    fn json(&self) -> Value {
        let mut words = Map::new();
        if let Some(risk) = self.risk {
            words.insert("risk".to_owned(), json!(risk));
        }
        if let Some(class) = &self.data_class {
            words.insert("data_class".to_owned(), json!(class));
        }
        if self.no_scope || !self.scopes.is_empty() {
            words.insert("scopes".to_owned(), json!(self.scopes));
        }
        Value::Object(words)
    }
}

pub(crate) async fn tool(verb: Tool, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Tool::Register { file, check } => {
            let read = File::read(&file)?;
            // One tool alone stands for a list of it.
            let alone = read.value.get("tools").is_none();
            let body = if alone { json!({ "tools": [read.value] }) } else { read.value.clone() };
            let said = client.post(&path("/api/v1/tools", check), &body).await;
            changed(&said.map_err(|e| read.placed(e, if alone { "/tools/0" } else { "" }))?, check, global)
        }
        Tool::ImportMcp { file, name, words, each, check } => {
            let read = File::read(&file)?;
            let each = each.map(|file| File::read(&file).map(|read| read.value)).transpose()?;
            let body = json!({
                "server": name, "tools_list": read.value, "defaults": words.json(),
                "tools": each.unwrap_or_else(|| json!({})),
            });
            let said = client.post(&path("/api/v1/tools/import-mcp", check), &body).await;
            changed(&said.map_err(|e| read.placed(e, "/tools_list"))?, check, global)
        }
        Tool::List => {
            let page = client.get("/api/v1/tools").await?;
            global.page(&page, &["name", "risk", "data_class", "scopes", "runner", "version"])
        }
        Tool::Show { name } => {
            let shown = client.get(&format!("/api/v1/tools/{}", segment(&name)?)).await?;
            if global.json { global.document(&shown) } else { show(&shown) }
        }
        Tool::Registration { id } => {
            let shown = client.get(&format!("/api/v1/tools/registrations/{}", segment(&id)?)).await?;
            global.document(&shown)
        }
        Tool::Retire { name, check, yes } => retire(&client, &name, (check, yes), global).await,
    }
}

async fn retire(client: &Client, name: &str, (check, yes): (bool, bool), global: &Global) -> Result<()> {
    let at = format!("/api/v1/tools/{}", segment(name)?);
    if !check && !yes && !confirm(&format!("Retire tool {}?", plain(name)), "--yes")? {
        bail!("nothing was retired");
    }
    changed(&client.delete(&path(&at, check)).await?, check, global)
}

fn path(at: &str, check: bool) -> String {
    format!("{at}{}", query(&[("check", check.then_some("true"))], None))
}

/// A file of JSON, kept as text so that a place in it can be named.
struct File {
    name: String,
    text: String,
    value: Value,
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        use std::io::Read as _;
        let name = if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() };
        let mut text = String::new();
        let read = if path == Path::new("-") {
            std::io::stdin().take(MAX_FILE + 1).read_to_string(&mut text)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
        };
        let size = read.with_context(|| format!("`{name}` cannot be read"))?;
        if u64::try_from(size).map_or(true, |size| size > MAX_FILE) {
            bail!("`{name}` is larger than {MAX_FILE} bytes: split it");
        }
        let value = serde_json::from_str(&text).map_err(|error| {
            anyhow::anyhow!("{name}:{}:{}: not JSON: {error}: correct the file", error.line(), error.column())
        })?;
        Ok(Self { name, text, value })
    }

    /// An answer's errors with file, line and column, where the body had what stands in this file below `below`.
    fn placed(&self, error: anyhow::Error, below: &str) -> anyhow::Error {
        let problem = match error.downcast::<ProblemError>() {
            Ok(problem) => problem,
            Err(other) => return other,
        };
        let ProblemError { status, code, mut body } = problem;
        for error in body.get_mut("errors").and_then(Value::as_array_mut).into_iter().flatten() {
            let place = error.get("pointer").and_then(Value::as_str).and_then(|at| at.strip_prefix(below));
            if let Some((line, column)) = place.and_then(|pointer| place_of(&self.text, pointer)) {
                let pointer = error.get("pointer").and_then(Value::as_str).unwrap_or_default();
                let shown = format!("{}:{line}:{column} {pointer}", self.name);
                error.as_object_mut().map(|error| error.insert("pointer".to_owned(), json!(shown)));
            }
        }
        ProblemError { status, code, body }.into()
    }
}

/// Line and column, both from 1, of what a JSON pointer names in a text; of what is around it where it is not there.
fn place_of(text: &str, pointer: &str) -> Option<(usize, usize)> {
    let mut at: &RawValue = serde_json::from_str(text).ok()?;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let next = if at.get().starts_with('[') {
            let items: Vec<&RawValue> = serde_json::from_str(at.get()).ok()?;
            step.parse::<usize>().ok().and_then(|n| items.get(n).copied())
        } else {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(at.get()).ok().unwrap_or_default();
            members.get(&step).copied()
        };
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    // Raw values borrow from the text, so that where they begin is where they stand.
    let offset = (at.get().as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let before = text.get(..offset)?;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count());
    Some((before.split('\n').count(), column + 1))
}

/// Shows what became of the catalogue.
fn changed(answer: &Value, check: bool, global: &Global) -> Result<()> {
    let ended = answer.get("registration").map_or(Ok(()), came_to);
    if global.json {
        global.document(answer)?;
        return ended;
    }
    let text = |value: &Value, key: &str| plain(value.get(key).and_then(Value::as_str).unwrap_or_default());
    let list = |key: &str| answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut shown = String::new();
    for tool in list("tools") {
        let _ = writeln!(shown, "{:12}  {}  {}", text(&tool, "change"), text(&tool, "name"), text(&tool, "version"));
        if let Some(report) = tool.get("report").filter(|_| text(&tool, "change") != "unchanged") {
            shown.push_str(&unseen(report, "    "));
        }
    }
    for skipped in list("skipped") {
        let (at, name, why) = (text(&skipped, "pointer"), text(&skipped, "tool"), text(&skipped, "problem"));
        let _ = writeln!(shown, "{:12}  {name}  {at}: {why}", "left out");
    }
    let names = |key: &str| list(key).iter().filter_map(Value::as_str).map(plain).collect::<Vec<_>>().join(", ");
    if !list("ignored").is_empty() {
        let _ = writeln!(shown, "not taken over: {}", names("ignored"));
    }
    if !list("missing").is_empty() {
        let _ = writeln!(shown, "no longer offered, still listed: {}", names("missing"));
    }
    let version = answer.get("version").and_then(Value::as_u64).unwrap_or_default();
    let registration = answer.get("registration");
    let what = match (answer.get("receipt"), answer.get("predecessor")) {
        _ if registration.is_some() => standing(registration.map(|r| text(r, "state")).unwrap_or_default().as_str()),
        (Some(_), _) => "in force",
        (None, Some(_)) if check => "would be in force",
        _ => "nothing changes",
    };
    let _ = writeln!(shown, "catalogue version {version} {}: {what}", text(answer, "catalogue"));
    if let Some(waits) = registration {
        let _ = writeln!(shown, "registration {}: {}", text(waits, "id"), text(waits, "state"));
        let (gate, id) = (text(waits, "gate"), text(waits, "id"));
        if text(waits, "state") == "waiting" && !gate.is_empty() {
            let _ = writeln!(shown, "decided at:   countersign gate show {gate}");
        }
        let _ = writeln!(shown, "read later:   countersign tool registration {id}");
    }
    if let Some(index) = answer.pointer("/receipt/index").and_then(Value::as_u64) {
        let _ = writeln!(shown, "receipt: entry {index}");
    }
    out(&shown)?;
    ended
}

/// What a registration in this state comes to.
fn standing(state: &str) -> &'static str {
    match state {
        "waiting" => "waits for people, not in force",
        "approved" => "approved, not in force yet",
        "activated" => "in force",
        _ => "not in force",
    }
}

/// An error for a registration that ended, and changed nothing.
fn came_to(registration: &Value) -> Result<()> {
    let text = |key: &str| plain(registration.get(key).and_then(Value::as_str).unwrap_or_default());
    match text("state").as_str() {
        "waiting" | "approved" | "activated" => Ok(()),
        state if text("reason").is_empty() => bail!("the registration is {state}, and nothing was changed"),
        _ => bail!("the registration failed, and nothing was changed: {}", text("reason")),
    }
}

/// What policy cannot see of a tool, one line each.
fn unseen(report: &Value, indent: &str) -> String {
    let mut shown = String::new();
    for (key, word) in [("never", "unseen"), ("sometimes", "seen at times")] {
        for part in report.get(key).and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| plain(part.get(key).and_then(Value::as_str).unwrap_or_default());
            let _ = writeln!(shown, "{indent}{word}  {}: {}", text("pointer"), text("reason"));
        }
    }
    for note in report.get("notes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(shown, "{indent}note  {}", plain(note));
    }
    shown
}

/// A tool and its report.
fn show(tool: &Value) -> Result<()> {
    let mut fields = tool.clone();
    let report = fields.as_object_mut().and_then(|fields| {
        // Schemas are for programs: `--json` has them.
        fields.remove("input");
        fields.remove("output");
        fields.remove("report")
    });
    let report = report.unwrap_or_default();
    let mut shown = crate::text::fields(&fields);
    let _ = writeln!(
        shown,
        "action          {}\n\nWhat policy sees of its input:",
        plain(report.get("action").and_then(Value::as_str).unwrap_or_default())
    );
    let rows: Vec<Value> = report.get("seen").and_then(Value::as_array).cloned().unwrap_or_default();
    shown.push_str(&crate::text::table(&rows, &["attribute", "type", "optional"]));
    let hidden = unseen(&report, "");
    if !hidden.is_empty() {
        let _ = write!(shown, "\nWhat it does not see:\n{hidden}");
    }
    out(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_that_ended_without_a_change_is_an_error_and_every_state_has_its_words() {
        for (state, words) in [
            ("waiting", "waits for people, not in force"),
            ("approved", "approved, not in force yet"),
            ("activated", "in force"),
        ] {
            assert_eq!(standing(state), words);
            came_to(&json!({ "state": state })).unwrap();
        }
        for (state, reason, words) in [
            ("failed", "it was rejected", "the registration failed, and nothing was changed: it was rejected"),
            ("withdrawn", "", "the registration is withdrawn, and nothing was changed"),
            ("of another day", "", "the registration is of another day, and nothing was changed"),
        ] {
            assert_eq!(standing(state), "not in force");
            assert_eq!(came_to(&json!({ "state": state, "reason": reason })).unwrap_err().to_string(), words);
        }
    }

    #[test]
    fn a_pointer_is_found_in_the_text_with_line_and_column() {
        let text = "{\n  \"tools\": [\n    {\"name\": \"a.b\"},\n    {\"na~/me\": {\"ü\": 1, \"input\": 7}}\n  ]\n}\n";
        assert_eq!(place_of(text, ""), Some((1, 1)));
        assert_eq!(place_of(text, "/tools/1"), Some((4, 5)));
        assert_eq!(place_of(text, "/tools/1/na~0~1me/input"), Some((4, 34)));
        assert_eq!(place_of(text, "/tools/0/input"), Some((3, 5)), "what is missing is named by what lacks it");
        assert_eq!(place_of(text, "/tools/9/input"), Some((2, 12)));
        assert_eq!(place_of("not json", "/a"), None);
    }
}
