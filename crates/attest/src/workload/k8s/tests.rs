use std::{
    collections::{BTreeSet, VecDeque},
    os::unix::net::UnixStream,
    path::Path,
    sync::Mutex,
};

use super::*;
use crate::procfs::ProcRoot;

const PODS_V1: &str = include_str!("../../../tests/fixtures/kubernetes/pods_v1.json");
const PODS_V2: &str = include_str!("../../../tests/fixtures/kubernetes/pods_v2.json");

/// Gives one prepared answer after the other, the last one for ever.
#[derive(Debug)]
struct Scripted(Mutex<VecDeque<Arc<PodIndex>>>);

impl Scripted {
    fn new(answers: &[&str]) -> Arc<Self> {
        let read = |text: &&str| Arc::new(PodIndex::read(text.as_bytes()).unwrap());
        Arc::new(Self(Mutex::new(answers.iter().map(read).collect())))
    }
}

#[async_trait::async_trait]
impl PodSource for Scripted {
    async fn pods(&self) -> Result<Arc<PodIndex>, String> {
        let mut answers = self.0.lock().unwrap();
        let answer = answers.pop_front().ok_or("no answer")?;
        if answers.is_empty() {
            answers.push_back(Arc::clone(&answer));
        }
        Ok(answer)
    }
}

/// This process, with a `/proc` whose cgroup file says `cgroup`.
async fn attest(
    cgroup: &str,
    config: K8sConfig,
    answers: &[&str],
) -> Result<BTreeSet<String>, WorkloadAttestError> {
    let pid = std::process::id() as i32;
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join(pid.to_string());
    std::fs::create_dir(&own).unwrap();
    for file in ["stat", "status"] {
        let real = Path::new("/proc/self").join(file);
        std::fs::write(own.join(file), std::fs::read(real).unwrap()).unwrap();
    }
    std::fs::write(own.join("cgroup"), cgroup).unwrap();
    let (_client, server) = UnixStream::pair().unwrap();
    let peer = PinnedPeer::from_socket(&server, &ProcRoot::new(dir.path())).unwrap();
    let found = K8sAttestor::new(config, Scripted::new(answers)).attest(&peer).await?;
    Ok(found.iter().map(|selector| selector.value().to_owned()).collect())
}

#[tokio::test]
async fn a_recorded_workload_gets_the_selectors_of_its_pod_and_container() {
    for (cgroup, pods) in [
        (include_str!("../../../tests/fixtures/kubernetes/cgroup_web_v1.txt"), PODS_V1),
        (include_str!("../../../tests/fixtures/kubernetes/cgroup_web_v2.txt"), PODS_V2),
    ] {
        let cgroup: String = cgroup
            .lines()
            .filter(|line| line.split(':').count() >= 3 && !line.starts_with('#'))
            .filter(|line| !line.contains(" - cgroup"))
            .collect::<Vec<_>>()
            .join("\n");
        let found = attest(&cgroup, K8sConfig::default(), &[pods]).await.unwrap();
        for wanted in ["ns:demo", "sa:web", "node-name:kube-node-1", "container-name:main"] {
            assert!(found.contains(wanted), "{wanted} not in {found:?}");
        }
    }
}

#[test]
fn selectors_are_those_that_spire_found_on_the_same_cluster() {
    for (log, pods) in [
        (include_str!("../../../tests/fixtures/kubernetes/selectors_v1.log"), PODS_V1),
        (include_str!("../../../tests/fixtures/kubernetes/selectors_v2.log"), PODS_V2),
    ] {
        let index = PodIndex::read(pods.as_bytes()).unwrap();
        let mut compared = 0;
        for line in log.lines() {
            let spire: BTreeSet<String> = line
                .split("value:\\\"")
                .skip(1)
                .filter_map(|rest| rest.split("\\\"").next())
                .map(str::to_owned)
                .collect();
            let uid = spire.iter().find_map(|v| v.strip_prefix("pod-uid:"));
            let Some(pod) = uid.and_then(|uid| index.pod(uid)) else { continue };
            let name = spire.iter().find_map(|v| v.strip_prefix("container-name:")).unwrap();
            let container = pod.status.containers().iter().find(|c| c.name == name).unwrap();
            let mut ours: BTreeSet<String> = pod.selector_values().into_iter().collect();
            ours.extend(container.selector_values());
            assert_eq!(ours, spire);
            compared += 1;
        }
        assert!(compared > 0 || !log.contains("pod-uid"), "no recorded pod was compared");
    }
}

fn pod(uid: &str, name: &str, containers: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"ns","uid":"{uid}"}},
            "spec":{{"nodeName":"n","serviceAccountName":"{name}"}},
            "status":{{"containerStatuses":[{containers}]}}}}"#
    )
}

fn container(name: &str, id: &str) -> String {
    format!(
        r#"{{"name":"{name}","image":"i","imageID":"i@sha256:x","containerID":"containerd://{id}"}}"#
    )
}

fn list(pods: &[String]) -> String {
    format!(r#"{{"kind":"PodList","items":[{}]}}"#, pods.join(","))
}

const OWN: &str = "11111111-1111-1111-1111-111111111111";
const VICTIM: &str = "22222222-2222-2222-2222-222222222222";

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn quick() -> K8sConfig {
    K8sConfig { max_poll_attempts: 3, ..K8sConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn a_forged_inner_path_never_yields_the_victim() {
    let cgroup = format!("0::/kubepods/pod{OWN}/{}/pod{VICTIM}/{}", id('a'), id('b'));
    let victim = pod(VICTIM, "victim", &container("c", &id('b')));
    let known = list(&[victim.clone(), pod(OWN, "own", &container("c", &id('a')))]);
    let found = attest(&cgroup, quick(), &[&known]).await.unwrap();
    assert!(found.contains("sa:own") && !found.contains("sa:victim"));
    // Not even while the kubelet does not know the forger's container yet.
    let starting = list(&[victim.clone(), pod(OWN, "own", "")]);
    assert!(attest(&cgroup, quick(), &[&starting]).await.is_err());
    let found = attest(&cgroup, quick(), &[&starting, &known]).await.unwrap();
    assert!(found.contains("sa:own"));
}

#[tokio::test(start_paused = true)]
async fn a_nested_cluster_is_found_below_its_node_container() {
    let cgroup = format!("0::/docker/{}/kubelet/kubepods/pod{OWN}/{}", id('a'), id('b'));
    let pods = list(&[pod(OWN, "own", &container("c", &id('b')))]);
    let found = attest(&cgroup, quick(), &[&pods]).await.unwrap();
    assert!(found.contains("pod-uid:11111111-1111-1111-1111-111111111111"));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_not_running_yet_is_waited_for_with_a_bound() {
    let cgroup = format!("0::/kubepods/pod{OWN}/{}", id('a'));
    let starting =
        list(&[pod(OWN, "own", r#"{"name":"c","image":"i","imageID":"","containerID":""}"#)]);
    let running = list(&[pod(OWN, "own", &container("c", &id('a')))]);
    let found = attest(&cgroup, quick(), &[&starting, &starting, &running]).await.unwrap();
    assert!(found.contains("container-name:c"));
    let error = attest(&cgroup, quick(), &[&starting]).await.unwrap_err().to_string();
    assert!(error.contains("no selectors found after max poll attempts (3)"), "{error}");
    assert!(error.contains("not yet its container"), "{error}");
    let pods_only = K8sConfig { disable_container_selectors: true, ..quick() };
    let found = attest(&cgroup, pods_only, &[&starting]).await.unwrap();
    assert!(found.contains("sa:own") && !found.iter().any(|v| v.starts_with("container-")));
}

#[tokio::test(start_paused = true)]
async fn pod_and_container_must_agree_and_be_unique() {
    let cgroup = format!("0::/kubepods/pod{OWN}/{}", id('a'));
    let other = list(&[pod(VICTIM, "victim", &container("c", &id('a')))]);
    let error = attest(&cgroup, quick(), &[&other]).await.unwrap_err().to_string();
    assert!(error.contains("not to the pod its cgroup names"), "{error}");
    let twice = list(&[
        pod(OWN, "own", &container("c", &id('a'))),
        pod(VICTIM, "victim", &container("c", &id('a'))),
    ]);
    assert!(matches!(PodIndex::read(twice.as_bytes()), Err(pods::PodsError::Ambiguous(_))));
    assert!(PodIndex::read(&b"{\"items\":["[..]).is_err());
    assert!(PodIndex::read(&b"{\"kind\":\"PodList\",\"items\":null}"[..]).unwrap().is_empty());
}

#[tokio::test]
async fn a_process_outside_containers_has_no_selectors() {
    let found = attest("0::/user.slice\n", quick(), &[PODS_V2]).await.unwrap();
    assert!(found.is_empty());
}
