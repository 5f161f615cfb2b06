//! Where an element of a JSON document stands in its text, so that what is wrong with it is said there.
//!
//! Absent: reading (`countersign_policy_decide::json` does that, strictly, before). Read next: `finding`.

/// The byte at which the element stands that a JSON pointer (RFC 6901) names: a member at its key, an element of an array
/// at its start. What is not there is named by what lacks it.
pub(crate) fn offset_of(text: &str, pointer: &str) -> usize {
    nearest(text, pointer).0
}

/// The same for what is there.
pub(crate) fn offset_if_there(text: &str, pointer: &str) -> Option<usize> {
    Some(nearest(text, pointer)).filter(|(_, whole)| *whole).map(|(at, _)| at)
}

/// Where the walk ended, and whether that is what was named.
fn nearest(text: &str, pointer: &str) -> (usize, bool) {
    let mut scan = Scan { text, at: 0 };
    scan.white();
    let mut found = scan.at;
    for step in pointer.split('/').skip(1) {
        match scan.enter(&step.replace("~1", "/").replace("~0", "~")) {
            Some(at) => found = at,
            None => return (found, false),
        }
    }
    (found, true)
}

/// Walks over JSON that was read before; over anything else it stops somewhere.
struct Scan<'t> {
    text: &'t str,
    at: usize,
}

impl Scan<'_> {
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn white(&mut self) {
        while self.byte().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Goes past that byte if it stands here.
    fn past(&mut self, byte: u8) -> bool {
        self.white();
        let here = self.byte() == Some(byte);
        self.at += usize::from(here);
        here
    }

    /// From the start of a value into the member or element of that name, to its value; gives where it begins.
    fn enter(&mut self, step: &str) -> Option<usize> {
        if self.past(b'{') {
            loop {
                self.white();
                let key = self.at;
                self.string();
                let name = self.text.get(key..self.at).and_then(|text| serde_json::from_str::<String>(text).ok())?;
                if !self.past(b':') {
                    return None;
                }
                self.white();
                if name == step {
                    return Some(key);
                }
                self.value();
                if !self.past(b',') {
                    return None;
                }
            }
        }
        if self.past(b'[') {
            for _ in 0..step.parse::<usize>().ok()? {
                self.value();
                if !self.past(b',') {
                    return None;
                }
            }
            self.white();
            return self.byte().filter(|byte| *byte != b']').map(|_| self.at);
        }
        None
    }

    /// Past a string that begins here.
    fn string(&mut self) {
        if self.byte() != Some(b'"') {
            return;
        }
        self.at += 1;
        while let Some(byte) = self.byte() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return;
            }
        }
    }

    /// Past a value.
    fn value(&mut self) {
        let mut depth = 0_usize;
        self.white();
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            if depth == 0 && matches!(byte, b'"' | b'}' | b']') {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_element_is_found_at_its_key_or_start_and_what_is_missing_at_what_lacks_it() {
        let text = r#" {"a~/b": [1, {"c": "x\"]}"}, [] ], "\u0061": {"": null},
            "z": -1.5e3}"#;
        for (pointer, at) in [
            ("", "{\"a~/b\""),
            ("/a~0~1b", "\"a~/b\""),
            ("/a~0~1b/0", "1, {"),
            ("/a~0~1b/1", "{\"c\""),
            ("/a~0~1b/1/c", "\"c\""),
            ("/a~0~1b/2", "[] ]"),
            ("/a~0~1b/2/0", "[] ]"),
            ("/a~0~1b/3", "\"a~/b\""),
            ("/a", "\"\\u0061\""),
            ("/a/", "\"\": null"),
            ("/z", "\"z\""),
            ("/z/1", "\"z\""),
            ("/y", "{\"a~/b\""),
        ] {
            let found = text.get(offset_of(text, pointer)..).unwrap_or_default();
            assert!(found.starts_with(at), "{pointer}: {found}");
        }
        assert_eq!(offset_of("", "/a/0"), 0);
        for broken in ["{", "[", "{\"a\"", "{\"a\":", "[1,", "\"", "{\"a\":[}"] {
            assert!(offset_of(broken, "/a/0/b") <= broken.len(), "{broken}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_element_of_a_document_is_found(keys in proptest::collection::vec("[a-c\"\\\\/~ü]{0,3}", 1..5), n in 0..5_usize) {
            let mut value = json!({"last": [n]});
            for key in &keys {
                value = json!({ "first": "]}\\\"", key: [0, value], "zz": {} });
            }
            let text = serde_json::to_string_pretty(&value).unwrap_or_default();
            let mut pointer = String::new();
            for key in keys.iter().rev() {
                pointer = [&pointer, "/", &key.replace('~', "~0").replace('/', "~1"), "/1"].concat();
            }
            let found = text.get(offset_of(&text, &format!("{pointer}/last/0"))..).unwrap_or_default();
            proptest::prop_assert!(found.starts_with(&n.to_string()), "{} in {}", pointer, text);
        }
    }
}
