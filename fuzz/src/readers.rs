//! The readers, and what must hold whatever they read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use prost::Message;
use signet_agent::serve::endpoint::Lenient;
use signet_api::{
    convert,
    pb::{signet::api::push::v1 as push, spire::api::types, workload},
};
use signet_attest::workload::{
    container::{Viewpoint, containers, pod_containers},
    k8s::pods::{PodIndex, PodReader},
};
use signet_pki::{
    jwks,
    jwt::{peek_claims, peek_subject, validate},
    x509::{Certificate, Csr, split_der_chain},
};
use signet_template::{Functions, MAX_RESULT, Template, Value};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Reads one input; panics when something does not hold.
pub(crate) type Reader = fn(&[u8]);

/// Every target, by name.
pub(crate) const ALL: &[(&str, Reader)] = &[
    ("bundle", bundle),
    ("certificate", certificate),
    ("cgroup", cgroup),
    ("csr", csr),
    ("hcl", hcl),
    ("http2", http2),
    ("json", json),
    ("jwt", jwt),
    ("mountinfo", mountinfo),
    ("pods", pods),
    ("proxy", proxy),
    ("push", pushed),
    ("template", template),
    ("workload_api", workload_api),
];

/// Trust bundles: SPIFFE's JSON, JWKS and PEM.
fn bundle(text: &[u8]) {
    let trust_domain = || "example.org".parse().expect("a trust domain");
    if let Ok(bundle) = jwks::decode_spiffe(trust_domain(), text) {
        let written = jwks::encode_spiffe(&bundle).expect("what was read can be written");
        let again = jwks::decode_spiffe(trust_domain(), written.as_bytes());
        let again = again.expect("what was written can be read");
        // Keys of a kind that no JWK of ours can say are left out the first time.
        assert!(again.x509_authorities.len() <= bundle.x509_authorities.len());
        assert_eq!(jwks::encode_spiffe(&again).expect("it can be written again"), written);
    }
    _ = jwks::decode_jwt_jwks(text);
    _ = jwks::decode_pem(trust_domain(), text);
}

/// Certificates and chains of them (DER).
fn certificate(der: &[u8]) {
    if let Ok(certificate) = Certificate::from_der(der) {
        _ = certificate.spiffe_id();
        _ = certificate.public_key().map(|key| certificate.is_signed_by(key));
        _ = (certificate.is_ca(), certificate.key_usage(), certificate.is_self_signed());
        _ = (certificate.not_before(), certificate.not_after(), certificate.subject_key_id_hex());
        assert_eq!(&**certificate.der(), der);
    }
    if let Ok(chain) = split_der_chain(der) {
        assert_eq!(chain.iter().map(|one| one.len()).sum::<usize>(), der.len());
    }
}

/// Cgroup files of callers: names in them can be made by workloads.
fn cgroup(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (own, of_caller) = text.split_once('\0').unwrap_or(("0::/\n", &text));
    if let Ok(chain) = pod_containers(of_caller, &Viewpoint::of(own)) {
        for candidate in chain.candidates() {
            assert!(!candidate.container_id.is_empty());
        }
    }
    _ = containers(of_caller);
}

/// Certificate signing requests (DER).
fn csr(der: &[u8]) {
    if let Ok(csr) = Csr::from_der_unverified(der) {
        _ = (csr.raw_subject(), csr.uris(), csr.dns_names(), csr.extensions());
    }
    let verified = Csr::from_der(der).is_ok();
    // Both look at the same signature.
    assert!(!verified || Csr::verified_public_key(der).is_ok());
}

/// Configuration files, HCL and JSON.
fn hcl(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    _ = signet_config::parse("fuzz", text);
    let expanded =
        signet_config::expand_env(text, &|name| (name.len() < 4).then(|| name.to_owned()));
    _ = signet_config::parse("fuzz", &expanded);
}

/// The first bytes of HTTP/2 and the header blocks (HPACK) that are corrected on the way.
fn http2(bytes: &[u8]) {
    let whole = corrected(bytes, 4096);
    assert!(whole.len() <= bytes.len(), "what is written is never longer");
    assert_eq!(whole, corrected(bytes, 3), "it does not matter in which pieces bytes come");
}

fn corrected(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut read = Vec::new();
    let mut reader = Lenient::new(Pieces(bytes, piece));
    block_on(reader.read_to_end(&mut read)).expect("reading from memory");
    read
}

/// Gives so many bytes at a time.
struct Pieces<'b>(&'b [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.1.min(self.0.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(work)
}

/// JSON as Go's library reads it: what people feed to `-data` and `-file`.
fn json(text: &[u8]) {
    _ = signet_daemon::go_json::from_slice::<serde_json::Value>(text);
}

/// JWT-SVIDs.
fn jwt(token: &[u8]) {
    let Ok(token) = std::str::from_utf8(token) else { return };
    _ = (peek_claims(token), peek_subject(token));
    assert!(
        validate(
            token,
            &["a".to_owned()],
            signet_time::UnixTime::from_seconds(1_000_000_000),
            |_| None
        )
        .is_err()
    );
}

/// The table of mounts, in which names come from whoever mounts.
fn mountinfo(table: &[u8]) {
    for id in [0, 1, 22] {
        _ = signet_agent::csi::mounted(table, id);
    }
}

/// The kubelet's list of pods.
fn pods(list: &[u8]) {
    let whole = PodIndex::read(list);
    let mut reader = PodReader::default();
    let pieces =
        list.chunks(7).try_for_each(|piece| reader.push(piece)).and_then(|()| reader.finish());
    assert_eq!(whole.as_ref().map(PodIndex::len).ok(), pieces.as_ref().map(PodIndex::len).ok());
}

/// Headers of the PROXY protocol.
fn proxy(bytes: &[u8]) {
    _ = block_on(signet_daemon::listen::proxy_header(bytes));
}

/// What a server pushes to its agents, and the entries and bundles that it sends them.
fn pushed(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let trust_domain = "example.org".parse().expect("a trust domain");
    match kind % 6 {
        0 => drop(push::SubscribeRequest::decode(bytes)),
        1 => drop(push::Notice::decode(bytes)),
        2 => drop(push::ListEntryChangesRequest::decode(bytes)),
        3 => drop(push::ListEntryChangesResponse::decode(bytes)),
        4 => {
            if let Ok(entry) = types::Entry::decode(bytes) {
                _ = convert::entry_from_pb(&trust_domain, &entry);
            }
        }
        _ => {
            if let Ok(bundle) = types::Bundle::decode(bytes) {
                _ = convert::bundle_from_pb(&bundle);
            }
        }
    }
}

/// Templates of paths and SPIFFE IDs.
fn template(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let list = Value::List(vec![Value::from("x"), Value::Nil, Value::Float(1.5)]);
    let map = Value::Map([("k".to_owned(), Value::from("v"))].into());
    let data = Value::Struct(
        [
            ("a".to_owned(), Value::Int(3)),
            ("l".to_owned(), list),
            ("m".to_owned(), map),
            ("t".to_owned(), Value::from("déjà vu, HTTPServer_2 a/b/../c")),
        ]
        .into(),
    );
    for functions in [Functions::go(), Functions::sprig_subset().missing_key_is_error()] {
        if let Ok(template) = Template::parse(text, &functions)
            && let Ok(result) = template.render(&data)
        {
            assert!(result.len() <= MAX_RESULT);
        }
    }
}

/// Messages of the Workload API, of both ends.
fn workload_api(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 6 {
        0 => drop(workload::JwtsvidRequest::decode(bytes)),
        1 => drop(workload::ValidateJwtsvidRequest::decode(bytes)),
        2 => drop(workload::X509svidResponse::decode(bytes)),
        3 => drop(workload::JwtsvidResponse::decode(bytes)),
        4 => drop(workload::X509BundlesResponse::decode(bytes)),
        _ => drop(workload::JwtBundlesResponse::decode(bytes)),
    }
}
