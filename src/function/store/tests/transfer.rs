//! What comes over the network: right, wrong, too much, too slow.
use super::{server::*, *};
use sha2::{Digest, Sha256};
use std::{os::unix::fs::PermissionsExt, time::Duration};

/// The error for this answer to `GET /f.py`; nothing may be left of it.
async fn error(limits: Limits, parts: impl Fn(&str) -> Vec<Part> + Send + Sync + 'static) -> CodeError {
    let server = Server::start(parts).await;
    let (store, folder) = store(limits);
    let error = store.fetch(&server.url("/f.py")).await.expect_err("must fail");
    assert!(!error.is_internal(), "{error}");
    assert_eq!((digests(folder.path()), partial(folder.path()).len()), (0, 0));
    error
}

fn has(error: &CodeError, words: &str) {
    assert!(error.to_string().contains(words), "`{error}` does not say `{words}`");
}

#[tokio::test]
async fn one_file_is_stored_by_its_name_without_write_permission() {
    let server = Server::start(|_| ok(HELLO)).await;
    let (store, _folder) = store(Limits::default());
    let code = store.fetch(&server.url("/some/hello.py?version=1#x")).await.unwrap();
    assert_eq!(code.form, Form::Python);
    assert_eq!(code.digest, hex::encode(Sha256::digest(HELLO)));
    let entry = code.entry.unwrap();
    assert_eq!(entry, code.root.join("hello.py"));
    assert_eq!(fs::read(&entry).unwrap(), HELLO);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&code.root), mode(&entry)), (0o555, 0o444));
    assert_eq!(fs::read_dir(&code.root).unwrap().count(), 1);
    // The same bytes under another name are another module.
    let other = store.fetch(&server.url("/other.py")).await.unwrap();
    assert_eq!(other.digest, code.digest);
    assert_eq!(other.entry.unwrap(), other.root.join("other.py"));
    assert!(entry.exists());
}

#[tokio::test]
async fn an_archive_becomes_a_tree() {
    let archive = zip(&[("main.py", HELLO), ("lib/x.py", b"x = 1")]);
    let server = Server::start(move |_| ok(&archive)).await;
    let (store, _folder) = store(Limits::default());
    let code = store.fetch(&server.url("/app.zip")).await.unwrap();
    assert_eq!((code.form, &code.entry), (Form::Tree, &None));
    assert_eq!(fs::read(code.root.join("main.py")).unwrap(), HELLO);
    let jar = store.fetch(&server.url("/app.jar")).await.unwrap();
    assert_eq!((jar.form, jar.entry), (Form::Jar, Some(jar.root.join("app.jar"))));
}

#[tokio::test]
async fn chunks_are_put_together() {
    let server = Server::start(|_| {
        verbatim("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nx = \r\n3\r\n\"y\"\r\n0\r\n\r\n")
    })
    .await;
    let (store, _folder) = store(Limits::default());
    let code = store.fetch(&server.url("/f.py")).await.unwrap();
    assert_eq!(fs::read(code.entry.unwrap()).unwrap(), b"x = \"y\"");
}

#[tokio::test]
async fn broken_transfers_are_not_stored() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx = 1",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nx = \r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: minus\r\n\r\nx = 1",
        "nonsense\r\n\r\n",
        "",
    ] {
        let error = error(Limits::default(), move |_| verbatim(head)).await;
        assert!(matches!(error, CodeError::Transfer { .. }), "{head:?}: {error}");
    }
}

#[tokio::test]
async fn other_answers_are_named() {
    for status in [
        "404 Not Found",
        "500 Internal Server Error",
        "204 No Content",
        "304 Not Modified",
        "300 Multiple Choices",
    ] {
        let error = error(Limits::default(), move |_| answer(status, "", b"")).await;
        has(&error, &format!("the server answered {status}, 200 was expected"));
    }
    let page = error(Limits::default(), |_| ok(b"<!doctype html><h1>Sorry</h1>")).await;
    has(&page, "Python source text (.py) was expected, found an HTML page");
    let packed =
        error(Limits::default(), |_| answer("200 OK", "Content-Encoding: gzip\r\n", b"\x1f\x8b")).await;
    has(&packed, "found Content-Encoding: gzip");
}

#[tokio::test]
async fn too_large_is_noticed_early_and_late() {
    let limits = Limits { download_bytes: 1000, ..Limits::default() };
    let announced =
        error(limits.clone(), |_| verbatim("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")).await;
    has(&announced, "larger than 1000 bytes");
    let endless = error(limits.clone(), |_| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        vec![Part::Bytes(head), Part::Endless(b"10\r\n0123456789abcdef\r\n".to_vec())]
    })
    .await;
    has(&endless, "larger than 1000 bytes");
    let exact = vec![b'#'; 1000];
    let server = Server::start(move |_| ok(&exact)).await;
    store(limits).0.fetch(&server.url("/f.py")).await.unwrap();
}

#[tokio::test]
async fn too_slow_is_ended() {
    let limits = Limits { download_time: Duration::from_millis(50), ..Limits::default() };
    let silent = error(limits.clone(), |_| vec![Part::Hang]).await;
    has(&silent, "not complete after 0.05 seconds");
    let stuck = error(limits, |_| {
        vec![Part::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx".to_vec()), Part::Hang]
    })
    .await;
    assert!(matches!(stuck, CodeError::TooSlow { .. }));
}

#[tokio::test]
async fn redirects_are_followed_within_bounds() {
    let server = Server::start(|request| match request.split(' ').nth(1) {
        Some("/f.py") => answer("302 Found", "Location: here/?x\r\n", b""),
        Some("/here/?x") => answer("308 Permanent Redirect", "Location: /last\r\n", b""),
        _ => ok(HELLO),
    })
    .await;
    let code = store(Limits::default()).0.fetch(&server.url("/f.py")).await.unwrap();
    assert_eq!(code.entry.unwrap().file_name().unwrap(), "f.py");

    let round = error(Limits::default(), |_| answer("302 Found", "Location: /f.py\r\n", b"")).await;
    has(&round, "redirects more than 5 times");
    for (target, words) in [
        ("file:///etc/passwd", "redirects to `file:///etc/passwd`; only http and https"),
        ("ftp://h/f.py", "only http and https"),
        ("http://[", "no valid URL"),
    ] {
        has(
            &error(Limits::default(), move |_| {
                answer("301 Moved Permanently", &format!("Location: {target}\r\n"), b"")
            })
            .await,
            words,
        );
    }
    has(&error(Limits::default(), |_| answer("302 Found", "", b"")).await, "answered 302 Found");
}

#[tokio::test]
async fn a_name_may_come_from_the_server() {
    let header = "Content-Disposition: attachment; filename=\"../hello.py\"\r\n";
    let server = Server::start(move |_| answer("200 OK", header, HELLO)).await;
    let code = store(Limits::default()).0.fetch(&server.url("/get?id=7")).await.unwrap();
    assert_eq!(code.entry.unwrap(), code.root.join("hello.py"));
}

#[tokio::test]
async fn urls_that_cannot_be_used_are_refused() {
    let (store, _folder) = store(Limits::default());
    for (url, words) in [
        ("", "relative URL without a base"),
        ("hello.py", "relative URL without a base"),
        ("file:///etc/passwd", "`file` is not supported; give an http or https URL"),
        ("http://", "empty host"),
    ] {
        let error = store.fetch(url).await.unwrap_err();
        assert!(matches!(error, CodeError::Url { .. }));
        has(&error, words);
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = store.fetch(&format!("http://user:secret@{closed}/f.py")).await.unwrap_err();
    has(&error, "cannot connect: Connection refused");
    assert!(!error.to_string().contains("secret"));
    let error = store.fetch("http://user:secret@[/f.py").await.unwrap_err();
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test]
async fn https_is_checked() {
    // The server speaks no TLS: it suffices to see that ours was spoken to it, and that its answer was not taken.
    let server = Server::start(|_| ok(HELLO)).await;
    let url = server.url("/f.py").replace("http:", "https:");
    let limits = Limits { download_time: Duration::from_secs(1), ..Limits::default() };
    assert!(!store(limits).0.fetch(&url).await.unwrap_err().is_internal());
}
