//! What the audit log costs beside an X.509-SVID, in microseconds of CPU of the whole process:
//! `cargo run --release -p signet-audit --example cost`.
//!
//! SVIDs are issued without and with a record in the chain by turns, so that a machine that is busy
//! otherwise is so for both.

use std::{error::Error, fs, hint::black_box, time::Duration};

use signet_audit::{AuditEvent, Caller, Chain, ChainOptions, Field, Kind, Sink};
use signet_base::{Clock as _, SystemClock};
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, PrivateKey, digest,
    x509::{
        CaIssuer, CaParams, Certificate, Csr, CsrParams, Name, SvidParams, create_csr, self_sign_ca,
    },
};

/// How often both are measured, and how many SVIDs each time.
const ROUNDS: u32 = 10;
const SVIDS: u32 = 2_000;
/// The kernel counts CPU in hundredths of a second.
const TICK: f64 = 10_000.0;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let options = ChainOptions::new(dir.path().join("log"));
    let chain = Chain::open(options, SystemClock::shared(), "cost", "1")?;
    let id: SpiffeId = "spiffe://example.org/ns/default/sa/web".parse()?;
    let agent: SpiffeId = "spiffe://example.org/spire/agent/k8s_psat/c/n".parse()?;
    let signer = PrivateKey::generate(KeyType::EcP256)?.signer()?;
    let now = SystemClock.unix();
    let (trust_domain, not_after) = (id.trust_domain().clone(), now + Duration::from_secs(3600));
    let params =
        CaParams { trust_domain, subject: Name::spiffe_ca(), extensions: vec![], now, not_after };
    let certificate = Certificate::from_der(&self_sign_ca(&*signer, &params)?.der)?;
    let ca = CaIssuer::new(certificate, vec![], signer.clone())?;
    let csr = create_csr(&CsrParams::workload(id.clone()), &*signer)?;
    // What the server does for an agent: the CSR is verified, the SVID signed.
    let issue = || -> Result<String, Box<dyn Error>> {
        let issued = ca.issue_svid(&SvidParams {
            spiffe_id: &id,
            public_key: &Csr::verified_public_key(&csr)?,
            dns_names: &[],
            subject: None,
            extensions: &[],
            now,
            not_after,
        })?;
        Ok(issued.serial.to_string())
    };
    let (mut without, mut with) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        let began = cpu()?;
        for _ in 0..SVIDS {
            black_box(issue()?);
        }
        let between = cpu()?;
        for number in 0..SVIDS {
            let serial = issue()?;
            let caller = Caller {
                authorized_as: Some("agent"),
                authorized_via: Some("datastore"),
                id: Some(agent.clone()),
                ..Caller::default()
            };
            let mut event = AuditEvent::new(caller, "svid.v1.SVID", "BatchNewX509SVID");
            event.kind = Kind::Issuance;
            event.request_id = format!("6f9619ff-8b86-4d01-b42d-{number:012}").into();
            event.fields = vec![
                Field::EntryId("0c9b1f8c-4a51-4fd5-9d7c-5f5f6c9bb0b1".to_owned()),
                Field::SpiffeId(id.clone()),
                Field::SerialNumber(serial),
                Field::Csr(digest::sha256_hex(&csr)),
                Field::ExpiresAt(not_after),
            ];
            chain.record(&event);
        }
        // The log is written by a thread of its own: what it does counts too.
        if !chain.flush(PATIENCE) {
            return Err("the log was not written in time".into());
        }
        without += between - began;
        with += cpu()? - between;
    }
    chain.close(PATIENCE);
    let each = |sum: f64| sum * TICK / f64::from(ROUNDS * SVIDS);
    println!("{:8.2} µs  an X.509-SVID without a record", each(without));
    println!("{:8.2} µs  with one in the chain", each(with));
    println!("{:8.2} %   more", (with / without - 1.0) * 100.0);
    Ok(())
}

/// CPU that this process used, user and system, in ticks of the kernel.
fn cpu() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |at: usize| -> Result<f64, Box<dyn Error>> {
        Ok(fields.get(at).ok_or("too few fields in /proc/self/stat")?.parse()?)
    };
    Ok(field(11)? + field(12)?)
}
