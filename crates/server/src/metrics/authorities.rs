//! What becomes of the authorities.

use std::time::Duration;

use signet_authority::{AuthorityError, ports::AuthorityObserver};
use signet_daemon::metrics::{Calls, Counter, Metrics};

/// Counts preparations, activations and prunings.
#[derive(Debug)]
pub struct AuthorityMetrics {
    x509: Kind,
    jwt: Kind,
    second_jwt: Kind,
    wit: Kind,
    prune: Calls,
    pruned: Counter,
}

#[derive(Debug)]
struct Kind {
    prepare: Calls,
    activate: Counter,
}

impl AuthorityMetrics {
    /// Registers everything.
    pub fn new(metrics: &Metrics) -> Self {
        let kind = |name: &str, activate: &[&str]| Kind {
            prepare: metrics.calls(
                &["ca", "manager", name, "prepare"],
                "Preparations of the next authority",
                &[],
            ),
            activate: metrics.counter(activate, "Activations of an authority", &[]),
        };
        Self {
            // The keys differ in SPIRE too.
            x509: kind("x509_ca", &["ca", "manager", "x509_ca", "activate"]),
            jwt: kind("jwt_key", &["manager", "jwt_key", "activate"]),
            second_jwt: kind("second_jwt_key", &["manager", "second_jwt_key", "activate"]),
            wit: kind("wit_key", &["manager", "wit_key", "activate"]),
            prune: metrics.calls(
                &["ca", "manager", "bundle", "prune"],
                "Searches of the bundle for what has expired",
                &[],
            ),
            pruned: metrics.counter(
                &["ca", "manager", "bundle", "pruned"],
                "Searches of the bundle that dropped something",
                &[],
            ),
        }
    }

    /// `kind` is as logs have it.
    fn kind(&self, kind: &str) -> &Kind {
        match kind {
            "JWT key" => &self.jwt,
            "second JWT key" => &self.second_jwt,
            "WIT key" => &self.wit,
            _ => &self.x509,
        }
    }
}

impl AuthorityObserver for AuthorityMetrics {
    fn prepared(
        &self,
        kind: &'static str,
        elapsed: Duration,
        outcome: Result<(), &AuthorityError>,
    ) {
        self.kind(kind).prepare.observe(&[], status(outcome.is_ok()), elapsed);
    }

    fn activated(&self, kind: &'static str) {
        self.kind(kind).activate.inc(&[]);
    }

    fn pruned(&self, elapsed: Duration, outcome: Result<bool, &AuthorityError>) {
        self.prune.observe(&[], status(outcome.is_ok()), elapsed);
        if let Ok(true) = outcome {
            self.pruned.inc(&[]);
        }
    }
}

fn status(is_ok: bool) -> &'static str {
    if is_ok { "OK" } else { "Unknown" }
}
