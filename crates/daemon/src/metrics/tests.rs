use super::*;

fn metrics() -> Metrics {
    Metrics::new(&TelemetrySettings::default(), "spire_server", "example.org", "host-1.lan")
}

#[test]
fn names_and_labels_are_those_of_spire() {
    let metrics = metrics();
    metrics.counter(&["ca", "manager", "bundle", "pruned"], "Pruned.", &[]).inc(&[]);
    let calls = metrics.calls(&["rpc", "agent", "v1.Agent"], "Calls", &["trust_domain_id"]);
    calls.observe(&["example.org"], "OK", Duration::from_micros(300));
    calls.observe(&["example.org"], "OK", Duration::from_secs(60));
    let text = metrics.encode();
    for line in [
        "# HELP spire_server_ca_manager_bundle_pruned Pruned.",
        "# TYPE spire_server_ca_manager_bundle_pruned counter",
        "spire_server_ca_manager_bundle_pruned{host=\"host_1_lan\"} 1",
        "spire_server_rpc_agent_v1_Agent{host=\"host_1_lan\",trust_domain_id=\"example_org\",status=\"OK\"} 2",
        "spire_server_rpc_agent_v1_Agent_elapsed_time_count{host=\"host_1_lan\",trust_domain_id=\"example_org\",status=\"OK\"} 2",
        "spire_server_rpc_agent_v1_Agent_elapsed_time_sum{host=\"host_1_lan\",trust_domain_id=\"example_org\",status=\"OK\"} 60000.3",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    assert!(
        text.contains("le=\"0.5\",trust_domain_id=\"example_org\",status=\"OK\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("le=\"+Inf\",trust_domain_id=\"example_org\",status=\"OK\"} 2\n"),
        "{text}"
    );
}

#[test]
fn a_key_named_twice_is_one_metric() {
    let metrics = metrics();
    metrics.counter(&["a"], "A", &["x"]).inc(&["1"]);
    metrics.counter(&["a"], "A", &["x"]).add(&["1"], 2);
    let text = metrics.encode();
    assert_eq!(text.matches("# TYPE spire_server_a counter").count(), 1);
    assert!(text.contains("x=\"1\"} 3\n"), "{text}");
}

#[test]
fn gauges_hold_and_let_go() {
    let metrics = Metrics::detached();
    let gauge = metrics.gauge(&["connections"], "Open", &[]);
    let one = gauge.hold(&[]);
    let two = gauge.hold(&[]);
    drop(one);
    assert!(metrics.encode().contains("signet_connections 1.0\n"));
    drop(two);
    gauge.set_len(&[], 7);
    assert!(metrics.encode().contains("signet_connections 7.0\n"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_counts_as_canceled() {
    let metrics = Metrics::detached();
    let calls = metrics.calls(&["call"], "C", &[]);
    drop(calls.start(&[]));
    calls.start(&[]).done("OK");
    let text = metrics.encode();
    assert!(text.contains("signet_call{status=\"Canceled\"} 1\n"), "{text}");
    assert!(text.contains("signet_call{status=\"OK\"} 1\n"), "{text}");
}

#[test]
fn label_values_from_outside_grow_nothing_and_break_nothing() {
    let metrics = Metrics::detached();
    let counter = metrics.counter(&["c"], "C", &["who"]);
    for n in 0..(MAX_SERIES + 50) {
        counter.inc(&[&format!("caller \"{n}\"\n")]);
    }
    let text = metrics.encode();
    assert!(text.contains("signet_c{who=\"other\"} 50\n"));
    assert!(text.contains("signet_c{who=\"caller_7_\"} 1\n"), "{text}");
    assert!(text.lines().count() < MAX_SERIES + 10);
}

#[test]
fn gauges_are_refreshed_before_each_reading() {
    let metrics = Metrics::detached();
    let gauge = metrics.gauge(&["reads"], "R", &[]);
    metrics.before_reading(move || gauge.add(&[], 1.0));
    assert!(metrics.encode().contains("signet_reads 1.0\n"));
    assert!(metrics.encode().contains("signet_reads 2.0\n"));
}

#[test]
fn settings_choose_prefix_and_labels() {
    let settings = TelemetrySettings {
        metric_prefix: Some("my.prefix".into()),
        trust_domain_label: true,
        hostname_label: false,
        ..TelemetrySettings::default()
    };
    let metrics = Metrics::new(&settings, "spire_agent", "example.org", "h");
    metrics.counter(&["x"], "X", &[]).inc(&[]);
    assert!(metrics.encode().contains("my_prefix_x{trust_domain=\"example_org\"} 1\n"));
}

#[test]
fn runs_of_odd_characters_become_one_underscore() {
    for (text, want) in [
        ("a.b", "a_b"),
        ("a.-_b", "a_b"),
        ("a_.b", "a__b"),
        ("a._.b", "a__b"),
        ("ä", "_"),
        ("", ""),
    ] {
        assert_eq!(sanitize(text), want, "{text}");
    }
}

#[test]
fn what_the_settings_block_is_neither_shown_nor_split_by() {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let settings = TelemetrySettings {
        filter: MetricFilter {
            blocked_prefixes: texts(&["spire_server.rpc"]),
            blocked_labels: texts(&["host", "who"]),
            ..MetricFilter::default()
        },
        ..TelemetrySettings::default()
    };
    let metrics = Metrics::new(&settings, "spire_server", "example.org", "h");
    metrics.calls(&["rpc", "x"], "X", &[]).observe(&[], "OK", Duration::ZERO);
    let counter = metrics.counter(&["c"], "C", &["who"]);
    counter.inc(&["a"]);
    counter.inc(&["b"]);
    let text = metrics.encode();
    assert!(!text.contains("rpc"), "{text}");
    assert!(text.contains("spire_server_c 2\n"), "{text}");
}

#[test]
fn numbers_of_things_are_summed_and_counted() {
    let metrics = Metrics::detached();
    let numbers = metrics.numbers(&["selectors"], "S", &[]);
    numbers.observe_len(&[], 4);
    numbers.observe_len(&[], 6);
    let text = metrics.encode();
    assert!(text.contains("signet_selectors_sum 10.0\n"), "{text}");
    assert!(text.contains("signet_selectors_count 2\n"), "{text}");
    assert!(text.contains("signet_selectors_bucket{le=\"5.0\"} 1\n"), "{text}");
}

#[test]
fn what_is_forgotten_is_not_told_any_more() {
    let metrics = Metrics::detached();
    let gauge = metrics.gauge(&["g"], "G", &["of"]);
    gauge.set(&["a"], 1.0);
    gauge.set(&["b"], 2.0);
    gauge.forget(&["a"]);
    let text = metrics.encode();
    assert!(!text.contains("of=\"a\"") && text.contains("of=\"b\"} 2.0"), "{text}");
}

#[test]
fn a_process_shows_what_it_uses_under_the_usual_names() {
    let metrics = metrics();
    metrics.show_process();
    let text = metrics.encode();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        let value = line.and_then(|line| line.split(' ').nth(1)).map(str::parse::<f64>);
        value.unwrap_or_else(|| panic!("no {name} in {text}")).unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_start_time_seconds") > 1.6e9);
    assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    assert!(text.contains("spire_server_runtime_alloc_bytes{host=\"host_1_lan\"} "), "{text}");
    assert_eq!(text.matches("# EOF").count(), 1);
}
