//! The report as people read it: the machine, a table of all rows, and medians over the passes with their quotients.
//!
//! Next: `medians.rs`.

use serde_json::Value;

/// Prints the report.
pub fn print(report: &Value) {
    println!("machine      {}", report["machine"]);
    println!("date         {}", report["date"].as_str().unwrap_or_default());
    println!("measured     {}, profile {}", word(&report["measured"]), word(&report["profile"]));
    println!("durable      {}", report["durable"].as_str().unwrap_or_default());
    println!("sync probe   4 KiB append + fdatasync, us: {}, and in each row of the gateway", report["sync_probe_us"]);
    for (name, value) in report["beside"].as_object().into_iter().flatten() {
        println!("{name:<12} {value}");
    }
    rows(&report["rows"]);
    batches(&report["rows"]);
    medians(&report["medians"]);
}

fn rows(rows: &Value) {
    println!();
    println!(
        "| pass | what | connections | loop | per s | p50 us | p99 us | p99.9 us | server CPU us | entries | commits | syncs | bytes | peak RSS MB | probe us | unsent | errors |"
    );
    println!("|{}", " --- |".repeat(17));
    for row in rows.as_array().into_iter().flatten() {
        let (load, extra) = (&row["load"], &row["extra"]);
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row["pass"],
            word(&row["what"]),
            load["connections"],
            kind(load),
            whole(&load["per_s"]),
            whole(&load["p50_us"]),
            whole(&load["p99_us"]),
            whole(&load["p999_us"]),
            whole(&row["server_cpu_us"]),
            whole(&extra["entries"]),
            whole(&extra["commits"]),
            whole(&extra["syncs"]),
            whole(&extra["written_bytes_each"]),
            extra["peak_rss_mb"],
            whole(&extra["sync_probe_us"]["p50"]),
            load["unsent"],
            load["errors"],
        );
    }
}

/// How many entries shared a commit, a line for each load of the gateway.
fn batches(rows: &Value) {
    println!();
    println!("Commits by how many entries they had, at least:");
    println!();
    println!("| pass | connections | loop | commits |");
    println!("| --- | --- | --- | --- |");
    for row in rows.as_array().into_iter().flatten().filter(|row| row["what"] == "gateway") {
        let batches = row["extra"]["batches"].as_array().into_iter().flatten();
        let each = batches.map(|batch| format!("{}: {}", batch["least"], batch["commits"]));
        println!(
            "| {} | {} | {} | {} |",
            row["pass"],
            row["load"]["connections"],
            kind(&row["load"]),
            each.collect::<Vec<_>>().join(", "),
        );
    }
}

fn medians(medians: &Value) {
    println!();
    println!(
        "Medians over the passes; a quotient is the gateway's requests per second by those of the other, closed loops only."
    );
    println!();
    println!(
        "| what | connections | loop | per s | p50 us | p99 us | server CPU us | probe us | p50 in probes | quotients |"
    );
    println!("|{}", " --- |".repeat(10));
    for row in medians.as_array().into_iter().flatten() {
        let quotients = row["quotients"].as_object().into_iter().flatten();
        let quotients = quotients.map(|(other, by)| format!("÷ {other} {:.2}", by.as_f64().unwrap_or(0.0)));
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            word(&row["what"]),
            row["connections"],
            kind(row),
            whole(&row["per_s"]),
            whole(&row["p50_us"]),
            whole(&row["p99_us"]),
            whole(&row["server_cpu_us"]),
            whole(&row["sync_probe_us"]),
            row["p50_in_probes"].as_f64().map_or(String::new(), |by| format!("{by:.1}")),
            quotients.collect::<Vec<_>>().join(", "),
        );
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn whole(value: &Value) -> String {
    format!("{:.0}", value.as_f64().unwrap_or(0.0))
}

fn kind(load: &Value) -> String {
    load["offered_per_s"].as_f64().map_or("closed".to_owned(), |rate| format!("open {rate:.0}/s"))
}
