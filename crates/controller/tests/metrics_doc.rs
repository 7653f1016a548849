//! The list of metrics in the documentation is the list of metrics.

use signet_controller::metrics::ControllerMetrics;
use signet_daemon::metrics::Metrics;
use signet_testkit::assert_metrics_documented;

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let document = include_str!("../../../docs/metrics.md");
    let metrics = Metrics::detached();
    let _all = ControllerMetrics::new(&metrics);
    metrics.show_process();
    let names = metrics.names();
    assert_metrics_documented(document, "## Controller", &names, None);
}
