//! Relationships with foreign trust domains.

use std::{collections::BTreeSet, time::Duration};

use signet_api::{
    convert::{federation_from_pb, federation_to_pb},
    pb::spire::api::{
        server::{
            bundle::v1::{ListFederatedBundlesRequest, bundle_client::BundleClient},
            trustdomain::v1::{
                BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
                BatchUpdateFederationRelationshipRequest, ListFederationRelationshipsRequest,
                trust_domain_client::TrustDomainClient,
            },
        },
        types,
    },
};
use signet_identity::{Bundle, FederationRelationship, TrustDomain};
use tonic::Code;

use super::{Refusal, Server, ServerError};

/// How many are listed at a time.
const PAGE: i32 = 200;
/// The most pages of a list.
const MAX_PAGES: usize = 10_000;

/// A relationship, and the bundle to start with.
pub(crate) type Wanted = (FederationRelationship, Option<Bundle>);

impl Server {
    /// Every relationship of the server: all or nothing.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn list_relationships(&self) -> Result<Vec<FederationRelationship>, ServerError> {
        const METHOD: &str = "ListFederationRelationships";
        let mut all = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let request = ListFederationRelationshipsRequest {
                page_size: PAGE,
                page_token,
                // Bundles are long, and not compared.
                output_mask: Some(types::FederationRelationshipMask {
                    bundle_endpoint_url: true,
                    bundle_endpoint_profile: true,
                    trust_domain_bundle: false,
                }),
            };
            let page = self
                .call(METHOD, None, request, |channel, limit, request| async move {
                    TrustDomainClient::new(channel)
                        .max_decoding_message_size(limit)
                        .list_federation_relationships(request)
                        .await
                })
                .await?;
            for relationship in &page.federation_relationships {
                let read = federation_from_pb(relationship);
                let (relationship, _) = read.map_err(|error| ServerError::Malformed {
                    method: METHOD,
                    why: format!("{}: {error}", relationship.trust_domain),
                })?;
                all.push(relationship);
            }
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
        Err(ServerError::Malformed { method: METHOD, why: "the list has no end".to_owned() })
    }

    /// The foreign trust domains of which the server has a bundle; `None` from a server that does
    /// not say.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn list_federated_bundles(
        &self,
    ) -> Result<Option<BTreeSet<TrustDomain>>, ServerError> {
        const METHOD: &str = "ListFederatedBundles";
        let mut all = BTreeSet::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let request = ListFederatedBundlesRequest {
                page_size: PAGE,
                page_token,
                // Only whose they are.
                output_mask: Some(types::BundleMask {
                    sequence_number: true,
                    ..Default::default()
                }),
            };
            let page = self
                .call(METHOD, None, request, |channel, limit, request| async move {
                    BundleClient::new(channel)
                        .max_decoding_message_size(limit)
                        .list_federated_bundles(request)
                        .await
                })
                .await;
            let page = match page {
                Err(error) if error.code() == Some(Code::Unimplemented) => return Ok(None),
                page => page?,
            };
            for bundle in &page.bundles {
                let name = bundle.trust_domain.parse().map_err(|error| ServerError::Malformed {
                    method: METHOD,
                    why: format!("{}: {error}", bundle.trust_domain),
                })?;
                all.insert(name);
            }
            if page.next_page_token.is_empty() {
                return Ok(Some(all));
            }
            page_token = page.next_page_token;
        }
        Err(ServerError::Malformed { method: METHOD, why: "the list has no end".to_owned() })
    }

    /// Creates relationships: what came of each, in order.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn create_relationships(
        &self,
        wanted: &[Wanted],
        deadline: Duration,
    ) -> Result<Vec<Result<(), Refusal>>, ServerError> {
        const METHOD: &str = "BatchCreateFederationRelationship";
        let request = BatchCreateFederationRelationshipRequest {
            federation_relationships: messages(wanted),
            output_mask: Some(types::FederationRelationshipMask::default()),
        };
        let answer = self
            .call(METHOD, Some(deadline), request, |channel, limit, request| async move {
                TrustDomainClient::new(channel)
                    .max_decoding_message_size(limit)
                    .batch_create_federation_relationship(request)
                    .await
            })
            .await?;
        statuses(METHOD, wanted.len(), answer.results.into_iter().map(|one| one.status))
    }

    /// Writes relationships over those of the same trust domains.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn update_relationships(
        &self,
        wanted: &[Wanted],
        deadline: Duration,
    ) -> Result<Vec<Result<(), Refusal>>, ServerError> {
        const METHOD: &str = "BatchUpdateFederationRelationship";
        let request = BatchUpdateFederationRelationshipRequest {
            federation_relationships: messages(wanted),
            input_mask: None,
            output_mask: Some(types::FederationRelationshipMask::default()),
        };
        let answer = self
            .call(METHOD, Some(deadline), request, |channel, limit, request| async move {
                TrustDomainClient::new(channel)
                    .max_decoding_message_size(limit)
                    .batch_update_federation_relationship(request)
                    .await
            })
            .await?;
        statuses(METHOD, wanted.len(), answer.results.into_iter().map(|one| one.status))
    }

    /// Deletes the relationships with these trust domains.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn delete_relationships(
        &self,
        trust_domains: &[TrustDomain],
        deadline: Duration,
    ) -> Result<Vec<Result<(), Refusal>>, ServerError> {
        const METHOD: &str = "BatchDeleteFederationRelationship";
        let request = BatchDeleteFederationRelationshipRequest {
            trust_domains: trust_domains.iter().map(|one| one.as_str().to_owned()).collect(),
        };
        let answer = self
            .call(METHOD, Some(deadline), request, |channel, limit, request| async move {
                TrustDomainClient::new(channel)
                    .max_decoding_message_size(limit)
                    .batch_delete_federation_relationship(request)
                    .await
            })
            .await?;
        statuses(METHOD, trust_domains.len(), answer.results.into_iter().map(|one| one.status))
    }
}

fn messages(wanted: &[Wanted]) -> Vec<types::FederationRelationship> {
    wanted
        .iter()
        .map(|(relationship, bundle)| federation_to_pb(relationship, bundle.as_ref(), None))
        .collect()
}

fn statuses(
    method: &'static str,
    expected: usize,
    results: impl ExactSizeIterator<Item = Option<types::Status>>,
) -> Result<Vec<Result<(), Refusal>>, ServerError> {
    if results.len() != expected {
        let why = format!("{} results for {expected} relationships", results.len());
        return Err(ServerError::Malformed { method, why });
    }
    Ok(results
        .map(|status| {
            let status = status.unwrap_or_default();
            match Code::from(status.code) {
                Code::Ok => Ok(()),
                code => Err(Refusal { code, message: status.message }),
            }
        })
        .collect())
}
