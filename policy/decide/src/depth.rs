//! How deep a policy may nest, and room on the stack for walking one that deep.
//!
//! Cedar guards its parser and its evaluator against deep nesting, but not every walk between them: an expression of a
//! few thousand operands would take the process down. The bound is checked on the text, before anything is parsed.
//! Absent: Cedar. Read next: `snapshot`.

/// How many marks (`( [ { . | & ! + - * < > =`) and words `if` one policy may have: no expression nests deeper.
pub const MAX_MARKS: usize = 2000;

/// Stack for walking a policy with [`MAX_MARKS`] marks, in bytes. Reserved while a snapshot is built, hardly touched.
const ROOM: usize = 192 * 1024 * 1024;

/// The byte offset at which the first policy with too many marks passes the bound.
pub fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut marks, mut at) = (0_usize, 0_usize);
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
            b';' => marks = 0,
            b'i' if bytes.get(at + 1) == Some(&b'f') => marks += 1,
            b'(' | b'[' | b'{' | b'.' | b'|' | b'&' | b'!' | b'+' | b'-' | b'*' | b'<' | b'>' | b'=' => marks += 1,
            _ => {}
        }
        if marks > MAX_MARKS {
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
}
