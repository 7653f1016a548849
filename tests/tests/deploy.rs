//! What is in `deploy/` does what it says: manifests, chart, images, units of systemd.

#[path = "deploy/chart.rs"]
mod chart;
#[path = "deploy/configuration.rs"]
mod configuration;
#[path = "deploy/definitions.rs"]
mod definitions;
#[path = "deploy/external_secrets.rs"]
mod external_secrets;
#[path = "deploy/images.rs"]
mod images;
#[path = "deploy/manifests.rs"]
mod manifests;
#[path = "deploy/operator.rs"]
mod operator;
#[path = "deploy/permissions.rs"]
mod permissions;
#[path = "deploy/pod_security.rs"]
mod pod_security;
#[path = "deploy/units.rs"]
mod units;

use std::path::PathBuf;

use e2e::{
    TestDir,
    kubernetes::{self, VERSION},
};
use serde_json::Value;

/// Leaves a test early where the judge cannot be built.
macro_rules! needs_judge {
    () => {
        if let Err(why) = e2e::kubernetes::prepare() {
            e2e::skip!("{why}");
        }
    };
}
use needs_judge;

/// The plain manifests, and the chart with each file of values: a name, and the files.
fn everything(dir: &TestDir) -> Vec<(String, Vec<PathBuf>)> {
    let mut all = vec![("plain".to_owned(), kubernetes::plain_files())];
    for values in kubernetes::values_files() {
        let name = values.file_stem().expect("a name").to_string_lossy().into_owned();
        all.push((name, vec![kubernetes::rendered(dir, VERSION, &values)]));
    }
    all
}

/// The text at a pointer, empty when there is none.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a pointer, empty when there is none.
fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The pod specifications of workloads: kind and name, and the specification.
fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let spec = |object: &'_ Value| match text(object, "/kind") {
        "Pod" => Some("/spec"),
        "DaemonSet" | "StatefulSet" | "Deployment" | "Job" => Some("/spec/template/spec"),
        _ => None,
    };
    objects
        .iter()
        .filter_map(|object| {
            let name = format!("{} {}", text(object, "/kind"), text(object, "/metadata/name"));
            Some((name, object.pointer(spec(object)?)?))
        })
        .collect()
}
