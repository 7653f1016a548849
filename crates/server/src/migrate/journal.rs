//! CA journals, in SPIRE's form and in ours.

use signet_authority::journal::{Journal, JwtRecord, SlotId, Status, X509Record};
use signet_pki::x509::Certificate;
use signet_store::spire::{SpireJournal, SpireKey, SpireStatus, SpireX509Authority};
use signet_time::UnixTime;

/// A SPIRE journal in our form, and what was left out.
pub(super) fn from_spire(spire: &SpireJournal) -> (Journal, Vec<String>) {
    let mut journal = Journal::default();
    let mut left_out = Vec::new();
    let mut leave_out =
        |kind: &str, id: &str, why: &str| left_out.push(format!("{kind} authority {id}: {why}"));
    for authority in &spire.x509 {
        let id = &authority.authority_id;
        match (slot(&authority.slot_id), Certificate::from_der(&authority.certificate)) {
            (Some(slot), Ok(certificate)) => {
                journal.x509.push(x509_record(slot, authority, &certificate));
            }
            (None, _) => leave_out("X.509", id, "its slot is neither A nor B"),
            (_, Err(_)) => leave_out("X.509", id, "its certificate cannot be read"),
        }
    }
    for (keys, records, kind) in
        [(&spire.jwt, &mut journal.jwt, "JWT"), (&spire.wit, &mut journal.wit, "WIT")]
    {
        for key in keys {
            match slot(&key.slot_id) {
                Some(slot) => records.push(JwtRecord {
                    slot,
                    status: status(key.status),
                    issued_at: key.issued_at,
                    not_after: key.not_after,
                    key_id: key.kid.clone(),
                    public_key: key.public_key.clone(),
                }),
                None => leave_out(kind, &key.kid, "its slot is neither A nor B"),
            }
        }
    }
    only_newest_active(journal.x509.iter_mut().map(|record| &mut record.status));
    only_newest_active(journal.jwt.iter_mut().map(|record| &mut record.status));
    only_newest_active(journal.wit.iter_mut().map(|record| &mut record.status));
    (journal, left_out)
}

fn x509_record(
    slot: SlotId,
    authority: &SpireX509Authority,
    certificate: &Certificate,
) -> X509Record {
    // Older SPIREs left some of this to the certificate.
    let or = |text: &str, other: String| if text.is_empty() { other } else { text.to_owned() };
    X509Record {
        slot,
        status: status(authority.status),
        issued_at: authority.issued_at,
        not_after: match authority.not_after {
            UnixTime::EPOCH => certificate.not_after(),
            not_after => not_after,
        },
        authority_id: or(&authority.authority_id, certificate.subject_key_id_hex()),
        upstream_authority_id: authority.upstream_authority_id.clone(),
        certificate: authority.certificate.clone(),
        upstream_chain: authority.upstream_chain.clone(),
    }
}

fn slot(id: &str) -> Option<SlotId> {
    match id {
        "A" => Some(SlotId::A),
        "B" => Some(SlotId::B),
        _ => None,
    }
}

fn status(status: SpireStatus) -> Status {
    match status {
        SpireStatus::Active => Status::Active,
        SpireStatus::Prepared => Status::Prepared,
        SpireStatus::Old | SpireStatus::Unknown => Status::Old,
    }
}

fn only_newest_active<'a>(statuses: impl DoubleEndedIterator<Item = &'a mut Status>) {
    for older in statuses.rev().filter(|status| **status == Status::Active).skip(1) {
        *older = Status::Old;
    }
}

/// Our journal in SPIRE's form.
pub(super) fn to_spire(journal: &Journal) -> SpireJournal {
    let status = |status: Status| match status {
        Status::Active => SpireStatus::Active,
        Status::Old => SpireStatus::Old,
        Status::Prepared => SpireStatus::Prepared,
    };
    let keys = |records: &[JwtRecord]| {
        let keys = records.iter().map(|record| SpireKey {
            slot_id: record.slot.as_str().to_owned(),
            issued_at: record.issued_at,
            not_after: record.not_after,
            kid: record.key_id.clone(),
            public_key: record.public_key.clone(),
            status: status(record.status),
            authority_id: record.key_id.clone(),
        });
        keys.collect()
    };
    let active = journal.x509.iter().find(|record| record.status == Status::Active);
    SpireJournal {
        active_x509_authority_id: active.map(|it| it.authority_id.clone()).unwrap_or_default(),
        x509: journal
            .x509
            .iter()
            .map(|record| SpireX509Authority {
                slot_id: record.slot.as_str().to_owned(),
                issued_at: record.issued_at,
                not_after: record.not_after,
                certificate: record.certificate.clone(),
                upstream_chain: record.upstream_chain.clone(),
                status: status(record.status),
                authority_id: record.authority_id.clone(),
                upstream_authority_id: record.upstream_authority_id.clone(),
            })
            .collect(),
        jwt: keys(&journal.jwt),
        wit: keys(&journal.wit),
    }
}
