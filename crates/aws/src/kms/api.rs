//! The calls of KMS and of the tagging service, as far as they are made.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use signet_base::chain;
use signet_pki::PublicKey;

use super::{PENDING_DAYS, blob};
use crate::{AwsError, Client};

/// How many entries a page of keys or aliases has at most.
const PAGE: u32 = 100;
/// How many pages are read: more is an error, never a part.
const MAX_PAGES: usize = 2_000;

pub(super) struct Api {
    pub(super) kms: Client,
    pub(super) tagging: Client,
}

/// A key, as KMS describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described {
    pub(super) arn: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) enabled: bool,
    #[serde(default)]
    pub(super) key_spec: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub(super) creation_date: f64,
}

/// An alias.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Alias {
    pub(super) alias_name: String,
    /// None for aliases of AWS's own keys that nobody uses yet.
    #[serde(default)]
    pub(super) target_key_id: Option<String>,
    /// Seconds since 1970.
    #[serde(default)]
    pub(super) last_updated_date: Option<f64>,
}

/// A key, as the tagging service lists it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Tagged {
    #[serde(rename = "ResourceARN")]
    pub(super) arn: String,
    #[serde(rename = "Tags", default)]
    tags: Vec<Tag>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    key_metadata: Described,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    key_arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page<T> {
    // The list must be there: nonsense is not to be taken for an account without keys.
    #[serde(alias = "Aliases", alias = "Keys")]
    list: Vec<T>,
    #[serde(default)]
    next_marker: Option<String>,
    #[serde(default)]
    truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaggedPage {
    resource_tag_mapping_list: Vec<Tagged>,
    #[serde(default)]
    pagination_token: Option<String>,
}

/// What is answered and not looked at.
#[derive(Deserialize)]
struct Nothing {}

impl Tagged {
    /// The value of a tag.
    pub(super) fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|tag| tag.key == key).map(|tag| &*tag.value)
    }
}

/// A tag as KMS takes it.
pub(super) fn tag(key: &str, value: &str) -> Value {
    json!({ "TagKey": key, "TagValue": value })
}

impl Api {
    /// Makes a key; sent once more only if it certainly had no effect.
    pub(super) async fn create_key(&self, wanted: &Value) -> Result<Described, AwsError> {
        let made: Metadata = self.kms.call_once("CreateKey", wanted).await?;
        Ok(made.key_metadata)
    }

    /// A key by its ARN, or by an alias.
    pub(super) async fn describe(&self, key: &str) -> Result<Described, AwsError> {
        let found: Metadata = self.kms.call("DescribeKey", &json!({ "KeyId": key })).await?;
        Ok(found.key_metadata)
    }

    pub(super) async fn public_key(&self, arn: &str) -> Result<PublicKey, AwsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Found {
            public_key: String,
        }
        let action = "GetPublicKey";
        let found: Found = self.kms.call(action, &json!({ "KeyId": arn })).await?;
        let spki = blob(action, &found.public_key)?;
        PublicKey::from_spki(&spki)
            .map_err(|error| AwsError::Nonsense { action: action.to_owned(), why: chain(&error) })
    }

    /// Lets an alias lead to a key, whether it is there or not.
    pub(super) async fn set_alias(
        &self,
        alias: &str,
        arn: &str,
        is_there: bool,
    ) -> Result<(), AwsError> {
        let body = json!({ "AliasName": alias, "TargetKeyId": arn });
        let action = |is_there| if is_there { "UpdateAlias" } else { "CreateAlias" };
        match self.kms.call::<Nothing>(action(is_there), &body).await {
            Err(error) if is_there && error.is_not_found() => {}
            Err(error) if !is_there && error.code() == "AlreadyExistsException" => {}
            done => return done.map(drop),
        }
        self.kms.call::<Nothing>(action(!is_there), &body).await.map(drop)
    }

    /// Deletes an alias; one that is not there is fine.
    pub(super) async fn delete_alias(&self, alias: &str) -> Result<(), AwsError> {
        let body = json!({ "AliasName": alias });
        match self.kms.call::<Nothing>("DeleteAlias", &body).await {
            Err(error) if error.is_not_found() => Ok(()),
            done => done.map(drop),
        }
    }

    /// Has a key deleted after the waiting time; one that is not there, or waits already, is fine.
    pub(super) async fn schedule_deletion(&self, arn: &str) -> Result<(), AwsError> {
        let body = json!({ "KeyId": arn, "PendingWindowInDays": PENDING_DAYS });
        match self.kms.call::<Nothing>("ScheduleKeyDeletion", &body).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) if error.code() == "KMSInvalidStateException" => Ok(()),
            done => done.map(drop),
        }
    }

    pub(super) async fn tag_key(&self, arn: &str, tags: &[Value]) -> Result<(), AwsError> {
        let body = json!({ "KeyId": arn, "Tags": tags });
        self.kms.call::<Nothing>("TagResource", &body).await.map(drop)
    }

    /// Signs a digest.
    pub(super) async fn sign(
        &self,
        arn: &str,
        algorithm: &str,
        digest: &[u8],
    ) -> Result<Vec<u8>, AwsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Made {
            signature: String,
        }
        let body = json!({
            "KeyId": arn,
            "Message": STANDARD.encode(digest),
            "MessageType": "DIGEST",
            "SigningAlgorithm": algorithm,
        });
        let made: Made = self.kms.call("Sign", &body).await?;
        blob("Sign", &made.signature)
    }

    /// All aliases of the account in the region, or those of one key.
    pub(super) async fn aliases(&self, of: Option<&str>) -> Result<Vec<Alias>, AwsError> {
        self.pages("ListAliases", of).await
    }

    /// The ARNs of all keys of the account in the region.
    pub(super) async fn keys(&self) -> Result<Vec<String>, AwsError> {
        let all: Vec<Key> = self.pages("ListKeys", None).await?;
        Ok(all.into_iter().map(|key| key.key_arn).collect())
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        action: &'static str,
        of: Option<&str>,
    ) -> Result<Vec<T>, AwsError> {
        let mut body = json!({ "Limit": PAGE });
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            if let (Some(fields), Some(key)) = (body.as_object_mut(), of) {
                fields.insert("KeyId".to_owned(), key.into());
            }
            let page: Page<T> = self.kms.call(action, &body).await?;
            all.extend(page.list);
            match page.next_marker.filter(|_| page.truncated) {
                Some(marker) => body = json!({ "Limit": PAGE, "Marker": marker }),
                None => return Ok(all),
            }
        }
        Err(endless(action))
    }

    /// The keys that have all of these tags.
    pub(super) async fn tagged(&self, tags: &[(&str, &str)]) -> Result<Vec<Tagged>, AwsError> {
        let action = "GetResources";
        let filters: Vec<Value> =
            tags.iter().map(|(key, value)| json!({ "Key": key, "Values": [value] })).collect();
        let mut body = json!({ "ResourceTypeFilters": ["kms:key"], "TagFilters": filters });
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.tagging.call::<TaggedPage>(action, &body).await;
            let page = page.map_err(|error| match error.is_denied() {
                true => AwsError::Setting(format!(
                    "{error}: with enable_tag_based_key_discovery the server's identity needs \
                     tag:GetResources, which no key policy can give"
                )),
                false => error,
            })?;
            all.extend(page.resource_tag_mapping_list);
            match page.pagination_token.filter(|token| !token.is_empty()) {
                Some(token) => {
                    if let Some(fields) = body.as_object_mut() {
                        fields.insert("PaginationToken".to_owned(), token.into());
                    }
                }
                None => return Ok(all),
            }
        }
        Err(endless(action))
    }
}

fn endless(action: &str) -> AwsError {
    let why = format!("it has more than {MAX_PAGES} pages");
    AwsError::Nonsense { action: action.to_owned(), why }
}
