//! Trust bundles: the server's own and those of others.

use std::{fmt, sync::Arc, time::Duration};

use signet_audit::Field;
use signet_authority::{Authority, AuthorityKind};
use signet_base::{SharedClock, chain};
use signet_identity::{Bundle, JwtAuthority, TrustDomain};
use signet_pki::digest;
use signet_store::{
    BundleUpdate, CreateOutcome, DeleteBundleMode, DeleteBundleOutcome, Page, PageRequest, Store,
};

use super::{
    Call,
    authorities::must_be_on,
    authorization::Action,
    error::{Error, ErrorKind},
    outcomes,
    parts::Parts,
    settle,
};
use crate::{
    cache::{Cache, CachedBundle},
    federation::foreign,
    limits::{Limit, Limits},
};

/// What can be done with bundles. Cheap to clone.
#[derive(Clone)]
pub struct Bundles {
    trust_domain: TrustDomain,
    store: Store,
    cache: Arc<Cache>,
    clock: SharedClock,
    max_staleness: Duration,
    authority: Authority,
    limits: Limits,
}

/// Which parts of a bundle an update sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleParts {
    /// The X.509 authorities.
    pub x509_authorities: bool,
    /// The JWT authorities.
    pub jwt_authorities: bool,
    /// Whether the WIT authorities change.
    pub wit_authorities: bool,
    /// The refresh hint.
    pub refresh_hint: bool,
    /// The sequence number.
    pub sequence_number: bool,
}

/// What is not done with the server's own bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignOnly {
    /// To create it.
    Create,
    /// To delete it.
    Delete,
    /// To get it as one of others.
    Get,
    /// To set it.
    Set,
    /// To update it.
    Update,
}

impl Bundles {
    /// Those of a server with these parts.
    pub fn new(parts: &Parts) -> Self {
        Self {
            trust_domain: parts.trust_domain.clone(),
            store: parts.store.clone(),
            cache: Arc::clone(&parts.cache),
            clock: Arc::clone(&parts.clock),
            max_staleness: parts.rules.max_staleness,
            authority: parts.authority.clone(),
            limits: parts.limits.clone(),
        }
    }

    /// The server's own trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// How many bundles there are, the own one included.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn count(&self, call: &Call) -> Result<u64, Error> {
        call.may(Action::ReadBundles)?;
        let counted = self.store.count_bundles().await;
        counted.map_err(|error| Error::store("failed to count bundles", &error))
    }

    /// The own bundle, as of now.
    ///
    /// # Errors
    /// `NotFound` as long as there is none; `Unavailable` when what is known may be too old.
    pub async fn own(&self, call: &Call) -> Result<Arc<CachedBundle>, Error> {
        call.may(Action::ReadBundle)?;
        call.about(Field::TrustDomainId(self.trust_domain.to_string()));
        self.cache.fresh_or_away(self.max_staleness).await?;
        self.cache.own_bundle().ok_or_else(|| Error::not_found("bundle not found"))
    }

    /// Adds authorities to the own bundle; the answer is the whole.
    ///
    /// # Errors
    /// `Invalid` when one is no certificate or key; or when the store fails.
    pub async fn append(&self, call: &Call, mut bundle: Bundle) -> Result<Bundle, Error> {
        call.may(Action::AppendBundle)?;
        call.about(Field::X509AuthoritiesSha256(fingerprints(&bundle)));
        foreign::check_authorities(&bundle)
            .map_err(|why| Error::invalid("failed to convert authorities").because(why))?;
        foreign::untaint(&mut bundle);
        let bundle = self.store.append_bundle(bundle, self.clock.unix()).await;
        let bundle = bundle.map_err(|error| Error::store("failed to append bundle", &error))?;
        settle(&self.cache).await;
        Ok(bundle)
    }

    /// That the caller may publish a key now.
    ///
    /// # Errors
    /// `Exhausted`.
    pub async fn may_publish(&self, call: &Call) -> Result<(), Error> {
        call.may(Action::PublishAuthority)?;
        let principal = &call.principal;
        self.limits.acquire(principal, Limit::PublishKey, 1, "key publishing").await
    }

    /// Adds the JWT key of a downstream server to the own bundle; the answer is all keys.
    ///
    /// # Errors
    /// `Invalid` when it is no key; or when it cannot be published.
    pub async fn publish_jwt(
        &self,
        call: &Call,
        mut key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, Error> {
        call.may(Action::PublishAuthority)?;
        key.tainted = false;
        foreign::check_key(&key, "JWT")
            .map_err(|why| Error::invalid("invalid JWT authority").because(why))?;
        let all =
            self.authority.publish_jwt_key(key).await.map_err(|error| {
                Error::internal("failed to publish JWT key").because(chain(&error))
            })?;
        settle(&self.cache).await;
        Ok(all)
    }

    /// Adds the WIT key of a downstream server to the own bundle; the answer is all keys.
    ///
    /// # Errors
    /// `Unsupported` when WIT-SVIDs are off; `Invalid` when it is no key; or when it cannot be
    /// published.
    pub async fn publish_wit(
        &self,
        call: &Call,
        mut key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, Error> {
        call.may(Action::PublishAuthority)?;
        must_be_on(&self.authority, AuthorityKind::Wit)?;
        key.tainted = false;
        foreign::check_key(&key, "WIT")
            .map_err(|why| Error::invalid("invalid WIT authority").because(why))?;
        let all =
            self.authority.publish_wit_key(key).await.map_err(|error| {
                Error::internal("failed to publish WIT key").because(chain(&error))
            })?;
        settle(&self.cache).await;
        Ok(all)
    }

    /// That SVIDs of this kind are on.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn must_be_on(&self, kind: AuthorityKind) -> Result<(), Error> {
        must_be_on(&self.authority, kind)
    }

    /// The bundles of others, page by page. The own one counts in a page and is left out, as in
    /// SPIRE.
    ///
    /// # Errors
    /// [`Error`] when the store fails.
    pub async fn list(&self, call: &Call, page: PageRequest) -> Result<Page<Bundle>, Error> {
        call.may(Action::ReadBundles)?;
        let listed = self.store.list_bundles(page).await;
        let mut listed = listed.map_err(|error| Error::store("failed to list bundles", &error))?;
        listed.items.retain(|bundle| {
            bundle.trust_domain != self.trust_domain
                && call.sees_domain(&self.cache, &bundle.trust_domain)
        });
        Ok(listed)
    }

    /// The bundle of another trust domain, as of now.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when what is known may be too old.
    pub async fn foreign(
        &self,
        call: &Call,
        trust_domain: &TrustDomain,
    ) -> Result<Arc<CachedBundle>, Error> {
        call.may(Action::ReadFederatedBundle)?;
        self.must_be_foreign(trust_domain, ForeignOnly::Get)?;
        self.cache.fresh_or_away(self.max_staleness).await?;
        let seen = call.sees_domain(&self.cache, trust_domain);
        let bundle = seen.then(|| self.cache.bundle(trust_domain)).flatten();
        bundle.ok_or_else(|| Error::not_found("bundle not found"))
    }

    /// That it is not the server's own `trust_domain`, which is closed to `doing`.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn must_be_foreign(
        &self,
        trust_domain: &TrustDomain,
        doing: ForeignOnly,
    ) -> Result<(), Error> {
        if *trust_domain != self.trust_domain {
            return Ok(());
        }
        let own = "for the server's own trust domain is not allowed";
        Err(Error::invalid(match doing {
            ForeignOnly::Create => format!("creating a federated bundle {own}"),
            ForeignOnly::Delete => {
                "removing the bundle for the server trust domain is not allowed".to_owned()
            }
            ForeignOnly::Get => format!("getting a federated bundle {own}"),
            ForeignOnly::Set => format!("setting a federated bundle {own}"),
            ForeignOnly::Update => format!("updating a federated bundle {own}"),
        }))
    }

    /// Creates bundles of others in one transaction; the answers are in order.
    pub async fn create(&self, call: &Call, bundles: Vec<Bundle>) -> Vec<Result<Bundle, Error>> {
        const FAILED: &str = "unable to create bundle";
        let (good, batch) = self.admitted(call, bundles, ForeignOnly::Create);
        let asked = good.len();
        let stored = self.store.create_bundles(good, self.clock.unix()).await;
        settle(&self.cache).await;
        let results = outcomes(asked, FAILED, stored).into_iter().map(|outcome| {
            outcome.and_then(|outcome| match outcome {
                CreateOutcome::Created(bundle) => Ok(bundle),
                CreateOutcome::Exists => {
                    Err(Error::new(ErrorKind::Exists, "bundle already exists"))
                }
            })
        });
        let results = batch.answered(call, results);
        set_lines(&results, "Federated bundle created");
        results
    }

    /// Sets the `parts` of bundles of others in one transaction; the answers are in order.
    pub async fn update(
        &self,
        call: &Call,
        bundles: Vec<Bundle>,
        parts: BundleParts,
    ) -> Vec<Result<Bundle, Error>> {
        const FAILED: &str = "failed to update bundle";
        let (good, batch) = self.admitted(call, bundles, ForeignOnly::Update);
        let asked = good.len();
        let updates = good.into_iter().map(|bundle| parts.update(bundle)).collect();
        let stored = self.store.update_bundles(updates, self.clock.unix()).await;
        settle(&self.cache).await;
        let results = outcomes(asked, FAILED, stored).into_iter().map(|outcome| {
            outcome.and_then(|bundle| bundle.ok_or_else(|| Error::not_found("bundle not found")))
        });
        let results = batch.answered(call, results);
        set_lines(&results, "Federated bundle updated");
        results
    }

    /// Creates or replaces bundles of others in one transaction; the answers are in order.
    pub async fn set(&self, call: &Call, bundles: Vec<Bundle>) -> Vec<Result<Bundle, Error>> {
        const FAILED: &str = "failed to set bundle";
        let (good, batch) = self.admitted(call, bundles, ForeignOnly::Set);
        let asked = good.len();
        let stored = self.store.set_bundles(good, self.clock.unix()).await;
        settle(&self.cache).await;
        let results = batch.answered(call, outcomes(asked, FAILED, stored).into_iter());
        set_lines(&results, "Bundle set successfully");
        results
    }

    /// Deletes bundles of others in one transaction; the answers are in order.
    pub async fn delete(
        &self,
        call: &Call,
        trust_domains: Vec<TrustDomain>,
        mode: DeleteBundleMode,
    ) -> Vec<Result<(), Error>> {
        const FAILED: &str = "failed to delete federated bundle";
        if let Err(error) = call.may(Action::ManageBundles) {
            return vec![Err(error); trust_domains.len()];
        }
        let asked = trust_domains.clone();
        let stored = self.store.delete_bundles(trust_domains, mode, self.clock.unix()).await;
        settle(&self.cache).await;
        let results = outcomes(asked.len(), FAILED, stored).into_iter().zip(asked);
        results
            .map(|(outcome, trust_domain)| {
                let result = outcome.and_then(|outcome| match outcome {
                    DeleteBundleOutcome::Deleted(_) => Ok(()),
                    DeleteBundleOutcome::InUse(n) => {
                        let why = format!(
                            "cannot delete bundle; federated with {n} registration entries"
                        );
                        Err(Error::new(ErrorKind::Precondition, FAILED).because(why))
                    }
                    DeleteBundleOutcome::NotFound => Err(Error::not_found("bundle not found")),
                });
                call.audit.item(&result, || {
                    vec![Field::TrustDomainId(trust_domain.to_string()), mode_field(mode)]
                });
                result
            })
            .collect()
    }

    /// Sorts out what is refused before the store is asked.
    fn admitted(
        &self,
        call: &Call,
        bundles: Vec<Bundle>,
        doing: ForeignOnly,
    ) -> (Vec<Bundle>, Batch) {
        let mut good = Vec::with_capacity(bundles.len());
        let mut items = Vec::with_capacity(bundles.len());
        for bundle in bundles {
            let about = if call.audit.is_on() { bundle_fields(&bundle) } else { Vec::new() };
            let admitted = call
                .may(Action::ManageBundles)
                .and_then(|()| self.must_be_foreign(&bundle.trust_domain, doing))
                .and_then(|()| {
                    foreign::accept(bundle)
                        .map_err(|why| Error::invalid("failed to convert bundle").because(why))
                });
            items.push((about, admitted.map(|bundle| good.push(bundle))));
        }
        (good, Batch { items })
    }
}

impl fmt::Debug for Bundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bundles(..)")
    }
}

impl BundleParts {
    fn update(self, new: Bundle) -> BundleUpdate {
        BundleUpdate::new(new.trust_domain.clone(), move |bundle| {
            if self.x509_authorities {
                bundle.x509_authorities = new.x509_authorities;
            }
            if self.jwt_authorities {
                bundle.jwt_authorities = new.jwt_authorities;
            }
            if self.wit_authorities {
                bundle.wit_authorities = new.wit_authorities;
            }
            if self.refresh_hint {
                bundle.refresh_hint = new.refresh_hint;
            }
            if self.sequence_number {
                bundle.sequence_number = new.sequence_number;
            }
        })
    }
}

/// What was asked of a batch, and what was refused of it before the store saw it.
struct Batch {
    items: Vec<(Vec<Field>, Result<(), Error>)>,
}

impl Batch {
    /// Puts the outcomes of what was admitted between the refusals, and records each.
    fn answered(
        self,
        call: &Call,
        mut outcomes: impl Iterator<Item = Result<Bundle, Error>>,
    ) -> Vec<Result<Bundle, Error>> {
        let lost = || Err(Error::internal("no outcome"));
        let items = self.items.into_iter().map(|(about, admitted)| {
            let result = admitted.and_then(|()| outcomes.next().unwrap_or_else(lost));
            call.audit.item(&result, || about);
            result
        });
        items.collect()
    }
}

/// The SHA-256 of each X.509 authority, hex: which roots are meant.
fn fingerprints(bundle: &Bundle) -> Vec<String> {
    bundle.x509_authorities.iter().map(|authority| digest::sha256_hex(&authority.der)).collect()
}

fn bundle_fields(bundle: &Bundle) -> Vec<Field> {
    vec![
        Field::TrustDomainId(bundle.trust_domain.to_string()),
        Field::RefreshHint(bundle.refresh_hint),
        Field::SequenceNumber(bundle.sequence_number),
        Field::X509Authorities(count(bundle.x509_authorities.len())),
        Field::X509AuthoritiesSha256(fingerprints(bundle)),
        Field::JwtAuthorities(count(bundle.jwt_authorities.len())),
    ]
}

/// A mode, under the name that events have.
fn mode_field(mode: DeleteBundleMode) -> Field {
    Field::Mode(match mode {
        DeleteBundleMode::Delete => "delete",
        DeleteBundleMode::Dissociate => "dissociate",
        DeleteBundleMode::Restrict => "restrict",
    })
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// SPIRE's line for each bundle that was written, and which roots are trusted since.
fn set_lines(results: &[Result<Bundle, Error>], message: &'static str) {
    for bundle in results.iter().flatten() {
        tracing::info!(
            trust_domain_id = %bundle.trust_domain,
            x509_authorities_asn1_sha256 = fingerprints(bundle).join(","),
            "{message}"
        );
    }
}
