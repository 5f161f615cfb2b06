//! JSON with one form only: a strict reader (I-JSON, RFC 7493) and the canonical writer (JCS, RFC 8785).
//!
//! Whatever is digested or signed as JSON goes through here: bundle manifests, root documents, tool input.
//! Absent: hashing, schemas, NFC (that is asked of tool input only). Read next: `input`.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, Serialize};
use serde_json::{Map, Number, Value};

/// The largest integer that every JSON reader holds exactly: 2^53 - 1 (RFC 7493, section 2.2).
pub const MAX_SAFE_INTEGER: u64 = 9_007_199_254_740_991;

/// Why a text has no canonical form.
#[derive(Debug, thiserror::Error)]
pub enum JcsError {
    /// Not JSON, or JSON that two readers may read differently (duplicate keys).
    #[error("not strict json: {0}")]
    Parse(#[source] serde_json::Error),
    /// An integer that a double cannot hold exactly.
    #[error("integer `{0}` is beyond 2^53 - 1 and not every reader holds it exactly; write it as a string")]
    UnsafeInteger(String),
    /// Not a finite number.
    #[error("number `{0}` is not finite and has no json form")]
    NotFinite(String),
}

/// Reads JSON strictly: UTF-8, one value, no duplicate keys at any depth, nesting up to 128.
pub fn parse(bytes: &[u8]) -> Result<Value, JcsError> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut de).map_err(JcsError::Parse)?;
    de.end().map_err(JcsError::Parse)?;
    Ok(value)
}

/// The canonical bytes of a value: keys in UTF-16 order, shortest numbers, minimal escapes, no white space.
pub fn canonical(value: &Value) -> Result<Vec<u8>, JcsError> {
    let mut out = Vec::with_capacity(256);
    write_value(value, &mut out)?;
    Ok(out)
}

/// The canonical bytes of anything that serialises to JSON.
pub fn to_canonical<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, JcsError> {
    canonical(&serde_json::to_value(value).map_err(JcsError::Parse)?)
}

fn write_value(value: &Value, out: &mut Vec<u8>) -> Result<(), JcsError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, out)?,
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_value(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut members: Vec<(&String, &Value)> = map.iter().collect();
            // Code units, not code points: they differ beyond the basic plane (RFC 8785, section 3.2.3).
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push(b'{');
            for (i, (key, member)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_value(member, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_number(number: &Number, out: &mut Vec<u8>) -> Result<(), JcsError> {
    let integer = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    if let Some(magnitude) = integer {
        if magnitude > MAX_SAFE_INTEGER {
            return Err(JcsError::UnsafeInteger(number.to_string()));
        }
        out.extend_from_slice(number.to_string().as_bytes());
        return Ok(());
    }
    let double = number.as_f64().filter(|d| d.is_finite()).ok_or_else(|| JcsError::NotFinite(number.to_string()))?;
    out.extend_from_slice(ecma_number(double).as_bytes());
    Ok(())
}

/// `Number::toString` of ECMA-262 (section 6.1.6.1.20) for a finite double.
fn ecma_number(double: f64) -> String {
    if double == 0.0 {
        return "0".to_owned();
    }
    // Rust's exponent form carries the shortest digits that read back to the same double, as ECMA asks. Between two
    // equally near ones it does not promise the even one, as RFC 8785 does: correct rounding to that length does.
    let magnitude = double.abs();
    let mut shortest = format!("{magnitude:e}");
    let places = shortest.bytes().take_while(|b| *b != b'e').filter(u8::is_ascii_digit).count().saturating_sub(1);
    let nearest = format!("{magnitude:.places$e}");
    if nearest.parse() == Ok(magnitude) {
        shortest = nearest;
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // The value is 0.digits × 10^point.
    let point = exponent + 1;
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or(0));
    let split = |at: i32| digits.split_at_checked(usize::try_from(at).unwrap_or(0)).unwrap_or((&digits, ""));
    let body = if count <= point && point <= 21 {
        format!("{digits}{}", zeros(point - count))
    } else if 0 < point && point <= 21 {
        let (whole, part) = split(point);
        format!("{whole}.{part}")
    } else if -6 < point && point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else {
        let sign = if point > 0 { '+' } else { '-' };
        let (first, rest) = split(1);
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{first}{dot}{rest}e{sign}{}", (point - 1).abs())
    };
    if double < 0.0 { format!("-{body}") } else { body }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{9}' => out.extend_from_slice(b"\\t"),
            '\u{a}' => out.extend_from_slice(b"\\n"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\u{d}' => out.extend_from_slice(b"\\r"),
            c if c < '\u{20}' => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// Builds a `Value` and refuses a key that an object already has; serde_json alone keeps the last one silently.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a json value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Strict)?;
            if out.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key `{}`", key.escape_debug())));
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn canonical_form_is_that_of_rfc_8785() {
        for (given, wanted) in [
            // RFC 8785, section 3.2.2 and 3.2.3.
            (
                r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
                    "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
                "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
                 \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}",
            ),
            (
                r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
                    "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#,
                "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\
                 \"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\
                 \"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}",
            ),
            (
                "[-0.0, 1.0, -7, 1e20, 1e21, 123e-7, 1e-7, 0.1]",
                "[0,1,-7,100000000000000000000,1e+21,0.0000123,1e-7,0.1]",
            ),
        ] {
            let bytes = canonical(&parse(given.as_bytes()).unwrap()).unwrap();
            assert_eq!(String::from_utf8(bytes.clone()).unwrap(), wanted);
            assert_eq!(canonical(&parse(&bytes).unwrap()).unwrap(), bytes, "canonical twice is canonical");
        }
    }

    #[test]
    fn numbers_are_written_as_the_appendix_b_of_rfc_8785_has_them() {
        for (bits, wanted) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
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
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(ecma_number(f64::from_bits(bits)), wanted, "{bits:x}");
        }
    }

    #[test]
    fn what_two_readers_may_read_differently_is_refused() {
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"[{"b":{"a":1,"\u0061":2}}]"#,
            "{} {}",
            "",
            "[1,]",
            "{\"a\":\"\u{1}\"}",
            r#""\ud800""#,
            "1e400",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse("[".repeat(200).as_bytes()).is_err(), "nesting is bounded");
    }

    #[test]
    fn an_integer_that_a_double_cannot_hold_has_no_canonical_form() {
        assert_eq!(canonical(&parse(b"9007199254740991").unwrap()).unwrap(), b"9007199254740991");
        assert!(matches!(canonical(&parse(b"9007199254740992").unwrap()), Err(JcsError::UnsafeInteger(_))));
        assert!(matches!(canonical(&parse(b"-9007199254740993").unwrap()), Err(JcsError::UnsafeInteger(_))));
    }
}
