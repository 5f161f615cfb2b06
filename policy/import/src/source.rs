//! Reading the common shapes of a source: lists of texts, names that a bundle can carry, maps with known keys.
//!
//! Absent: what they mean. Read next: one of the importers.

use countersign_policy_bundle::Name;

use crate::bundle::Parts;
use crate::report::{Fate, Report};
use crate::yaml::{Key, Node, Value};
use crate::{ImportError, Source};

/// A text of a list, and where it stands.
pub(crate) type Item<'n> = (&'n str, &'n Node);

/// A list of texts. One that is no list is unusable: to read it as empty would say something else.
pub(crate) fn texts<'n>(what: &str, node: &'n Node) -> Result<Vec<Item<'n>>, ImportError> {
    if node.value == Value::Null {
        return Ok(Vec::new());
    }
    let items = node.as_list().ok_or_else(|| unusable(node, what, format!("it is {}, not a list", node.kind())))?;
    items
        .iter()
        .map(|item| match item.as_text() {
            Some(text) => Ok((text, item)),
            None => Err(unusable(item, what, format!("{} stands in a list of texts; quote it", item.kind()))),
        })
        .collect()
}

pub(crate) fn unusable(node: &Node, what: impl Into<String>, problem: impl Into<String>) -> ImportError {
    ImportError::Unusable { place: node.place.clone(), what: what.into(), problem: problem.into() }
}

/// The name that a bundle can carry: every other character becomes `-`, and the report says so. Two texts of the source
/// never become one name: who has the one would have the other, too.
pub(crate) fn name(text: &str, node: &Node, what: &str, parts: &mut Parts) -> Result<Name, ImportError> {
    let name = carried(text, node, what, &mut parts.report)?;
    let before = parts.named.entry((what.to_owned(), name.clone())).or_insert_with(|| text.to_owned());
    if before != text {
        let problem =
            format!("it is called `{name}` in the bundle, as is `{}`; rename one of them", before.escape_debug());
        return Err(unusable(node, format!("{what} `{}`", text.escape_debug()), problem));
    }
    Ok(name)
}

fn carried(text: &str, node: &Node, what: &str, report: &mut Report) -> Result<Name, ImportError> {
    if let Ok(name) = Name::new(text) {
        return Ok(name);
    }
    let ok = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
    let carried: String = text.trim().chars().map(|c| if ok(c) { c } else { '-' }).take(128).collect();
    let name = Name::new(&carried).map_err(|error| unusable(node, what, error.to_string()))?;
    let what = format!("{what} `{}`", text.escape_debug());
    report.say(&node.place, Fate::Interpreted, what, format!("it is called `{name}` in the bundle"));
    Ok(name)
}

/// The members of a map whose keys are known; the others go into the report. One that is no map is unusable: to read it
/// as empty would lose every rule in it.
pub(crate) fn members<'n>(
    what: &str,
    node: &'n Node,
    known: &[&str],
    report: &mut Report,
) -> Result<Vec<(&'n Key, &'n Node)>, ImportError> {
    if node.value == Value::Null {
        return Ok(Vec::new());
    }
    let all = node.as_map().ok_or_else(|| unusable(node, what, format!("it is {}, not a map", node.kind())))?;
    let mut found = Vec::new();
    for (key, value) in all {
        if known.contains(&key.name.as_str()) {
            found.push((key, value));
        } else {
            report.unknown(key);
        }
    }
    Ok(found)
}

/// The documents of a source, each a map.
pub(crate) fn documents(source: Source<'_>) -> Result<Vec<Node>, ImportError> {
    let documents = crate::yaml::read(source.file, source.text)?;
    for document in &documents {
        if document.as_map().is_none() && document.value != Value::Null {
            return Err(unusable(document, "the document", format!("it is {}, not a map", document.kind())));
        }
    }
    Ok(documents.into_iter().filter(|document| document.as_map().is_some()).collect())
}
