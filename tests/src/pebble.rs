//! Pebble, the certificate authority by which Let's Encrypt has ACME clients tested.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use serde_json::json;
use signet_pki::pem;
use signet_testkit::free_ports;

use crate::{
    clients, dir::TestDir, https, process::Process, wait::eventually, webpki::WebCertificate,
};

/// The domain that it never issues certificates for.
pub const REFUSED: &str = "refused.example.org";

/// A running authority, for which every domain is this machine.
#[derive(Debug)]
pub struct Pebble {
    web: WebCertificate,
    port: u16,
    management: u16,
    process: Process,
    root: PathBuf,
    _names: Process,
}

impl Pebble {
    /// Starts one whose certificates live for `lifetime` seconds, and that confirms domains at
    /// `challenge_port` of this machine. An error says what is missing to build it.
    ///
    /// # Errors
    /// Says what this machine lacks.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(dir: &Arc<TestDir>, challenge_port: u16, lifetime: u64) -> Result<Self, String> {
        let [pebble, names] = clients::pebble()?;
        let port = free_ports(4);
        let [management, dns, unused] = [1, 2, 3].map(|step| port + step);
        let web = WebCertificate::make(dir, "pebble");
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": web.cert,
            "privateKey": web.key,
            "httpPort": 1,
            "tlsPort": challenge_port,
            "domainBlocklist": [REFUSED],
            "keyAlgorithm": "ecdsa",
            "retryAfter": { "authz": 1, "order": 1 },
            "profiles": { "default": { "description": "all", "validityPeriod": lifetime } },
        } });
        let config = dir.write("pebble.json", config.to_string());
        let dns = format!("127.0.0.1:{dns}");
        let mut command = Command::new(names);
        command.args(["-dnsserver", &dns, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        for other in ["-http01", "-https01", "-doh", "-tlsalpn01"] {
            command.args([other, ""]);
        }
        // It cannot be left out.
        command.args(["-management", &format!("127.0.0.1:{unused}")]);
        let names = Process::start("pebble-challtestsrv", &mut command, &dir.join("names.log"));
        let mut command = Command::new(pebble);
        command.arg("-config").arg(config).args(["-dnsserver", &dns]);
        // It sleeps for some seconds otherwise, to teach patience.
        command.env("PEBBLE_VA_NOSLEEP", "1");
        let mut process = Process::start("pebble", &mut command, &dir.join("pebble.log"));
        let root = eventually("pebble's root certificate", || {
            process.assert_running();
            https::get(management, "/roots/0", Some(&web.ca)).ok().filter(|it| it.status == 200)
        });
        let root = dir.write("pebble-root.pem", root.body);
        Ok(Self { web, port, management, process, root, _names: names })
    }

    /// Its directory, `https://…`.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// The authority of its own endpoint's certificate, to be trusted by those who ask it.
    pub fn ca(&self) -> (String, String) {
        ("SSL_CERT_FILE".to_owned(), self.web.ca.display().to_string())
    }

    /// The root of the certificates that it issues.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many orders were made.
    pub fn orders(&self) -> usize {
        self.process.output().matches("Added order").count()
    }

    /// Suggests to renew a certificate that it issued long ago already.
    ///
    /// # Panics
    ///
    /// When it does not know the certificate.
    pub fn wants_renewed(&self, leaf: &[u8]) {
        let window = json!({ "suggestedWindow": {
            "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z",
        } });
        let certificate = pem::encode_certificates([leaf]);
        let body =
            json!({ "Certificate": certificate, "ARIResponse": window.to_string() }).to_string();
        let request = ("POST", "/set-renewal-info/", body.as_str());
        let answer = https::ask(self.management, Some(&self.web.ca), request);
        let answer = answer.unwrap_or_else(|why| panic!("pebble does not answer: {why}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.process.kill();
    }
}
