//! Requests for certificates that no decent client would make.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use e2e::{Lines, Server, ServerOptions, clients::go_binary, skip};
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256,
    PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use signet_api::{
    connect,
    pb::spire::api::server::svid::v1::{MintX509svidRequest, svid_client::SvidClient},
};
use tonic::Code;

use crate::grpc;

/// The longest that a refusal may take: a debug build on a busy machine, but no key of 16384 bits.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A key of any form that signs whatever it likes.
struct Forged {
    public: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
    signature: Vec<u8>,
}

impl PublicKeyData for Forged {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Forged {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.signature.clone())
    }
}

/// A key that shows the public half of another one.
struct Foreign<'a>(&'a KeyPair, &'a KeyPair);

impl PublicKeyData for Foreign<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Foreign<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.1.sign(message)
    }
}

fn request(key: &impl SigningKey) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let uri = "spiffe://example.org/minted".try_into().expect("an ASCII text");
    params.subject_alt_names.push(SanType::URI(uri));
    params.serialize_request(key).expect("a request").der().to_vec()
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("a short value").to_be_bytes();
    [&[tag, 0x84], &length[..], content].concat()
}

/// An RSA public key: a modulus of so many bits, all of them set, and an exponent.
fn rsa(bits: usize, exponent: &[u8]) -> Forged {
    let modulus = [&[0][..], &vec![0xff; bits / 8]].concat();
    let public = der(0x30, &[der(2, &modulus), der(2, exponent)].concat());
    Forged { public, algorithm: &PKCS_RSA_SHA256, signature: vec![1; bits / 8] }
}

const F4: &[u8] = &[1, 0, 1];

/// Each with a name; none may ever be signed.
fn bad() -> Vec<(&'static str, Vec<u8>)> {
    let (own, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let good = request(&own);
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|window| window == from).expect("the bytes");
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    let prime256v1 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let curve = |n: u8| [&prime256v1[..7], &[n]].concat();
    let point = own.der_bytes();
    let off_curve = [&point[..point.len() - 1], &[point[point.len() - 1] ^ 1]].concat();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let mut exponent = vec![0x7f; 2048];
    exponent[2047] = 1;
    let mut deep = vec![0x30; 60_000];
    deep.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = 0x80);
    vec![
        ("nothing", Vec::new()),
        ("a byte", vec![0x30]),
        ("text", b"-----BEGIN CERTIFICATE REQUEST-----".to_vec()),
        ("half", good[..good.len() / 2].to_vec()),
        ("all but a byte", good[..good.len() - 1].to_vec()),
        ("a byte more", [&good[..], &[0]].concat()),
        ("a wrong length", replaced(&good[..4], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff])),
        ("a deep nest", deep),
        ("a megabyte", vec![0x30; 1 << 20]),
        ("a changed signature", [&good[..good.len() - 1], &[good[good.len() - 1] ^ 1]].concat()),
        (
            "no signature",
            request(&Forged {
                public: point.to_vec(),
                algorithm: &PKCS_ECDSA_P256_SHA256,
                signature: Vec::new(),
            }),
        ),
        ("a key of somebody else", request(&Foreign(&own, &other))),
        ("a point off its curve", replaced(point, &off_curve)),
        ("the curve prime192v1", replaced(&prime256v1, &curve(1))),
        ("the curve prime239v3", replaced(&prime256v1, &curve(6))),
        ("a curve nobody knows", replaced(&prime256v1, &curve(0x7f))),
        ("Ed25519", request(&ed25519)),
        ("RSA of 512 bits", request(&rsa(512, F4))),
        ("RSA of 1024 bits", request(&rsa(1024, F4))),
        ("RSA of 16384 bits", request(&rsa(16_384, F4))),
        ("RSA of 65536 bits", request(&rsa(65_536, F4))),
        ("RSA of 16384 bits with as long an exponent", request(&rsa(16_384, &exponent))),
        ("RSA with a long exponent", request(&rsa(2048, &exponent[..256]))),
        ("RSA with the exponent 1", request(&rsa(2048, &[1]))),
        ("RSA with the exponent 0", request(&rsa(2048, &[0]))),
    ]
}

#[test]
fn no_bad_request_is_signed_on_the_local_socket() {
    let server = Server::start(ServerOptions::default());
    let rt = grpc::runtime();
    let mint = |csr: Vec<u8>| {
        rt.block_on(async {
            let channel = connect::unix(&server.socket()).await.expect("a channel");
            let request = MintX509svidRequest { csr: csr.into(), ttl: 0 };
            SvidClient::new(channel).mint_x509svid(request).await
        })
    };
    mint(request(&KeyPair::generate().expect("a key"))).expect("a good one is signed");
    for (what, csr) in bad() {
        let start = Instant::now();
        let refused = mint(csr).expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
        assert!(!refused.message().is_empty(), "{what}");
        assert!(start.elapsed() < AT_ONCE, "{what} took {:?}", start.elapsed());
    }
    server.cli().line("healthcheck").ok();
    mint(request(&KeyPair::generate().expect("a key"))).expect("a good one is still signed");
}

#[test]
fn no_bad_request_of_an_agent_is_signed() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let server = Server::start(ServerOptions::default());
    let entry = server.register("/node", "/workload", &["unix:uid:1000"], "");
    let mut agent = Lines::start(
        Command::new(program)
            .args(["spire-agent", "-addr", &format!("127.0.0.1:{}", server.port()), "-bundle"])
            .arg(server.bundle_file()),
    );
    // A megabyte does not fit into a line of this client.
    let bad: Vec<_> = bad().into_iter().filter(|(_, csr)| csr.len() < 40_000).collect();
    let token = server.token("/node");
    for (what, csr) in &bad {
        let refused = agent.ask(&format!("attest-csr {token} {}", STANDARD.encode(csr)));
        assert_eq!(refused["code"], "InvalidArgument", "{what}: {refused}");
    }
    let attested = agent.ask(&format!("attest {token}"));
    assert!(attested["id"].is_string(), "the token is not spent by a bad request: {attested}");
    e2e::eventually("the entry is known", || {
        let synced = agent.ask("sync");
        synced.to_string().contains(&entry).then_some(())
    });
    for (what, csr) in &bad {
        let signed = agent.ask(&format!("sign {entry}=csr:{}", STANDARD.encode(csr)));
        assert_eq!(signed["results"][0]["code"], 3, "{what}: {signed}");
    }
    let signed = agent.ask(&format!("sign {entry}"));
    assert_eq!(signed["results"][0]["code"], 0, "{signed}");
}
