//! Ports in memory that can be made to fail, and a server's worth of setup.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use signet_authority::{
    Authority, AuthorityError, AuthorityOptions, AuthorityPorts, CaManager, TrustRoot,
    ports::{BundleEdit, BundleStore, JournalStore, PortError},
};
use signet_base::TestClock;
use signet_identity::{Bundle, JwtAuthority, SpiffeId, X509Authority};
use signet_pki::{
    CredentialComposer, KeyManager, KeyManagerError, KeyType, ManagedKey, MemoryKeyManager,
    PrivateKey, UpstreamAuthority,
    jwt::{JwtBundle, validate},
    key_manager::{SigningFault, SigningLimits, fake::FakeRemoteKeyManager},
    ports::{MintedCa, PortError as UpstreamError, UpstreamBundle},
    x509::{
        CaIssuer, CaParams, Certificate, Csr, Name, TrustBundle, VerifiedSvid, self_sign_ca,
        verify_svid,
    },
};
use signet_time::UnixTime;

/// Counts down writes of any kind; at zero the "machine" dies and nothing works until revived.
#[derive(Debug)]
pub struct Crash(AtomicU32);

impl Default for Crash {
    fn default() -> Self {
        Self(AtomicU32::new(u32::MAX))
    }
}

impl Crash {
    pub fn after(&self, writes: u32) {
        self.0.store(writes, Ordering::SeqCst);
    }

    pub fn revive(&self) {
        self.0.store(u32::MAX, Ordering::SeqCst);
    }

    fn write(&self) -> Result<(), PortError> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| match n {
            u32::MAX => Some(n),
            n => n.checked_sub(1),
        });
        left.map(drop).map_err(|_| PortError::plain("the machine is off"))
    }

    fn is_off(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

#[derive(Debug, Default)]
pub struct MemoryJournal {
    pub data: Mutex<Option<Vec<u8>>>,
    pub crash: Arc<Crash>,
    pub fails: Mutex<bool>,
}

#[async_trait]
impl JournalStore for MemoryJournal {
    async fn load(&self) -> Result<Option<Vec<u8>>, PortError> {
        Ok(self.data.lock().unwrap().clone())
    }

    async fn save(&self, data: Vec<u8>) -> Result<(), PortError> {
        if *self.fails.lock().unwrap() {
            return Err(PortError::plain("the disk is full"));
        }
        self.crash.write()?;
        *self.data.lock().unwrap() = Some(data);
        Ok(())
    }
}

#[derive(Debug)]
pub struct MemoryBundle {
    pub bundle: Mutex<Bundle>,
    pub crash: Arc<Crash>,
}

#[async_trait]
impl BundleStore for MemoryBundle {
    async fn bundle(&self) -> Result<Option<Bundle>, PortError> {
        let bundle = self.bundle.lock().unwrap().clone();
        Ok((bundle.sequence_number > 0).then_some(bundle))
    }

    async fn edit(&self, edit: BundleEdit) -> Result<(Bundle, bool), PortError> {
        self.crash.write()?;
        let mut bundle = self.bundle.lock().unwrap();
        let changed = edit.apply(&mut bundle);
        if changed {
            bundle.sequence_number += 1;
        }
        Ok((bundle.clone(), changed))
    }
}

/// A key manager whose writes count too.
#[derive(Debug)]
pub struct CrashingKeys {
    pub keys: Arc<dyn KeyManager>,
    pub crash: Arc<Crash>,
}

#[async_trait]
impl KeyManager for CrashingKeys {
    fn name(&self) -> &'static str {
        self.keys.name()
    }

    fn outlives_process(&self) -> bool {
        self.keys.outlives_process()
    }

    fn fault(&self) -> Option<SigningFault> {
        self.keys.fault()
    }

    async fn generate_key(
        &self,
        id: &str,
        key_type: KeyType,
    ) -> Result<ManagedKey, KeyManagerError> {
        self.crash.write().map_err(|_| KeyManagerError::Stopped)?;
        self.keys.generate_key(id, key_type).await
    }

    async fn get_key(&self, id: &str) -> Result<Option<ManagedKey>, KeyManagerError> {
        self.keys.get_key(id).await
    }

    async fn list(&self) -> Result<Vec<(String, ManagedKey)>, KeyManagerError> {
        self.keys.list().await
    }
}

/// An upstream authority with one root at a time.
#[derive(Debug)]
pub struct Upstream {
    pub is_away: Mutex<bool>,
    pub root: Mutex<(Arc<CaIssuer>, bool)>,
    pub older: Mutex<Vec<X509Authority>>,
    /// `None`: it does not publish them.
    pub jwt_keys: Mutex<Option<Vec<JwtAuthority>>>,
    pub wit_keys: Mutex<Option<Vec<JwtAuthority>>>,
    pub tells_revocation: AtomicBool,
    clock: TestClock,
}

impl Upstream {
    pub fn new(clock: &TestClock) -> Arc<Self> {
        Arc::new(Self {
            is_away: Mutex::new(false),
            root: Mutex::new((new_root(clock), false)),
            older: Mutex::default(),
            jwt_keys: Mutex::default(),
            wit_keys: Mutex::default(),
            tells_revocation: AtomicBool::new(false),
            clock: clock.clone(),
        })
    }

    /// A new root from now on; the one before stays known, tainted or not.
    pub fn replace(&self, taint_old: bool) {
        let mut root = self.root.lock().unwrap();
        let der = Arc::clone(root.0.certificate().der());
        self.older.lock().unwrap().push(X509Authority { der, tainted: taint_old });
        *root = (new_root(&self.clock), false);
    }

    pub fn root_id(&self) -> String {
        self.root.lock().unwrap().0.certificate().subject_key_id_hex()
    }

    fn answer(&self) -> Result<(), UpstreamError> {
        match *self.is_away.lock().unwrap() {
            true => {
                Err(UpstreamError::Failed { name: "test", message: "connection refused".into() })
            }
            false => Ok(()),
        }
    }

    fn roots(&self) -> Vec<X509Authority> {
        let root = self.root.lock().unwrap();
        let mut all = self.older.lock().unwrap().clone();
        let der = Arc::clone(root.0.certificate().der());
        all.push(X509Authority { der, tainted: root.1 });
        all
    }
}

fn new_root(clock: &TestClock) -> Arc<CaIssuer> {
    use signet_base::Clock;
    let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let now = clock.unix();
    let params = CaParams {
        trust_domain: "td".parse().unwrap(),
        subject: Name::country_organization("US", "Upstream"),
        extensions: vec![],
        now,
        not_after: now + 10 * 365 * 86_400,
    };
    let issued = self_sign_ca(&*signer, &params).unwrap();
    let certificate = Certificate::from_der(&issued.der).unwrap();
    Arc::new(CaIssuer::new(certificate, vec![], signer).unwrap())
}

#[async_trait]
impl UpstreamAuthority for Upstream {
    fn name(&self) -> &'static str {
        "test"
    }

    async fn mint_x509_ca(&self, csr: &[u8], ttl: Duration) -> Result<MintedCa, UpstreamError> {
        use signet_base::Clock;
        self.answer()?;
        let csr = Csr::from_der(csr).unwrap();
        assert_eq!(csr.uris(), ["spiffe://td"]);
        let now = self.clock.unix();
        let params = CaParams {
            trust_domain: "td".parse().unwrap(),
            subject: csr.subject().clone(),
            extensions: vec![],
            now,
            not_after: now + i64::try_from(ttl.as_secs()).unwrap(),
        };
        let root = Arc::clone(&self.root.lock().unwrap().0);
        let issued = root.issue_ca(csr.public_key(), &params).unwrap();
        Ok(MintedCa { chain: vec![issued.der.into()], upstream_roots: self.roots() })
    }

    async fn upstream_bundle(&self) -> Result<Option<UpstreamBundle>, UpstreamError> {
        self.answer()?;
        Ok(Some(UpstreamBundle {
            roots: self.roots(),
            jwt_keys: self.jwt_keys.lock().unwrap().clone(),
            wit_keys: self.wit_keys.lock().unwrap().clone(),
            tells_revocation: self.tells_revocation.load(Ordering::Relaxed),
        }))
    }

    async fn publish_jwt_key(
        &self,
        key: &JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, UpstreamError> {
        self.answer()?;
        published(&self.jwt_keys, key)
    }

    async fn publish_wit_key(
        &self,
        key: &JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, UpstreamError> {
        self.answer()?;
        published(&self.wit_keys, key)
    }
}

fn published(
    keys: &Mutex<Option<Vec<JwtAuthority>>>,
    key: &JwtAuthority,
) -> Result<Vec<JwtAuthority>, UpstreamError> {
    let mut keys = keys.lock().unwrap();
    let Some(keys) = &mut *keys else {
        return Err(UpstreamError::Unsupported { name: "test", what: "such keys" });
    };
    if !keys.iter().any(|known| known.key_id == key.key_id) {
        keys.push(key.clone());
    }
    Ok(keys.clone())
}

/// In this process; in the test binary `remote`, where all tests run again, behind a remote key
/// manager.
fn usual_keys() -> Arc<dyn KeyManager> {
    if env!("CARGO_CRATE_NAME") == "remote" {
        return Arc::new(FakeRemoteKeyManager::new(SigningLimits::default()));
    }
    Arc::new(MemoryKeyManager::new())
}

/// What survives a restart.
#[derive(Debug, Clone)]
pub struct Machine {
    pub clock: TestClock,
    pub keys: Arc<CrashingKeys>,
    pub journal: Arc<MemoryJournal>,
    pub bundle: Arc<MemoryBundle>,
    pub upstream: Option<Arc<Upstream>>,
    pub options: AuthorityOptions,
    pub composers: Vec<Arc<dyn CredentialComposer>>,
    pub crash: Arc<Crash>,
}

impl Machine {
    pub fn new() -> Self {
        let crash = Arc::new(Crash::default());
        let trust_domain: signet_identity::TrustDomain = "td".parse().unwrap();
        Self {
            clock: TestClock::new(),
            keys: Arc::new(CrashingKeys { keys: usual_keys(), crash: Arc::clone(&crash) }),
            journal: Arc::new(MemoryJournal {
                crash: Arc::clone(&crash),
                ..MemoryJournal::default()
            }),
            bundle: Arc::new(MemoryBundle {
                bundle: Mutex::new(Bundle::empty(trust_domain.clone())),
                crash: Arc::clone(&crash),
            }),
            upstream: None,
            options: AuthorityOptions::new(trust_domain),
            composers: vec![],
            crash,
        }
    }

    /// The same machine with these keys.
    pub fn with_keys(&self, keys: Arc<dyn KeyManager>) -> Self {
        let crash = Arc::clone(&self.crash);
        Self { keys: Arc::new(CrashingKeys { keys, crash }), ..self.clone() }
    }

    pub fn with_upstream() -> Self {
        Self::new().under_upstream()
    }

    pub fn under_upstream(self) -> Self {
        let machine = self;
        let upstream = Upstream::new(&machine.clock);
        Self { upstream: Some(upstream), ..machine }
    }

    pub async fn start(&self) -> Result<(CaManager, Authority), AuthorityError> {
        let ports = AuthorityPorts {
            keys: Arc::clone(&self.keys) as _,
            trust_root: match self.upstream.clone() {
                Some(upstream) => TrustRoot::Upstream(upstream),
                None => TrustRoot::SelfSigned,
            },
            journal: Arc::clone(&self.journal) as _,
            bundle: Arc::clone(&self.bundle) as _,
            composers: self.composers.clone(),
            observer: None,
        };
        CaManager::open(self.options.clone(), ports, Arc::new(self.clock.clone())).await
    }

    pub async fn start_ticked(&self) -> (CaManager, Authority) {
        let (mut manager, authority) = self.start().await.unwrap();
        manager.tick().await.unwrap();
        (manager, authority)
    }

    pub fn bundle(&self) -> Bundle {
        self.bundle.bundle.lock().unwrap().clone()
    }

    pub fn now(&self) -> i64 {
        use signet_base::Clock;
        self.clock.unix().seconds()
    }

    /// Lets time pass in steps of the check interval for a day would take long: the manager is
    /// looked after once every `step`.
    pub async fn pass(&self, manager: &mut CaManager, step: Duration) {
        tokio::time::advance(step).await;
        manager.tick().await.unwrap();
    }

    /// Issues one of everything and verifies it with the bundle as stored.
    pub async fn issues(&self, authority: &Authority) -> VerifiedSvid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id: SpiffeId = "spiffe://td/w".parse().unwrap();
        let svid = authority
            .sign_workload_x509(signet_authority::WorkloadX509Params {
                spiffe_id: &id,
                public_key: key.public_key(),
                ttl: None,
                dns_names: &[],
                subject: None,
            })
            .await
            .unwrap();
        let bundle = self.bundle();
        let trust = TrustBundle::from_bundle(&bundle).unwrap();
        let verified =
            verify_svid(&svid.chain, &trust, UnixTime::from_seconds(self.now())).unwrap();
        assert_eq!(verified.id, id);
        if !self.options.jwt_disabled {
            let audience = ["a".to_owned()];
            let jwt = authority
                .sign_jwt_svid(signet_authority::JwtSvidParams {
                    spiffe_id: &id,
                    audience: &audience,
                    ttl: None,
                    include_jti: true,
                    tenant: None,
                })
                .await
                .unwrap();
            let keys = JwtBundle::from_bundle(&bundle);
            validate(&jwt.token, &audience, UnixTime::from_seconds(self.now()), |_| Some(&keys))
                .unwrap();
        }
        verified
    }
}
