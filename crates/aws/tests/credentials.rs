//! Where credentials come from, and that they are renewed in time.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it fails")]

mod support;

use std::fs;

use serde_json::json;
use signet_aws::{Access, Credentials, Keys};
use support::{ACCOUNT, Aws, Fault, ID, SECRET, failure, form, identity, temporary};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A time after the fake's now, as services write it.
fn after(aws: &Aws, seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(aws.unix() + seconds).unwrap();
    time.format(&Rfc3339).unwrap()
}

fn search(aws: &Aws, variables: &[(&str, &str)]) -> Credentials {
    Credentials::new(aws.place(variables), &Access::default())
}

async fn id(credentials: &Credentials) -> String {
    credentials.keys().await.unwrap().id.clone()
}

#[tokio::test]
async fn the_first_place_that_has_keys_counts() {
    let aws = Aws::start();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    let text = "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n\
                [profile other]\naws_access_key_id = AKOTHER\naws_secret_access_key = s\n";
    fs::write(&config, text).unwrap();
    let file = ("AWS_CONFIG_FILE", config.to_str().unwrap());
    assert_eq!(id(&search(&aws, &[file])).await, "AKFILE");
    assert_eq!(id(&search(&aws, &[file, ("AWS_PROFILE", "other")])).await, "AKOTHER");
    let environment = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "s")];
    assert_eq!(id(&search(&aws, &[file, environment[0], environment[1]])).await, "AKENV");
    let access = Access { keys: Some(Keys::new("AKCONF", "s", None)), assume_role_arn: None };
    let own = Credentials::new(aws.place(&environment), &access);
    assert_eq!(id(&own).await, "AKCONF");

    let nowhere = search(&aws, &[("AWS_EC2_METADATA_DISABLED", "true")]);
    let error = nowhere.keys().await.unwrap_err().to_string();
    assert!(error.contains("AWS_WEB_IDENTITY_TOKEN_FILE"), "{error}");
    let gone = search(&aws, &[file, ("AWS_PROFILE", "gone")]).keys().await.unwrap_err();
    assert!(gone.to_string().contains("there is no profile \"gone\""), "{gone}");
}

#[tokio::test]
async fn a_role_is_assumed_with_a_token_and_renewed_before_it_ends() {
    let aws = Aws::start();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "jwt-1\n").unwrap();
    let served = aws.clone();
    aws.serve("sts", move |action, asked| {
        assert_eq!(action, "AssumeRoleWithWebIdentity");
        assert!(asked.header("authorization").is_none(), "nothing to sign with yet");
        let form = form(asked);
        assert_eq!((&*form["RoleArn"], &*form["Version"]), ("arn:role", "2011-06-15"));
        let id = format!("AK-{}", form["WebIdentityToken"]);
        (200, temporary(action, &id, &after(&served, 3600)))
    });
    let variables =
        [("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()), ("AWS_ROLE_ARN", "arn:role")];
    let credentials = search(&aws, &variables);
    assert_eq!(id(&credentials).await, "AK-jwt-1");
    fs::write(&token, "jwt-2").unwrap();
    aws.pass(3000);
    assert_eq!(id(&credentials).await, "AK-jwt-1", "they are good for ten minutes yet");
    aws.pass(400);
    assert_eq!(id(&credentials).await, "AK-jwt-2");
    let both = tokio::join!(credentials.keys(), credentials.keys());
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(aws.count("AssumeRoleWithWebIdentity"), 2, "asked for once each time");

    // A renewal that fails leaves what is still good in use, and nothing is used beyond its end.
    aws.judge(|_| Some(Fault::Instead(400, failure("IDPCommunicationError", "away"))));
    aws.pass(3400);
    assert_eq!(id(&credentials).await, "AK-jwt-2");
    aws.pass(300);
    let error = credentials.keys().await.unwrap_err().to_string();
    assert!(error.contains("IDPCommunicationError"), "{error}");
    assert!(!error.contains("jwt-2"), "{error}");
}

#[tokio::test]
async fn a_role_is_assumed_with_other_keys() {
    let aws = Aws::start();
    let served = aws.clone();
    aws.serve("sts", move |action, asked| match action {
        "AssumeRole" => {
            assert_eq!(form(asked)["RoleArn"], "arn:role");
            served.believe("AKROLE", SECRET, Some("token-AKROLE"));
            (200, temporary(action, "AKROLE", &after(&served, 900)))
        }
        _ => (200, identity("arn:aws:sts::1:assumed-role/role/s")),
    });
    let access = Access {
        keys: Some(Keys::new(ID, SECRET, None)),
        assume_role_arn: Some("arn:role".to_owned()),
    };
    let credentials = Credentials::new(aws.place(&[]), &access);
    let who = credentials.caller_identity().await.unwrap();
    assert_eq!((&*who.account, &*who.arn), (ACCOUNT, "arn:aws:sts::1:assumed-role/role/s"));
    let keys = credentials.keys().await.unwrap();
    assert!(!format!("{credentials:?} {keys:?}").contains(SECRET));
    assert!(!format!("{keys:?}").contains("token-AKROLE"));
}

#[tokio::test]
async fn containers_and_instances_have_a_role() {
    let aws = Aws::start();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "let-me-in").unwrap();
    let served = aws.clone();
    aws.serve("metadata", move |action, asked| {
        let keys = |id: &str| {
            json!({
                "Code": "Success", "AccessKeyId": id, "SecretAccessKey": "s", "Token": "t",
                "Expiration": after(&served, 3600),
            })
            .to_string()
        };
        let has_token = asked.header("x-aws-ec2-metadata-token") == Some("imds");
        match action {
            "GET /v1/creds" if asked.header("authorization") == Some("let-me-in") => {
                (200, keys("AKPOD"))
            }
            "PUT /latest/api/token"
                if asked.header("x-aws-ec2-metadata-token-ttl-seconds").is_some() =>
            {
                (200, "imds".to_owned())
            }
            "GET /latest/meta-data/iam/security-credentials/" if has_token => {
                (200, "my-role\n".to_owned())
            }
            "GET /latest/meta-data/iam/security-credentials/my-role" if has_token => {
                (200, keys("AKEC2"))
            }
            _ => (401, String::new()),
        }
    });
    let url = format!("{}/v1/creds", aws.url());
    let pod = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
    ];
    assert_eq!(id(&search(&aws, &pod)).await, "AKPOD");
    let url = aws.url();
    let instance = search(&aws, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url)]);
    assert_eq!(id(&instance).await, "AKEC2");

    let evil = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.9.9.9/creds"), pod[1]];
    let error = search(&aws, &evil).keys().await.unwrap_err().to_string();
    assert!(error.contains("expected https://"), "{error}");
}

#[tokio::test]
async fn keys_that_are_taken_back_are_replaced_at_once() {
    let aws = Aws::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let write = |id: &str| {
        let text = format!("[default]\naws_access_key_id={id}\naws_secret_access_key={SECRET}\n");
        fs::write(&file, text).unwrap();
    };
    write(ID);
    let variables = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap())];
    let credentials = search(&aws, &variables);
    aws.serve("kms", |_, _| (200, json!({ "Aliases": [] }).to_string()));
    let kms = signet_aws::Client::new(signet_aws::Service::KMS, None, &credentials).unwrap();
    let list = async || kms.call::<serde_json::Value>("ListAliases", &json!({})).await;
    list().await.unwrap();
    aws.believe("AKNEW", SECRET, None);
    let error = list().await.unwrap_err().to_string();
    assert!(error.contains("UnrecognizedClientException"), "{error}");
    write("AKNEW");
    list().await.unwrap();
}
