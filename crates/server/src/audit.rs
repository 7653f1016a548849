//! Audit records: one log line for each call, and for each item of a batch that issues or changes
//! something.
//!
//! Messages and field names are SPIRE's: `API accessed`, `type=audit`, `status`, `service`,
//! `method`, `request_id`, `authorized_as`, `authorized_via`, `caller_id`, `caller_addr`,
//! `caller_uid`, `caller_gid`, and what the method adds. Records are written when
//! `audit_log_enabled` is set.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tonic::{Code, Request};

use crate::caller::{Caller, Peer};

/// Collects what a call did. In the request's extensions; cheap to clone.
///
/// The layer writes one record with the collected fields when the call ends. A batch method
/// writes one record for each item instead, with [`Audit::item`].
#[derive(Clone)]
pub struct Audit {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    service: String,
    method: String,
    caller: Caller,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fields: Vec<(&'static str, String)>,
    has_items: bool,
}

impl Audit {
    /// An audit that writes nothing.
    pub fn off() -> Self {
        Self { inner: None }
    }

    /// The audit of a call to `/<service>/<method>`.
    pub(crate) fn new(path: &str, caller: Caller) -> Self {
        let (service, method) = split(path);
        Self {
            inner: Some(Arc::new(Inner {
                service: service.to_owned(),
                method: method.to_owned(),
                caller,
                state: Mutex::default(),
            })),
        }
    }

    /// The audit of `request`; one that writes nothing when auditing is off.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_else(Self::off)
    }

    /// Whether records are written: to spare the making of costly fields.
    pub fn is_on(&self) -> bool {
        self.inner.is_some()
    }

    /// Adds a field to the record of the call. Never a secret.
    pub fn field(&self, name: &'static str, value: impl fmt::Display) {
        if let Some(inner) = &self.inner {
            lock(&inner.state).fields.push((name, value.to_string()));
        }
    }

    /// Writes a record for one item of a batch; `code` and `message` are its status.
    pub fn item(&self, code: Code, message: &str, fields: &[(&'static str, &dyn fmt::Display)]) {
        let Some(inner) = &self.inner else { return };
        let mut all = {
            let mut state = lock(&inner.state);
            state.has_items = true;
            state.fields.clone()
        };
        all.extend(fields.iter().map(|(name, value)| (*name, value.to_string())));
        inner.write(code, message, &all);
    }

    /// Writes the record of the call; nothing when items were recorded and the call went well.
    pub(crate) fn finish(&self, code: Code, message: &str) {
        let Some(inner) = &self.inner else { return };
        let all = {
            let mut state = lock(&inner.state);
            if state.has_items && code == Code::Ok {
                return;
            }
            std::mem::take(&mut state.fields)
        };
        inner.write(code, message, &all);
    }
}

/// Writes a record of a client that got no connection because of its certificate. Who it says it
/// is was not proven, and is not in it.
pub(crate) fn turned_away(addr: SocketAddr, why: &io::Error) {
    tracing::info!(
        target: "signet_server::audit",
        r#type = "audit",
        status = "error",
        status_code = ?Code::Unauthenticated,
        status_message = %why,
        caller_addr = %addr,
        "Connection refused"
    );
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Audit(on)" } else { "Audit(off)" })
    }
}

impl Inner {
    fn write(&self, code: Code, message: &str, fields: &[(&'static str, String)]) {
        // Fields of events are fixed when the program is built: those of spans may stay empty.
        let subject = subject_span();
        let _subject = subject.enter();
        let detail = detail_span();
        let _detail = detail.enter();
        for (name, value) in fields {
            subject.record(*name, value.as_str());
            detail.record(*name, value.as_str());
        }
        let (authorized_as, authorized_via) = self.caller.role.audit_names();
        let caller_id = self.caller.spiffe_id().map(tracing::field::display);
        let (mut caller_addr, mut caller_uid, mut caller_gid) = (None, None, None);
        match &self.caller.peer {
            Peer::Local(local) => {
                caller_uid = Some(local.uid);
                caller_gid = Some(local.gid);
            }
            Peer::Remote(remote) => caller_addr = Some(tracing::field::display(remote.addr)),
        }
        let failed = code != Code::Ok;
        tracing::info!(
            target: "signet_server::audit",
            r#type = "audit",
            status = if failed { "error" } else { "success" },
            status_code = failed.then(|| tracing::field::debug(code)),
            status_message = failed.then_some(message),
            service = self.service,
            method = self.method,
            request_id = &*self.caller.request_id,
            authorized_as,
            authorized_via,
            caller_id,
            caller_addr,
            caller_uid,
            caller_gid,
            "API accessed"
        );
    }
}

/// `/package.Service/Method` as SPIRE logs it: the service without its package prefix's `spire.api.`
fn split(path: &str) -> (&str, &str) {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let short = service.strip_prefix("spire.api.server.").unwrap_or(service);
    (short, method)
}

macro_rules! audit_span {
    ($function:ident, $names:ident: $($name:ident),* $(,)?) => {
        /// The names that methods may add; others would be lost.
        #[cfg(test)]
        const $names: &[&str] = &[$(stringify!($name)),*];

        fn $function() -> tracing::Span {
            tracing::info_span!(
                target: "signet_server::audit", "audit", $($name = tracing::field::Empty),*
            )
        }
    };
}

audit_span!(subject_span, SUBJECTS:
    agent_id, audience, bundle_endpoint_profile, bundle_endpoint_url, csr, dns_name, endpoint_spiffe_id,
    entry_id, federates_with, hint, local_authority_id, parent_id, selectors, serial_num, spiffe_id,
    subject_key_id, trust_domain_id,
);
audit_span!(detail_span, DETAILS:
    admin, agent_version, attestation_type, banned, by_hint, can_reattest, downstream, expires_at,
    jwt_authorities, jwt_authority_expires_at, jwt_authority_key_id, jwt_authority_key_ids,
    jwt_svid_ttl, mode, new_log_level, node_attestor_type, page_size, refresh_hint,
    revision_number, sequence_number, store_svid, ttl, x509_authorities, x509_svid_ttl,
);

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{LocalPeer, Role};

    /// Every name that a method gives to `field` or `item`, read from the services' source.
    fn names_in_use() -> Vec<String> {
        let mut names = Vec::new();
        let mut dirs = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/grpc")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(path).unwrap();
                for (before, after) in [("field(\"", "\""), ("(\"", "\", &")] {
                    for rest in text.split(before).skip(1) {
                        let Some(name) = rest.split(after).next() else { continue };
                        let is_name = name
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit());
                        if is_name && rest.strip_prefix(name).is_some_and(|r| r.starts_with(after))
                        {
                            names.push(name.to_owned());
                        }
                    }
                }
            }
        }
        names
    }

    #[test]
    fn every_field_that_a_service_reports_reaches_the_record() {
        let names = names_in_use();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            let known = SUBJECTS.contains(&name.as_str()) || DETAILS.contains(&name.as_str());
            assert!(known, "the audit record has no field {name}");
        }
    }

    #[test]
    fn a_record_names_caller_call_outcome_and_what_was_done() {
        use signet_base::SystemClock;
        use signet_daemon::logging::{LogFormat, LogSettings, with_writer};
        use signet_testkit::Captured;

        let lines = Captured::default();
        let settings = LogSettings { format: LogFormat::Json, ..LogSettings::default() };
        let (subscriber, _) = with_writer(&settings, SystemClock::shared(), lines.clone());
        let caller = Caller {
            peer: Peer::Local(LocalPeer { pid: Some(1), uid: 7, gid: 8 }),
            role: Role::Local,
            request_id: "r1".into(),
        };
        tracing::subscriber::with_default(subscriber, || {
            let audit = Audit::new("spire.api.server.agent.v1.Agent/BanAgent", caller.clone());
            audit.field("spiffe_id", "spiffe://td/a");
            audit.finish(Code::NotFound, "agent not found");
            let batch = Audit::new("spire.api.server.svid.v1.SVID/BatchNewX509SVID", caller);
            batch.item(Code::Ok, "", &[("entry_id", &"e1")]);
            batch.finish(Code::Ok, "");
        });
        let text = lines.text();
        let records: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2, "{text}");
        for (key, value) in [
            ("type", "audit"),
            ("msg", "API accessed"),
            ("status", "error"),
            ("status_code", "NotFound"),
            ("status_message", "agent not found"),
            ("service", "agent.v1.Agent"),
            ("method", "BanAgent"),
            ("request_id", "r1"),
            ("authorized_as", "local"),
            ("authorized_via", "transport"),
            ("spiffe_id", "spiffe://td/a"),
        ] {
            assert_eq!(records[0][key], value, "{key}");
        }
        assert_eq!(records[0]["caller_uid"], 7);
        assert_eq!(records[1]["entry_id"], "e1");
        assert_eq!(records[1]["status"], "success");
    }
}
