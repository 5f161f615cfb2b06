//! The one way out of a sandbox in network mode `gateway`: a socket of the run, relayed to the gateway alone.
//!
//! The workload never sees the gateway's own socket: the relay connects anew for each connection, so a gateway that
//! restarts is reached again. It knows no HTTP and adds nothing. Threads start after the sandbox was forked.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::spec::{GatewayEndpoint, Level, SOCKET};

/// Connections at one time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;

/// A listener that waits to be served.
pub(crate) enum Relay {
    /// In the folder `net` of the run.
    Unix(UnixListener, GatewayEndpoint),
    /// On loopback, for level L1, where a workload may open no Unix sockets.
    Tcp(TcpListener, GatewayEndpoint),
    /// None needed: Landlock lets the workload connect to the gateway's port itself.
    Direct(SocketAddr),
}

impl Relay {
    /// Prepares the way out. The working directory is the run's folder: the path of a socket may not be long.
    pub(crate) fn open(level: Level, gateway: &GatewayEndpoint) -> io::Result<Self> {
        if level >= Level::L2 {
            let path = Path::new("net").join(SOCKET);
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
            return Ok(Self::Unix(listener, gateway.clone()));
        }
        match gateway {
            GatewayEndpoint::Tcp(address) => Ok(Self::Direct(*address)),
            GatewayEndpoint::Unix(_) => Ok(Self::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, gateway.clone())),
        }
    }

    /// The address that the workload connects to, where it is no socket in the sandbox.
    pub(crate) fn address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Unix(..) => Ok(None),
            Self::Tcp(listener, _) => listener.local_addr().map(Some),
            Self::Direct(address) => Ok(Some(*address)),
        }
    }

    /// Serves until the process ends.
    pub(crate) fn serve(self) {
        match self {
            Self::Direct(_) => {}
            Self::Unix(listener, gateway) => accept(gateway, move || listener.accept().map(|(s, _)| Conn::Unix(s))),
            Self::Tcp(listener, gateway) => accept(gateway, move || listener.accept().map(|(s, _)| Conn::Tcp(s))),
        }
    }
}

enum Conn {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Conn {
    fn connect(gateway: &GatewayEndpoint) -> io::Result<Self> {
        match gateway {
            GatewayEndpoint::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            GatewayEndpoint::Tcp(address) => {
                TcpStream::connect_timeout(address, Duration::from_secs(10)).map(Self::Tcp)
            }
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    fn shutdown(&self, how: Shutdown) {
        // A peer that is gone needs no notice.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        };
    }
}

impl Read for Conn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Conn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
        }
    }
}

fn accept(gateway: GatewayEndpoint, next: impl Fn() -> io::Result<Conn> + Send + 'static) {
    let gateway = Arc::new(gateway);
    let open = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        loop {
            while open.load(Ordering::Acquire) >= MAX_CONNECTIONS {
                thread::sleep(Duration::from_millis(5));
            }
            let Ok(inside) = next() else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            open.fetch_add(1, Ordering::AcqRel);
            let (gateway, open) = (Arc::clone(&gateway), Arc::clone(&open));
            thread::spawn(move || {
                // A gateway that does not answer shows inside as a connection that closes.
                let _ = join(inside, &gateway);
                open.fetch_sub(1, Ordering::AcqRel);
            });
        }
    });
}

fn join(inside: Conn, gateway: &GatewayEndpoint) -> io::Result<()> {
    let outside = Conn::connect(gateway)?;
    let (mut from_inside, mut to_outside) = (inside.try_clone()?, outside.try_clone()?);
    let (mut from_outside, mut to_inside) = (outside, inside);
    let upward = thread::spawn(move || {
        let _ = io::copy(&mut from_inside, &mut to_outside);
        to_outside.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut from_outside, &mut to_inside);
    to_inside.shutdown(Shutdown::Both);
    let _ = upward.join();
    Ok(())
}
