//! What the authority needs from its surroundings: a place for its journal and for the bundle.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use signet_identity::{Bundle, JwtAuthority, X509Authority};

use crate::error::AuthorityError;
pub use crate::error::PortError;

/// Where this server's journal lives: opaque, versioned bytes without secrets.
///
/// Several servers may share one store; each has a journal of its own.
#[async_trait]
pub trait JournalStore: Send + Sync + fmt::Debug {
    /// The journal as last saved; `None` if it never was.
    async fn load(&self) -> Result<Option<Vec<u8>>, PortError>;

    /// Stores the journal. It is durable when this returns; after an error the one before is
    /// still there.
    async fn save(&self, data: Vec<u8>) -> Result<(), PortError>;
}

/// Changes to the own trust domain's bundle, made in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleEdit {
    /// X.509 authorities to add (DER, one certificate each) unless they are there.
    pub append_x509: Vec<Arc<[u8]>>,
    /// JWT authorities to add unless their key ID is there.
    pub append_jwt: Vec<JwtAuthority>,
    /// WIT authorities to add unless their key ID is there.
    pub append_wit: Vec<JwtAuthority>,
    /// X.509 authorities (DER) to mark tainted.
    pub taint_x509: Vec<Arc<[u8]>>,
    /// JWT authorities (key IDs) to mark tainted.
    pub taint_jwt: Vec<Arc<str>>,
    /// WIT authorities (key IDs) to mark tainted.
    pub taint_wit: Vec<Arc<str>>,
    /// X.509 authorities (DER) to remove.
    pub remove_x509: Vec<Arc<[u8]>>,
    /// JWT authorities (key IDs) to remove.
    pub remove_jwt: Vec<Arc<str>>,
    /// WIT authorities (key IDs) to remove.
    pub remove_wit: Vec<Arc<str>>,
}

impl BundleEdit {
    /// Applies the edit and says whether anything changed. The sequence number is the store's.
    pub fn apply(&self, bundle: &mut Bundle) -> bool {
        let mut changed = false;
        for der in &self.append_x509 {
            if !bundle.x509_authorities.iter().any(|a| a.der == *der) {
                bundle
                    .x509_authorities
                    .push(X509Authority { der: Arc::clone(der), tainted: false });
                changed = true;
            }
        }
        for authority in &mut bundle.x509_authorities {
            if !authority.tainted && self.taint_x509.contains(&authority.der) {
                authority.tainted = true;
                changed = true;
            }
        }
        let before = bundle.x509_authorities.len();
        bundle.x509_authorities.retain(|a| !self.remove_x509.contains(&a.der));
        changed |= before != bundle.x509_authorities.len();
        let jwt = [&self.taint_jwt, &self.remove_jwt];
        let wit = [&self.taint_wit, &self.remove_wit];
        changed |= edit_keys(&mut bundle.jwt_authorities, &self.append_jwt, jwt);
        changed |= edit_keys(&mut bundle.wit_authorities, &self.append_wit, wit);
        changed
    }

    /// Whether the edit asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Adds, taints and removes keys; says whether anything changed.
fn edit_keys(
    keys: &mut Vec<JwtAuthority>,
    append: &[JwtAuthority],
    [taint, remove]: [&Vec<Arc<str>>; 2],
) -> bool {
    let mut changed = false;
    for key in append {
        if !keys.iter().any(|known| known.key_id == key.key_id) {
            keys.push(key.clone());
            changed = true;
        }
    }
    for key in keys.iter_mut() {
        if !key.tainted && taint.contains(&key.key_id) {
            key.tainted = true;
            changed = true;
        }
    }
    let before = keys.len();
    keys.retain(|key| !remove.contains(&key.key_id));
    changed | (before != keys.len())
}

/// The own trust domain's bundle, shared with the other servers of the trust domain.
#[async_trait]
pub trait BundleStore: Send + Sync + fmt::Debug {
    /// The bundle as stored; `None` before anything was ever added.
    async fn bundle(&self) -> Result<Option<Bundle>, PortError>;

    /// Makes the edit durable in one transaction (see [`BundleEdit::apply`]; the sequence number
    /// grows by one if anything changed) and answers with the bundle after it and whether
    /// anything changed.
    async fn edit(&self, edit: BundleEdit) -> Result<(Bundle, bool), PortError>;
}

/// Is told of what becomes of authorities. Called from the task that owns them, so it must be quick.
pub trait AuthorityObserver: Send + Sync + fmt::Debug {
    /// The next authority of `kind` (as logs name it: `X509 CA`, `JWT key`) was prepared in this time, or was not.
    fn prepared(&self, kind: &'static str, elapsed: Duration, outcome: Result<(), &AuthorityError>);

    /// The prepared authority of `kind` signs from now on.
    fn activated(&self, kind: &'static str);

    /// The bundle was looked through for what has expired, in this time; whether anything was
    /// dropped.
    fn pruned(&self, elapsed: Duration, outcome: Result<bool, &AuthorityError>);
}

#[cfg(test)]
mod tests {
    use signet_time::UnixTime;

    use super::*;

    fn jwt(kid: &str) -> JwtAuthority {
        JwtAuthority {
            public_key: Arc::from([1]),
            key_id: kid.into(),
            expires_at: UnixTime::from_seconds(5),
            tainted: false,
        }
    }

    #[test]
    fn an_edit_is_idempotent() {
        let mut bundle = Bundle::empty("td".parse().unwrap());
        let edit = BundleEdit {
            append_x509: vec![Arc::from([1, 2]), Arc::from([3])],
            append_jwt: vec![jwt("k")],
            append_wit: vec![jwt("w")],
            ..BundleEdit::default()
        };
        assert!(edit.apply(&mut bundle));
        assert!(!edit.apply(&mut bundle));
        assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (2, 1));
        assert_eq!(bundle.wit_authorities, [jwt("w")]);
    }

    #[test]
    fn taints_and_removes_only_what_is_named() {
        let mut bundle = Bundle::empty("td".parse().unwrap());
        BundleEdit {
            append_x509: vec![Arc::from([1]), Arc::from([2])],
            append_jwt: vec![jwt("a"), jwt("b")],
            append_wit: vec![jwt("a"), jwt("b")],
            ..BundleEdit::default()
        }
        .apply(&mut bundle);
        let taint = BundleEdit {
            taint_x509: vec![Arc::from([1])],
            taint_jwt: vec!["b".into()],
            taint_wit: vec!["a".into()],
            ..BundleEdit::default()
        };
        assert!(taint.apply(&mut bundle) && !taint.apply(&mut bundle));
        assert!(bundle.x509_authorities[0].tainted && !bundle.x509_authorities[1].tainted);
        assert!(!bundle.jwt_authorities[0].tainted && bundle.jwt_authorities[1].tainted);
        let remove = BundleEdit {
            remove_x509: vec![Arc::from([1])],
            remove_jwt: vec!["zzz".into()],
            remove_wit: vec!["b".into()],
            ..BundleEdit::default()
        };
        assert!(remove.apply(&mut bundle) && !remove.apply(&mut bundle));
        assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 2));
        let [left] = bundle.wit_authorities.as_slice() else { panic!("{bundle:?}") };
        assert!(left.tainted && &*left.key_id == "a");
    }
}
