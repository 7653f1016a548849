//! What becomes of the authorities, by whatever it happens.

use signet_audit::{Field, Kind};
use signet_authority::{AuthorityState, AuthorityView};
use tokio::sync::watch;

use super::Auditor;

/// Activated, prepared, and anything else that becomes of one.
const X509_MESSAGES: [&str; 3] =
    ["X.509 authority activated", "X.509 authority prepared", "X.509 authority set aside"];
const JWT_MESSAGES: [&str; 3] =
    ["JWT authority activated", "JWT authority prepared", "JWT authority set aside"];
const SECOND_JWT_MESSAGES: [&str; 3] = [
    "second JWT authority activated",
    "second JWT authority prepared",
    "second JWT authority set aside",
];
const WIT_MESSAGES: [&str; 3] =
    ["WIT authority activated", "WIT authority prepared", "WIT authority set aside"];

impl Auditor {
    /// Records what becomes of the authorities, by whatever it happens, until the server ends; each
    /// time the chain gets a signed head.
    pub(crate) async fn watch_authorities(self, mut view: watch::Receiver<AuthorityView>) {
        let mut before = view.borrow_and_update().clone();
        while view.changed().await.is_ok() {
            let now = view.borrow_and_update().clone();
            let mut changed = false;
            for (was, is, messages) in [
                (&before.x509, &now.x509, X509_MESSAGES),
                (&before.jwt, &now.jwt, JWT_MESSAGES),
                (&before.second_jwt, &now.second_jwt, SECOND_JWT_MESSAGES),
                (&before.wit, &now.wit, WIT_MESSAGES),
            ] {
                let [activated, prepared, other] = messages;
                let mut tell = |message, state: &AuthorityState| {
                    changed = true;
                    let fields = vec![
                        Field::LocalAuthorityId(state.authority_id.clone()),
                        Field::ExpiresAt(state.expires_at),
                    ];
                    self.happened(Kind::Authority, message, fields);
                };
                let id = |state: &Option<AuthorityState>| {
                    state.as_ref().map(|state| (state.authority_id.clone(), state.status))
                };
                if let Some(active) =
                    is.active.as_ref().filter(|_| id(&was.active) != id(&is.active))
                {
                    tell(activated, active);
                }
                if let Some(next) = is.next.as_ref().filter(|_| id(&was.next) != id(&is.next)) {
                    let message = if is.prepared().is_some() { prepared } else { other };
                    tell(message, next);
                }
            }
            before = now;
            if changed && let Some(chain) = self.chain() {
                chain.sign_head();
            }
        }
    }
}
