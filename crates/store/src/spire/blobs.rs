//! The protobuf messages in SPIRE's blob columns.

use signet_identity::{Bundle, EntrySpec, JwtAuthority, TrustDomain, X509Authority};
use signet_time::UnixTime;

use super::{
    SpireJournal, SpireKey, SpireStatus, SpireX509Authority,
    wire::{Malformed, Message, fields},
};

pub(super) fn read_bundle(trust_domain: TrustDomain, data: &[u8]) -> Result<Bundle, Malformed> {
    let mut bundle = Bundle::empty(trust_domain);
    for (field, value) in fields(data)? {
        match field {
            2 => bundle.x509_authorities.push(read_certificate(value.bytes()?)?),
            3 => bundle.jwt_authorities.push(read_public_key(value.bytes()?)?),
            4 => bundle.refresh_hint = value.signed()?,
            5 => bundle.sequence_number = value.number()?,
            6 => bundle.wit_authorities.push(read_public_key(value.bytes()?)?),
            _ => {}
        }
    }
    Ok(bundle)
}

fn read_certificate(data: &[u8]) -> Result<X509Authority, Malformed> {
    let mut authority = X509Authority { der: Vec::new().into(), tainted: false };
    for (field, value) in fields(data)? {
        match field {
            1 => authority.der = value.bytes()?.into(),
            2 => authority.tainted = value.number()? != 0,
            _ => {}
        }
    }
    Ok(authority)
}

fn read_public_key(data: &[u8]) -> Result<JwtAuthority, Malformed> {
    let mut authority = JwtAuthority {
        public_key: Vec::new().into(),
        key_id: "".into(),
        expires_at: UnixTime::EPOCH,
        tainted: false,
    };
    for (field, value) in fields(data)? {
        match field {
            1 => authority.public_key = value.bytes()?.into(),
            2 => authority.key_id = value.text()?.into(),
            3 => authority.expires_at = UnixTime::from_seconds(value.signed()?),
            4 => authority.tainted = value.number()? != 0,
            _ => {}
        }
    }
    Ok(authority)
}

pub(super) fn write_bundle(bundle: &Bundle) -> Vec<u8> {
    let mut message = Message::default().bytes(1, bundle.trust_domain.id_string().as_bytes());
    for authority in &bundle.x509_authorities {
        let certificate =
            Message::default().bytes(1, &authority.der).number(2, authority.tainted.into());
        message = message.item(2, &certificate.finish());
    }
    for authority in &bundle.jwt_authorities {
        message = message.item(3, &write_public_key(authority));
    }
    message = message.signed(4, bundle.refresh_hint).number(5, bundle.sequence_number);
    for authority in &bundle.wit_authorities {
        message = message.item(6, &write_public_key(authority));
    }
    message.finish()
}

fn write_public_key(authority: &JwtAuthority) -> Vec<u8> {
    Message::default()
        .bytes(1, &authority.public_key)
        .bytes(2, authority.key_id.as_bytes())
        .signed(3, authority.expires_at.seconds())
        .number(4, authority.tainted.into())
        .finish()
}

/// Reads the additional attributes of an entry into its draft.
pub(super) fn read_attributes(data: &[u8], draft: &mut EntrySpec) -> Result<(), Malformed> {
    for (field, value) in fields(data)? {
        match field {
            1 => draft.disable_x509_svid_prefetch = value.number()? != 0,
            2 => draft.jwt_svid_include_jti = value.number()? != 0,
            _ => {}
        }
    }
    Ok(())
}

/// The additional attributes of an entry; `None` when all are unset.
pub(super) fn write_attributes(draft: &EntrySpec) -> Option<Vec<u8>> {
    let message = Message::default()
        .number(1, draft.disable_x509_svid_prefetch.into())
        .number(2, draft.jwt_svid_include_jti.into())
        .finish();
    (!message.is_empty()).then_some(message)
}

/// Reads a journal; its active authority ID is stored beside it.
pub(super) fn read_journal(active: String, data: &[u8]) -> Result<SpireJournal, Malformed> {
    let mut journal = SpireJournal { active_x509_authority_id: active, ..SpireJournal::default() };
    for (field, value) in fields(data)? {
        match field {
            1 => journal.x509.push(read_x509(value.bytes()?)?),
            2 => journal.jwt.push(read_key(value.bytes()?)?),
            3 => journal.wit.push(read_key(value.bytes()?)?),
            _ => {}
        }
    }
    Ok(journal)
}

fn read_x509(data: &[u8]) -> Result<SpireX509Authority, Malformed> {
    let mut authority = SpireX509Authority {
        slot_id: String::new(),
        issued_at: UnixTime::EPOCH,
        not_after: UnixTime::EPOCH,
        certificate: Vec::new(),
        upstream_chain: Vec::new(),
        status: SpireStatus::Unknown,
        authority_id: String::new(),
        upstream_authority_id: String::new(),
    };
    for (field, value) in fields(data)? {
        match field {
            1 => authority.slot_id = value.text()?,
            2 => authority.issued_at = UnixTime::from_seconds(value.signed()?),
            3 => authority.certificate = value.bytes()?.to_vec(),
            4 => authority.upstream_chain.push(value.bytes()?.to_vec()),
            5 => authority.status = SpireStatus::from_number(value.number()?),
            6 => authority.authority_id = value.text()?,
            7 => authority.not_after = UnixTime::from_seconds(value.signed()?),
            8 => authority.upstream_authority_id = value.text()?,
            _ => {}
        }
    }
    Ok(authority)
}

fn read_key(data: &[u8]) -> Result<SpireKey, Malformed> {
    let mut key = SpireKey {
        slot_id: String::new(),
        issued_at: UnixTime::EPOCH,
        not_after: UnixTime::EPOCH,
        kid: String::new(),
        public_key: Vec::new(),
        status: SpireStatus::Unknown,
        authority_id: String::new(),
    };
    for (field, value) in fields(data)? {
        match field {
            1 => key.slot_id = value.text()?,
            2 => key.issued_at = UnixTime::from_seconds(value.signed()?),
            3 => key.not_after = UnixTime::from_seconds(value.signed()?),
            4 => key.kid = value.text()?,
            5 => key.public_key = value.bytes()?.to_vec(),
            6 => key.status = SpireStatus::from_number(value.number()?),
            7 => key.authority_id = value.text()?,
            _ => {}
        }
    }
    Ok(key)
}

pub(super) fn write_journal(journal: &SpireJournal) -> Vec<u8> {
    let mut message = Message::default();
    for authority in &journal.x509 {
        let mut entry = Message::default()
            .bytes(1, authority.slot_id.as_bytes())
            .signed(2, authority.issued_at.seconds())
            .bytes(3, &authority.certificate);
        for certificate in &authority.upstream_chain {
            entry = entry.item(4, certificate);
        }
        let entry = entry
            .number(5, authority.status.number())
            .bytes(6, authority.authority_id.as_bytes())
            .signed(7, authority.not_after.seconds())
            .bytes(8, authority.upstream_authority_id.as_bytes());
        message = message.item(1, &entry.finish());
    }
    for (field, keys) in [(2, &journal.jwt), (3, &journal.wit)] {
        for key in keys {
            let entry = Message::default()
                .bytes(1, key.slot_id.as_bytes())
                .signed(2, key.issued_at.seconds())
                .signed(3, key.not_after.seconds())
                .bytes(4, key.kid.as_bytes())
                .bytes(5, &key.public_key)
                .number(6, key.status.number())
                .bytes(7, key.authority_id.as_bytes());
            message = message.item(field, &entry.finish());
        }
    }
    message.finish()
}

impl SpireStatus {
    fn from_number(number: u64) -> Self {
        match number {
            2 => Self::Prepared,
            3 => Self::Active,
            4 => Self::Old,
            _ => Self::Unknown,
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Prepared => 2,
            Self::Active => 3,
            Self::Old => 4,
        }
    }
}
