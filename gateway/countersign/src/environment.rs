//! The environment: the only place of the whole workspace that reads it.
#![expect(clippy::disallowed_methods, reason = "somebody must read the environment, and it is this module alone")]

use std::ffi::OsString;

/// All variables. What is not UTF-8 in them is replaced, so that it is refused where it is used and not overlooked.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// A variable that is there and not empty.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The same as text.
pub(crate) fn text(name: &str) -> Option<String> {
    variable(name).and_then(|value| value.into_string().ok())
}
