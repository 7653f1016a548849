//! Identities that are written to secret stores.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::fixture::{Fixture, eventually, id};

/// The method and path (or the action) of a request, its authorization, and its body.
type Ask = fn(&mut Secrets, &str, &str, Value) -> (u16, Value);

/// A secret store of a cloud, as small as it can be.
#[derive(Default)]
struct Secrets {
    /// What is known of each secret, by name.
    known: HashMap<String, Value>,
    /// Values, by name, newest last.
    values: HashMap<String, Vec<Value>>,
    calls: Vec<String>,
}

/// Serves `ask` until the test ends; returns its URL.
async fn serve(secrets: Arc<Mutex<Secrets>>, ask: Ask) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let (head, body) = loop {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).await.unwrap();
                bytes.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = header(head, "content-length").parse().unwrap_or(0);
                if body.len() >= length || read == 0 {
                    break (head.to_owned(), body.to_owned());
                }
            };
            let what = match header(&head, "x-amz-target") {
                target if target.is_empty() => head.split(" HTTP").next().unwrap().to_owned(),
                target => target,
            };
            let authorization = header(&head, "authorization");
            let body = serde_json::from_str(&body).unwrap_or_else(|_| json!(body));
            let (status, answer) = {
                let mut secrets = secrets.lock().unwrap();
                secrets.calls.push(what.clone());
                ask(&mut secrets, &what, &authorization, body)
            };
            let text = answer.to_string();
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}

fn header(head: &str, name: &str) -> String {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    found.next_back().unwrap_or_default().to_owned()
}

fn aws(secrets: &mut Secrets, action: &str, authorization: &str, body: Value) -> (u16, Value) {
    let scope = "/eu-test-1/secretsmanager/aws4_request, SignedHeaders=content-type;host;\
                 x-amz-date;x-amz-target, Signature=";
    if !authorization.starts_with("AWS4-HMAC-SHA256 Credential=AK/")
        || !authorization.contains(scope)
    {
        return (403, json!({ "__type": "AccessDeniedException" }));
    }
    let name = body["SecretId"].as_str().or(body["Name"].as_str()).unwrap().to_owned();
    match action {
        "secretsmanager.DescribeSecret" => match secrets.known.get(&name) {
            Some(known) => (200, known.clone()),
            None => (400, json!({ "__type": "ResourceNotFoundException" })),
        },
        "secretsmanager.CreateSecret" => {
            let known = json!({ "ARN": name, "Name": name, "Tags": body["Tags"] });
            secrets.known.insert(name.clone(), known);
            secrets.values.entry(name).or_default().push(body["SecretBinary"].clone());
            (200, json!({}))
        }
        "secretsmanager.PutSecretValue" => {
            secrets.values.entry(name).or_default().push(body["SecretBinary"].clone());
            (200, json!({}))
        }
        "secretsmanager.DeleteSecret" => {
            secrets.known.get_mut(&name).unwrap()["DeletedDate"] = json!(1);
            (200, json!({}))
        }
        "secretsmanager.RestoreSecret" => {
            secrets.known.get_mut(&name).unwrap()["DeletedDate"] = Value::Null;
            (200, json!({}))
        }
        _ => (400, json!({ "__type": "UnknownOperationException" })),
    }
}

fn gcp(secrets: &mut Secrets, what: &str, authorization: &str, body: Value) -> (u16, Value) {
    if what == "POST /token" {
        return (200, json!({ "access_token": "let-me-in", "expires_in": 3600 }));
    }
    if authorization != "Bearer let-me-in" {
        return (401, json!({}));
    }
    let path = "/v1/projects/p/secrets";
    match what {
        _ if what == format!("GET {path}/web") => match secrets.known.get("web") {
            Some(known) => (200, known.clone()),
            None => (404, json!({})),
        },
        _ if what == format!("POST {path}?secretId=web") => {
            let mut known = body;
            known["etag"] = json!("e");
            secrets.known.insert("web".to_owned(), known);
            (200, json!({}))
        }
        _ if what == format!("POST {path}/web:setIamPolicy") => (200, json!({})),
        _ if what == format!("POST {path}/web:addVersion") => {
            let data = body["payload"]["data"].clone();
            secrets.values.entry("web".to_owned()).or_default().push(data);
            (200, json!({}))
        }
        _ if what == format!("DELETE {path}/web?etag=e") => {
            secrets.known.remove("web");
            (200, json!({}))
        }
        _ => (400, json!({ "error": { "message": what } })),
    }
}

/// The newest value of a secret, as what it is.
fn newest(secrets: &Mutex<Secrets>, name: &str) -> Option<Value> {
    let secrets = secrets.lock().unwrap();
    let value = secrets.values.get(name)?.last()?.as_str()?.to_owned();
    Some(serde_json::from_slice(&STANDARD.decode(value).unwrap()).unwrap())
}

fn add(fixture: &Fixture, entry: &str, selectors: &[&str]) {
    fixture.server.lock().add_entry(entry, selectors).store_svid = true;
}

fn count(secrets: &Mutex<Secrets>, name: &str) -> usize {
    secrets.lock().unwrap().values.get(name).map_or(0, Vec::len)
}

#[tokio::test]
async fn aws_secrets_manager_has_an_identity_while_there_is_an_entry() {
    let secrets = Arc::new(Mutex::new(Secrets::default()));
    let url = serve(Arc::clone(&secrets), aws).await;
    let mut fixture = Fixture::new().await;
    fixture.options.attestor.push_str(&format!(
        "\nSVIDStore \"aws_secretsmanager\" {{ plugin_data {{ region = \"eu-test-1\" \
         access_key_id = \"AK\" secret_access_key = \"SK\" endpoint = {url:?} }} }}"
    ));
    // Another's secret of that name is left alone.
    secrets.lock().unwrap().known.insert("other".to_owned(), json!({ "ARN": "other" }));
    add(&fixture, "s1", &["aws_secretsmanager:secretname:web"]);
    add(&fixture, "s2", &["aws_secretsmanager:secretname:other"]);
    let agent = fixture.serving().await;
    eventually(|| newest(&secrets, "web").is_some()).await;
    let value = newest(&secrets, "web").unwrap();
    assert_eq!(value["spiffeID"], id("s1"));
    for name in ["x509SVID", "bundle"] {
        assert!(
            value[name].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----\n"),
            "{name}"
        );
    }
    assert!(value["x509SVIDKey"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    // No workload gets it.
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);

    fixture.server.lock().entries.get_mut("s1").unwrap().revision_number += 1;
    fixture.notify(1);
    eventually(|| count(&secrets, "web") == 2).await;
    assert_ne!(newest(&secrets, "web").unwrap()["x509SVID"], value["x509SVID"]);
    let entry = fixture.server.lock().entries.remove("s1").unwrap();
    fixture.notify(2);
    eventually(|| !secrets.lock().unwrap().known["web"]["DeletedDate"].is_null()).await;
    // A secret that waits for its deletion is restored.
    fixture.server.lock().entries.insert("s1".to_owned(), entry);
    fixture.notify(3);
    eventually(|| count(&secrets, "web") == 3).await;
    assert!(secrets.lock().unwrap().known["web"]["DeletedDate"].is_null());
    assert_eq!(count(&secrets, "other"), 0);
    agent.stop().await;
}

#[tokio::test]
async fn google_secret_manager_has_an_identity_while_there_is_an_entry() {
    let secrets = Arc::new(Mutex::new(Secrets::default()));
    let url = serve(Arc::clone(&secrets), gcp).await;
    let mut fixture = Fixture::new().await;
    let key = signet_pki::PrivateKey::generate(signet_pki::KeyType::Rsa2048).unwrap();
    let account = fixture.dir.path().join("account.json");
    let text = json!({
        "type": "service_account",
        "client_email": "agent@p.test",
        "private_key": key.to_pem().as_str(),
        "token_uri": format!("{url}/token"),
    });
    std::fs::write(&account, text.to_string()).unwrap();
    fixture.options.attestor.push_str(&format!(
        "\nSVIDStore \"gcp_secretmanager\" {{ plugin_data {{ service_account_file = {account:?} \
         endpoint = {url:?} }} }}"
    ));
    let selectors = [
        "gcp_secretmanager:name:web",
        "gcp_secretmanager:projectid:p",
        "gcp_secretmanager:regions:r1,r2",
        "gcp_secretmanager:role:roles/viewer",
        "gcp_secretmanager:serviceaccount:a@p.test",
    ];
    add(&fixture, "s1", &selectors);
    let agent = fixture.serving().await;
    eventually(|| newest(&secrets, "web").is_some()).await;
    assert_eq!(newest(&secrets, "web").unwrap()["spiffeID"], id("s1"));
    {
        let secrets = secrets.lock().unwrap();
        let replicas = &secrets.known["web"]["replication"]["userManaged"]["replicas"];
        assert_eq!(replicas[1]["location"], "r2");
        assert!(secrets.calls.iter().any(|call| call.ends_with(":setIamPolicy")));
    }
    fixture.server.lock().entries.remove("s1");
    fixture.notify(1);
    eventually(|| secrets.lock().unwrap().known.is_empty()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_directory_has_an_identity_while_there_is_an_entry() {
    let mut fixture = Fixture::new().await;
    let stored = fixture.dir.path().join("stored");
    fixture
        .options
        .attestor
        .push_str(&format!("\nSVIDStore \"disk\" {{ plugin_data {{ directory = {stored:?} }} }}"));
    add(&fixture, "s1", &["disk:name:web"]);
    add(&fixture, "s2", &["disk:name:../outside"]);
    let agent = fixture.serving().await;
    eventually(|| stored.join("web/key.pem").exists()).await;
    let chain = std::fs::read_to_string(stored.join("web/svid.pem")).unwrap();
    assert!(chain.starts_with("-----BEGIN CERTIFICATE-----\n"));
    fixture.server.lock().entries.remove("s1");
    fixture.notify(1);
    eventually(|| !stored.join("web").exists()).await;
    assert!(!fixture.dir.path().join("outside").exists());
    agent.stop().await;
}
