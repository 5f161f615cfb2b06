//! Answers of the gateway as people read them in a terminal: fields in lines, lists as tables, nothing that moves the cursor.
//!
//! Absent: colours, and the wire itself, which `--json` shows as it is.

use std::fmt::Write as _;

use serde_json::Value;

/// Text of others, harmless in a terminal: what is no printable ASCII, letter or digit is shown as `\u{…}`, not obeyed.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric()) {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
    }
    out
}

/// One value in one line.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text).replace('\n', " "),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            items.iter().map(cell).collect::<Vec<_>>().join(", ")
        }
        other => plain(&other.to_string()),
    }
}

/// An object as one line a field; nested objects are indented, receipts shortened to where they point.
pub(crate) fn fields(value: &Value) -> String {
    let mut out = String::new();
    write_fields(&mut out, value, 0);
    out
}

fn write_fields(out: &mut String, value: &Value, depth: usize) {
    let Some(object) = value.as_object() else {
        let _ = writeln!(out, "{}", cell(value));
        return;
    };
    let width = object.keys().map(|key| key.chars().count()).max().unwrap_or(0);
    let indent = "  ".repeat(depth);
    for (key, value) in object {
        match value {
            Value::Object(inner) if key == "receipt" => {
                let index = inner.get("index").map(cell).unwrap_or_default();
                let _ = writeln!(out, "{indent}{key:width$}  entry {index}");
            }
            Value::Object(_) => {
                let _ = writeln!(out, "{indent}{key}");
                write_fields(out, value, depth + 1);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                let _ = writeln!(out, "{indent}{key}");
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push('\n');
                    }
                    write_fields(out, item, depth + 1);
                }
            }
            Value::Null => {}
            value => {
                let _ = writeln!(out, "{indent}{key:width$}  {}", cell(value));
            }
        }
    }
}

/// A list as a table of these columns.
pub(crate) fn table(items: &[Value], columns: &[&str]) -> String {
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|column| column.to_uppercase()).collect()];
    for item in items {
        rows.push(columns.iter().map(|column| item.get(*column).map(cell).unwrap_or_default()).collect());
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|text| text.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
        let _ = writeln!(out, "{}", line.join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_of_others_moves_no_cursor() {
        let shown = fields(&json!({ "title": "a\u{1b}[2Jb\u{202e}c" }));
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown:?}");
        let shown = table(&[json!({ "id": "x\u{7}" })], &["id"]);
        assert!(!shown.contains('\u{7}'), "{shown:?}");
    }

    #[test]
    fn tables_and_fields_are_aligned() {
        let items = [json!({ "id": "a", "state": "RUNNING" }), json!({ "id": "long", "state": "X" })];
        assert_eq!(table(&items, &["id", "state"]), "ID    STATE\na     RUNNING\nlong  X\n");
        assert_eq!(
            fields(&json!({ "a": 1, "long": [1, 2], "receipt": { "index": 7 } })),
            "a        1\nlong     1, 2\nreceipt  entry 7\n"
        );
    }
}
