//! A node as a CSI driver sees it: a kubelet's directory and the directory of the Workload API's
//! socket, in a mount namespace of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use serde_json::{Value, json};
use signet_testkit::SmallDisk;

use crate::{
    bins,
    clients::{self, Lines},
    dir::TestDir,
    process::Process,
    wait::eventually,
};

/// Such a node. What is mounted on it goes with it.
#[derive(Debug)]
pub struct CsiNode {
    dir: Arc<TestDir>,
    disk: SmallDisk,
    client: PathBuf,
}

impl CsiNode {
    /// Makes one; an error says what this machine lacks.
    pub fn new() -> Result<Self, String> {
        let client = clients::csi_binary()?;
        let dir = Arc::new(TestDir::new());
        let disk = SmallDisk::new(&dir.subdir("node"), 8 << 10);
        if !disk.is_real() {
            return Err("no mount namespace can be made here".to_owned());
        }
        let node = Self { dir, disk, client };
        for sub in ["plugins", "sockets", "registration", "kubelet/pods"] {
            fs::create_dir_all(node.outside(sub)).expect("a directory of the node");
        }
        Ok(node)
    }

    /// The directory that the tests share, which the node is below.
    pub fn dir(&self) -> &Arc<TestDir> {
        &self.dir
    }

    /// The path of something on the node, for who is on it.
    pub fn inside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join("node").join(name)
    }

    /// The path of something on the node, for who is not.
    pub fn outside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.disk.join(name)
    }

    /// What stands before a program that runs on the node.
    pub fn prefix(&self) -> Vec<String> {
        self.disk.prefix()
    }

    /// `command` on the node.
    pub fn command(&self, command: &Command) -> Command {
        self.disk.command(command)
    }

    /// `signet-agent csi` with its paths on this node, not started.
    pub fn driver_command(&self) -> Command {
        let mut command = Command::new(bins::agent());
        command.arg("csi").args(self.driver_flags());
        self.command(&command)
    }

    /// The flags of spiffe-csi-driver for this node.
    pub fn driver_flags(&self) -> Vec<String> {
        let flag = |name: &str, path: &str| format!("-{name}={}", self.inside(path).display());
        vec![
            flag("csi-socket-path", "plugins/csi.sock"),
            flag("workload-api-socket-dir", "sockets"),
            flag("kubelet-dir", "kubelet"),
            "-node-id=node-1".to_owned(),
        ]
    }

    /// Starts the driver and waits until it listens.
    pub fn start_driver(&self) -> Process {
        let mut driver =
            Process::start("signet-agent csi", &mut self.driver_command(), &self.driver_log());
        eventually("the driver answers", || {
            driver.assert_running();
            self.probe().then_some(())
        });
        driver
    }

    /// What the driver logs to.
    pub fn driver_log(&self) -> PathBuf {
        self.dir.join("driver.log")
    }

    /// Whether the driver says that it can serve.
    pub fn probe(&self) -> bool {
        let mut command = Command::new(bins::agent());
        command.args(["csi", "-probe"]).args(self.driver_flags());
        self.command(&command).output().is_ok_and(|output| output.status.success())
    }

    /// A command of the Go program on the node.
    pub fn go(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.args(args);
        self.command(&command)
    }

    /// Calls to the driver, one at a time.
    pub fn caller(&self) -> Caller {
        let socket = self.inside("plugins/csi.sock").display().to_string();
        Caller(Lines::start(&mut self.go(&["call", &socket])))
    }

    /// Makes the directory of a volume of a pod, as the kubelet does, and gives the path of the
    /// volume on the node.
    pub fn volume_of(&self, pod: &str) -> PathBuf {
        let parent = Path::new("kubelet/pods").join(pod).join("volumes/kubernetes.io~csi/spiffe");
        let made = self.outside(&parent);
        fs::create_dir_all(&made).expect("a volume's directory");
        fs::set_permissions(&made, fs::Permissions::from_mode(0o750)).expect("its mode");
        self.inside(parent).join("mount")
    }

    /// How many mounts are below the kubelet's directory.
    pub fn mounts(&self) -> usize {
        let output = self.command(&Command::new("cat")).arg("/proc/self/mountinfo").output();
        let table = String::from_utf8(output.expect("cat").stdout).expect("text");
        let below = self.inside("kubelet").display().to_string();
        table.lines().filter(|line| line.contains(&format!(" {below}/"))).count()
    }
}

/// Calls a driver as the kubelet does.
#[derive(Debug)]
pub struct Caller(Lines);

impl Caller {
    /// The response of `Service.Method`, or code and message.
    pub fn call(&mut self, method: &str, request: &Value) -> Result<Value, (String, String)> {
        let answer = self.0.ask(&format!("{method} {request}"));
        if answer["ok"].is_object() {
            return Ok(answer["ok"].clone());
        }
        let text = |name: &str| answer[name].as_str().expect("a status").to_owned();
        Err((text("code"), text("message")))
    }

    /// A call whose answer nobody waits for.
    pub fn tell(&mut self, method: &str, request: &Value) {
        self.0.tell(&format!("{method} {request}"));
    }

    /// NodePublishVolume.
    pub fn publish(&mut self, target: &Path) -> Result<Value, (String, String)> {
        self.call("Node.NodePublishVolume", &publish_request(target))
    }

    /// NodeUnpublishVolume.
    pub fn unpublish(&mut self, target: &Path) -> Result<Value, (String, String)> {
        self.call("Node.NodeUnpublishVolume", &unpublish_request(target))
    }
}

/// What the kubelet sends for an inline volume.
pub fn publish_request(target: &Path) -> Value {
    json!({
        "volumeId": "csi-5c0e6a4f2f9d3a7d1b2c",
        "targetPath": target,
        "volumeCapability": { "mount": {}, "accessMode": { "mode": "SINGLE_NODE_WRITER" } },
        "readonly": true,
        "volumeContext": {
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": "web-0",
            "csi.storage.k8s.io/pod.namespace": "default",
            "csi.storage.k8s.io/pod.uid": "6a1b",
            "csi.storage.k8s.io/serviceAccount.name": "default",
        },
    })
}

/// What it sends when the pod is gone.
pub fn unpublish_request(target: &Path) -> Value {
    json!({ "volumeId": "csi-5c0e6a4f2f9d3a7d1b2c", "targetPath": target })
}
