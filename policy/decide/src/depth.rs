//! How deep a policy may nest, and room on the stack for walking one that deep.
//!
//! Cedar guards its parser and its evaluator against deep nesting, but not every walk between them: an expression of a
//! few thousand operands would take the process down. The bound is checked on the text, before anything is parsed.
//! Absent: Cedar. Read next: `snapshot`.

/// How many marks (`( [ { . | & ! + - * < > =`) and words `if` one policy may have: no expression nests deeper.
pub const MAX_MARKS: usize = 2000;

/// How many words `if` one policy may have: each one within another may double the time that validation takes.
pub const MAX_IFS: usize = 12;

/// Stack for walking a policy with [`MAX_MARKS`] marks, in bytes. Reserved while a snapshot is built, hardly touched.
const ROOM: usize = 192 * 1024 * 1024;

/// The byte offset at which the first policy with too many marks passes the bound.
pub fn too_deep(text: &str) -> Option<usize> {
    beyond(text, MAX_MARKS, |bytes, at| match bytes.get(at) {
        Some(b'i') => bytes.get(at + 1) == Some(&b'f'),
        Some(byte) => b"([{.|&!+-*<>=".contains(byte),
        None => false,
    })
}

/// The byte offset of the first `if` beyond [`MAX_IFS`] in one policy.
pub fn too_many_ifs(text: &str) -> Option<usize> {
    let part_of_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80);
    beyond(text, MAX_IFS, |bytes, at| {
        bytes.get(at..at + 2) == Some(b"if")
            && !part_of_word(bytes.get(at + 2))
            && !part_of_word(at.checked_sub(1).and_then(|before| bytes.get(before)))
    })
}

/// The byte offset at which one policy has more than `most` of what `counts` finds outside strings and comments.
fn beyond(text: &str, most: usize, counts: impl Fn(&[u8], usize) -> bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (0_usize, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes.iter().skip(at).take_while(|b| **b != b'\n').count();
                continue;
            }
            b'"' => {
                at += 1;
                while let Some(inner) = bytes.get(at).filter(|b| **b != b'"') {
                    at += if *inner == b'\\' { 2 } else { 1 };
                }
            }
            b';' => found = 0,
            _ if counts(bytes, at) => found += 1,
            _ => {}
        }
        if found > most {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Runs something that walks policies within the bound, with room enough on the stack wherever it is called from.
pub fn with_room<R>(walk: impl FnOnce() -> R) -> R {
    stacker::grow(ROOM, walk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_per_policy_outside_strings_and_comments() {
        let half = ".".repeat(MAX_MARKS / 2 + 1);
        for (text, deep) in [
            (format!("{half};{half};"), false),
            (format!("{half}\n{half};"), true),
            (format!("{half} \"{half}\\\"{half}\" ;"), false),
            (format!("{half} // {half}\n;"), false),
            (format!("{half} \"{half}"), false),
            ("if ".repeat(MAX_MARKS + 1), true),
            (String::new(), false),
        ] {
            assert_eq!(too_deep(&text).is_some(), deep, "{}", text.get(..20).unwrap_or(&text));
        }
    }

    #[test]
    fn ifs_are_counted_as_words_per_policy_outside_strings_and_comments() {
        let most = "if(".repeat(MAX_IFS);
        for (text, at) in [
            (most.clone(), None),
            (format!("{most};{most}"), None),
            (format!("{most} \"if\" // if\n iff notif if_ _if éif ifé"), None),
            (format!("{most}\nif"), Some(most.len() + 1)),
            (format!("{most};{most} if"), Some(2 * most.len() + 2)),
        ] {
            assert_eq!(too_many_ifs(&text), at, "{text}");
        }
    }
}
