//! Load for `cargo xtask bench`: pre-rendered requests over keep-alive connections, one thread, bounded in time.
//!
//! Closed loop: each connection sends its next request when the last one is answered. Open loop (`--rate`): requests
//! are due at fixed times whether or not earlier ones were answered, and latency counts from the due time, so that a
//! stall is charged to everyone who waited; what was due and could not be sent before the end is counted, and its wait up
//! to there is among the latencies. A thread of its own keeps the beat, because the runtime's timer rounds up to
//! whole milliseconds and would send what is due in one of them as one burst. Every request carries a fresh idempotency
//! key. Several targets and several bodies (`--bodies`, one a line) are sent in turn. An answer is an error if its status is
//! not a success, or if it lacks what `--expect` names. Prints one JSON object.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time; it is no part of the product")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "figures of a run of some seconds, and a buffer whose bounds are checked where it is filled"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Stands in each request where its idempotency key goes.
const PLACE: [u8; 32] = [b'@'; 32];

/// What to send where.
struct Plan {
    address: String,
    requests: Vec<Request>,
    expect: Vec<u8>,
    connections: usize,
    seconds: f64,
    rate: Option<f64>,
}

/// The bytes of a request, and where its key goes.
struct Request {
    bytes: Vec<u8>,
    key: usize,
}

fn main() -> Result<()> {
    let plan = plan()?;
    if !(plan.address.starts_with("127.0.0.1:") || plan.address.starts_with("[::1]:")) {
        bail!("load goes to loopback only");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(plan))
}

/// From the flags: `--address --targets --token`, `--body` or `--bodies`, `--connections --seconds --rate`, `--expect`.
fn plan() -> Result<Plan> {
    let mut flags = BTreeMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("`{flag}` has no value"))?;
        flags.insert(flag, value);
    }
    let mut given = |name: &str| flags.remove(name);
    let missing = |name: &str| format!("`{name}` is missing");
    let mut value = |name: &str| given(name).with_context(|| missing(name));
    let (address, token) = (value("--address")?, value("--token")?);
    let (connections, seconds) = (value("--connections")?.parse()?, value("--seconds")?.parse()?);
    let targets = std::fs::read_to_string(value("--targets")?)?;
    let bodies = match given("--bodies") {
        Some(path) => std::fs::read_to_string(path)?.lines().map(|line| line.as_bytes().to_vec()).collect(),
        None => vec![std::fs::read(given("--body").with_context(|| missing("--body"))?)?],
    };
    let rate = given("--rate").map(|rate| rate.parse::<f64>()).transpose()?.filter(|rate| *rate > 0.0);
    let expect = given("--expect").unwrap_or_default().into_bytes();
    if let Some(unknown) = flags.keys().next() {
        bail!("there is no `{unknown}`");
    }
    let pairs = targets.lines().flat_map(|target| bodies.iter().map(move |body| (target, body)));
    let requests = pairs.map(|(target, body)| render(&address, &token, target, body)).collect::<Result<Vec<_>>>()?;
    if requests.is_empty() {
        bail!("there is no target, or no body");
    }
    Ok(Plan { address, requests, expect, connections, seconds, rate })
}

async fn run(plan: Plan) -> Result<()> {
    let plan = Arc::new(plan);
    let serial = Arc::new(AtomicU64::new(0));
    let mut nonce = [0_u8; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut nonce)?;
    let nonce = u64::from_le_bytes(nonce);
    let begin = Instant::now() + Duration::from_millis(50);
    let (mut tasks, mut beats) = (Vec::new(), Vec::new());
    for connection in 0..plan.connections {
        let (beat, due) = unbounded_channel();
        beats.push(beat);
        tasks.push(tokio::task::spawn(drive(Arc::clone(&plan), connection, Arc::clone(&serial), nonce, (begin, due))));
    }
    let pace = plan.rate.map(|rate| {
        let end = begin + Duration::from_secs_f64(plan.seconds);
        std::thread::spawn(move || keep_beat(&beats, rate, begin, end))
    });
    let (mut latencies, mut waits, mut errors, mut samples) = (Vec::new(), Vec::new(), 0_u64, Vec::new());
    for task in tasks {
        let driven = task.await??;
        latencies.extend(driven.latencies);
        waits.extend(driven.unsent);
        errors += driven.errors;
        samples.extend(driven.sample);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    if pace.is_some_and(|thread| thread.join().is_err()) {
        bail!("the thread that keeps the beat failed");
    }
    let (requests, unsent) = (latencies.len(), waits.len());
    latencies.extend(waits);
    latencies.sort_unstable();
    let at = |q: f64| -> f64 {
        let index = ((latencies.len() as f64 - 1.0).max(0.0) * q).round() as usize;
        latencies.get(index).map_or(0.0, |ns| *ns as f64 / 1000.0)
    };
    let report = serde_json::json!({
        "connections": plan.connections,
        "offered_per_s": plan.rate,
        "requests": requests,
        "unsent": unsent,
        "errors": errors,
        "error_sample": samples.first(),
        "seconds": elapsed,
        "per_s": requests as f64 / elapsed,
        "p50_us": at(0.50), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0),
    });
    println!("{report}");
    Ok(())
}

/// Says to each connection in turn when its next request is due, until `end`.
fn keep_beat(beats: &[UnboundedSender<Instant>], rate: f64, begin: Instant, end: Instant) {
    for (turn, beat) in (0_u64..).zip(beats.iter().cycle()) {
        let due = begin + Duration::from_secs_f64(turn as f64 / rate);
        if due >= end {
            return;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A connection that has failed reports that itself.
        let _ = beat.send(due);
    }
}

/// What one connection met.
#[derive(Default)]
struct Driven {
    /// From due to answered, in nanoseconds.
    latencies: Vec<u64>,
    /// Of what was due and never sent: how long it had waited at the end.
    unsent: Vec<u64>,
    errors: u64,
    /// The first wrong answer.
    sample: Option<String>,
}

async fn drive(
    plan: Arc<Plan>,
    connection: usize,
    serial: Arc<AtomicU64>,
    nonce: u64,
    (begin, mut beat): (Instant, UnboundedReceiver<Instant>),
) -> Result<Driven> {
    let mut stream = TcpStream::connect(&plan.address).await?;
    stream.set_nodelay(true)?;
    let end = begin + Duration::from_secs_f64(plan.seconds);
    let mut driven = Driven { latencies: Vec::with_capacity(1 << 16), ..Driven::default() };
    let (mut buffer, mut request) = (vec![0_u8; 64 * 1024], Vec::new());
    let mut turn = connection as u64;
    tokio::time::sleep_until(begin.into()).await;
    loop {
        let due = match plan.rate {
            Some(_) => match beat.recv().await {
                Some(due) => due,
                None => break,
            },
            None => Instant::now(),
        };
        if Instant::now() >= end {
            if plan.rate.is_some() {
                let waited = |due: Instant| u64::try_from(end.saturating_duration_since(due).as_nanos());
                driven.unsent.push(waited(due)?);
                // Nothing comes after the end: the beat stops there.
                while let Some(due) = beat.recv().await {
                    driven.unsent.push(waited(due)?);
                }
            }
            break;
        }
        // With as many requests as connections each connection stays on its own; with one it goes round all.
        let next = &plan.requests[turn as usize % plan.requests.len()];
        turn += plan.connections as u64;
        request.clear();
        request.extend_from_slice(&next.bytes);
        let number = serial.fetch_add(1, Ordering::Relaxed);
        request[next.key..next.key + PLACE.len()].copy_from_slice(format!("{nonce:016x}{number:016x}").as_bytes());
        stream.write_all(&request).await?;
        let (status, body) = answer(&mut stream, &mut buffer).await?;
        driven.latencies.push(u64::try_from(due.elapsed().as_nanos())?);
        let said = plan.expect.is_empty() || find(&body, &plan.expect).is_some();
        if !(200..300).contains(&status) || !said {
            driven.errors += 1;
            driven.sample.get_or_insert_with(|| format!("{status} {}", String::from_utf8_lossy(&body)));
        }
    }
    Ok(driven)
}

fn render(address: &str, token: &str, target: &str, body: &[u8]) -> Result<Request> {
    let mut bytes = format!(
        "POST {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Idempotency-Key: {}\r\nContent-Length: {}\r\n\r\n",
        String::from_utf8_lossy(&PLACE),
        body.len()
    )
    .into_bytes();
    let key = find(&bytes, &PLACE).context("a request has no place for its key")?;
    bytes.extend_from_slice(body);
    Ok(Request { bytes, key })
}

/// Reads one response with a content length.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<(u16, Vec<u8>)> {
    let mut held = 0;
    let head = loop {
        let read = stream.read(&mut buffer[held..]).await?;
        if read == 0 {
            bail!("the server closed the connection");
        }
        held += read;
        if let Some(at) = find(&buffer[..held], b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = std::str::from_utf8(&buffer[..head])?.to_ascii_lowercase();
    let status: u16 = text.get(9..12).context("no status")?.parse()?;
    let length: usize = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(Ok(0), |value| value.trim().parse())?;
    let mut body = buffer[head..held].to_vec();
    while body.len() < length {
        let read = stream.read(buffer).await?;
        if read == 0 {
            bail!("the server closed the connection");
        }
        body.extend_from_slice(&buffer[..read]);
    }
    Ok((status, body))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
