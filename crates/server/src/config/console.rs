//! `console {}`: the web console.

use std::path::PathBuf;

use signet_config::Block;

/// The port unless `port` says otherwise.
const PORT: u16 = 8445;

/// The web console's settings; it is off without the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleSettings {
    /// `address`, default `127.0.0.1`: where it listens.
    pub address: String,
    /// `port`, default 8445.
    pub port: u16,
    /// `cert_file_path` and `key_file_path`: its certificate for browsers; the server's own SVID
    /// unless set, which browsers warn of.
    pub files: Option<(PathBuf, PathBuf)>,
    /// `allowed_hosts`, without a port: the names that it answers to. By default `localhost`, and
    /// `address` if that is a single address.
    pub hosts: Vec<String>,
}

impl ConsoleSettings {
    /// The address that people open.
    pub fn url(&self) -> String {
        let host = self.hosts.first().map_or("localhost", String::as_str);
        format!("https://{host}:{}", self.port)
    }
}

/// Reads the block.
pub(super) fn console(server: &Block<'_>) -> Option<ConsoleSettings> {
    let block = server.block("console")?;
    let address = block.text("address").unwrap_or_else(|| "127.0.0.1".to_owned());
    let address = address.trim_matches(['[', ']']).to_owned();
    let port = block.integer::<u16>("port").unwrap_or(PORT);
    let path = |key| block.text(key).map(PathBuf::from);
    let files = match (path("cert_file_path"), path("key_file_path")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            block.missing("key_file_path");
            None
        }
        (None, Some(_)) => {
            block.missing("cert_file_path");
            None
        }
    };
    let mut hosts = block.texts("allowed_hosts");
    if let Some(host) = hosts.iter().find(|host| host.is_empty() || host.contains(['/', ' '])) {
        let message = format_args!("found {host:?}, expected a host name without a port");
        block.error("allowed_hosts", message);
    }
    if hosts.is_empty() {
        hosts.push("localhost".to_owned());
        match address.parse() {
            Ok(std::net::IpAddr::V4(ip)) if !ip.is_unspecified() => hosts.push(ip.to_string()),
            Ok(std::net::IpAddr::V6(ip)) if !ip.is_unspecified() => hosts.push(format!("[{ip}]")),
            Ok(_) => block.warn(
                "allowed_hosts",
                "it is empty: the console answers to localhost alone, whatever address it has",
            ),
            Err(_) => hosts.push(address.to_ascii_lowercase()),
        }
    }
    block.finish();
    Some(ConsoleSettings { address, port, files, hosts })
}
