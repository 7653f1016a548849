//! Finding an API server and authenticating to it, against a server that speaks the Kubernetes API.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]
#![allow(dead_code, reason = "other tests use the rest of the fake server")]

mod fake;

use std::{path::Path, sync::Arc};

use fake::Fake;
use serde_json::{Value, json};
use signet_base::SystemClock;
use signet_k8s::{ApiServer, KubeSource};

const MAP: &str = "/api/v1/namespaces/spire/configmaps/m";

async fn fake() -> Fake {
    let fake = Fake::start().await;
    fake.put(MAP, json!({"data": {"a": "b"}}));
    fake
}

async fn reaches(api: &ApiServer) -> Result<(), String> {
    let map: Value = api.get_object(MAP).await.map_err(|error| signet_base::chain(&error))?;
    assert_eq!(map["data"]["a"], "b");
    Ok(())
}

fn open(files: &[&Path]) -> Result<ApiServer, String> {
    let files = files.iter().map(|path| (*path).to_owned()).collect();
    ApiServer::new(KubeSource::Files(files), Arc::new(SystemClock))
        .map_err(|error| signet_base::chain(&error))
}

#[tokio::test]
async fn what_several_kubeconfig_files_define_counts_as_the_first_has_it() {
    let (fake, dir) = (fake().await, tempfile::tempdir().unwrap());
    let folder = dir.path().join("users");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("token"), "first\n").unwrap();
    let absent = dir.path().join("absent");
    let users = folder.join("users.yaml");
    // Relative to the folder of its own file.
    std::fs::write(&users, "current-context: x\nusers: [{name: u, user: {tokenFile: token}}]\n")
        .unwrap();
    let rest = dir.path().join("rest.yaml");
    std::fs::write(
        &rest,
        format!(
            "current-context: y\nclusters: [{{name: c, cluster: {{server: \
             'http://127.0.0.1:{}/'}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u, \
             namespace: team}}}}]\nusers: [{{name: u, user: {{token: wrong}}}}]\n",
            fake.port
        ),
    )
    .unwrap();
    let api = open(&[&absent, &users, &rest]).unwrap();
    reaches(&api).await.unwrap();
    assert_eq!(api.namespace().unwrap(), "team");
    // A single file has to be there, and each error names the files.
    let error = open(&[&absent]).unwrap_err();
    assert!(error.contains("absent"), "{error}");
    let error = open(&[&rest]).unwrap_err();
    assert!(error.contains("rest.yaml") && error.contains("context \"y\""), "{error}");
}

#[tokio::test]
async fn a_program_gives_the_token_and_is_asked_again_when_it_is_refused() {
    let (fake, dir) = (fake().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("kubeconfig");
    let token = dir.path().join("token");
    std::fs::write(&token, "first").unwrap();
    let yaml = json!({
        "current-context": "x",
        "clusters": [{"name": "c", "cluster":
            {"server": format!("http://127.0.0.1:{}", fake.port)}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", "printf '{\"status\":{\"token\":\"%s\"}}' $(cat $TOKEN)"],
            "env": [{"name": "TOKEN", "value": token}],
        }}}],
    });
    std::fs::write(&path, yaml.to_string()).unwrap();
    let api = open(&[&path]).unwrap();
    reaches(&api).await.unwrap();
    fake.set_token("second");
    std::fs::write(&token, "second").unwrap();
    reaches(&api).await.unwrap();
    fake.set_token("third");
    let error = reaches(&api).await.unwrap_err();
    assert!(error.contains("401") && error.contains("not accepted"), "{error}");
}

#[tokio::test]
async fn a_server_whose_configuration_cannot_be_used_yet_is_reached_as_soon_as_it_can() {
    let (fake, dir) = (fake().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("kubeconfig");
    let source = KubeSource::Files(vec![path.clone()]);
    let (api, why) = ApiServer::sooner_or_later(source, Arc::new(SystemClock));
    assert!(why.unwrap().to_string().contains("kubeconfig"));
    let error = reaches(&api).await.unwrap_err();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    std::fs::write(&path, "current-context: x").unwrap();
    let error = reaches(&api).await.unwrap_err();
    assert!(error.contains("context \"x\" is not defined"), "{error}");
    fake.kubeconfig(dir.path(), "first");
    reaches(&api).await.unwrap();
}
