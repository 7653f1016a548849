//! Finding the server's keys: by their aliases, and where that is switched on by their tags too.

use std::collections::BTreeMap;

use signet_base::chain;
use signet_pki::key_manager::{KeyStoreError, StoredKey, read_keys};

use super::{Described, Kms, api::Tagged, is_known_spec, names};
use crate::AwsError;

/// How many keys one server may have.
const MAX_OWN: usize = 1_000;

impl Kms {
    /// The keys of this server, one for each name.
    ///
    /// The alias decides which of several it is. With tags, a key that has lost its alias, or never
    /// got it, is taken if there is no other of its name.
    pub(super) async fn find(&self) -> Result<Vec<StoredKey>, KeyStoreError> {
        let failed = |error: AwsError| KeyStoreError::undone(chain(&error));
        let places = self.places().await.map_err(failed)?;
        let kms = self.clone();
        let reads = places.into_iter().map(move |(id, place, has_alias)| {
            let kms = kms.clone();
            async move { kms.read(id, &place, has_alias).await.map_err(failed) }
        });
        let mut found: BTreeMap<String, StoredKey> = BTreeMap::new();
        let take = |key: Option<StoredKey>| {
            let Some(key) = key else { return Ok(()) };
            match found.get(&key.id) {
                Some(other) if (other.made, &other.handle) >= (key.made, &key.handle) => {}
                _ => drop(found.insert(key.id.clone(), key)),
            }
            Ok(())
        };
        read_keys(reads, take).await?;
        Ok(found.into_values().collect())
    }

    /// The names of those keys, the alias or ARN of each, and whether it is an alias.
    async fn places(&self) -> Result<Vec<(String, String, bool)>, AwsError> {
        let tagged = match self.0.settings.by_tags {
            true => self.own_tagged().await?,
            false => Vec::new(),
        };
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for key in tagged {
            match key.tag(names::TAG_KEY) {
                Some(id) => places.entry(id.to_owned()).or_default().push(key.arn),
                None => tracing::warn!(key = key.arn, "A key has no tag {}", names::TAG_KEY),
            }
        }
        let mut with_alias = BTreeMap::new();
        for alias in self.0.api.aliases(None).await? {
            let Some(id) = self.0.names.id_of(&alias.alias_name) else { continue };
            if alias.target_key_id.is_none() {
                let why = format!("alias {} leads to no key; delete it", alias.alias_name);
                return Err(AwsError::Setting(why));
            }
            with_alias.insert(id, alias.alias_name);
        }
        places.retain(|id, _| !with_alias.contains_key(id));
        if places.len() + with_alias.len() > MAX_OWN {
            return Err(AwsError::Setting(format!("this server has more than {MAX_OWN} keys")));
        }
        let aliases = with_alias.into_iter().map(|(id, alias)| (id, alias, true));
        let tagged = places
            .into_iter()
            .flat_map(|(id, arns)| arns.into_iter().map(move |arn| (id.clone(), arn, false)));
        Ok(aliases.chain(tagged).collect())
    }

    /// The key at an alias or ARN. One with an alias must be there and usable: else a new one would
    /// take its place, and nobody could save the old one.
    async fn read(
        &self,
        id: String,
        place: &str,
        has_alias: bool,
    ) -> Result<Option<StoredKey>, AwsError> {
        let described = match self.0.api.describe(place).await {
            Err(error) if error.is_not_found() && !has_alias => return Ok(None),
            described => described?,
        };
        let Described { arn, enabled, key_spec, creation_date, .. } = described;
        if !enabled && has_alias {
            return Err(AwsError::Setting(format!(
                "the key {arn} of alias {place} is disabled or about to be deleted: enable it or \
                 cancel its deletion, or delete the alias and have a new key made"
            )));
        }
        if !enabled {
            return Ok(None);
        }
        if !is_known_spec(&key_spec) {
            return Err(AwsError::Setting(format!("the key {arn} is of another kind, {key_spec}")));
        }
        let public_key = self.0.api.public_key(&arn).await?;
        let made = creation_date as i128;
        Ok(Some(StoredKey { handle: arn, id, public_key, made }))
    }

    /// The keys of this server by their tags.
    pub(super) async fn own_tagged(&self) -> Result<Vec<Tagged>, AwsError> {
        let settings = &self.0.settings;
        let tags = [
            (names::TAG_DOMAIN, settings.trust_domain.as_str()),
            (names::TAG_SERVER, &*settings.server_id),
            (names::TAG_ACTIVE, "true"),
        ];
        self.0.api.tagged(&tags).await
    }

    /// The key that was begun under a handle, whose ARN nobody was told.
    pub(super) async fn find_begun(&self, handle: &str) -> Result<Option<String>, AwsError> {
        if self.0.settings.by_tags {
            for key in self.own_tagged().await? {
                if self.is_begun(&key.arn, handle).await? {
                    return Ok(Some(key.arn));
                }
            }
            return Ok(None);
        }
        for arn in self.0.api.keys().await? {
            if self.is_begun(&arn, handle).await? {
                return Ok(Some(arn));
            }
        }
        Ok(None)
    }

    async fn is_begun(&self, arn: &str, handle: &str) -> Result<bool, AwsError> {
        match self.0.api.describe(arn).await {
            Ok(described) => {
                Ok(self.0.names.handle_of(&described.description).as_deref() == Some(handle))
            }
            // Keys of others may be closed to this server.
            Err(error) if error.is_denied() || error.is_not_found() => {
                tracing::debug!(key = arn, error = chain(&error), "A key cannot be looked at");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
