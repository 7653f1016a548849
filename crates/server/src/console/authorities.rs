//! The authorities and what becomes of them, as the console shows it.

use std::collections::HashSet;

use signet_authority::{AuthorityKind, AuthorityState, journal::Status};
use signet_console::page::{Authorities, Authority, AuthorityKind as KindPage};
use signet_time::UnixTime;

use super::{Console, caller::Caller};
use crate::usecase::{authorization::Action, error::Error};

/// The kinds of authority, as paths name them.
const KINDS: [(AuthorityKind, &str); 4] = [
    (AuthorityKind::X509, "x509"),
    (AuthorityKind::Jwt, "jwt"),
    (AuthorityKind::SecondJwt, "second-jwt"),
    (AuthorityKind::Wit, "wit"),
];

impl Console {
    pub(super) async fn authorities(&self, caller: &Caller) -> Result<Authorities, Error> {
        let mut kinds = Vec::new();
        for (kind, name) in KINDS {
            if !self.0.context.parts.authority.has(kind) {
                continue;
            }
            let view = self
                .with(caller, Action::ReadAuthorities, "Authorities", async |call| {
                    self.0.use_cases.authorities.state(call, kind)
                })
                .await?;
            let mut authorities: Vec<_> =
                [view.next, view.active].into_iter().flatten().map(|state| slot(&state)).collect();
            let known: HashSet<String> =
                authorities.iter().map(|authority| authority.id.clone()).collect();
            let all = self.bundle_authorities(kind);
            for authority in &mut authorities {
                let tainted =
                    all.iter().any(|other| other.id == authority.id && other.status == "tainted");
                if tainted && authority.status == "old" {
                    "tainted".clone_into(&mut authority.status);
                }
            }
            authorities.extend(all.into_iter().filter(|authority| !known.contains(&authority.id)));
            kinds.push(KindPage { kind: name.to_owned(), authorities });
        }
        let failed_rotations = self.0.context.parts.authority.view().borrow().failed_rotations;
        let may_write = self.may(caller, Action::ManageAuthorities).await;
        Ok(Authorities { kinds, failed_rotations, may_write })
    }

    /// Those of the trust bundle.
    fn bundle_authorities(&self, kind: AuthorityKind) -> Vec<Authority> {
        let Some(own) = self.0.context.parts.cache.own_bundle() else { return Vec::new() };
        let status = |tainted| if tainted { "tainted" } else { "in bundle" }.to_owned();
        match kind {
            AuthorityKind::X509 => {
                let certificates = own.trust.iter().flat_map(|trust| trust.authorities());
                certificates
                    .map(|certificate| {
                        let tainted = own.bundle.x509_authorities.iter().any(|authority| {
                            authority.tainted && *authority.der == **certificate.der()
                        });
                        Authority {
                            id: certificate.subject_key_id_hex(),
                            status: status(tainted),
                            issued_at: certificate.not_before(),
                            expires_at: certificate.not_after(),
                            upstream: certificate.authority_key_id_hex(),
                        }
                    })
                    .collect()
            }
            AuthorityKind::Jwt | AuthorityKind::SecondJwt | AuthorityKind::Wit => {
                let keys = match kind {
                    AuthorityKind::Wit => &own.bundle.wit_authorities,
                    _ => &own.bundle.jwt_authorities,
                };
                // The bundle does not say which of the JWT authorities are second ones; those that
                // are in use are known.
                let second = self.0.context.parts.authority.view().borrow().second_jwt.clone();
                let is_second = |id: &str| {
                    let known = second.active.iter().chain(&second.next);
                    known.into_iter().any(|state| state.authority_id == id)
                };
                let keys = keys.iter().filter(|key| match kind {
                    AuthorityKind::Jwt => !is_second(&key.key_id),
                    AuthorityKind::SecondJwt => is_second(&key.key_id),
                    AuthorityKind::Wit | AuthorityKind::X509 => true,
                });
                keys.map(|key| Authority {
                    id: key.key_id.to_string(),
                    status: status(key.tainted),
                    issued_at: UnixTime::EPOCH,
                    expires_at: key.expires_at,
                    upstream: String::new(),
                })
                .collect()
            }
        }
    }
}

fn slot(state: &AuthorityState) -> Authority {
    Authority {
        id: state.authority_id.clone(),
        status: match state.status {
            Status::Active => "active",
            Status::Old => "old",
            Status::Prepared => "prepared",
        }
        .to_owned(),
        issued_at: state.issued_at,
        expires_at: state.expires_at,
        upstream: state.upstream_authority_id.clone(),
    }
}

/// The kind of authority that a path names.
pub(super) fn authority_kind(name: &str) -> Result<AuthorityKind, Error> {
    let known = KINDS.iter().find(|(_, known)| *known == name);
    known
        .map(|(kind, _)| *kind)
        .ok_or_else(|| Error::not_found("there is no such kind of authority"))
}
