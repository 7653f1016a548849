//! `oidc_discovery_provider {}`: the documents by which others verify JWT-SVIDs, served by the
//! server itself.

use signet_config::Block;
use signet_oidc::config::{Serving, serving};

/// Reads the block. Its issuer is the server's `jwt_issuer`: what tokens say and what is served must
/// be the same, byte for byte.
pub(super) fn provider(server: &Block<'_>, jwt_issuer: Option<&str>) -> Option<Serving> {
    let block = server.block("oidc_discovery_provider")?;
    let mut serving = serving(&block);
    let own = block.text("jwt_issuer");
    match (jwt_issuer, own) {
        (Some(issuer), Some(own)) if own != issuer => {
            let message = format!(
                "found {own:?}, expected {issuer:?}, byte for byte, as jwt_issuer in server {{}} \
                 has it and the tokens say"
            );
            block.error("jwt_issuer", message);
        }
        (Some(issuer), None) => match issuer.parse() {
            Ok(issuer) => {
                if let Some(serving) = &mut serving {
                    serving.settings.jwt_issuer = Some(issuer);
                }
            }
            Err(error) => server.error("jwt_issuer", format_args!("{issuer:?}: {error}")),
        },
        (None, _) => block.warn(
            "jwt_issuer",
            "jwt_issuer is not set in server {}, so that tokens name no issuer: relying parties \
             refuse them",
        ),
        (Some(_), Some(_)) => {}
    }
    block.finish();
    serving
}
