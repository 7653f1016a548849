//! The CSI driver as the kubelet and its sidecars see it, spoken to with the modules that Kubernetes
//! publishes.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
        process::CommandExt,
    },
    path::Path,
    process::Command,
    time::Duration,
};

use e2e::{
    Lines, Process, bins, cli,
    csi::{CsiNode, publish_request, unpublish_request},
    eventually, skip,
};
use serde_json::json;

macro_rules! node_or_skip {
    () => {
        match CsiNode::new() {
            Ok(node) => node,
            Err(why) => skip!("{why}"),
        }
    };
}

/// Whether somebody on the node can connect to the socket in the volume.
fn connects(node: &CsiNode, volume: &Path) -> bool {
    let mut command = Command::new(bins::agent());
    command.args(["healthcheck", "-shallow", "-socketPath"]).arg(volume.join("api.sock"));
    let output = node.command(&command).output().expect("a healthcheck");
    // Nobody answers there, but the connection is made.
    !String::from_utf8_lossy(&output.stderr).contains("No such file")
}

#[test]
fn the_kubelet_learns_of_the_driver_from_its_sidecar_and_gives_pods_the_socket() {
    let node = node_or_skip!();
    let _driver = node.start_driver();
    let socket = node.outside("plugins/csi.sock");
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o7777, 0o600);
    let (plugins, registration) = (node.inside("plugins/csi.sock"), node.inside("registration"));
    let plugins = plugins.display().to_string();
    let registration = registration.display().to_string();

    let mut sidecar = Lines::start(&mut node.go(&["registrar", &plugins, &registration, &plugins]));
    assert_eq!(sidecar.read()["driver"], "csi.spiffe.io");
    let learned = cli::run(&mut node.go(&["kubelet", &registration]), "").ok().json();
    assert_eq!(learned["driver"], "csi.spiffe.io");
    assert_eq!(learned["node"], "node-1");
    assert_eq!(learned["endpoint"], plugins);
    assert_eq!(learned["max_volumes"], 0);
    assert_eq!(learned["topology"], false);
    assert_eq!(learned["capabilities"], json!(["VOLUME_CONDITION", "GET_VOLUME_STATS"]));
    assert_eq!(sidecar.read(), json!({ "registered": true, "error": "" }));

    let mut kubelet = node.caller();
    let volume = node.volume_of("pod-1");
    assert_eq!(kubelet.publish(&volume), Ok(json!({})));
    let _workload_api = UnixListener::bind(node.outside("sockets/api.sock")).unwrap();
    assert!(connects(&node, &volume));
    let stats = json!({ "volumeId": "v", "volumePath": volume });
    let condition = kubelet.call("Node.NodeGetVolumeStats", &stats).unwrap();
    assert_eq!(condition["volumeCondition"], json!({ "message": "mounted" }));
    assert_eq!(kubelet.publish(&volume), Ok(json!({})));
    assert_eq!(node.mounts(), 1);
    assert_eq!(kubelet.unpublish(&volume), Ok(json!({})));
    assert_eq!(kubelet.unpublish(&volume), Ok(json!({})));
    assert_eq!(node.mounts(), 0);
    assert_eq!(kubelet.call("Identity.Probe", &json!({})), Ok(json!({ "ready": true })));
    assert_eq!(kubelet.call("Identity.GetPluginCapabilities", &json!({})), Ok(json!({})));
}

#[test]
fn what_the_driver_does_not_do_is_unimplemented_and_what_is_too_long_is_not_read() {
    let node = node_or_skip!();
    let _driver = node.start_driver();
    let mut kubelet = node.caller();
    for method in [
        "Node.NodeStageVolume",
        "Node.NodeUnstageVolume",
        "Node.NodeExpandVolume",
        "Controller.CreateVolume",
        "Controller.ControllerGetCapabilities",
    ] {
        let (code, _) = kubelet.call(method, &json!({})).unwrap_err();
        assert_eq!(code, "Unimplemented", "{method}");
    }
    let volume = node.volume_of("pod-1");
    let mut long = publish_request(&volume);
    long["volumeContext"]["x"] = "y".repeat(100_000).into();
    let (code, message) = kubelet.call("Node.NodePublishVolume", &long).unwrap_err();
    assert!(code == "OutOfRange" || code == "ResourceExhausted", "{code}: {message}");
    let mut writable = publish_request(&volume);
    writable["readonly"] = false.into();
    let (code, message) = kubelet.call("Node.NodePublishVolume", &writable).unwrap_err();
    assert_eq!(code, "InvalidArgument");
    assert!(message.contains("readOnly: true"), "{message}");
    let mut outside = publish_request(Path::new("/etc/mount"));
    let (code, message) = kubelet.call("Node.NodePublishVolume", &outside).unwrap_err();
    assert_eq!(code, "InvalidArgument");
    assert!(message.contains("does not lie below the kubelet's directory"), "{message}");
    outside["targetPath"] = json!(node.inside("kubelet/../escape"));
    let (code, _) = kubelet.call("Node.NodePublishVolume", &outside).unwrap_err();
    assert_eq!(code, "InvalidArgument");
    assert_eq!(node.mounts(), 0);
}

#[test]
fn a_driver_killed_at_any_moment_leaves_nothing_that_cannot_be_unpublished() {
    let node = node_or_skip!();
    let mut driver = node.start_driver();
    for round in 0..12u64 {
        let volumes: Vec<_> = (0..8).map(|n| node.volume_of(&format!("pod-{round}-{n}"))).collect();
        // Nobody waits for the answers: the kill falls before, into and after the mounts.
        let mut kubelet = node.caller();
        assert_eq!(kubelet.call("Identity.Probe", &json!({})), Ok(json!({ "ready": true })));
        for volume in &volumes {
            kubelet.tell("Node.NodePublishVolume", &publish_request(volume));
        }
        if round % 2 == 1 {
            for volume in &volumes {
                kubelet.tell("Node.NodeUnpublishVolume", &unpublish_request(volume));
            }
        }
        std::thread::sleep(Duration::from_millis(3 * round));
        driver.kill();
        drop(kubelet);
        assert!(node.outside("plugins/csi.sock").exists(), "a killed driver leaves its socket");
        driver = node.start_driver();
        let mut kubelet = node.caller();
        for volume in &volumes {
            assert_eq!(kubelet.publish(volume), Ok(json!({})), "{}", volume.display());
        }
        assert_eq!(node.mounts(), volumes.len());
        for volume in &volumes {
            assert_eq!(kubelet.unpublish(volume), Ok(json!({})), "{}", volume.display());
        }
        assert_eq!(node.mounts(), 0);
    }
}

#[test]
fn mounts_stay_while_the_driver_is_restarted_and_a_new_driver_takes_the_socket_over() {
    let node = node_or_skip!();
    let mut old = node.start_driver();
    let volume = node.volume_of("pod-1");
    assert_eq!(node.caller().publish(&volume), Ok(json!({})));
    let mut new =
        Process::start("the next driver", &mut node.driver_command(), &node.dir().join("new.log"));
    eventually("the socket is taken over", || {
        new.assert_running();
        new.output().contains("Took the socket over").then_some(())
    });
    assert!(node.probe());
    assert_eq!(old.terminate(), 0);
    assert!(node.probe(), "the old driver left the new one's socket alone");
    assert_eq!(node.mounts(), 1);
    assert_eq!(node.caller().unpublish(&volume), Ok(json!({})));
    assert_eq!(new.terminate(), 0);
    assert!(!node.outside("plugins/csi.sock").exists());
    assert!(!node.probe());
}

#[test]
fn it_answers_to_the_name_of_spiffe_csi_driver_and_says_what_it_cannot_work_with() {
    let node = node_or_skip!();
    let named = node.dir().join("spiffe-csi-driver");
    std::os::unix::fs::symlink(bins::agent(), &named).unwrap();
    let mut command = Command::new(&named);
    command.args(node.driver_flags());
    let mut driver = Process::start(
        "spiffe-csi-driver",
        &mut node.command(&command),
        &node.dir().join("named.log"),
    );
    eventually("the driver answers", || {
        driver.assert_running();
        node.probe().then_some(())
    });
    assert_eq!(driver.terminate(), 0);

    let flags = |change: &dyn Fn(&mut Vec<String>)| {
        let mut flags = node.driver_flags();
        change(&mut flags);
        let mut command = Command::new(bins::agent());
        command.arg("csi").args(flags).env_remove("MY_NODE_NAME").process_group(0);
        cli::run(&mut node.command(&command), "")
    };
    let output = flags(&|flags| flags.retain(|flag| !flag.starts_with("-node-id")));
    assert_eq!(output.code, 64);
    output.says("-node-id: it must be set");
    let output = flags(&|flags| flags.push("-plugin-name=a b".to_owned()));
    assert_eq!(output.code, 64);
    output.says("-plugin-name: found \"a b\"");
    let output = flags(&|flags| flags.push("-workload-api-socket-dir=/".to_owned()));
    assert_eq!(output.code, 64);
    let plugins = node.outside("plugins");
    fs::set_permissions(&plugins, fs::Permissions::from_mode(0o777)).unwrap();
    let output = flags(&|_| {});
    assert_eq!(output.code, 1);
    output.says("is writable by everyone (mode 0777)");
    fs::set_permissions(&plugins, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(plugins.join("csi.sock"), "precious").unwrap();
    let output = flags(&|_| {});
    assert_eq!(output.code, 1);
    output.says("exists and is not a socket");
    let output = flags(&|flags| flags.push("-csi-socket-path=/nonexistent/csi.sock".to_owned()));
    assert_eq!(output.code, 1);
    output.says("does not exist; it is the plugin directory of the kubelet");
}
