//! Figures for Prometheus: requests, problems, refused credentials, verdicts, and what ledger and sessions say of
//! themselves.
//!
//! No label holds a name of a tenant, a person or an agent: routes, methods, statuses, codes and verdicts only.
//! Absent: where they are served (`health`). Read next: `layers`, which counts requests.

use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::MatchedPath;
use axum::http::Method;
use countersign_gateway_engine::{ActionResult, Engine, EngineError};
use countersign_gateway_identity::Authenticator;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// From 50 µs to 30 s: a governed action takes a few milliseconds, a wait for people up to 25 s.
const SECONDS: [f64; 16] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// A route's template, so that labels stay few; one word for what matches none.
#[derive(Clone, Debug)]
pub(crate) struct Route(pub(crate) Option<MatchedPath>);

impl Route {
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_ref().map_or("unknown", MatchedPath::as_str)
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Route {}

impl Hash for Route {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl EncodeLabelValue for Route {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requested {
    route: Route,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Timed {
    route: Route,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Coded {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Judged {
    verdict: &'static str,
}

/// The figures of one gateway. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<Requested, Counter>,
    seconds: Family<Timed, Histogram, fn() -> Histogram>,
    problems: Family<Coded, Counter>,
    credentials_refused: Family<Coded, Counter>,
    verdicts: Family<Judged, Counter>,
    pub(crate) rate_limited: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) panics: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// New figures, with those that the engine's ledger and the authenticator keep themselves.
    pub fn new(engine: &Engine, authenticator: &Arc<Authenticator>) -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("countersign"))),
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            problems: Family::default(),
            credentials_refused: Family::default(),
            verdicts: Family::default(),
            rate_limited: Counter::default(),
            in_flight: Gauge::default(),
            panics: Counter::default(),
        };
        metrics.register(|registry| {
            registry.register("http_requests", "Requests answered", metrics.requests.clone());
            registry.register_with_unit(
                "http_request",
                "Time from the first byte to the answer",
                Unit::Seconds,
                metrics.seconds.clone(),
            );
            registry.register("http_in_flight", "Requests being worked on", metrics.in_flight.clone());
            registry.register("problems", "Requests not carried out, by problem code", metrics.problems.clone());
            registry.register(
                "credentials_refused",
                "Credentials that did not hold, by problem code",
                metrics.credentials_refused.clone(),
            );
            registry.register("rate_limited", "Requests over a principal's rate", metrics.rate_limited.clone());
            registry.register("verdicts", "Proposed actions by what policy said", metrics.verdicts.clone());
            registry.register("panics", "Handlers that panicked", metrics.panics.clone());
            registry.register_collector(Box::new(Kept { engine: engine.clone(), sessions: Arc::clone(authenticator) }));
        });
        metrics
    }

    /// Registers figures of the program beside these; names get the prefix `countersign_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Everything in the `OpenMetrics` text format.
    ///
    /// # Errors
    /// [`fmt::Error`] if a collector failed.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    pub(crate) fn answered(
        &self,
        route: Route,
        method: &Method,
        status: u16,
        problem: Option<&'static str>,
        took: Duration,
    ) {
        let method = method_label(method);
        self.seconds.get_or_create(&Timed { route: route.clone(), method }).observe(took.as_secs_f64());
        self.requests.get_or_create(&Requested { route, method, status }).inc();
        if let Some(code) = problem {
            self.problems.get_or_create(&Coded { code }).inc();
            if status == 401 {
                self.credentials_refused.get_or_create(&Coded { code }).inc();
            }
        }
    }

    /// Counts what policy said of a proposed action.
    pub(crate) fn judged(&self, result: &ActionResult) {
        let verdict = match result {
            ActionResult::Permitted { .. } | ActionResult::Started(_) | ActionResult::Dispatched { .. } => "allow",
            ActionResult::Waiting { .. } => "needs_approval",
            ActionResult::Refused { .. } => "deny",
        };
        self.verdicts.get_or_create(&Judged { verdict }).inc();
    }

    /// Counts a refusal that came as an error.
    pub(crate) fn refused(&self, error: &EngineError) {
        if matches!(error, EngineError::Refused(_)) {
            self.verdicts.get_or_create(&Judged { verdict: "deny" }).inc();
        }
    }
}

/// The methods of the API; one word for all others, which anybody can make up.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Figures that others keep, read when they are asked for.
struct Kept {
    engine: Engine,
    sessions: Arc<Authenticator>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Collector for Kept {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let ledger = self.engine.logs().stats();
        let sessions = self.sessions.stats();
        let counters = [
            ("ledger_commits", "Transactions committed", ledger.commits),
            ("ledger_appends", "Appends committed", ledger.appends),
            ("ledger_entries", "Entries committed", ledger.entries),
            ("ledger_leaf_bytes", "Bytes of leaves committed", ledger.leaf_bytes),
            ("ledger_payload_bytes", "Bytes of payloads committed", ledger.payload_bytes),
            ("ledger_refused", "Appends refused: conflicts, replays, push-back, clock, disk", ledger.refused),
            ("ledger_syncs", "Syncs that the journal asked for", ledger.syncs),
            ("session_hits", "Requests whose token was known", sessions.hits),
            ("session_misses", "Requests whose token had to be verified", sessions.misses),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let size = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let gauges = [
            ("ledger_queued", "Entries that wait to be committed", size(ledger.queued)),
            ("ledger_wal_bytes", "Bytes written ahead", bytes(ledger.wal_bytes)),
            (
                "ledger_free_bytes",
                "Bytes free on the journal's disk; -1: not known",
                ledger.free_bytes.map_or(-1, bytes),
            ),
            ("ledger_logs", "Logs in memory", size(ledger.logs)),
            ("ledger_streams", "Streams in memory", size(ledger.streams)),
            ("ledger_stopped", "1: nothing is signed any more", i64::from(ledger.stopped.is_some())),
            ("sessions", "Sessions in memory", size(sessions.cached)),
            ("revocations", "Live revocations", size(sessions.revocations)),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        // Bucket `i` of the ledger counts batches of at least 2^i and less than 2^(i+1) entries.
        let mut batches = encoder.encode_descriptor(
            "ledger_batches",
            "Batches by number of entries",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (exponent, count) in ledger.batches.iter().enumerate() {
            let least = 1u64.checked_shl(u32::try_from(exponent).unwrap_or(63)).unwrap_or(u64::MAX);
            ConstCounter::new(*count).encode(batches.encode_family(&[("least", least.to_string())])?)?;
        }
        Ok(())
    }
}
