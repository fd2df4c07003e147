//! One download: conditional, bounded in size, time and redirects, written to disk as it comes.
use super::{CodeError, Limits, limits::readable};
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url, header};
use sha2::{Digest, Sha256};
use std::{error::Error, net::IpAddr, path::Path, sync::OnceLock};
use tempfile::{NamedTempFile, TempPath};
use tokio::io::{AsyncWriteExt, BufWriter};

/// What a server said to recognise a version of its file by.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

/// A complete body. Its file is deleted with it.
pub(super) struct Download {
    pub file: TempPath,
    /// SHA-256, in hexadecimal.
    pub digest: String,
    pub validators: Validators,
    /// The answer's `Content-Disposition`.
    pub disposition: Option<String>,
    /// The URL after all redirects.
    pub last: Url,
}

/// Makes downloads; holds connections open between them.
pub(super) struct Downloader {
    limits: Limits,
    /// For plain http to this machine itself: no proxy, and no certificates to load.
    local: OnceLock<Client>,
    /// For https to this machine itself: no proxy.
    local_tls: OnceLock<Client>,
    /// For everything else: with the environment's proxies (`http_proxy`, `https_proxy`, `no_proxy`).
    outward: OnceLock<Client>,
}

impl Downloader {
    pub(super) fn new(limits: &Limits) -> Downloader {
        Downloader {
            limits: limits.clone(),
            local: OnceLock::new(),
            local_tls: OnceLock::new(),
            outward: OnceLock::new(),
        }
    }

    /// Downloads `url` into a file in `folder`; `None` if it is still the version that `known` stands for.
    pub(super) async fn get(
        &self,
        url: &Url,
        known: &Validators,
        folder: &Path,
    ) -> Result<Option<Download>, CodeError> {
        let limit = self.limits.download_time;
        match tokio::time::timeout(limit, self.follow(url, known, folder)).await {
            Ok(answer) => answer,
            Err(_) => Err(CodeError::TooSlow { url: shown(url), limit }),
        }
    }

    /// Redirects are followed here rather than by the client: each hop has its own proxy rule and its own error.
    async fn follow(
        &self,
        url: &Url,
        known: &Validators,
        folder: &Path,
    ) -> Result<Option<Download>, CodeError> {
        let refused = |reason: String| CodeError::Redirect { url: shown(url), reason };
        let mut at = url.clone();
        for _ in 0..=self.limits.redirects {
            let response = self.ask(&at, known).await?;
            let status = response.status();
            if status == StatusCode::OK {
                return self.save(url, &at, response, folder).await.map(Some);
            }
            if status == StatusCode::NOT_MODIFIED && *known != Validators::default() {
                return Ok(None);
            }
            let target = text(&response, header::LOCATION);
            let (true, Some(target)) = (is_redirect(status), target) else {
                return Err(CodeError::Status { url: shown(&at), status: status.to_string() });
            };
            let next = at
                .join(&target)
                .map_err(|error| refused(format!("the redirect to `{target}` is no valid URL ({error})")))?;
            if !["http", "https"].contains(&next.scheme()) {
                return Err(refused(format!(
                    "it redirects to `{}`; only http and https are followed",
                    shown(&next)
                )));
            }
            if at.scheme() == "https" && next.scheme() == "http" {
                return Err(refused(format!(
                    "it redirects from https to `{}`, which anyone on the way could change; give an http URL if that is meant",
                    shown(&next)
                )));
            }
            at = next;
        }
        Err(refused(format!(
            "it redirects more than {} times, the most that is followed",
            self.limits.redirects
        )))
    }

    async fn ask(&self, url: &Url, known: &Validators) -> Result<Response, CodeError> {
        let mut request = self.client(url)?.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
        if let Some(etag) = &known.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if let Some(time) = &known.last_modified {
            request = request.header(header::IF_MODIFIED_SINCE, time);
        }
        request.send().await.map_err(|error| broken(url, &error))
    }

    async fn save(
        &self,
        url: &Url,
        last: &Url,
        response: Response,
        folder: &Path,
    ) -> Result<Download, CodeError> {
        let limit = self.limits.download_bytes;
        let too_large = || CodeError::TooLarge { url: shown(url), limit: readable(limit) };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        if let Some(encoding) =
            text(&response, header::CONTENT_ENCODING).filter(|encoding| encoding != "identity")
        {
            return Err(CodeError::Content {
                url: shown(url),
                expected: "a body as it is (Content-Encoding: identity)".into(),
                found: format!("Content-Encoding: {encoding}"),
            });
        }
        let (validators, disposition) = (validators(&response), text(&response, header::CONTENT_DISPOSITION));
        let failed = |error| CodeError::storage(&shown(url), "writing the download", error);
        let (file, path) = NamedTempFile::new_in(folder).map_err(failed)?.into_parts();
        let mut file = BufWriter::with_capacity(256 << 10, tokio::fs::File::from_std(file));
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut response = response;
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(last, &error))? {
            bytes += chunk.len() as u64;
            if bytes > limit {
                return Err(too_large());
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        // Closes the file only once all that was written has reached it.
        drop(file.into_inner().into_std().await);
        let digest = hex::encode(hash.finalize());
        Ok(Download { file: path, digest, validators, disposition, last: last.clone() })
    }

    fn client(&self, url: &Url) -> Result<Client, CodeError> {
        let (local, tls) = (is_loopback(url), url.scheme() == "https");
        let slot = match (local, tls) {
            (true, false) => &self.local,
            (true, true) => &self.local_tls,
            (false, _) => &self.outward,
        };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        // It is set once for the process. The client wants one for plain http too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = || {
            let base = ClientBuilder::new()
                .user_agent(concat!("hydra/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(self.limits.connect_time);
            if local { base.no_proxy() } else { base }
        };
        let without_roots = || base().tls_certs_only([]).build();
        let client = match (local && !tls).then(without_roots).unwrap_or_else(|| base().build()) {
            // The system has no root certificates, and none are needed. This client is not kept, so that https works
            // as soon as they are installed.
            Err(_) if !tls => return without_roots().map_err(|error| broken(url, &error)),
            client => client.map_err(|error| broken(url, &error))?,
        };
        Ok(slot.get_or_init(|| client).clone())
    }
}

/// The URL for messages and logs: without user and password.
pub(in crate::function) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Only URLs without a host refuse this, and those hold neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

fn text(response: &Response, name: header::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// A time of the same second as the answer is left out: the file could change again within it, unnoticed
/// (RFC 9110, section 8.8.2.2).
fn validators(response: &Response) -> Validators {
    let (time, now) = (text(response, header::LAST_MODIFIED), text(response, header::DATE));
    Validators {
        etag: text(response, header::ETAG),
        last_modified: if now.is_none() || now == time { None } else { time },
    }
}

/// The network's own words are at the end of the chain of causes.
fn broken(url: &Url, error: &reqwest::Error) -> CodeError {
    let mut cause: &dyn Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let reason = match () {
        () if error.is_timeout() => "the connection could not be made in time".into(),
        () if error.is_builder() => format!("{cause}; install ca-certificates or set SSL_CERT_FILE"),
        () if error.is_connect() => format!("cannot connect: {cause}"),
        () if error.is_body() || error.is_decode() => format!("the body broke off: {cause}"),
        () => cause.to_string(),
    };
    CodeError::Transfer { url: shown(url), reason }
}
