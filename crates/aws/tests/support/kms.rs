//! KMS and the tagging service, as far as their published models say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use aws_lc_rs::{
    digest::{self, Digest},
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signet_pki::{KeyType, PrivateKey};
use signet_testkit::Asked;

use super::{ACCOUNT, Aws, REGION, failure, fields, identity};

/// How many entries a page has: few, so that there are several.
const PAGE: usize = 3;

#[derive(Clone)]
pub struct Key {
    pub arn: String,
    pub spec: String,
    pub description: String,
    pub policy: Option<String>,
    pub tags: BTreeMap<String, String>,
    /// `Enabled`, `Disabled` or `PendingDeletion`.
    pub state: &'static str,
    pub created: i64,
    pub private: Arc<PrivateKey>,
}

#[derive(Default)]
pub struct World {
    pub keys: BTreeMap<String, Key>,
    /// What they lead to, and since when.
    pub aliases: BTreeMap<String, (String, i64)>,
    made: usize,
}

/// The account's keys.
#[derive(Clone)]
pub struct Account {
    pub aws: Aws,
    pub world: Arc<Mutex<World>>,
}

impl Account {
    /// With a role, as whose session one is known.
    pub fn start() -> Self {
        let account = Self { aws: Aws::start(), world: Arc::default() };
        let (world, aws) = (Arc::clone(&account.world), account.aws.clone());
        account.aws.serve("kms", move |action, asked| {
            let mut world = world.lock().unwrap();
            let now = aws.unix();
            world.call(action, asked, now).unwrap_or_else(|refused| refused)
        });
        let world = Arc::clone(&account.world);
        account.aws.serve("tagging", move |action, asked| {
            let world = world.lock().unwrap();
            world.resources(action, asked).unwrap_or_else(|refused| refused)
        });
        let arn = format!("arn:aws:sts::{ACCOUNT}:assumed-role/spire/i-1");
        account.aws.serve("sts", move |_, _| (200, identity(&arn)));
        account
    }

    /// Puts a key there, as another server would have made it.
    pub fn add(&self, alias: Option<&str>, description: &str, tags: &[(&str, &str)]) -> String {
        let now = self.aws.unix();
        let mut world = self.world.lock().unwrap();
        let arn = world.make("ECC_NIST_P256", description, now);
        let key = world.keys.get_mut(&arn).unwrap();
        key.tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        if let Some(alias) = alias {
            world.aliases.insert(alias.to_owned(), (arn.clone(), now));
        }
        arn
    }

    pub fn key(&self, arn: &str) -> Key {
        self.world.lock().unwrap().keys[arn].clone()
    }

    pub fn target(&self, alias: &str) -> Option<String> {
        self.world.lock().unwrap().aliases.get(alias).map(|(arn, _)| arn.clone())
    }

    /// How many keys are not deleted.
    pub fn living(&self) -> usize {
        self.world.lock().unwrap().keys.values().filter(|key| key.state == "Enabled").count()
    }
}

type Answer = Result<(u16, String), (u16, String)>;

fn refused(code: &str, message: &str) -> (u16, String) {
    (400, failure(code, message))
}

fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, (u16, String)> {
    body[name].as_str().ok_or_else(|| refused("ValidationException", name))
}

impl World {
    fn make(&mut self, spec: &str, description: &str, now: i64) -> String {
        let kind = match spec {
            "ECC_NIST_P256" => KeyType::EcP256,
            "ECC_NIST_P384" => KeyType::EcP384,
            "RSA_2048" => KeyType::Rsa2048,
            "RSA_4096" => KeyType::Rsa4096,
            other => panic!("{other}"),
        };
        self.made += 1;
        let id = format!("00000000-0000-4000-8000-{:012}", self.made);
        let arn = format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{id}");
        let key = Key {
            arn: arn.clone(),
            spec: spec.to_owned(),
            description: description.to_owned(),
            policy: None,
            tags: BTreeMap::new(),
            state: "Enabled",
            created: now,
            private: Arc::new(PrivateKey::generate(kind).unwrap()),
        };
        self.keys.insert(arn.clone(), key);
        arn
    }

    /// By its ARN, its ID, an alias or the ARN of one.
    fn find(&self, name: &str) -> Result<&Key, (u16, String)> {
        let alias = name.find("alias/").and_then(|at| self.aliases.get(&name[at..]));
        let arn = alias.map_or(name, |(arn, _)| arn);
        let found = self.keys.values().find(|key| key.arn == arn || key.arn.ends_with(arn));
        found.ok_or_else(|| refused("NotFoundException", name))
    }

    fn usable(&self, name: &str) -> Result<&Key, (u16, String)> {
        let key = self.find(name)?;
        match key.state {
            "Enabled" => Ok(key),
            "Disabled" => Err(refused("DisabledException", &key.arn)),
            _ => Err(refused("KMSInvalidStateException", &format!("{} is pending", key.arn))),
        }
    }

    fn call(&mut self, action: &str, asked: &Asked, now: i64) -> Answer {
        let answer = match action {
            "CreateKey" => {
                let known = ["Policy", "Description", "KeyUsage", "KeySpec", "Tags"];
                let body = fields(asked, &known)?;
                if text(&body, "KeyUsage")? != "SIGN_VERIFY" {
                    return Err(refused("ValidationException", "KeyUsage"));
                }
                let description = text(&body, "Description")?;
                let arn = self.make(text(&body, "KeySpec")?, description, now);
                let key = self.keys.get_mut(&arn).unwrap();
                key.policy = body["Policy"].as_str().map(str::to_owned);
                key.tag(&body["Tags"])?;
                json!({ "KeyMetadata": key.metadata() })
            }
            "DescribeKey" => {
                let body = fields(asked, &["KeyId", "GrantTokens"])?;
                json!({ "KeyMetadata": self.find(text(&body, "KeyId")?)?.metadata() })
            }
            "GetPublicKey" => {
                let body = fields(asked, &["KeyId", "GrantTokens"])?;
                let key = self.usable(text(&body, "KeyId")?)?;
                let spki = STANDARD.encode(key.private.public_key().spki_der());
                json!({ "KeyId": key.arn, "PublicKey": spki, "KeySpec": key.spec })
            }
            "Sign" => {
                let known = ["KeyId", "Message", "MessageType", "SigningAlgorithm"];
                let body = fields(asked, &known)?;
                let key = self.usable(text(&body, "KeyId")?)?;
                if text(&body, "MessageType")? != "DIGEST" {
                    return Err(refused("ValidationException", "only digests here"));
                }
                let digest = STANDARD.decode(text(&body, "Message")?).unwrap();
                let algorithm = text(&body, "SigningAlgorithm")?;
                let signature = sign(key, algorithm, &digest)?;
                json!({ "KeyId": key.arn, "Signature": STANDARD.encode(signature) })
            }
            "CreateAlias" | "UpdateAlias" => {
                let body = fields(asked, &["AliasName", "TargetKeyId"])?;
                let alias = text(&body, "AliasName")?;
                let good = |c: char| c.is_ascii_alphanumeric() || "/_-:".contains(c);
                if !alias.starts_with("alias/") || !alias.chars().all(good) || alias.len() > 256 {
                    return Err(refused("InvalidAliasNameException", alias));
                }
                match (action, self.aliases.contains_key(alias)) {
                    ("CreateAlias", true) => return Err(refused("AlreadyExistsException", alias)),
                    ("UpdateAlias", false) => return Err(refused("NotFoundException", alias)),
                    _ => {}
                }
                let arn = self.usable(text(&body, "TargetKeyId")?)?.arn.clone();
                self.aliases.insert(alias.to_owned(), (arn, now));
                return Ok((200, String::new()));
            }
            "DeleteAlias" => {
                let body = fields(asked, &["AliasName"])?;
                let alias = text(&body, "AliasName")?;
                let gone = self.aliases.remove(alias);
                gone.ok_or_else(|| refused("NotFoundException", alias))?;
                return Ok((200, String::new()));
            }
            "ListAliases" => {
                let body = fields(asked, &["KeyId", "Limit", "Marker"])?;
                let of = body["KeyId"].as_str().map(|key| self.find(key)).transpose()?;
                let of = of.map(|key| key.arn.clone());
                let all = self
                    .aliases
                    .iter()
                    .filter(|(_, (arn, _))| of.as_ref().is_none_or(|of| arn == of));
                let all = all.map(|(name, (arn, at))| {
                    json!({
                        "AliasName": name,
                        "AliasArn": format!("arn:aws:kms:{REGION}:{ACCOUNT}:{name}"),
                        "TargetKeyId": arn.rsplit_once('/').unwrap().1,
                        "CreationDate": *at as f64,
                        "LastUpdatedDate": *at as f64 + 0.25,
                    })
                });
                // One of AWS's own that leads nowhere yet.
                let of_aws = json!({ "AliasName": "alias/aws/s3", "AliasArn": "arn:x" });
                let of_aws = of.is_none().then_some(of_aws);
                page("Aliases", of_aws.into_iter().chain(all).collect(), &body)
            }
            "ListKeys" => {
                let body = fields(asked, &["Limit", "Marker"])?;
                let all = self
                    .keys
                    .keys()
                    .map(|arn| json!({ "KeyArn": arn, "KeyId": arn.rsplit_once('/').unwrap().1 }));
                page("Keys", all.collect(), &body)
            }
            "ScheduleKeyDeletion" => {
                let body = fields(asked, &["KeyId", "PendingWindowInDays"])?;
                if body["PendingWindowInDays"] != 7 {
                    return Err(refused("ValidationException", "PendingWindowInDays"));
                }
                let name = text(&body, "KeyId")?;
                if name.starts_with("alias/") {
                    return Err(refused("InvalidArnException", name));
                }
                let arn = self.find(name)?.arn.clone();
                let key = self.keys.get_mut(&arn).unwrap();
                if key.state == "PendingDeletion" {
                    return Err(refused("KMSInvalidStateException", &arn));
                }
                key.state = "PendingDeletion";
                json!({ "KeyId": arn, "DeletionDate": now as f64, "KeyState": "PendingDeletion" })
            }
            "TagResource" => {
                let body = fields(asked, &["KeyId", "Tags"])?;
                let arn = self.find(text(&body, "KeyId")?)?.arn.clone();
                self.keys.get_mut(&arn).unwrap().tag(&body["Tags"])?;
                return Ok((200, String::new()));
            }
            other => return Err(refused("UnknownOperationException", other)),
        };
        Ok((200, answer.to_string()))
    }

    fn resources(&self, action: &str, asked: &Asked) -> Answer {
        assert_eq!(action, "GetResources");
        let known = ["PaginationToken", "TagFilters", "ResourceTypeFilters"];
        let body = fields(asked, &known)?;
        assert_eq!(body["ResourceTypeFilters"], json!(["kms:key"]));
        let filters = body["TagFilters"].as_array().unwrap();
        let fits = |key: &&Key| {
            filters.iter().all(|filter| {
                let value = key.tags.get(filter["Key"].as_str().unwrap());
                let values = filter["Values"].as_array().unwrap();
                value.is_some_and(|value| values.iter().any(|wanted| wanted == value))
            })
        };
        let all: Vec<Value> = self
            .keys
            .values()
            .filter(fits)
            .map(|key| {
                let tags: Vec<Value> =
                    key.tags.iter().map(|(k, v)| json!({ "Key": k, "Value": v })).collect();
                json!({ "ResourceARN": key.arn, "Tags": tags })
            })
            .collect();
        let from: usize = body["PaginationToken"].as_str().unwrap_or("0").parse().unwrap();
        let to = (from + PAGE).min(all.len());
        let token = if to < all.len() { to.to_string() } else { String::new() };
        let answer = json!({ "ResourceTagMappingList": all[from..to], "PaginationToken": token });
        Ok((200, answer.to_string()))
    }
}

fn page(name: &str, all: Vec<Value>, body: &Value) -> Value {
    let from: usize = body["Marker"].as_str().unwrap_or("0").parse().unwrap();
    let to = (from + PAGE).min(all.len());
    if to == all.len() {
        return json!({ name: all[from..to], "Truncated": false });
    }
    json!({ name: all[from..to], "Truncated": true, "NextMarker": to.to_string() })
}

impl Key {
    fn metadata(&self) -> Value {
        json!({
            "AWSAccountId": ACCOUNT,
            "KeyId": self.arn.rsplit_once('/').unwrap().1,
            "Arn": self.arn,
            "CreationDate": self.created as f64 + 0.5,
            "Enabled": self.state == "Enabled",
            "Description": self.description,
            "KeyState": self.state,
            "KeySpec": self.spec,
        })
    }

    fn tag(&mut self, tags: &Value) -> Result<(), (u16, String)> {
        for tag in tags.as_array().into_iter().flatten() {
            let (key, value) = (text(tag, "TagKey")?, text(tag, "TagValue")?);
            if key.starts_with("aws:") {
                return Err(refused("TagException", key));
            }
            self.tags.insert(key.to_owned(), value.to_owned());
        }
        Ok(())
    }
}

/// Signs a digest.
fn sign(key: &Key, algorithm: &str, message: &[u8]) -> Result<Vec<u8>, (u16, String)> {
    let hash = match algorithm.rsplit_once('_').unwrap().1 {
        "256" => &digest::SHA256,
        "384" => &digest::SHA384,
        _ => &digest::SHA512,
    };
    let message = Digest::import_less_safe(message, hash)
        .map_err(|_| refused("ValidationException", "the digest's length"))?;
    let pkcs8 = key.private.pkcs8_der();
    let ecdsa = match (&*key.spec, algorithm) {
        ("ECC_NIST_P256", "ECDSA_SHA_256") => Some(&ECDSA_P256_SHA256_ASN1_SIGNING),
        ("ECC_NIST_P384", "ECDSA_SHA_384") => Some(&ECDSA_P384_SHA384_ASN1_SIGNING),
        _ => None,
    };
    if let Some(ecdsa) = ecdsa {
        let pair = EcdsaKeyPair::from_pkcs8(ecdsa, pkcs8).unwrap();
        return Ok(pair.sign_digest(&message).unwrap().as_ref().to_vec());
    }
    let padding: &dyn RsaEncoding = match algorithm {
        _ if !key.spec.starts_with("RSA_") => {
            return Err(refused("InvalidKeyUsageException", algorithm));
        }
        "RSASSA_PKCS1_V1_5_SHA_256" => &RSA_PKCS1_SHA256,
        "RSASSA_PKCS1_V1_5_SHA_384" => &RSA_PKCS1_SHA384,
        "RSASSA_PKCS1_V1_5_SHA_512" => &RSA_PKCS1_SHA512,
        "RSASSA_PSS_SHA_256" => &RSA_PSS_SHA256,
        "RSASSA_PSS_SHA_384" => &RSA_PSS_SHA384,
        "RSASSA_PSS_SHA_512" => &RSA_PSS_SHA512,
        other => return Err(refused("ValidationException", other)),
    };
    let pair = RsaKeyPair::from_pkcs8(pkcs8).unwrap();
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign_digest(padding, &message, &mut signature).unwrap();
    Ok(signature)
}
