//! The server's health checks, under SPIRE's names.

use std::sync::Arc;

use async_trait::async_trait;
use signet_daemon::health::{HealthCheck, State};

use crate::context::Context;

/// So many failed rotations in a row are more than a hiccup.
const MAX_FAILED_ROTATIONS: u32 = 3;

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
}

#[derive(Clone, Copy)]
enum Part {
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
            Part::Store => match context.store.ping().await {
                Ok(()) => State::good(),
                Err(error) => State::failed(error.to_string()),
            },
            Part::Bundle => match context.cache.own_bundle() {
                Some(_) => State::good(),
                None => State::failed("unable to get bundle"),
            },
            Part::Authority => {
                let view = context.authority.view();
                let active = view.borrow().x509.active.clone();
                match active {
                    Some(active) if active.expires_at > context.clock.unix() => State::good(),
                    Some(_) => State::failed("the X.509 CA has expired"),
                    None => State::failed("X509 CA is not available for signing"),
                }
            }
            Part::Rotation => {
                let failed = context.authority.view().borrow().failed_rotations;
                if failed <= MAX_FAILED_ROTATIONS {
                    return State::good();
                }
                State::failed(format!("{failed} rotations of authorities failed in a row"))
            }
        }
    }
}
