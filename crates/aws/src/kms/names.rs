//! What keys are called, so that SPIRE's servers and these know their own and leave each other's
//! alone.
//!
//! Source: SPIRE's plugin `aws_kms`, version 1.15: aliases
//! `alias/SPIRE_SERVER/<trust domain>/<server>/<key>`, descriptions
//! `SPIRE_SERVER_KEY/<trust domain>/<key>` and tags.

use signet_http::shown;
use signet_pki::key_manager::is_uuid;

use super::BEGUN;
use crate::AwsError;

/// The trust domain.
pub(super) const TAG_DOMAIN: &str = "spire-server-td";
/// The server.
pub(super) const TAG_SERVER: &str = "spire-server-id";
/// `true` while the key is in use.
pub(super) const TAG_ACTIVE: &str = "spire-active";
/// The name of the key.
pub(super) const TAG_KEY: &str = "spire-key-id";
/// When its server was last there, seconds since 1970.
pub(super) const TAG_UPDATED: &str = "spire-last-update";

const ALIASES: &str = "alias/SPIRE_SERVER";
const DESCRIPTIONS: &str = "SPIRE_SERVER_KEY";
/// The longest alias.
const MAX_ALIAS: usize = 256;

/// The names of one server's keys.
#[derive(Debug)]
pub(super) struct Names {
    /// The trust domain without dots.
    domain: String,
    /// The server's ID without empty segments.
    server: String,
}

impl Names {
    pub(super) fn new(trust_domain: &str, server_id: &str) -> Result<Self, AwsError> {
        let server: Vec<&str> = server_id.split('/').filter(|part| !part.is_empty()).collect();
        let names = Self { domain: trust_domain.replace('.', "_"), server: server.join("/") };
        if names.server.is_empty() || !server_id.bytes().all(is_fit) {
            return Err(AwsError::Setting(format!(
                "{:?} cannot be part of an alias: expected letters, digits, \"_\", \"-\" and \"/\"",
                shown(server_id)
            )));
        }
        Ok(names)
    }

    /// The alias of the key with this name.
    pub(super) fn alias(&self, id: &str) -> Result<String, AwsError> {
        let encoded = id.replace('.', "_2e").replace('+', "_2b");
        let alias = format!("{ALIASES}/{}/{}/{encoded}", self.domain, self.server);
        if encoded.is_empty()
            || encoded.contains('/')
            || !alias.bytes().all(is_fit)
            || alias.len() > MAX_ALIAS
        {
            return Err(AwsError::Setting(format!(
                "{:?} cannot be an alias of KMS: expected at most {MAX_ALIAS} letters, digits, \
                 \"_\" and \"-\"",
                shown(&alias)
            )));
        }
        Ok(alias)
    }

    /// The name of the key with this alias, if it is this server's.
    pub(super) fn id_of(&self, alias: &str) -> Option<String> {
        let id = self.in_domain(alias)?.strip_prefix(&*self.server)?.strip_prefix('/')?;
        // Of a server whose ID goes on where this one's ends.
        if id.is_empty() || id.contains('/') {
            return None;
        }
        Some(id.replace("_2e", ".").replace("_2b", "+"))
    }

    /// Whether this is the alias of another server of the trust domain.
    pub(super) fn is_of_another(&self, alias: &str) -> bool {
        self.in_domain(alias).is_some_and(|rest| rest.contains('/')) && self.id_of(alias).is_none()
    }

    fn in_domain<'a>(&self, alias: &'a str) -> Option<&'a str> {
        alias
            .strip_prefix(ALIASES)?
            .strip_prefix('/')?
            .strip_prefix(&*self.domain)?
            .strip_prefix('/')
    }

    /// The description of a new key: SPIRE's, and after it the server and the handle, by which a
    /// key is found whose maker never learned its ARN.
    pub(super) fn description(&self, id: &str, handle: &str) -> String {
        let mark = handle.strip_prefix(BEGUN).unwrap_or(handle);
        format!("{DESCRIPTIONS}/{}/{id}/{}/{mark}", self.domain, self.server)
    }

    /// Whether a key of this description is one of the trust domain.
    pub(super) fn is_described(&self, description: &str) -> bool {
        let rest = description.strip_prefix(DESCRIPTIONS).and_then(|rest| rest.strip_prefix('/'));
        let rest = rest.and_then(|rest| rest.strip_prefix(&*self.domain));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The handle under which this server has begun to make the key of this description.
    pub(super) fn handle_of(&self, description: &str) -> Option<String> {
        if !self.is_described(description) {
            return None;
        }
        let (rest, mark) = description.rsplit_once('/')?;
        let is_own = rest.strip_suffix(&*self.server).is_some_and(|rest| rest.ends_with('/'));
        (is_own && is_uuid(mark)).then(|| format!("{BEGUN}{mark}"))
    }
}

/// Whether an alias can have this byte.
fn is_fit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/_-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(server: &str) -> Names {
        Names::new("example.org", server).unwrap()
    }

    #[test]
    fn keys_are_named_as_spire_names_them() {
        let own = names("server-1");
        let alias = own.alias("x509-CA-A").unwrap();
        assert_eq!(alias, "alias/SPIRE_SERVER/example_org/server-1/x509-CA-A");
        assert_eq!(own.id_of(&alias).unwrap(), "x509-CA-A");
        let odd = own.alias("a.b+c").unwrap();
        assert!(odd.ends_with("/a_2eb_2bc"), "{odd}");
        assert_eq!(own.id_of(&odd).unwrap(), "a.b+c");
        assert_eq!(names("/a//b/").alias("k").unwrap(), "alias/SPIRE_SERVER/example_org/a/b/k");
        for bad in ["", "a/b", "ä", &"x".repeat(256)] {
            assert!(own.alias(bad).is_err(), "{bad}");
        }
        for bad in ["", "/", "a b", "a[b", "ä"] {
            assert!(Names::new("example.org", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_compared_part_by_part() {
        let own = names("server-1");
        let at = |rest: &str| format!("alias/SPIRE_SERVER/{rest}");
        for (alias, is_own, is_of_another) in [
            (at("example_org/server-1/k"), true, false),
            (at("example_org/server-10/k"), false, true),
            (at("example_org/server-1/sub/k"), false, true),
            (at("example_org_eu/server-1/k"), false, false),
            (at("example_org"), false, false),
            (at("example_org/k"), false, false),
            ("alias/aws/s3".to_owned(), false, false),
            ("alias/SPIRE_SERVERS/example_org/s/k".to_owned(), false, false),
        ] {
            assert_eq!(own.id_of(&alias).is_some(), is_own, "{alias}");
            assert_eq!(own.is_of_another(&alias), is_of_another, "{alias}");
        }
    }

    #[test]
    fn a_key_without_an_alias_is_known_by_its_description() {
        let own = names("server-1");
        let handle = "new/0b2d8d4e-6a4c-4f0e-9d43-0d2f2f0f5a01";
        let description = own.description("x509-CA-A", handle);
        assert!(description.starts_with("SPIRE_SERVER_KEY/example_org/x509-CA-A/"));
        assert_eq!(own.handle_of(&description).as_deref(), Some(handle));
        assert!(own.is_described("SPIRE_SERVER_KEY/example_org/x509-CA-A"));
        assert!(own.handle_of("SPIRE_SERVER_KEY/example_org/x509-CA-A").is_none());
        for other in [names("server-10"), names("1"), names("x/server-1")] {
            assert!(other.is_described(&description), "{other:?}");
            assert!(other.handle_of(&description).is_none(), "{other:?}");
        }
        for foreign in ["SPIRE_SERVER_KEY/example_org_eu/k", "SPIRE_SERVER/example_org/k", ""] {
            assert!(!own.is_described(foreign), "{foreign}");
        }
    }
}
