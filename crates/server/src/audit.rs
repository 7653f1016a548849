//! Audit records: one log line for each call, and for each item of a batch that issues or changes
//! something.
//!
//! Messages and field names are SPIRE's: `API accessed`, `type=audit`, `status`, `service`,
//! `method`, `request_id`, `authorized_as`, `authorized_via`, `caller_id`, `caller_addr`,
//! `caller_uid`, `caller_gid`. Records are written when `audit_log_enabled` is set.

use std::{
    fmt::{self, Write as _},
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
        let mut text = String::new();
        {
            let mut state = lock(&inner.state);
            state.has_items = true;
            for (name, value) in &state.fields {
                push(&mut text, name, value);
            }
        }
        for (name, value) in fields {
            push(&mut text, name, value);
        }
        inner.write(code, message, &text);
    }

    /// Writes the record of the call; nothing when items were recorded and the call went well.
    pub(crate) fn finish(&self, code: Code, message: &str) {
        let Some(inner) = &self.inner else { return };
        let mut text = String::new();
        {
            let state = lock(&inner.state);
            if state.has_items && code == Code::Ok {
                return;
            }
            for (name, value) in &state.fields {
                push(&mut text, name, value);
            }
        }
        inner.write(code, message, &text);
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Audit(on)" } else { "Audit(off)" })
    }
}

impl Inner {
    fn write(&self, code: Code, message: &str, fields: &str) {
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
            fields = (!fields.is_empty()).then_some(fields),
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

fn push(text: &mut String, name: &str, value: &dyn fmt::Display) {
    if !text.is_empty() {
        text.push(' ');
    }
    // Writing to a String cannot fail.
    let _ = write!(text, "{name}={:?}", value.to_string());
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
