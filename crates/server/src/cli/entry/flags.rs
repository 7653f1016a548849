//! The flags of entry commands.

use signet_api::pb::{
    signet::api::server::tenancy::v1::EntryTenant,
    spire::api::{
        server::entry::v1 as pb,
        types::{self, entry::AdditionalAttributes},
    },
};
use signet_identity::spiffe_id::SERVER_PATH;
use signet_time::UnixTime;

use super::data;
use crate::cli::{
    env::{CliError, CommonFlags, Env},
    text::{self, MatchOn},
};

/// Which entries are meant.
#[derive(Debug, clap::Args)]
pub struct FilterFlags {
    /// Only entries with this SPIFFE ID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// Only entries with this parent
    #[arg(long = "parentID", value_name = "ID")]
    parent_id: Option<String>,
    /// Only entries with this selector, type:value; may be repeated
    #[arg(long = "selector", value_name = "SELECTOR")]
    selector: Vec<String>,
    /// How to compare selectors
    #[arg(long = "matchSelectorsOn", value_name = "MODE", value_enum, default_value = "superset")]
    match_selectors_on: MatchOn,
    /// Only entries that federate with this trust domain; may be repeated
    #[arg(long = "federatesWith", value_name = "ID")]
    federates_with: Vec<String>,
    /// How to compare federated trust domains
    #[arg(
        long = "matchFederatesWithOn",
        value_name = "MODE",
        value_enum,
        default_value = "superset"
    )]
    match_federates_with_on: MatchOn,
    /// Only entries of nested servers
    #[arg(long = "downstream")]
    downstream: bool,
    /// Only entries with this hint
    #[arg(long = "hint", value_name = "TEXT")]
    hint: Option<String>,
}

impl FilterFlags {
    /// Whether a flag is set that `-entryID` excludes.
    pub(super) fn names_something(&self) -> bool {
        self.spiffe_id.is_some() || self.parent_id.is_some() || !self.selector.is_empty()
    }

    pub(super) fn read(&self) -> Result<pb::list_entries_request::Filter, CliError> {
        let id = |flag: &str, text: &Option<String>| {
            let given = text.as_deref().filter(|text| !text.is_empty());
            given.map(|text| text::parse_id(flag, text)).transpose()
        };
        let mut filter = pb::list_entries_request::Filter {
            by_spiffe_id: id("spiffeID", &self.spiffe_id)?,
            by_parent_id: id("parentID", &self.parent_id)?,
            by_hint: self.hint.clone().filter(|hint| !hint.is_empty()),
            by_downstream: self.downstream.then_some(true),
            ..Default::default()
        };
        if !self.selector.is_empty() {
            filter.by_selectors = Some(types::SelectorMatch {
                selectors: text::parse_selectors(&self.selector)?,
                r#match: self.match_selectors_on.number(),
            });
        }
        if !self.federates_with.is_empty() {
            filter.by_federates_with = Some(types::FederatesWithMatch {
                trust_domains: self.federates_with.clone(),
                r#match: self.match_federates_with_on.number(),
            });
        }
        Ok(filter)
    }
}

/// An entry on the command line.
#[derive(Debug, Default, clap::Args)]
pub struct EntryFlags {
    /// SPIFFE ID to issue
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// Parent: the agent (or node alias) behind which the workload runs
    #[arg(long = "parentID", value_name = "ID")]
    parent_id: Option<String>,
    /// Selector that the workload must have, type:value; may be repeated
    #[arg(long = "selector", value_name = "SELECTOR")]
    selector: Vec<String>,
    /// DNS name for X.509-SVIDs; may be repeated
    #[arg(long = "dns", value_name = "NAME")]
    dns: Vec<String>,
    /// Trust domain whose bundle the workload gets; may be repeated
    #[arg(long = "federatesWith", value_name = "ID")]
    federates_with: Vec<String>,
    /// Let the identity use the server's admin API
    #[arg(long = "admin")]
    admin: bool,
    /// Let the identity ask for an intermediate CA: for nested servers
    #[arg(long = "downstream")]
    downstream: bool,
    /// Push the SVID to a secret store instead of serving it
    #[arg(long = "storeSVID")]
    store_svid: bool,
    /// Tells several identities of one workload apart
    #[arg(long = "hint", value_name = "TEXT", default_value = "", hide_default_value = true)]
    hint: String,
    /// ID of the entry; when creating, one is made up unless given
    #[arg(long = "entryID", value_name = "ID", default_value = "", hide_default_value = true)]
    entry_id: String,
    /// When the entry expires, seconds since 1970 or like 2027-01-31T12:00:00Z; 0 for never
    #[arg(long = "entryExpiry", value_name = "TIME", default_value = "0",
        allow_hyphen_values = true, value_parser = text::unix_time)]
    entry_expiry: UnixTime,
    /// Life of X.509-SVIDs, seconds or like 1h30m; 0 for the server's default
    #[arg(long = "x509SVIDTTL", value_name = "SECONDS", default_value_t = 0,
        allow_hyphen_values = true, value_parser = text::seconds)]
    x509_svid_ttl: i32,
    /// Life of JWT-SVIDs, seconds or like 5m; 0 for the server's default
    #[arg(long = "jwtSVIDTTL", value_name = "SECONDS", default_value_t = 0,
        allow_hyphen_values = true, value_parser = text::seconds)]
    jwt_svid_ttl: i32,
    /// Put a unique jti into each JWT-SVID; such tokens are never cached
    #[arg(long = "jwtSVIDIncludeJTI")]
    jwt_svid_include_jti: bool,
    /// Sign the X.509-SVID on demand only
    #[arg(long = "disableX509SVIDPrefetch")]
    disable_x509_svid_prefetch: bool,
    /// Tenant that the entry belongs to; with -data, all entries of the file
    #[arg(long = "tenant", value_name = "TENANT")]
    tenant: Option<String>,
    /// Put the tenant into each JWT-SVID, as the claim tenant
    #[arg(long = "jwtSVIDTenantClaim", requires = "tenant")]
    jwt_svid_tenant_claim: bool,
    /// File with entries as JSON, or - for standard input; other flags are ignored then
    #[arg(long = "data", value_name = "FILE")]
    data: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `entry create`.
#[derive(Debug, clap::Args)]
pub struct CreateFlags {
    #[command(flatten)]
    entry: EntryFlags,
    /// Make it a node alias: it names all nodes with these selectors, and can be a -parentID
    #[arg(long = "node")]
    node: bool,
}

/// The flags of `entry update`.
#[derive(Debug, clap::Args)]
pub struct UpdateFlags {
    #[command(flatten)]
    entry: EntryFlags,
}

impl CreateFlags {
    pub(super) fn owner(&self) -> Option<EntryTenant> {
        self.entry.owner()
    }

    pub(super) fn common(&self) -> &CommonFlags {
        &self.entry.common
    }

    pub(super) fn entries(&self, env: &mut Env) -> Result<Vec<types::Entry>, CliError> {
        if let Some(file) = &self.entry.data {
            return data::entries(&env.read(file)?, file, env);
        }
        self.entry.entry(self.node).map(|entry| vec![entry])
    }
}

impl UpdateFlags {
    pub(super) fn owner(&self) -> Option<EntryTenant> {
        self.entry.owner()
    }

    pub(super) fn common(&self) -> &CommonFlags {
        &self.entry.common
    }

    pub(super) fn entries(&self, env: &mut Env) -> Result<Vec<types::Entry>, CliError> {
        if let Some(file) = &self.entry.data {
            return data::entries(&env.read(file)?, file, env);
        }
        if self.entry.entry_id.is_empty() {
            return Err(CliError::usage("entry ID is required: name it with -entryID"));
        }
        self.entry.entry(false).map(|entry| vec![entry])
    }
}

impl EntryFlags {
    /// Whose the entries are, if that is said.
    pub(super) fn owner(&self) -> Option<EntryTenant> {
        self.tenant
            .clone()
            .map(|tenant| EntryTenant { tenant, jwt_svid_tenant_claim: self.jwt_svid_tenant_claim })
    }

    fn entry(&self, is_node: bool) -> Result<types::Entry, CliError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if self.selector.is_empty() {
            return Err(CliError::usage("at least one selector is required (-selector)"));
        }
        let parent = given(&self.parent_id);
        if parent.is_none() && !is_node {
            return Err(CliError::usage(
                "a parent ID is required if the node flag is not set (-parentID)",
            ));
        }
        let spiffe_id = given(&self.spiffe_id)
            .ok_or_else(|| CliError::usage("a SPIFFE ID is required (-spiffeID)"))?;
        if self.x509_svid_ttl < 0 {
            return Err(CliError::usage("a positive x509-SVID TTL is required"));
        }
        if self.jwt_svid_ttl < 0 {
            return Err(CliError::usage("a positive JWT-SVID TTL is required"));
        }
        let spiffe_id = text::parse_id("spiffeID", &spiffe_id)?;
        let parent_id = match parent {
            _ if is_node => types::Spiffeid {
                trust_domain: spiffe_id.trust_domain.clone(),
                path: SERVER_PATH.to_owned(),
            },
            parent => text::parse_id("parentID", &parent.unwrap_or_default())?,
        };
        let extras = self.disable_x509_svid_prefetch || self.jwt_svid_include_jti;
        Ok(types::Entry {
            id: self.entry_id.clone(),
            spiffe_id: Some(spiffe_id),
            parent_id: Some(parent_id),
            selectors: text::parse_selectors(&self.selector)?,
            x509_svid_ttl: self.x509_svid_ttl,
            federates_with: self.federates_with.clone(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.entry_expiry.seconds(),
            dns_names: self.dns.clone(),
            store_svid: self.store_svid,
            jwt_svid_ttl: self.jwt_svid_ttl,
            hint: self.hint.clone(),
            additional_attributes: extras.then_some(AdditionalAttributes {
                disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
                jwt_svid_include_jti: self.jwt_svid_include_jti,
            }),
            revision_number: 0,
            created_at: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> EntryFlags {
        EntryFlags {
            spiffe_id: Some("spiffe://td/w".into()),
            parent_id: Some("spiffe://td/n".into()),
            selector: vec!["unix:uid:0".into()],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_flag() {
        assert!(flags().entry(false).is_ok());
        for (flags, flag) in [
            (EntryFlags { selector: Vec::new(), ..flags() }, "-selector"),
            (EntryFlags { parent_id: None, ..flags() }, "-parentID"),
            (EntryFlags { spiffe_id: Some(String::new()), ..flags() }, "-spiffeID"),
            (EntryFlags { spiffe_id: Some("bad".into()), ..flags() }, "-spiffeID"),
            (EntryFlags { x509_svid_ttl: -1, ..flags() }, "x509-SVID TTL"),
        ] {
            let refused = flags.entry(false).unwrap_err();
            assert!(refused.to_string().contains(flag), "{refused}");
            assert_eq!(refused.exit_code(), signet_daemon::cli::EXIT_USAGE);
        }
    }

    #[test]
    fn a_node_alias_is_parented_to_the_server() {
        let entry = EntryFlags { parent_id: None, ..flags() }.entry(true).unwrap();
        assert_eq!(text::id(entry.parent_id.as_ref()), "spiffe://td/spire/server");
    }
}
