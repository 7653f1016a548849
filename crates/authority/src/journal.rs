//! The journal: which authorities this server made, in which slot, and how far each has come.
//!
//! It holds no secrets. The bytes are JSON with a version, so that a later program reads what an
//! earlier one wrote and an earlier one says that it cannot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use signet_pki::PublicKey;
use signet_time::UnixTime;

/// The newest format version that this program reads and writes. It writes the oldest that can say
/// what is to be said.
pub const JOURNAL_VERSION: u32 = 4;
/// The format version of a journal without unpublished keys: what 0.1 reads.
const FIRST_VERSION: u32 = 1;
/// The format version of a journal with unpublished keys and without WIT authorities.
const UNPUBLISHED_VERSION: u32 = 2;
/// The format version of a journal with WIT authorities and without second JWT authorities.
const WIT_VERSION: u32 = 3;
/// How many authorities of each kind a journal keeps: the newest.
pub const JOURNAL_CAP: usize = 10;
/// The largest journal that is read, bytes.
pub const MAX_JOURNAL_LEN: usize = 4 * 1024 * 1024;

/// One of the two places that authorities of a kind take in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SlotId {
    /// The first.
    A,
    /// The second.
    B,
}

impl SlotId {
    /// The other slot.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// `A` or `B`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// The key manager's key of this slot for the X.509 CA, `x509-CA-A`.
    pub fn x509_key_id(self) -> String {
        format!("x509-CA-{}", self.as_str())
    }

    /// The key manager's key of this slot for JWTs, `JWT-Signer-A`.
    pub fn jwt_key_id(self) -> String {
        format!("JWT-Signer-{}", self.as_str())
    }

    /// The key manager's key of this slot for JWTs of the second key, `Second-JWT-Signer-A`.
    pub fn second_jwt_key_id(self) -> String {
        format!("Second-JWT-Signer-{}", self.as_str())
    }

    /// The key manager's key of this slot for WITs, `WIT-Signer-A`.
    pub fn wit_key_id(self) -> String {
        format!("WIT-Signer-{}", self.as_str())
    }
}

/// How far an authority has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It signs.
    Active,
    /// It signed once; what it signed is still valid.
    Old,
    /// It is, or is about to be, in the bundle and does not sign yet.
    Prepared,
}

/// An X.509 authority in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct X509Record {
    /// Its slot.
    pub slot: SlotId,
    /// How far it has come.
    pub status: Status,
    /// When it was made, Unix seconds.
    pub issued_at: UnixTime,
    /// When its certificate expires, Unix seconds.
    pub not_after: UnixTime,
    /// Its subject key ID, lower-case hex.
    pub authority_id: String,
    /// The subject key ID of the upstream authority that signed it, lower-case hex; empty when
    /// self-signed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub upstream_authority_id: String,
    /// Its certificate, DER.
    #[serde(with = "base64_bytes")]
    pub certificate: Vec<u8>,
    /// With an upstream authority: its own certificate and the intermediates above it, DER, to be
    /// sent with every SVID.
    #[serde(default, with = "base64_list", skip_serializing_if = "Vec::is_empty")]
    pub upstream_chain: Vec<Vec<u8>>,
}

/// A JWT or WIT authority in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtRecord {
    /// Its slot.
    pub slot: SlotId,
    /// How far it has come.
    pub status: Status,
    /// When it was made, Unix seconds.
    pub issued_at: UnixTime,
    /// When it expires, Unix seconds.
    pub not_after: UnixTime,
    /// Its key ID (`kid`), also its authority ID.
    pub key_id: String,
    /// Its public key, PKIX SubjectPublicKeyInfo DER.
    #[serde(with = "base64_bytes")]
    pub public_key: Vec<u8>,
}

/// What the journal's records of all kinds have.
pub(crate) trait Record: Clone + Send + Sync {
    fn slot(&self) -> SlotId;
    fn status(&self) -> Status;
    fn set_status(&mut self, status: Status);
    fn issued_at(&self) -> UnixTime;
    fn not_after(&self) -> UnixTime;
    fn authority_id(&self) -> &str;
    /// Empty where there is no such thing.
    fn upstream_authority_id(&self) -> &str;
    fn is_for(&self, key: &PublicKey) -> bool;
}

/// The journal of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// X.509 authorities, oldest first.
    pub x509: Vec<X509Record>,
    /// JWT authorities, oldest first.
    pub jwt: Vec<JwtRecord>,
    /// Second JWT authorities, oldest first.
    pub second_jwt: Vec<JwtRecord>,
    /// WIT authorities, oldest first.
    pub wit: Vec<JwtRecord>,
    /// Keys that were made for an authority that was not published: their names in the key
    /// manager, with the SHA-256 of their SubjectPublicKeyInfo in lower-case hex.
    pub unpublished_keys: BTreeMap<String, String>,
}

/// Why stored bytes are not a journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The bytes are not the JSON of a journal.
    #[error("the CA journal in the registration store is corrupt")]
    Corrupt(#[source] serde_json::Error),
    /// More than 4 MiB.
    #[error("the CA journal in the registration store is corrupt: it has {0} bytes")]
    TooLong(usize),
    /// Two authorities of one kind are active.
    #[error("the CA journal in the registration store is corrupt: two active {0} authorities")]
    TwoActive(&'static str),
    /// A version that this program does not know.
    #[error("the CA journal has format version {0}, this program reads up to {JOURNAL_VERSION}")]
    Version(u32),
    /// The journal could not be written as JSON.
    #[error("encoding the CA journal")]
    Encode(#[source] serde_json::Error),
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    x509: &'a [X509Record],
    jwt: &'a [JwtRecord],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    second_jwt: &'a [JwtRecord],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    wit: &'a [JwtRecord],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unpublished_keys: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[expect(dead_code, reason = "checked before, by `VersionOnly`")]
    version: u32,
    x509: Vec<X509Record>,
    jwt: Vec<JwtRecord>,
    #[serde(default)]
    second_jwt: Vec<JwtRecord>,
    #[serde(default)]
    wit: Vec<JwtRecord>,
    #[serde(default)]
    unpublished_keys: BTreeMap<String, String>,
}

impl Journal {
    /// The journal as bytes.
    ///
    /// # Errors
    /// [`JournalError::Encode`], in theory.
    pub fn encode(&self) -> Result<Vec<u8>, JournalError> {
        let Self { x509, jwt, second_jwt, wit, unpublished_keys } = self;
        let version = if !second_jwt.is_empty() {
            JOURNAL_VERSION
        } else if !wit.is_empty() {
            WIT_VERSION
        } else if !unpublished_keys.is_empty() {
            UNPUBLISHED_VERSION
        } else {
            FIRST_VERSION
        };
        serde_json::to_vec(&Written { version, x509, jwt, second_jwt, wit, unpublished_keys })
            .map_err(JournalError::Encode)
    }

    /// Reads what [`Journal::encode`] wrote.
    ///
    /// # Errors
    /// [`JournalError`] when the bytes are something else, of a later version, or contradictory.
    pub fn decode(data: &[u8]) -> Result<Self, JournalError> {
        if data.len() > MAX_JOURNAL_LEN {
            return Err(JournalError::TooLong(data.len()));
        }
        let VersionOnly { version } =
            serde_json::from_slice(data).map_err(JournalError::Corrupt)?;
        if version == 0 || version > JOURNAL_VERSION {
            return Err(JournalError::Version(version));
        }
        let Read { x509, jwt, second_jwt, wit, unpublished_keys, .. } =
            serde_json::from_slice(data).map_err(JournalError::Corrupt)?;
        let active = |status: &Status| *status == Status::Active;
        if x509.iter().filter(|r| active(&r.status)).count() > 1 {
            return Err(JournalError::TwoActive("X.509"));
        }
        for (keys, kind) in [(&jwt, "JWT"), (&second_jwt, "second JWT"), (&wit, "WIT")] {
            if keys.iter().filter(|r| active(&r.status)).count() > 1 {
                return Err(JournalError::TwoActive(kind));
            }
        }
        Ok(Self { x509, jwt, second_jwt, wit, unpublished_keys })
    }
}

/// Adds an authority as the newest of its kind. A prepared one that never came to sign is replaced,
/// and the oldest beyond the cap are dropped.
pub(crate) fn append<R: Record>(records: &mut Vec<R>, record: R) {
    records.retain(|r| r.status() != Status::Prepared);
    records.push(record);
    let surplus = records.len().saturating_sub(JOURNAL_CAP);
    records.drain(..surplus);
}

/// Makes the authority active and the one of its kind that was active old.
pub(crate) fn activate<R: Record>(records: &mut [R], authority_id: &str) {
    for record in records {
        if record.authority_id() == authority_id {
            record.set_status(Status::Active);
        } else if record.status() == Status::Active {
            record.set_status(Status::Old);
        }
    }
}

mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

mod base64_list {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(list: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|bytes| STANDARD.encode(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.into_iter().map(|text| STANDARD.decode(text).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x509(slot: SlotId, status: Status, id: &str) -> X509Record {
        X509Record {
            slot,
            status,
            issued_at: UnixTime::from_seconds(1),
            not_after: UnixTime::from_seconds(100),
            authority_id: id.into(),
            upstream_authority_id: String::new(),
            certificate: vec![0x30, 0],
            upstream_chain: vec![vec![1], vec![2, 3]],
        }
    }

    fn jwt(slot: SlotId, status: Status, id: &str) -> JwtRecord {
        JwtRecord {
            slot,
            status,
            issued_at: UnixTime::from_seconds(1),
            not_after: UnixTime::from_seconds(200),
            key_id: id.into(),
            public_key: vec![9; 91],
        }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let journal = Journal {
            x509: vec![x509(SlotId::A, Status::Old, "a"), x509(SlotId::B, Status::Active, "b")],
            jwt: vec![jwt(SlotId::A, Status::Prepared, "k")],
            second_jwt: vec![],
            wit: vec![],
            unpublished_keys: BTreeMap::new(),
        };
        let bytes = journal.encode().unwrap();
        assert!(bytes.starts_with(br#"{"version":1,"#), "an earlier program reads it too");
        assert_eq!(Journal::decode(&bytes).unwrap(), journal);
        let unpublished_keys = BTreeMap::from([("x509-CA-A".to_owned(), "00ff".to_owned())]);
        let journal = Journal { unpublished_keys, ..journal };
        let bytes = journal.encode().unwrap();
        assert!(bytes.starts_with(br#"{"version":2,"#), "an earlier program says that it cannot");
        assert_eq!(Journal::decode(&bytes).unwrap(), journal);
        let journal = Journal { wit: vec![jwt(SlotId::B, Status::Active, "w")], ..journal };
        let bytes = journal.encode().unwrap();
        assert!(bytes.starts_with(br#"{"version":3,"#), "only where there is a WIT authority");
        assert_eq!(Journal::decode(&bytes).unwrap(), journal);
        let journal = Journal { second_jwt: vec![jwt(SlotId::A, Status::Active, "s")], ..journal };
        let bytes = journal.encode().unwrap();
        assert!(bytes.starts_with(br#"{"version":4,"#), "only where there is a second JWT key");
        assert_eq!(Journal::decode(&bytes).unwrap(), journal);
    }

    #[test]
    fn a_corrupt_journal_is_an_error_and_never_an_empty_one() {
        let x509s = vec![x509(SlotId::A, Status::Active, "a")];
        let whole = Journal { x509: x509s, ..Journal::default() }.encode().unwrap();
        for cut in 0..whole.len() {
            assert!(Journal::decode(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for bad in ["{}", "null", r#"{"version":1}"#, r#"{"version":1,"x509":[],"jwt":[],"z":1}"#] {
            assert!(matches!(Journal::decode(bad.as_bytes()), Err(JournalError::Corrupt(_))));
        }
        assert!(matches!(
            Journal::decode(br#"{"version":5,"x509":{}}"#),
            Err(JournalError::Version(5))
        ));
        let two = Journal {
            x509: vec![x509(SlotId::A, Status::Active, "a"), x509(SlotId::B, Status::Active, "b")],
            ..Journal::default()
        };
        assert!(matches!(
            Journal::decode(&two.encode().unwrap()),
            Err(JournalError::TwoActive("X.509"))
        ));
    }

    #[test]
    fn keeps_the_newest_ten_of_a_kind() {
        let mut journal = Journal::default();
        for n in 0..25 {
            append(&mut journal.x509, x509(SlotId::A, Status::Prepared, &n.to_string()));
            activate(&mut journal.x509, &n.to_string());
        }
        assert_eq!(journal.x509.len(), JOURNAL_CAP);
        assert_eq!(journal.x509.last().unwrap().authority_id, "24");
        assert_eq!(journal.x509.iter().filter(|r| r.status == Status::Active).count(), 1);
    }

    #[test]
    fn a_prepared_authority_that_never_signed_makes_way_for_its_replacement() {
        let mut journal = Journal::default();
        append(&mut journal.jwt, jwt(SlotId::A, Status::Prepared, "one"));
        append(&mut journal.jwt, jwt(SlotId::A, Status::Prepared, "two"));
        assert_eq!(journal.jwt.len(), 1);
        activate(&mut journal.jwt, "two");
        assert_eq!(journal.jwt[0].status, Status::Active);
    }
}
