//! Running Envoys, which get their TLS secrets from an agent.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use crate::{
    dir::TestDir,
    free_port,
    http::get,
    on_path,
    process::Process,
    wait::{DEADLINE, eventually_within},
};

/// Where Envoy is, or why nothing can be tried with it.
///
/// # Errors
/// A sentence.
pub fn available() -> Result<(), String> {
    match on_path("envoy") {
        Some(_) => Ok(()),
        None => Err("envoy is not installed".to_owned()),
    }
}

/// How a proxy is given its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sds {
    /// `StreamSecrets`.
    Whole,
    /// `DeltaSecrets`.
    Delta,
    /// `StreamSecrets` as istiod's configuration asks for them: through the cluster `sds-grpc`, for as
    /// long as it takes, and with the peers' trust domain in the validation of clients.
    Istio,
}

impl Sds {
    /// The cluster that is the agent.
    fn cluster(self) -> &'static str {
        match self {
            Self::Whole | Self::Delta => "agent",
            Self::Istio => "sds-grpc",
        }
    }
}

/// One port of a proxy that takes TLS, and what is behind it.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The name of its certificate.
    pub certificate: String,
    /// The name of the bundle that vouches for clients.
    pub bundle: String,
    /// Who may in.
    pub allow: Vec<String>,
    /// The plain service behind it.
    pub backend: u16,
    /// Whether the certificate is asked for at the first handshake and given up with its entry.
    pub on_demand: bool,
}

/// One plain port of a proxy that goes on in TLS.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// The name of its certificate.
    pub certificate: String,
    /// The name of the bundle that vouches for the server.
    pub bundle: String,
    /// Who the server must be.
    pub server: String,
    /// Its port.
    pub port: u16,
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: u16,
    /// The ports, those of the inbound ones first.
    pub ports: Vec<u16>,
}

impl Envoy {
    /// Starts an Envoy that is ready when this returns.
    pub fn start(
        dir: &TestDir,
        name: &str,
        (agent, sds): (&Path, Sds),
        inbound: &[Inbound],
        outbound: &[Outbound],
    ) -> Self {
        let mut envoy = Self::launch(dir, name, (agent, sds), inbound, outbound);
        envoy.ready();
        envoy
    }

    /// Starts an Envoy without waiting.
    pub fn launch(
        dir: &TestDir,
        name: &str,
        (agent, sds): (&Path, Sds),
        inbound: &[Inbound],
        outbound: &[Outbound],
    ) -> Self {
        let ports: Vec<u16> = (0..inbound.len() + outbound.len()).map(|_| free_port()).collect();
        let admin = free_port();
        let (own, others) = ports.split_at(inbound.len());
        let mut listeners = String::new();
        let mut clusters = agent_cluster(sds.cluster(), agent);
        for (n, (port, side)) in own.iter().zip(inbound).enumerate() {
            listeners.push_str(&inbound_listener(n, *port, side, sds));
            clusters.push_str(&plain_cluster(&format!("backend{n}"), side.backend));
        }
        for (n, (port, side)) in others.iter().zip(outbound).enumerate() {
            listeners.push_str(&plain_listener(n, *port));
            clusters.push_str(&tls_cluster(n, side, sds));
        }
        let config = format!(
            "node: {{id: {name}, cluster: test}}\n\
             admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\n\
             static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}"
        );
        let file = dir.write(format!("{name}.yaml"), config);
        let mut command = Command::new(on_path("envoy").expect("envoy"));
        command
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"])
            .arg(&file);
        let process = Process::start("envoy", &mut command, &file.with_extension("log"));
        Self { process, admin, ports }
    }

    /// Waits until it takes connections.
    pub fn ready(&mut self) {
        let (admin, process) = (self.admin, &mut self.process);
        eventually_within("envoy is ready", DEADLINE, || {
            process.assert_running();
            get(admin, "/ready").is_ok_and(|(status, _)| status == 200).then_some(())
        });
    }

    /// The sum of all statistics whose name ends in `ending`.
    pub fn stat(&self, ending: &str) -> u64 {
        let (_, text) = get(self.admin, "/stats").expect("statistics");
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| name.ends_with(ending))
            .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
            .sum()
    }
}

/// A plain HTTP service that answers with the header in which Envoy names the client. It ends with
/// the test's process.
pub fn backend() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    port
}

fn answer(stream: TcpStream) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    loop {
        let mut client = String::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => {}
            }
            if let Some(value) = line.to_lowercase().strip_prefix("x-forwarded-client-cert:") {
                client = value.trim().to_owned();
            }
        }
        let length = client.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{client}");
        if writer.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn agent_cluster(name: &str, socket: &Path) -> String {
    format!(
        "  - name: {name}
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {}}}}}}}}}]}}]
",
        socket.display()
    )
}

fn plain_cluster(name: &str, port: u16) -> String {
    format!(
        "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    load_assignment: {}
",
        endpoint(name, port)
    )
}

fn endpoint(name: &str, port: u16) -> String {
    format!(
        "{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}"
    )
}

fn source(sds: Sds) -> String {
    let (kind, more) = match sds {
        Sds::Whole => ("GRPC", ""),
        Sds::Delta => ("DELTA_GRPC", ""),
        Sds::Istio => ("GRPC", "initial_fetch_timeout: 0s, "),
    };
    format!(
        "{{resource_api_version: V3, {more}api_config_source: {{api_type: {kind}, \
         transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: \
         [{{envoy_grpc: {{cluster_name: {}}}}}]}}}}",
        sds.cluster()
    )
}

fn secret(name: &str, sds: Sds) -> String {
    format!("{{name: \"{name}\", sds_config: {}}}", source(sds))
}

fn manager(name: &str, cluster: &str, filters: &str, more: &str) -> String {
    format!(
        "      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
{more}          http_filters:
{filters}          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}
"
    )
}

fn inbound_listener(n: usize, port: u16, side: &Inbound, sds: Sds) -> String {
    let principals: Vec<String> = side
        .allow
        .iter()
        .map(|id| format!("{{authenticated: {{principal_name: {{exact: \"{id}\"}}}}}}"))
        .collect();
    let rbac = format!(
        "          - name: envoy.filters.http.rbac
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {{action: ALLOW, policies: {{peers: {{permissions: [{{any: true}}], principals: [{}]}}}}}}
",
        principals.join(", ")
    );
    let more = "          forward_client_cert_details: SANITIZE_SET
          set_current_client_cert_details: {uri: true}
";
    let certificate = if side.on_demand {
        format!(
            "            custom_tls_certificate_selector:
              name: envoy.tls.certificate_selectors.on_demand_secret
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config
                config_source: {}
                certificate_mapper:
                  name: envoy.tls.certificate_mappers.static_name
                  typed_config:
                    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.cert_mappers.static_name.v3.StaticName
                    name: \"{}\"
",
            source(sds),
            side.certificate
        )
    } else {
        format!(
            "            tls_certificate_sds_secret_configs: [{}]\n",
            secret(&side.certificate, sds)
        )
    };
    let bundle = secret(&side.bundle, sds);
    let validation = match sds {
        Sds::Whole | Sds::Delta => {
            format!("            validation_context_sds_secret_config: {bundle}")
        }
        Sds::Istio => format!(
            "            combined_validation_context:
              default_validation_context: {{match_typed_subject_alt_names: [{{san_type: URI, matcher: {{prefix: \"spiffe://example.org/\"}}}}]}}
              validation_context_sds_secret_config: {bundle}"
        ),
    };
    let resumption = match side.on_demand {
        true => {
            "          disable_stateless_session_resumption: true
          disable_stateful_session_resumption: true
"
        }
        false => "",
    };
    format!(
        "  - name: in{n}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
{filters}      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
{resumption}          common_tls_context:
{certificate}{validation}
",
        filters = manager(&format!("in{n}"), &format!("backend{n}"), &rbac, more),
    )
}

fn plain_listener(n: usize, port: u16) -> String {
    format!(
        "  - name: out{n}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
{}",
        manager(&format!("out{n}"), &format!("mtls{n}"), "", "")
    )
}

/// Each request makes its own connection, and so its own handshake.
fn tls_cluster(n: usize, side: &Outbound, sds: Sds) -> String {
    format!(
        "  - name: mtls{n}
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {{max_requests_per_connection: 1}}
        explicit_http_config: {{http_protocol_options: {{}}}}
    load_assignment: {endpoint}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        max_session_keys: 0
        common_tls_context:
          tls_certificate_sds_secret_configs: [{certificate}]
          combined_validation_context:
            default_validation_context: {{match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{server}\"}}}}]}}
            validation_context_sds_secret_config: {bundle}
",
        endpoint = endpoint(&format!("mtls{n}"), side.port),
        certificate = secret(&side.certificate, sds),
        server = side.server,
        bundle = secret(&side.bundle, sds),
    )
}
