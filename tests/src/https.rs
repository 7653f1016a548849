//! Asking over HTTPS, as one who believes certain authorities or looks at what is presented.

use std::{path::Path, sync::Arc};

use rustls::{ClientConnection, Stream, pki_types::ServerName};
use signet_base::SystemClock;
use signet_pki::{
    pem,
    tls::{WebCheck, web_client_config},
    x509::Certificate,
};

use crate::http;

/// What a server on this machine presented and answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its certificate.
    pub leaf: Certificate,
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Asks the server that is `localhost` on that port. With a file of authorities (PEM) it must have a
/// certificate of theirs; without one any will do.
///
/// # Errors
/// A sentence, when there is no connection or no answer.
pub fn ask(
    port: u16,
    roots: Option<&Path>,
    (method, path, body): (&str, &str, &str),
) -> Result<Answer, String> {
    let roots = match roots {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
            pem::decode_certificates(&text).map_err(|error| error.to_string())?
        }
        None => Vec::new(),
    };
    let check = if roots.is_empty() { WebCheck::Nothing } else { WebCheck::ChainAndName };
    let config = web_client_config(check, &roots, None, Arc::new(SystemClock));
    let config = config.map_err(|error| error.to_string())?;
    let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
    let mut tls = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
    let mut tcp = http::connect(port).map_err(|error| error.to_string())?;
    let headers = ["User-Agent: e2e"];
    let answered = http::ask(&mut Stream::new(&mut tls, &mut tcp), method, path, &headers, body);
    let (status, body) = answered?;
    let presented = tls.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?;
    let leaf = Certificate::from_der(presented).map_err(|error| error.to_string())?;
    Ok(Answer { leaf, status, body })
}

/// [`ask`] for `path`.
///
/// # Errors
/// As [`ask`].
pub fn get(port: u16, path: &str, roots: Option<&Path>) -> Result<Answer, String> {
    ask(port, roots, ("GET", path, ""))
}
