//! Strict JSON in, canonical JSON (RFC 8785) out: one parse, one form, no second reading.
//!
//! Refused: duplicate keys, keys that are not NFC, lone surrogates, numbers that a double cannot hold exactly as
//! written, nesting deeper than [`MAX_DEPTH`], anything after the value. What is absent: types; `input` gives meaning.
//! Read next: `input`.

use std::fmt::Write as _;

use unicode_normalization::is_nfc;

/// Deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// The largest integer that every JSON reader holds exactly (RFC 7493, section 2.2).
pub const MAX_SAFE_INTEGER: i64 = 9_007_199_254_740_991;

/// A JSON value that was read strictly.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number; finite, and equal to what was written.
    Number(f64),
    /// A string.
    Text(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, in canonical key order (UTF-16 code units), without duplicates.
    Object(Vec<(String, Json)>),
}

/// Why a text is not strict JSON. `at` is a byte offset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON at all.
    #[error("not json at byte {at}: expected {expected}; send one json value in utf-8")]
    Syntax {
        /// Where.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// The same key twice in one object.
    #[error("key `{key}` stands twice in one object (byte {at}); send it once")]
    DuplicateKey {
        /// Where.
        at: usize,
        /// The key, shortened.
        key: String,
    },
    /// A key that has another spelling in Unicode normalization form C.
    #[error("key `{key}` is not in unicode form nfc (byte {at}); normalize it")]
    KeyNotNfc {
        /// Where.
        at: usize,
        /// The key, shortened and escaped.
        key: String,
    },
    /// A number that would change when read into a double.
    #[error("number `{text}` is not exact in a double (byte {at}); send it as a string, or with fewer digits")]
    InexactNumber {
        /// Where.
        at: usize,
        /// The number, shortened.
        text: String,
    },
    /// Nested too deep.
    #[error("nested deeper than {MAX_DEPTH} (byte {at}); send a flatter value")]
    TooDeep {
        /// Where.
        at: usize,
    },
}

impl Json {
    /// Reads one value, strictly.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| JsonError::Syntax { at: e.valid_up_to(), expected: "utf-8 text" })?;
        let mut reader = Reader { text, at: 0 };
        reader.space();
        let value = reader.value(0)?;
        reader.space();
        if reader.at == text.len() { Ok(value) } else { Err(reader.syntax("the end")) }
    }

    /// The canonical bytes (RFC 8785).
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = String::new();
        self.write(&mut out);
        out.into_bytes()
    }

    /// Appends the canonical form to `out`.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(n) => write_number(*n, out),
            Self::Text(s) => write_text(s, out),
            Self::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_text(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// An object from members in any order; a later member with the same key is dropped.
    pub fn object(members: impl IntoIterator<Item = (String, Json)>) -> Self {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        members.dedup_by(|(a, _), (b, _)| a == b);
        Self::Object(members)
    }

    /// A string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The member `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Self::Object(members) => members.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The integer, if it is one within ±[`MAX_SAFE_INTEGER`].
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Number(n) => whole(*n),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(s) => Some(s),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The items of an array, if it is one.
    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The members of an object, if it is one.
    pub fn as_object(&self) -> Option<&[(String, Json)]> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The same value, from a `serde_json` value that was read elsewhere. Numbers outside a double become `null`;
    /// integers beyond ±[`MAX_SAFE_INTEGER`] become strings, which keeps them exact; other numbers keep their value, not
    /// their spelling.
    pub fn from_serde(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) if n.is_u64() || n.is_i64() => {
                n.as_i64().map_or_else(|| Self::Text(n.to_string()), Self::from)
            }
            serde_json::Value::Number(n) => n.as_f64().filter(|n| n.is_finite()).map_or(Self::Null, Self::Number),
            serde_json::Value::String(s) => Self::Text(s.clone()),
            serde_json::Value::Array(items) => Self::Array(items.iter().map(Self::from_serde).collect()),
            serde_json::Value::Object(map) => Self::object(map.iter().map(|(k, v)| (k.clone(), Self::from_serde(v)))),
        }
    }
}

impl From<i64> for Json {
    /// An integer; beyond ±[`MAX_SAFE_INTEGER`] it is written as a string, which keeps it exact.
    fn from(n: i64) -> Self {
        if n.unsigned_abs() <= MAX_SAFE_INTEGER.unsigned_abs() {
            #[expect(clippy::cast_precision_loss, reason = "within the safe integers")]
            Self::Number(n as f64)
        } else {
            Self::Text(n.to_string())
        }
    }
}

/// The integer that a double is, within the safe range.
fn whole(n: f64) -> Option<i64> {
    #[expect(clippy::cast_precision_loss, reason = "the bound itself is exact in a double")]
    let bound = MAX_SAFE_INTEGER as f64;
    #[expect(clippy::cast_possible_truncation, reason = "bounded by the safe integers and without a fraction")]
    (n.fract() == 0.0 && n.abs() <= bound).then_some(n as i64)
}

/// Significant decimal digits and the exponent such that the value is `0.DIGITS × 10^exponent`; zero is ("", 0).
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Digits {
    pub(crate) digits: String,
    pub(crate) exponent: i64,
}

impl Digits {
    /// From number text as JSON or `{:e}` spells it, without sign.
    fn of(text: &str) -> Option<Self> {
        let (mantissa, exp) = match text.split_once(['e', 'E']) {
            Some((m, e)) => (m, e.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (int, frac) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{int}{frac}");
        let lead = all.len() - all.trim_start_matches('0').len();
        let digits = all.trim_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Self { digits, exponent: 0 });
        }
        let exponent = i64::try_from(int.len()).ok()?.checked_sub(i64::try_from(lead).ok()?)?.checked_add(exp)?;
        Some(Self { digits, exponent })
    }

    /// The shortest digits that read back as `n` (without its sign); of several the nearest, of two those that end even.
    pub(crate) fn shortest(n: f64) -> Self {
        let n = n.abs();
        let nothing = Self { digits: String::new(), exponent: 0 };
        let shortest = Self::of(&format!("{n:e}")).unwrap_or(nothing);
        // Where two are equally short and equally near, ECMAScript takes the even one, as rounding to that many digits
        // does. With 15 digits or fewer there are never two.
        let after_point = shortest.digits.len().saturating_sub(1);
        if after_point < 15 {
            return shortest;
        }
        let rounded = format!("{n:.after_point$e}");
        let same = rounded.parse::<f64>().is_ok_and(|read| read.to_bits() == n.to_bits());
        if same { Self::of(&rounded).unwrap_or(shortest) } else { shortest }
    }
}

/// RFC 8785, section 3.2.2.3: as ECMAScript prints a number.
fn write_number(n: f64, out: &mut String) {
    if let Some(i) = whole(n) {
        let _ = write!(out, "{i}");
        return;
    }
    let Digits { digits, exponent } = Digits::shortest(n);
    if n < 0.0 {
        out.push('-');
    }
    let k = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let zeros = |out: &mut String, count: i64| (0..count).for_each(|_| out.push('0'));
    if k <= exponent && exponent <= 21 {
        out.push_str(&digits);
        zeros(out, exponent - k);
    } else if 0 < exponent && exponent <= 21 {
        let (int, frac) = digits.split_at(usize::try_from(exponent).unwrap_or(0));
        let _ = write!(out, "{int}.{frac}");
    } else if -6 < exponent && exponent <= 0 {
        out.push_str("0.");
        zeros(out, -exponent);
        out.push_str(&digits);
    } else {
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            let _ = write!(out, ".{rest}");
        }
        let e = exponent - 1;
        let _ = write!(out, "e{}{}", if e < 0 { '-' } else { '+' }, e.abs());
    }
}

/// RFC 8785, section 3.2.2.2: minimal escapes, lower-case hex.
pub(crate) fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{9}' => out.push_str("\\t"),
            '\u{a}' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\u{d}' => out.push_str("\\r"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// At most 60 characters, control characters escaped, for an error text.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn syntax(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { at: self.at, expected }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.syntax(expected))
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, JsonError> {
        if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.syntax("a json value"))
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep { at: self.at });
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.syntax("a json value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.take(b'{', "`{`")?;
        let mut members: Vec<(String, usize, Json)> = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(Vec::new()));
        }
        loop {
            self.space();
            let at = self.at;
            let key = self.string()?;
            if !is_nfc(&key) {
                return Err(JsonError::KeyNotNfc { at, key: shown(&key) });
            }
            self.space();
            self.take(b':', "`:`")?;
            self.space();
            let value = self.value(depth + 1)?;
            members.push((key, at, value));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                _ => return Err(self.syntax("`,` or `}`")),
            }
        }
        // Stable, so that of two equal keys the second one is named.
        members.sort_by(|(a, ..), (b, ..)| a.encode_utf16().cmp(b.encode_utf16()));
        if let Some((key, at)) =
            members.iter().zip(members.iter().skip(1)).find(|(a, b)| a.0 == b.0).map(|(_, b)| (&b.0, b.1))
        {
            return Err(JsonError::DuplicateKey { at, key: shown(key) });
        }
        Ok(Json::Object(members.into_iter().map(|(k, _, v)| (k, v)).collect()))
    }

    fn array(&mut self, depth: usize) -> Result<Json, JsonError> {
        self.take(b'[', "`[`")?;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(items));
        }
        loop {
            self.space();
            items.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::Array(items));
                }
                _ => return Err(self.syntax("`,` or `]`")),
            }
        }
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|d| u32::from_str_radix(d, 16).ok()).ok_or_else(|| self.syntax("4 hex digits"))?;
        self.at += 4;
        Ok(value)
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.take(b'"', "`\"`")?;
        let mut out = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|b| b != b'"' && b != b'\\' && b >= b' ') {
                self.at += 1;
            }
            out.push_str(self.text.get(start..self.at).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                _ => return Err(self.syntax("a character that is not a control character, or `\"`")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let plain = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.syntax("an escape")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, JsonError> {
        let high = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&high) {
            if self.text.get(self.at..self.at + 2) != Some("\\u") {
                return Err(self.syntax("the second half of a surrogate pair"));
            }
            self.at += 2;
            let low = self.hex4()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(self.syntax("the second half of a surrogate pair"));
            }
            0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
        } else {
            high
        };
        char::from_u32(code).ok_or_else(|| self.syntax("a character, not half a surrogate pair"))
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.syntax("a digit")) }
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let magnitude = self.at;
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        let inexact = || JsonError::InexactNumber { at: start, text: shown(text) };
        let n: f64 = text.parse().map_err(|_| inexact())?;
        let written = self.text.get(magnitude..self.at).and_then(Digits::of).ok_or_else(inexact)?;
        // What is printed as plain digits must lie within the safe integers: beyond, two readers may disagree.
        let unsafe_integer = n.fract() == 0.0 && whole(n).is_none() && n.abs() < 1e21;
        if !n.is_finite() || unsafe_integer || written != Digits::shortest(n) {
            return Err(inexact());
        }
        Ok(Json::Number(n + 0.0)) // -0 is written as 0
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn canon(text: &str) -> String {
        String::from_utf8(Json::parse(text.as_bytes()).unwrap().canonical()).unwrap()
    }

    #[test]
    fn canonical_form_is_rfc_8785() {
        for (given, expected) in [
            // RFC 8785, sections 3.2.2 and 3.2.3, as far as the numbers are exact as written
            (
                r#"{"numbers":[333333333.3333333,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
                "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}",
            ),
            (
                "{\"\\u20ac\":\"Euro Sign\",\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\\ud83d\\ude00\":\"Smiley\",\"\\u00f6\":\"o\"}",
                "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"ö\":\"o\",\"€\":\"Euro Sign\",\"😀\":\"Smiley\"}",
            ),
            ("-0", "0"),
            ("[1e21,1.5e-7,0.000001,-2.50]", "[1e+21,1.5e-7,0.000001,-2.5]"),
            ("  [ ]  ", "[]"),
        ] {
            assert_eq!(canon(given), expected, "{given}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for (given, part) in [
            (r#"{"a":1,"a":2}"#, "stands twice"),
            (r#"{"a":1,"\u0061":2}"#, "stands twice"),
            ("{\"e\u{301}\":1}", "nfc"),
            ("9007199254740993", "not exact"),
            ("9007199254740992", "not exact"),
            ("0.1000000000000000055511151231257827", "not exact"),
            ("1e400", "not exact"),
            (r#""\ud800""#, "surrogate"),
            (r#""\ud800A""#, "surrogate"),
            (r#""\udc00""#, "surrogate"),
            ("\"\u{1}\"", "not json"),
            ("[1,]", "not json"),
            ("01", "not json"),
            ("1 2", "the end"),
            ("", "not json"),
            ("nul", "not json"),
            ("{\"a\" 1}", "not json"),
        ] {
            let error = Json::parse(given.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{given}: {error}");
        }
        let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
        assert_eq!(Json::parse(deep.as_bytes()), Err(JsonError::TooDeep { at: 65 }));
        assert!(Json::parse(&[0xff]).is_err());
    }

    #[test]
    fn numbers_print_as_rfc_8785_prints_them() {
        // Its appendix B, as far as a reader takes them, and powers of two, whose neighbours are not equally far.
        for (bits, expected) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
            (0xc314_3ff3_c1cb_0959, "-1424953923781206.2"),
            (0x3d30_0000_0000_0000, "5.684341886080802e-14"),
        ] {
            let mut out = String::new();
            write_number(f64::from_bits(bits), &mut out);
            assert_eq!(out, expected, "{bits:016x}");
        }
        assert_eq!(canon("1424953923781206.2"), "1424953923781206.2");
        assert!(Json::parse(b"1424953923781206.3").is_err(), "another spelling of the same number");
    }

    #[test]
    fn an_integer_that_a_double_would_round_is_kept_as_text() {
        for (given, expected) in [
            ("9007199254740991", "9007199254740991"),
            ("-9007199254740991", "-9007199254740991"),
            ("9007199254740993", "\"9007199254740993\""),
            ("-9007199254740993", "\"-9007199254740993\""),
            ("9223372036854775807", "\"9223372036854775807\""),
            ("18446744073709551615", "\"18446744073709551615\""),
            ("1e23", "1e+23"),
        ] {
            let value: serde_json::Value = serde_json::from_str(given).unwrap();
            assert_eq!(String::from_utf8(Json::from_serde(&value).canonical()).unwrap(), expected, "{given}");
        }
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            (-MAX_SAFE_INTEGER..MAX_SAFE_INTEGER).prop_map(Json::from),
            any::<f64>()
                .prop_filter("readable", |n| n.is_finite() && (n.fract() != 0.0 || n.abs() >= 1e21))
                .prop_map(|n| Json::Number(n + 0.0)),
            ".{0,12}".prop_map(Json::Text),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
                prop::collection::vec(("[a-zA-Z0-9é€]{0,6}", inner), 0..5).prop_map(Json::object),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_bytes_read_back_as_the_same_value_and_the_same_bytes(value in any_json()) {
            let again = Json::parse(&value.canonical()).unwrap();
            prop_assert_eq!(&again, &value);
            prop_assert_eq!(again.canonical(), value.canonical());
        }

        #[test]
        fn what_is_accepted_reads_as_serde_json_reads_it(value in any_json()) {
            let bytes = value.canonical();
            let oracle: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(Json::from_serde(&oracle).canonical(), bytes);
        }

        #[test]
        fn reading_never_panics(text in ".{0,40}") {
            let _ = Json::parse(text.as_bytes());
        }
    }
}
