//! Configurations that are in manifests and charts, SPIRE's among them, are ones that the programs
//! accept.

use std::{fs, path::Path, process::Command};

use e2e::{TestDir, bins, cli, kubernetes};
use serde_json::Value;

use super::{everything, needs_judge, text};

pub(crate) fn validate(program: &Path, args: &[&str], file: &Path) {
    let mut command = Command::new(program);
    command.arg("validate").args(args).arg("-config").arg(file);
    accepted(&cli::run(&mut command, ""));
}

/// The configuration is right; what may be missing here are files that the container has.
fn accepted(output: &cli::Output) {
    let complaints = output.stderr.lines().filter(|line| !line.starts_with("warning: "));
    let only_files = complaints.clone().all(|line| {
        ["no such file", "No such file", "does not exist"].iter().any(|text| line.contains(text))
    });
    let missing = output.code == 1 && complaints.count() > 0 && only_files;
    assert!(output.code == 0 || missing, "{output}");
}

#[test]
fn the_configurations_of_manifests_and_chart_are_accepted() {
    needs_judge!();
    let dir = TestDir::new();
    for (name, files) in everything(&dir) {
        let objects = kubernetes::documents(&files);
        let mut seen = 0;
        for map in objects.iter().filter(|o| text(o, "/kind") == "ConfigMap") {
            let Some(data) = map["data"].as_object() else { continue };
            for (key, config) in data {
                let config = config.as_str().expect("a configuration");
                let file = dir.write(format!("{name}-{key}"), config);
                match key.as_str() {
                    "server.conf" => validate(&bins::server(), &[], &file),
                    "agent.conf" => validate(&bins::agent(), &[], &file),
                    "controller.yaml" => validate(&bins::find("signet-controller"), &[], &file),
                    other => panic!("{other}: who reads this?"),
                }
                seen += 1;
            }
        }
        assert_eq!(seen, if name == "bare" { 2 } else { 3 }, "{name}");
    }
}

/// What SPIRE's own chart renders, with the arguments that it gives its containers.
#[test]
fn the_configurations_of_the_chart_of_spire_are_accepted_as_they_are() {
    let fixtures = bins::sources().join("fixtures/spire-helm-chart");
    for name in ["default", "production", "rich"] {
        let dir = fixtures.join(name);
        let args = fs::read_to_string(dir.join("args.json")).expect("the arguments");
        let args: Value = serde_json::from_str(&args).expect("JSON");
        let flags = |container: &str, file: &Path| -> Vec<String> {
            let mut words: Vec<String> =
                serde_json::from_value(args[container].clone()).expect("arguments");
            for word in &mut words {
                if word.ends_with(".conf") {
                    *word = file.display().to_string();
                } else if let Some((flag, _)) = word.split_once('=') {
                    *word = format!("{flag}={}", file.display());
                }
            }
            words
        };
        for (container, file, program) in [
            ("spire-server", "server.conf", "signet-server"),
            ("spire-agent", "agent.conf", "signet-agent"),
            ("spire-controller-manager", "controller-manager-config.yaml", "signet-controller"),
        ] {
            let mut command = Command::new(bins::find(program));
            command.arg("validate").args(flags(container, &dir.join(file)));
            accepted(&cli::run(&mut command, ""));
        }
    }
}

/// The arguments of its CSI driver are understood: what is missing here is the kubelet's directory.
#[test]
fn the_arguments_of_the_csi_driver_of_spire_are_understood() {
    let file = bins::sources().join("fixtures/spire-helm-chart/default/args.json");
    let args: Value =
        serde_json::from_str(&fs::read_to_string(file).expect("the arguments")).expect("JSON");
    let dir = TestDir::new();
    let missing = dir.join("nosuch/csi.sock").display().to_string();
    let mut words: Vec<String> =
        serde_json::from_value(args["spiffe-csi-driver"].clone()).expect("arguments");
    for word in &mut words {
        *word = word.replace("/spiffe-csi/csi.sock", &missing);
    }
    let mut command = Command::new(bins::agent());
    command.arg("csi").args(words).env("MY_NODE_NAME", "node-1");
    cli::run(&mut command, "").exits(1).says("nosuch of the CSI socket does not exist");
}
