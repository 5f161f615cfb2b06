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
    serve_looking(listener, transport, handle, router, LOOK).await
}

async fn serve_looking(
    listener: TcpListener,
    transport: Transport,
    handle: Handle<SocketAddr>,
    router: axum::Router,
    look: Duration,
) -> Result<()> {
    let service = router.into_make_service();
    match transport {
        Transport::Plain => axum_server::from_tcp(listener)?.handle(handle).serve(service).await?,
        Transport::Tls(config, certificate, key) => {
            let watcher = tokio::spawn(reload((*config).clone(), certificate, key, look));
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

async fn reload(config: RustlsConfig, certificate: PathBuf, key: PathBuf, look: Duration) {
    let mut seen = changed(&[&certificate, &key]);
    loop {
        tokio::time::sleep(look).await;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Makes a certificate for `localhost` that signs itself, in two files; gives it as a client trusts it.
    fn certify(certificate: &Path, key: &Path) -> reqwest::Certificate {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(certificate, made.cert.pem()).unwrap();
        reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()
    }

    async fn answers(port: u16, trusting: &reqwest::Certificate) -> bool {
        // A client of its own each time: a connection that is kept would go on under the certificate of then.
        let client = reqwest::Client::builder().tls_certs_only([trusting.clone()]).build().unwrap();
        match client.get(format!("https://localhost:{port}/")).send().await {
            Ok(answer) => answer.text().await.unwrap() == "here",
            Err(_) => false,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_certificate_is_served_without_a_restart_and_a_broken_one_leaves_the_old_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let first = certify(&certificate, &key);
        let listen = Listen {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_certificate: Some(certificate.clone()),
            tls_key: Some(key.clone()),
            ..Listen::default()
        };
        let (listener, transport) = bind(&listen).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
        let (stop, look) = (handle(), Duration::from_millis(20));
        let serving = tokio::spawn(serve_looking(listener, transport, (*stop).clone(), router, look));
        assert!(answers(port, &first).await);

        fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
        tokio::time::sleep(look * 10).await;
        assert!(answers(port, &first).await, "a file that cannot be read changes nothing");

        let second = certify(&certificate, &key);
        let patience = tokio::time::Instant::now() + Duration::from_secs(20);
        while !answers(port, &second).await {
            assert!(tokio::time::Instant::now() < patience, "the new certificate is not served");
            tokio::time::sleep(look).await;
        }
        assert!(!answers(port, &first).await);
        stop.shutdown();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn off_loopback_there_is_no_listening_in_the_clear_and_no_key_that_others_read() {
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let refused = |listen: Listen| async move { format!("{:#}", bind(&listen).await.err().unwrap()) };
        assert!(refused(Listen { address, ..Listen::default() }).await.contains("in the clear"));
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        certify(&certificate, &key);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let (tls_certificate, tls_key) = (Some(certificate), Some(key));
        let listen = Listen { address, tls_certificate, tls_key, ..Listen::default() };
        assert!(refused(listen).await.contains("chmod 600"));
        assert!(bind(&Listen { address, insecure: true, ..Listen::default() }).await.is_ok());
    }
}
