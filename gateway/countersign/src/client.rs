//! The command line's side of the API: one request, one answer, problems as errors that say what to do.
//!
//! The server's address and the token come from flags, variables, or a file of this user alone that `login` writes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::environment::variable;
use crate::keys::{private_folder, read_private, write_private};

/// Where a gateway listens that was told nothing.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:7777";

/// A request may wait for people for some seconds; this is well beyond.
const PATIENCE: Duration = Duration::from_mins(2);

/// An answer in lines may take as long as there are lines.
const LONGEST_STREAM: Duration = Duration::from_hours(24);

/// A problem as the gateway said it.
#[derive(Debug)]
pub(crate) struct ProblemError {
    /// HTTP status.
    pub status: u16,
    /// Its stable name.
    pub code: String,
    /// The whole document.
    pub body: Value,
}

impl std::fmt::Display for ProblemError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |key: &str| self.body.get(key).and_then(Value::as_str).unwrap_or_default();
        let (title, detail) = (text("title"), text("detail"));
        write!(f, "{}", crate::text::plain(if detail.is_empty() { title } else { detail }))?;
        for error in self.body.get("errors").and_then(Value::as_array).into_iter().flatten() {
            let part = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
            let line = match (part("pointer"), part("detail")) {
                ("", "") => error.to_string(),
                (at, said) if said == detail => at.to_owned(),
                ("", said) => said.to_owned(),
                (at, said) => format!("{at}: {said}"),
            };
            if !line.is_empty() {
                write!(f, "\n  {}", crate::text::plain(&line))?;
            }
        }
        write!(f, "\n  problem: {} ({})", self.code, self.status)
    }
}

impl std::error::Error for ProblemError {}

/// Tokens of this user, by server.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Held {
    #[serde(default)]
    servers: BTreeMap<String, HeldToken>,
    /// The server of the last login.
    #[serde(default)]
    last: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldToken {
    token: String,
    subject: String,
    expires: String,
}

fn held_path() -> Option<PathBuf> {
    let base = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")));
    base.map(|base| base.join("countersign").join("credentials.json"))
}

fn held() -> Result<Held> {
    let Some(path) = held_path() else { return Ok(Held::default()) };
    match read_private(&path)? {
        Some(text) => serde_json::from_str(&text)
            .with_context(|| format!("`{}` cannot be read; remove it and log in again", path.display())),
        None => Ok(Held::default()),
    }
}

/// Keeps a token for later commands. Gives where.
pub(crate) fn keep(server: &str, token: &str, subject: &str, expires: &str) -> Result<PathBuf> {
    let path = held_path().context("neither HOME nor XDG_CONFIG_HOME is set: give --token to each command instead")?;
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    let mut all = held()?;
    let (token, subject, expires) = (token.to_owned(), subject.to_owned(), expires.to_owned());
    all.servers.insert(server.to_owned(), HeldToken { token, subject, expires });
    all.last = Some(server.to_owned());
    write_private(&path, &serde_json::to_vec_pretty(&all)?)?;
    Ok(path)
}

/// Where an address or a token came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A flag or a variable.
    Given,
    /// The file that `login` writes.
    Kept(PathBuf),
    /// Nobody said anything.
    Default,
}

/// Who is asked, and as whom, with where each came from. Not printable: it holds a token.
pub(crate) struct Whom {
    /// The server's address.
    pub server: (String, Source),
    /// The token, where there is one.
    pub token: Option<(String, Source)>,
}

/// Server and token as given, else as kept.
pub(crate) fn whom(server: Option<&str>, token: Option<&str>) -> Result<Whom> {
    let kept = if server.is_some() && token.is_some() { Held::default() } else { held()? };
    let from_login = || held_path().map_or(Source::Default, Source::Kept);
    let (server, source) = match (server, &kept.last) {
        (Some(server), _) => (server, Source::Given),
        (None, Some(last)) => (last.as_str(), from_login()),
        (None, None) => (DEFAULT_SERVER, Source::Default),
    };
    let server = server.trim_end_matches('/').to_owned();
    let given = token.map(|token| (token.to_owned(), Source::Given));
    let token = given.or_else(|| kept.servers.get(&server).map(|held| (held.token.clone(), from_login())));
    Ok(Whom { server: (server, source), token })
}

/// A client of one gateway, with a token or without.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
}

impl Client {
    /// A client; server and token as given, else as kept.
    pub(crate) fn new(server: Option<&str>, token: Option<&str>) -> Result<Self> {
        let Whom { server, token } = whom(server, token)?;
        let (server, token) = (server.0, token.map(|(token, _)| token));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            // A token goes where it was sent, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("the HTTP client cannot be made")?;
        Ok(Self { http, server, token })
    }

    /// The server's address.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The same server, without a token.
    pub(crate) fn anonymous(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// Reads.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        json(&self.send(Method::GET, path, None, None).await?)
    }

    /// Reads, and lets the gateway wait some seconds for a change.
    pub(crate) async fn get_waiting(&self, path: &str, seconds: u64) -> Result<Value> {
        json(&self.send(Method::GET, path, None, Some(seconds)).await?)
    }

    /// Reads bytes.
    pub(crate) async fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        self.send(Method::GET, path, None, None).await
    }

    /// Asks for something, once: a lost answer can be asked for again under the same key by the caller of this process.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(body)?;
        json(&self.send(Method::POST, path, Some(bytes), None).await?)
    }

    /// Sets something.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(body)?;
        json(&self.send(Method::PUT, path, Some(bytes), None).await?)
    }

    /// Asks for something with a body that is JSON already.
    pub(crate) async fn post_bytes(&self, path: &str, body: Vec<u8>) -> Result<Value> {
        json(&self.send(Method::POST, path, Some(body), None).await?)
    }

    /// Asks for something to be taken away.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        json(&self.send(Method::DELETE, path, None, None).await?)
    }

    /// Asks for something that is answered in lines of JSON, and hands each over as it comes. An error of `each` ends it.
    pub(crate) async fn post_for_lines(
        &self,
        path: &str,
        body: Vec<u8>,
        mut each: impl FnMut(Value) -> Result<()>,
    ) -> Result<()> {
        let cut = "the answer was cut off";
        let mut response = self.answered(Method::POST, path, Some(body), None, LONGEST_STREAM).await?;
        let mut held = Vec::new();
        while let Some(chunk) = tokio::time::timeout(PATIENCE, response.chunk()).await.context(cut)?.context(cut)? {
            held.extend_from_slice(&chunk);
            while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = held.drain(..=end).collect();
                each(json(&line)?)?;
            }
        }
        if held.is_empty() { Ok(()) } else { bail!(cut) }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>, wait: Option<u64>) -> Result<Vec<u8>> {
        let response = self.answered(method, path, body, wait, PATIENCE).await?;
        let bytes = response.bytes().await.context("the answer was cut off; what was asked may have been done")?;
        Ok(bytes.into())
    }

    /// An answer with a good status, before its body is read.
    async fn answered(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        wait: Option<u64>,
        patience: Duration,
    ) -> Result<reqwest::Response> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.server)).timeout(patience);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(seconds) = wait {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        if method == Method::POST {
            request = request.header("idempotency-key", uuid::Uuid::now_v7().to_string());
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| {
            let words = crate::words(&error);
            let hint = if words.contains("CaUsedAsEndEntity") {
                ": its certificate is one that signs others; make one with basicConstraints=CA:FALSE and name it in SSL_CERT_FILE"
            } else if words.contains("certificate") {
                ": its certificate is not trusted here; SSL_CERT_FILE names a file with certificates that are"
            } else if error.is_connect() {
                ": is the gateway up there? start it with `countersign up`"
            } else {
                ""
            };
            anyhow!("`{}` does not answer{hint} ({words})", self.server)
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await.context("the answer was cut off; what was asked may have been done")?;
        Err(problem(status, &bytes, self.token.is_some()))
    }
}

fn json(bytes: &[u8]) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).context("the answer is not JSON: is that a countersign gateway?")
}

fn problem(status: StatusCode, bytes: &[u8], has_token: bool) -> anyhow::Error {
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else {
        return anyhow!("the server answered {status} and no problem document: is that a countersign gateway?");
    };
    let code = body.get("code").or_else(|| body.get("type")).and_then(Value::as_str).unwrap_or_default();
    let code = code.trim_start_matches("/problems/").to_owned();
    // A wrong code or password says itself what to do, and a login that lacks a code asks for one.
    let says_itself = match code.as_str() {
        "second-factor-refused" | "credentials-invalid" => true,
        "second-factor-required" => !has_token,
        _ => false,
    };
    let error = anyhow::Error::new(ProblemError { status: status.as_u16(), code, body });
    if status == StatusCode::UNAUTHORIZED && !says_itself {
        let hint = if has_token { "log in again" } else { "log in" };
        return error.context(format!("{hint} with `countersign login`, or give --token"));
    }
    error
}

/// Refuses an id that would change the path it stands in.
pub(crate) fn segment(id: &str) -> Result<&str> {
    if id.is_empty() || id == "." || id == ".." || !id.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c))
    {
        bail!("`{}` is not an id: give one that a list or an answer showed", crate::text::plain(id));
    }
    Ok(id)
}
