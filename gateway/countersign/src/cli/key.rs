//! A person's own signing key: made and kept on their machine, registered, listed, taken back, and used.
//!
//! The private key is a file of this user alone and is sent nowhere. What is signed with it is what the person was shown:
//! the gate, its items with their digests, the change, and the view. Absent: keys of a gateway (`crate::keys`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use countersign_gateway_engine::{DecisionKind, delta_bytes};
use countersign_gateway_model::{Digest, GateId, ItemId, Pseudonym};
use countersign_runners_contract::entry::Bytes32;
use countersign_runners_contract::entry::assertion::{self, LiftStatement, Statement};
use countersign_runners_contract::entry::body::Assertion;
use countersign_runners_contract::entry::payload::{self, Salt};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use super::{Global, out};
use crate::client::{Client, segment};
use crate::keys::{create_person_key, read_person_key};

/// Your own signing key.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key, in a file that only you may read
    #[command(after_help = "Example:\n  countersign key create ~/.config/countersign/ada.key")]
    Create {
        /// The file; it must not be there yet.
        file: PathBuf,
    },
    /// Register your key: it signs at gates that open from then on
    #[command(
        after_help = "Log in with `countersign login --scope \"act decide\"` first. The public key alone is sent, with proof that you hold the other.\n\nExample:\n  countersign key register ~/.config/countersign/ada.key"
    )]
    Register {
        /// The file that `key create` made.
        file: PathBuf,
    },
    /// List registered keys; your own unless told otherwise
    #[command(after_help = "Example:\n  countersign key list")]
    List {
        /// Whose.
        #[arg(long, value_name = "ID")]
        person: Option<String>,
    },
    /// Take a key back: it signs nothing from then on
    #[command(after_help = "Example:\n  countersign key revoke 9f86d0…")]
    Revoke {
        /// SHA-256 of the key, hex; `key list` shows it.
        key: String,
        /// Whose; your own unless told otherwise.
        #[arg(long, value_name = "ID")]
        person: Option<String>,
    },
}

pub(crate) async fn key(verb: Key, global: &Global) -> Result<()> {
    match verb {
        Key::Create { file } => {
            let key = create_person_key(&file)?;
            let made =
                json!({ "file": file, "key_id": id_of(&key), "key": STANDARD.encode(key.verifying_key().as_bytes()) });
            global.answer(&made)
        }
        Key::Register { file } => register(&read_person_key(&file)?, global).await,
        Key::List { person } => {
            let client = global.client()?;
            let person = whose(&client, person).await?;
            let list = client.get(&format!("/api/v1/people/{}/keys", segment(&person)?)).await?;
            global.page(&list, &["key_id", "registered", "revoked"])
        }
        Key::Revoke { key, person } => {
            let client = global.client()?;
            let person = whose(&client, person).await?;
            let path = format!("/api/v1/people/{}/keys/revoke", segment(&person)?);
            global.answer(&client.post(&path, &json!({ "key_id": key })).await?)
        }
    }
}

/// The person named, else who is logged in.
pub(super) async fn whose(client: &Client, person: Option<String>) -> Result<String> {
    match person {
        Some(person) => Ok(person),
        None => myself(client).await,
    }
}

async fn myself(client: &Client) -> Result<String> {
    let me = client.get("/api/v1/me").await?;
    let subject = me.get("subject").and_then(Value::as_str).unwrap_or_default();
    let id = subject.strip_prefix("person:").with_context(|| {
        format!("you are logged in as `{subject}`, and only persons have such a thing: log in as a person")
    })?;
    Ok(id.to_owned())
}

fn id_of(key: &SigningKey) -> Digest {
    assertion::key_id(&Bytes32(key.verifying_key().to_bytes()))
}

fn text<T: std::str::FromStr>(value: &Value, pointer: &str) -> Result<T> {
    let found = value.pointer(pointer).and_then(Value::as_str).and_then(|text| text.parse().ok());
    found.with_context(|| format!("the gateway's answer lacks `{pointer}`: it is of another version"))
}

async fn register(key: &SigningKey, global: &Global) -> Result<()> {
    let client = global.client()?;
    let path = format!("/api/v1/people/{}/keys", segment(&myself(&client).await?)?);
    let list = client.get(&path).await?;
    let origin: String = text(&list, "/log")?;
    let principal: Pseudonym = text(&list, "/principal")?;
    let body = json!({
        "alg": assertion::EDDSA,
        "key": STANDARD.encode(key.verifying_key().as_bytes()),
        "possession": STANDARD.encode(assertion::possess(key, &origin, principal).0),
    });
    let done = client.post(&path, &body).await?;
    if !global.json {
        out(
            "registered; it signs at gates that open from now on. Keep the key id: an auditor compares it with yours\n",
        )?;
    }
    global.answer(done.get("key").unwrap_or(&done))
}

/// What is decided, and what its signature must hold for.
pub(crate) struct ToSign<'a> {
    pub(crate) kind: &'a str,
    /// The gate as the gateway showed it.
    pub(crate) shown: &'a Value,
    /// Items named; none: all.
    pub(crate) items: &'a [String],
    pub(crate) delta: &'a Value,
}

/// Signs a decision with the key of a file. The digests signed are those of the gate that was shown.
pub(crate) async fn sign(client: &Client, file: &Path, work: &ToSign<'_>) -> Result<Value> {
    let (key, origin) = own_key(client, file).await?;
    let (statement, salt) = statement(&origin, work)?;
    let mut assertion = document(&statement.sign(&key));
    if let (Some(salt), Some(map)) = (salt, assertion.as_object_mut()) {
        map.insert("delta_salt".to_owned(), json!(Digest(salt.0)));
    }
    Ok(assertion)
}

fn document(signed: &Assertion) -> Value {
    json!({ "alg": signed.alg, "key_id": signed.key_id, "signature": STANDARD.encode(&signed.signature) })
}

/// Signs that a rule is lifted, of the gate as it was shown.
pub(crate) async fn sign_lift(
    client: &Client,
    file: &Path,
    (shown, rule, item): (&Value, &str, Option<&str>),
) -> Result<Value> {
    let (key, origin) = own_key(client, file).await?;
    let all = shown.pointer("/gate/items").and_then(Value::as_array).cloned().unwrap_or_default();
    let asks = |one: &&Value| {
        if let Some(item) = item {
            return one.get("item").and_then(Value::as_str) == Some(item);
        }
        let mut rules = one.get("rules").and_then(Value::as_array).into_iter().flatten();
        rules.any(|known| known.get("rule").is_some_and(|known| known == rule))
    };
    let found: Vec<&Value> = all.iter().filter(asks).collect();
    let [one] = found.as_slice() else { bail!("which item? name it with --item") };
    let statement = LiftStatement {
        origin,
        gate: text(shown, "/gate/id")?,
        item: (text(one, "/item")?, text(one, "/digest")?),
        rule: rule.parse().with_context(|| format!("`{rule}` is no rule's name"))?,
        shown: text(shown, "/shown_digest")?,
    };
    Ok(document(&statement.sign(&key)))
}

/// The key of a file, if it is registered as the caller's, and the log that it signs for.
async fn own_key(client: &Client, file: &Path) -> Result<(SigningKey, String)> {
    let key = read_person_key(file)?;
    let list = client.get(&format!("/api/v1/people/{}/keys", segment(&myself(client).await?)?)).await?;
    let id = id_of(&key);
    let registered = list.get("items").and_then(Value::as_array).into_iter().flatten();
    let mine = registered.filter(|held| held.get("key_id") == Some(&json!(id)));
    if mine.filter(|held| held.get("revoked").is_none()).count() == 0 {
        bail!("the key of `{}` is not registered as yours: `countersign key register` it first", file.display());
    }
    Ok((key, text(&list, "/log")?))
}

fn statement(origin: &str, work: &ToSign<'_>) -> Result<(Statement, Option<Salt>)> {
    let kind: DecisionKind = serde_json::from_value(json!(work.kind))?;
    let changed = work.delta.as_object().filter(|delta| !delta.is_empty());
    let named = |item: &str| match (kind, changed) {
        (DecisionKind::Reject, _) => false,
        (_, Some(delta)) => delta.contains_key(item),
        (_, None) => work.items.is_empty() || work.items.iter().any(|one| one == item),
    };
    let mut items = Vec::new();
    for item in work.shown.pointer("/gate/items").and_then(Value::as_array).into_iter().flatten() {
        let id: ItemId = text(item, "/item")?;
        if named(&id.to_string()) {
            items.push((id, text::<Digest>(item, "/digest")?));
        }
    }
    let (mut delta, mut salt) = (None, None);
    if changed.is_some() {
        let fresh = Salt(crate::mint::secret()?);
        delta = Some(payload::salted(payload::DELTA, &fresh, &delta_bytes(work.delta.clone())?));
        salt = Some(fresh);
    }
    let statement = Statement {
        origin: origin.to_owned(),
        gate: text::<GateId>(work.shown, "/gate/id")?,
        kind,
        items,
        delta,
        shown: Some(text(work.shown, "/shown_digest")?),
    };
    Ok((statement, salt))
}
