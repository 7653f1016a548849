//! The list of metrics in the documentation is the list of metrics.

use signet_daemon::metrics::Metrics;
use signet_server::metrics::{FederationMetrics, ServerMetrics};
use signet_testkit::assert_metrics_documented;

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let document = include_str!("../../../docs/metrics.md");
    let metrics = Metrics::detached();
    let _all = (ServerMetrics::new(&metrics), FederationMetrics::new(&metrics));
    let names = metrics.names();
    // The RPCs are one row for all.
    assert_metrics_documented(document, "## Server", &names, Some("rpc_"));
}
