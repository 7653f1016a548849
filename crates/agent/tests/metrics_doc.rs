//! The list of metrics in the documentation is the list of metrics.

use signet_agent::metrics::AgentMetrics;
use signet_daemon::metrics::Metrics;
use signet_testkit::assert_metrics_documented;

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let document = include_str!("../../../docs/metrics.md");
    let metrics = Metrics::detached();
    let _all = AgentMetrics::new(&metrics);
    metrics.show_process();
    // The RPCs are one row for all.
    let names: Vec<String> =
        metrics.names().into_iter().filter(|name| !name.starts_with("rpc_")).collect();
    assert_metrics_documented(document, "## Agent", &names, Some("rpc_"));
}
