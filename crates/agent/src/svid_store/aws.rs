//! AWS Secrets Manager, as SPIRE's plugin uses it.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value may be asked for any key: what is missing is null"
)]

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signet_aws::{AwsError, Client, Credentials, Environment, Place, Service};
use signet_base::{SharedClock, chain};
use zeroize::Zeroizing;

use super::{Place as Selectors, Secret, Store, StoreError, needed};
use crate::plugins::svid_store::Aws as Settings;

/// The tag by which secrets of ours (and SPIRE's) are known from others.
const TAG: &str = "spire-svid";
/// How long a deleted secret can be restored.
const RECOVERY_DAYS: u8 = 7;

/// The store.
#[derive(Debug)]
pub(super) struct Aws {
    client: Client,
}

impl Aws {
    pub(super) fn new(settings: &Settings, clock: &SharedClock) -> Result<Self, AwsError> {
        let Settings { region, access, endpoint } = settings;
        let place = Place::new(region.clone(), Environment::of_process(), Arc::clone(clock));
        let credentials = Credentials::new(place, access);
        let client = Client::new(Service::SECRETS_MANAGER, endpoint.as_deref(), &credentials)?;
        Ok(Self { client })
    }

    /// Calls an action; none when the secret is not there.
    async fn call(&self, action: &'static str, body: &Value) -> Result<Option<Value>, StoreError> {
        match self.client.call(action, body).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(StoreError::Failed(chain(&error))),
        }
    }

    /// What is known of a secret, if it is there and ours.
    async fn describe(&self, id: &str) -> Result<Option<Value>, StoreError> {
        let Some(known) = self.call("DescribeSecret", &json!({ "SecretId": id })).await? else {
            return Ok(None);
        };
        let tags = known["Tags"].as_array().cloned().unwrap_or_default();
        match tags.iter().any(|tag| tag["Key"] == TAG && tag["Value"] == "true") {
            true => Ok(Some(known)),
            false => {
                Err(StoreError::Selectors(format!("the secret does not contain the {TAG:?} tag")))
            }
        }
    }
}

fn id(place: &Selectors) -> Result<&str, StoreError> {
    let value = |name: &str| place.get(name).filter(|value| !value.is_empty());
    let found = value("arn").or_else(|| value("secretname"));
    found.map(String::as_str).ok_or_else(|| {
        StoreError::Selectors("either the secret name or ARN is required".to_owned())
    })
}

#[async_trait]
impl Store for Aws {
    async fn put(&self, place: &Selectors, secret: &Secret) -> Result<(), StoreError> {
        let id = id(place)?;
        let token = uuid::Uuid::new_v4().to_string();
        let binary = Zeroizing::new(STANDARD.encode(secret.json().as_bytes()));
        let Some(known) = self.describe(id).await? else {
            let mut create = json!({
                "Name": needed(place, "secretname")?,
                "ClientRequestToken": token,
                "SecretBinary": *binary,
                "Tags": [{ "Key": TAG, "Value": "true" }],
            });
            if let (Some(key), Some(members)) = (place.get("kmskeyid"), create.as_object_mut()) {
                members.insert("KmsKeyId".to_owned(), key.as_str().into());
            }
            let created = self.call("CreateSecret", &create).await?;
            return created
                .map(drop)
                .ok_or_else(|| StoreError::Failed("CreateSecret: nothing was found".to_owned()));
        };
        if !known["DeletedDate"].is_null() {
            self.call("RestoreSecret", &json!({ "SecretId": id })).await?;
        }
        let put = json!({
            "SecretId": known["ARN"],
            "ClientRequestToken": token,
            "SecretBinary": *binary,
        });
        let put = self.call("PutSecretValue", &put).await?;
        put.map(drop).ok_or_else(|| StoreError::Failed("the secret has gone meanwhile".to_owned()))
    }

    async fn delete(&self, place: &Selectors) -> Result<(), StoreError> {
        let Some(known) = self.describe(id(place)?).await? else { return Ok(()) };
        let delete = json!({ "SecretId": known["ARN"], "RecoveryWindowInDays": RECOVERY_DAYS });
        self.call("DeleteSecret", &delete).await.map(drop)
    }
}
