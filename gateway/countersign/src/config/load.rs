//! The layers, and what is said when one of them is wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Config;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody said anything.
    Default,
    /// The file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: check that it exists and may be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("`{path}` is not TOML")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// No such setting.
    #[error("`{key}` in {origin} is not a setting{}", .nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    Unknown {
        /// The key.
        key: String,
        /// Which layer.
        origin: Origin,
        /// The setting with the most similar name.
        nearest: Option<String>,
    },
    /// A value of the wrong sort or out of range.
    #[error("`{key}` from {origin} cannot be used: {problem}")]
    Value {
        /// The key.
        key: String,
        /// Which layer.
        origin: Origin,
        /// What is wrong and what would do.
        problem: String,
    },
}

/// The configuration with its history.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What is in force.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Every setting with its value and where it came from. None of them holds a secret: they name files and variables.
    pub(crate) fn shown(&self) -> Vec<(String, Value, Origin)> {
        leaves(&tree(&self.config))
            .into_iter()
            .map(|(key, value)| {
                let origin = self.origins.get(&key).cloned().unwrap_or(Origin::Default);
                (key, value, origin)
            })
            .collect()
    }
}

/// Loads the layers: `file` if given (else `countersign.toml` in the working directory, where there is one), then
/// `variables`, then `flags` (key, value as text, flag name).
pub(crate) fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    flags: &[(&str, String, &str)],
) -> Result<Loaded, ConfigError> {
    let mut merged = tree(&Config::default());
    let known: Vec<String> = leaves(&merged).into_iter().map(|(key, _)| key).collect();
    let mut origins = BTreeMap::new();

    let default_file = Path::new("countersign.toml");
    let path = file.or_else(|| default_file.exists().then_some(default_file));
    if let Some(path) = path {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let parsed: toml::Table = toml::from_str(&text)
            .map_err(|source| ConfigError::Toml { path: path.to_owned(), source: Box::new(source) })?;
        let origin = Origin::File(path.to_owned());
        let value = serde_json::to_value(parsed).unwrap_or(Value::Null);
        for (key, value) in leaves(&value) {
            put(&mut merged, &known, &mut origins, &key, value, &origin)?;
        }
    }
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix("COUNTERSIGN_") else { continue };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        put(&mut merged, &known, &mut origins, &key, scalar(&text), &Origin::Variable(name))?;
    }
    for (key, text, flag) in flags {
        put(&mut merged, &known, &mut origins, key, scalar(text), &Origin::Flag((*flag).to_owned()))?;
    }
    let config: Config = serde_json::from_value(merged.clone()).map_err(|whole| {
        // Set one key at a time on the defaults: the first that fails is the one to name.
        leaves(&merged)
            .into_iter()
            .find_map(|(key, value)| {
                let origin = origins.get(&key)?.clone();
                let mut single = tree(&Config::default());
                *slot(&mut single, &key)? = value;
                let error = serde_json::from_value::<Config>(single).err()?;
                Some(ConfigError::Value { key, origin, problem: error.to_string() })
            })
            .unwrap_or_else(|| ConfigError::Value {
                key: "configuration".to_owned(),
                origin: Origin::Default,
                problem: whole.to_string(),
            })
    })?;
    check(&config, &origins)?;
    Ok(Loaded { config, origins })
}

/// What types cannot say.
fn check(config: &Config, origins: &BTreeMap<String, Origin>) -> Result<(), ConfigError> {
    let fail = |key: &str, problem: &str| {
        Err(ConfigError::Value {
            key: key.to_owned(),
            origin: origins.get(key).cloned().unwrap_or(Origin::Default),
            problem: problem.to_owned(),
        })
    };
    let range = |value: u64, max: u64| (1..=max).contains(&value);
    if !range(config.identity.token_ttl_s, 3600) {
        return fail("identity.token_ttl_s", "give 1 to 3600 seconds");
    }
    if !range(config.identity.decide_ttl_s, 900) {
        return fail("identity.decide_ttl_s", "give 1 to 900 seconds");
    }
    if !range(config.policy.permit_ttl_s, 86_400) {
        return fail("policy.permit_ttl_s", "give 1 to 86400 seconds");
    }
    if config.identity.issuer.trim().is_empty() {
        return fail("identity.issuer", "it must not be empty");
    }
    if config.runner.min_level.is_some_and(|level| level > 3) {
        return fail("runner.min_level", "give 0, 1, 2 or 3");
    }
    if config.runner.uid == 0 {
        return fail("runner.uid", "runs must not be root; give the id of an unprivileged user, such as 65534");
    }
    if config.limits.requests_per_second == 0 || config.limits.burst == 0 {
        return fail("limits.requests_per_second", "rate and burst must be at least 1");
    }
    if config.ledger.queue_entries == 0 || config.ledger.queue_entries > 65_536 {
        return fail("ledger.queue_entries", "give 1 to 65536");
    }
    if config.listen.tls_certificate.is_some() != config.listen.tls_key.is_some() {
        return fail("listen.tls_key", "certificate and key go together: set both or neither");
    }
    Ok(())
}

/// The reference page, generated from the types.
pub(crate) fn reference() -> String {
    let schema = schemars::schema_for!(Config);
    let schema = schema.as_value();
    let defaults = leaves(&tree(&Config::default()));
    let mut out = String::from(
        "# Configuration\n\nGenerated from the program's types by `cargo xtask generate`; do not edit.\n\n\
         Each setting comes from the last of these that names it: its default, `countersign.toml`, a `COUNTERSIGN_*`\n\
         variable (two underscores between levels: `COUNTERSIGN_LISTEN__ADDRESS`), a flag. An unknown key is an error.\n\
         `countersign config show` says where each value came from.\n",
    );
    let mut section = "";
    for (key, default) in &defaults {
        let (table, name) = key.split_once('.').unwrap_or(("", key));
        let table_schema = resolve(schema, schema.pointer(&format!("/properties/{table}")));
        if table != section {
            let about = text(schema.pointer(&format!("/properties/{table}")))
                .or_else(|| text(table_schema))
                .unwrap_or_default();
            let _ = write!(out, "\n## `[{table}]`\n\n{about}\n\n| key | default | meaning |\n| --- | --- | --- |\n");
            section = table;
        }
        let about = text(table_schema.and_then(|t| t.pointer(&format!("/properties/{name}")))).unwrap_or_default();
        let default = if default.is_null() { "unset".to_owned() } else { format!("`{default}`") };
        let _ = writeln!(out, "| `{name}` | {default} | {about} |");
    }
    out
}

fn resolve<'a>(root: &'a Value, node: Option<&'a Value>) -> Option<&'a Value> {
    let node = node?;
    let reference = node.get("$ref").or_else(|| node.pointer("/allOf/0/$ref")).and_then(Value::as_str);
    match reference {
        Some(path) => root.pointer(path.strip_prefix('#')?),
        None => Some(node),
    }
}

fn text(node: Option<&Value>) -> Option<String> {
    node?.get("description")?.as_str().map(|t| t.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn tree(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or(Value::Null)
}

/// The leaves of a tree as (`a.b.c`, value).
fn leaves(value: &Value) -> Vec<(String, Value)> {
    fn walk(out: &mut Vec<(String, Value)>, prefix: &str, map: &Map<String, Value>) {
        for (key, value) in map {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) if !inner.is_empty() => walk(out, &path, inner),
                leaf => out.push((path, leaf.clone())),
            }
        }
    }
    let mut out = Vec::new();
    if let Value::Object(map) = value {
        walk(&mut out, "", map);
    }
    out
}

fn slot<'a>(tree: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    key.split('.').try_fold(tree, |node, part| node.get_mut(part))
}

fn put(
    merged: &mut Value,
    known: &[String],
    origins: &mut BTreeMap<String, Origin>,
    key: &str,
    value: Value,
    origin: &Origin,
) -> Result<(), ConfigError> {
    if !known.iter().any(|k| k == key) {
        let nearest = known
            .iter()
            .map(|k| (strsim::damerau_levenshtein(k, key), k))
            .filter(|(distance, _)| *distance <= key.len().max(4) / 2)
            .min()
            .map(|(_, k)| k.clone());
        return Err(ConfigError::Unknown { key: key.to_owned(), origin: origin.clone(), nearest });
    }
    if let Some(slot) = slot(merged, key) {
        *slot = match value {
            Value::String(text) if slot.is_array() => text.split(',').map(str::trim).collect(),
            value => value,
        };
    }
    origins.insert(key.to_owned(), origin.clone());
    Ok(())
}

/// A variable or flag as the sort of value that it looks like.
fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> std::iter::Empty<(String, String)> {
        std::iter::empty()
    }

    #[test]
    fn later_layers_win_and_say_where_a_value_came_from() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[listen]\naddress = \"127.0.0.1:1\"\n[policy]\npermit_ttl_s = 5\n").unwrap();
        let variables = [("COUNTERSIGN_LISTEN__ADDRESS".to_owned(), "127.0.0.1:2".to_owned())];
        let flags = [("listen.address", "127.0.0.1:3".to_owned(), "--listen")];
        let loaded = load(Some(&file), variables.clone().into_iter(), &[]).unwrap();
        assert_eq!(loaded.config.listen.address.port(), 2);
        let loaded = load(Some(&file), variables.into_iter(), &flags).unwrap();
        assert_eq!(loaded.config.listen.address.port(), 3);
        assert_eq!(loaded.config.policy.permit_ttl_s, 5);
        let origin = |key: &str| loaded.shown().into_iter().find(|(k, ..)| k == key).unwrap().2.to_string();
        assert_eq!(origin("listen.address"), "--listen");
        assert_eq!(origin("policy.permit_ttl_s"), file.display().to_string());
        assert_eq!(origin("runner.uid"), "default");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[listen]\nadress = \"127.0.0.1:1\"\n").unwrap();
        let error = load(Some(&file), none(), &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean `listen.address`?"), "{error}");
        let variables = [("COUNTERSIGN_RUNER__UID".to_owned(), "5".to_owned())];
        let error = load(None, variables.into_iter(), &[]).unwrap_err().to_string();
        assert!(error.contains("COUNTERSIGN_RUNER__UID") && error.contains("`runner.uid`"), "{error}");
    }

    #[test]
    fn a_bad_value_is_named_with_its_source() {
        for (key, value) in [
            ("listen.address", "nowhere"),
            ("identity.decide_ttl_s", "901"),
            ("runner.uid", "0"),
            ("runner.min_level", "4"),
            ("listen.tls_key", "key.pem"),
        ] {
            let error = load(None, none(), &[(key, value.to_owned(), "--flag")]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("--flag"), "{error}");
        }
    }

    #[test]
    fn the_reference_has_a_meaning_for_every_setting() {
        let page = reference();
        for (key, _) in leaves(&tree(&Config::default())) {
            let name = key.rsplit('.').next().unwrap();
            let row = page.lines().find(|l| l.starts_with(&format!("| `{name}` |"))).unwrap();
            assert!(row.len() > name.len() + 30, "{row}");
        }
    }
}
