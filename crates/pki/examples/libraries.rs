//! What rcgen and jsonwebtoken would do in the place of our own writers, case by case:
//! `cargo run --release -p signet-pki --example libraries`. The results are those of
//! `docs/adr/0003-issuing-without-rcgen.md`.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, SigningKey,
};
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, PrivateKey, PublicKey, Signer,
    der::{Reader, tag},
    jwt::{JwtBundle, JwtClaims, JwtIssuer, validate},
    x509::{
        CaIssuer, CaParams, Certificate, CsrParams, Name, SvidParams, create_csr, self_sign_ca,
    },
};
use signet_time::UnixTime;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
const LATER: UnixTime = UnixTime::from_seconds(1_800_086_400);

/// Our signer as rcgen wants one.
struct Key(Arc<dyn Signer>);

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().key_bits()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign_issued(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

fn main() -> Outcome<()> {
    certificates()?;
    requests()?;
    tokens()
}

fn certificates() -> Outcome<()> {
    let signer = PrivateKey::generate(KeyType::EcP256)?.signer()?;
    let id: SpiffeId = "spiffe://example.org/ns/default/sa/web".parse()?;
    let ca_of = |subject: Name| -> Outcome<CaIssuer> {
        let params = CaParams {
            trust_domain: id.trust_domain().clone(),
            subject,
            extensions: vec![],
            now: NOW,
            not_after: LATER,
        };
        let certificate = Certificate::from_der(&self_sign_ca(&*signer, &params)?.der)?;
        Ok(CaIssuer::new(certificate, vec![], signer.clone())?)
    };
    let plain = Name { serial_number: "1".to_owned(), ..Name::spiffe_ca() };
    let two_units =
        Name { organizational_unit: vec!["a".to_owned(), "b".to_owned()], ..plain.clone() };
    println!("-- certificates: what is signed, rcgen beside ours");
    for (what, ca_subject, subject, dns) in [
        ("SVID", &plain, None, vec![]),
        ("SVID with DNS names", &plain, None, vec!["db.example".to_owned()]),
        ("SVID with two units in its subject", &plain, Some(&two_units), vec![]),
        ("SVID of a CA with two units in its subject", &two_units, None, vec![]),
    ] {
        let ca = ca_of(ca_subject.clone())?;
        let params = SvidParams {
            spiffe_id: &id,
            public_key: signer.public_key(),
            dns_names: &dns,
            subject,
            extensions: &[],
            now: NOW,
            not_after: LATER,
        };
        let ours = ca.issue_svid(&params)?;
        for (way, extensions_by_rcgen) in [("by its fields", true), ("extensions by us", false)] {
            let serial = ours.serial.as_bytes();
            let made = rcgen_svid(&ca, &params, serial, extensions_by_rcgen, &ours.der);
            println!("{what}, {way}: {}", compared(&ours.der, made));
        }
    }

    let ca = ca_of(plain)?;
    let params = SvidParams {
        spiffe_id: &id,
        public_key: signer.public_key(),
        dns_names: &[],
        subject: None,
        extensions: &[],
        now: NOW,
        not_after: LATER,
    };
    measure("X.509-SVID, ours", || Ok(ca.issue_svid(&params)?))?;
    let key = Key(signer.clone());
    let dn = name(Name::spire_svid(), None)?;
    let issuer = Issuer::from_ca_cert_der(&(&**ca.certificate().der()).into(), key)?;
    measure("X.509-SVID, rcgen by its fields", || {
        let serial = signet_pki::random::bytes::<16>()?;
        let params = rcgen_params(&params, dn.clone(), &serial)?;
        Ok(params.signed_by(&Key(signer.clone()), &issuer)?)
    })
}

/// As rcgen makes it. `template` is ours, from which the extensions are taken on request.
fn rcgen_svid(
    ca: &CaIssuer,
    params: &SvidParams<'_>,
    serial: &[u8],
    extensions_by_rcgen: bool,
    template: &[u8],
) -> Outcome<Vec<u8>> {
    let key = Key(Arc::clone(ca.signer()));
    let issuer = Issuer::from_ca_cert_der(&(&**ca.certificate().der()).into(), key)?;
    let subject = params.subject.cloned().unwrap_or_else(Name::spire_svid);
    let dn = name(subject, params.dns_names.first())?;
    let mut made = rcgen_params(params, dn, serial)?;
    if !extensions_by_rcgen {
        made.subject_alt_names.clear();
        made.key_usages.clear();
        made.extended_key_usages.clear();
        made.is_ca = IsCa::NoCa;
        made.use_authority_key_identifier_extension = false;
        made.custom_extensions = extensions_of(template)?;
    }
    Ok(made.signed_by(&Key(Arc::clone(ca.signer())), &issuer)?.der().to_vec())
}

fn rcgen_params(
    params: &SvidParams<'_>,
    dn: DistinguishedName,
    serial: &[u8],
) -> Outcome<CertificateParams> {
    let mut made = CertificateParams::default();
    made.distinguished_name = dn;
    made.serial_number = Some(SerialNumber::from_slice(serial));
    made.not_before = time::OffsetDateTime::from_unix_timestamp((params.now - 10).seconds())?;
    made.not_after = time::OffsetDateTime::from_unix_timestamp(params.not_after.seconds())?;
    made.is_ca = IsCa::ExplicitNoCa;
    made.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    made.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    made.use_authority_key_identifier_extension = true;
    made.key_identifier_method =
        KeyIdMethod::PreSpecified(params.public_key.subject_key_id().to_vec());
    for dns_name in params.dns_names {
        made.subject_alt_names.push(SanType::DnsName(dns_name.as_str().try_into()?));
    }
    made.subject_alt_names.push(SanType::URI(params.spiffe_id.to_string().try_into()?));
    Ok(made)
}

fn name(name: Name, common_name: Option<&String>) -> Outcome<DistinguishedName> {
    let mut dn = DistinguishedName::new();
    let text = |value: &str| -> Outcome<DnValue> {
        Ok(DnValue::PrintableString(value.to_owned().try_into()?))
    };
    for (kind, values) in [
        (DnType::CountryName, &name.country),
        (DnType::OrganizationName, &name.organization),
        (DnType::OrganizationalUnitName, &name.organizational_unit),
    ] {
        for value in values {
            dn.push(kind.clone(), text(value)?);
        }
    }
    if let Some(common_name) = common_name {
        dn.push(DnType::CommonName, text(common_name)?);
    }
    Ok(dn)
}

/// The extensions of a certificate, ready-made.
fn extensions_of(der: &[u8]) -> Outcome<Vec<CustomExtension>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der)?;
    let list = certificate.extensions().iter().map(|extension| {
        let oid: Vec<u64> = extension.oid.iter().map(Iterator::collect).unwrap_or_default();
        let mut custom = CustomExtension::from_oid_content(&oid, extension.value.to_vec());
        custom.set_criticality(extension.critical);
        custom
    });
    Ok(list.collect())
}

fn requests() -> Outcome<()> {
    println!("-- certificate signing requests");
    let signer = PrivateKey::generate(KeyType::EcP256)?.signer()?;
    let id: SpiffeId = "spiffe://example.org/ns/default/sa/web".parse()?;
    let two = Name { organization: vec!["a".to_owned(), "b".to_owned()], ..Name::spiffe_ca() };
    for (what, params) in [
        ("an agent's", CsrParams::agent()),
        ("a workload's", CsrParams::workload(id.clone())),
        ("a CA's with two organizations", CsrParams { subject: two, ..CsrParams::agent() }),
    ] {
        let ours = create_csr(&params, &*signer)?;
        let mut made = CertificateParams::default();
        made.distinguished_name = name(params.subject.clone(), None)?;
        if let Some(uri) = &params.uri {
            made.subject_alt_names.push(SanType::URI(uri.to_string().try_into()?));
        }
        let theirs = made.serialize_request(&Key(signer.clone()))?;
        println!("{what}: {}", compared(&ours, Ok(theirs.der().to_vec())));
    }
    let params = CsrParams::workload(id);
    measure("CSR, ours", || Ok(create_csr(&params, &*signer)?))
}

fn tokens() -> Outcome<()> {
    println!("-- JWT-SVIDs");
    let key = PrivateKey::generate(KeyType::EcP256)?;
    let signer = key.signer()?;
    let id: SpiffeId = "spiffe://example.org/ns/default/sa/web".parse()?;
    let issuer = JwtIssuer::new("k".repeat(32), LATER, signer.clone())?;
    let audience = ["audience".to_owned()];
    let claims = JwtClaims {
        spiffe_id: &id,
        audience: &audience,
        issued_at: NOW,
        expires_at: LATER,
        issuer: None,
        jti: false,
    };
    let token = issuer.sign(&claims)?.token;
    let header = jsonwebtoken::Header {
        kid: Some(issuer.key_id().to_string()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let encoding = jsonwebtoken::EncodingKey::from_ec_der(key.pkcs8_der());
    let map = issuer.claims(&claims)?;
    let theirs = jsonwebtoken::encode(&header, &map, &encoding)?;
    let part = |token: &str, at: usize| token.split('.').nth(at).map(str::to_owned);
    println!("header the same: {}", part(&token, 0) == part(&theirs, 0));
    println!("payload the same: {}", part(&token, 1) == part(&theirs, 1));

    let bundle = bundle_of(&id, &issuer, signer.public_key());
    let decoding = jsonwebtoken::DecodingKey::from_ec_der(signer.public_key().key_bits());
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.set_audience(&audience);
    rules.validate_exp = false;
    measure("JWT-SVID signed, ours", || Ok(issuer.sign(&claims)?))?;
    measure("JWT-SVID signed, jsonwebtoken with a key in memory", || {
        Ok(jsonwebtoken::encode(&header, &map, &encoding)?)
    })?;
    measure("JWT-SVID validated, ours", || {
        Ok(validate(&token, &audience, NOW, |_| Some(&bundle))?)
    })?;
    measure("JWT-SVID decoded, jsonwebtoken", || {
        Ok(jsonwebtoken::decode::<serde_json::Map<_, _>>(&token, &decoding, &rules)?)
    })
}

fn bundle_of(id: &SpiffeId, issuer: &JwtIssuer, key: &PublicKey) -> JwtBundle {
    let authority = signet_identity::JwtAuthority {
        public_key: key.spki_der().into(),
        key_id: issuer.key_id().clone(),
        expires_at: UnixTime::EPOCH,
        tainted: false,
    };
    JwtBundle::new(id.trust_domain().clone(), &[authority])
}

/// Whether what is signed is the same, byte for byte; else where it differs first.
fn compared(ours: &[u8], theirs: Outcome<Vec<u8>>) -> String {
    let signed = |der: &[u8]| {
        let mut outer = Reader::new(der).enter(tag::SEQUENCE)?;
        outer.expect(tag::SEQUENCE).map(<[u8]>::to_vec)
    };
    match (signed(ours), theirs.map(|der| signed(&der))) {
        (Ok(ours), Ok(Ok(theirs))) if ours == theirs => "the same".to_owned(),
        (Ok(ours), Ok(Ok(theirs))) => {
            let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            format!("different from byte {at} of {} ({} in all)", ours.len(), theirs.len())
        }
        (_, Err(error)) => format!("refused: {error}"),
        _ => "not DER".to_owned(),
    }
}

/// The best of several rounds: the machine may be busy with other things.
fn measure<T>(what: &str, mut work: impl FnMut() -> Outcome<T>) -> Outcome<()> {
    const COUNT: u32 = 500;
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        for _ in 0..COUNT {
            black_box(work()?);
        }
        best = best.min(start.elapsed());
    }
    println!("{:8.2} us  {what}", best.as_secs_f64() * 1e6 / f64::from(COUNT));
    Ok(())
}
