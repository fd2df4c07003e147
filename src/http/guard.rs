//! Whom Hydra answers: with a token, whoever has it; without one, whoever reaches it, but neither functions in sandboxes nor web pages.
//!
//! Whoever can register functions can run code outside of sandboxes. So a function must not get there by the host's network,
//! and a page in the browser of somebody whose machine Hydra runs on must not either: browsers let any page send such requests.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpStream;

use super::error::ApiError;
use super::peer::Peers;
use crate::config::NetworkPolicy;
use crate::jail::{self, Layer};

/// `Sec-Fetch-Site`, by which browsers say how the page that asks is related to whom it asks.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What decides whether a request is answered.
pub struct Guard {
    token: Option<String>,
    /// Tells sandboxes from others.
    peers: Option<Peers>,
    /// Only those of this host can reach Hydra, so only its names lead there.
    is_local: bool,
}

/// What is known of a client by its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// A function in a jail or a microVM.
    Sandbox,
    /// Anybody else.
    Other,
}

impl Guard {
    /// For a Hydra that listens at `address`, whose functions see such a network.
    pub fn new(token: Option<String>, address: SocketAddr, network: NetworkPolicy) -> Arc<Guard> {
        let mut peers = None;
        if token.is_none() && network == NetworkPolicy::Host {
            if jail::sandbox_user().is_none() {
                warn_of_functions();
            } else {
                // It takes a while to find out.
                std::thread::spawn(|| {
                    if !jail::probe().has(Layer::Identity) {
                        warn_of_functions();
                    }
                });
                match Peers::open() {
                    Ok(opened) => peers = Some(opened),
                    Err(error) => tracing::warn!(
                        %error,
                        "functions' requests to Hydra cannot be told from others': consider --token-file, or --network none"
                    ),
                }
            }
        }
        Arc::new(Guard { token, peers, is_local: address.ip().is_loopback() })
    }

    /// Who is at the other end of a connection.
    pub fn client(&self, stream: &TcpStream) -> Client {
        let Some(peers) = &self.peers else { return Client::Other };
        match (stream.peer_addr(), stream.local_addr()) {
            (Ok(client), Ok(here)) if !peers.is_sandbox(client, here) => Client::Other,
            // Without an address, it is gone.
            _ => Client::Sandbox,
        }
    }

    /// Lets a request pass, or says why not.
    ///
    /// # Errors
    /// The response for one that is refused.
    pub fn check(&self, client: Client, request: &Request) -> Result<(), Box<Response>> {
        let headers = request.headers();
        let refusal = match &self.token {
            Some(token) if is_authorized(headers, token) => return Ok(()),
            Some(_) => unauthorized(),
            None if client == Client::Sandbox => forbidden(
                "functions cannot use the Hydra that runs them, and whose this connection is cannot be told from a function's; where functions are to, \
                 start Hydra with --token-file and give them the token",
            ),
            None => match asks_from_elsewhere(headers, self.is_local, is_change_by_get(request)) {
                None => return Ok(()),
                Some(why) => forbidden(why),
            },
        };
        Err(Box::new(refusal))
    }
}

fn warn_of_functions() {
    tracing::warn!(
        "functions run as Hydra's own user, so their requests cannot be told from others': what they register runs outside of sandboxes; \
         consider --token-file, or --network none"
    );
}

fn is_authorized(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    equal_in_constant_time(given.as_bytes(), token.as_bytes())
}

/// Compares without telling by its time where the first difference is.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn unauthorized() -> Response {
    let error = "the request needs the header 'Authorization: Bearer TOKEN' with this server's token";
    let mut response = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", error).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn forbidden(error: &str) -> Response {
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", error).into_response()
}

/// Whether a request registers a function by `GET`: pages can have that sent in the place of an image, without `Origin`.
fn is_change_by_get(request: &Request) -> bool {
    request.method() == Method::GET && request.uri().path() == "/register"
}

/// Why a request is a web page's, if it is. Whoever asks by `curl` or `ab` has none of these headers but `Host`.
fn asks_from_elsewhere(headers: &HeaderMap, is_local: bool, by_get: bool) -> Option<&'static str> {
    const PAGE: &str =
        "web pages of other sites cannot use this Hydra; start it with --token-file for those who are to";
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    match headers.get(FETCH_SITE).map(HeaderValue::as_bytes) {
        Some(b"same-origin" | b"none") => {}
        Some(_) => return Some(PAGE),
        // Browsers say it where nobody can listen only, but never who they are not.
        None if by_get && headers.get(header::USER_AGENT).is_some_and(is_browser) => return Some(PAGE),
        None => {}
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none() || authority != host {
            return Some(PAGE);
        }
    }
    // A page's own name can be made to lead here, too ("DNS rebinding").
    if is_local && host.is_some_and(|host| !is_name_of_this_host(host)) {
        return Some(
            "this Hydra is for its own machine, but was asked by another name than localhost, an IP address or the machine's; \
             use one of these, or start it with --token-file",
        );
    }
    None
}

fn is_browser(user_agent: &HeaderValue) -> bool {
    user_agent.as_bytes().starts_with(b"Mozilla/")
}

/// Whether the value of a `Host` header can be no name that somebody else has in the DNS: those have a dot.
fn is_name_of_this_host(host: &str) -> bool {
    if host.is_empty() {
        return true;
    }
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_own = || {
        let own = nix::unistd::gethostname().ok();
        own.is_some_and(|own| own.to_str().is_some_and(|own| name.eq_ignore_ascii_case(own)))
    };
    !name.contains('.') && !name.contains(':')
        || address.parse::<std::net::IpAddr>().is_ok()
        || name.ends_with(".localhost")
        || is_own()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn passes(list: &[(&'static str, &'static str)], is_local: bool) -> bool {
        asks_from_elsewhere(&headers(list), is_local, false).is_none()
    }

    #[test]
    fn programs_and_the_own_pages_pass() {
        assert!(passes(&[], true));
        for host in [
            "localhost:8080",
            "127.0.0.1:8080",
            "[::1]:8080",
            "LOCALHOST",
            "a.Localhost",
            "10.1.2.3",
            "hydra:80",
            "0.0.0.0:8080",
            "",
        ] {
            assert!(passes(&[("host", host)], true), "{host}");
        }
        assert!(passes(&[("host", "hydra.example:8080")], false));
        assert!(passes(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")], true));
        assert!(passes(&[("host", "localhost:8080"), ("sec-fetch-site", "none")], true));
    }

    #[test]
    fn pages_of_other_sites_do_not() {
        let host = ("host", "localhost:8080");
        for site in ["cross-site", "same-site", ""] {
            assert!(!passes(&[host, ("sec-fetch-site", site)], false), "{site}");
        }
        for origin in ["null", "http://evil.example", "http://localhost:9090", ""] {
            assert!(!passes(&[host, ("origin", origin)], false), "{origin}");
        }
        for host in
            ["evil.example:8080", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a b"]
        {
            assert!(!passes(&[("host", host)], true), "{host}");
        }
        assert!(!passes(&[("host", "evil.example:8080"), ("origin", "http://evil.example:8080")], true));
    }

    #[test]
    fn no_page_registers_in_the_place_of_an_image() {
        let refused = |list: &[_]| asks_from_elsewhere(&headers(list), false, true).is_some();
        let browser = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)");
        assert!(refused(&[browser]));
        assert!(!refused(&[browser, ("sec-fetch-site", "none")]));
        assert!(!refused(&[("user-agent", "curl/8.5.0")]));
    }

    #[test]
    fn with_a_token_it_alone_counts() {
        let guard = Guard { token: Some("secret".into()), peers: None, is_local: true };
        let with = |value| {
            let mut request = Request::default();
            *request.headers_mut() = headers(&[("authorization", value), ("origin", "http://evil.example")]);
            request
        };
        assert!(guard.check(Client::Sandbox, &with("Bearer secret")).is_ok());
        for wrong in ["Bearer secres", "Bearer secret2", "Bearer ", "secret"] {
            let refused = guard.check(Client::Other, &with(wrong)).expect_err("it is refused");
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{wrong}");
        }
    }
}
