//! Listening: plain HTTP on loopback, TLS elsewhere, a drain at the end.
//!
//! Off loopback a credential must not travel in the clear: without a certificate the program refuses to listen, unless it
//! is told that something in front of it ends TLS. Certificate and key are read again when their files change.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Listen;

/// How often the certificate's files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// How to listen.
pub(crate) enum Transport {
    /// In the clear.
    Plain,
    /// TLS with these files.
    Tls(Box<RustlsConfig>, PathBuf, PathBuf),
}

/// Takes the address, and decides how to speak there.
pub(crate) async fn bind(listen: &Listen) -> Result<(TcpListener, Transport)> {
    let transport = match (&listen.tls_certificate, &listen.tls_key) {
        (Some(certificate), Some(key)) => {
            // Two providers may be compiled in; this program's is named, once.
            let _ = rustls::crypto::ring::default_provider().install_default();
            check_key_file(key)?;
            let config = RustlsConfig::from_pem_file(certificate, key).await.with_context(|| {
                format!(
                    "`{}` and `{}` are no certificate and key that belong together",
                    certificate.display(),
                    key.display()
                )
            })?;
            Transport::Tls(Box::new(config), certificate.clone(), key.clone())
        }
        _ if listen.address.ip().is_loopback() || listen.insecure => Transport::Plain,
        _ => bail!(
            "`{}` is not loopback: credentials would travel in the clear. Set `listen.tls_certificate` and `listen.tls_key`, \
             or `listen.insecure` (--insecure-listen) where something in front ends TLS",
            listen.address
        ),
    };
    let listener = TcpListener::bind(listen.address).with_context(|| {
        format!("cannot listen on `{}`: is another gateway there? choose another with --listen", listen.address)
    })?;
    listener.set_nonblocking(true)?;
    Ok((listener, transport))
}

fn check_key_file(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let meta = std::fs::metadata(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        bail!("`{}` may be read by everybody (mode {mode:o}): `chmod 600` it", path.display());
    }
    Ok(())
}

/// Serves until `handle` is told to stop. Requests under way get until its deadline.
pub(crate) async fn serve(
    listener: TcpListener,
    transport: Transport,
    handle: Handle<SocketAddr>,
    router: axum::Router,
) -> Result<()> {
    let service = router.into_make_service();
    match transport {
        Transport::Plain => axum_server::from_tcp(listener)?.handle(handle).serve(service).await?,
        Transport::Tls(config, certificate, key) => {
            let watcher = tokio::spawn(reload((*config).clone(), certificate, key));
            let served = axum_server::from_tcp_rustls(listener, *config)?.handle(handle).serve(service).await;
            watcher.abort();
            served?;
        }
    }
    Ok(())
}

fn changed(paths: &[&Path]) -> Vec<Option<SystemTime>> {
    paths.iter().map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}

async fn reload(config: RustlsConfig, certificate: PathBuf, key: PathBuf) {
    let mut seen = changed(&[&certificate, &key]);
    loop {
        tokio::time::sleep(LOOK).await;
        let now = changed(&[&certificate, &key]);
        if now == seen {
            continue;
        }
        match config.reload_from_pem_file(&certificate, &key).await {
            Ok(()) => {
                tracing::info!(certificate = %certificate.display(), "certificate read again");
                seen = now;
            }
            // The old one stays in force; the files may be half written, so they are looked at again.
            Err(error) => tracing::warn!(%error, certificate = %certificate.display(), "certificate not read again"),
        }
    }
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn asked_to_end() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// A handle that others tell to stop.
pub(crate) fn handle() -> Arc<Handle<SocketAddr>> {
    Arc::new(Handle::new())
}
