//! Listens, serves each connection within limits, and stops in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use super::guard::Guard;
use crate::config::Config;
use crate::service::{Service, StartError};

/// Most bytes of a request's line and headers.
const MAX_HEADERS: usize = 32 << 10;
/// How long a request's headers may take to come.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// Most connections at a time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 8192;
/// Connections that may wait to be accepted: a burst of clients. The kernel has a limit of its own, 4096 by default.
const BACKLOG: u32 = 4096;

/// Why Hydra does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}; choose another with --bind and --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The token cannot be read.
    #[error("cannot read a token from {path}: {error}")]
    Token {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Serves until `stop` has an item; then running invocations end, and every child is gone when this returns. What is waited for
/// then is given up when it has another: first the invocations, then the children, which end with Hydra.
///
/// # Errors
/// [`ServeError`] when it cannot start.
pub async fn serve(config: &Config, mut stop: impl Stream<Item = ()> + Unpin) -> Result<(), ServeError> {
    let token = read_token(config)?;
    let address = SocketAddr::new(config.bind, config.port);
    let listen_error = |error| ServeError::Listen { address, error };
    let listener = listen(address).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let service = Service::start(config)?;
    let guard = Guard::new(token, address, config.network);
    let router = super::router(service.clone(), config.max_requests, config.max_body, guard.clone());
    if !config.bind.is_loopback() && config.token_file.is_none() {
        tracing::warn!(%address, "whoever reaches this address can run code here: consider --token-file");
    }
    tracing::info!(%address, boot_ms = boot_time(config), "Hydra listens");

    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADERS)
        .pipeline_flush(true);
    let connections = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            _ = stop.next() => break,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly out of descriptors: some must be closed first.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (client, routes) = (guard.client(&stream), TowerToHyperService::new(router.clone()));
        let connection = http.serve_connection(
            TokioIo::new(stream),
            service_fn(move |mut request| {
                request.extensions_mut().insert(client);
                routes.call(request)
            }),
        );
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
            drop(permit);
        });
    }
    tracing::info!("stopping: running invocations end first");
    drop(listener);
    tokio::select! {
        () = connections.shutdown() => {}
        () = tokio::time::sleep(config.stop_time) => {
            tracing::warn!("some invocations did not end in time and are given up");
        }
        _ = stop.next() => tracing::warn!("told to stop again: running invocations are given up"),
    }
    tokio::select! {
        () = service.stop() => tracing::info!("stopped"),
        _ = stop.next() => tracing::warn!("told to stop again: sandboxes that have not ended yet end with Hydra"),
    }
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of the Hydra before linger for a while.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

fn read_token(config: &Config) -> Result<Option<String>, ServeError> {
    let Some(path) = &config.token_file else { return Ok(None) };
    let error = |error| ServeError::Token { path: path.clone(), error };
    let text = std::fs::read_to_string(path).map_err(error)?;
    match text.lines().next().map(str::trim) {
        Some(token) if !token.is_empty() => Ok(Some(token.to_owned())),
        _ => Err(error(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty"))),
    }
}

/// Milliseconds from the start of the process, if it was told, until now.
fn boot_time(config: &Config) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis() as u64;
    config.timestamp.map(|started| now.saturating_sub(started))
}
