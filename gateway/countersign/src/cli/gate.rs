//! Gates: what waits for people, the view they are shown, and their word.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use countersign_gateway_model::Digest;
use countersign_runners_contract::entry::payload::{self, Salt};
use serde_json::{Map, Value, json};

use super::{Global, Paging, confirm, key, out, query};
use crate::client::{Client, segment};
use crate::text::plain;

/// Gates.
#[derive(Debug, Subcommand)]
pub(crate) enum Gate {
    /// List gates, newest first; open ones unless told otherwise
    #[command(after_help = "Example:\n  countersign gate list")]
    List {
        /// Closed ones too.
        #[arg(long)]
        all: bool,
        /// Only this instance's.
        #[arg(long)]
        instance: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a gate with its approval view
    #[command(after_help = "Example:\n  countersign gate show gate_0192…")]
    Show {
        /// The gate.
        id: String,
    },
    /// Say who may approve it, and why the others may not
    #[command(
        after_help = "Every person who is known: whether a vote of theirs would count now, and in words why not. Nothing is\n\
        permitted by it and nothing recorded; it needs `queryPolicy`.\n\nExample:\n  countersign gate approvers gate_0192…"
    )]
    Approvers {
        /// The gate.
        id: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Approve what waits, as proposed
    #[command(after_help = "Example:\n  countersign gate approve gate_0192… --justification \"I read the patch\"")]
    Approve {
        /// The gate.
        id: String,
        #[command(flatten)]
        word: Word,
    },
    /// Reject what waits; that ends the instance
    #[command(after_help = "Example:\n  countersign gate reject gate_0192… --justification \"Wrong branch\"")]
    Reject {
        /// The gate.
        id: String,
        #[command(flatten)]
        word: Word,
    },
    /// Break the glass: lift one rule without its quorum; another person must review it
    #[command(
        after_help = "Only where the rule's data names who may (`break_glass`), and policy agrees. The ledger says who did it and why;\n\
        until another person has reviewed it in time, nobody lifts the rule again.\n\nExample:\n  countersign gate break-glass gate_0192… --rule production --justification \"The shop is down\""
    )]
    BreakGlass {
        /// The gate.
        id: String,
        #[command(flatten)]
        glass: Glass,
    },
    /// Approve with a changed input, or without an item
    #[command(
        name = "override",
        after_help = "Example:\n  countersign gate override gate_0192… --item item_0192… --set /branch='\"release\"' --justification \"Not to main\""
    )]
    Override {
        /// The gate.
        id: String,
        /// The item that is changed.
        #[arg(long)]
        item: String,
        /// A change: JSON pointer, `=`, JSON value.
        #[arg(long = "set", value_name = "POINTER=JSON", required_unless_present = "drop")]
        set: Vec<String>,
        /// Leave the item out instead.
        #[arg(long, conflicts_with = "set")]
        drop: bool,
        #[command(flatten)]
        word: Word,
    },
}

/// What every decision carries.
#[derive(Debug, Args)]
pub(crate) struct Word {
    /// Why; kept with the decision.
    #[arg(long)]
    justification: Option<String>,
    /// The role that you use, where you hold several.
    #[arg(long)]
    role: Option<String>,
    /// Only these items; without any, all.
    #[arg(long = "only", value_name = "ITEM")]
    items: Vec<String>,
    /// Do not ask; needs --shown-digest, so that a script decides what somebody has read.
    #[arg(long, requires = "shown_digest")]
    yes: bool,
    /// Digest of the view that was read.
    #[arg(long, value_name = "HEX")]
    shown_digest: Option<String>,
    /// Sign the decision with your registered key.
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
}

/// What every lift carries.
#[derive(Debug, Args)]
pub(crate) struct Glass {
    /// The rule.
    #[arg(long)]
    rule: String,
    /// The item; else the one that asks for the rule.
    #[arg(long)]
    item: Option<String>,
    /// Why; kept with the lift.
    #[arg(long)]
    justification: String,
    /// The role that you use, where you hold several.
    #[arg(long)]
    role: Option<String>,
    /// Do not ask; needs --shown-digest, so that a script lifts what somebody has read.
    #[arg(long, requires = "shown_digest")]
    yes: bool,
    /// Digest of the view that was read.
    #[arg(long, value_name = "HEX")]
    shown_digest: Option<String>,
    /// Sign the lift with your registered key.
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
}

pub(crate) async fn gate(verb: Gate, global: &Global) -> Result<()> {
    let client = global.client()?;
    match verb {
        Gate::List { all, instance, paging } => {
            let parts = [("open", (!all).then_some("true")), ("instance", instance.as_deref())];
            let page = client.get(&format!("/api/v1/gates{}", query(&parts, Some(&paging)))).await?;
            global.page(&page, &["id", "subject", "open", "instance", "opened", "expires", "resolved"])
        }
        Gate::Show { id } => {
            let shown = client.get(&format!("/api/v1/gates/{}", segment(&id)?)).await?;
            bound(&shown, &id)?;
            if global.json { global.document(&shown) } else { show(&shown) }
        }
        Gate::Approvers { id, paging } => {
            let path = format!("/api/v1/gates/{}/approvers{}", segment(&id)?, query(&[], Some(&paging)));
            let answer = client.get(&path).await?;
            if global.json { global.document(&answer) } else { approvers(&answer) }
        }
        Gate::Approve { id, word } => decide(&client, &id, "APPROVE", json!({}), &word, global).await,
        Gate::Reject { id, word } => decide(&client, &id, "REJECT", json!({}), &word, global).await,
        Gate::BreakGlass { id, glass } => break_glass(&client, &id, &glass, global).await,
        Gate::Override { id, item, set, drop, word } => {
            let change = if drop { Value::Null } else { Value::Object(changes(&set)?) };
            decide(&client, &id, "OVERRIDE", json!({ item: change }), &word, global).await
        }
    }
}

fn changes(set: &[String]) -> Result<Map<String, Value>> {
    let mut changes = Map::new();
    for change in set {
        let (pointer, value) =
            change.split_once('=').with_context(|| format!("`{change}` is no change: give /pointer=JSON"))?;
        let value = serde_json::from_str(value)
            .with_context(|| format!("`{value}` is not JSON: texts are quoted, as in '/branch=\"main\"'"))?;
        changes.insert(pointer.to_owned(), value);
    }
    Ok(changes)
}

fn show(shown: &Value) -> Result<()> {
    let text = |key: &str| shown.get(key).and_then(Value::as_str).unwrap_or_default();
    out(&format!("{}\nshown digest: {}\n", plain(text("view")).trim_end(), plain(text("shown_digest"))))
}

/// Who may approve, person by person.
fn approvers(answer: &Value) -> Result<()> {
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| plain(value.get(key).and_then(Value::as_str).unwrap_or_default());
    let words = |values: Vec<Value>| values.iter().filter_map(Value::as_str).map(plain).collect::<Vec<_>>();
    let mut shown = String::new();
    for item in answer.pointer("/gate/items").and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(shown, "{}  {}", text(item, "item"), text(item, "tool"));
        for rule in list(item, "rules") {
            let of = |key: &str| rule.get(key).and_then(Value::as_u64).unwrap_or_default();
            let _ = writeln!(shown, "  rule {}: {} of {}", text(&rule, "rule"), of("counted"), of("quorum"));
        }
    }
    for note in words(list(answer, "notes")) {
        let _ = writeln!(shown, "nobody may approve now: {note}");
    }
    for demand in words(list(answer, "demands")) {
        let _ = writeln!(shown, "a vote needs besides: {demand}");
    }
    for person in list(answer, "persons") {
        let may = person.get("may").and_then(Value::as_bool) == Some(true);
        let _ = writeln!(shown, "{}  {}", if may { "may    " } else { "may not" }, text(&person, "person"));
        let items = list(&person, "items");
        for item in &items {
            // Where there is one item, it needs no naming.
            let of = if items.len() > 1 { format!("{}: ", text(item, "item")) } else { String::new() };
            if item.get("voted").and_then(Value::as_bool) == Some(true) {
                let _ = writeln!(shown, "           {of}has voted");
            }
            for why in words(list(item, "why_not")) {
                let _ = writeln!(shown, "           {of}{why}");
            }
        }
    }
    if let Some(next) = answer.get("next").and_then(Value::as_str) {
        let _ = writeln!(shown, "more: --after {}", plain(next));
    }
    out(&shown)
}

async fn decide(client: &Client, id: &str, kind: &str, delta: Value, word: &Word, global: &Global) -> Result<()> {
    let path = format!("/api/v1/gates/{}", segment(id)?);
    let shown = Read::of(client, id, (word.yes, word.shown_digest.as_deref()), &format!("{kind} this?")).await?;
    let mut body = json!({
        "decision": kind, "items": word.items, "justification": word.justification, "shown_digest": shown.digest,
        "delta": &delta,
    });
    if let Some(role) = &word.role {
        body.as_object_mut().map(|body| body.insert("role".to_owned(), json!(role)));
    }
    if let Some(file) = &word.sign_with {
        let work = key::ToSign { kind, shown: &shown.answer, items: &word.items, delta: &delta };
        let assertion = key::sign(client, file, &work).await?;
        body.as_object_mut().map(|body| body.insert("assertion".to_owned(), assertion));
    }
    global.answer(&client.post(&format!("{path}/decisions"), &body).await?)
}

async fn break_glass(client: &Client, id: &str, glass: &Glass, global: &Global) -> Result<()> {
    let path = format!("/api/v1/gates/{}", segment(id)?);
    let question = format!(
        "Lift rule `{}` without its quorum? It is on record under your name, and another person reviews it.",
        plain(&glass.rule)
    );
    let shown = Read::of(client, id, (glass.yes, glass.shown_digest.as_deref()), &question).await?;
    let mut body = json!({ "rule": glass.rule, "justification": glass.justification, "shown_digest": shown.digest });
    for (key, value) in [("item", &glass.item), ("role", &glass.role)] {
        if let (Some(value), Some(body)) = (value, body.as_object_mut()) {
            body.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(file) = &glass.sign_with {
        let work = (&shown.answer, glass.rule.as_str(), glass.item.as_deref());
        let assertion = key::sign_lift(client, file, work).await?;
        body.as_object_mut().map(|body| body.insert("assertion".to_owned(), assertion));
    }
    global.answer(&client.post(&format!("{path}/break-glass"), &body).await?)
}

/// A gate as somebody has read it: one answer of the gateway, which is shown, confirmed, and what is signed.
struct Read {
    answer: Value,
    digest: Digest,
}

impl Read {
    /// Fetches a gate. Its view is shown here and confirmed, unless a script says which view somebody has read.
    async fn of(client: &Client, id: &str, (yes, read): (bool, Option<&str>), question: &str) -> Result<Self> {
        let answer = client.get(&format!("/api/v1/gates/{}", segment(id)?)).await?;
        let digest = bound(&answer, id)?.with_context(|| {
            format!(
                "gate `{}` is closed, or you are no person to whom its view is shown: nothing was decided",
                plain(id)
            )
        })?;
        if !yes {
            // The view goes to the person, not into the document that a program reads.
            eprintln!("{}", plain(answer.get("view").and_then(Value::as_str).unwrap_or_default()).trim_end());
        }
        if read.is_some_and(|read| read != digest.to_string()) {
            bail!("what waits is not what you read any more: read it with `countersign gate show` and decide again");
        }
        if !yes && !confirm(&format!("\n{question}"), "--yes with --shown-digest")? {
            bail!("nothing was decided");
        }
        Ok(Self { answer, digest })
    }
}

/// The digest of the view in the gateway's answer, worked out over the text itself; none where there is no view to decide by.
/// Whoever names or signs a digest that was only said to be the text's has approved what somebody else wrote.
fn bound(answer: &Value, id: &str) -> Result<Option<Digest>> {
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str);
    let said = text("/shown_digest").and_then(|digest| digest.parse::<Digest>().ok());
    let said = said.context("the gateway's answer lacks `/shown_digest`: it is of another version")?;
    let Some(salt) = text("/shown_salt") else {
        if said == Digest([0; 32]) {
            return Ok(None);
        }
        bail!("the gateway does not say of what its digest is: it is of another version, or the view was changed");
    };
    let salt: Digest = salt.parse().context("the salt in the gateway's answer is none")?;
    let view = text("/view").unwrap_or_default();
    let digest = payload::salted(payload::SHOWN, &Salt(salt.0), view.as_bytes());
    if digest != said {
        bail!(
            "the view is not what its digest is of: somebody changed it on the way. Do not decide; tell who runs the gateway"
        );
    }
    if text("/gate/id") != Some(id) {
        bail!("the gateway answered with another gate than `{}`: do not decide", plain(id));
    }
    Ok(Some(digest))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::sync::{Arc, Mutex};

    use axum::extract::{Request, State};
    use axum::response::IntoResponse as _;
    use axum::{Json, Router};

    use super::*;

    const GATE: &str = "gate_0192f3a1b2c37d4e8f9a0b1c2d3e4f5a";

    /// What an honest gateway answers for an open gate.
    fn honest(view: &str) -> Value {
        let salt = [7; 32];
        let digest = payload::salted(payload::SHOWN, &Salt(salt), view.as_bytes());
        json!({
            "gate": { "id": GATE, "items": [] }, "view": view, "shown_digest": digest, "shown_salt": Digest(salt),
        })
    }

    type Said = Arc<Mutex<(Value, Vec<Value>)>>;

    async fn answer(State(said): State<Said>, request: Request) -> axum::response::Response {
        if request.method() == "GET" {
            return Json(said.lock().unwrap().0.clone()).into_response();
        }
        let body = axum::body::to_bytes(request.into_body(), 65_536).await.unwrap();
        said.lock().unwrap().1.push(serde_json::from_slice(&body).unwrap());
        Json(json!({ "effect": "counted" })).into_response()
    }

    /// Approves, as a script, at a gateway that answers so. Gives what the gateway was sent.
    async fn approve(shown: &Value, read: &Value, sign_with: Option<PathBuf>) -> (Result<()>, Vec<Value>) {
        let said: Said = Arc::new(Mutex::new((shown.clone(), Vec::new())));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(Arc::clone(&said));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await });
        let client = Client::new(Some(&server), Some("token")).unwrap();
        let word = Word {
            justification: Some("I read it".to_owned()),
            role: None,
            items: Vec::new(),
            yes: true,
            shown_digest: read.as_str().map(str::to_owned),
            sign_with,
        };
        let global = Global { json: true, config: None, server: None, token: None };
        let done = decide(&client, GATE, "APPROVE", json!({}), &word, &global).await;
        serving.abort();
        let sent = said.lock().unwrap().1.clone();
        (done, sent)
    }

    #[tokio::test]
    async fn nobody_approves_a_view_that_was_changed_on_the_way() {
        let truth = honest("pay 10 to the shop\n");
        let digest = truth["shown_digest"].clone();
        let (done, sent) = approve(&truth, &digest, None).await;
        done.unwrap();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0]["shown_digest"], digest);

        let with = |key: &str, value: Value| {
            let mut lie = truth.clone();
            lie[key] = value;
            lie
        };
        let mut bare = truth.clone();
        bare.as_object_mut().unwrap().remove("shown_salt");
        let lies = [
            ("the view of something else", with("view", json!("pay 1 to the shop\n")), &digest),
            ("a character more", with("view", json!("pay 10 to the shop\n ")), &digest),
            ("another salt", with("shown_salt", json!(Digest([8; 32]))), &digest),
            ("no salt", bare, &digest),
            ("another gate", with("gate", json!({ "id": "gate_other", "items": [] })), &digest),
            ("a true view, and not the one that was read", honest("pay 10 to a stranger\n"), &digest),
            ("no view at all", with("shown_digest", json!(Digest([0; 32]))), &digest),
        ];
        for (what, lie, read) in lies {
            for sign_with in [None, Some(PathBuf::from("never-read.key"))] {
                let (done, sent) = approve(&lie, read, sign_with).await;
                let said = done.unwrap_err().to_string();
                assert!(sent.is_empty() && !said.contains("never-read"), "{what}: {said}");
            }
        }
    }

    #[test]
    fn a_gate_without_a_view_to_decide_by_is_shown_and_not_decided() {
        let closed = json!({ "gate": { "id": GATE }, "view": "closed\n", "shown_digest": Digest([0; 32]) });
        assert_eq!(bound(&closed, GATE).unwrap(), None);
        assert!(bound(&json!({ "view": "x" }), GATE).is_err());
    }
}
