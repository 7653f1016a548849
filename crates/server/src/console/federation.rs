//! Federation relationships, and how fetching their bundles goes.

use signet_console::page::{Confirm, Federation, Relationship};
use signet_identity::TrustDomain;

use super::{Console, caller::Caller, read::encode};
use crate::{
    federation::{Origin, Status},
    usecase::{authorization::Action, error::Error},
};

impl Console {
    pub(super) async fn federation(&self, caller: &Caller) -> Result<Federation, Error> {
        let federation = &self.0.use_cases.federation;
        let mut all = self
            .with(caller, Action::ReadFederation, "Federation", async |call| {
                federation.statuses(call, None).await
            })
            .await?;
        all.sort_by(|(a, _), (b, _)| a.relationship.trust_domain.cmp(&b.relationship.trust_domain));
        let may_refresh = self.may(caller, Action::RefreshFederation).await;
        let relationships = all.iter().map(|(status, bundle)| {
            let relationship = &status.relationship;
            let name = relationship.profile.name();
            let profile = match relationship.profile.endpoint_spiffe_id() {
                None => name.to_owned(),
                Some(id) => format!("{name}, {id}"),
            };
            let bundle = bundle.as_ref().map(|cached| &cached.bundle);
            let refresh =
                format!("/federation/{}/refresh", encode(relationship.trust_domain.as_str()));
            Relationship {
                trust_domain: relationship.trust_domain.to_string(),
                endpoint: relationship.bundle_endpoint_url.clone(),
                profile,
                authorities: bundle
                    .map(|bundle| (bundle.x509_authorities.len(), bundle.jwt_authorities.len())),
                refresh_hint: bundle
                    .and_then(|bundle| u64::try_from(bundle.refresh_hint).ok())
                    .unwrap_or_default(),
                times: [
                    ("Last success", status.last_success),
                    ("Last change", status.last_change),
                    ("Next poll", status.next_poll),
                ]
                .into_iter()
                .filter_map(|(name, time)| Some((name.to_owned(), time?)))
                .collect(),
                error: status.last_error.clone().unwrap_or_default(),
                facts: facts(status, bundle.map(|bundle| bundle.sequence_number)),
                refresh: may_refresh.then_some(refresh),
            }
        });
        Ok(Federation { relationships: relationships.collect() })
    }

    pub(super) fn confirm_refresh(trust_domain: &TrustDomain) -> Confirm {
        Confirm {
            question: format!("Fetch the bundle of {trust_domain} now?"),
            effects: vec![
                "Its endpoint is asked at once; agents get the bundle if it has changed."
                    .to_owned(),
            ],
            action: format!("/federation/{}/refresh", encode(trust_domain.as_str())),
            fields: Default::default(),
            button: "Fetch it".to_owned(),
            back: "/federation".to_owned(),
            danger: false,
        }
    }
}

fn facts(status: &Status, sequence_number: Option<u64>) -> Vec<(String, String)> {
    let origin = match status.origin {
        Origin::Static => "the configuration file",
        Origin::Dynamic => "the API",
    };
    let mut facts = vec![("From".to_owned(), origin.to_owned())];
    facts.extend(sequence_number.map(|number| ("Sequence number".to_owned(), number.to_string())));
    if status.elsewhere {
        facts.push(("Polled by".to_owned(), "another server".to_owned()));
    }
    if status.failures > 0 {
        facts.push(("Failed polls in a row".to_owned(), status.failures.to_string()));
    }
    facts
}
