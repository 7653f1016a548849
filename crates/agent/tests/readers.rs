//! Whatever others write, its reader says what is wrong with it and goes on: good inputs that were
//! tampered with, a few thousand of each kind, the same in every run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use prost::Message;
use signet_api::{
    convert,
    pb::{signet::api::push::v1 as push, spire::api::types, workload},
};
use signet_attest::workload::{
    container::{Viewpoint, pod_containers},
    k8s::pods::{PodIndex, PodReader},
};
use signet_identity::TrustDomain;
use signet_pki::{
    KeyType, PrivateKey, jwks,
    jwt::{peek_subject, validate},
    pem,
    x509::{Certificate, Csr, CsrParams, Name, create_csr, split_der_chain},
};
use signet_testkit::mutated;
use signet_time::UnixTime;

/// How many inputs each reader gets.
const INPUTS: usize = 3_000;
/// How long one input may take, in a build without optimisation on a busy machine.
const LIMIT: Duration = Duration::from_secs(5);

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(file(path)).unwrap()
}

/// The files of a directory that end so.
fn all(directory: &str, end: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        std::fs::read_dir(file(directory)).unwrap().map(|found| found.unwrap().path()).collect();
    paths.sort();
    let wanted = paths.iter().filter(|path| path.to_str().unwrap().ends_with(end));
    wanted.map(|path| std::fs::read(path).unwrap()).collect()
}

/// Gives every input to `reader`: the seeds as they are first.
fn each(seeds: &[Vec<u8>], reader: impl Fn(&[u8])) {
    for input in seeds.iter().cloned().chain(mutated(seeds, INPUTS)) {
        let begun = Instant::now();
        reader(&input);
        let text = String::from_utf8_lossy(&input);
        assert!(begun.elapsed() < LIMIT, "{:?} for {text}", begun.elapsed());
    }
}

fn trust_domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

#[test]
fn configuration_files() {
    let mut seeds = all("docs/samples", ".conf");
    seeds.extend(all("docs/samples", ".json"));
    each(&seeds, |text| {
        let Ok(text) = std::str::from_utf8(text) else { return };
        let _ = signet_config::parse("test", text);
        let _ = signet_config::expand_env(text, &|name| (name.len() < 4).then(|| name.to_owned()));
    });
}

#[test]
fn certificates_and_requests_for_them() {
    let pem = String::from_utf8(read("crates/pki/tests/data/spire-1.15.3/svid.pem")).unwrap();
    let certificates = pem::decode_certificates(&pem).unwrap();
    each(&certificates, |der| {
        if let Ok(certificate) = Certificate::from_der(der) {
            assert_eq!(&**certificate.der(), der);
            let _ = (certificate.spiffe_id(), certificate.is_ca(), certificate.key_usage());
            let _ = certificate.public_key().map(|key| certificate.is_signed_by(key));
        }
        if let Ok(chain) = split_der_chain(der) {
            assert_eq!(chain.iter().map(|one| one.len()).sum::<usize>(), der.len());
        }
    });
    let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let params = CsrParams {
        subject: Name::default(),
        uri: Some("spiffe://example.org/a".parse().unwrap()),
        dns_names: vec!["a.b".to_owned()],
        extensions: Vec::new(),
    };
    let csr = create_csr(&params, &*signer).unwrap();
    each(&[csr], |der| {
        // Both look at the same signature.
        assert!(Csr::from_der(der).is_err() || Csr::verified_public_key(der).is_ok());
    });
}

#[test]
fn bundles_in_every_form() {
    let mut seeds = all("crates/pki/tests/data/bundles", ".json");
    seeds.push(read("crates/pki/tests/data/spire-1.15.3/bundle.json"));
    seeds.push(read("crates/pki/tests/data/spire-1.15.3/bundle.pem"));
    each(&seeds, |text| {
        if let Ok(bundle) = jwks::decode_spiffe(trust_domain(), text) {
            let written = jwks::encode_spiffe(&bundle).unwrap();
            let again = jwks::decode_spiffe(trust_domain(), written.as_bytes()).unwrap();
            // A certificate whose key no JWK of ours can say is left out, and nothing else.
            assert_eq!(jwks::encode_spiffe(&again).unwrap(), written);
        }
        let _ = jwks::decode_jwt_jwks(text);
        let _ = jwks::decode_pem(trust_domain(), text);
    });
}

#[test]
fn tokens() {
    each(&[read("crates/pki/tests/data/spire-1.15.3/token.jwt")], |token| {
        let Ok(token) = std::str::from_utf8(token) else { return };
        let _ = peek_subject(token);
        assert!(
            validate(token, &["a".to_owned()], UnixTime::from_seconds(1_000_000_000), |_| None)
                .is_err()
        );
    });
}

#[test]
fn cgroups_of_callers_and_pods_of_kubelets() {
    each(&all("crates/attest/tests/fixtures/kubernetes", ".txt"), |text| {
        let text = String::from_utf8_lossy(text);
        if let Ok(chain) = pod_containers(&text, &Viewpoint::of("0::/\n")) {
            assert!(chain.candidates().iter().all(|found| !found.container_id.is_empty()));
        }
    });
    let pods = [
        read("crates/attest/tests/fixtures/kubernetes/pods_v1.json"),
        read("crates/attest/tests/fixtures/kubernetes/pods_v2.json"),
    ];
    each(&pods, |list| {
        let whole = PodIndex::read(list).map(|pods| pods.len()).ok();
        let mut reader = PodReader::default();
        let mut pieces = list.chunks(997);
        let pieces = pieces.try_for_each(|piece| reader.push(piece)).and_then(|()| reader.finish());
        assert_eq!(whole, pieces.map(|pods| pods.len()).ok(), "however it comes in pieces");
    });
}

#[test]
fn messages_of_both_ends() {
    let id = types::Spiffeid { trust_domain: "example.org".into(), path: "/a".into() };
    let entry = types::Entry {
        spiffe_id: Some(id.clone()),
        parent_id: Some(id),
        selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:1".into() }],
        dns_names: vec!["a.b".into()],
        ..types::Entry::default()
    };
    let bundle = types::Bundle {
        trust_domain: "example.org".into(),
        x509_authorities: vec![types::X509Certificate { asn1: vec![1; 40].into(), tainted: true }],
        ..types::Bundle::default()
    };
    let notice = push::Notice {
        feed_id: "f".into(),
        entries_revision: 7,
        bundles_revision: 300,
        ..push::Notice::default()
    };
    let seeds = [entry.encode_to_vec(), bundle.encode_to_vec(), notice.encode_to_vec()];
    each(&seeds, |bytes| {
        if let Ok(entry) = types::Entry::decode(bytes) {
            let _ = convert::entry_from_pb(&trust_domain(), &entry);
        }
        if let Ok(bundle) = types::Bundle::decode(bytes) {
            let _ = convert::bundle_from_pb(&bundle);
        }
        let _ = push::Notice::decode(bytes);
        let _ = push::ListEntryChangesResponse::decode(bytes);
        let _ = workload::JwtsvidRequest::decode(bytes);
        let _ = workload::X509svidResponse::decode(bytes);
    });
}
