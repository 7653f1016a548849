//! `wit`: WIT-SVIDs without an entry. The commands are there only when the variable
//! `SPIRE_SERVER_FFLAGS` holds `wit-svid`, as in SPIRE.

use std::{path::PathBuf, time::Duration};

use serde_json::json;
use signet_api::pb::spire::api::server::svid::v1::{MintWitsvidRequest, svid_client::SvidClient};
use signet_base::Clock as _;
use signet_daemon::cli::Output;
use signet_pki::{KeyType, PrivateKey, files::write_atomic};
use signet_time::UnixTime;

use super::{
    env::{CliError, CommonFlags, Env},
    text,
};
use signet_base::chain;

/// The variable with the names of features that are switched on, separated by spaces.
const FEATURES_VARIABLE: &str = "SPIRE_SERVER_FFLAGS";
const FEATURE: &str = "wit-svid";

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a key and have a WIT-SVID signed for it, without an entry
    Mint(MintFlags),
}

/// The flags of `wit mint`.
#[derive(Debug, clap::Args)]
pub struct MintFlags {
    /// SPIFFE ID of the SVID
    #[arg(long = "spiffeID", value_name = "ID", required = true)]
    spiffe_id: String,
    /// Type of the key: rsa-2048, rsa-4096, ec-p256 or ec-p384
    #[arg(long = "keyType", value_name = "TYPE", default_value = "ec-p256")]
    key_type: KeyType,
    /// Algorithm that the workload will sign with: ES256, ES384, or RS or PS with 256, 384 or 512
    #[arg(long = "signingAlgorithm", value_name = "NAME", default_value = "ES256")]
    signing_algorithm: String,
    /// How long the SVID is valid, for example 5m; the server's default unless given
    #[arg(long = "ttl", value_name = "DURATION", value_parser = text::duration)]
    ttl: Option<Duration>,
    /// Directory to write the files token and key to, instead of printing them
    #[arg(long = "write", value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(flatten)]
    common: CommonFlags,
}

/// Whether the environment switches the commands on.
pub fn is_on(variable: impl Fn(&str) -> Option<String>) -> bool {
    variable(FEATURES_VARIABLE).is_some_and(|names| names.split(' ').any(|name| name == FEATURE))
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when flags do not fit together, the server cannot be reached or refuses, or the
/// output cannot be written.
pub async fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    let Command::Mint(flags) = command;
    let id = text::parse_id("spiffeID", &flags.spiffe_id)?;
    let ttl = text::ttl_seconds(flags.ttl)?;
    check_algorithm(flags.key_type, &flags.signing_algorithm)?;
    let failed =
        |error: &dyn std::error::Error| CliError::failed(format!("making a key: {}", chain(error)));
    let key = PrivateKey::generate(flags.key_type).map_err(|error| failed(&error))?;
    let jwk = key.to_jwk().map_err(|error| failed(&error))?;

    let request = MintWitsvidRequest {
        id: Some(id),
        public_key: key.public_key().spki_der().to_vec().into(),
        ttl,
        signing_algorithm: flags.signing_algorithm,
    };
    let mut client = SvidClient::new(env.connect(&flags.common.socket).await?);
    let response = client.mint_witsvid(request).await;
    let response = response.map_err(CliError::call("unable to mint SVID"))?.into_inner();
    let svid = response.svid.filter(|svid| !svid.token.is_empty());
    let svid = svid.ok_or_else(|| CliError::failed("server response missing token"))?;
    if UnixTime::from_seconds(svid.expires_at) - signet_base::SystemClock.unix() < i64::from(ttl) {
        env.complain(format_args!(
            "WIT-SVID lifetime was capped shorter than specified ttl; expires \"{}\"",
            text::rfc3339(svid.expires_at)
        ))?;
    }
    match (&flags.write, flags.common.output) {
        (Some(dir), _) => {
            for (file, content, what, title) in [
                ("token", svid.token.as_str(), "token", "WIT-SVID"),
                ("key", jwk.as_str(), "key", "Private key"),
            ] {
                let path = dir.join(file);
                write_atomic(&path, content.as_bytes(), 0o600).map_err(|error| {
                    CliError::failed(format!("unable to write {what}: {}", chain(&error)))
                })?;
                env.line(format_args!("{title} written to {}", path.display()))?;
            }
            Ok(())
        }
        (None, Output::Json) => {
            let id = svid.id.unwrap_or_default();
            let mut shown = json!({
                "token": svid.token,
                "id": {"trust_domain": id.trust_domain, "path": id.path},
                "expires_at": svid.expires_at,
                "issued_at": svid.issued_at,
            });
            if !svid.hint.is_empty()
                && let Some(shown) = shown.as_object_mut()
            {
                shown.insert("hint".to_owned(), svid.hint.into());
            }
            env.json_value(&json!({"private_key": *jwk, "svid": shown}))
        }
        (None, Output::Pretty) => {
            env.line(&svid.token)?;
            env.line(&*jwk)
        }
    }
}

/// A key can sign with the algorithms of its kind only.
fn check_algorithm(key_type: KeyType, algorithm: &str) -> Result<(), CliError> {
    let fits = match algorithm {
        "ES256" => key_type == KeyType::EcP256,
        "ES384" => key_type == KeyType::EcP384,
        "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => {
            matches!(key_type, KeyType::Rsa2048 | KeyType::Rsa4096)
        }
        _ => {
            return Err(CliError::usage(format!(
                "-signingAlgorithm: unsupported signing algorithm: {algorithm}"
            )));
        }
    };
    if fits {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "-keyType: unsupported key type '{key_type}' for '{algorithm}' signing algorithm"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feature_is_one_of_the_names_between_spaces() {
        let on = |value: Option<&str>| {
            is_on(|name| value.filter(|_| name == "SPIRE_SERVER_FFLAGS").map(ToOwned::to_owned))
        };
        assert!(on(Some("wit-svid")) && on(Some("a wit-svid b")) && on(Some(" wit-svid")));
        for off in [None, Some(""), Some("wit-svids"), Some("a,wit-svid"), Some("WIT-SVID")] {
            assert!(!on(off), "{off:?}");
        }
    }

    #[test]
    fn a_key_signs_with_the_algorithms_of_its_kind_only() {
        let fits = |key: &str, name: &str| check_algorithm(key.parse().unwrap(), name).is_ok();
        assert!(fits("ec-p256", "ES256") && fits("ec-p384", "ES384"));
        assert!(fits("rsa-2048", "RS256") && fits("rsa-4096", "PS512"));
        for (key, name) in [
            ("ec-p256", "ES384"),
            ("ec-p384", "RS256"),
            ("rsa-2048", "ES256"),
            ("ec-p256", "EdDSA"),
            ("ec-p256", "none"),
        ] {
            assert!(!fits(key, name), "{key} {name}");
        }
    }
}
