//! What the program says about itself: structured events on standard error, as text or one JSON object a line.
//!
//! The layer around each request opens the span that carries request id and route, and says instance and entry when it is
//! answered (`gateway/http`). Absent: metrics, which are served.

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::Log;

/// Begins. A second call is an error of the program.
pub(crate) fn begin(log: &Log) -> Result<()> {
    let filter = EnvFilter::try_new(&log.filter).with_context(|| {
        format!("`log.filter` is `{}`: give a level or directives such as `info,countersign=debug`", log.filter)
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(BoxMakeWriter::new(std::io::stderr))
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let begun = if log.json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.with_target(false).try_init()
    };
    begun.map_err(|error| anyhow::anyhow!("logging cannot begin: {error}"))
}
