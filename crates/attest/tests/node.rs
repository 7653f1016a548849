//! Both halves of each node attestor, against each other.
#![cfg(feature = "server")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{net::IpAddr, sync::Arc};

use signet_attest::node::{
    Answerer, Challenger, FailureClass, NodeAttestError, NodeAttestation, NodeAttestorAgent,
    NodeAttestorServer,
    http_challenge::{
        agent::{HttpChallengeAgent, HttpChallengeAgentConfig},
        server::{
            ChallengeFetcher, HttpChallengeServer, HttpChallengeServerConfig, NetworkFetcher,
        },
    },
};
use signet_http::{HttpClient, Proxies};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

struct Direct(Box<dyn Answerer>);

#[async_trait::async_trait]
impl Challenger for Direct {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        self.0.answer(&challenge).await
    }
}

async fn converse(
    agent: &dyn NodeAttestorAgent,
    server: &dyn NodeAttestorServer,
    peer: Option<IpAddr>,
) -> Result<NodeAttestation, NodeAttestError> {
    let (payload, answerer) = agent.begin().await?;
    server.attest(&payload, peer, &mut Direct(answerer)).await
}

/// Fetches from loopback, whatever host is asked for: tests have no name of their own, and the
/// fetcher of the server goes to no loopback address.
#[derive(Debug)]
struct Loopback(HttpClient);

#[async_trait::async_trait]
impl ChallengeFetcher for Loopback {
    async fn fetch(&self, _host: &str, port: u16, path: &str) -> Result<Vec<u8>, String> {
        let answer = self.0.get(&format!("http://127.0.0.1:{port}{path}")).await;
        Ok(answer.map_err(|error| error.to_string())?.into_body().to_vec())
    }
}

fn http_server(config: HttpChallengeServerConfig) -> HttpChallengeServer {
    let client = HttpClient::builder().proxies(Proxies::none()).max_body(64).build().unwrap();
    let fetcher = Loopback(client);
    HttpChallengeServer::new("td.test".parse().unwrap(), config, Box::new(fetcher)).unwrap()
}

fn http_agent(hostname: &str) -> HttpChallengeAgent {
    HttpChallengeAgent::new(HttpChallengeAgentConfig {
        hostname: hostname.to_owned(),
        ..HttpChallengeAgentConfig::default()
    })
    .unwrap()
}

#[tokio::test]
async fn a_host_proves_its_name_by_serving_the_nonce() {
    let server = http_server(HttpChallengeServerConfig::default());
    let found = converse(&http_agent("node1.test"), &server, None).await.unwrap();
    assert_eq!(
        found.agent_id.to_string(),
        "spiffe://td.test/spire/agent/http_challenge/node1.test"
    );
    let selectors: Vec<String> = found.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, ["http_challenge:hostname:node1.test"]);
    assert!(!found.can_reattest);
}

#[tokio::test]
async fn a_host_that_is_not_allowed_or_does_not_serve_is_refused() {
    let only = HttpChallengeServerConfig {
        allowed_dns_patterns: vec![regex::Regex::new(r"^p[0-9]\.test$").unwrap()],
        ..HttpChallengeServerConfig::default()
    };
    let refused = |error: NodeAttestError, class| assert_eq!(error.class, class, "{error}");
    let server = http_server(only);
    let outcome = converse(&http_agent("node1.test"), &server, None).await;
    refused(outcome.unwrap_err(), FailureClass::PermissionDenied);
    assert!(converse(&http_agent("p1.test"), &server, None).await.is_ok());

    let any = http_server(HttpChallengeServerConfig::default());
    for own in ["LOCALHOST", "localhost.", "127.0.0.1", "127.1", "0x7f.1", "2130706433", "0"] {
        let outcome = converse(&http_agent(own), &any, None).await;
        refused(outcome.unwrap_err(), FailureClass::PermissionDenied);
    }
    struct Silent;
    #[async_trait::async_trait]
    impl Challenger for Silent {
        async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
            Ok(b"\n".to_vec())
        }
    }
    let payload = br#"{"hostname":"h","agentname":"default","port":1}"#;
    let outcome = any.attest(payload, None, &mut Silent).await;
    refused(outcome.unwrap_err(), FailureClass::PermissionDenied);
    for bad in [
        &b"{"[..],
        br#"{"hostname":"h","agentname":"default","port":0}"#,
        br#"{"hostname":"h","agentname":"default","port":65536}"#,
        br#"{"hostname":"h:1","agentname":"default","port":1}"#,
        br#"{"hostname":"h/x","agentname":"default","port":1}"#,
        br#"{"hostname":"","agentname":"default","port":1}"#,
        br#"{"hostname":"h","agentname":"../x","port":1}"#,
        br#"{"hostname":"h","agentname":"","port":1}"#,
    ] {
        let outcome = any.attest(bad, None, &mut Silent).await;
        refused(outcome.unwrap_err(), FailureClass::InvalidArgument);
    }
}

#[tokio::test]
async fn rude_visitors_of_the_agent_get_nothing_and_keep_the_server_from_nothing() {
    /// Lets others come first, whatever they say; some of them stay.
    struct Crowded(Box<dyn Answerer>, u16, Vec<TcpStream>);

    async fn say(port: u16, words: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        // The agent may hang up before it has heard everything.
        drop(stream.write_all(words).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[async_trait::async_trait]
    impl Challenger for Crowded {
        async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
            let answer = self.0.answer(&challenge).await?;
            for _ in 0..10 {
                self.2.push(TcpStream::connect(("127.0.0.1", self.1)).await.unwrap());
            }
            let nonce = String::from_utf8(challenge).unwrap();
            let nonce = nonce.split('"').nth(3).unwrap().to_owned();
            let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
            for (words, status) in [
                (&b"\x16\x03\x01 no HTTP\r\n\r\n"[..], "400"),
                (long.as_bytes(), "431"),
                (b"GET /.well-known/spiffe/nodeattestor/http_challenge/x/challenge HTTP/1.1\r\n\r\n", "404"),
                (b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
            ] {
                let heard = say(self.1, words).await;
                assert!(heard.is_empty() || heard.starts_with(&format!("HTTP/1.1 {status} ")), "{heard}");
                assert!(!heard.contains(&nonce), "{heard}");
            }
            Ok(answer)
        }
    }

    let (payload, answerer) = http_agent("node1.test").begin().await.unwrap();
    let port = serde_json::from_slice::<serde_json::Value>(&payload).unwrap();
    let port = u16::try_from(port["port"].as_u64().unwrap()).unwrap();
    let server = http_server(HttpChallengeServerConfig::default());
    let mut crowd = Crowded(answerer, port, Vec::new());
    server.attest(&payload, None, &mut crowd).await.unwrap();
    assert_eq!(crowd.2.len(), 10);
}

#[tokio::test]
async fn the_nonce_is_not_fetched_from_the_server_s_own_machine_by_whatever_name() {
    let fetcher = NetworkFetcher::new(Proxies::none()).unwrap();
    for host in ["localhost", "127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"] {
        let error = fetcher.fetch(host, 80, "/").await.unwrap_err();
        assert!(error.contains("is of no other machine"), "{host}: {error}");
    }
}

#[test]
fn trust_on_first_use_stays_on_while_anybody_could_listen() {
    let try_with = |required_port, allow_non_root_ports| {
        HttpChallengeServer::new(
            "td.test".parse().unwrap(),
            HttpChallengeServerConfig {
                tofu: Some(false),
                required_port,
                allow_non_root_ports,
                ..HttpChallengeServerConfig::default()
            },
            Box::new(NetworkFetcher::new(Proxies::none()).unwrap()),
        )
        .is_ok()
    };
    assert!(!try_with(None, None) && !try_with(None, Some(true)) && !try_with(Some(8080), None));
    assert!(try_with(Some(80), None) && try_with(None, Some(false)));
}

mod x509pop {
    use std::{path::Path, process::Command};

    use signet_attest::node::{
        path_template,
        x509pop::{
            Answer,
            agent::{FileSource, X509PopAgent},
            server::{Mode, X509PopServer, X509PopServerConfig},
        },
    };
    use signet_base::SystemClock;
    use signet_pki::{pem, x509::parse_chain};

    use super::*;

    /// Makes certificates with openssl, an implementation that is not ours.
    struct Pki(tempfile::TempDir);

    impl Pki {
        fn new() -> Self {
            let pki = Self(tempfile::tempdir().unwrap());
            pki.self_signed("ca", "ec:prime256v1", "keyUsage=critical,keyCertSign");
            pki
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join(name)
        }

        fn self_signed(&self, name: &str, key: &str, extension: &str) {
            self.openssl(&[
                "req",
                "-x509",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.pem"),
                "-addext",
                extension,
                "-newkey",
                key.split(':').next().unwrap(),
                "-pkeyopt",
                match key {
                    "ec:prime256v1" => "ec_paramgen_curve:prime256v1",
                    "ec:secp384r1" => "ec_paramgen_curve:secp384r1",
                    _ => "rsa_keygen_bits:2048",
                },
            ]);
        }

        fn leaf(&self, name: &str, key: &str, san: &str) -> X509PopAgent {
            let extensions = format!(
                "keyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\nsubjectAltName={san}\n"
            );
            std::fs::write(self.path("ext"), extensions).unwrap();
            let pkeyopt = match key {
                "ec:prime256v1" => "ec_paramgen_curve:prime256v1",
                "ec:secp384r1" => "ec_paramgen_curve:secp384r1",
                _ => "rsa_keygen_bits:2048",
            };
            self.openssl(&[
                "req",
                "-new",
                "-nodes",
                "-subj",
                &format!("/CN={name}"),
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.csr"),
                "-newkey",
                key.split(':').next().unwrap(),
                "-pkeyopt",
                pkeyopt,
            ]);
            self.openssl(&[
                "x509",
                "-req",
                "-days",
                "1",
                "-in",
                &format!("{name}.csr"),
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-set_serial",
                "0xabc",
                "-out",
                &format!("{name}.pem"),
                "-extfile",
                "ext",
            ]);
            X509PopAgent::new(Box::new(self.files(name)))
        }

        fn files(&self, name: &str) -> FileSource {
            FileSource {
                private_key_path: self.path(&format!("{name}.key")),
                certificate_path: self.path(&format!("{name}.pem")),
                intermediates_path: None,
            }
        }

        fn openssl(&self, args: &[&str]) {
            let out = Command::new("openssl").args(args).current_dir(&self.0).output().unwrap();
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        }

        fn root(&self) -> Vec<u8> {
            certificate(&self.path("ca.pem"))
        }

        fn server(&self, change: impl FnOnce(&mut X509PopServerConfig)) -> X509PopServer {
            let mut config = X509PopServerConfig {
                mode: Mode::ExternalPki(parse_chain(&[self.root()]).unwrap()),
                agent_path_template: None,
                max_intermediates: 4,
                max_rsa_key_size: 8192,
                verify_client_ip: false,
            };
            change(&mut config);
            X509PopServer::new("td.test".parse().unwrap(), config, Arc::new(SystemClock))
        }
    }

    fn certificate(path: &Path) -> Vec<u8> {
        pem::decode_certificates(&std::fs::read_to_string(path).unwrap()).unwrap().remove(0)
    }

    #[tokio::test]
    async fn ec_and_rsa_nodes_prove_their_keys() {
        let pki = Pki::new();
        for (name, key) in
            [("p256", "ec:prime256v1"), ("p384", "ec:secp384r1"), ("rsa", "rsa:2048")]
        {
            let agent = pki.leaf(name, key, "URI:x509pop://td.test/zone/eu/1,DNS:x");
            let found = converse(&agent, &pki.server(|_| {}), None).await.unwrap();
            let leaf = certificate(&pki.path(&format!("{name}.pem")));
            let fingerprint = signet_pki::digest::sha1_hex(&leaf);
            assert_eq!(
                found.agent_id.to_string(),
                format!("spiffe://td.test/spire/agent/x509pop/{fingerprint}")
            );
            let root = signet_pki::digest::sha1_hex(&pki.root());
            let selectors: Vec<String> = found.selectors.iter().map(ToString::to_string).collect();
            assert_eq!(
                selectors,
                [
                    format!("x509pop:ca:fingerprint:{root}"),
                    "x509pop:san:zone:eu/1".to_owned(),
                    "x509pop:serialnumber:0abc".to_owned(),
                    format!("x509pop:subject:cn:{name}"),
                ]
            );
            assert!(found.can_reattest);
        }
    }

    #[tokio::test]
    async fn the_agent_path_follows_its_template() {
        let pki = Pki::new();
        let agent = pki.leaf("n1", "ec:prime256v1", "DNS:x");
        let server = pki.server(|config| {
            let template =
                path_template::parse("/cn/{{ .Subject.CommonName }}/{{ .SerialNumberHex }}");
            config.agent_path_template = Some(template.unwrap());
        });
        let found = converse(&agent, &server, None).await.unwrap();
        assert_eq!(found.agent_id.path(), "/spire/agent/cn/n1/0abc");
    }

    #[tokio::test]
    async fn a_template_without_a_leading_slash_makes_no_agent() {
        let pki = Pki::new();
        let agent = pki.leaf("n2", "ec:prime256v1", "DNS:x");
        for template in ["cn/{{ .Subject.CommonName }}", "{{ .Subject.CommonName }}", "-x", ""] {
            // What its text shows is refused when it is read, the rest when it is filled in.
            let parsed = match path_template::parse(template) {
                Ok(parsed) => parsed,
                Err(error) => {
                    assert!(
                        error.to_string().contains("begin with a slash"),
                        "{template}: {error}"
                    );
                    continue;
                }
            };
            let server = pki.server(|config| config.agent_path_template = Some(parsed.clone()));
            let refused = converse(&agent, &server, None).await.unwrap_err().to_string();
            assert!(refused.contains("begin with a slash"), "{template}: {refused}");
        }
    }

    #[tokio::test]
    async fn an_svid_is_exchanged_for_an_agent_identity_under_its_prefix_only() {
        let pki = Pki::new();
        let root = pki.root();
        let server = pki.server(|config| {
            config.mode = Mode::Spiffe {
                svid_prefix: "/spire-exchange/".to_owned(),
                authorities: Arc::new(move || parse_chain(&[&root]).unwrap()),
            };
        });
        let good = pki.leaf("good", "ec:prime256v1", "URI:spiffe://td.test/spire-exchange/host1");
        let found = converse(&good, &server, None).await.unwrap();
        assert_eq!(found.agent_id.path(), "/spire/agent/x509pop/host1");
        for san in [
            "URI:spiffe://td.test/other/host1",
            "URI:spiffe://other.test/spire-exchange/host1",
            "URI:spiffe://td.test/spire/agent/x",
            "DNS:x",
        ] {
            let agent = pki.leaf("bad", "ec:prime256v1", san);
            let error = converse(&agent, &server, None).await.unwrap_err();
            assert_eq!(error.class, FailureClass::PermissionDenied, "{san}: {error}");
        }
    }

    #[tokio::test]
    async fn foreign_expired_and_wrongly_proven_certificates_are_refused() {
        let (pki, foreign) = (Pki::new(), Pki::new());
        let agent = foreign.leaf("n1", "ec:prime256v1", "DNS:x");
        let error = converse(&agent, &pki.server(|_| {}), None).await.unwrap_err();
        assert_eq!(error.class, FailureClass::PermissionDenied, "{error}");

        // A leaf that somebody saw, without its key.
        let agent = pki.leaf("n2", "ec:prime256v1", "DNS:x");
        struct Replay(Vec<u8>);
        #[async_trait::async_trait]
        impl Challenger for Replay {
            async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
                Ok(self.0.clone())
            }
        }
        let (payload, mut answerer) = agent.begin().await.unwrap();
        let nonce = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let challenge =
            format!(r#"{{"rsa_signature":null,"ecdsa_signature":{{"nonce":"{nonce}"}}}}"#);
        let old = answerer.answer(challenge.as_bytes()).await.unwrap();
        for answer in [old, b"{}".to_vec(), b"[".to_vec()] {
            let server = pki.server(|_| {});
            assert!(server.attest(&payload, None, &mut Replay(answer)).await.is_err());
        }
        assert!(Answer::default().rsa_signature.is_none());
    }

    #[tokio::test]
    async fn limits_and_the_client_address_are_checked_first() {
        let pki = Pki::new();
        let agent = pki.leaf("rsa", "rsa:2048", "IP:127.0.0.1");
        let small = pki.server(|config| config.max_rsa_key_size = 1024);
        let error = converse(&agent, &small, None).await.unwrap_err();
        assert!(error.message.contains("key size too large"), "{error}");
        let by_ip = pki.server(|config| config.verify_client_ip = true);
        let home: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert!(converse(&agent, &by_ip, Some(home)).await.is_ok());
        let error = converse(&agent, &by_ip, Some("10.0.0.1".parse().unwrap())).await.unwrap_err();
        assert_eq!(error.class, FailureClass::PermissionDenied);
        assert!(converse(&agent, &by_ip, None).await.is_err());
        let leaf = String::from_utf8(agent.begin().await.unwrap().0).unwrap();
        let one = leaf.split('"').nth(3).unwrap();
        let many = vec![one; 6];
        let payload = serde_json::json!({ "certificates": many }).to_string();
        struct Never;
        #[async_trait::async_trait]
        impl Challenger for Never {
            async fn challenge(&mut self, _: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
                panic!("challenged before the limits were checked")
            }
        }
        let server = pki.server(|_| {});
        let error = server.attest(payload.as_bytes(), None, &mut Never).await.unwrap_err();
        assert_eq!(error.message, "too many intermediate certificates");
    }

    #[test]
    fn a_key_that_is_not_the_leafs_is_refused_at_start() {
        let pki = Pki::new();
        pki.leaf("a", "ec:prime256v1", "DNS:x");
        pki.leaf("b", "ec:prime256v1", "DNS:x");
        assert!(pki.files("a").read().is_ok());
        let mixed = FileSource { private_key_path: pki.path("b.key"), ..pki.files("a") };
        assert!(mixed.read().unwrap_err().message.contains("does not match"));
        let missing = FileSource { certificate_path: pki.path("none.pem"), ..pki.files("a") };
        assert!(missing.read().unwrap_err().message.contains("none.pem"));
    }
}
