//! What in a specification cannot be done. It is said in a condition, and nothing of the part is
//! written: what runs goes on as it is.

use std::time::Duration;

use signet_config::parse_duration;
use signet_identity::TrustDomain;

use super::{
    api::{AgentSpec, CsiSpec, Federation, ManagerSpec, OidcSpec, ServerSpec, is_true, or},
    settings::Settings,
};

/// Something that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A word for programs, in CamelCase.
    pub reason: &'static str,
    /// Which field, and what was expected.
    pub message: String,
}

/// The longest path of a Unix socket is 107 bytes; the agent's name for it takes some.
const MAX_SOCKET_DIRECTORY: usize = 80;
/// A CA certificate has to outlive the SVIDs it signs sixfold, or rotation cuts them short.
const CA_TO_SVID: u32 = 6;
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn problem(reason: &'static str, message: impl Into<String>) -> Problem {
    Problem { reason, message: message.into() }
}

/// What is wrong with what all parts have in common.
pub fn manager(spec: &ManagerSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Err(error) = spec.trust_domain.parse::<TrustDomain>() {
        found.push(problem("InvalidTrustDomain", format!("spec.trustDomain: {error}")));
    }
    if spec.cluster_name.is_empty() {
        found.push(problem("InvalidClusterName", "spec.clusterName: it must not be empty"));
    }
    found
}

/// What is wrong with a server's specification.
pub fn server(settings: &Settings, manager: &ManagerSpec, spec: &ServerSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Err(message) = issuer(&spec.jwt_issuer) {
        found.push(problem("InvalidJWTIssuerURL", message));
    }
    match spec.datastore.database_type.as_str() {
        "" | "sqlite3" | "sql" => {
            if spec.datastore.connection_string.starts_with("postgres") {
                found.push(problem(
                    "InvalidDatastore",
                    "spec.datastore.connectionString: a file was expected; databaseType is not \
                     postgres",
                ));
            }
        }
        "postgres" => {
            if spec.datastore.connection_string.is_empty() {
                found.push(problem(
                    "InvalidDatastore",
                    "spec.datastore.connectionString: postgres needs one",
                ));
            }
        }
        other => found.push(problem(
            "UnsupportedDatabase",
            format!(
                "spec.datastore.databaseType: {other} is not supported; use sqlite3 or postgres"
            ),
        )),
    }
    if let Some(keys) = &spec.key_manager {
        let disk = is_true(&keys.disk_enabled, true);
        if disk == is_true(&keys.memory_enabled, false) {
            found.push(problem(
                "InvalidKeyManager",
                "spec.keyManager: exactly one of diskEnabled and memoryEnabled must be \"true\"",
            ));
        }
    }
    if let Some(federation) = &spec.federation {
        found.extend(federates(settings, manager, federation));
    }
    found
}

fn federates(settings: &Settings, manager: &ManagerSpec, federation: &Federation) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut bad = |message: String| {
        found.push(problem("InvalidFederationConfiguration", message));
    };
    let endpoint = &federation.bundle_endpoint;
    if endpoint.profile == "https_web" {
        const FIELD: &str = "spec.federation.bundleEndpoint.httpsWeb";
        let web = endpoint.https_web.clone().unwrap_or_default();
        match (&web.acme, &web.serving_cert) {
            (Some(_), Some(_)) => bad(format!("{FIELD}: either acme or servingCert, not both")),
            (Some(acme), None) => {
                let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
                let name = &acme.domain_name;
                if !acme.directory_url.starts_with("https://") {
                    bad(format!("{FIELD}.acme.directoryUrl: expected an https:// URL"));
                }
                if name.is_empty() || !name.chars().all(is_good) {
                    bad(format!("{FIELD}.acme.domainName: expected a domain name"));
                }
                if !acme.email.contains('@') {
                    bad(format!("{FIELD}.acme.email: expected an address"));
                }
                if acme.tos_accepted != "true" {
                    bad(format!(
                        "{FIELD}.acme.tosAccepted: it must be true: no certificate is issued to \
                         those who do not accept the authority's terms of service"
                    ));
                }
            }
            (None, None) => bad(format!("{FIELD}: acme or servingCert is required for https_web")),
            (None, Some(cert)) if cert.external_secret_ref.is_empty() => {
                if !settings.platform.openshift {
                    bad(format!(
                        "{FIELD}.servingCert.externalSecretRef: it is required where no certificates \
                         are made for services, as OpenShift does"
                    ));
                }
            }
            (None, Some(_)) => {}
        }
    }
    for (at, other) in federation.federates_with.iter().enumerate() {
        let field = format!("spec.federation.federatesWith[{at}]");
        if other.trust_domain == manager.trust_domain {
            bad(format!("{field}.trustDomain: it is this cluster's own"));
        }
        if federation.federates_with.iter().take(at).any(|o| o.trust_domain == other.trust_domain) {
            bad(format!("{field}.trustDomain: {} is there twice", other.trust_domain));
        }
        let resource = super::render::relationship(other);
        if let Err(error) = crate::resources::parse_federation(&resource) {
            bad(format!("{field}: {error}"));
        }
    }
    found
}

/// What is wrong with the times of a server's specification, and what deserves attention.
///
/// # Errors
/// The field, and what was expected.
pub fn times(spec: &ServerSpec) -> Result<Vec<String>, String> {
    let read = |field: &str, text: &str, default: &str| match parse_duration(or(text, default)) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err(format!("spec.{field}: it must be more than nothing")),
        Err(error) => Err(format!("spec.{field}: {error}")),
    };
    let ca = read("caValidity", &spec.ca_validity, "24h")?;
    let mut warnings = Vec::new();
    for (field, text, default) in [
        ("defaultX509Validity", &spec.x509_validity, "1h"),
        ("defaultJWTValidity", &spec.jwt_validity, "5m"),
    ] {
        let time = read(field, text, default)?;
        if time > ca {
            return Err(format!("spec.{field}: it must not be longer than caValidity"));
        }
        if time > WEEK.min(ca / CA_TO_SVID) {
            warnings.push(format!(
                "spec.{field} is more than a sixth of caValidity, or than a week: SVIDs may be \
                 shorter around a rotation of the CA"
            ));
        }
    }
    Ok(warnings)
}

/// What is wrong with an agent's specification.
pub fn agent(spec: &AgentSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Err(message) = directory(spec.sockets()) {
        found.push(problem("InvalidSocketPath", format!("spec.socketPath: {message}")));
    }
    if spec.node_attestor.as_ref().is_some_and(|one| !is_true(&one.k8s_psat, true)) {
        found.push(problem(
            "InvalidNodeAttestor",
            "spec.nodeAttestor.k8sPSATEnabled: an agent needs it, for there is no other attestor",
        ));
    }
    let attestors = spec.workload_attestors.clone().unwrap_or_default();
    if !is_true(&attestors.k8s, true) {
        found.push(problem(
            "InvalidWorkloadAttestors",
            "spec.workloadAttestors.k8sEnabled: an agent needs it, for there is no other attestor",
        ));
    }
    let verification = attestors.workload_attestors_verification.unwrap_or_default();
    let named = [&verification.host_cert_base_path, &verification.host_cert_file_name];
    if verification.r#type == "hostCert" && named.iter().any(|text| text.is_empty()) {
        found.push(problem(
            "InvalidKubeletVerification",
            "spec.workloadAttestors.workloadAttestorsVerification: hostCert needs hostCertBasePath \
             and hostCertFileName",
        ));
    }
    if !verification.host_cert_base_path.is_empty()
        && let Err(message) = directory(&verification.host_cert_base_path)
    {
        found.push(problem("InvalidKubeletVerification", format!("hostCertBasePath: {message}")));
    }
    found
}

/// What is wrong with a CSI driver's specification; `agent` is the agents' one, if there is one.
pub fn csi(spec: &CsiSpec, agent: Option<&AgentSpec>) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Err(message) = directory(spec.sockets()) {
        found.push(problem("InvalidSocketPath", format!("spec.agentSocketPath: {message}")));
    }
    if let Some(agent) = agent
        && agent.sockets() != spec.sockets()
    {
        found.push(problem(
            "SocketPathMismatch",
            format!(
                "spec.agentSocketPath is {}, and the SpireAgent's spec.socketPath {}: pods would get \
                 a directory without a socket",
                spec.sockets(),
                agent.sockets()
            ),
        ));
    }
    found
}

/// What is wrong with an OIDC provider's specification; `csi` is the driver's one, if there is one.
pub fn oidc(spec: &OidcSpec, csi: Option<&CsiSpec>) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Err(message) = issuer(&spec.jwt_issuer) {
        found.push(problem("InvalidJWTIssuerURL", message));
    }
    if let Some(csi) = csi
        && csi.driver() != spec.driver()
    {
        found.push(problem(
            "CSIDriverMismatch",
            format!(
                "spec.csiDriverName is {}, and the SpiffeCSIDriver's spec.pluginName {}",
                spec.driver(),
                csi.driver()
            ),
        ));
    }
    found
}

/// What deserves attention in an OIDC provider's specification.
pub fn issuers_differ(spec: &OidcSpec, server: Option<&ServerSpec>) -> Option<Problem> {
    let server = server.filter(|server| server.jwt_issuer != spec.jwt_issuer)?;
    Some(problem(
        "JWTIssuerMismatch",
        format!(
            "spec.jwtIssuer is {}, and the SpireServer's {}: relying parties compare them byte for \
             byte",
            spec.jwt_issuer, server.jwt_issuer
        ),
    ))
}

/// The host of an issuer's URL, without a port.
///
/// # Errors
/// What was expected.
pub fn issuer(url: &str) -> Result<&str, String> {
    let wrong = || format!("spec.jwtIssuer: {url:?} is not a URL such as https://oidc.example.org");
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or_else(wrong)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.split(':').next().unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if host.is_empty() || !host.chars().all(good) || rest.contains(['?', '#', ' ']) {
        return Err(wrong());
    }
    Ok(host)
}

fn directory(path: &str) -> Result<(), String> {
    let parts_are_good = path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    let good = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if !path.starts_with('/') || !parts_are_good || !path.chars().all(good) {
        return Err(format!("{path:?} is not the absolute path of a directory"));
    }
    if path.len() > MAX_SOCKET_DIRECTORY {
        return Err(format!("it is longer than {MAX_SOCKET_DIRECTORY} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::settings::{Images, Platform};

    fn settings() -> Settings {
        Settings {
            namespace: "zt".into(),
            images: Images::from_env(&|_| None),
            platform: Platform::KUBERNETES,
            create_only: false,
            operator_condition: None,
        }
    }

    fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn reasons(found: &[Problem]) -> Vec<&str> {
        found.iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn what_cannot_be_done_is_named_with_its_field() {
        let settings = settings();
        let top: ManagerSpec = read("{trustDomain: a.example, clusterName: c}");
        assert_eq!(manager(&top), []);
        assert_eq!(
            reasons(&manager(&read("{trustDomain: 'A B'}"))),
            ["InvalidTrustDomain", "InvalidClusterName"]
        );
        for (yaml, reason) in [
            ("jwtIssuer: https://o.example", ""),
            ("jwtIssuer: ftp://x", "InvalidJWTIssuerURL"),
            ("{jwtIssuer: 'https://o', datastore: {databaseType: mysql}}", "UnsupportedDatabase"),
            ("{jwtIssuer: 'https://o', datastore: {databaseType: postgres}}", "InvalidDatastore"),
            ("{jwtIssuer: 'https://o', keyManager: {memoryEnabled: 'true'}}", "InvalidKeyManager"),
            (
                "{jwtIssuer: 'https://o', federation: {bundleEndpoint: {profile: https_web, \
                 httpsWeb: {acme: {directoryUrl: 'https://ca', domainName: a.example, email: a@b}}}}}",
                "InvalidFederationConfiguration",
            ),
            (
                "{jwtIssuer: 'https://o', federation: {bundleEndpoint: {profile: https_web, \
                 httpsWeb: {acme: {directoryUrl: 'https://ca', domainName: a.example, email: a@b, \
                 tosAccepted: 'true'}}}}}",
                "",
            ),
            (
                "{jwtIssuer: 'https://o', federation: {federatesWith: [{trustDomain: a.example, \
                 bundleEndpointUrl: 'https://x', bundleEndpointProfile: https_web}]}}",
                "InvalidFederationConfiguration",
            ),
            (
                "{jwtIssuer: 'https://o', federation: {federatesWith: [{trustDomain: b.example, \
                 bundleEndpointUrl: 'https://x', bundleEndpointProfile: https_spiffe}]}}",
                "InvalidFederationConfiguration",
            ),
        ] {
            let found = server(&settings, &top, &read(yaml));
            let expected: &[&str] = if reason.is_empty() { &[] } else { &[reason] };
            assert_eq!(reasons(&found), expected, "{yaml}: {found:?}");
        }
        let ours: AgentSpec = read("{}");
        assert_eq!(agent(&ours), []);
        for yaml in ["socketPath: /a/../b", "socketPath: a", "socketPath: /a//b"] {
            assert_eq!(reasons(&agent(&read(yaml))), ["InvalidSocketPath"], "{yaml}");
        }
        assert_eq!(
            reasons(&csi(&read("agentSocketPath: /run/other"), Some(&ours))),
            ["SocketPathMismatch"]
        );
        let provider = read("{jwtIssuer: 'https://o.example/', csiDriverName: x}");
        assert_eq!(reasons(&oidc(&provider, Some(&read("{}")))), ["CSIDriverMismatch"]);
        let server: ServerSpec = read("jwtIssuer: https://o.example");
        assert_eq!(issuers_differ(&provider, Some(&server)).unwrap().reason, "JWTIssuerMismatch");
        assert_eq!(issuers_differ(&provider, None), None);
    }

    #[test]
    fn times_that_rotation_cuts_short_are_a_warning_and_impossible_ones_an_error() {
        assert_eq!(times(&read("{}")), Ok(vec![]));
        assert_eq!(times(&read("{caValidity: 24h, defaultX509Validity: 5h}")).unwrap().len(), 1);
        for yaml in
            ["caValidity: 0s", "caValidity: soon", "{caValidity: 1h, defaultX509Validity: 2h}"]
        {
            assert!(times(&read(yaml)).is_err(), "{yaml}");
        }
    }

    #[test]
    fn the_host_of_an_issuer_has_no_port_and_no_path() {
        assert_eq!(issuer("https://oidc.example:8443/a"), Ok("oidc.example"));
        assert!(issuer("https:///a").is_err() && issuer("https://a?b").is_err());
    }
}
