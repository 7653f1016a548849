//! Federation relationships.

use std::{fmt, iter, sync::Arc};

use signet_api::convert::FederationChange;
use signet_audit::Field;
use signet_base::{SharedClock, chain};
use signet_identity::{Bundle, BundleEndpointProfile, FederationRelationship, TrustDomain};
use signet_store::{CreateOutcome, FederationUpdate, Page, PageRequest, Store};

use super::{
    Call,
    authorization::Action,
    error::{Error, ErrorKind},
    outcomes,
    parts::Parts,
    settle,
};
use crate::{
    cache::{Cache, CachedBundle},
    federation::{Federator, RefreshError, Status, foreign},
};

/// What can be done with federation relationships. Cheap to clone.
#[derive(Clone)]
pub struct Federation {
    trust_domain: TrustDomain,
    store: Store,
    cache: Arc<Cache>,
    clock: SharedClock,
    federator: Federator,
}

/// A relationship with the bundle of its trust domain, as far as it is known.
#[derive(Clone, Debug)]
pub struct Related {
    /// The relationship.
    pub relationship: FederationRelationship,
    /// The bundle.
    pub bundle: Option<Arc<CachedBundle>>,
}

impl Federation {
    /// Those of a server with these parts.
    pub fn new(parts: &Parts) -> Self {
        Self {
            trust_domain: parts.trust_domain.clone(),
            store: parts.store.clone(),
            cache: Arc::clone(&parts.cache),
            clock: Arc::clone(&parts.clock),
            federator: parts.federator.clone(),
        }
    }

    /// The relationships of the API, page by page. Those of the configuration file are left out, as
    /// in SPIRE: whoever keeps the API's in step with something else would delete them.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn list(&self, call: &Call, page: PageRequest) -> Result<Page<Related>, Error> {
        call.may(Action::ReadFederation)?;
        let listed = self
            .store
            .list_federations(page)
            .await
            .map_err(|error| Error::store("failed to list federation relationships", &error))?;
        self.cache.fresh().await?;
        let seen =
            listed.items.into_iter().filter(|it| call.sees_domain(&self.cache, &it.trust_domain));
        let items = seen.map(|relationship| self.related(relationship));
        Ok(Page { items: items.collect(), next: listed.next })
    }

    /// How fetching goes for one trust domain, or for all, with the bundles that are held.
    ///
    /// # Errors
    /// `NotFound` when there is no relationship with that one; or when the store fails.
    pub async fn statuses(
        &self,
        call: &Call,
        only: Option<&TrustDomain>,
    ) -> Result<Vec<(Status, Option<Arc<CachedBundle>>)>, Error> {
        call.may(Action::ReadFederation)?;
        let listed = self.federator.relist().await;
        listed.map_err(|error| Error::store("failed to list federation relationships", &error))?;
        let found = match only {
            None => self.federator.statuses(),
            Some(only) => {
                let found = self.federator.status(only);
                let found = found.filter(|_| call.sees_domain(&self.cache, only));
                vec![found.ok_or_else(|| {
                    Error::not_found(format!("no relationship with trust domain \"{only}\""))
                })?]
            }
        };
        let sees =
            |status: &Status| call.sees_domain(&self.cache, &status.relationship.trust_domain);
        let found = found.into_iter().filter(sees);
        let with_bundle = |status: Status| {
            let bundle = self.cache.bundle(&status.relationship.trust_domain);
            (status, bundle)
        };
        Ok(found.map(with_bundle).collect())
    }

    /// The relationship with a trust domain; that of the configuration file, if both have one.
    ///
    /// # Errors
    /// `NotFound`; or when the store fails.
    pub async fn get(&self, call: &Call, trust_domain: &TrustDomain) -> Result<Related, Error> {
        call.may(Action::ReadFederation)?;
        if let Some(fixed) = self.federator.fixed(trust_domain) {
            self.cache.fresh().await?;
            return Ok(self.related(fixed.clone()));
        }
        let found = self
            .store
            .federation(trust_domain)
            .await
            .map_err(|error| Error::store("failed to fetch federation relationship", &error))?;
        self.cache.fresh().await?;
        let found = found.filter(|it| call.sees_domain(&self.cache, &it.trust_domain));
        let found =
            found.ok_or_else(|| Error::not_found("federation relationship does not exist"))?;
        Ok(self.related(found))
    }

    /// That it is not with the server itself.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn must_be_foreign(&self, trust_domain: &TrustDomain) -> Result<(), Error> {
        match *trust_domain == self.trust_domain {
            true => Err(Error::invalid(
                "unable to create federation relationship for server trust domain",
            )),
            false => Ok(()),
        }
    }

    /// Creates relationships in one transaction; the answers are in order.
    pub async fn create(
        &self,
        call: &Call,
        new: Vec<(FederationRelationship, Option<Bundle>)>,
    ) -> Vec<Result<Related, Error>> {
        const FAILED: &str = "failed to create federation relationship";
        let mut good = Vec::with_capacity(new.len());
        let mut items = Vec::with_capacity(new.len());
        for (relationship, bundle) in new {
            let about = relationship_fields(&relationship);
            let admitted = call
                .may(Action::ManageFederation)
                .and_then(|()| self.must_be_foreign(&relationship.trust_domain))
                .and_then(|()| admitted(bundle));
            items.push((about, admitted.map(|bundle| good.push((relationship, bundle)))));
        }
        let asked = good.len();
        let stored = self.store.create_federations(good, self.clock.unix()).await;
        settle(&self.cache).await;
        let outcomes = outcomes(asked, FAILED, stored).into_iter().map(|outcome| {
            outcome.and_then(|outcome| match outcome {
                CreateOutcome::Created(relationship) => Ok(relationship),
                // The API promises this kind; SPIRE answers Internal.
                CreateOutcome::Exists => Err(Error::new(ErrorKind::Exists, FAILED)
                    .because("federation relationship already exists")),
            })
        });
        self.answered(call, items, outcomes)
    }

    /// Changes relationships in one transaction; the answers are in order.
    pub async fn update(
        &self,
        call: &Call,
        changes: Vec<FederationChange>,
    ) -> Vec<Result<Related, Error>> {
        const FAILED: &str = "failed to update federation relationship";
        let mut good = Vec::with_capacity(changes.len());
        let mut items = Vec::with_capacity(changes.len());
        for mut change in changes {
            let about = change_fields(&change);
            let admitted =
                call.may(Action::ManageFederation).and_then(|()| admitted(change.bundle.take()));
            items.push((about, admitted.map(|bundle| good.push((change, bundle)))));
        }
        let asked = good.len();
        let updates = good.into_iter().map(|(change, bundle)| {
            let trust_domain = change.trust_domain.clone();
            FederationUpdate::new(
                trust_domain,
                move |relationship| change.apply(relationship),
                bundle,
            )
        });
        let stored = self.store.update_federations(updates.collect(), self.clock.unix()).await;
        settle(&self.cache).await;
        let outcomes = outcomes(asked, FAILED, stored).into_iter().map(|outcome| {
            outcome.and_then(|relationship| {
                relationship.ok_or_else(|| {
                    Error::not_found(format!("{FAILED}: federation relationship does not exist"))
                })
            })
        });
        self.answered(call, items, outcomes)
    }

    /// Deletes relationships in one transaction; the answers are in order.
    pub async fn delete(
        &self,
        call: &Call,
        trust_domains: Vec<TrustDomain>,
    ) -> Vec<Result<(), Error>> {
        const FAILED: &str = "failed to delete federation relationship";
        if let Err(error) = call.may(Action::ManageFederation) {
            return vec![Err(error); trust_domains.len()];
        }
        let asked = trust_domains.clone();
        let stored = self.store.delete_federations(trust_domains, self.clock.unix()).await;
        settle(&self.cache).await;
        let results = outcomes(asked.len(), FAILED, stored).into_iter().zip(asked);
        results
            .map(|(outcome, trust_domain)| {
                let result = outcome.and_then(|deleted| match deleted {
                    true => Ok(()),
                    false => Err(Error::not_found("federation relationship not found")),
                });
                call.audit.item(&result, || vec![Field::TrustDomainId(trust_domain.to_string())]);
                result
            })
            .collect()
    }

    /// Fetches the bundle of a trust domain from its endpoint now; says whether it has changed.
    /// `accept_older` takes one whose sequence number is smaller than that of the one held.
    ///
    /// # Errors
    /// `NotFound`; `Internal` when the endpoint gave none that can be used.
    pub async fn refresh(
        &self,
        call: &Call,
        trust_domain: &TrustDomain,
        accept_older: bool,
    ) -> Result<bool, Error> {
        call.may(Action::RefreshFederation)?;
        let refreshed = self.federator.refresh(trust_domain, accept_older).await;
        let changed = refreshed.map_err(|error| match error {
            RefreshError::NoRelationship(_) => Error::not_found(error.to_string()),
            error => Error::internal("failed to refresh bundle").because(chain(&error)),
        })?;
        settle(&self.cache).await;
        Ok(changed)
    }

    /// A token was signed by a key of `trust_domain` that its bundle does not have: it is fetched
    /// soon, unless that was just done.
    ///
    /// # Errors
    /// [`Error`] when the caller may not.
    pub fn report_unknown_key(&self, call: &Call, trust_domain: &TrustDomain) -> Result<(), Error> {
        call.may(Action::ReportUnknownKey)?;
        self.federator.demand(trust_domain);
        Ok(())
    }

    fn related(&self, relationship: FederationRelationship) -> Related {
        let bundle = self.cache.bundle(&relationship.trust_domain);
        Related { relationship, bundle }
    }

    fn answered(
        &self,
        call: &Call,
        items: Vec<(Vec<Field>, Result<(), Error>)>,
        mut outcomes: impl Iterator<Item = Result<FederationRelationship, Error>>,
    ) -> Vec<Result<Related, Error>> {
        let lost = || Err(Error::internal("no outcome"));
        let results = items.into_iter().map(|(about, admitted)| {
            let result = admitted.and_then(|()| outcomes.next().unwrap_or_else(lost));
            call.audit.item(&result, || about);
            let relationship = result?;
            // Tells the operator when the endpoint's certificate cannot be verified yet.
            if let Some(endpoint_spiffe_id) = self.lacks_bundle_of_endpoint(&relationship) {
                tracing::warn!(
                    endpoint_spiffe_id = %endpoint_spiffe_id,
                    "bundle not found for the endpoint SPIFFE ID trust domain"
                );
            }
            Ok(self.related(relationship))
        });
        results.collect()
    }

    /// Whom the endpoint has to prove to be, if there is no bundle to verify that with.
    fn lacks_bundle_of_endpoint<'a>(
        &self,
        relationship: &'a FederationRelationship,
    ) -> Option<&'a signet_identity::SpiffeId> {
        let endpoint = relationship.profile.endpoint_spiffe_id();
        endpoint.filter(|id| self.cache.bundle(id.trust_domain()).is_none())
    }
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Federation(..)")
    }
}

fn admitted(bundle: Option<Bundle>) -> Result<Option<Bundle>, Error> {
    bundle.map(foreign::accept).transpose().map_err(|why| {
        Error::invalid("failed to convert federation relationship")
            .because(format_args!("failed to parse bundle: {why}"))
    })
}

fn relationship_fields(relationship: &FederationRelationship) -> Vec<Field> {
    let mut fields = vec![
        Field::TrustDomainId(relationship.trust_domain.to_string()),
        Field::BundleEndpointUrl(relationship.bundle_endpoint_url.clone()),
    ];
    fields.extend(profile_fields(&relationship.profile));
    fields
}

fn change_fields(change: &FederationChange) -> Vec<Field> {
    let mut fields = vec![Field::TrustDomainId(change.trust_domain.to_string())];
    fields.extend(change.bundle_endpoint_url.clone().map(Field::BundleEndpointUrl));
    fields.extend(change.profile.iter().flat_map(profile_fields));
    fields
}

fn profile_fields(profile: &BundleEndpointProfile) -> Vec<Field> {
    let endpoint = profile.endpoint_spiffe_id();
    iter::once(Field::BundleEndpointProfile(profile.name()))
        .chain(endpoint.map(|id| Field::EndpointSpiffeId(id.to_string())))
        .collect()
}
