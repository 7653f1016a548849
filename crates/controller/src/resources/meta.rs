//! What is kept of an object's metadata.

use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Metadata as it is sent; what is not named here is skipped.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawMeta {
    /// The name.
    pub name: String,
    /// The namespace, of what has one.
    pub namespace: String,
    /// The unique ID.
    pub uid: String,
    /// Grows with each change of the specification.
    pub generation: i64,
    /// When it was created, RFC 3339.
    pub creation_timestamp: Option<String>,
    /// When it was asked to go, RFC 3339.
    pub deletion_timestamp: Option<String>,
}

/// Metadata that decides which of two resources goes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The name.
    pub name: String,
    /// The unique ID.
    pub uid: String,
    /// The generation of the specification.
    pub generation: i64,
    /// When it was created, nanoseconds since 1970.
    pub created: i128,
    /// When it was asked to go.
    pub deleted: Option<i128>,
}

impl From<RawMeta> for Meta {
    fn from(raw: RawMeta) -> Self {
        let at = |text: &Option<String>| {
            let time = OffsetDateTime::parse(text.as_deref()?, &Rfc3339).ok()?;
            Some(time.unix_timestamp_nanos())
        };
        Self {
            created: at(&raw.creation_timestamp).unwrap_or_default(),
            deleted: at(&raw.deletion_timestamp),
            name: raw.name,
            uid: raw.uid,
            generation: raw.generation,
        }
    }
}

impl Meta {
    /// Whether both are of the same object, with the same preference.
    pub fn is_of_same(&self, other: &Self) -> bool {
        self.name == other.name && self.preference() == other.preference()
    }

    /// The order of preference among resources that declare the same entry: the older first, then
    /// those that are not being deleted, then those being deleted for less long, then by UID.
    pub fn preference(&self) -> impl Ord + use<'_> {
        // `false` sorts before `true`; a later deletion sorts before an earlier one.
        (self.created, self.deleted.map(std::cmp::Reverse), &self.uid)
    }
}
