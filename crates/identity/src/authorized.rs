//! Which entries an agent is authorised for.

/// The index of authorised entries.
#[derive(Debug, Default)]
pub struct AuthorizedIndex;
