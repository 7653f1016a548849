//! A small fleet of simulated agents; `cargo xtask fleet` runs large ones.

use std::{fs, process::Command};

use e2e::{TestDir, bins, cli};

#[test]
fn a_fleet_comes_back_after_crashes_and_loses_no_change() {
    let dir = TestDir::new();
    let mut fleet = Command::new(bins::find("signet-fleet"));
    fleet.arg("--server").arg(bins::server()).arg("--out").arg(dir.path());
    fleet.args(["--agents", "40", "--entries", "3", "--seconds", "7", "--churn", "40"]);
    let output = cli::run(&mut fleet, "").ok();
    let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["failures"], serde_json::json!([]));
    let value = |scenario: &str, measure: &str| {
        let rows = report["rows"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["scenario"] == scenario && row["measure"] == measure);
        row.unwrap_or_else(|| panic!("{scenario}: {measure}"))["value"].as_f64().expect("a number")
    };
    // Each agent has its own entries signed anew, and those of the churn as they came.
    assert!(value("expiry", "SVIDs signed") >= 120.0);
    assert!(value("churn", "changes per second") > 10.0);
    let page = fs::read_to_string(dir.join("fleet.html")).expect("a page");
    assert!(page.contains("<svg") && !page.contains("http"), "it opens without a network");
}
