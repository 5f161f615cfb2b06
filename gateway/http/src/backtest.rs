//! A backtest over HTTP: the candidate in, lines of JSON out, its progress first and the report last.
//!
//! The answer is a stream because a large ledger takes minutes. Whoever may not ask, or asks with what decides nothing,
//! gets a problem and no stream. When the caller goes away the backtest ends. Absent: the fold (`engine`).

use std::convert::Infallible;
use std::ops::ControlFlow;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use countersign_gateway_engine::{BacktestLimits, BacktestProgress, BacktestTurn, BacktestWindow};
use countersign_gateway_model::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::input::{Params, Upload, param};
use crate::problem::{DRAINING, PARAMETER_INVALID, Problem};
use crate::state::AppState;

/// Most examples of each kind of change.
const MAX_EXAMPLES: usize = 1_000;

/// Lines that wait for a slow reader; progress beyond them is left out, the report never.
const WAITING_LINES: usize = 16;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(backtest_policy))
}

/// Which questions of the past are asked.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Window {
    /// Only those of this time or later: RFC 3339 in UTC, or a date.
    since: Option<String>,
    /// Only those of before this time.
    until: Option<String>,
    /// Only the newest so many.
    last: Option<u64>,
    /// Examples of each kind of change: 0 to 1000, usually 20. They show inputs of the past.
    examples: Option<usize>,
}

impl Window {
    fn read(&self) -> Result<BacktestWindow, Problem> {
        let time = |name: &'static str, given: Option<&str>| param::<Timestamp>(name, given);
        let examples = self.examples.unwrap_or_else(|| BacktestLimits::default().examples);
        if examples > MAX_EXAMPLES {
            let words = format!("`examples` is at most {MAX_EXAMPLES}: the counts are complete without them");
            return Err(Problem::new(PARAMETER_INVALID, words));
        }
        Ok(BacktestWindow {
            since: time("since", self.since.as_deref())?,
            until: time("until", self.until.as_deref())?,
            last: self.last,
            limits: BacktestLimits { examples },
        })
    }
}

/// Backtest a policy bundle
///
/// Asks a candidate (a bundle, or a draft) every question that the ledger holds, and says what would have been answered
/// differently. The answer is lines of JSON: `{"progress": {"entries", "of", "asked"}}` as it goes on, then one line that
/// is `{"report": …}`, or `{"problem": …}` where it ended early. An answer without either was cut off. One runs at a time
/// in an organization. Not for agents. Nothing is recorded and nothing changes.
#[utoipa::path(
    post, path = "/api/v1/policies/backtest", operation_id = "backtestPolicy", tag = "policies",
    params(Window),
    request_body(content = String, content_type = "application/json", description = "The bundle's transport form, or a draft"),
    responses((
        status = 200, description = "Progress, then the report", content_type = "application/x-ndjson", body = String,
        example = "{\"progress\":{\"entries\":1024,\"of\":1400,\"asked\":600}}\n{\"report\":{\"asked\":810}}\n"
    )),
)]
async fn backtest_policy(
    State(app): State<AppState>,
    Auth(who): Auth,
    Params(window): Params<Window>,
    upload: Upload,
) -> Result<Response, Problem> {
    let window = window.read()?;
    let turn = app.engine.begin_backtest(&who, upload.bytes.into()).await?;
    let (lines, read) = mpsc::channel(WAITING_LINES);
    tokio::spawn(answer(turn, window, lines));
    let stream = futures::stream::unfold(read, |mut read| async {
        let line = read.recv().await?;
        Some((Ok::<_, Infallible>(line), read))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn answer(turn: BacktestTurn, window: BacktestWindow, lines: mpsc::Sender<Bytes>) {
    let told = lines.clone();
    let watch = move |BacktestProgress { entries, of, asked }| {
        let progress = json!({ "progress": { "entries": entries, "of": of, "asked": asked } });
        match told.try_send(line(&progress)) {
            Err(TrySendError::Closed(_)) => ControlFlow::Break(()),
            Ok(()) | Err(TrySendError::Full(_)) => ControlFlow::Continue(()),
        }
    };
    // Looking for where to begin tells nobody anything: whoever left is noticed here.
    let ran = tokio::select! {
        ran = turn.run(window, watch) => ran,
        () = lines.closed() => return,
    };
    let last = match ran {
        Ok(Some(report)) => json!({ "report": report }),
        // Broken off with a reader there: this gateway ends.
        Ok(None) => json!({ "problem": Problem::new(DRAINING, DRAINING.title).document() }),
        Err(error) => json!({ "problem": Problem::from(error).document() }),
    };
    // Nobody reads it any more, or they do: either is fine.
    let _ = lines.send(line(&last)).await;
}

fn line(document: &Value) -> Bytes {
    let mut line = document.to_string();
    line.push('\n');
    line.into()
}
