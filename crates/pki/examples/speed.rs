//! What one X.509-SVID and one JWT-SVID cost, in microseconds of CPU:
//! `cargo run --release -p signet-pki --example speed`.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use signet_identity::SpiffeId;
use signet_pki::{
    KeyManager, KeyType, MemoryKeyManager, PrivateKey, SignatureAlgorithm, Signer,
    jwt::{JwtBundle, JwtClaims, JwtIssuer, validate},
    x509::{
        Ca, CaIssuer, CaParams, Certificate, Csr, CsrParams, Name, SvidParams, TrustBundle,
        create_csr, self_sign_ca, self_signed_ca, verify_svid,
    },
};
use signet_time::UnixTime;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let id: SpiffeId = "spiffe://example.org/ns/default/sa/web".parse()?;
    let signer = PrivateKey::generate(KeyType::EcP256)?.signer()?;
    let [now, not_after] = [1_800_000_000, 1_800_086_400].map(UnixTime::from_seconds);
    let trust_domain = id.trust_domain().clone();
    let params = CaParams {
        trust_domain: trust_domain.clone(),
        subject: Name::spiffe_ca(),
        extensions: vec![],
        now,
        not_after,
    };
    let certificate = Certificate::from_der(&self_sign_ca(&*signer, &params)?.der)?;
    let trust = TrustBundle::new(trust_domain.clone(), &[certificate.der().clone()])?;
    let ca = CaIssuer::new(certificate, vec![], signer.clone())?;
    let csr = create_csr(&CsrParams::workload(id.clone()), &*signer)?;
    let svid = |public_key: &_| {
        ca.issue_svid(&SvidParams {
            spiffe_id: &id,
            public_key,
            dns_names: &[],
            subject: None,
            extensions: &[],
            now,
            not_after,
        })
    };
    measure("P-256 sign alone", || Ok(signer.sign(SignatureAlgorithm::EcdsaP256Sha256, &csr)?))?;
    measure("CSR read and verified", || Ok(Csr::verified_public_key(&csr)?))?;
    measure("CSR read whole and verified", || Ok(Csr::from_der(&csr)?))?;
    measure("X.509-SVID issued", || Ok(svid(signer.public_key())?))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let keys = MemoryKeyManager::new();
    let managed = runtime.block_on(keys.generate_key("x509-CA-A", KeyType::EcP256))?;
    let params = CaParams { subject: Name::spiffe_ca(), ..params };
    let managed_ca =
        runtime.block_on(self_signed_ca(managed.public_key(), &params)?.sign_with(&managed));
    let managed_ca =
        Ca::new(Certificate::from_der(&managed_ca?.der)?, vec![], managed.public_key())?;
    measure("X.509-SVID issued with a managed key in this process", || {
        let unsigned = managed_ca.svid(&SvidParams {
            spiffe_id: &id,
            public_key: signer.public_key(),
            dns_names: &[],
            subject: None,
            extensions: &[],
            now,
            not_after,
        })?;
        Ok(runtime.block_on(unsigned.sign_with(&managed))?)
    })?;
    measure("CSR verified and X.509-SVID issued", || Ok(svid(&Csr::verified_public_key(&csr)?)?))?;
    let leaf = svid(signer.public_key())?.der;
    measure("X.509-SVID verified", || Ok(verify_svid(&[&leaf], &trust, now)?))?;
    measure("certificate read", || Ok(Certificate::from_der(&leaf)?))?;
    let jwt = JwtIssuer::new("k".repeat(32), not_after, signer.clone())?;
    let audience = ["audience".to_owned()];
    let claims = JwtClaims {
        spiffe_id: &id,
        audience: &audience,
        issued_at: now,
        expires_at: not_after,
        issuer: None,
        jti: false,
    };
    measure("JWT-SVID signed", || Ok(jwt.sign(&claims)?))?;
    let token = jwt.sign(&claims)?.token;
    let authority = signet_identity::JwtAuthority {
        public_key: signer.public_key().spki_der().into(),
        key_id: jwt.key_id().clone(),
        expires_at: UnixTime::EPOCH,
        tainted: false,
    };
    let bundle = JwtBundle::new(trust_domain, &[authority]);
    measure("JWT-SVID validated", || Ok(validate(&token, &audience, now, |_| Some(&bundle))?))?;
    measure("P-256 key made", || Ok(PrivateKey::generate(KeyType::EcP256)?))?;
    measure("P-256 key made and CSR written", || {
        let signer = PrivateKey::generate(KeyType::EcP256)?.signer()?;
        Ok(create_csr(&CsrParams::workload(id.clone()), &*signer)?)
    })
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
