//! Who may call what: SPIRE's callers table, and our own services.

/// Anyone, with or without a certificate.
pub const ANYONE: u8 = 1;
/// Processes on the local socket.
pub const LOCAL: u8 = 1 << 1;
/// Administrators, by configuration or entry.
pub const ADMIN: u8 = 1 << 2;
/// Workloads with a downstream entry.
pub const DOWNSTREAM: u8 = 1 << 3;
/// Attested agents.
pub const AGENT: u8 = 1 << 4;
/// The service is there on the local socket only.
pub const LOCAL_ONLY: u8 = 1 << 7;

/// A method and who may call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The method as in the request path, without its leading slash.
    pub method: &'static str,
    /// A union of the constants above.
    pub callers: u8,
}

impl Rule {
    /// Whether any of `callers` may call the method.
    pub fn allows(&self, callers: u8) -> bool {
        self.callers & callers != 0
    }
}

/// The rule for a request path (`/package.Service/Method`); `None` for what is not served.
pub fn rule(path: &str) -> Option<&'static Rule> {
    let method = path.strip_prefix('/')?;
    let at = TABLE.binary_search_by(|rule| rule.method.cmp(method)).ok()?;
    TABLE.get(at)
}

const fn rule_of(method: &'static str, callers: u8) -> Rule {
    Rule { method, callers }
}

/// Sorted by method.
const TABLE: &[Rule] = &[
    rule_of("grpc.health.v1.Health/Check", LOCAL | LOCAL_ONLY),
    rule_of("grpc.health.v1.Health/List", LOCAL | LOCAL_ONLY),
    rule_of("grpc.health.v1.Health/Watch", LOCAL | LOCAL_ONLY),
    rule_of("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", LOCAL | LOCAL_ONLY),
    rule_of("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", LOCAL | LOCAL_ONLY),
    rule_of("signet.api.push.v1.Push/ListEntryChanges", LOCAL | ADMIN),
    rule_of("signet.api.push.v1.Push/Subscribe", LOCAL | ADMIN | AGENT),
    rule_of("signet.api.server.explain.v1.Explain/ExplainEntries", LOCAL | ADMIN),
    rule_of("spire.api.server.agent.v1.Agent/AttestAgent", ANYONE),
    rule_of("spire.api.server.agent.v1.Agent/BanAgent", LOCAL | ADMIN),
    rule_of("spire.api.server.agent.v1.Agent/CountAgents", LOCAL | ADMIN),
    rule_of("spire.api.server.agent.v1.Agent/CreateJoinToken", LOCAL | ADMIN),
    rule_of("spire.api.server.agent.v1.Agent/DeleteAgent", LOCAL | ADMIN),
    rule_of("spire.api.server.agent.v1.Agent/GetAgent", LOCAL | ADMIN),
    rule_of("spire.api.server.agent.v1.Agent/ListAgents", LOCAL | ADMIN),
    rule_of("spire.api.server.agent.v1.Agent/PostStatus", AGENT),
    rule_of("spire.api.server.agent.v1.Agent/RenewAgent", AGENT),
    rule_of("spire.api.server.bundle.v1.Bundle/AppendBundle", LOCAL | ADMIN),
    rule_of("spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle", LOCAL | ADMIN),
    rule_of("spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle", LOCAL | ADMIN),
    rule_of("spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle", LOCAL | ADMIN),
    rule_of("spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle", LOCAL | ADMIN),
    rule_of("spire.api.server.bundle.v1.Bundle/CountBundles", LOCAL | ADMIN),
    rule_of("spire.api.server.bundle.v1.Bundle/GetBundle", ANYONE),
    rule_of("spire.api.server.bundle.v1.Bundle/GetFederatedBundle", LOCAL | ADMIN | AGENT),
    rule_of("spire.api.server.bundle.v1.Bundle/ListFederatedBundles", LOCAL | ADMIN),
    rule_of("spire.api.server.bundle.v1.Bundle/PublishJWTAuthority", DOWNSTREAM),
    rule_of("spire.api.server.bundle.v1.Bundle/PublishWITAuthority", DOWNSTREAM),
    rule_of("spire.api.server.debug.v1.Debug/GetInfo", LOCAL | LOCAL_ONLY),
    rule_of("spire.api.server.entry.v1.Entry/BatchCreateEntry", LOCAL | ADMIN),
    rule_of("spire.api.server.entry.v1.Entry/BatchDeleteEntry", LOCAL | ADMIN),
    rule_of("spire.api.server.entry.v1.Entry/BatchUpdateEntry", LOCAL | ADMIN),
    rule_of("spire.api.server.entry.v1.Entry/CountEntries", LOCAL | ADMIN),
    rule_of("spire.api.server.entry.v1.Entry/GetAuthorizedEntries", AGENT),
    rule_of("spire.api.server.entry.v1.Entry/GetEntry", LOCAL | ADMIN),
    rule_of("spire.api.server.entry.v1.Entry/ListEntries", LOCAL | ADMIN),
    rule_of("spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", AGENT),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority",
        LOCAL | ADMIN,
    ),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority",
        LOCAL | ADMIN,
    ),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority",
        LOCAL | ADMIN,
    ),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState",
        LOCAL | ADMIN,
    ),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState",
        LOCAL | ADMIN,
    ),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState",
        LOCAL | ADMIN,
    ),
    rule_of("spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority", LOCAL | ADMIN),
    rule_of("spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority", LOCAL | ADMIN),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority",
        LOCAL | ADMIN,
    ),
    rule_of("spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority", LOCAL | ADMIN),
    rule_of("spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority", LOCAL | ADMIN),
    rule_of("spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority", LOCAL | ADMIN),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority",
        LOCAL | ADMIN,
    ),
    rule_of("spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority", LOCAL | ADMIN),
    rule_of("spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority", LOCAL | ADMIN),
    rule_of("spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority", LOCAL | ADMIN),
    rule_of(
        "spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority",
        LOCAL | ADMIN,
    ),
    rule_of("spire.api.server.logger.v1.Logger/GetLogger", LOCAL | LOCAL_ONLY),
    rule_of("spire.api.server.logger.v1.Logger/ResetLogLevel", LOCAL | LOCAL_ONLY),
    rule_of("spire.api.server.logger.v1.Logger/SetLogLevel", LOCAL | LOCAL_ONLY),
    rule_of("spire.api.server.svid.v1.SVID/BatchNewWITSVID", AGENT),
    rule_of("spire.api.server.svid.v1.SVID/BatchNewX509SVID", AGENT),
    rule_of("spire.api.server.svid.v1.SVID/MintJWTSVID", LOCAL | ADMIN),
    rule_of("spire.api.server.svid.v1.SVID/MintWITSVID", LOCAL | ADMIN),
    rule_of("spire.api.server.svid.v1.SVID/MintX509SVID", LOCAL | ADMIN),
    rule_of("spire.api.server.svid.v1.SVID/NewDownstreamX509CA", DOWNSTREAM),
    rule_of("spire.api.server.svid.v1.SVID/NewJWTSVID", AGENT),
    rule_of(
        "spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship",
        LOCAL | ADMIN,
    ),
    rule_of(
        "spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship",
        LOCAL | ADMIN,
    ),
    rule_of(
        "spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship",
        LOCAL | ADMIN,
    ),
    rule_of("spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship", LOCAL | ADMIN),
    rule_of(
        "spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships",
        LOCAL | ADMIN,
    ),
    rule_of("spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle", LOCAL | ADMIN),
];

/// Every method that has a rule.
pub fn methods() -> impl Iterator<Item = &'static Rule> {
    TABLE.iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_every_rule_is_found() {
        assert!(TABLE.is_sorted_by(|a, b| a.method < b.method));
        for known in TABLE {
            assert_eq!(rule(&format!("/{}", known.method)), Some(known));
        }
        assert_eq!(rule("/spire.api.server.entry.v1.Entry/Nothing"), None);
        assert_eq!(rule(""), None);
    }

    #[test]
    fn agents_never_write_and_only_attestation_and_the_bundle_are_open() {
        let open: Vec<_> = methods().filter(|r| r.allows(ANYONE)).map(|r| r.method).collect();
        assert_eq!(
            open,
            [
                "spire.api.server.agent.v1.Agent/AttestAgent",
                "spire.api.server.bundle.v1.Bundle/GetBundle"
            ]
        );
        for rule in methods().filter(|rule| rule.allows(AGENT)) {
            let name = rule.method.rsplit('/').next().unwrap();
            assert!(
                !["Create", "Update", "Delete", "Set", "Append", "Mint"]
                    .iter()
                    .any(|word| name.contains(word)),
                "{name}"
            );
        }
    }
}
