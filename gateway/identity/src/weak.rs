//! Refuses secrets that are empty, defaults of some example, or easy to guess.
//!
//! Used for what tools are to be given, at start, and for passwords. Absent: strength estimates; the bar is low and
//! clear. Read next: `password`.

use crate::IdentityError;

/// What examples, images and tutorials ship. Compared in lower case, as a whole.
const KNOWN: &[&str] = &[
    "admin",
    "administrator",
    "changeit",
    "changeme",
    "change-me",
    "change_me",
    "countersign",
    "default",
    "demo",
    "dev",
    "development",
    "example",
    "guest",
    "hunter2",
    "insecure",
    "letmein",
    "none",
    "null",
    "passw0rd",
    "password",
    "placeholder",
    "postgres",
    "qwerty",
    "replaceme",
    "replace-me",
    "root",
    "secret",
    "supersecret",
    "test",
    "todo",
    "token",
    "undefined",
    "welcome",
    "your-secret-here",
];

const MIN_PASSWORD: usize = 12;
const MAX_PASSWORD: usize = 256;
const MIN_PASSWORD_VARIETY: usize = 5;

const SECRET_FIX: &str = "set it to the secret itself, or take it out of the list of those that tools may name";
const PASSWORD_FIX: &str = "choose 12 to 256 characters that nobody would guess, for example five random words";

/// Refuses a configured secret (`name` is the setting, as the operator writes it) that is empty, blank, a known default,
/// also repeated, or a template that nobody filled in. How long a secret is, whoever issued it has decided. The error
/// names the setting and the fix, never the value.
pub fn refuse_default_secret(name: &str, value: &str) -> Result<(), IdentityError> {
    let problem = if value.trim().is_empty() {
        "is empty"
    } else if is_known(value.trim()) {
        "is a well-known default"
    } else if is_template(value.trim()) {
        "is a placeholder that was never filled in"
    } else {
        return Ok(());
    };
    Err(IdentityError::WeakSecret { name: name.to_owned(), problem, fix: SECRET_FIX })
}

/// Refuses a password of a person: 12 to 256 characters, no known default, no repetition, not the account's own id.
pub(crate) fn refuse_weak_password(value: &str, account: &str) -> Result<(), IdentityError> {
    let length = value.chars().count();
    let problem = if value.trim().is_empty() {
        Some("is empty")
    } else if is_known(value) {
        Some("is a well-known default")
    } else if length < MIN_PASSWORD {
        Some("is shorter than 12 characters")
    } else if length > MAX_PASSWORD {
        Some("is longer than 256 characters")
    } else if variety(value) < MIN_PASSWORD_VARIETY {
        Some("has too few different characters")
    } else if value.eq_ignore_ascii_case(account) {
        Some("is the name of the account")
    } else {
        None
    };
    match problem {
        Some(problem) => Err(IdentityError::WeakSecret { name: "password".into(), problem, fix: PASSWORD_FIX }),
        None => Ok(()),
    }
}

/// A known default, perhaps with digits or marks around it (`Password123!`), perhaps repeated (`changemechangeme`).
fn is_known(value: &str) -> bool {
    let lower = value.to_lowercase();
    let core = lower.trim_matches(|c: char| !c.is_alphabetic());
    [lower.as_str(), core].into_iter().any(|text| {
        KNOWN.iter().any(|known| !text.is_empty() && (text == *known || text.replace(known, "").is_empty()))
    })
}

/// `<your secret>`, `${SECRET}`, `{{ secret }}`: a template that nobody rendered.
fn is_template(value: &str) -> bool {
    [("<", ">"), ("${", "}"), ("{{", "}}")].into_iter().any(|(open, close)| {
        let inner = value.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        // A secret may be a document: one in angle brackets has others in it.
        inner.is_some_and(|inner| !inner.contains(['<', '>', '\n']))
    })
}

fn variety(value: &str) -> usize {
    let mut chars: Vec<char> = value.chars().collect();
    chars.sort_unstable();
    chars.dedup();
    chars.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_default_secrets_are_refused_by_name() {
        for (value, says) in [
            ("", "is empty"),
            ("   \t", "is empty"),
            ("changeme", "well-known default"),
            ("changeme\n", "well-known default"),
            ("CHANGEME123!", "well-known default"),
            ("secretsecretsecretsecretsecretsecret", "well-known default"),
            ("${COUNTERSIGN_TOKEN_SECRET_FROM_THE_VAULT}", "placeholder"),
            ("<paste the token here>", "placeholder"),
        ] {
            let error = refuse_default_secret("API_TOKEN", value).unwrap_err();
            assert_eq!(error.code(), "weak-secret");
            let text = error.to_string();
            assert!(text.contains("`API_TOKEN`") && text.contains(says) && text.contains("set it to"), "{text}");
            assert!(value.trim().len() < 9 || !text.contains(value.trim()), "the value is in the text: {text}");
        }
        for value in ["short-but-random-8fJ2", "<settings><server><password>8fJ2</password></server></settings>"] {
            refuse_default_secret("API_TOKEN", value).unwrap();
        }
    }

    #[test]
    fn weak_passwords_are_refused_and_pass_phrases_are_not() {
        for (value, account) in [
            ("", "ada"),
            ("password", "ada"),
            ("Passw0rd!", "ada"),
            ("passwordpassword", "ada"),
            ("elevenchars", "ada"),
            ("aaaaaaaaaaaaaaaa", "ada"),
            ("ada.lovelace.1815", "Ada.Lovelace.1815"),
            (&"x y z w v u".repeat(40), "ada"),
        ] {
            assert_eq!(refuse_weak_password(value, account).unwrap_err().code(), "weak-secret", "{value}");
        }
        refuse_weak_password("correct horse battery staple", "ada").unwrap();
        refuse_weak_password("Größe-Übermut-änderbar", "ada").unwrap();
    }
}
