//! Medians over the passes of one run, and how the gateway stands beside the others of that run.
//!
//! Passes alternate between the servers, so a quotient of medians compares what met the same minutes of the machine.

use serde_json::{Value, json};

/// One for each server and load of `rows`, in the order in which they were first measured.
pub fn medians(rows: &[Value]) -> Vec<Value> {
    let key =
        |row: &Value| [row["what"].clone(), row["load"]["connections"].clone(), row["load"]["offered_per_s"].clone()];
    let mut keys = Vec::new();
    for row in rows {
        if !keys.contains(&key(row)) {
            keys.push(key(row));
        }
    }
    let of = |wanted: &[Value; 3], at: &str| {
        median(rows.iter().filter(|row| key(row) == *wanted).filter_map(|row| row.pointer(at)?.as_f64()).collect())
    };
    let one = |wanted: &[Value; 3]| {
        let [what, connections, offered] = wanted;
        let mut median = json!({
            "what": what, "connections": connections, "offered_per_s": offered,
            "per_s": of(wanted, "/load/per_s"), "p50_us": of(wanted, "/load/p50_us"),
            "p99_us": of(wanted, "/load/p99_us"), "server_cpu_us": of(wanted, "/server_cpu_us"),
        });
        if what == "gateway" {
            let probe = of(wanted, "/extra/sync_probe_us/p50");
            median["sync_probe_us"] = json!(probe);
            median["p50_in_probes"] = json!(of(wanted, "/load/p50_us") / probe);
        }
        if what == "gateway" && offered.is_null() {
            let others = keys.iter().filter(|other| other[0] != *what && other[1..] == wanted[1..]);
            let by = |other: &[Value; 3]| {
                let name = other[0].as_str().unwrap_or_default().to_owned();
                (name, json!(of(wanted, "/load/per_s") / of(other, "/load/per_s")))
            };
            median["quotients"] = Value::Object(others.map(by).collect());
        }
        median
    };
    keys.iter().map(one).collect()
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    f64::midpoint(at(values.len() / 2), at(values.len().saturating_sub(1) / 2))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn row(what: &str, per_s: f64, offered: Option<u32>) -> Value {
        json!({
            "what": what, "server_cpu_us": 1e6 / per_s,
            "load": { "connections": 64, "offered_per_s": offered, "per_s": per_s, "p50_us": 1.0, "p99_us": 2.0 },
        })
    }

    #[test]
    fn the_gateway_is_compared_by_medians_with_each_other_server_under_the_same_closed_load() {
        let rows = [
            row("gateway", 100.0, None),
            row("gateway", 900.0, Some(1_000)),
            row("floor", 400.0, None),
            row("floor", 1_000.0, Some(1_000)),
            row("gateway", 9_000.0, None),
            row("floor", 600.0, None),
            row("gateway", 200.0, None),
        ];
        let medians = medians(&rows);
        let short: Vec<_> =
            medians.iter().map(|m| (m["what"].as_str().unwrap(), m["per_s"].as_f64().unwrap())).collect();
        assert_eq!(short, [("gateway", 200.0), ("gateway", 900.0), ("floor", 500.0), ("floor", 1_000.0)]);
        assert_eq!(medians[0]["quotients"], json!({ "floor": 0.4 }));
        assert!(medians[1..].iter().all(|median| median.get("quotients").is_none()));
    }
}
