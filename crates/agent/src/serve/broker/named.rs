//! What the references of brokers name.

use std::fmt;

use prost::Message as _;
use signet_api::pb::broker as pb;
use signet_attest::{
    peer::{PeerError, PinnedPeer},
    procfs::ProcRoot,
    workload::reference::{ObjectReference, Reference, ReferenceError},
};
use tonic::Status;

use crate::{audit::Call, caller::Caller, config::KUBERNETES_REFERENCE};

/// A workload that a broker names.
pub(super) enum Named {
    /// An object of Kubernetes.
    Object(ObjectReference),
    /// A process, pinned.
    Process(Caller),
}

impl Named {
    /// Reads a reference of one of the two types.
    pub(super) fn read(type_url: &str, value: &[u8], root: &ProcRoot) -> Result<Self, Status> {
        if type_url == KUBERNETES_REFERENCE {
            return object(value);
        }
        let pb::WorkloadPidReference { pid } =
            pb::WorkloadPidReference::decode(value).map_err(|_| malformed())?;
        if pid <= 0 {
            return Err(Status::invalid_argument("pid must be above 0"));
        }
        let process = PinnedPeer::from_named_pid(pid, root).map_err(|error: PeerError| {
            tracing::debug!(pid, error = %error, "A broker named a process that is not there");
            Status::not_found("there is no such process")
        })?;
        Ok(Self::Process(Caller::new(Ok(process), false)))
    }

    /// For the attestors.
    pub(super) fn reference(&self) -> Result<Reference<'_>, Status> {
        match self {
            Self::Object(object) => Ok(Reference::Object(object)),
            Self::Process(process) => process
                .peer()
                .map(Reference::Process)
                .map_err(|_| Status::not_found("there is no such process")),
        }
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// Whether a process has not ended; of objects only the API server knows.
    pub(super) fn is_alive(&self) -> bool {
        match self {
            Self::Object(_) => true,
            Self::Process(process) => process.peer().is_ok_and(PinnedPeer::is_alive),
        }
    }

    /// Completes when a process has ended.
    pub(super) async fn exited(&self) {
        match self {
            Self::Object(_) => std::future::pending().await,
            Self::Process(process) => {
                if let Ok(peer) = process.peer() {
                    peer.exited().await;
                }
            }
        }
    }

    /// The call with its subject, for audit events.
    pub(super) fn subject_of(&self, call: Call) -> Call {
        match self {
            Self::Object(_) => Call { subject_object: Some(self.to_string().into()), ..call },
            Self::Process(process) => Call { subject_pid: Some(process.pid()), ..call },
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = match self {
            Self::Process(process) => return write!(f, "process {}", process.pid()),
            Self::Object(object) => object,
        };
        write!(f, "{}.{}", object.plural(), object.group())?;
        match (object.namespace(), object.name()) {
            ("", "") => {}
            ("", name) => write!(f, " {name}")?,
            (namespace, name) => write!(f, " {namespace}/{name}")?,
        }
        match object.uid() {
            "" => Ok(()),
            uid => write!(f, " with UID {uid}"),
        }
    }
}

fn object(value: &[u8]) -> Result<Named, Status> {
    let pb::KubernetesObjectReference { r#type, key, uid } =
        pb::KubernetesObjectReference::decode(value).map_err(|_| malformed())?;
    let r#type =
        r#type.ok_or_else(|| Status::invalid_argument("object reference is missing type"))?;
    let key = key.as_ref().map(|key| (key.namespace.as_str(), key.name.as_str()));
    let object = ObjectReference::new(&r#type.plural, &r#type.group, key, &uid);
    object.map(Named::Object).map_err(|error| status(&error))
}

fn malformed() -> Status {
    Status::invalid_argument("malformed workload reference")
}

/// The status of a failure, with the codes of SPIRE 1.15.3.
pub(super) fn status(error: &ReferenceError) -> Status {
    let text = error.to_string();
    match error {
        ReferenceError::Denied(_) => Status::permission_denied(text),
        ReferenceError::Invalid(_) => Status::invalid_argument(text),
        ReferenceError::NotFound(_) => Status::not_found(text),
        ReferenceError::Precondition(_) => Status::failed_precondition(text),
        ReferenceError::Unavailable(_) => Status::unavailable(text),
        ReferenceError::Unsupported => Status::unimplemented(text),
        // Internal, and what is not known yet.
        _ => Status::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_said_as_people_name_it() {
        let object = |key, uid| {
            Named::Object(ObjectReference::new("deployments", "apps", key, uid).unwrap())
                .to_string()
        };
        assert_eq!(object(Some(("shop", "web")), ""), "deployments.apps shop/web");
        assert_eq!(object(Some(("", "web")), "u"), "deployments.apps web with UID u");
        assert_eq!(object(None, "u"), "deployments.apps with UID u");
    }
}
