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

/// Gives one prepared answer after the other, half a second apart, the last one for ever. What
/// begins with `!` is a passing failure, with `!!` a lasting one.
#[derive(Debug)]
struct Scripted(Mutex<VecDeque<Result<Arc<PodIndex>, SourceError>>>);

impl Scripted {
    fn new(answers: &[&str]) -> Arc<Self> {
        let read = |text: &&str| match (text.strip_prefix("!!"), text.strip_prefix('!')) {
            (Some(why), _) => Err(SourceError::lasting(why.to_owned())),
            (None, Some(why)) => Err(SourceError::passing(why.to_owned())),
            (None, None) => Ok(Arc::new(PodIndex::read(text.as_bytes()).unwrap())),
        };
        Arc::new(Self(Mutex::new(answers.iter().map(read).collect())))
    }
}

#[async_trait::async_trait]
impl PodSource for Scripted {
    async fn next(&self, seen: u64) -> Answer {
        if seen > 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let mut answers = self.0.lock().unwrap();
        let pods = answers.pop_front().unwrap();
        if answers.is_empty() {
            answers.push_back(pods.clone());
        }
        Answer { version: seen + 1, pods }
    }
}

/// This process, with a `/proc` whose cgroup file says `cgroup`, seen from the host.
async fn attest(
    cgroup: &str,
    config: K8sConfig,
    answers: &[&str],
) -> Result<BTreeSet<String>, WorkloadAttestError> {
    let attestor = K8sAttestor::new(config, Scripted::new(answers));
    attest_with(cgroup, attestor.seen_from(Viewpoint::default())).await
}

async fn attest_with(
    cgroup: &str,
    attestor: K8sAttestor,
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
    let found = attestor.attest(&peer).await?;
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
    K8sConfig {
        max_poll_attempts: 3,
        poll_retry_interval: Some(Duration::from_millis(500)),
        ..K8sConfig::default()
    }
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
    let within = Viewpoint::of(&format!("0::/docker/{}/system.slice/agent.service", id('a')));
    let attestor = K8sAttestor::new(quick(), Scripted::new(&[&pods]));
    let found = attest_with(&cgroup, attestor.seen_from(within)).await.unwrap();
    assert!(found.contains("pod-uid:11111111-1111-1111-1111-111111111111"));
    // From outside, the node is a container that may have made up what is below it.
    let error = attest(&cgroup, quick(), &[&pods]).await.unwrap_err().to_string();
    assert!(error.contains("lists none of the process's containers"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_in_no_pod_is_not_waited_for_long() {
    let pods = list(&[pod(OWN, "own", &container("c", &id('b')))]);
    let waited = async |cgroup: String, config| {
        let began = Instant::now();
        attest(&cgroup, config, &[&pods]).await.unwrap_err();
        began.elapsed()
    };
    let outside = format!("0::/docker/{}", id('a'));
    assert_eq!(waited(outside.clone(), K8sConfig::default()).await, Duration::from_secs(5));
    let within = format!("0::/kubepods/pod{VICTIM}/{}", id('a'));
    assert_eq!(waited(within, K8sConfig::default()).await, Duration::from_secs(30));
    let as_told =
        K8sConfig { poll_retry_interval: Some(Duration::from_millis(500)), ..K8sConfig::default() };
    let took = waited(outside, as_told).await;
    assert!(took > Duration::from_secs(29), "{took:?}");
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
    assert!(error.contains("no selectors found after max poll attempts (3 in 1"), "{error}");
    assert!(error.contains("the process's pod ns/own, but not yet its container"), "{error}");
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

#[tokio::test(start_paused = true)]
async fn a_forged_inner_path_yields_nothing_while_the_kubelet_knows_neither_pod_nor_container() {
    // A kubelet that restarts lists its pods one after the other: the victim's first.
    let victim = pod(VICTIM, "victim", &container("c", &id('b')));
    let own = pod(OWN, "own", &container("c", &id('a')));
    let (early, late) = (list(std::slice::from_ref(&victim)), list(&[victim, own]));
    for cgroup in [
        format!("0::/kubepods/pod{OWN}/{}/pod{VICTIM}/{}", id('a'), id('b')),
        format!("0::/../../../burstable/pod{OWN}/{}/kubepods/pod{VICTIM}/{}", id('a'), id('b')),
        format!("0::/kubelet/kubepods/pod{OWN}/{}/pod{VICTIM}/{}", id('a'), id('b')),
    ] {
        let error = attest(&cgroup, quick(), &[&early]).await.unwrap_err().to_string();
        assert!(error.contains("lists none of the process's containers"), "{error}");
        let found = attest(&cgroup, quick(), &[&early, &late]).await.unwrap();
        assert!(found.contains("sa:own") && !found.contains("sa:victim"), "{cgroup}: {found:?}");
        let pods_only = K8sConfig { disable_container_selectors: true, ..quick() };
        assert!(attest(&cgroup, pods_only, &[&early]).await.is_err(), "{cgroup}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forged_path_below_a_container_that_has_exited_does_not_become_the_victim() {
    let cgroup = format!("0::/kubepods/pod{OWN}/{}/pod{VICTIM}/{}", id('a'), id('b'));
    // The own container was replaced by another one: the pod is there, this container is not.
    let victim = pod(VICTIM, "victim", &container("c", &id('b')));
    let replaced = list(&[victim.clone(), pod(OWN, "own", &container("c", &id('d')))]);
    assert!(attest(&cgroup, quick(), &[&replaced]).await.is_err());
    // The victim is gone: nothing changes for the forger.
    let gone = list(&[pod(OWN, "own", &container("c", &id('a')))]);
    assert!(attest(&cgroup, quick(), &[&gone]).await.unwrap().contains("sa:own"));
}

#[tokio::test]
async fn a_path_in_a_place_of_users_yields_nothing() {
    let pods = list(&[pod(VICTIM, "victim", &container("c", &id('b')))]);
    let forged = format!("kubepods/burstable/pod{VICTIM}/{}", id('b'));
    for cgroup in [
        format!("0::/user.slice/user-1000.slice/user@1000.service/{forged}"),
        format!("0::/../../../../user.slice/user-1000.slice/user@1000.service/{forged}"),
        "0::/\n".to_owned(),
    ] {
        let found = attest(&cgroup, quick(), &[&pods]).await.unwrap();
        assert!(found.is_empty(), "{cgroup}: {found:?}");
    }
    // An agent in a pod does not believe other containers on its host either.
    let agent = Viewpoint::of(&format!("0::/kubepods/besteffort/pod{OWN}/{}", id('a')));
    let attestor = K8sAttestor::new(quick(), Scripted::new(&[&pods])).seen_from(agent);
    let found = attest_with(&format!("0::/docker/{}/{forged}", id('0')), attestor).await;
    assert!(found.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn init_ephemeral_and_static_containers_are_found() {
    let other = |field: &str| {
        format!(
            r#"{{"metadata":{{"name":"own","namespace":"ns","uid":"{OWN}"}},"status":{{"{field}":[{}]}}}}"#,
            container("other", &id('a'))
        )
    };
    let cgroup = format!("0::/kubepods/pod{OWN}/{}", id('a'));
    for field in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        let found = attest(&cgroup, quick(), &[&list(&[other(field)])]).await.unwrap();
        assert!(found.contains("container-name:other"), "{field}: {found:?}");
    }
    // The cgroups of a static pod are named after the hash of its manifest.
    let hash = "0123456789abcdef0123456789abcdef";
    let cgroup = format!("0::/kubepods/burstable/pod{hash}/{}", id('a'));
    let listed = |uid: &str, source: &str| {
        list(&[format!(
            r#"{{"metadata":{{"name":"etcd","namespace":"kube-system","uid":"{uid}","annotations":
               {{"kubernetes.io/config.hash":"{hash}","kubernetes.io/config.source":"{source}",
                 "other":"x"}}}},"spec":{{"hostNetwork":true}},
               "status":{{"containerStatuses":[{}]}}}}"#,
            container("etcd", &id('a'))
        )])
    };
    for uid in [hash, OWN] {
        let found = attest(&cgroup, quick(), &[&listed(uid, "file")]).await.unwrap();
        assert!(found.contains(&format!("pod-uid:{uid}")), "{found:?}");
    }
    // Anybody can write the annotation of the hash, but not where the kubelet has the pod from.
    let error = attest(&cgroup, quick(), &[&listed(OWN, "api")]).await.unwrap_err().to_string();
    assert!(error.contains("not to the pod its cgroup names"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_is_away_for_a_while_is_waited_for_and_a_wrong_setting_is_not() {
    let cgroup = format!("0::/kubepods/pod{OWN}/{}", id('a'));
    let pods = list(&[pod(OWN, "own", &container("c", &id('a')))]);
    let found = attest(&cgroup, quick(), &["!connection refused", &pods]).await.unwrap();
    assert!(found.contains("sa:own"));
    let error = attest(&cgroup, quick(), &["!connection refused"]).await.unwrap_err().to_string();
    assert!(error.contains("connection refused") && error.contains("(3 in"), "{error}");
    let began = Instant::now();
    let error = attest(&cgroup, quick(), &["!!no such file"]).await.unwrap_err().to_string();
    assert_eq!((error.as_str(), began.elapsed()), ("no such file", Duration::ZERO));
    // Without an interval the time counts, not the number of answers.
    let began = Instant::now();
    let patient = K8sConfig { max_poll_attempts: 4, ..K8sConfig::default() };
    assert!(attest(&cgroup, patient, &["!away"]).await.is_err());
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn a_process_that_exits_is_waited_for_no_longer() {
    let mut child = tokio::process::Command::new("sleep").arg("600").spawn().unwrap();
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join(pid.to_string());
    std::fs::create_dir(&own).unwrap();
    for file in ["stat", "status"] {
        let real = format!("/proc/{pid}/{file}");
        std::fs::write(own.join(file), std::fs::read(real).unwrap()).unwrap();
    }
    std::fs::write(own.join("cgroup"), format!("0::/kubepods/pod{OWN}/{}", id('a'))).unwrap();
    let peer = PinnedPeer::from_named_pid(pid, &ProcRoot::new(dir.path())).unwrap();
    let starting = list(&[pod(OWN, "own", "")]);
    let attestor = K8sAttestor::new(K8sConfig::default(), Scripted::new(&[&starting]));
    let attestor = attestor.seen_from(Viewpoint::default());
    let (found, _) = tokio::join!(attestor.attest(&peer), async {
        child.kill().await.unwrap();
        child.wait().await
    });
    let error = found.unwrap_err().to_string();
    assert!(error.contains("the process exited while its container was waited for"), "{error}");
}

#[derive(Debug)]
struct Labels(Result<Vec<(&'static str, &'static str)>, &'static str>);

#[async_trait::async_trait]
impl NamespaceSource for Labels {
    async fn labels(&self, namespace: &str) -> Result<namespaces::Labels, String> {
        assert_eq!(namespace, "ns");
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        match &self.0 {
            Ok(labels) => Ok(Arc::new(labels.iter().map(own).collect())),
            Err(why) => Err((*why).to_owned()),
        }
    }
}

#[tokio::test]
async fn labels_of_the_namespace_are_selectors_or_the_attestation_fails() {
    let cgroup = format!("0::/kubepods/pod{OWN}/{}", id('a'));
    let pods = list(&[pod(OWN, "own", &container("c", &id('a')))]);
    let with = |labels| {
        let attestor = K8sAttestor::new(quick(), Scripted::new(&[&pods]));
        attestor.seen_from(Viewpoint::default()).with_namespaces(Arc::new(Labels(labels)))
    };
    let labels = Ok(vec![("team", "a"), ("kubernetes.io/metadata.name", "ns")]);
    let found = attest_with(&cgroup, with(labels)).await.unwrap();
    assert!(found.contains("ns-label:team:a"), "{found:?}");
    assert!(found.contains("ns-label:kubernetes.io/metadata.name:ns"), "{found:?}");
    let error = attest_with(&cgroup, with(Err("API away"))).await.unwrap_err().to_string();
    assert_eq!(error, "unable to get namespace labels for \"ns\": API away");
}

#[tokio::test(start_paused = true)]
async fn whoever_only_looks_is_told_what_a_caller_would_wait_for() {
    let dir = tempfile::tempdir().unwrap();
    let pid = std::process::id() as i32;
    let own = dir.path().join(pid.to_string());
    std::fs::create_dir(&own).unwrap();
    for file in ["stat", "status"] {
        let real = Path::new("/proc/self").join(file);
        std::fs::write(own.join(file), std::fs::read(real).unwrap()).unwrap();
    }
    std::fs::write(own.join("cgroup"), format!("0::/kubepods/pod{OWN}/{}", id('a'))).unwrap();
    let peer = PinnedPeer::from_named_pid(pid, &ProcRoot::new(dir.path())).unwrap();
    let source = Scripted::new(&[&list(&[pod(OWN, "own", "")])]);
    let attestor = K8sAttestor::new(K8sConfig::default(), source).seen_from(Viewpoint::default());
    let began = Instant::now();
    let error = attestor.look(&peer).await.unwrap_err().to_string();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(
        error.contains("not yet its container; a caller waits for it for up to 30 s"),
        "{error}"
    );
}
