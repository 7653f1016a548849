//! Metrics as a real Prometheus reads them, SPIRE's dashboard and our own dashboards and alerts on
//! what the built programs produce.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    Agent, AgentOptions, Process, Server, ServerOptions, TestDir, cli, eventually, free_port, http,
    secrets::Secrets, skip,
};
use serde_json::Value;

/// What SPIRE's published dashboard asks for: metric, and the labels that it selects or groups by.
const SPIRE_DASHBOARD: &[(&str, &[&str])] = &[
    ("spire_agent_started", &["host", "version", "trust_domain_id"]),
    ("spire_agent_rpc_workload_api_fetch_jwt_bundles", &["host"]),
    ("spire_agent_rpc_workload_api_fetch_x509_bundles", &["host"]),
    ("spire_agent_rpc_workload_api_fetch_jwtsvid", &["host", "status"]),
    ("spire_agent_rpc_workload_api_fetch_x509svid", &["host", "status"]),
    ("spire_agent_manager_sync_fetch_svids_updates", &["host", "status"]),
    ("spire_agent_manager_sync_fetch_entries_updates", &["host", "status"]),
    ("spire_agent_workload_api_workload_attestation_elapsed_time_sum", &["host", "status"]),
    ("spire_agent_workload_api_workload_attestation_elapsed_time_count", &["host", "status"]),
    ("spire_agent_rpc_workload_api_fetch_jwtsvid_elapsed_time_sum", &["host", "status"]),
    ("spire_agent_rpc_workload_api_fetch_jwtsvid_elapsed_time_count", &["host", "status"]),
    ("spire_agent_manager_sync_fetch_entries_updates_elapsed_time_sum", &["host", "status"]),
    ("spire_agent_manager_sync_fetch_entries_updates_elapsed_time_count", &["host", "status"]),
    ("spire_agent_manager_sync_fetch_svids_updates_elapsed_time_sum", &["host", "status"]),
    ("spire_agent_manager_sync_fetch_svids_updates_elapsed_time_count", &["host", "status"]),
    ("spire_agent_rpc_workload_api_fetch_x509svid_elapsed_time_sum", &["host", "status"]),
    ("spire_agent_rpc_workload_api_fetch_x509svid_elapsed_time_count", &["host", "status"]),
    ("spire_agent_runtime_alloc_bytes", &["host"]),
    ("spire_server_started", &["host", "version", "trust_domain_id"]),
    ("spire_server_uptime_in_ms", &[]),
    ("spire_server_rpc_agent_v1_agent_attest_agent", &[]),
    ("spire_server_rpc_entry_v1_entry_batch_create_entry", &[]),
    ("spire_server_rpc_entry_v1_entry_batch_delete_entry", &[]),
    ("spire_server_rpc_entry_v1_entry_list_entries", &[]),
    ("spire_server_rpc_bundle_v1_bundle_get_bundle", &[]),
    ("spire_server_rpc_svid_v1_svid_new_jwtsvid_elapsed_time_sum", &[]),
    ("spire_server_rpc_svid_v1_svid_new_jwtsvid_elapsed_time_count", &[]),
    ("spire_server_rpc_svid_v1_svid_batch_new_x509svid_elapsed_time_sum", &[]),
    ("spire_server_rpc_svid_v1_svid_batch_new_x509svid_elapsed_time_count", &[]),
    ("spire_server_entry_cache_reload_elapsed_time_sum", &[]),
    ("spire_server_entry_cache_reload_elapsed_time_count", &[]),
    ("spire_server_datastore_registration_entry_list_elapsed_time_sum", &[]),
    ("spire_server_datastore_registration_entry_list_elapsed_time_count", &[]),
    ("spire_server_rpc_bundle_v1_bundle_get_bundle_elapsed_time_sum", &[]),
    ("spire_server_rpc_bundle_v1_bundle_get_bundle_elapsed_time_count", &[]),
    ("spire_server_runtime_alloc_bytes", &[]),
];

/// What the real SPIRE 1.15.3 emits besides, when it does the same.
const SPIRE_EMITS: &[(&str, &[&str])] = &[
    ("spire_server_ca_manager_jwt_key_prepare", &["status"]),
    ("spire_server_ca_manager_x509_ca_activate", &[]),
    ("spire_server_ca_manager_x509_ca_prepare", &["status"]),
    ("spire_server_datastore_bundle_append", &["status"]),
    ("spire_server_datastore_ca_journal_set", &["status"]),
    ("spire_server_datastore_join_token_create", &["status"]),
    ("spire_server_datastore_registration_entry_create", &["status"]),
    ("spire_server_manager_jwt_key_activate", &[]),
    ("spire_server_manager_x509_ca_rotate_ttl", &["trust_domain_id"]),
    ("spire_server_rateLimit_agent_v1_agent_attest_agent", &["status"]),
    ("spire_server_rateLimit_svid_v1_svid_batch_new_x509svid", &["status"]),
    ("spire_server_rpc_health_check", &["status"]),
    ("spire_server_server_ca_sign_x509_svid", &[]),
    ("spire_server_server_key_manager_generate_key", &["status"]),
    ("spire_server_svid_rotate", &["status"]),
    ("spire_agent_agent_key_manager_generate_key", &["status"]),
    ("spire_agent_bootstrap_attempts", &["mode"]),
    ("spire_agent_bootstrap_seconds", &["mode"]),
    ("spire_agent_lru_cache_svid_map_size", &[]),
    ("spire_agent_node_attestor_new_svid", &["attestor", "status"]),
    ("spire_agent_rpc_health_check", &["status"]),
    ("spire_agent_sync_bundles_total", &[]),
    ("spire_agent_sync_entries_total", &[]),
    ("spire_agent_workload_api_connection", &[]),
    ("spire_agent_workload_api_discovered_selectors_sum", &[]),
    ("spire_agent_workload_api_workload_attestor", &["attestor", "status"]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
];

/// Label names of each metric that was read.
type Series = BTreeMap<String, BTreeSet<String>>;

/// A server and an agent that have done a little of everything.
pub struct Site {
    /// The server.
    pub server: Server,
    /// The agent.
    pub agent: Agent,
    ports: [u16; 2],
}

impl Site {
    /// `tls` is the server's block for its endpoint.
    pub fn start(tls: &str) -> Self {
        let ports = [free_port(), free_port()];
        let top = |port: u16, tls: &str| {
            format!(
                "telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {port} {tls} }} InMem {{}} }}"
            )
        };
        let server = Server::start(ServerOptions {
            // The limits are counted, and never reached.
            server: "ratelimit { attestation = true, signing = true }".to_owned(),
            top: top(ports[0], tls),
            ..ServerOptions::default()
        });
        let token = server.token("/node");
        let options = AgentOptions {
            port: server.port(),
            bundle: Some(server.bundle_file()),
            token: Some(token),
            top: top(ports[1], ""),
            ..AgentOptions::default()
        };
        let agent = Agent::start_in(server.dir(), "agent", options);
        let site = Self { server, agent, ports };
        site.work();
        site
    }

    fn work(&self) {
        let (server, agent) = (self.server.cli(), self.agent.cli());
        agent.line("api fetch x509").exits(1);
        let uid = nix::unistd::getuid();
        let entry = self.server.register("/node", "/w", &[&format!("unix:uid:{uid}")], "");
        let spare = self.server.register("/node", "/spare", &["unix:uid:4242424242"], "");
        eventually("an SVID is served", || (agent.line("api fetch x509").code == 0).then_some(()));
        agent.line("api fetch jwt -audience a").ok();
        // Fetching a JWT-SVID reads JWT bundles; X.509 bundles are read by a client of its own.
        let bundles = self.agent.socket();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(async {
                let address = format!("unix://{}", bundles.display());
                let client =
                    spiffe::WorkloadApiClient::connect_to(&address).await.expect("a client");
                client.fetch_x509_bundles().await.expect("bundles");
            });
        server.line("entry show").ok();
        server.line("agent show -spiffeID spiffe://example.org/spire/agent/nobody").exits(1);
        server.line(&format!("entry delete -entryID {spare}")).ok();
        server.line(&format!("entry show -entryID {entry}")).ok();
    }

    /// What a program's endpoint answers.
    fn read(port: u16) -> String {
        get(port, "/metrics")
    }
}

/// The body of an answer over plain HTTP; nothing where there is none.
fn get(port: u16, path: &str) -> String {
    http::get(port, path).map(|(_, body)| body).unwrap_or_default()
}

fn series(text: &str) -> Series {
    let mut found = Series::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(end) = line.find(['{', ' ']) else { continue };
        let labels = line[end..].rsplit_once('}').map(|(labels, _)| labels).unwrap_or_default();
        let names = labels.trim_start_matches('{').split("\",").filter_map(|l| l.split_once('='));
        found
            .entry(line[..end].to_owned())
            .or_default()
            .extend(names.map(|(name, _)| name.to_owned()));
    }
    found
}

#[track_caller]
fn assert_has(found: &Series, wanted: &[(&str, &[&str])], prefix: &str) {
    let mut missing = String::new();
    for (name, labels) in wanted.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let have = found.get(*name);
        let lacks: Vec<_> =
            labels.iter().filter(|l| have.is_none_or(|h| !h.contains(**l))).collect();
        if have.is_none() || !lacks.is_empty() {
            writeln!(missing, "{name}: {lacks:?}, there is {have:?}").expect("a string");
        }
    }
    assert!(missing.is_empty(), "missing:\n{missing}");
}

#[test]
fn what_spires_dashboard_asks_for_is_there_under_spires_names_and_labels() {
    let site = Site::start("");
    let [server, agent] = site.ports.map(Site::read);
    for wanted in [SPIRE_DASHBOARD, SPIRE_EMITS] {
        assert_has(&series(&server), wanted, "spire_server_");
        assert_has(&series(&server), wanted, "process_");
        assert_has(&series(&agent), wanted, "spire_agent_");
        assert_has(&series(&agent), wanted, "process_");
    }
    // Refused is not OK.
    let refused = "spire_agent_rpc_workload_api_fetch_x509svid{";
    let line = agent.lines().find(|l| l.starts_with(refused) && l.contains("PermissionDenied"));
    assert!(line.is_some(), "{agent}");
    // The workload's and that of /node, the entry of the join token: the entry that was deleted
    // goes with the next sync.
    eventually("two SVIDs are held", || {
        let agent = Site::read(site.ports[1]);
        let held = agent.lines().find(|l| l.starts_with("spire_agent_lru_cache_svid_map_size"));
        held.is_some_and(|line| line.ends_with(" 2.0")).then_some(())
    });
}

/// A Prometheus that scrapes every second.
struct Prometheus {
    _process: Process,
    port: u16,
}

impl Prometheus {
    fn start(dir: &TestDir, scrape: &str, rules: &str) -> Self {
        let port = free_port();
        dir.write("rules.yaml", rules);
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yaml]\nscrape_configs:\n{scrape}"
        );
        let config = dir.write("prometheus.yaml", config);
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.subdir("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let log = config.with_extension("log");
        let process = Process::start("prometheus", &mut command, &log);
        Self { _process: process, port }
    }

    /// The result of a query; `Err` when it cannot be evaluated.
    fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expr.bytes().map(|b| format!("%{b:02X}")).collect();
        let body = get(self.port, &format!("/api/v1/query?query={encoded}"));
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        match answer["data"]["result"].as_array() {
            Some(result) => Ok(result.clone()),
            None => Err(format!("{expr}: {body}")),
        }
    }

    fn holds(&self, expr: &str) -> Option<()> {
        self.query(expr).ok().filter(|result| !result.is_empty()).map(drop)
    }
}

fn is_missing(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_err()
}

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana")
}

/// Every expression of a dashboard, its variables filled in.
fn expressions(dashboard: &str) -> Vec<String> {
    let path = grafana().join(dashboard);
    let json: Value = serde_json::from_slice(&fs::read(&path).expect("a dashboard")).expect("JSON");
    let panels = json["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets
        .map(|target| {
            let expr = target["expr"].as_str().expect("an expression");
            expr.replace("$__rate_interval", "1m").replace("$instance", ".*")
        })
        .collect()
}

/// The metrics that an expression or a rule names.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours =
        ["spire_server_", "spire_agent_", "signet_controller_", "signet_broker_", "process_"];
    words
        .filter(|word| ours.iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// The same without what a histogram or a call counter adds.
fn base(name: &str) -> &str {
    let name =
        ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    name.strip_suffix("_elapsed_time").unwrap_or(name)
}

fn is_documented(document: &str, name: &str) -> bool {
    let bare = ["spire_server_", "spire_agent_", "signet_controller_", "signet_broker_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let has = |name: &str| document.contains(&format!("`{name}`"));
    let family = ["rpc_", "datastore_", "rateLimit_"].iter().find(|f| bare.starts_with(**f));
    family.is_some() || has(bare) || has(base(bare))
}

#[test]
fn dashboards_and_alerts_evaluate_on_what_the_programs_produce() {
    if is_missing("prometheus") || is_missing("promtool") {
        skip!("prometheus and promtool are needed");
    }
    // The server's metrics over TLS, for Prometheus alone.
    let tls = "tls { use_spire_svid = true, \
               authorized_spiffe_ids = [\"spiffe://example.org/prometheus\"] }";
    let mut site = Site::start(tls);
    let dir = TestDir::new();
    let svid = dir.subdir("svid");
    let mint =
        format!("x509 mint -spiffeID spiffe://example.org/prometheus -write {}", svid.display());
    site.server.cli().line(&mint).ok();
    let [server, agent] = site.ports;
    // The SVID of a server has no host name to check.
    let scrape = format!(
        "  - job_name: signet-server\n    scheme: https\n    tls_config: {{cert_file: {0}/svid.pem, \
         key_file: {0}/key.pem, insecure_skip_verify: true}}\n    static_configs: [{{targets: \
         [\"127.0.0.1:{server}\"]}}]\n  - job_name: signet-agent\n    static_configs: [{{targets: \
         [\"127.0.0.1:{agent}\"]}}]\n",
        svid.display()
    );
    // As they are but for how long something must be wrong.
    let rules = fs::read_to_string(grafana().join("alerts.yaml")).expect("rules");
    let quick: String = rules
        .lines()
        .map(|line| match line.trim_start().starts_with("for: ") {
            true => "        for: 0s\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect();
    let prometheus = Prometheus::start(&dir, &scrape, &quick);
    eventually("both are scraped", || prometheus.holds("sum(up) == 2"));
    eventually("rates can be told", || {
        prometheus.holds("rate(spire_agent_manager_sync_fetch_entries_updates[1m])")
    });

    let document = include_str!("../../docs/metrics.md");
    let mut empty = Vec::new();
    for dashboard in
        ["signet-server.json", "signet-agent.json", "signet-controller.json", "signet-broker.json"]
    {
        let expressions = expressions(dashboard);
        assert!(expressions.len() > 10, "{dashboard}");
        for expr in expressions {
            let result = prometheus.query(&expr).unwrap_or_else(|why| panic!("{dashboard}: {why}"));
            if result.is_empty() {
                empty.push(expr.clone());
            }
            for name in names_in(&expr) {
                assert!(is_documented(document, &name), "{dashboard}: {name} in {expr}");
            }
        }
    }
    // What is shown without anything having gone wrong.
    for wanted in [
        "next_expiry_seconds",
        "sync_age_seconds",
        "svids_issued",
        "health_ready",
        "authority_expiry",
    ] {
        assert!(
            empty.iter().all(|expr| !expr.contains(wanted) || expr.contains("== 0")),
            "{empty:#?}"
        );
    }

    let answer: Value = serde_json::from_str(&get(prometheus.port, "/api/v1/rules")).expect("JSON");
    let groups = answer["data"]["groups"].as_array().expect("groups");
    let all: Vec<&Value> = groups.iter().filter_map(|g| g["rules"].as_array()).flatten().collect();
    assert!(all.len() >= 30, "{answer}");
    let broken: Vec<_> = all.iter().filter(|rule| rule["health"] == "err").collect();
    assert!(broken.is_empty(), "{broken:#?}");
    for name in names_in(&rules) {
        assert!(is_documented(document, &name), "{name}");
    }
    let firing = |alert: &str| format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
    assert_eq!(
        prometheus.query(&firing("SignetAgentDown")).expect("a result"),
        Vec::<Value>::new()
    );
    // An agent that is gone, and comes back; a server that does not answer it.
    site.agent.stop();
    eventually("its alert fires", || prometheus.holds(&firing("SignetAgentDown")));
    site.agent.launch();
    site.agent.ready();
    let gone = format!("absent({})", firing("SignetAgentDown"));
    eventually("its alert resolves", || prometheus.holds(&gone));
    site.server.stop();
    eventually("the agent is without a server", || prometheus.holds(&firing("SignetServerDown")));
}

#[test]
fn every_alert_is_shown_firing_and_resolving_and_has_its_runbook() {
    if is_missing("promtool") {
        skip!("promtool is needed");
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["test", "rules", "alerts_test.yaml"]).current_dir(grafana());
    cli::run(&mut promtool, "").ok();

    let read = |name: &str| fs::read_to_string(grafana().join(name)).expect("a file");
    let (rules, tests) = (read("alerts.yaml"), read("alerts_test.yaml"));
    let runbooks = include_str!("../../docs/runbooks.md");
    let document = include_str!("../../docs/metrics.md");
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 30);
    for alert in alerts {
        assert!(runbooks.contains(&format!("\n### {alert}\n")), "{alert} has no runbook");
        let link = format!("docs/runbooks.md#{}", alert.to_ascii_lowercase());
        assert!(rules.contains(&link), "{alert} does not name its runbook");
        let fired = format!("alertname=\"{alert}\", alertstate=\"firing\"");
        assert_eq!(tests.matches(&fired).count(), 2, "{alert} fires and resolves");
    }
    // What the alerts are tried on has the names and labels of the real thing.
    for line in tests.lines().filter_map(|line| line.trim().strip_prefix("- series: ")) {
        let line = line.trim_matches('\'');
        for (name, labels) in series(line) {
            assert!(name == "up" || is_documented(document, &name), "{name}");
            let row = document.lines().find(|row| {
                row.starts_with("| `")
                    && row.contains(&format!(
                        "`{}`",
                        base(
                            name.trim_start_matches("spire_server_")
                                .trim_start_matches("spire_agent_")
                                .trim_start_matches("signet_controller_")
                                .trim_start_matches("signet_broker_")
                        )
                    ))
            });
            let Some(row) = row else { continue };
            let own = ["job", "instance", "host", "le"];
            let labels = labels.iter().map(|label| label.trim());
            for label in labels.filter(|label| !own.contains(label)) {
                let is_there = row.contains(&format!("`{label}`"))
                    || (label == "status" && row.contains("call counter"));
                assert!(is_there, "{label} of {name}: {row}");
            }
        }
    }
}

#[test]
fn the_brokers_dashboard_and_alerts_ask_for_what_a_real_broker_shows() {
    let port = free_port();
    let telemetry = format!("telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {port} }} }}");
    let secrets = match Secrets::start(&telemetry) {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let path = "/tenants/blue/orders";
    let entry = secrets.workload(path, "");
    let drawn = secrets.ask(path, "POST", "/v1/credentials/orders-db", &Value::Null);
    assert_eq!(drawn.0, 200, "{drawn:?}");
    let refused = secrets.ask(path, "POST", "/v1/credentials/nothing", &Value::Null);
    assert_eq!(refused.0, 403, "{refused:?}");
    secrets.node.server.delete(&entry);
    let shown = eventually("something was taken back", || {
        let shown = get(port, "/metrics");
        let done = |line: &str| {
            line.starts_with("signet_broker_revocations{") && line.contains("effect=\"ended\"")
        };
        shown.lines().any(done).then_some(shown)
    });
    let shown = series(&shown);
    let wanted: &[(&str, &[&str])] = &[
        ("signet_broker_held", &["kind"]),
        ("signet_broker_openbao", &["status"]),
        ("signet_broker_openbao_elapsed_time_bucket", &["status", "le"]),
        ("signet_broker_requests", &["method", "reason"]),
        ("signet_broker_revocations", &["effect"]),
    ];
    assert_has(&shown, wanted, "signet_broker_");
    let rules = fs::read_to_string(grafana().join("alerts.yaml")).expect("rules");
    let asked = names_in(&format!("{rules}\n{}", expressions("signet-broker.json").join("\n")));
    let asked: Vec<_> = asked.iter().filter(|name| name.starts_with("signet_broker_")).collect();
    assert!(asked.len() >= wanted.len(), "{asked:?}");
    for name in asked {
        assert!(shown.contains_key(name), "{name} is not there: {:?}", shown.keys());
    }
}

#[test]
fn metrics_over_tls_are_for_those_who_are_authorized() {
    let tls = "tls { use_spire_svid = true, \
               authorized_spiffe_ids = [\"spiffe://example.org/prometheus\"] }";
    let site = Site::start(tls);
    let python = "import ssl, sys, urllib.request\n\
        context = ssl._create_unverified_context()\n\
        if len(sys.argv) > 2: context.load_cert_chain(sys.argv[2] + '/svid.pem', sys.argv[2] + '/key.pem')\n\
        print(urllib.request.urlopen(sys.argv[1], context=context, timeout=10).read().decode())";
    if is_missing("python3") {
        skip!("python3 is needed");
    }
    let url = format!("https://127.0.0.1:{}/metrics", site.ports[0]);
    let fetch = |svid: Option<&Path>| {
        let mut command = Command::new("python3");
        command.args(["-c", python, &url]).args(svid);
        cli::run(&mut command, "")
    };
    let mint = |name: &str| {
        let path = site.server.dir().subdir(name);
        let line =
            format!("x509 mint -spiffeID spiffe://example.org/{name} -write {}", path.display());
        site.server.cli().line(&line).ok();
        path
    };
    fetch(Some(&mint("prometheus"))).ok().says("spire_server_uptime_in_ms");
    fetch(Some(&mint("somebody"))).exits(1);
    fetch(None).exits(1);
    assert_eq!(get(site.ports[0], "/metrics"), "", "plain HTTP is not spoken");
}

#[test]
fn other_collectors_are_refused_by_name_with_what_to_use_instead() {
    let server =
        Server::prepare_in(&std::sync::Arc::new(TestDir::new()), "s", ServerOptions::default());
    let config = fs::read_to_string(server.config_file()).expect("a file");
    let validate = |block: &str| {
        fs::write(server.config_file(), format!("{config}\ntelemetry {{ {block} }}\n"))
            .expect("a file");
        let program = e2e::bins::server();
        e2e::Cli::bare(program).run(
            ["validate", "-config"].map(PathBuf::from).into_iter().chain([server.config_file()]),
        )
    };
    for (name, block) in [
        ("Statsd", "Statsd = [{ address = \"localhost:8125\" }]"),
        ("DogStatsd", "DogStatsd = [{ address = \"localhost:8125\" }]"),
        ("M3", "M3 = [{ address = \"localhost:9000\" env = \"prod\" }]"),
    ] {
        let refused = validate(block).exits(64);
        assert!(
            refused.stderr.contains(name) && refused.stderr.contains("Prometheus { }"),
            "{refused}"
        );
    }
    validate("InMem {}").ok().says("InMem");
    validate("Prometheus { port = 1 tls { cert_file = \"a\" } }").exits(64).says("key_file");
    validate(
        "Prometheus { port = 1 tls { use_spire_svid = true authorized_spiffe_ids = [\"x\"] } }",
    )
    .exits(64)
    .says("authorized_spiffe_ids");
    validate("BlockedPrefixes = [\"spire_server.rpc\"] AllowedLabels = [\"status\"]").ok();
}
