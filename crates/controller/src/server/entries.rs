//! Registration entries.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use signet_api::pb::{
    signet::api::server::tenancy::v1::{self as tenancy, tenancy_client::TenancyClient},
    spire::api::{
        server::entry::v1::{
            BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest,
            ListEntriesRequest, entry_client::EntryClient,
        },
        types::{self, EntryMask},
    },
};
use signet_identity::{EntryId, EntrySpec};
use tonic::Code;

use super::{Server, ServerError};
use crate::fingerprint::{BodyParts, EntryBody, EntryKey};

/// How many entries are listed at a time, as spire-controller-manager does.
const PAGE: i32 = 200;
/// The most pages of a list: a server that never ends is not believed.
const MAX_PAGES: usize = 100_000;
/// The path below which the parents of join tokens' entries lie.
const JOIN_TOKEN_PARENTS: &str = "/spire/agent/join_token/";

/// An entry that the server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its ID.
    pub id: EntryId,
    /// Which entry it is.
    pub key: EntryKey,
    /// What it says.
    pub body: EntryBody,
    /// Whether it is that of a join token.
    pub join_token: bool,
}

/// An entry to create.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Its ID, when it is not the server that makes one.
    pub id: Option<String>,
    /// What it says.
    pub draft: EntrySpec,
}

/// An entry to write over another.
#[derive(Clone, Debug)]
pub struct UpdatedEntry {
    /// The ID of the other.
    pub id: EntryId,
    /// What it will say.
    pub draft: EntrySpec,
}

/// Why the server did not do a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// In its words.
    pub message: String,
}

/// What came of one entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it was done.
    pub result: Result<(), Refusal>,
    /// The entry as the server holds it now, if it says.
    pub held: Option<Held>,
}

impl Server {
    /// Whose these entries are, as far as the server knows tenants.
    pub(super) async fn owners(
        &self,
        ids: impl Iterator<Item = String>,
    ) -> Result<BTreeMap<String, tenancy::EntryTenant>, ServerError> {
        const METHOD: &str = "GetEntryTenants";
        let request = tenancy::GetEntryTenantsRequest { ids: ids.collect() };
        let answer = self
            .call(METHOD, None, request, |channel, limit, request| async move {
                TenancyClient::new(channel)
                    .max_decoding_message_size(limit)
                    .get_entry_tenants(request)
                    .await
            })
            .await;
        let known = !matches!(&answer, Err(error) if error.code() == Some(Code::Unimplemented));
        self.knows_tenants.store(known, Ordering::Relaxed);
        match answer {
            Ok(answer) => Ok(answer.tenants),
            Err(_) if !known => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    fn knows_tenants(&self) -> bool {
        self.knows_tenants.load(Ordering::Relaxed)
    }

    /// Every entry of the server. All or nothing: a list that breaks off is an error.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn list_entries(&self) -> Result<Vec<Held>, ServerError> {
        const METHOD: &str = "ListEntries";
        let mut all = Vec::new();
        let mut asks = true;
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let request = ListEntriesRequest {
                page_size: PAGE,
                page_token,
                output_mask: Some(mask()),
                ..Default::default()
            };
            let page = self
                .call(METHOD, None, request, |channel, limit, request| async move {
                    EntryClient::new(channel)
                        .max_decoding_message_size(limit)
                        .list_entries(request)
                        .await
                })
                .await?;
            let owners = match asks {
                true => self.owners(page.entries.iter().map(|entry| entry.id.clone())).await?,
                false => BTreeMap::new(),
            };
            // A server of another kind is asked once.
            asks = self.knows_tenants();
            for entry in &page.entries {
                all.push(held(METHOD, entry, owners.get(&entry.id))?);
            }
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
        Err(ServerError::Malformed { method: METHOD, why: "the list has no end".to_owned() })
    }

    /// Creates entries: what came of each, in order.
    ///
    /// # Errors
    /// [`ServerError`]; what took place is then unknown.
    pub async fn create_entries(
        &self,
        entries: &[NewEntry],
        deadline: Duration,
    ) -> Result<Vec<Outcome>, ServerError> {
        const METHOD: &str = "BatchCreateEntry";
        let expected = entries.len();
        if self.knows_tenants() {
            let entries = entries.iter().map(|new| owned(new.id.as_deref(), &new.draft)).collect();
            let request = tenancy::BatchCreateEntryRequest { entries };
            let answer = self
                .call(METHOD, Some(deadline), request, |channel, limit, request| async move {
                    TenancyClient::new(channel)
                        .max_decoding_message_size(limit)
                        .batch_create_entry(request)
                        .await
                })
                .await?;
            let results = answer.results.into_iter().map(|one| (one.status, one.entry));
            return outcomes(METHOD, expected, results);
        }
        if entries.iter().any(|new| new.draft.tenant.is_some()) {
            return Err(no_tenants(METHOD));
        }
        let request = BatchCreateEntryRequest {
            entries: entries.iter().map(|new| message(new.id.as_deref(), &new.draft)).collect(),
            output_mask: Some(mask()),
        };
        let answer = self
            .call(METHOD, Some(deadline), request, |channel, limit, request| async move {
                EntryClient::new(channel)
                    .max_decoding_message_size(limit)
                    .batch_create_entry(request)
                    .await
            })
            .await?;
        let results = answer.results.into_iter().map(|one| (one.status, one.entry.map(unowned)));
        outcomes(METHOD, expected, results)
    }

    /// Writes entries over others: what came of each, in order.
    ///
    /// # Errors
    /// [`ServerError`]; what took place is then unknown.
    pub async fn update_entries(
        &self,
        entries: &[UpdatedEntry],
        deadline: Duration,
    ) -> Result<Vec<Outcome>, ServerError> {
        const METHOD: &str = "BatchUpdateEntry";
        let expected = entries.len();
        if self.knows_tenants() {
            let entries =
                entries.iter().map(|one| owned(Some(one.id.as_str()), &one.draft)).collect();
            let request = tenancy::BatchUpdateEntryRequest { entries, input_mask: None };
            let answer = self
                .call(METHOD, Some(deadline), request, |channel, limit, request| async move {
                    TenancyClient::new(channel)
                        .max_decoding_message_size(limit)
                        .batch_update_entry(request)
                        .await
                })
                .await?;
            let results = answer.results.into_iter().map(|one| (one.status, one.entry));
            return outcomes(METHOD, expected, results);
        }
        if entries.iter().any(|one| one.draft.tenant.is_some()) {
            return Err(no_tenants(METHOD));
        }
        let request = BatchUpdateEntryRequest {
            entries: entries.iter().map(|one| message(Some(one.id.as_str()), &one.draft)).collect(),
            output_mask: Some(mask()),
            input_mask: None,
        };
        let answer = self
            .call(METHOD, Some(deadline), request, |channel, limit, request| async move {
                EntryClient::new(channel)
                    .max_decoding_message_size(limit)
                    .batch_update_entry(request)
                    .await
            })
            .await?;
        let results = answer.results.into_iter().map(|one| (one.status, one.entry.map(unowned)));
        outcomes(METHOD, expected, results)
    }

    /// Deletes entries: what came of each, in order.
    ///
    /// # Errors
    /// [`ServerError`]; what took place is then unknown.
    pub async fn delete_entries(
        &self,
        ids: &[EntryId],
        deadline: Duration,
    ) -> Result<Vec<Outcome>, ServerError> {
        const METHOD: &str = "BatchDeleteEntry";
        let request =
            BatchDeleteEntryRequest { ids: ids.iter().map(|id| id.as_str().to_owned()).collect() };
        let answer = self
            .call(METHOD, Some(deadline), request, |channel, limit, request| async move {
                EntryClient::new(channel)
                    .max_decoding_message_size(limit)
                    .batch_delete_entry(request)
                    .await
            })
            .await?;
        let results = answer.results.into_iter().map(|one| (one.status, None));
        outcomes(METHOD, ids.len(), results)
    }
}

/// A SPIRE server cannot keep a tenant: without it the entry would be everybody's.
fn no_tenants(method: &'static str) -> ServerError {
    let why = "the server keeps no tenants, and resources name some".to_owned();
    ServerError::Malformed { method, why }
}

/// What a server that keeps no tenants answers.
fn unowned(entry: types::Entry) -> tenancy::TenantEntry {
    tenancy::TenantEntry { entry: Some(entry), tenant: None }
}

fn outcomes(
    method: &'static str,
    expected: usize,
    results: impl ExactSizeIterator<Item = (Option<types::Status>, Option<tenancy::TenantEntry>)>,
) -> Result<Vec<Outcome>, ServerError> {
    if results.len() != expected {
        let why = format!("{} results for {expected} entries", results.len());
        return Err(ServerError::Malformed { method, why });
    }
    results
        .map(|(status, entry)| {
            let status = status.unwrap_or_default();
            let code = Code::from(status.code);
            let result = match code {
                Code::Ok => Ok(()),
                code => Err(Refusal { code, message: status.message }),
            };
            let held = match entry {
                Some(tenancy::TenantEntry { entry: Some(entry), tenant })
                    if !entry.id.is_empty() =>
                {
                    Some(held(method, &entry, tenant.as_ref())?)
                }
                _ => None,
            };
            Ok(Outcome { result, held })
        })
        .collect()
}

/// What is kept of an entry.
pub(super) fn held(
    method: &'static str,
    entry: &types::Entry,
    owner: Option<&tenancy::EntryTenant>,
) -> Result<Held, ServerError> {
    let id = entry.id.parse().map_err(|error| ServerError::Malformed {
        method,
        why: format!("entry ID {:?}: {error}", entry.id),
    })?;
    let text = |id: Option<&types::Spiffeid>| {
        id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
    };
    let selectors = entry.selectors.iter();
    let selectors = selectors.map(|one| (one.r#type.as_str(), one.value.as_str())).collect();
    let from_token =
        entry.parent_id.as_ref().is_some_and(|parent| parent.path.starts_with(JOIN_TOKEN_PARENTS));
    Ok(Held {
        id,
        key: EntryKey::new(
            &text(entry.spiffe_id.as_ref()),
            &text(entry.parent_id.as_ref()),
            selectors,
        ),
        body: EntryBody::new(BodyParts {
            x509_svid_ttl: entry.x509_svid_ttl,
            jwt_svid_ttl: entry.jwt_svid_ttl,
            federates_with: entry.federates_with.iter().map(String::as_str).collect(),
            admin: entry.admin,
            downstream: entry.downstream,
            store_svid: entry.store_svid,
            dns_names: entry.dns_names.iter().map(String::as_str).collect(),
            hint: &entry.hint,
            tenant: owner.map(|owner| owner.tenant.as_str()).unwrap_or_default(),
            tenant_claim: owner.is_some_and(|owner| owner.jwt_svid_tenant_claim),
        }),
        join_token: from_token && entry.selectors.iter().any(|one| one.r#type == "spiffe_id"),
    })
}

fn owned(id: Option<&str>, draft: &EntrySpec) -> tenancy::TenantEntry {
    tenancy::TenantEntry {
        entry: Some(message(id, draft)),
        tenant: Some(tenancy::EntryTenant {
            tenant: draft.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
            jwt_svid_tenant_claim: draft.jwt_svid_tenant_claim,
        }),
    }
}

fn message(id: Option<&str>, draft: &EntrySpec) -> types::Entry {
    let id_message = |id: &signet_identity::SpiffeId| types::Spiffeid {
        trust_domain: id.trust_domain().as_str().to_owned(),
        path: id.path().to_owned(),
    };
    types::Entry {
        id: id.unwrap_or_default().to_owned(),
        spiffe_id: Some(id_message(&draft.spiffe_id)),
        parent_id: Some(id_message(&draft.parent_id)),
        selectors: signet_api::convert::selectors_to_pb(&draft.selectors),
        x509_svid_ttl: draft.x509_svid_ttl,
        jwt_svid_ttl: draft.jwt_svid_ttl,
        federates_with: draft.federates_with.iter().map(|td| td.as_str().to_owned()).collect(),
        admin: draft.admin,
        downstream: draft.downstream,
        dns_names: draft.dns_names.clone(),
        store_svid: draft.store_svid,
        hint: draft.hint.clone(),
        ..Default::default()
    }
}

/// The fields that are read.
fn mask() -> EntryMask {
    EntryMask {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        dns_names: true,
        store_svid: true,
        jwt_svid_ttl: true,
        hint: true,
        ..Default::default()
    }
}
