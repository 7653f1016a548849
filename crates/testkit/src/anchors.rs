//! Trust anchors of every kind, good and bad, each with a CA and a leaf under it, and what Go's
//! `crypto/x509` says of them: the table that every verifier of the workspace is held to.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use signet_time::UnixTime;
use time::OffsetDateTime;

/// The trust domain of all cases.
pub const TRUST_DOMAIN: &str = "example.org";
/// The DNS name of every leaf.
pub const HOST: &str = "localhost";

const HOUR: i64 = 3600;

/// Root, CA and leaf: the leaf is an X.509-SVID, a TLS server's certificate and an x509pop node's
/// certificate in one.
#[derive(Debug)]
pub struct AnchorCase {
    /// What is special about it.
    pub name: &'static str,
    /// The trust anchors, DER.
    pub roots: Vec<Vec<u8>>,
    /// The CA that the first root signed, DER.
    pub ca: Vec<u8>,
    /// What the CA signed, DER.
    pub leaf: Vec<u8>,
    /// The private key of the leaf, PKCS#8 DER.
    pub leaf_key: Vec<u8>,
    /// The private key of the CA, PKCS#8 DER.
    pub ca_key: Vec<u8>,
    /// Whether Go accepts the leaf for any extended key usage, as SPIRE asks of X.509-SVIDs and of
    /// x509pop's certificates.
    pub any: bool,
    /// Whether Go accepts the leaf as that of a TLS server.
    pub server: bool,
    /// Whether Go accepts the CA as the leaf of a TLS server's chain, as SPIRE's `disk` upstream
    /// authority asks.
    pub ca_alone: bool,
}

/// What is changed before certificates are made.
struct Plan {
    root: CertificateParams,
    ca: CertificateParams,
    leaf: CertificateParams,
    any: bool,
    server: bool,
    ca_alone: bool,
}

/// All cases, valid and invalid at `now` (Unix seconds). The leaf names `path` in
/// [`TRUST_DOMAIN`].
///
/// # Panics
///
/// When a certificate cannot be made.
pub fn anchor_cases(now: UnixTime, path: &str) -> Vec<AnchorCase> {
    let mut cases: Vec<AnchorCase> =
        plans().into_iter().map(|(name, change)| case(name, now, path, change)).collect();
    let twins = case("one of two roots with one name and key has expired", now, path, |_| ());
    let expired = case_with_second_root(twins, now, path);
    cases.push(expired);
    cases.push(pinned(case("a leaf that is itself an anchor", now, path, |_| ())));
    cases
}

type Change = fn(&mut Plan);

fn plans() -> Vec<(&'static str, Change)> {
    vec![
        ("all is well", |_| ()),
        ("the root has expired", |plan| {
            expire(&mut plan.root);
            refuse(plan);
        }),
        ("the root is not valid yet", |plan| {
            plan.root.not_before += time::Duration::days(1);
            refuse(plan);
        }),
        ("the root says that it is no CA", |plan| {
            plan.root.is_ca = IsCa::ExplicitNoCa;
            refuse(plan);
        }),
        ("the root does not say that it is a CA", |plan| {
            plan.root.is_ca = IsCa::NoCa;
            refuse(plan);
        }),
        ("the root may not sign certificates", |plan| {
            plan.root.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            refuse(plan);
        }),
        ("the root says nothing of key usage", |plan| plan.root.key_usages.clear()),
        ("the root allows no CA below it", |plan| {
            plan.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            (plan.any, plan.server) = (false, false);
        }),
        ("the root allows one CA below it", |plan| {
            plan.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        }),
        ("the root is for TLS clients only", |plan| {
            plan.root.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            (plan.server, plan.ca_alone) = (false, false);
        }),
        ("the root is for anything", |plan| {
            plan.root.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        }),
        ("the root has a critical extension that nobody knows", |plan| {
            plan.root.custom_extensions.push(unknown_critical());
            refuse(plan);
        }),
        ("the root has always been valid", |plan| plan.root.not_before = year_one()),
        ("the CA has always been valid", |plan| plan.ca.not_before = year_one()),
        ("the leaf has always been valid", |plan| plan.leaf.not_before = year_one()),
        ("the CA has expired", |plan| {
            expire(&mut plan.ca);
            refuse(plan);
        }),
        ("the CA is no CA", |plan| {
            plan.ca.is_ca = IsCa::ExplicitNoCa;
            (plan.any, plan.server) = (false, false);
        }),
        ("the CA may not sign certificates", |plan| {
            plan.ca.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            (plan.any, plan.server) = (false, false);
        }),
        ("the CA is for TLS clients only", |plan| {
            plan.ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            (plan.server, plan.ca_alone) = (false, false);
        }),
        ("the leaf is for TLS clients only", |plan| {
            plan.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            plan.server = false;
        }),
        ("the leaf has expired", |plan| {
            expire(&mut plan.leaf);
            (plan.any, plan.server) = (false, false);
        }),
        ("the leaf has a critical extension that nobody knows", |plan| {
            plan.leaf.custom_extensions.push(unknown_critical());
            (plan.any, plan.server) = (false, false);
        }),
        ("the root permits the trust domain", |plan| {
            constrain(&mut plan.root, &[(URI, b"example.org")], &[]);
        }),
        ("the CA permits the trust domain", |plan| {
            constrain(&mut plan.ca, &[(URI, b"EXAMPLE.org")], &[]);
        }),
        ("the root permits the parent of the trust domain", |plan| {
            constrain(&mut plan.root, &[(URI, b"org")], &[]);
        }),
        ("the root permits what is below the trust domain", |plan| {
            constrain(&mut plan.root, &[(URI, b".example.org")], &[]);
            refuse(plan);
        }),
        ("the root permits another trust domain", |plan| {
            constrain(&mut plan.root, &[(URI, b"other.org")], &[]);
            refuse(plan);
        }),
        ("the root permits a trust domain with a longer name", |plan| {
            constrain(&mut plan.root, &[(URI, b"ample.org")], &[]);
            refuse(plan);
        }),
        ("the root permits several trust domains", |plan| {
            constrain(&mut plan.root, &[(URI, b"other.org"), (URI, b"example.org")], &[]);
        }),
        ("the root excludes the trust domain", |plan| {
            constrain(&mut plan.root, &[], &[(URI, b"example.org")]);
            refuse(plan);
        }),
        ("the CA excludes the trust domain", |plan| {
            constrain(&mut plan.ca, &[], &[(URI, b"example.org")]);
            (plan.any, plan.server) = (false, false);
        }),
        ("the root excludes another trust domain", |plan| {
            constrain(&mut plan.root, &[], &[(URI, b"other.org")]);
        }),
        ("the root permits the trust domain and excludes its parent", |plan| {
            constrain(&mut plan.root, &[(URI, b"example.org")], &[(URI, b"org")]);
            refuse(plan);
        }),
        ("the root permits the DNS name", |plan| {
            constrain(&mut plan.root, &[(DNS, b"localhost")], &[]);
        }),
        ("the root permits another DNS name", |plan| {
            constrain(&mut plan.root, &[(DNS, b"other.test")], &[]);
            (plan.any, plan.server) = (false, false);
        }),
        ("the root constrains directory names", |plan| {
            constrain(&mut plan.root, &[(DIRECTORY, &[0x30, 0])], &[]);
            refuse(plan);
        }),
        ("the root's name constraints are empty", |plan| {
            plan.root.custom_extensions.push(extension(&[2, 5, 29, 30], vec![0x30, 0], true));
            refuse(plan);
        }),
    ]
}

const DNS: u8 = 0x82;
const DIRECTORY: u8 = 0xa4;
const URI: u8 = 0x86;

/// Nothing of the case is accepted.
fn refuse(plan: &mut Plan) {
    (plan.any, plan.server, plan.ca_alone) = (false, false, false);
}

fn case(name: &'static str, now: UnixTime, path: &str, change: Change) -> AnchorCase {
    let (root_key, ca_key, leaf_key) = (key(), key(), key());
    let mut plan = Plan {
        root: authority("root", now),
        ca: authority("CA", now),
        leaf: leaf(now, path),
        any: true,
        server: true,
        ca_alone: true,
    };
    change(&mut plan);
    let root = plan.root.self_signed(&root_key).expect("a root");
    let root_issuer = Issuer::new(plan.root, &root_key);
    let ca = plan.ca.signed_by(&ca_key, &root_issuer).expect("a CA");
    let ca_issuer = Issuer::new(plan.ca, &ca_key);
    let leaf = plan.leaf.signed_by(&leaf_key, &ca_issuer).expect("a leaf");
    AnchorCase {
        name,
        roots: vec![root.der().to_vec()],
        ca: ca.der().to_vec(),
        leaf: leaf.der().to_vec(),
        leaf_key: leaf_key.serialize_der(),
        ca_key: ca_key.serialize_der(),
        any: plan.any,
        server: plan.server,
        ca_alone: plan.ca_alone,
    }
}

/// Puts a root of the same name and key before the good one that has expired.
fn case_with_second_root(good: AnchorCase, now: UnixTime, path: &str) -> AnchorCase {
    let (root_key, ca_key, leaf_key) = (key(), key(), key());
    let good_root = authority("root", now);
    let mut old_root = authority("root", now);
    expire(&mut old_root);
    let roots = [&old_root, &good_root]
        .map(|root| root.self_signed(&root_key).expect("a root").der().to_vec());
    let issuer = Issuer::new(good_root, &root_key);
    let ca_params = authority("CA", now);
    let ca = ca_params.signed_by(&ca_key, &issuer).expect("a CA");
    let leaf =
        leaf(now, path).signed_by(&leaf_key, &Issuer::new(ca_params, &ca_key)).expect("a leaf");
    AnchorCase {
        roots: roots.to_vec(),
        ca: ca.der().to_vec(),
        leaf: leaf.der().to_vec(),
        leaf_key: leaf_key.serialize_der(),
        ca_key: ca_key.serialize_der(),
        ..good
    }
}

/// Trusts the leaf alone.
fn pinned(case: AnchorCase) -> AnchorCase {
    AnchorCase { roots: vec![case.leaf.clone()], ca_alone: false, ..case }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn authority(name: &str, now: UnixTime) -> CertificateParams {
    let mut params = named(name);
    (params.not_before, params.not_after) = (at(now - HOUR), at(now + HOUR));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let id = format!("spiffe://{TRUST_DOMAIN}");
    params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
    params
}

fn leaf(now: UnixTime, path: &str) -> CertificateParams {
    let mut params = named("leaf");
    (params.not_before, params.not_after) = (at(now - HOUR), at(now + HOUR));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let id = format!("spiffe://{TRUST_DOMAIN}{path}");
    params.subject_alt_names = vec![
        SanType::DnsName(HOST.try_into().expect("ASCII")),
        SanType::URI(id.try_into().expect("ASCII")),
    ];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn at(unix: UnixTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix.seconds()).expect("a time")
}

/// What Go writes when no start is set.
fn year_one() -> OffsetDateTime {
    at(UnixTime::from_seconds(-62_135_596_800))
}

fn expire(params: &mut CertificateParams) {
    params.not_before -= time::Duration::days(2);
    params.not_after -= time::Duration::days(1);
}

fn unknown_critical() -> CustomExtension {
    extension(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0], true)
}

/// Critical name constraints; names are tag and content.
fn constrain(params: &mut CertificateParams, permitted: &[(u8, &[u8])], excluded: &[(u8, &[u8])]) {
    let mut value = Vec::new();
    for (tag, names) in [(0xa0, permitted), (0xa1, excluded)] {
        let subtrees: Vec<u8> =
            names.iter().flat_map(|(kind, name)| tlv(0x30, &tlv(*kind, name))).collect();
        if !subtrees.is_empty() {
            value.extend(tlv(tag, &subtrees));
        }
    }
    params.custom_extensions.push(extension(&[2, 5, 29, 30], tlv(0x30, &value), true));
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("a short value");
    assert!(length < 0x80, "a short value");
    [&[tag, length], content].concat()
}

fn extension(oid: &[u64], value: Vec<u8>, critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, value);
    extension.set_criticality(critical);
    extension
}
