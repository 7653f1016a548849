//! The chart: lint, values that are refused, and what an upgrade must not change.

use e2e::{
    TestDir,
    kubernetes::{self, VERSION},
};

use super::{list, needs_judge, text};

const GOOD: &str = "trustDomain: example.org\nclusterName: c\n";

#[test]
fn the_linter_of_helm_has_nothing_to_say() {
    needs_judge!();
    let chart = kubernetes::chart().display().to_string();
    for values in kubernetes::values_files() {
        let said = kubernetes::judge("lint", &[&chart, "signet-server", VERSION], &[values]);
        assert_eq!(said.json(), serde_json::json!([]));
    }
}

#[test]
fn wrong_values_are_refused_and_named() {
    needs_judge!();
    let dir = TestDir::new();
    for (values, said) in [
        ("clusterName: c\n", "trustDomain is required"),
        ("trustDomain: example.org\n", "clusterName is required"),
        ("trustDomain: spiffe://example.org\nclusterName: c\n", "/trustDomain"),
        ("trustDomain: Example.org\nclusterName: c\n", "/trustDomain"),
        ("trustDomain: example.org\nclusterName: a/b\n", "/clusterName"),
        ("trustDomain: example.org\nclusterName: 7\n", "/clusterName"),
        ("+trustdomain: x", "trustdomain"),
        ("+agent: {logLevel: LOUD}", "/agent/logLevel"),
        ("+agent: {socketDir: relative}", "/agent/socketDir"),
        ("+agent: {socketName: a/b}", "/agent/socketName"),
        ("+agent: {hostNetwork: false}", "agent.kubelet.verify must be true"),
        ("+agent: {kubelet: {permission: all}}", "/agent/kubelet/permission"),
        ("+agent: {unix: {discoverWorkloadPath: true}}", "needs agent.unix.enabled"),
        ("+agent: {updateMaxUnavailable: 0}", "/agent/updateMaxUnavailable"),
        ("+agentNamespace: {name: signet-server}", "cannot be the namespace of the release"),
        ("+server: {port: 70000}", "/server/port"),
        ("+server: {replicas: 3}", "replicas"),
        ("+server: {persistence: {size: plenty}}", "/server/persistence/size"),
        ("+controller: {watchClassless: true}", "needs controller.className"),
        ("+controller: {webhook: {failurePolicy: Maybe}}", "failurePolicy"),
        ("+csi: {driverName: CSI}", "/csi/driverName"),
        ("+networkPolicy: {agentCIDRs: [everywhere]}", "/networkPolicy/agentCIDRs"),
        ("+identities: {pods: {spiffeIDTemplate: x}}", "spiffeIDTemplate"),
    ] {
        let text = values.strip_prefix('+').map_or(values.to_owned(), |v| format!("{GOOD}{v}\n"));
        let file = dir.write("values.yaml", &text);
        kubernetes::helm(VERSION, &[file]).exits(1).says(said);
    }
    kubernetes::helm(VERSION, &[dir.write("values.yaml", GOOD)]).ok();
}

/// An upgrade that changed one of these would be refused by Kubernetes, or lose the data.
#[test]
fn what_cannot_be_changed_later_does_not_depend_on_the_version_of_the_chart() {
    needs_judge!();
    let dir = TestDir::new();
    let file = kubernetes::rendered(&dir, VERSION, &kubernetes::values("minimal"));
    let objects = kubernetes::documents(&[file]);
    let version = |value: &serde_json::Value| value.to_string().contains("0.1.0");
    for object in &objects {
        let kind = text(object, "/kind");
        if ["StatefulSet", "DaemonSet"].contains(&kind) {
            let selector = object.pointer("/spec/selector").expect("a selector");
            assert!(!version(selector), "{selector}");
            // A new version of the chart with the same images restarts nothing.
            let labels = object.pointer("/spec/template/metadata/labels").expect("labels");
            assert!(!version(labels), "{labels}");
        }
        for claim in list(object, "/spec/volumeClaimTemplates") {
            assert!(!version(claim), "{claim}");
        }
    }
}
