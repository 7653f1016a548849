//! Certificate Authority Service (REST, v1), after its reference: pools, authorities, certificates.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SubjectPublicKeyInfo,
};
use serde_json::{Value, json};

use super::answers::{failure, invalid, not_found, paged};
use crate::Reply;

const REGION: &str = "projects/p-1/locations/europe-west1";

/// What is there.
#[derive(Default)]
pub(super) struct Cas {
    authorities: Vec<Authority>,
    /// What was signed, by the name of the certificate; and the ID of its request.
    certificates: BTreeMap<String, (String, Value)>,
}

struct Authority {
    pool: String,
    id: String,
    labels: BTreeMap<String, String>,
    state: String,
    years: u32,
    issuer: Issuer<'static, KeyPair>,
    /// PEM, its own first and the root last.
    chain: Vec<String>,
}

impl Cas {
    pub(super) fn put(
        &mut self,
        pool: &str,
        id: &str,
        label: (&str, &str),
        state: &str,
        years: u32,
        below_root: bool,
    ) -> Vec<u8> {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params
        };
        let key = KeyPair::generate().expect("a key");
        let root = params(&format!("{id} root"));
        let root_certificate = root.self_signed(&key).expect("a certificate");
        let mut issuer = Issuer::new(root, key);
        let mut chain = vec![root_certificate.pem()];
        if below_root {
            let key = KeyPair::generate().expect("a key");
            let between = params(id);
            chain.insert(0, between.signed_by(&key, &issuer).expect("a certificate").pem());
            issuer = Issuer::new(between, key);
        }
        self.authorities.push(Authority {
            pool: pool.to_owned(),
            id: id.to_owned(),
            labels: [(label.0.to_owned(), label.1.to_owned())].into(),
            state: state.to_owned(),
            years,
            issuer,
            chain,
        });
        root_certificate.der().to_vec()
    }
}

pub(super) fn reply(
    cas: &mut Cas,
    method: &str,
    resource: &str,
    query: &BTreeMap<String, String>,
    body: &Value,
) -> Reply {
    let Some(rest) = resource.strip_prefix(REGION).and_then(|rest| rest.strip_prefix("/caPools"))
    else {
        return failure(403, "PERMISSION_DENIED", "denied, or it does not exist");
    };
    let parts: Vec<_> = rest.trim_start_matches('/').split('/').collect();
    match (method, &parts[..]) {
        ("GET", [""]) => {
            let mut pools: Vec<_> = cas.authorities.iter().map(|ca| &ca.pool).collect();
            pools.dedup();
            let shown =
                pools.iter().map(|pool| json!({ "name": format!("{REGION}/caPools/{pool}") }));
            paged("caPools", shown.collect(), query)
        }
        ("GET", [pool, "certificateAuthorities"]) => {
            let filter = query.get("filter").and_then(|filter| filter.strip_prefix("labels."));
            let Some((key, value)) = filter.and_then(|filter| filter.split_once(':')) else {
                return invalid("the filter is not understood");
            };
            let found = cas.authorities.iter().filter(|ca| {
                ca.pool == *pool && ca.labels.get(key).is_some_and(|found| found.contains(value))
            });
            let shown = found.map(|ca| {
                json!({
                    "name": format!("{REGION}/caPools/{pool}/certificateAuthorities/{}", ca.id),
                    "state": ca.state,
                    "createTime": "2026-01-01T00:00:00.123456Z",
                    "lifetime": format!("{}s", u64::from(ca.years) * 31_536_000),
                    "pemCaCertificates": ca.chain,
                    "labels": ca.labels,
                })
            });
            paged("certificateAuthorities", shown.collect(), query)
        }
        ("POST", [pool, "certificates"]) => create(cas, pool, query, body),
        ("GET", [_, "certificates", _]) => match cas.certificates.get(resource) {
            Some((_, made)) => Reply::new(200, made.clone()),
            None => not_found(),
        },
        _ => not_found(),
    }
}

fn create(cas: &mut Cas, pool: &str, query: &BTreeMap<String, String>, body: &Value) -> Reply {
    let parameter = |name: &str| query.get(name).map_or("", String::as_str);
    let (id, request) = (parameter("certificateId"), parameter("requestId"));
    let name = format!("{REGION}/caPools/{pool}/certificates/{id}");
    if let Some((of, made)) = cas.certificates.get(&name) {
        return match of == request {
            true => Reply::new(200, made.clone()),
            false => failure(409, "ALREADY_EXISTS", "the certificate exists"),
        };
    }
    let issuing = parameter("issuingCertificateAuthorityId");
    let found = cas.authorities.iter().find(|ca| ca.pool == pool && ca.id == issuing);
    let Some(ca) = found.filter(|ca| ca.state == "ENABLED") else {
        return failure(400, "FAILED_PRECONDITION", "the authority is not enabled");
    };
    let config = &body["config"];
    let key = &config["publicKey"];
    let pem = key["key"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let spki = SubjectPublicKeyInfo::from_pem(&String::from_utf8_lossy(&pem));
    let (true, Ok(spki)) = (key["format"] == "PEM", spki) else {
        return invalid("publicKey is no PEM key");
    };
    let x509 = &config["x509Config"];
    let usage = &x509["keyUsage"]["baseKeyUsage"];
    let lifetime = body["lifetime"].as_str().and_then(|text| text.strip_suffix('s'));
    let known = x509["caOptions"] == json!({ "isCa": true, "maxIssuerPathLength": 0 })
        && *usage == json!({ "certSign": true, "crlSign": true })
        && lifetime.is_some_and(|text| text.parse::<u64>().is_ok());
    if !known || id.is_empty() || id.len() > 63 || request.is_empty() {
        return invalid("the certificate is not described as expected");
    }
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let subject = &config["subjectConfig"]["subject"];
    for (kind, field) in
        [(DnType::CommonName, "commonName"), (DnType::OrganizationName, "organization")]
    {
        if let Some(text) = subject[field].as_str().filter(|text| !text.is_empty()) {
            params.distinguished_name.push(kind, text);
        }
    }
    let uris = config["subjectConfig"]["subjectAltName"]["uris"].as_array();
    for uri in uris.into_iter().flatten().filter_map(Value::as_str) {
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI")));
    }
    let made = params.signed_by(&spki, &ca.issuer).expect("a certificate");
    let made = json!({
        "name": name,
        "pemCertificate": made.pem(),
        "pemCertificateChain": ca.chain,
    });
    cas.certificates.insert(name, (request.to_owned(), made.clone()));
    Reply::new(200, made)
}
