//! How long one append takes beside what the disk alone takes: run by hand, built as what is shipped is.
//!
//! `cargo run --profile dist -p countersign-ledger-sql --example append_latency -- [seconds] [folder]`
//!
//! One append at a time, and before each one a bare write of as many bytes with its sync, on the same disk in the same
//! minute; the ratio of the two is what counts. Absent: throughput (`commit_rate`), HTTP (`cargo xtask bench`).
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measurement run by hand: it measures real time and stops at the first surprise"
)]

#[path = "../tests/world/mod.rs"]
mod world;

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use world::{Hand, ledger, prepare, stream};

/// What a commit of one append writes to the write-ahead log: some pages, each with its frame.
const BYTES: usize = 8 * (4096 + 24);

fn percentile(times: &mut [Duration], p: f64) -> Duration {
    times.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a short list")]
    let at = ((times.len() - 1) as f64 * p) as usize;
    times[at]
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |path: PathBuf| std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
    let ns = |stat: String| stat.split_whitespace().next().map_or(0.0, |ns| ns.parse().unwrap());
    tasks.map(|task| ns(of(task.unwrap().path())) / 1e9).sum()
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().map_or(5, |a| a.parse().unwrap());
    let temp = tempfile::tempdir().unwrap();
    let folder = args.next().map_or(temp.path().to_owned(), PathBuf::from);
    // As the engine does: what appends is a task of the runtime.
    tokio::spawn(measure(seconds, folder)).await.unwrap();
}

async fn measure(seconds: u64, folder: PathBuf) {
    let file = std::fs::File::create(folder.join("probe")).unwrap();
    let bytes = vec![7; BYTES];
    let clock = Hand::new();
    let (logs, log) = ledger(&folder, &clock).await;
    let (mut probes, mut appends, mut used) = (Vec::new(), Vec::new(), 0.0);
    let begin = Instant::now();
    for n in 0.. {
        if begin.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        let one = Instant::now();
        file.write_all_at(&bytes, n % 64 * BYTES as u64).unwrap();
        file.sync_data().unwrap();
        probes.push(one.elapsed());
        let append = prepare(&log, stream(n / 20), 1, countersign_gateway_model::Clock::now(&*clock)).await;
        let (before, one) = (cpu(), Instant::now());
        log.append(append).await.unwrap();
        appends.push(one.elapsed());
        used += cpu() - before;
    }
    let count = appends.len();
    let (p, a) = (percentile(&mut probes, 0.5), percentile(&mut appends, 0.5));
    println!("{count} appends, p50 {a:?}, p99 {:?}", percentile(&mut appends, 0.99));
    println!("{count} probes,  p50 {p:?}, p99 {:?}", percentile(&mut probes, 0.99));
    println!(
        "ratio {:.2}, {:.0} µs beside the sync",
        a.as_secs_f64() / p.as_secs_f64(),
        (a.as_secs_f64() - p.as_secs_f64()) * 1e6
    );
    println!("{:.0} µs of CPU an append, {} syncs", used * 1e6 / count as f64, logs.stats().syncs);
    logs.shutdown().await.unwrap();
}
