//! What one record says of who used what.

use serde_json::Value;
use signet_identity::{SpiffeId, TrustDomain};
use signet_time::UnixTime;

/// The role by which the broker logs in to OpenBao: its logins are nobody's way to a secret.
const BROKER_ROLE: &str = "signet-broker";
/// The longest name of somebody, characters.
const MAX_NAME: usize = 512;

/// By which way somebody got in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// New: the broker gave a credential.
    Broker,
    /// New: the workload logged in to OpenBao by its SVID.
    SvidLogin,
    /// Old: an identity of the trust domain that is being left.
    OldTrustDomain,
    /// Old: a login by a service account of Kubernetes.
    ServiceAccount,
    /// Old: the static secret was read otherwise than by an identity.
    StaticSecret,
}

impl Way {
    pub(super) fn is_new(self) -> bool {
        matches!(self, Self::Broker | Self::SvidLogin)
    }

    /// As the report writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::SvidLogin => "svid_login",
            Self::OldTrustDomain => "old_trust_domain",
            Self::ServiceAccount => "service_account",
            Self::StaticSecret => "static_secret",
        }
    }
}

/// Somebody used a way once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// A SPIFFE ID, or the name that OpenBao knows.
    pub(super) who: String,
    pub(super) way: Way,
    pub(super) at: UnixTime,
}

/// What counts as the old way.
#[derive(Clone, Debug, Default)]
pub(super) struct Old {
    /// Namespace and path of secrets, without slashes at the ends; empty for all of the engine kv.
    pub(super) paths: Vec<String>,
    pub(super) trust_domain: Option<TrustDomain>,
    /// Whether what the broker reads in OpenBao counts: it does where no record of the broker's own
    /// says so.
    pub(super) counts_brokered: bool,
}

impl Old {
    fn is_secret(&self, request: &Value) -> bool {
        let path = text(request, "/path");
        if self.paths.is_empty() {
            return text(request, "/mount_type") == "kv"
                && !path.contains("/metadata/")
                && !path.ends_with("/config");
        }
        let namespace = text(request, "/namespace/path").trim_matches('/');
        let whole = match namespace {
            "" => path.to_owned(),
            namespace => format!("{namespace}/{path}"),
        };
        self.paths.iter().any(|old| {
            whole
                .strip_prefix(old.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    fn way_of(&self, id: &SpiffeId) -> Way {
        let is_old = self.trust_domain.as_ref().is_some_and(|domain| id.is_member_of(domain));
        if is_old { Way::OldTrustDomain } else { Way::SvidLogin }
    }
}

/// When a record was written.
pub(super) fn time_of(record: &Value) -> Option<UnixTime> {
    UnixTime::from_rfc3339(text(record, "/time")).ok()
}

/// What a line of the broker's log says.
pub(super) fn of_broker(record: &Value) -> Option<Use> {
    let is = |pointer: &str, wanted: &str| text(record, pointer) == wanted;
    let drawn = is("/type", "audit")
        && is("/service", "broker")
        && is("/method", "IssueCredential")
        && is("/status", "success");
    let id: SpiffeId = text(record, "/caller_id").parse().ok()?;
    drawn.then_some(())?;
    Some(Use { who: id.to_string(), way: Way::Broker, at: time_of(record)? })
}

/// What a line of OpenBao's audit log says.
pub(super) fn of_openbao(record: &Value, old: &Old) -> Option<Use> {
    if text(record, "/type") != "response" || !text(record, "/error").is_empty() {
        return None;
    }
    let at = time_of(record)?;
    let request = record.get("request")?;
    let (path, operation) = (text(request, "/path"), text(request, "/operation"));
    if operation == "update" && path.starts_with("auth/") && path.ends_with("/login") {
        let auth = record.pointer("/response/auth").or_else(|| record.get("auth"))?;
        return match text(request, "/mount_type") {
            "kubernetes" => Some(Use { who: name_of(auth)?, way: Way::ServiceAccount, at }),
            "jwt" if text(auth, "/metadata/role") != BROKER_ROLE => {
                let id = id_of(auth)?;
                Some(Use { who: id.to_string(), way: old.way_of(&id), at })
            }
            _ => None,
        };
    }
    if operation != "read" || !old.is_secret(request) {
        return None;
    }
    let auth = record.get("auth")?;
    if let Ok(id) = text(auth, "/metadata/spiffe_id").parse::<SpiffeId>() {
        // By a token that the broker made.
        let who = id.to_string();
        return old.counts_brokered.then_some(Use { who, way: Way::Broker, at });
    }
    if let Some(id) = id_of(auth) {
        return Some(Use { who: id.to_string(), way: old.way_of(&id), at });
    }
    Some(Use { who: name_of(auth)?, way: Way::StaticSecret, at })
}

/// The SPIFFE ID by which somebody logged in: JWT authentication has it, with the mount before it,
/// as the display name.
fn id_of(auth: &Value) -> Option<SpiffeId> {
    let name = text(auth, "/display_name");
    name.get(name.find("spiffe://")?..)?.parse().ok()
}

/// Who somebody is for OpenBao: a service account (`namespace/name`), the role of an AppRole, or the
/// display name.
fn name_of(auth: &Value) -> Option<String> {
    let account = |name: &str| text(auth, &format!("/metadata/service_account_{name}"));
    let (namespace, name) = (account("namespace"), account("name"));
    let approle = text(auth, "/metadata/role_name");
    let name = if !namespace.is_empty() && !name.is_empty() {
        format!("{namespace}/{name}")
    } else if text(auth, "/display_name") == "approle" && !approle.is_empty() {
        format!("approle {approle}")
    } else {
        text(auth, "/display_name").to_owned()
    };
    let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    (!name.is_empty()).then_some(name)
}

/// A text of a record, empty where there is none.
fn text<'a>(record: &'a Value, pointer: &str) -> &'a str {
    record.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TIME: &str = "2026-03-01T10:00:00.123456789Z";

    fn read(auth: Value, path: &str) -> Value {
        json!({
            "type": "response", "time": TIME, "auth": auth,
            "request": {
                "operation": "read", "path": path, "mount_type": "kv", "namespace": {"path": "blue/"},
            },
        })
    }

    fn login(mount: &str, auth: Value) -> Value {
        json!({
            "type": "response", "time": TIME,
            "request": {
                "operation": "update", "path": format!("auth/{mount}/login"), "mount_type": mount,
            },
            "response": {"auth": auth},
        })
    }

    fn found(record: &Value, old: &Old) -> Option<(String, Way)> {
        of_openbao(record, old).map(|found| (found.who, found.way))
    }

    fn some(who: &str, way: Way) -> Option<(String, Way)> {
        Some((who.to_owned(), way))
    }

    #[test]
    fn a_read_is_the_old_way_unless_an_identity_did_it() {
        let old = Old { counts_brokered: true, ..Old::default() };
        let kubernetes = json!({
            "display_name": "kubernetes-shop-orders",
            "metadata": {"service_account_namespace": "shop", "service_account_name": "orders"},
        });
        let approle = json!({"display_name": "approle", "metadata": {"role_name": "ci"}});
        let brokered = json!({
            "display_name": "token-x", "metadata": {"spiffe_id": "spiffe://td/w", "tenant": "blue"},
        });
        let direct = json!({"display_name": "jwt-spiffe://td/w", "metadata": {"role": "w"}});
        let path = "secret/data/orders";
        let of = |auth: &Value| found(&read(auth.clone(), path), &old);
        assert_eq!(of(&kubernetes), some("shop/orders", Way::StaticSecret));
        assert_eq!(of(&approle), some("approle ci", Way::StaticSecret));
        assert_eq!(of(&json!({"display_name": "root"})), some("root", Way::StaticSecret));
        assert_eq!(of(&brokered), some("spiffe://td/w", Way::Broker));
        assert_eq!(of(&direct), some("spiffe://td/w", Way::SvidLogin));
        // The broker's own records say it already.
        assert_eq!(found(&read(brokered, path), &Old::default()), None);
        assert_eq!(found(&read(approle.clone(), "secret/metadata/orders"), &old), None);
        let mut refused = read(approle, path);
        refused["error"] = json!("permission denied");
        assert_eq!(found(&refused, &old), None);
    }

    #[test]
    fn a_path_is_named_with_its_namespace_and_ends_at_a_slash() {
        let root = json!({"display_name": "root"});
        let old = |path: &str| Old { paths: vec![path.to_owned()], ..Old::default() };
        let is_old = |path: &str, old: &Old| found(&read(root.clone(), path), old).is_some();
        assert!(is_old("secret/data/orders", &old("blue/secret/data/orders")));
        assert!(is_old("secret/data/orders/db", &old("blue/secret/data/orders")));
        assert!(!is_old("secret/data/orders2", &old("blue/secret/data/orders")));
        assert!(!is_old("secret/data/orders", &old("secret/data/orders")));
    }

    #[test]
    fn a_login_is_old_by_service_account_or_trust_domain_and_new_by_svid() {
        let old = Old { trust_domain: Some("left.example".parse().unwrap()), ..Old::default() };
        let account = json!({
            "display_name": "kubernetes-shop-orders",
            "metadata": {"service_account_namespace": "shop", "service_account_name": "orders"},
        });
        assert_eq!(
            found(&login("kubernetes", account), &old),
            some("shop/orders", Way::ServiceAccount)
        );
        let by = |id: &str, role: &str| {
            let auth = json!({"display_name": format!("jwt-{id}"), "metadata": {"role": role}});
            found(&login("jwt", auth), &old)
        };
        assert_eq!(by("spiffe://td/w", "w"), some("spiffe://td/w", Way::SvidLogin));
        let left = by("spiffe://left.example/w", "w");
        assert_eq!(left, some("spiffe://left.example/w", Way::OldTrustDomain));
        assert_eq!(by("spiffe://td/signet-broker", "signet-broker"), None);
        assert_eq!(by("somebody", "w"), None);
    }

    #[test]
    fn only_credentials_that_the_broker_gave_count() {
        let record = |method: &str, status: &str| {
            json!({
                "type": "audit", "service": "broker", "method": method, "status": status,
                "caller_id": "spiffe://td/w", "time": TIME,
            })
        };
        let drawn = of_broker(&record("IssueCredential", "success")).unwrap();
        assert_eq!((drawn.who.as_str(), drawn.way), ("spiffe://td/w", Way::Broker));
        assert_eq!(drawn.at, UnixTime::from_seconds(1_772_359_200));
        assert_eq!(of_broker(&record("IssueCredential", "error")), None);
        assert_eq!(of_broker(&record("ListLeases", "success")), None);
        assert_eq!(of_broker(&json!({"msg": "started"})), None);
    }
}
