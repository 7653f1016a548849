//! The list of metrics in the documentation is the list of metrics.

use std::sync::Arc;

use signet_daemon::{health::Health, metrics::Metrics};
use signet_pki::MemoryKeyManager;
use signet_server::{
    audit::Auditor,
    limits::{CallLimits, Turns},
    metrics::{FederationMetrics, MeasuredKeys, ServerMetrics},
};
use signet_testkit::assert_metrics_documented;

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let document = include_str!("../../../docs/metrics.md");
    let metrics = Metrics::detached();
    let keys = MeasuredKeys::new(Arc::new(MemoryKeyManager::new()), &metrics);
    let turns = Turns::new(&metrics);
    let _all = (ServerMetrics::new(&metrics), FederationMetrics::new(&metrics), keys, turns);
    Health::new().show(&metrics);
    CallLimits::new(Auditor::to_all(Vec::new())).show(&metrics);
    metrics.show_process();
    // RPCs, operations and limits are one row for all.
    let is_one_of_many =
        |name: &String| name.starts_with("rateLimit_") || name.starts_with("datastore_");
    let names: Vec<String> =
        metrics.names().into_iter().filter(|name| !is_one_of_many(name)).collect();
    let (before, after) = document.split_once("## Server\n").unwrap();
    let rows: Vec<&str> = after.lines().filter(|line| !line.contains("_…`")).collect();
    let document = format!("{before}## Server\n{}", rows.join("\n"));
    assert_metrics_documented(&document, "## Server", &names, None);
}
