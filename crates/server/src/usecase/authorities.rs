//! The server's authorities: what operators do with them.

use signet_audit::Field;
use signet_authority::{
    Authority, AuthorityKind, AuthorityState, KindView, OperationClass, OperationError,
};
use signet_base::chain;

use super::{
    Call,
    authorization::Action,
    error::{Error, ErrorKind},
    parts::Parts,
};

/// What can be done with authorities. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authorities {
    authority: Authority,
}

impl Authorities {
    /// Those of a server with these parts.
    pub fn new(parts: &Parts) -> Self {
        Self { authority: parts.authority.clone() }
    }

    /// Which authorities there are.
    ///
    /// # Errors
    /// `Unsupported` when SVIDs of this kind are off.
    pub fn state(&self, call: &Call, kind: AuthorityKind) -> Result<KindView, Error> {
        call.may(Action::ReadAuthorities)?;
        must_be_on(&self.authority, kind)?;
        let view = self.authority.view();
        let view = view.borrow();
        Ok(match kind {
            AuthorityKind::Jwt => view.jwt.clone(),
            AuthorityKind::SecondJwt => view.second_jwt.clone(),
            AuthorityKind::Wit => view.wit.clone(),
            AuthorityKind::X509 => view.x509.clone(),
        })
    }

    /// Prepares a new authority.
    ///
    /// # Errors
    /// As the authority says.
    pub async fn prepare(&self, call: &Call, kind: AuthorityKind) -> Result<AuthorityState, Error> {
        call.may(Action::ManageAuthorities)?;
        let prepared = self.authority.prepare(kind).await;
        let prepared = prepared.map_err(|error| refused(&error))?;
        about(call, &prepared.authority_id);
        Ok(prepared)
    }

    /// Lets the prepared authority sign.
    ///
    /// # Errors
    /// As the authority says.
    pub async fn activate(
        &self,
        call: &Call,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityState, Error> {
        call.may(Action::ManageAuthorities)?;
        about(call, id);
        let activated = self.authority.activate(kind, id).await;
        activated.map_err(|error| refused(&error))
    }

    /// Tells everyone that an authority is not to be trusted much longer.
    ///
    /// # Errors
    /// As the authority says.
    pub async fn taint(
        &self,
        call: &Call,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityState, Error> {
        call.may(Action::ManageAuthorities)?;
        about(call, id);
        let tainted = self.authority.taint(kind, id).await;
        let tainted = tainted.map_err(|error| refused(&error))?;
        done(id, kind, "tainted");
        Ok(tainted)
    }

    /// Takes an authority out of the bundle.
    ///
    /// # Errors
    /// As the authority says.
    pub async fn revoke(&self, call: &Call, kind: AuthorityKind, id: &str) -> Result<(), Error> {
        call.may(Action::ManageAuthorities)?;
        about(call, id);
        let revoked = self.authority.revoke(kind, id).await;
        revoked.map_err(|error| refused(&error))?;
        done(id, kind, "revoked");
        Ok(())
    }

    /// Tells everyone that an authority of the upstream is not to be trusted much longer; answers
    /// its subject key identifier.
    ///
    /// # Errors
    /// As the authority says.
    pub async fn taint_upstream(&self, call: &Call, id: &str) -> Result<String, Error> {
        call.may(Action::ManageAuthorities)?;
        call.about(Field::SubjectKeyId(id.to_owned()));
        let id = self.authority.taint_upstream(id).await.map_err(|error| refused(&error))?;
        tracing::info!(subject_key_id = id, "X.509 upstream authority tainted successfully");
        Ok(id)
    }

    /// Takes an authority of the upstream out of the bundle; answers its subject key identifier.
    ///
    /// # Errors
    /// As the authority says.
    pub async fn revoke_upstream(&self, call: &Call, id: &str) -> Result<String, Error> {
        call.may(Action::ManageAuthorities)?;
        call.about(Field::SubjectKeyId(id.to_owned()));
        let id = self.authority.revoke_upstream(id).await.map_err(|error| refused(&error))?;
        tracing::info!(subject_key_id = id, "X.509 upstream authority successfully revoked");
        Ok(id)
    }
}

/// That SVIDs of this kind are on.
///
/// # Errors
/// `Unsupported`.
pub(super) fn must_be_on(authority: &Authority, kind: AuthorityKind) -> Result<(), Error> {
    match authority.has(kind) {
        true => Ok(()),
        false => Err(Error::unsupported(kind.disabled())),
    }
}

fn about(call: &Call, id: &str) {
    if !id.is_empty() {
        call.about(Field::LocalAuthorityId(id.to_owned()));
    }
}

/// SPIRE's line: `JWT authority tainted successfully`.
fn done(id: &str, kind: AuthorityKind, what: &str) {
    let kind = kind.name();
    tracing::info!(local_authority_id = id, "{kind} authority {what} successfully");
}

fn refused(error: &OperationError) -> Error {
    let kind = match error.class() {
        OperationClass::FailedPrecondition => ErrorKind::Precondition,
        OperationClass::Internal => ErrorKind::Internal,
        OperationClass::InvalidArgument => ErrorKind::Invalid,
        OperationClass::Unavailable => ErrorKind::Unavailable,
        OperationClass::Unimplemented => ErrorKind::Unsupported,
    };
    Error::new(kind, chain(error))
}
