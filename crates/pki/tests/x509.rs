//! Issued certificates, CSRs and verification, cross-checked with independent readers and writers
//! (x509-parser, rcgen).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

use std::sync::Arc;

use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::{
    KeyType, PrivateKey, PublicKey, Signer,
    x509::{
        CaIssuer, CaParams, CertError, Certificate, Csr, CsrError, CsrParams, Extension,
        IssueError, Issued, MAX_AUTHORITIES, MAX_CSR_LEN, Name, Oid, SvidParams, TrustBundle,
        VerifyError, create_csr,
        path::{PathError, Role, Unusable},
        self_sign_ca, split_der_chain, verify_svid,
    },
};
use signet_time::UnixTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(td(), path).unwrap()
}

fn ca_params(not_after: UnixTime) -> CaParams {
    CaParams {
        trust_domain: td(),
        subject: Name::spiffe_ca(),
        extensions: vec![],
        now: NOW,
        not_after,
    }
}

fn new_ca(kind: KeyType) -> CaIssuer {
    let signer = PrivateKey::generate(kind).unwrap().signer().unwrap();
    let issued = self_sign_ca(&*signer, &ca_params(NOW + 86_400)).unwrap();
    CaIssuer::new(Certificate::from_der(&issued.der).unwrap(), vec![], signer).unwrap()
}

fn key() -> PublicKey {
    PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone()
}

fn svid(ca: &CaIssuer, path: &str, key: &PublicKey) -> Issued {
    ca.issue_svid(&svid_params(&id(path), key)).unwrap()
}

fn svid_params<'a>(spiffe_id: &'a SpiffeId, public_key: &'a PublicKey) -> SvidParams<'a> {
    SvidParams {
        spiffe_id,
        public_key,
        dns_names: &[],
        subject: None,
        extensions: &[],
        now: NOW,
        not_after: NOW + 3600,
    }
}

fn bundle(cas: &[&CaIssuer]) -> TrustBundle {
    let ders: Vec<_> = cas.iter().map(|ca| ca.certificate().der().clone()).collect();
    TrustBundle::new(td(), &ders).unwrap()
}

#[test]
fn an_svid_has_exactly_the_fields_of_spire() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let ca = new_ca(kind);
        let key = key();
        let dns_names = ["db.example".to_owned(), "*.db.example".to_owned()];
        let (spiffe_id, base) = (id("/a/b"), id("/a/b"));
        let params = SvidParams { dns_names: &dns_names, ..svid_params(&spiffe_id, &key) };
        let issued = ca.issue_svid(&params).unwrap();
        let (rest, cert) = X509Certificate::from_der(&issued.der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(cert.version().0, 2);
        assert_eq!(cert.tbs_certificate.serial.to_string(), issued.serial.to_string());
        assert!(cert.tbs_certificate.serial.bits() <= 128);
        assert_eq!(cert.subject().to_string(), "C=US, O=SPIRE, CN=db.example");
        assert_eq!(cert.issuer().as_raw(), ca.certificate().raw_subject());
        assert_eq!(cert.validity().not_before.timestamp(), (NOW - 10).seconds());
        assert_eq!(cert.validity().not_after.timestamp(), (NOW + 3600).seconds());
        assert_eq!(cert.tbs_certificate.subject_pki.raw, key.spki_der());

        let shown: Vec<(String, bool)> =
            cert.extensions().iter().map(|e| (e.oid.to_id_string(), e.critical)).collect();
        let expected = [
            ("2.5.29.15", true),
            ("2.5.29.37", false),
            ("2.5.29.19", true),
            ("2.5.29.14", false),
            ("2.5.29.35", false),
            ("2.5.29.17", false),
        ];
        assert_eq!(shown, expected.map(|(oid, critical)| (oid.to_owned(), critical)));
        for extension in cert.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::KeyUsage(usage) => {
                    assert_eq!(usage.flags, 0b1_0101, "signature, encipherment, agreement");
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    assert!(usage.server_auth && usage.client_auth && usage.other.is_empty());
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    assert!(!constraints.ca && constraints.path_len_constraint.is_none());
                    assert_eq!(extension.value, [0x30, 0], "an empty sequence");
                }
                ParsedExtension::SubjectKeyIdentifier(found) => {
                    assert_eq!(found.0, key.subject_key_id());
                }
                ParsedExtension::AuthorityKeyIdentifier(found) => {
                    let found = found.key_identifier.as_ref().unwrap().0;
                    assert_eq!(found, ca.certificate().subject_key_id());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    assert_eq!(
                        names.general_names,
                        [
                            GeneralName::DNSName("db.example"),
                            GeneralName::DNSName("*.db.example"),
                            GeneralName::URI(&base.to_string()),
                        ]
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        let read = Certificate::from_der(&issued.der).unwrap();
        assert_eq!(read.serial(), &issued.serial);
        assert_eq!(read.dns_names(), dns_names);
        assert_eq!(read.spiffe_id().unwrap(), base);
        assert_eq!(read.subject().to_string(), "CN=db.example,O=SPIRE,C=US");
        assert_eq!((read.not_before(), read.not_after()), (NOW - 10, NOW + 3600));
        assert_eq!(read.key_usage(), Some(0b1_0101));
        assert!(read.is_signed_by(ca.signer().public_key()) && !read.is_self_signed());
        assert_eq!(read.authority_key_id_hex(), ca.certificate().subject_key_id_hex());
    }
}

#[test]
fn a_ca_has_the_fields_of_spire() {
    let ca = new_ca(KeyType::EcP384);
    let cert = ca.certificate();
    assert!(cert.is_ca() && cert.is_self_signed());
    assert_eq!(cert.subject().to_string(), format!("SERIALNUMBER={},O=SPIFFE,C=US", cert.serial()));
    assert_eq!(cert.uris(), ["spiffe://example.org"]);
    assert!(cert.authority_key_id().is_empty());
    let der = cert.der().clone();
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    let constraints = parsed.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert!(constraints.value.path_len_constraint.is_none());
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.flags == 0b110_0000);
    assert_eq!(parsed.extensions().len(), 4);
}

#[test]
fn validity_is_capped_by_the_ca_and_an_expired_ca_issues_nothing() {
    let ca = new_ca(KeyType::EcP256);
    let (id, key) = (id("/a"), key());
    let end = ca.certificate().not_after();
    let long = SvidParams { not_after: end + 1, ..svid_params(&id, &key) };
    assert_eq!(ca.issue_svid(&long).unwrap().not_after, end);
    let late = SvidParams { now: end, not_after: end + 10, ..svid_params(&id, &key) };
    assert_eq!(ca.issue_svid(&late).unwrap_err(), IssueError::CaExpired);
    let other = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let refused = CaIssuer::new(ca.certificate().clone(), vec![], other).unwrap_err();
    assert_eq!(refused, IssueError::KeyMismatch);
}

#[test]
fn subjects_and_extensions_can_be_given() {
    let ca = new_ca(KeyType::EcP256);
    let (spiffe_id, key) = (id("/a"), key());
    let mut subject = Name::spire_svid();
    let oid = Oid::from_dotted("2.5.4.45").unwrap();
    subject.extra.push((oid.clone(), "0123".to_owned()));
    let extension = Extension { oid, critical: false, value: vec![5, 0] };
    let params = SvidParams {
        subject: Some(&subject),
        extensions: std::slice::from_ref(&extension),
        ..svid_params(&spiffe_id, &key)
    };
    let issued = ca.issue_svid(&params).unwrap();
    let (_, cert) = X509Certificate::from_der(&issued.der).unwrap();
    assert_eq!(cert.subject().iter_rdn().count(), 3);
    assert_eq!(cert.extensions().len(), 7);
    let empty = Name::default();
    let params = SvidParams { subject: Some(&empty), ..svid_params(&spiffe_id, &key) };
    let issued = ca.issue_svid(&params).unwrap();
    let (_, cert) = X509Certificate::from_der(&issued.der).unwrap();
    assert!(cert.subject_alternative_name().unwrap().unwrap().critical);
}

#[test]
fn a_valid_chain_gives_the_spiffe_id() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let ca = new_ca(kind);
        let leaf = svid(&ca, "/a", &key()).der;
        let found = verify_svid(&[&leaf], &bundle(&[&new_ca(KeyType::EcP256), &ca]), NOW).unwrap();
        assert_eq!(found.id, id("/a"));
    }
}

#[test]
fn intermediates_are_followed() {
    let root = new_ca(KeyType::EcP384);
    let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let mut subject = root.certificate().subject().clone();
    subject.organizational_unit = vec!["DOWNSTREAM-1".to_owned()];
    let params = CaParams { subject, ..ca_params(NOW + 1000) };
    let issued = root.issue_ca(signer.public_key(), &params).unwrap();
    let middle = Certificate::from_der(&issued.der).unwrap();
    assert_eq!(middle.authority_key_id(), root.certificate().subject_key_id());
    assert!(middle.subject().to_string().contains("OU=DOWNSTREAM-1"));
    let ca = CaIssuer::new(middle.clone(), vec![middle.der().clone()], signer).unwrap();
    let leaf = svid(&ca, "/a", &key()).der;
    let trust = bundle(&[&root]);
    verify_svid(&[&leaf[..], middle.der()], &trust, NOW).unwrap();
    let refused = verify_svid(&[&leaf], &trust, NOW).unwrap_err();
    assert_eq!(refused, VerifyError::UnknownAuthority(td()));
    let padding = middle.der().clone();
    let mut long: Vec<&[u8]> = vec![&padding; 17];
    long[0] = &leaf;
    assert!(matches!(verify_svid(&long, &trust, NOW), Err(VerifyError::Path(_))));
}

#[test]
fn bad_chains_are_refused_each_with_its_reason() {
    let ca = new_ca(KeyType::EcP256);
    let trust = bundle(&[&ca]);
    let leaf = svid(&ca, "/a", &key()).der;
    let check = |der: &[u8], now| verify_svid(&[der], &trust, now).unwrap_err();
    let why = |der: &[u8], now| match check(der, now) {
        VerifyError::Path(PathError::Unusable { role: Role::Leaf, why, .. }) => why,
        other => panic!("{other}"),
    };
    let (now, not_after) = (NOW + 3601, NOW + 3600);
    assert_eq!(why(&leaf, now), Unusable::Expired { not_after, now });
    for now in [NOW - 11, UnixTime::from_seconds(-1)] {
        assert_eq!(why(&leaf, now), Unusable::NotYetValid { not_before: NOW - 10, now });
    }
    assert_eq!(check(ca.certificate().der(), NOW), VerifyError::LeafIsCa);
    let none: [&[u8]; 0] = [];
    assert_eq!(verify_svid(&none, &trust, NOW).unwrap_err(), VerifyError::Empty);

    let stranger = svid(&new_ca(KeyType::EcP256), "/a", &key()).der;
    assert_eq!(check(&stranger, NOW), VerifyError::UnknownAuthority(td()));

    let foreign: SpiffeId = "spiffe://other.org/a".parse().unwrap();
    let key = key();
    let foreign = ca.issue_svid(&svid_params(&foreign, &key)).unwrap().der;
    assert!(matches!(check(&foreign, NOW), VerifyError::OtherTrustDomain { .. }));

    let mut forged = leaf.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(verify_svid(&[&forged], &trust, NOW).is_err());
    assert!(matches!(check(b"junk", NOW), VerifyError::Cert(CertError::Malformed(_))));
    assert!(verify_svid(&[&leaf], &TrustBundle::new::<&[u8]>(td(), &[]).unwrap(), NOW).is_err());
    assert!(TrustBundle::new(td(), &[b"junk"]).is_err());
}

#[test]
fn a_same_named_ca_with_another_key_does_not_confuse() {
    let signer = |_| PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let make = |signer: Arc<signet_pki::LocalSigner>| {
        let subject = Name { serial_number: "1".to_owned(), ..Name::spiffe_ca() };
        let params = CaParams { subject, ..ca_params(NOW + 86_400) };
        let issued = self_sign_ca(&*signer, &params).unwrap();
        CaIssuer::new(Certificate::from_der(&issued.der).unwrap(), vec![], signer).unwrap()
    };
    let [one, two] = [0, 1].map(signer).map(make);
    let leaf = svid(&two, "/a", &key()).der;
    verify_svid(&[&leaf], &bundle(&[&one, &two]), NOW).unwrap();
    let refused = verify_svid(&[&leaf], &bundle(&[&one]), NOW).unwrap_err();
    assert_eq!(refused, VerifyError::UnknownAuthority(td()));
}

/// A leaf made by another program, for shapes that ours never issues.
fn foreign_leaf(change: impl FnOnce(&mut rcgen::CertificateParams)) -> (Vec<u8>, TrustBundle) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let mut leaf = rcgen::CertificateParams::default();
    let uri = "spiffe://example.org/a".try_into().unwrap();
    leaf.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    leaf.not_before = time::OffsetDateTime::from_unix_timestamp((NOW - 10).seconds()).unwrap();
    leaf.not_after = time::OffsetDateTime::from_unix_timestamp((NOW + 10).seconds()).unwrap();
    change(&mut leaf);
    let leaf = leaf.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();
    (leaf.der().to_vec(), TrustBundle::new(td(), &[ca.der().to_vec()]).unwrap())
}

#[test]
fn leaves_of_other_issuers_are_held_to_the_standard() {
    let verify = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let (leaf, trust) = foreign_leaf(change);
        verify_svid(&[&leaf], &trust, NOW)
    };
    assert_eq!(verify(&|_| ()).unwrap().id, id("/a"));
    let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
    let two = verify(&|leaf| leaf.subject_alt_names.push(uri("spiffe://example.org/b")));
    assert_eq!(two.unwrap_err(), VerifyError::Cert(CertError::UriCount(2)));
    let none = verify(&|leaf| leaf.subject_alt_names.clear());
    assert_eq!(none.unwrap_err(), VerifyError::Cert(CertError::UriCount(0)));
    for bad in ["https://example.org/a", "spiffe://example.org/a/", "spiffe://Example.org/a"] {
        let refused = verify(&|leaf| leaf.subject_alt_names = vec![uri(bad)]).unwrap_err();
        assert!(matches!(refused, VerifyError::Cert(CertError::SpiffeId(_))), "{bad}");
    }
    for usage in [rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign] {
        let refused = verify(&|leaf| leaf.key_usages = vec![usage]).unwrap_err();
        assert_eq!(refused, VerifyError::LeafIsCa);
    }
    let as_ca = |leaf: &mut rcgen::CertificateParams| {
        leaf.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    assert_eq!(verify(&as_ca).unwrap_err(), VerifyError::LeafIsCa);
    let client_only = |leaf: &mut rcgen::CertificateParams| {
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    };
    verify(&client_only).unwrap();
}

#[test]
fn csrs_say_what_they_were_asked_to_say() {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let signer = PrivateKey::generate(kind).unwrap().signer().unwrap();
        let plain = create_csr(&CsrParams::agent(), &*signer).unwrap();
        let csr = Csr::from_der(&plain).unwrap();
        assert_eq!(csr.public_key(), signer.public_key());
        assert_eq!(csr.subject().to_string(), "O=SPIRE,C=US");
        assert!(csr.uris().is_empty() && csr.dns_names().is_empty());
        assert_eq!(Csr::verified_public_key(&plain).unwrap(), *signer.public_key());

        let mut params = CsrParams::workload(id("/a"));
        params.dns_names = vec!["a.example".to_owned()];
        let der = create_csr(&params, &*signer).unwrap();
        let csr = Csr::from_der(&der).unwrap();
        assert_eq!(csr.uris(), ["spiffe://example.org/a"]);
        assert_eq!(csr.dns_names(), ["a.example"]);
        let (rest, parsed) =
            x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(
            parsed.certification_request_info.subject_pki.raw,
            signer.public_key().spki_der()
        );
        assert_eq!(parsed.requested_extensions().unwrap().count(), 1);
    }
}

#[test]
fn csrs_of_another_writer_are_read() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    let der = params.serialize_request(&key).unwrap().der().to_vec();
    let csr = Csr::from_der(&der).unwrap();
    assert_eq!(csr.dns_names(), ["a.example"]);
}

#[test]
fn csrs_with_bad_signatures_foreign_keys_and_bad_sizes_are_refused() {
    let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let good = create_csr(&CsrParams::workload(id("/a")), &*signer).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert!(Csr::from_der(&bad).is_err());
    assert!(Csr::from_der_unverified(&bad).is_ok());

    let other = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let theirs = other.public_key().spki_der();
    let at = good.windows(theirs.len()).position(|w| w == signer.public_key().spki_der()).unwrap();
    let mut swapped = good.clone();
    swapped[at..at + theirs.len()].copy_from_slice(theirs);
    assert_eq!(Csr::from_der(&swapped).unwrap_err(), CsrError::BadSignature);

    assert!(matches!(Csr::from_der(&[&good[..], &[0]].concat()), Err(CsrError::Malformed(_))));
    assert_eq!(Csr::from_der(&vec![0x30; MAX_CSR_LEN + 1]).unwrap_err(), CsrError::TooLong);
    for end in 0..good.len() {
        assert!(Csr::from_der(&good[..end]).is_err(), "{end}");
    }
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let der = rcgen::CertificateParams::default().serialize_request(&ed25519).unwrap();
    assert!(matches!(Csr::from_der(der.der()), Err(CsrError::Key(_))));
}

#[test]
fn mutated_input_never_panics_and_never_verifies() {
    let ca = new_ca(KeyType::EcP256);
    let trust = bundle(&[&ca]);
    let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let csr = create_csr(&CsrParams::workload(id("/a")), &*signer).unwrap();
    let leaf = svid(&ca, "/a", signer.public_key()).der;
    for (good, is_csr) in [(&csr, true), (&leaf, false)] {
        for at in 0..good.len() {
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                if is_csr {
                    assert!(Csr::from_der(&bad).is_err(), "byte {at} ^ {flip}");
                    drop(Csr::from_der_unverified(&bad));
                } else {
                    assert!(verify_svid(&[&bad], &trust, NOW).is_err(), "byte {at} ^ {flip}");
                    drop(split_der_chain(&bad));
                }
            }
            let mut shorter = good.clone();
            shorter.remove(at);
            assert!(Csr::from_der(&shorter).is_err());
            drop(Certificate::from_der(&shorter));
        }
    }
}

#[test]
fn concatenated_chains_split() {
    let ca = new_ca(KeyType::EcP256);
    let leaf = svid(&ca, "/a", &key()).der;
    let both = [&leaf[..], ca.certificate().der()].concat();
    assert_eq!(split_der_chain(&both).unwrap(), [&leaf[..], ca.certificate().der()]);
    assert!(split_der_chain(&both[..both.len() - 1]).is_err());
    // A bundle is carried the same way, and may be longer than any chain.
    assert_eq!(split_der_chain(&leaf.repeat(MAX_AUTHORITIES)).unwrap().len(), MAX_AUTHORITIES);
    assert!(split_der_chain(&leaf.repeat(MAX_AUTHORITIES + 1)).is_err());
}
