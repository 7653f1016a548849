//! The server's health checks, under SPIRE's names.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_audit::Chain;
use signet_daemon::health::{HealthCheck, State};
use signet_pki::key_manager::SigningFault;
use signet_store::StoreError;
use signet_time::UnixTime;

use crate::context::Context;

/// So many failed rotations in a row are more than a hiccup.
const MAX_FAILED_ROTATIONS: u32 = 3;

/// So many signatures that a remote key manager failed to make in a row are more than a hiccup.
const MAX_FAILED_SIGNATURES: u32 = 3;

/// Adds the checks of the server's parts.
pub(super) fn register(context: &Context) {
    let health = &context.health;
    let add = |name: &str, part: Part| {
        health.add(name, Arc::new(Check { context: context.clone(), part }));
    };
    add("catalog.datastore", Part::Store);
    add("server", Part::Bundle);
    add("server.ca", Part::Authority);
    add("server.ca.rotator", Part::Rotation);
    if context.auditor.chain().is_some() {
        add("server.audit", Part::Audit);
    }
    if !context.acme.is_empty() {
        add("server.acme", Part::Acme);
    }
}

#[derive(Clone, Copy)]
enum Part {
    Acme,
    Audit,
    Authority,
    Bundle,
    Rotation,
    Store,
}

struct Check {
    context: Context,
    part: Part,
}

#[async_trait]
impl HealthCheck for Check {
    async fn check(&self) -> State {
        let context = &self.context;
        match self.part {
            // Said, and no reason to send agents elsewhere: the certificates are for others.
            Part::Acme => {
                let now = context.parts.clock.unix();
                let all: Vec<_> = context.acme.iter().flat_map(|it| it.complaints(now)).collect();
                State::good_despite(&all)
            }
            Part::Audit => match context.auditor.chain().is_none_or(Chain::works) {
                true => State::good(),
                false => State::failed("the audit log cannot be written"),
            },
            Part::Store => match context.parts.store.ping().await {
                Ok(()) if context.parts.cache.is_loaded() => State::good(),
                // Calls are served, but not as fast as they will be.
                Ok(()) => State {
                    ready: false,
                    ready_details: serde_json::json!({
                        "message": "the registration entries are still being read",
                    }),
                    ..State::good()
                },
                Err(error) => {
                    let staleness = context.parts.cache.staleness();
                    away(&error, staleness, context.config.max_store_staleness)
                }
            },
            Part::Bundle => match context.parts.cache.own_bundle() {
                Some(_) => State::good(),
                None => State::failed("unable to get bundle"),
            },
            Part::Authority => {
                let view = context.parts.authority.view();
                let active = view.borrow().x509.active.clone();
                match active {
                    Some(active) if active.expires_at > context.parts.clock.unix() => {
                        let local = context.parts.authority.local_intermediate_expires_at();
                        signing(
                            context.parts.authority.signing_fault(),
                            local.map(UnixTime::seconds),
                        )
                    }
                    Some(_) => State::failed("the X.509 CA has expired"),
                    None => State::failed("X509 CA is not available for signing"),
                }
            }
            Part::Rotation => {
                let failed = context.parts.authority.view().borrow().failed_rotations;
                if failed <= MAX_FAILED_ROTATIONS {
                    return State::good();
                }
                State::failed(format!("{failed} rotations of authorities failed in a row"))
            }
        }
    }
}

/// A database that is away is no reason to restart the server, whose memory would be lost: agents
/// are served from it as long as `max_store_staleness` allows, and so long it is ready.
fn away(error: &StoreError, staleness: Duration, allowed: Duration) -> State {
    let StoreError::Unavailable { .. } = error else { return State::failed(error.to_string()) };
    State {
        ready: staleness <= allowed,
        ready_details: serde_json::json!({
            "message": error.to_string(),
            "seconds_since_contact": staleness.as_secs(),
        }),
        ..State::good()
    }
}

/// A key manager that does not sign is no reason to restart the server, but one to ask another,
/// unless a local intermediate signs X.509-SVIDs meanwhile.
fn signing(fault: Option<SigningFault>, local_intermediate: Option<i64>) -> State {
    match fault {
        Some(fault) if fault.in_a_row >= MAX_FAILED_SIGNATURES && local_intermediate.is_some() => {
            State {
                ready_details: serde_json::json!({
                    "message": format!(
                        "{} signatures failed in a row: {}; the local intermediate signs X.509-SVIDs",
                        fault.in_a_row, fault.last
                    ),
                }),
                ..State::good()
            }
        }
        Some(fault) if fault.in_a_row >= MAX_FAILED_SIGNATURES => State {
            ready: false,
            ready_details: serde_json::json!({
                "message": format!("{} signatures failed in a row: {}", fault.in_a_row, fault.last),
            }),
            ..State::good()
        },
        _ => State::good(),
    }
}

#[cfg(test)]
mod tests {
    use signet_pki::SignError;

    use super::*;

    #[test]
    fn a_database_that_is_away_makes_the_server_unready_only_when_memory_is_too_old() {
        let error = StoreError::Unavailable { doing: "x", why: "refused".to_owned() };
        let at = |seconds| away(&error, Duration::from_secs(seconds), Duration::from_secs(900));
        assert!(at(10).live && at(10).ready && at(901).live && !at(901).ready);
        assert_eq!(at(10).ready_details["message"], "x: the database is not available: refused");
    }

    #[test]
    fn a_key_manager_that_does_not_sign_makes_the_server_not_ready_and_says_why() {
        let fault =
            |in_a_row| Some(SigningFault { in_a_row, last: SignError::Busy { holder: "aws_kms" } });
        assert_eq!(signing(None, None), State::good());
        assert_eq!(signing(fault(2), None), State::good());
        assert!(signing(fault(3), Some(1)).ready, "a local intermediate signs meanwhile");
        let state = signing(fault(3), None);
        assert!(state.live && !state.ready);
        assert_eq!(
            state.ready_details["message"],
            "3 signatures failed in a row: key manager aws_kms: too many signatures are waiting"
        );
    }
}
