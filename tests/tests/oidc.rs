//! The OIDC discovery provider with real verifiers: go-oidc, OpenBao and Envoy.

use std::{process::Command, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use e2e::{
    Agent, AgentOptions, DEADLINE, Node, Process, Server, ServerOptions, TestDir, WebCertificate,
    bins, cli,
    clients::{go_binary, kubernetes_authenticator},
    eventually, eventually_within, free_port, http, on_path, skip,
};
use serde_json::Value;
use signet_testkit::Bao;

/// Who serves the documents.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// The server itself.
    Server,
    /// `signet-oidc`, from the server's socket.
    ServerApi,
    /// `signet-oidc`, from the Workload API.
    WorkloadApi,
}

/// A trust domain whose tokens have the issuer `https://localhost:<port>`.
struct Issuer {
    server: Server,
    _agent: Option<Agent>,
    _provider: Option<Process>,
    dir: Arc<TestDir>,
    web: WebCertificate,
    port: u16,
}

impl Issuer {
    fn start(by: By) -> Self {
        Self::start_with(by, "")
    }

    /// With more in the server's block `server`.
    fn start_with(by: By, more: &str) -> Self {
        let dir = Arc::new(TestDir::new());
        let web = WebCertificate::make(&dir, "oidc");
        let port = free_port();
        let listener = format!(
            "domains = [\"localhost\"]\n\
             serving_cert_file {{\n cert_file_path = \"{}\"\n key_file_path = \"{}\"\n \
             addr = \"127.0.0.1:{port}\"\n}}\n",
            web.cert.display(),
            web.key.display()
        );
        let block = match by {
            By::Server => format!("oidc_discovery_provider {{\n{listener}}}"),
            _ => String::new(),
        };
        let options = ServerOptions::with(&format!(
            "jwt_issuer = \"https://localhost:{port}\"\n{block}\n{more}"
        ));
        let server = Server::start_in(&dir, "server", options);
        let mut agent = None;
        let source = match by {
            By::Server => None,
            By::ServerApi => {
                let socket = server.socket();
                Some(format!("server_api {{ address = \"unix://{}\" }}", socket.display()))
            }
            By::WorkloadApi => {
                let options = Node::agent_options(&server, AgentOptions::default());
                let started = Agent::start_in(&dir, "agent", options);
                let selector = e2e::node::caller();
                server.register(e2e::node::ALIAS, "/oidc", &[&selector], "");
                let socket = started.socket();
                agent = Some(started);
                Some(format!(
                    "workload_api {{ socket_path = \"{}\" trust_domain = \"example.org\" }}",
                    socket.display()
                ))
            }
        };
        let provider = source.map(|source| {
            let config =
                format!("jwt_issuer = \"https://localhost:{port}\"\n{listener}\n{source}\n");
            let config = dir.write("oidc.conf", config);
            let mut command = Command::new(bins::oidc());
            command.arg("-config").arg(config);
            Process::start("signet-oidc", &mut command, &dir.join("oidc.log"))
        });
        let issuer = Self { server, _agent: agent, _provider: provider, dir, web, port };
        eventually("the documents are served", || {
            let checked = issuer.check("openbao", None);
            (checked.code == 0).then_some(())
        });
        issuer
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// A token for the audience `aud`.
    fn token(&self) -> String {
        self.token_for("aud")
    }

    fn token_for(&self, audience: &str) -> String {
        let mint = format!("jwt mint -spiffeID spiffe://example.org/web -audience {audience}");
        self.server.cli().line(&mint).ok().stdout.trim().to_owned()
    }

    fn check(&self, target: &str, token: Option<&str>) -> e2e::Output {
        self.check_for(target, "aud", token)
    }

    fn check_for(&self, target: &str, audience: &str, token: Option<&str>) -> e2e::Output {
        let mut command = Command::new(bins::oidc());
        command.args(["check", "-for", target, "-output", "json", "-caCert"]);
        command.arg(&self.web.ca).args([&self.url(), audience]);
        if let Some(token) = token {
            command.arg(self.dir.write("token.jwt", token));
        }
        cli::run(&mut command, "")
    }

    /// The rules that a check says are not met.
    fn failed(&self, target: &str, token: &str) -> Vec<String> {
        self.failed_for(target, "aud", token)
    }

    fn failed_for(&self, target: &str, audience: &str, token: &str) -> Vec<String> {
        let checked = self.check_for(target, audience, Some(token));
        let found: Value = serde_json::from_str(&checked.stdout).expect("JSON");
        let all = found["findings"].as_array().expect("findings").iter();
        let failed = all.filter(|finding| finding["verdict"] == "fail");
        failed.map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
    }

    /// Puts a new key in the place of the one that signs.
    fn rotate(&self) {
        self.rotate_by("localauthority jwt prepare");
    }

    fn rotate_by(&self, prepare: &str) {
        let cli = self.server.cli();
        let prepared = cli.json(prepare);
        let id = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID");
        cli.line(&format!("localauthority jwt activate -authorityID {id}")).ok();
    }
}

#[test]
fn go_oidc_verifies_tokens_whoever_serves_the_keys() {
    let go = match go_binary() {
        Ok(go) => go,
        Err(why) => skip!("{why}"),
    };
    for by in [By::Server, By::ServerApi, By::WorkloadApi] {
        let issuer = Issuer::start(by);
        let verify = |audience: &str, token: &str| {
            let ca = issuer.web.ca.display().to_string();
            let args = ["oidc-verify", &issuer.url(), audience, &ca, token];
            cli::run(Command::new(&go).args(args), "").ok().json()
        };
        let token = issuer.token();
        let good = verify("aud", &token);
        assert_eq!(good["subject"], "spiffe://example.org/web", "{by:?}: {good}");
        assert!(verify("other", &token)["error"].as_str().unwrap().contains("audience"));
        issuer.rotate();
        let token = issuer.token();
        // At once from the server itself; a moment later from an agent.
        eventually(&format!("the new key from {by:?}"), || {
            let verified = verify("aud", &token);
            (verified["subject"] == "spiffe://example.org/web").then_some(())
        });
        // The check says what each cloud would make of it: an issuer with a port is nothing for
        // AWS, and a key on a curve nothing for Entra.
        assert_eq!(issuer.failed("openbao", &token), Vec::<String>::new(), "{by:?}");
        assert_eq!(issuer.failed("gcp", &token), Vec::<String>::new());
        assert_eq!(issuer.failed("aws", &token), ["issuer port"]);
        assert_eq!(issuer.failed("entra", &token), ["algorithms of the keys", "token algorithm"]);
    }
}

/// The algorithm and the key of a token.
fn header(token: &str) -> (String, String) {
    let part = token.split('.').next().expect("a header");
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON");
    let text = |name: &str| header[name].as_str().expect("a text").to_owned();
    (text("alg"), text("kid"))
}

#[test]
fn an_audience_that_wants_another_algorithm_gets_it_and_each_key_has_its_own_life() {
    let go = match go_binary() {
        Ok(go) => go,
        Err(why) => skip!("{why}"),
    };
    const ENTRA: &str = "api://AzureADTokenExchange";
    let block =
        "second_jwt_key { key_type = \"rsa-2048\" audiences = [\"api://AzureADTokenExchange\"] }";
    let mut issuer = Issuer::start_with(By::Server, block);
    let verified = |issuer: &Issuer, audience: &str, token: &str| {
        let ca = issuer.web.ca.display().to_string();
        let args = ["oidc-verify", &issuer.url(), audience, &ca, token];
        cli::run(Command::new(&go).args(args), "").ok().json()
    };
    // Both verify by the documents, each by its own algorithm; the answer is the two key IDs.
    let both = |issuer: &Issuer| {
        [(ENTRA, "RS256"), ("aud", "ES256")].map(|(audience, algorithm)| {
            let token = issuer.token_for(audience);
            let (found, key) = header(&token);
            assert_eq!(found, algorithm, "{audience}");
            let good = verified(issuer, audience, &token);
            assert_eq!(good["subject"], "spiffe://example.org/web", "{audience}: {good}");
            key
        })
    };
    let [second, first] = both(&issuer);
    let cli = issuer.server.cli();
    let active = |cli: &e2e::Cli, show: &str| {
        cli.json(show)["active"]["authority_id"].as_str().expect("an ID").to_owned()
    };
    assert_eq!(active(&cli, "localauthority jwt show"), first);
    assert_eq!(active(&cli, "localauthority jwt show -second"), second);

    // Entra takes the one, by the rules that are known of it, and not the other.
    assert_eq!(issuer.failed_for("entra", ENTRA, &issuer.token_for(ENTRA)), Vec::<String>::new());
    assert_eq!(issuer.failed("entra", &issuer.token()), ["token algorithm"]);
    // One token cannot be signed by two keys.
    let mixed =
        format!("jwt mint -spiffeID spiffe://example.org/web -audience aud -audience {ENTRA}");
    cli.line(&mixed).exits(1).says("wants the second JWT key").says("InvalidArgument");

    // Each key is rotated by itself.
    issuer.rotate_by("localauthority jwt prepare -second");
    let [rotated, same] = both(&issuer);
    assert_ne!(rotated, second);
    assert_eq!(same, first);
    issuer.rotate();
    let [same, rotated_first] = both(&issuer);
    assert_eq!(same, rotated);
    assert_ne!(rotated_first, first);
    // What was rotated away is tainted and revoked by its ID; what signs is not.
    let cli = issuer.server.cli();
    cli.line(&format!("localauthority jwt taint -authorityID {rotated}")).exits(1);
    let old = issuer.server.cli().line("bundle show -format spiffe").ok().stdout;
    assert!(old.contains(&second) && old.contains(&first));
    for id in [&second, &first] {
        cli.line(&format!("localauthority jwt taint -authorityID {id}")).ok();
        cli.line(&format!("localauthority jwt revoke -authorityID {id}")).ok();
    }
    let left = issuer.server.cli().line("bundle show -format spiffe").ok().stdout;
    assert!(!left.contains(&second) && !left.contains(&first));

    issuer.server.restart();
    eventually("the documents are served again", || {
        (issuer.check("openbao", None).code == 0).then_some(())
    });
    assert_eq!(both(&issuer), [rotated, rotated_first], "a restart changes nothing");
    let config = issuer.server.config_file();
    let config = config.to_str().expect("UTF-8");
    let doctor = e2e::Cli::bare(bins::server());
    doctor.run(["doctor", "-config", config]).says("second JWT authority");
}

/// The documentation's configuration of an API server, for this issuer and what replaces a line.
fn authentication(issuer: &Issuer, (from, to): (&str, &str)) -> String {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/oidc.md");
    let docs = std::fs::read_to_string(docs).expect("the documentation");
    let (_, rest) = docs.split_once("## Kubernetes\n").expect("a chapter");
    let (_, rest) = rest.split_once("```yaml\n").expect("a configuration");
    let (config, _) = rest.split_once("```").expect("its end");
    let ca = std::fs::read_to_string(&issuer.web.ca).expect("a CA");
    let ca: String = ca.lines().map(|line| format!("      {line}\n")).collect();
    let comment =
        "    # certificateAuthority: |     # PEM, where the API server does not know it already\n";
    for text in [comment, "https://oidc.example.org", from] {
        assert!(config.contains(text), "{text:?} is in {config}");
    }
    config
        .replace(comment, &format!("    certificateAuthority: |\n{ca}"))
        .replace(from, to)
        .replace("https://oidc.example.org", &issuer.url())
}

#[test]
fn a_kubernetes_api_server_takes_tokens_for_it_and_no_others() {
    let authenticator = match kubernetes_authenticator() {
        Ok(authenticator) => authenticator,
        Err(why) => skip!("{why}"),
    };
    let issuer = Issuer::start(By::Server);
    let ask = |replaced: (&str, &str), tokens: &[&str]| {
        let config = issuer.dir.write("authentication.yaml", authentication(&issuer, replaced));
        let mut command = Command::new(&authenticator);
        command.arg(config).args(tokens);
        cli::run(&mut command, "")
    };
    let usual = ("kubernetes", "kubernetes");
    let answers = |tokens: &[&str]| -> Vec<Value> {
        let output = ask(usual, tokens).ok();
        output.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let token = issuer.token_for("kubernetes");
    let other = issuer.token_for("other");
    let url = issuer.url();
    let minted = |issuer: &str| {
        let server = Server::start(ServerOptions::with(&format!("jwt_issuer = \"{issuer}\"")));
        let mint = "jwt mint -spiffeID spiffe://example.org/web -audience kubernetes";
        server.cli().line(mint).ok().stdout.trim().to_owned()
    };
    // By another issuer; by one that only says it is this one; changed on the way.
    let (foreign, forged) = (minted("https://other.example.org"), minted(&url));
    let changed = format!("{}AAAA", &token[..token.len() - 4]);
    let found = answers(&[&token, &other, &foreign, &forged, &changed]);
    assert_eq!(found[0]["username"], "spiffe://example.org/web", "{found:?}");
    let refused = |at: usize, why: &str| {
        let error = found[at]["error"].as_str().unwrap_or_else(|| panic!("{at}: {found:?}"));
        assert!(error.contains(why), "{at}: {error}");
    };
    refused(1, "audience");
    refused(2, "no issuer");
    refused(3, "verify");
    refused(4, "verify");

    let mint = "jwt mint -spiffeID spiffe://example.org/web -audience kubernetes -ttl 1s";
    let short = issuer.server.cli().line(mint).ok().stdout;
    eventually("a token that has expired is refused", || {
        let answer = answers(&[short.trim()]).remove(0);
        answer["error"].as_str().filter(|error| error.contains("expired")).map(drop)
    });
    // A key that the API server has not seen.
    issuer.rotate();
    assert_eq!(answers(&[&issuer.token_for("kubernetes")])[0]["username"], found[0]["username"]);
    // Its own rules: a subject that no rule lets in, an issuer that is not what is served.
    let denied = ask(("'spiffe://example.org/'", "'spiffe://example.org/ns/'"), &[&token]).ok();
    assert!(denied.stdout.contains("only identities of example.org"), "{denied}");
    ask(("url: https://oidc.example.org", "url: https://oidc.example.org/"), &[&token])
        .exits(1)
        .says("issuer did not match");
}

#[test]
fn openbao_lets_a_workload_in_by_its_token_and_nobody_else() {
    let Some(bao) = Bao::start(false) else { skip!("bao is not installed") };
    let issuer = Issuer::start(By::ServerApi);
    let run = |args: &[&str]| {
        let mut command = Command::new("bao");
        command.args(args).env("BAO_ADDR", bao.address()).env("BAO_TOKEN", Bao::ROOT);
        cli::run(&mut command, "")
    };
    run(&["auth", "enable", "jwt"]).ok();
    let url = issuer.url();
    let ca = format!("oidc_discovery_ca_pem=@{}", issuer.web.ca.display());
    let discovery = format!("oidc_discovery_url={url}");
    run(&["write", "auth/jwt/config", &discovery, &format!("bound_issuer={url}"), &ca]).ok();
    // An issuer that is not what is served is refused: byte for byte.
    let slash = format!("oidc_discovery_url={url}/");
    assert_ne!(run(&["write", "auth/jwt/config", &slash, &ca]).code, 0);
    run(&["write", "auth/jwt/config", &discovery, &format!("bound_issuer={url}"), &ca]).ok();
    let role = |name: &str, subject: &str| {
        let (path, subject) = (format!("auth/jwt/role/{name}"), format!("bound_subject={subject}"));
        run(&[
            "write",
            &path,
            "role_type=jwt",
            "user_claim=sub",
            "bound_audiences=aud",
            &subject,
            "token_ttl=5m",
        ])
        .ok();
    };
    role("web", "spiffe://example.org/web");
    role("db", "spiffe://example.org/db");
    let login = |role: &str, token: &str| {
        let (role, jwt) = (format!("role={role}"), format!("jwt={token}"));
        run(&["write", "auth/jwt/login", &role, &jwt])
    };
    let token = issuer.token();
    login("web", &token).ok();
    assert_ne!(login("db", &token).code, 0, "another subject");
    // A key that OpenBao has not seen: it fetches, and lets the workload in.
    issuer.rotate();
    let renewed = issuer.token();
    eventually("the new key", || (login("web", &renewed).code == 0).then_some(()));
    // A token of another trust domain under the same issuer's name.
    let other = Server::start(ServerOptions::with(&format!("jwt_issuer = \"{url}\"")));
    let mint = "jwt mint -spiffeID spiffe://example.org/web -audience aud";
    let forged = other.cli().line(mint).ok().stdout;
    assert_ne!(login("web", forged.trim()).code, 0);
}

#[test]
fn envoy_lets_requests_with_a_token_through() {
    let Some(envoy) = on_path("envoy") else { skip!("envoy is not installed") };
    let issuer = Issuer::start(By::Server);
    let (port, provider, ca) = (free_port(), issuer.port, issuer.web.ca.display());
    let url = issuer.url();
    let config = format!(
        r#"
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                direct_response: {{status: 200, body: {{inline_string: "in"}}}}
          http_filters:
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                signet:
                  issuer: "{url}"
                  audiences: ["aud"]
                  remote_jwks:
                    http_uri: {{uri: "{url}/keys", cluster: provider, timeout: 5s}}
                    cache_duration: {{seconds: 600}}
              rules:
              - match: {{prefix: "/"}}
                requires: {{provider_name: signet}}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: provider
    type: STATIC
    load_assignment:
      cluster_name: provider
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: 127.0.0.1, port_value: {provider}}}}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          validation_context: {{trusted_ca: {{filename: "{ca}"}}}}
"#
    );
    let file = issuer.dir.write("envoy.yaml", config);
    let mut command = Command::new(envoy);
    command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"]).arg(&file);
    let _envoy = Process::start("envoy", &mut command, &issuer.dir.join("envoy.log"));
    let ask = |token: &str| -> Option<u16> {
        let header = format!("Authorization: Bearer {token}");
        http::get_with(port, "/", &[&header]).ok().map(|(status, _)| status)
    };
    let token = issuer.token();
    eventually_within("envoy lets it through", DEADLINE, || {
        (ask(&token) == Some(200)).then_some(())
    });
    assert_eq!(ask("x.y.z"), Some(401));
    let mint = "jwt mint -spiffeID spiffe://example.org/web -audience other";
    let other = issuer.server.cli().line(mint).ok().stdout;
    assert_eq!(ask(other.trim()), Some(403), "another audience");
}
