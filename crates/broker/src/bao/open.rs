//! A client as the configuration has it.

use anyhow::Context as _;
use signet_http::{HttpClient, Trust};

use super::Bao;
use crate::config::OpenBao;

/// A client of OpenBao as the configuration has it.
///
/// # Errors
/// When the roots cannot be read.
pub fn open(config: &OpenBao) -> anyhow::Result<Bao> {
    let mut http = HttpClient::builder().timeout(config.timeout).keep_alive();
    if let Some(path) = &config.ca_file {
        http = http.trust(Trust::file(path)?);
    }
    let http = http.build().context("setting up TLS to OpenBao")?;
    Ok(Bao::new(&http, config.addresses.clone(), config.timeout))
}
