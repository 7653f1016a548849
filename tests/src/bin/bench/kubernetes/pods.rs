//! Pods that are only names: cgroups of their own where those can be made, else files that say so.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::programs::Programs;

/// Where cgroups can be made, in the order in which it is tried.
const HIERARCHIES: [&str; 3] =
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/freezer"];

/// A pod with one container.
#[derive(Debug)]
pub struct Pod {
    name: String,
    uid: String,
    container: String,
    place: Option<Place>,
}

/// The pod's cgroup; removed with it.
#[derive(Debug)]
enum Place {
    Cgroup(PathBuf),
    /// A `/proc` whose cgroup files are made up.
    HostProc(PathBuf),
}

impl Pod {
    /// A pod with a number.
    pub fn new(label: &str, at: usize) -> Self {
        let label_sum: u32 = label.bytes().map(u32::from).sum();
        Self {
            name: format!("{label}-{at}"),
            uid: format!("{label_sum:08x}-0000-4000-8000-{at:012x}"),
            container: format!("{label_sum:032x}{at:032x}"),
            place: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of its SPIFFE ID.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// The path of its container's cgroup.
    fn cgroup(&self) -> String {
        format!("kubepods/burstable/pod{}/{}", self.uid, self.container)
    }

    /// Puts a process into the pod's container.
    pub fn take_in(&self, pid: u32) -> anyhow::Result<()> {
        match self.place.as_ref().context("a pod without a place")? {
            Place::Cgroup(path) => {
                let file = path.join("cgroup.procs");
                fs::write(&file, pid.to_string()).with_context(|| file.display().to_string())
            }
            Place::HostProc(root) => {
                let dir = root.join(pid.to_string());
                fs::create_dir_all(&dir)?;
                for name in ["stat", "status", "exe"] {
                    std::os::unix::fs::symlink(format!("/proc/{pid}/{name}"), dir.join(name))?;
                }
                Ok(fs::write(dir.join("cgroup"), format!("0::/{}\n", self.cgroup()))?)
            }
        }
    }

    /// What the kubelet says of it, of the size that real ones have; its container's ID once it is
    /// `running`.
    pub fn json(&self, running: bool) -> String {
        let Self { name, uid, container, .. } = self;
        let (id, state) = if running {
            (
                format!("containerd://{container}"),
                r#"{"running":{"startedAt":"2026-01-01T00:00:00Z"}}"#,
            )
        } else {
            (String::new(), r#"{"waiting":{"reason":"ContainerCreating"}}"#)
        };
        let fields: Vec<String> = (0..40)
            .map(|at| {
                format!(
                    r#""f:field{at}":{{".":{{}},"f:name":{{}},"f:value":{{}},"k:{{\"name\":\"V{at}\"}}":{{}}}}"#
                )
            })
            .collect();
        let fields = fields.join(",");
        let env: Vec<String> = (0..10)
            .map(|at| {
                format!(r#"{{"name":"VARIABLE_{at}","value":"value {at} of the pod {name}"}}"#)
            })
            .collect();
        let env = env.join(",");
        format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"bench","uid":"{uid}","resourceVersion":"1",
"creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"bench","pod-template-hash":"5d8c7"}},
"annotations":{{"kubernetes.io/config.seen":"2026-01-01T00:00:00Z","kubernetes.io/config.source":"api"}},
"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"bench-5d8c7","uid":"{uid}"}}],
"managedFields":[{{"manager":"kubelet","operation":"Update","fieldsV1":{{{fields}}}}}]}},
"spec":{{"nodeName":"node","serviceAccountName":"bench","containers":[{{"name":"main",
"image":"registry.example/bench:1","env":[{env}],"resources":{{"limits":{{"cpu":"1"}}}}}}]}},
"status":{{"phase":"Running","hostIP":"10.0.0.1","podIP":"10.1.0.1","qosClass":"Burstable",
"containerStatuses":[{{"name":"main","image":"registry.example/bench:1","imageID":
"registry.example/bench@sha256:{container}","containerID":"{id}","ready":{running},"state":{state}}}]}}}}"#
        )
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(Place::Cgroup(path)) = &self.place {
            // Its processes have just been killed; the agent lives on, outside.
            let root = path.ancestors().nth(5).unwrap_or(path).join("cgroup.procs");
            for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
                drop(fs::write(&root, pid));
            }
            let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while fs::remove_dir(path).is_err() && std::time::Instant::now() < end {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            // The directories above go with their last pod.
            for above in path.ancestors().skip(1).take(4) {
                drop(fs::remove_dir(above));
            }
        }
    }
}

/// Gives every pod, the agent's too, its place; returns what the agent needs in its environment for that.
///
/// # Errors
/// When neither cgroups nor files can be made.
pub fn place<'p>(
    pods: impl Iterator<Item = &'p mut Pod>,
    programs: &Programs,
) -> anyhow::Result<Vec<(String, String)>> {
    let base = format!("signet-bench-{}", std::process::id());
    let hierarchy = HIERARCHIES.iter().map(Path::new).find(|root| {
        let made = root.join(&base);
        fs::create_dir(&made).is_ok() && {
            let usable = made.join("cgroup.procs").exists();
            drop(fs::remove_dir(&made));
            usable
        }
    });
    let Some(root) = hierarchy else {
        eprintln!("cgroups cannot be made here: the agent reads files in their place");
        let root = programs.file("proc/.keep", "");
        let root = root.parent().context("a directory")?.to_owned();
        for pod in pods {
            pod.place = Some(Place::HostProc(root.clone()));
        }
        return Ok(vec![("HOST_PROC".to_owned(), root.display().to_string())]);
    };
    for pod in pods {
        let path = root.join(&base).join(pod.cgroup());
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        pod.place = Some(Place::Cgroup(path));
    }
    Ok(Vec::new())
}
