//! `second_jwt_key {}`: a JWT key of another algorithm, for the audiences that want it.

use signet_authority::{AudiencePattern, SecondJwtOptions};
use signet_config::Block;
use signet_pki::KeyType;

/// How many patterns of audiences there may be: each JWT-SVID is held against all of them.
const MAX_AUDIENCES: usize = 1000;

/// Reads the block; `first` is the `jwt_key_type`.
pub(super) fn second_jwt_key(server: &Block<'_>, first: KeyType) -> Option<SecondJwtOptions> {
    let block = server.block("second_jwt_key")?;
    let key_type = block.parsed::<KeyType>("key_type");
    if block.pos_of("key_type").is_none() {
        block.missing("key_type");
    }
    let texts = block.texts("audiences");
    match texts.len() {
        0 => block.missing("audiences"),
        1..=MAX_AUDIENCES => {}
        found => {
            block.error("audiences", format_args!("found {found}, expected up to {MAX_AUDIENCES}"));
        }
    }
    let audiences = texts.iter().filter_map(|text| match text.parse::<AudiencePattern>() {
        Ok(audience) => Some(audience),
        Err(error) => {
            block.error("audiences", format_args!("{text:?}: {error}"));
            None
        }
    });
    let audiences = audiences.collect();
    if let Some(second) = key_type.filter(|second| algorithm(*second) == algorithm(first)) {
        let (algorithm, first) = (algorithm(second), first.as_str());
        block.error(
            "key_type",
            format_args!(
                "found {second}, expected a key that does not sign by {algorithm}, as the first \
                 one does (jwt_key_type, {first})"
            ),
        );
    }
    block.finish();
    Some(SecondJwtOptions { key_type: key_type?, audiences })
}

/// By what a JWT key of this kind signs.
fn algorithm(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::EcP256 => "ES256",
        KeyType::EcP384 => "ES384",
        KeyType::Rsa2048 | KeyType::Rsa4096 => "RS256",
    }
}
