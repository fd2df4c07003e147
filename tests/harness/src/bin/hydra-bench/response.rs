//! Where an HTTP response ends in the bytes received.

/// Most headers of a response.
const MAX_HEADERS: usize = 32;

/// A whole response at the beginning of the bytes received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Where its body begins; chunks are not put together.
    pub body: usize,
    /// Its length in bytes, headers and body.
    pub length: usize,
    /// The server closes the connection after it.
    pub closes: bool,
}

/// A server that does not speak HTTP/1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the server's answer is not HTTP/1 with a Content-Length or chunks: {0}")]
pub struct NotHttp(String);

/// The response at the beginning of `bytes`; `None` while it is not whole.
pub fn parse(bytes: &[u8]) -> Result<Option<Response>, NotHttp> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let body = match head.parse(bytes) {
        Ok(httparse::Status::Complete(body)) => body,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(NotHttp(error.to_string())),
    };
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let rest = &bytes[body..];
    let size = if let Some(length) = header("content-length") {
        let length =
            length.trim().parse::<usize>().map_err(|_| NotHttp(format!("Content-Length: {length}")))?;
        (rest.len() >= length).then_some(length)
    } else if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        chunked(rest)?
    } else {
        return Err(NotHttp("it has neither".into()));
    };
    let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let status = head.code.unwrap_or_default();
    Ok(size.map(|size| Response { status, body, length: body + size, closes }))
}

/// The length of a chunked body without trailers, which no server here sends.
fn chunked(bytes: &[u8]) -> Result<Option<usize>, NotHttp> {
    let mut at = 0;
    loop {
        let (header, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(NotHttp("a chunk without a size".into())),
        };
        let size = usize::try_from(size).map_err(|_| NotHttp("a chunk that is too large".into()))?;
        at = at.saturating_add(header).saturating_add(size).saturating_add(2);
        if at > bytes.len() {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grows_to(bytes: &[u8], expected: Response) {
        for end in 0..expected.length {
            assert_eq!(parse(&bytes[..end]), Ok(None), "the first {end} bytes");
        }
        assert_eq!(parse(bytes), Ok(Some(expected)));
    }

    #[test]
    fn a_length_or_chunks_tell_the_end() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP";
        grows_to(bytes, Response { status: 200, body: 38, length: 43, closes: false });
        let bytes =
            b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\nmore";
        grows_to(bytes, Response { status: 500, body: 66, length: 79, closes: true });
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").is_err());
    }
}
