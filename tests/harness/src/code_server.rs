//! A web server on the loopback for functions' code, input data and uploads.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// Most bytes of an upload.
const MAX_UPLOAD: usize = 64 << 20;

/// Serves a folder at `/` with `ETag` and `Last-Modified`, answers conditional requests, and takes uploads:
/// `PUT` or `POST` to `/upload/NAME` is answered 201 with `{"name", "bytes", "sha256"}`. Ends when it is dropped.
pub struct CodeServer {
    base: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl CodeServer {
    /// Serves the files of `folder`, as they are at the time of each request, on a free port.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let shared = Arc::new(Shared { folder: folder.into(), counts: Mutex::default() });
        let routes = Router::new()
            .route("/upload/{name}", put(upload).post(upload))
            .route("/{*path}", get(file))
            .layer(DefaultBodyLimit::max(MAX_UPLOAD))
            .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), count))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let base = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(async move {
            // `serve` ends only when its task is aborted.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { base, shared, task })
    }

    /// The URL of the server, without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The URL of a file of the folder.
    pub fn url(&self, file: &str) -> String {
        format!("{}/{file}", self.base)
    }

    /// How many requests for `path` (with its leading slash) were answered, in any way.
    pub fn requests(&self, path: &str) -> u64 {
        self.shared.counts().get(path).map_or(0, |count| count.requests)
    }

    /// How many requests for `path` were answered with a body: those that a conditional request did not save.
    pub fn downloads(&self, path: &str) -> u64 {
        self.shared.counts().get(path).map_or(0, |count| count.downloads)
    }
}

impl Drop for CodeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    folder: PathBuf,
    counts: Mutex<HashMap<String, Count>>,
}

impl Shared {
    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<String, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Count {
    requests: u64,
    downloads: u64,
}

async fn count(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let response = next.run(request).await;
    let mut counts = shared.counts();
    let count = counts.entry(uri.path().to_owned()).or_default();
    count.requests += 1;
    count.downloads += u64::from(method == Method::GET && response.status() == StatusCode::OK);
    drop(counts);
    response
}

async fn file(
    State(shared): State<Arc<Shared>>,
    UrlPath(path): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    let path = Path::new(&path);
    if !path.components().all(|component| matches!(component, Component::Normal(_))) {
        return StatusCode::NOT_FOUND.into_response();
    }
    match read(&shared.folder.join(path)).await {
        Ok((bytes, modified)) => answer(bytes, modified, &headers),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn read(path: &Path) -> io::Result<(Vec<u8>, SystemTime)> {
    let modified = tokio::fs::metadata(path).await?.modified()?;
    Ok((tokio::fs::read(path).await?, modified))
}

fn answer(bytes: Vec<u8>, modified: SystemTime, request: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", hex::encode(Sha256::digest(&bytes)));
    let validators =
        [(header::ETAG, etag.clone()), (header::LAST_MODIFIED, httpdate::fmt_http_date(modified))];
    if is_unchanged(&etag, modified, request) {
        return (StatusCode::NOT_MODIFIED, validators).into_response();
    }
    (validators, bytes).into_response()
}

/// Whether a conditional request (RFC 9110, section 13) already has what it asks for.
fn is_unchanged(etag: &str, modified: SystemTime, request: &HeaderMap) -> bool {
    let text = |name| request.get(name).and_then(|value| value.to_str().ok());
    if let Some(known) = text(header::IF_NONE_MATCH) {
        // If-None-Match rules: If-Modified-Since is not looked at beside it.
        return known.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
    }
    let Some(since) = text(header::IF_MODIFIED_SINCE).and_then(|date| httpdate::parse_http_date(date).ok())
    else {
        return false;
    };
    // HTTP's dates have whole seconds.
    let whole = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    whole(modified) <= whole(since)
}

async fn upload(UrlPath(name): UrlPath<String>, body: Bytes) -> Response {
    let receipt = serde_json::json!({
        "name": name,
        "bytes": body.len(),
        "sha256": hex::encode(Sha256::digest(&body)),
    });
    (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], receipt.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn serving(name: &str, content: &str) -> (tempfile::TempDir, CodeServer, reqwest::Client) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        let server = CodeServer::start(folder.path()).await.unwrap();
        (folder, server, crate::plain_http().build().unwrap())
    }

    #[tokio::test]
    async fn serves_files_and_answers_conditional_requests() {
        let (folder, server, http) = serving("a b.txt", "first").await;
        let url = server.url("a%20b.txt");
        let first = http.get(&url).send().await.unwrap();
        let etag = first.headers()[header::ETAG].clone();
        let modified = first.headers()[header::LAST_MODIFIED].clone();
        assert_eq!(first.text().await.unwrap(), "first");

        let known = http.get(&url).header(header::IF_NONE_MATCH, &etag).send().await.unwrap();
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
        let known = http.get(&url).header(header::IF_MODIFIED_SINCE, &modified).send().await.unwrap();
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
        assert_eq!((server.requests("/a%20b.txt"), server.downloads("/a%20b.txt")), (3, 1));

        std::fs::write(folder.path().join("a b.txt"), "second").unwrap();
        // The tag rules, even where the date would not tell the two apart.
        let changed = http
            .get(&url)
            .header(header::IF_NONE_MATCH, &etag)
            .header(header::IF_MODIFIED_SINCE, httpdate::fmt_http_date(SystemTime::now()))
            .send()
            .await
            .unwrap();
        assert_eq!(changed.text().await.unwrap(), "second");
        assert_eq!(server.downloads("/a%20b.txt"), 2);
    }

    #[tokio::test]
    async fn answers_404_for_what_is_not_in_its_folder() {
        let (folder, server, http) = serving("inside", "x").await;
        std::fs::write(folder.path().parent().unwrap().join("hydra-outside"), "secret").ok();
        for path in ["none", "..%2Fhydra-outside", "%2Fetc%2Fpasswd", "inside%2F..%2F..%2Fhydra-outside"] {
            let response = http.get(server.url(path)).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        }
        std::fs::remove_file(folder.path().parent().unwrap().join("hydra-outside")).ok();
    }

    #[tokio::test]
    async fn takes_uploads() {
        let (_folder, server, http) = serving("x", "").await;
        for method in [Method::PUT, Method::POST] {
            let response =
                http.request(method, server.url("upload/picture.png")).body("abc").send().await.unwrap();
            assert_eq!(response.status(), StatusCode::CREATED);
            let receipt: serde_json::Value = response.json().await.unwrap();
            // The digest of "abc" is the first test vector of FIPS 180.
            let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            assert_eq!(receipt, serde_json::json!({"name": "picture.png", "bytes": 3, "sha256": sha256}));
        }
        assert_eq!(server.requests("/upload/picture.png"), 2);
    }
}
