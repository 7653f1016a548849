//! The list of metrics in the documentation is the list of metrics.

#![allow(clippy::expect_used, reason = "a test ends where it fails")]

use signet_controller::metrics::ControllerMetrics;
use signet_daemon::metrics::Metrics;

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let document = include_str!("../../../docs/metrics.md");
    let metrics = Metrics::detached();
    let _all = ControllerMetrics::new(&metrics);
    let documented = documented(document, "## Controller");
    let missing = |have: &[String], want: &[String]| -> Vec<String> {
        want.iter().filter(|name| !have.contains(name)).cloned().collect()
    };
    assert_eq!(missing(&documented, &metrics.names()), Vec::<String>::new(), "not documented");
    assert_eq!(missing(&metrics.names(), &documented), Vec::<String>::new(), "do not exist");
}

/// The names in the table below a heading; a call counter is two.
fn documented(document: &str, heading: &str) -> Vec<String> {
    let (_, after) = document.split_once(&format!("{heading}\n")).expect("the heading");
    let section = after.split("\n## ").next().expect("a section");
    let mut names = Vec::new();
    for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (name, rest) = row.split_once('`').expect("a name");
        names.push(name.to_owned());
        if rest.starts_with(" | call counter |") {
            names.push(format!("{name}_elapsed_time"));
        }
    }
    names
}
