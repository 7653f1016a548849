//! What the sealed cache holds, as JSON.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use signet_identity::{Bundle, EntryId, JwtAuthority, TrustDomain, X509Authority};
use signet_time::UnixTime;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    cache::{BundleMap, Snapshot},
    entry::{AgentEntry, EntryMap},
    jwt_cache::{JwtKey, JwtSvid},
    svid::X509Svid,
    wit_cache::WitSvid,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    entries: Vec<StoredEntry>,
    bundles: Vec<StoredBundle>,
    svids: BTreeMap<String, StoredSvid>,
    /// Absent in a file that an earlier build wrote.
    #[serde(default)]
    jwt_svids: Vec<StoredJwt>,
    /// Absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wit_svids: Vec<StoredWit>,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    id: String,
    spiffe_id: String,
    selectors: Vec<String>,
    federates_with: Vec<String>,
    admin: bool,
    downstream: bool,
    store_svid: bool,
    hint: String,
    created_at: i64,
    revision_number: i64,
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

/// ID, SubjectPublicKeyInfo, expiry, whether it is tainted.
type StoredKey = (String, String, i64, bool);

#[derive(Serialize, Deserialize)]
struct StoredBundle {
    trust_domain: String,
    x509: Vec<(String, bool)>,
    jwt: Vec<StoredKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wit: Vec<StoredKey>,
    refresh_hint: i64,
    sequence_number: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredSvid {
    spiffe_id: String,
    chain: Vec<String>,
    key: String,
    not_before: i64,
    not_after: i64,
}

impl Drop for StoredSvid {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
struct StoredJwt {
    /// What the token is found by ([`JwtKey`]).
    found_by: String,
    token: String,
    spiffe_id: String,
    issued_at: i64,
    expires_at: i64,
    key_id: String,
}

impl Drop for StoredJwt {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
struct StoredWit {
    entry_id: String,
    token: String,
    /// The private key, a JSON Web Key, in base64: with nothing to escape, no reader copies it.
    key: String,
    spiffe_id: String,
    due_at: i64,
    expires_at: i64,
    key_id: String,
    revision: i64,
}

impl Drop for StoredWit {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Stored {
    pub(super) fn from_snapshot(snapshot: &Snapshot) -> Self {
        let entries = snapshot.entries.values().map(|entry| StoredEntry {
            id: entry.id.to_string(),
            spiffe_id: entry.spiffe_id.to_string(),
            selectors: entry.selectors.iter().map(ToString::to_string).collect(),
            federates_with: entry.federates_with.iter().map(ToString::to_string).collect(),
            admin: entry.admin,
            downstream: entry.downstream,
            store_svid: entry.store_svid,
            hint: entry.hint.to_string(),
            created_at: entry.created_at.seconds(),
            revision_number: entry.revision_number,
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        });
        let bundles = snapshot.bundles.values().map(|bundle| StoredBundle {
            trust_domain: bundle.trust_domain.to_string(),
            x509: bundle
                .x509_authorities
                .iter()
                .map(|authority| (BASE64.encode(&authority.der), authority.tainted))
                .collect(),
            jwt: stored_keys(&bundle.jwt_authorities),
            wit: stored_keys(&bundle.wit_authorities),
            refresh_hint: bundle.refresh_hint,
            sequence_number: bundle.sequence_number,
        });
        let svids = snapshot.svids.iter().map(|(id, svid)| {
            let stored = StoredSvid {
                spiffe_id: svid.spiffe_id.to_string(),
                chain: svid.chain.iter().map(|der| BASE64.encode(der)).collect(),
                key: BASE64.encode(&*svid.key),
                not_before: svid.not_before.seconds(),
                not_after: svid.not_after.seconds(),
            };
            (id.to_string(), stored)
        });
        let jwt_svids = snapshot.jwt_svids.iter().map(|(key, svid)| StoredJwt {
            found_by: key.as_str().to_owned(),
            token: svid.token.to_string(),
            spiffe_id: svid.spiffe_id.to_string(),
            issued_at: svid.issued_at.seconds(),
            expires_at: svid.expires_at.seconds(),
            key_id: svid.key_id.to_string(),
        });
        let wit_svids = snapshot.wit_svids.iter().map(|(id, svid)| StoredWit {
            entry_id: id.to_string(),
            token: svid.token.clone(),
            key: BASE64.encode(svid.key.as_bytes()),
            spiffe_id: svid.spiffe_id.to_string(),
            due_at: svid.due_at.seconds(),
            expires_at: svid.expires_at.seconds(),
            key_id: svid.key_id.to_string(),
            revision: svid.revision,
        });
        Self {
            entries: entries.collect(),
            bundles: bundles.collect(),
            svids: svids.collect(),
            jwt_svids: jwt_svids.collect(),
            wit_svids: wit_svids.collect(),
        }
    }

    pub(super) fn into_snapshot(self) -> Result<Snapshot, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut entries = EntryMap::new();
        for stored in self.entries {
            let entry = stored.into_entry()?;
            entries.insert(entry.id.clone(), Arc::new(entry));
        }
        let mut bundles = BundleMap::new();
        for stored in self.bundles {
            let bundle = stored.into_bundle()?;
            bundles.insert(bundle.trust_domain.clone(), Arc::new(bundle));
        }
        let mut svids = BTreeMap::new();
        for (id, stored) in &self.svids {
            let id: EntryId = id.parse().map_err(|e| text(&e))?;
            let chain = stored
                .chain
                .iter()
                .map(|der| bytes(der).map(Vec::into_boxed_slice))
                .collect::<Result<Vec<_>, _>>()?;
            let spiffe_id = stored.spiffe_id.parse().map_err(|e| text(&e))?;
            let key = Zeroizing::new(bytes(&stored.key)?);
            let validity = [stored.not_before, stored.not_after].map(UnixTime::from_seconds).into();
            svids.insert(id, X509Svid::new(spiffe_id, chain, key, validity));
        }
        let mut jwt_svids = Vec::with_capacity(self.jwt_svids.len());
        for stored in &self.jwt_svids {
            let svid = JwtSvid {
                token: stored.token.as_str().into(),
                spiffe_id: stored.spiffe_id.parse().map_err(|e| text(&e))?,
                issued_at: UnixTime::from_seconds(stored.issued_at),
                expires_at: UnixTime::from_seconds(stored.expires_at),
                key_id: stored.key_id.as_str().into(),
            };
            jwt_svids.push((JwtKey::from_stored(stored.found_by.clone()), svid));
        }
        let mut wit_svids = Vec::with_capacity(self.wit_svids.len());
        for stored in &self.wit_svids {
            let key = Zeroizing::new(bytes(&stored.key)?);
            let svid = WitSvid {
                token: stored.token.clone(),
                key: Zeroizing::new(std::str::from_utf8(&key).map_err(|e| text(&e))?.to_owned()),
                spiffe_id: stored.spiffe_id.parse().map_err(|e| text(&e))?,
                due_at: UnixTime::from_seconds(stored.due_at),
                expires_at: UnixTime::from_seconds(stored.expires_at),
                key_id: stored.key_id.as_str().into(),
                revision: stored.revision,
            };
            wit_svids.push((stored.entry_id.parse().map_err(|e| text(&e))?, Arc::new(svid)));
        }
        Ok(Snapshot { entries, bundles, svids, jwt_svids, wit_svids })
    }

    pub(super) fn size_hint(&self) -> usize {
        let svids: usize = self
            .svids
            .values()
            .map(|svid| 512 + svid.key.len() + svid.chain.iter().map(String::len).sum::<usize>())
            .sum();
        let bundles: usize = self
            .bundles
            .iter()
            .flat_map(|bundle| bundle.x509.iter().map(|(der, _)| der.len() + 64))
            .sum();
        let entries: usize = self
            .entries
            .iter()
            .map(|entry| 512 + entry.selectors.iter().map(|s| s.len() + 8).sum::<usize>())
            .sum();
        // Zero bytes between audiences are written as six characters each.
        let tokens: usize = self
            .jwt_svids
            .iter()
            .map(|jwt| 512 + jwt.token.len() + 2 * jwt.found_by.len() + 6 * 64)
            .sum();
        let proven: usize =
            self.wit_svids.iter().map(|wit| 512 + wit.token.len() + wit.key.len()).sum();
        svids + bundles + entries + tokens + proven + 64 * 1024
    }
}

impl StoredEntry {
    fn into_entry(self) -> Result<AgentEntry, String> {
        let parse_all = |names: Vec<String>| -> Result<Vec<TrustDomain>, String> {
            names.iter().map(|name| name.parse().map_err(|e| format!("{e}"))).collect()
        };
        Ok(AgentEntry {
            id: self.id.parse().map_err(|e| format!("{e}"))?,
            spiffe_id: self.spiffe_id.parse().map_err(|e| format!("{e}"))?,
            selectors: self
                .selectors
                .iter()
                .map(|s| s.parse().map_err(|e| format!("{e}")))
                .collect::<Result<_, _>>()?,
            federates_with: parse_all(self.federates_with)?,
            admin: self.admin,
            downstream: self.downstream,
            store_svid: self.store_svid,
            hint: self.hint.into(),
            created_at: UnixTime::from_seconds(self.created_at),
            revision_number: self.revision_number,
            disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
            jwt_svid_include_jti: self.jwt_svid_include_jti,
        })
    }
}

impl StoredBundle {
    fn into_bundle(self) -> Result<Bundle, String> {
        let trust_domain: TrustDomain = self.trust_domain.parse().map_err(|e| format!("{e}"))?;
        let mut bundle = Bundle::empty(trust_domain);
        for (der, tainted) in self.x509 {
            bundle.x509_authorities.push(X509Authority { der: bytes(&der)?.into(), tainted });
        }
        bundle.jwt_authorities = restored_keys(self.jwt)?;
        bundle.wit_authorities = restored_keys(self.wit)?;
        bundle.refresh_hint = self.refresh_hint;
        bundle.sequence_number = self.sequence_number;
        Ok(bundle)
    }
}

fn stored_keys(keys: &[JwtAuthority]) -> Vec<StoredKey> {
    let stored = keys.iter().map(|key| {
        (
            key.key_id.to_string(),
            BASE64.encode(&key.public_key),
            key.expires_at.seconds(),
            key.tainted,
        )
    });
    stored.collect()
}

fn restored_keys(stored: Vec<StoredKey>) -> Result<Vec<JwtAuthority>, String> {
    let keys = stored.into_iter().map(|(key_id, public_key, expires_at, tainted)| {
        let public_key = bytes(&public_key)?.into();
        let expires_at = UnixTime::from_seconds(expires_at);
        Ok(JwtAuthority { public_key, key_id: key_id.into(), expires_at, tainted })
    });
    keys.collect()
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text).map_err(|error| error.to_string())
}
