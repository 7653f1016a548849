//! The kubelet's client against a server that answers as kubelets do, over real HTTP and TLS.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signet_attest::workload::k8s::{
    PodSource, SourceError,
    kubelet::{Kubelet, KubeletAuth, KubeletConfig},
};
use signet_base::SystemClock;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

const PODS: &str = include_str!("fixtures/kubernetes/pods_v2.json");
const FORBIDDEN: &str = include_str!("fixtures/kubernetes/kubelet_pods_403.http");
const UNAUTHORIZED: &str = include_str!("fixtures/kubernetes/kubelet_pods_401.http");

type Ca = CertifiedIssuer<'static, KeyPair>;

/// What a server is to answer.
#[derive(Clone, Debug)]
enum Reply {
    Pods,
    /// This answer, as recorded.
    Recorded(&'static str),
    Status(u16),
    /// The list ends early.
    Truncated,
    /// The list goes on for ever.
    Endless,
    Silent,
}

/// A kubelet.
struct Fake {
    port: u16,
    asked: Arc<AtomicUsize>,
    under_way: Arc<AtomicUsize>,
    reply: Arc<Mutex<Reply>>,
    token: Arc<Mutex<String>>,
    tls: Arc<Mutex<Option<Arc<rustls::ServerConfig>>>>,
}

impl Fake {
    async fn start(address: &str, reply: Reply) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let fake = Self {
            port: listener.local_addr().unwrap().port(),
            asked: Arc::default(),
            under_way: Arc::default(),
            reply: Arc::new(Mutex::new(reply)),
            token: Arc::new(Mutex::new(String::new())),
            tls: Arc::default(),
        };
        let (asked, under_way) = (Arc::clone(&fake.asked), Arc::clone(&fake.under_way));
        let (reply, token) = (Arc::clone(&fake.reply), Arc::clone(&fake.token));
        let tls = Arc::clone(&fake.tls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, under_way) = (Arc::clone(&asked), Arc::clone(&under_way));
                let reply = reply.lock().unwrap().clone();
                let token = token.lock().unwrap().clone();
                let tls = tls.lock().unwrap().clone();
                tokio::spawn(async move {
                    assert_eq!(under_way.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                    // Clients that do not trust this server go away.
                    match tls {
                        None => drop(answer(stream, reply, &token, &asked).await),
                        Some(config) => {
                            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                                drop(answer(stream, reply, &token, &asked).await);
                            }
                        }
                    }
                    under_way.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        fake
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn present(&self, ca: &Ca, names: &[&str], client: Option<&Ca>) {
        *self.tls.lock().unwrap() = Some(server_config(ca, names, client));
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    reply: Reply,
    token: &str,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("GET /pods HTTP/1.1\r\n"), "{request}");
    let known = token.is_empty() || request.contains(&format!("authorization: Bearer {token}\r\n"));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let reply = if known { reply } else { Reply::Recorded(UNAUTHORIZED) };
    match reply {
        Reply::Pods => {
            let chunked = format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{PODS}\r\n0\r\n\r\n",
                PODS.len()
            );
            // In pieces that end anywhere.
            for piece in chunked.as_bytes().chunks(1000) {
                stream.write_all(piece).await?;
                stream.flush().await?;
            }
        }
        Reply::Recorded(text) => {
            stream.write_all(text.as_bytes()).await?;
        }
        Reply::Status(status) => {
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nwhy?");
            stream.write_all(text.as_bytes()).await?;
        }
        Reply::Truncated => {
            let text = format!("{head}Content-Length: 100000\r\n\r\n{}", &PODS[..2000]);
            stream.write_all(text.as_bytes()).await?;
        }
        Reply::Endless => {
            stream.write_all(format!("{head}\r\n{{\"items\":[{{\"a\":\"").as_bytes()).await?;
            loop {
                stream.write_all(&[b'x'; 65536]).await?;
            }
        }
        Reply::Silent => std::future::pending().await,
    }
    stream.shutdown().await
}

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(ca: &Ca, names: &[&str]) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        });
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn server_config(ca: &Ca, names: &[&str], client: Option<&Ca>) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    let (certificate, key) = leaf(ca, names);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    // As Kubernetes does it: another file takes the name.
    let (path, new) = (dir.join(name), dir.join("new"));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, &path).unwrap();
    path
}

fn kubelet(config: KubeletConfig) -> Kubelet {
    Kubelet::new(config, None, Arc::new(SystemClock))
}

fn read_only(fake: &Fake) -> Kubelet {
    kubelet(KubeletConfig::ReadOnly { port: fake.port })
}

fn secure(
    fake: &Fake,
    node_name: Option<&str>,
    ca_path: Option<PathBuf>,
    auth: KubeletAuth,
) -> KubeletConfig {
    KubeletConfig::Secure {
        port: fake.port,
        node_name: node_name.map(str::to_owned),
        ca_path,
        auth,
        reload_interval: Duration::from_secs(3600),
    }
}

async fn fails(kubelet: &Kubelet) -> SourceError {
    kubelet.next(0).await.pods.map(|pods| pods.len()).unwrap_err()
}

#[tokio::test]
async fn all_who_wait_share_one_answer() {
    let fake = Fake::start("127.0.0.1:0", Reply::Pods).await;
    let kubelet = Arc::new(read_only(&fake));
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let kubelet = Arc::clone(&kubelet);
            tokio::spawn(async move { kubelet.next(0).await })
        })
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    assert_eq!(fake.asked(), 1);
    let first = answers[0].pods.as_ref().unwrap();
    assert!(first.len() > 3);
    assert!(answers.iter().all(|answer| Arc::ptr_eq(answer.pods.as_ref().unwrap(), first)));
}

#[tokio::test]
async fn answers_come_a_tenth_of_a_second_apart_and_only_while_somebody_waits() {
    let fake = Fake::start("127.0.0.1:0", Reply::Pods).await;
    let kubelet = read_only(&fake);
    let began = Instant::now();
    let mut seen = 0;
    for _ in 0..4 {
        let answer = kubelet.next(seen).await;
        assert!(answer.version > seen);
        seen = answer.version;
    }
    assert_eq!(fake.asked(), 4);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    // Nobody is left: the kubelet is asked anew, and not before the time.
    let answer = kubelet.next(0).await;
    assert_eq!((answer.version, fake.asked()), (5, 5));
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_take_the_answer_from_the_others() {
    let fake = Fake::start("127.0.0.1:0", Reply::Pods).await;
    let kubelet = Arc::new(read_only(&fake));
    let first = {
        let kubelet = Arc::clone(&kubelet);
        tokio::spawn(async move { kubelet.next(0).await })
    };
    let second = kubelet.next(0);
    tokio::task::yield_now().await;
    first.abort();
    assert!(second.await.pods.is_ok());
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn what_a_kubelet_refuses_is_said_with_its_words_and_the_permission() {
    let fake = Fake::start("127.0.0.1:0", Reply::Recorded(FORBIDDEN)).await;
    let kubelet = read_only(&fake);
    let error = fails(&kubelet).await.to_string();
    for wanted in
        ["403 Forbidden (user=system:serviceaccount:demo:web", "get nodes/pods, or nodes/proxy"]
    {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    for (reply, wanted) in [
        (Reply::Recorded(UNAUTHORIZED), "401 Unauthorized; the kubelet does not accept"),
        (Reply::Status(404), "404 why?; this is not a kubelet's port"),
        (Reply::Status(500), "500 why?"),
        (Reply::Status(429), "429 why?"),
        (Reply::Truncated, "unable to perform request"),
        (Reply::Endless, "is longer than"),
    ] {
        *fake.reply.lock().unwrap() = reply;
        let error = fails(&kubelet).await.to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[tokio::test]
async fn a_kubelet_that_says_nothing_is_given_up() {
    let fake = Fake::start("127.0.0.1:0", Reply::Silent).await;
    let kubelet = read_only(&fake);
    let error = tokio::time::timeout(Duration::from_secs(15), fails(&kubelet)).await.unwrap();
    assert!(error.to_string().contains("did not answer within 10000 ms"), "{error}");
}

#[tokio::test]
async fn a_new_token_is_used_at_once_and_also_after_it_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start("127.0.0.1:0", Reply::Pods).await;
    fake.present(&ca("a"), &["127.0.0.1"], None);
    *fake.token.lock().unwrap() = "first".to_owned();
    let path = write(dir.path(), "token", "first\n");
    let kubelet = kubelet(secure(&fake, None, None, KubeletAuth::Token(path.clone())));
    assert!(kubelet.next(0).await.pods.is_ok());
    *fake.token.lock().unwrap() = "second".to_owned();
    write(dir.path(), "token", "second\n");
    assert!(kubelet.next(0).await.pods.is_ok());
    let asked = fake.asked();
    // The file says the same: it is not asked a second time.
    *fake.token.lock().unwrap() = "third".to_owned();
    let error = fails(&kubelet).await;
    let words = error.to_string();
    assert!(words.contains("401") && words.contains("accepted the agent before"), "{words}");
    // Callers wait for it: the kubelet cannot ask the API server, and that passes.
    assert_eq!(error, SourceError::passing(words));
    assert_eq!(fake.asked(), asked + 1);
    // Written in place, so that file, size and (nearly) time are the same.
    std::fs::write(&path, "thirdx\n").unwrap();
    *fake.token.lock().unwrap() = "thirdx".to_owned();
    assert!(kubelet.next(0).await.pods.is_ok());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start("127.0.0.1:0", Reply::Pods).await;
    let absent = dir.path().join("absent");
    let good_ca = write(dir.path(), "ca", &ca("a").pem());
    let junk = write(dir.path(), "junk", "-----BEGIN CERTIFICATE-----\n!\n");
    let empty = write(dir.path(), "empty", " \n");
    let (certificate, _) = leaf(&ca("b"), &[]);
    let certificate = write(dir.path(), "certificate", &certificate);
    let token = |path: &Path| KubeletAuth::Token(path.to_owned());
    let pair = |certificate_path: &Path, private_key_path: &Path| KubeletAuth::Certificate {
        certificate_path: certificate_path.to_owned(),
        private_key_path: private_key_path.to_owned(),
    };
    for (config, wanted) in [
        (secure(&fake, None, None, token(&absent)), "unable to load token: "),
        (secure(&fake, None, None, token(&empty)), "empty: it is empty"),
        (secure(&fake, None, None, token(dir.path())), "unable to load token: "),
        (secure(&fake, None, Some(absent.clone()), token(&empty)), "unable to load kubelet CA: "),
        (secure(&fake, None, Some(junk.clone()), KubeletAuth::Anonymous), "junk: PEM block"),
        (secure(&fake, None, Some(good_ca.clone()), pair(&certificate, &absent)), "absent"),
        (secure(&fake, None, Some(good_ca.clone()), pair(&certificate, &junk)), "junk: "),
        (secure(&fake, None, Some(good_ca), pair(&junk, &certificate)), "junk: "),
    ] {
        let error = fails(&kubelet(config.clone())).await;
        assert!(error.to_string().contains(wanted), "{wanted}: {error}");
        assert_eq!(error, SourceError::lasting(error.to_string()), "{config:?}");
    }
    assert_eq!(fake.asked(), 0);
}

#[tokio::test]
async fn the_name_is_checked_where_one_is_known_and_the_chain_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    let (good, other) = (ca("good"), ca("other"));
    let fake = Fake::start("127.0.0.1:0", Reply::Pods).await;
    let path = write(dir.path(), "ca", &good.pem());
    let check = async |node_name: Option<&str>| {
        let config = secure(&fake, node_name, Some(path.clone()), KubeletAuth::Anonymous);
        kubelet(config).next(0).await.pods.map(|pods| pods.len()).map_err(|e| e.to_string())
    };
    fake.present(&good, &["localhost"], None);
    assert!(check(Some("localhost")).await.is_ok());
    // Without a name it is asked on 127.0.0.1, for which kubelets have no certificate.
    assert!(check(None).await.is_ok());
    fake.present(&good, &["another-node"], None);
    let error = check(Some("localhost")).await.unwrap_err();
    assert!(error.contains("TLS handshake with localhost"), "{error}");
    assert!(check(None).await.is_ok());
    // An address as the node's name, as charts set it.
    fake.present(&good, &["127.0.0.1"], None);
    assert!(check(Some("127.0.0.1")).await.is_ok());
    fake.present(&other, &["localhost", "127.0.0.1"], None);
    assert!(check(Some("localhost")).await.is_err());
    assert!(check(None).await.is_err());
    let unchecked = secure(&fake, Some("localhost"), None, KubeletAuth::Anonymous);
    assert!(kubelet(unchecked).next(0).await.pods.is_ok());
}

#[tokio::test]
async fn a_node_with_an_ipv6_address_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let good = ca("good");
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        signet_testkit::skip!("this machine has no IPv6");
    }
    let fake = Fake::start("[::1]:0", Reply::Pods).await;
    fake.present(&good, &["::1"], None);
    let path = write(dir.path(), "ca", &good.pem());
    for name in ["::1", "[::1]"] {
        let config = secure(&fake, Some(name), Some(path.clone()), KubeletAuth::Anonymous);
        let answer = kubelet(config).next(0).await;
        assert!(answer.pods.is_ok(), "{name}: {:?}", answer.pods.err());
    }
}

#[tokio::test]
async fn new_authorities_and_client_certificates_are_used_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second, clients) = (ca("first"), ca("second"), ca("clients"));
    let fake = Fake::start("127.0.0.1:0", Reply::Pods).await;
    fake.present(&first, &["localhost"], Some(&clients));
    let ca_path = write(dir.path(), "ca", &first.pem());
    let (certificate, key) = leaf(&clients, &[]);
    let auth = KubeletAuth::Certificate {
        certificate_path: write(dir.path(), "certificate", &certificate),
        private_key_path: write(dir.path(), "key", &key),
    };
    let kubelet = kubelet(secure(&fake, Some("localhost"), Some(ca_path), auth));
    assert!(kubelet.next(0).await.pods.is_ok());
    // The kubelet has a certificate of a new authority, and trusts new client certificates only.
    let new_clients = ca("new clients");
    fake.present(&second, &["localhost"], Some(&new_clients));
    assert!(kubelet.next(0).await.pods.is_err());
    write(dir.path(), "ca", &second.pem());
    let (certificate, key) = leaf(&new_clients, &[]);
    write(dir.path(), "certificate", &certificate);
    write(dir.path(), "key", &key);
    let answer = kubelet.next(0).await;
    assert!(answer.pods.is_ok(), "{:?}", answer.pods.err());
    // A file that is broken for a while does not take away what works.
    write(dir.path(), "ca", "junk");
    assert!(kubelet.next(0).await.pods.is_ok());
}
