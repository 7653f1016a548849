//! Asking over plain HTTP.

use std::{
    io::{Error, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A GET on a connection of its own: the status and the body.
///
/// # Errors
/// A sentence, when there is no answer.
pub fn get(port: u16, path: &str) -> Result<(u16, String), String> {
    get_with(port, path, &[])
}

/// [`get`] with more headers, each as `Name: value`.
///
/// # Errors
/// A sentence, when there is no answer.
pub fn get_with(port: u16, path: &str, headers: &[&str]) -> Result<(u16, String), String> {
    let mut stream = connect(port).map_err(|error| error.to_string())?;
    ask(&mut stream, "GET", path, headers, "")
}

/// A connection that does not wait for ever.
pub(crate) fn connect(port: u16) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request on a connection that is for it alone: the status and the body.
pub(crate) fn ask(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Result<(u16, String), String> {
    let failed = |e: Error| e.to_string();
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // Many servers end TLS without its closing words.
    if let Err(error) = read
        && (error.kind() != std::io::ErrorKind::UnexpectedEof || answer.is_empty())
    {
        return Err(failed(error));
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("no answer but {answer:?}"))?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if is_chunked { unchunked(body) } else { body.to_owned() }))
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || rest.len() < size {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}
