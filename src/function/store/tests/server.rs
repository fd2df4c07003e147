//! A web server on this machine that answers as each test wants, wrongly included.
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// What is sent for a request, in order; then the connection is closed.
pub(super) enum Part {
    Bytes(Vec<u8>),
    /// Goes on once the test says so.
    Wait(Arc<Notify>),
    /// Sends the same bytes until the client goes.
    Endless(Vec<u8>),
    /// Sends nothing more, and leaves the connection open.
    Hang,
}

/// An answer with a body of known length.
pub(super) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<Part> {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    vec![Part::Bytes([head.as_bytes(), body].concat())]
}

pub(super) fn ok(body: &[u8]) -> Vec<Part> {
    answer("200 OK", "", body)
}

/// Bytes as they are.
pub(super) fn verbatim(text: &str) -> Vec<Part> {
    vec![Part::Bytes(text.into())]
}

type Handler = dyn Fn(&str) -> Vec<Part> + Send + Sync;

pub(super) struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server; `handler` sees each request's head, beginning with `GET /path`.
    pub(super) async fn start(handler: impl Fn(&str) -> Vec<Part> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, handler): (_, Arc<Handler>) = (requests.clone(), Arc::new(handler));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, handler.clone(), seen.clone()));
            }
        });
        Server { url, requests, task }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The heads of all requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client that goes away is part of many tests: errors only end the connection.
async fn serve(
    mut stream: TcpStream,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    seen.lock().unwrap().push(head.clone());
    for part in handler(&head) {
        match part {
            Part::Bytes(bytes) => stream.write_all(&bytes).await?,
            Part::Wait(signal) => signal.notified().await,
            Part::Endless(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
            Part::Hang => std::future::pending().await,
        }
    }
    stream.shutdown().await?;
    // Until the client has closed too, or the answer could be lost.
    while stream.read(&mut [0; 512]).await? > 0 {}
    Ok(())
}
