//! Audit records: one log line for each answer that hands out SVIDs, and for each refusal.
//!
//! Message and field names are the server's (`API accessed`, `type=audit`, `status`, `service`,
//! `method`, …); `docs/operations.md` lists them. Records are written when `audit_log_enabled` is
//! set, and cost nothing otherwise. They hold no token and no key.

use signet_identity::{EntryId, SpiffeId};
use tonic::Status;

use crate::caller::Caller;

/// The Workload API, as records name it.
pub const WORKLOAD_API: &str = "SpiffeWorkloadAPI";
/// The Delegated Identity API, as records name it.
pub const DELEGATED_IDENTITY: &str = "delegatedidentity.v1.DelegatedIdentity";

/// Writes audit records, or none.
#[derive(Clone, Copy, Debug)]
pub struct Audit {
    on: bool,
}

/// Which call a record is about.
#[derive(Clone, Debug)]
pub struct Call {
    /// [`WORKLOAD_API`] or [`DELEGATED_IDENTITY`].
    pub service: &'static str,
    /// The method's name.
    pub method: &'static str,
    /// Who called. The agent's own calls (its health check) are not recorded.
    pub caller: Caller,
    /// The process on whose behalf a delegate asks by pid.
    pub subject_pid: Option<i32>,
}

impl Call {
    /// A call of the Workload API.
    pub fn workload(method: &'static str, caller: &Caller) -> Self {
        Self { service: WORKLOAD_API, method, caller: caller.clone(), subject_pid: None }
    }
}

/// What an answer hands out, gathered for its record.
#[derive(Debug, Default)]
pub struct Issued {
    entry_ids: String,
    spiffe_ids: String,
    count: usize,
    expires_at: Option<i64>,
}

impl Issued {
    /// Adds an SVID.
    pub fn add(&mut self, entry: &EntryId, id: &SpiffeId, expires_at: i64) {
        use std::fmt::Write as _;

        let comma = if self.count == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(self.entry_ids, "{comma}{entry}");
        let _ = write!(self.spiffe_ids, "{comma}{id}");
        self.count += 1;
        self.expires_at = Some(self.expires_at.map_or(expires_at, |before| before.min(expires_at)));
    }
}

impl Audit {
    /// Records if `on`.
    pub fn new(on: bool) -> Self {
        Self { on }
    }

    /// Records an answer that hands out SVIDs; `gather` is asked only when records are written.
    pub fn issued(
        self,
        call: &Call,
        audience: Option<&[String]>,
        gather: impl FnOnce(&mut Issued),
    ) {
        if !self.records(call) {
            return;
        }
        let mut issued = Issued::default();
        gather(&mut issued);
        write(call, None, Some(&issued), audience);
    }

    /// Records a call that was refused or failed.
    pub fn refused(self, call: &Call, status: &Status) {
        if self.records(call) {
            write(call, Some(status), None, None);
        }
    }

    /// Records the failure that `result` may be, and passes it on.
    ///
    /// # Errors
    /// Those of `result`.
    pub fn outcome<T>(self, call: &Call, result: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &result {
            self.refused(call, status);
        }
        result
    }

    fn records(self, call: &Call) -> bool {
        self.on && !call.caller.is_self()
    }
}

fn write(
    call: &Call,
    refused: Option<&Status>,
    issued: Option<&Issued>,
    audience: Option<&[String]>,
) {
    let peer = call.caller.peer().ok();
    tracing::info!(
        target: "signet_agent::audit",
        r#type = "audit",
        status = if refused.is_some() { "error" } else { "success" },
        status_code = refused.map(|status| tracing::field::debug(status.code())),
        status_message = refused.map(Status::message),
        service = call.service,
        method = call.method,
        caller_pid = call.caller.pid(),
        caller_uid = peer.map(signet_attest::peer::PinnedPeer::uid),
        caller_gid = peer.map(signet_attest::peer::PinnedPeer::gid),
        subject_pid = call.subject_pid,
        spiffe_id = issued.map(|issued| issued.spiffe_ids.as_str()),
        entry_id = issued.map(|issued| issued.entry_ids.as_str()),
        svids = issued.map(|issued| issued.count),
        expires_at = issued.and_then(|issued| issued.expires_at),
        audience = audience.map(|all| all.join(",")),
        "API accessed"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_out_is_listed_with_the_earliest_expiry() {
        let mut issued = Issued::default();
        let id = |name: &str| format!("spiffe://td/{name}").parse().unwrap();
        issued.add(&"e1".parse().unwrap(), &id("a"), 20);
        issued.add(&"e2".parse().unwrap(), &id("b"), 10);
        assert_eq!(issued.entry_ids, "e1,e2");
        assert_eq!(issued.spiffe_ids, "spiffe://td/a,spiffe://td/b");
        assert_eq!((issued.count, issued.expires_at), (2, Some(10)));
    }
}
