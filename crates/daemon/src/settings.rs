//! Settings that several programs have, and that name something of SPIFFE.

use signet_config::Block;
use signet_identity::{SpiffeId, TrustDomain};

/// `trust_domain` of `block`, which is required: `text` is what the block or a flag says.
pub fn trust_domain(block: &Block<'_>, text: Option<String>) -> Option<TrustDomain> {
    let text = block.required("trust_domain", text)?;
    match TrustDomain::from_name_or_id(&text) {
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            block.error("trust_domain", format_args!("{text:?}: {error}"));
            None
        }
    }
}

/// That a text is a SPIFFE ID.
///
/// # Errors
/// Why it is none.
pub fn check_spiffe_id(text: &str) -> Result<(), String> {
    text.parse::<SpiffeId>().map(drop).map_err(|error| error.to_string())
}
