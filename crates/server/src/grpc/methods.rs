//! Which method of the API is which action.

use signet_daemon::metrics::short_service;

use crate::usecase::authorization::Action::{self, *};

/// A method, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The service, with its package.
    pub service: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What a caller does with it.
    pub action: Action,
    /// The service is there on the local socket only.
    pub local_only: bool,
}

impl Method {
    /// The service as SPIRE logs it: without the prefix that most of them have.
    pub fn logged_service(&self) -> &'static str {
        short_service(self.service)
    }
}

/// The method of a request path (`/package.Service/Method`); `None` for what is not served.
pub fn method(path: &str) -> Option<&'static Method> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    let key = |method: &Method| (method.service, method.name).cmp(&(service, name));
    TABLE.get(TABLE.binary_search_by(key).ok()?)
}

/// Every method that is served.
pub fn methods() -> impl Iterator<Item = &'static Method> {
    TABLE.iter()
}

/// Every service that is served on the local socket, once.
pub fn services() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    methods().map(|method| method.service).filter(move |service| {
        let is_new = *service != last;
        last = *service;
        is_new
    })
}

const fn everywhere(service: &'static str, name: &'static str, action: Action) -> Method {
    Method { service, name, action, local_only: false }
}

const fn local(service: &'static str, name: &'static str, action: Action) -> Method {
    Method { service, name, action, local_only: true }
}

/// Sorted by service and name.
const TABLE: &[Method] = &[
    local("grpc.health.v1.Health", "Check", ReadHealth),
    local("grpc.health.v1.Health", "List", ReadHealth),
    local("grpc.health.v1.Health", "Watch", ReadHealth),
    local("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", DescribeApi),
    local("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", DescribeApi),
    everywhere("signet.api.push.v1.Push", "ListEntryChanges", FollowEntries),
    everywhere("signet.api.push.v1.Push", "Subscribe", WatchChanges),
    local("signet.api.server.console.v1.Console", "Login", OpenConsole),
    everywhere("signet.api.server.explain.v1.Explain", "ExplainEntries", ExplainEntries),
    everywhere("signet.api.server.federation.v1.Federation", "ListRelationships", ReadFederation),
    everywhere("signet.api.server.federation.v1.Federation", "RefreshBundle", RefreshFederation),
    everywhere("signet.api.server.federation.v1.Federation", "ReportUnknownKey", ReportUnknownKey),
    everywhere(
        "signet.api.server.localauthority.v1.SecondJwtAuthority",
        "GetState",
        ReadAuthorities,
    ),
    everywhere(
        "signet.api.server.localauthority.v1.SecondJwtAuthority",
        "Prepare",
        ManageAuthorities,
    ),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "BatchCreateEntry", CreateEntries),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "BatchUpdateEntry", UpdateEntries),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "CreateJoinToken", CreateJoinToken),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "DeleteTenant", ManageTenants),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "GetEntryTenants", ReadEntries),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "ListAssignments", ReadTenants),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "ListTenants", ReadTenants),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "SetAssignment", ManageTenants),
    everywhere("signet.api.server.tenancy.v1.Tenancy", "SetTenant", ManageTenants),
    everywhere("spire.api.server.agent.v1.Agent", "AttestAgent", AttestAgent),
    everywhere("spire.api.server.agent.v1.Agent", "BanAgent", BanAgent),
    everywhere("spire.api.server.agent.v1.Agent", "CountAgents", ReadAgents),
    everywhere("spire.api.server.agent.v1.Agent", "CreateJoinToken", CreateJoinToken),
    everywhere("spire.api.server.agent.v1.Agent", "DeleteAgent", DeleteAgent),
    everywhere("spire.api.server.agent.v1.Agent", "GetAgent", ReadAgents),
    everywhere("spire.api.server.agent.v1.Agent", "ListAgents", ReadAgents),
    everywhere("spire.api.server.agent.v1.Agent", "PostStatus", ReportAgentStatus),
    everywhere("spire.api.server.agent.v1.Agent", "RenewAgent", RenewAgent),
    everywhere("spire.api.server.bundle.v1.Bundle", "AppendBundle", AppendBundle),
    everywhere("spire.api.server.bundle.v1.Bundle", "BatchCreateFederatedBundle", ManageBundles),
    everywhere("spire.api.server.bundle.v1.Bundle", "BatchDeleteFederatedBundle", ManageBundles),
    everywhere("spire.api.server.bundle.v1.Bundle", "BatchSetFederatedBundle", ManageBundles),
    everywhere("spire.api.server.bundle.v1.Bundle", "BatchUpdateFederatedBundle", ManageBundles),
    everywhere("spire.api.server.bundle.v1.Bundle", "CountBundles", ReadBundles),
    everywhere("spire.api.server.bundle.v1.Bundle", "GetBundle", ReadBundle),
    everywhere("spire.api.server.bundle.v1.Bundle", "GetFederatedBundle", ReadFederatedBundle),
    everywhere("spire.api.server.bundle.v1.Bundle", "ListFederatedBundles", ReadBundles),
    everywhere("spire.api.server.bundle.v1.Bundle", "PublishJWTAuthority", PublishAuthority),
    everywhere("spire.api.server.bundle.v1.Bundle", "PublishWITAuthority", PublishAuthority),
    local("spire.api.server.debug.v1.Debug", "GetInfo", ReadServerInfo),
    everywhere("spire.api.server.entry.v1.Entry", "BatchCreateEntry", CreateEntries),
    everywhere("spire.api.server.entry.v1.Entry", "BatchDeleteEntry", DeleteEntries),
    everywhere("spire.api.server.entry.v1.Entry", "BatchUpdateEntry", UpdateEntries),
    everywhere("spire.api.server.entry.v1.Entry", "CountEntries", ReadEntries),
    everywhere("spire.api.server.entry.v1.Entry", "GetAuthorizedEntries", ReadAuthorizedEntries),
    everywhere("spire.api.server.entry.v1.Entry", "GetEntry", ReadEntries),
    everywhere("spire.api.server.entry.v1.Entry", "ListEntries", ReadEntries),
    everywhere("spire.api.server.entry.v1.Entry", "SyncAuthorizedEntries", ReadAuthorizedEntries),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "ActivateJWTAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "ActivateWITAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "ActivateX509Authority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "GetJWTAuthorityState",
        ReadAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "GetWITAuthorityState",
        ReadAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "GetX509AuthorityState",
        ReadAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "PrepareJWTAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "PrepareWITAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "PrepareX509Authority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "RevokeJWTAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "RevokeWITAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "RevokeX509Authority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "RevokeX509UpstreamAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "TaintJWTAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "TaintWITAuthority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "TaintX509Authority",
        ManageAuthorities,
    ),
    everywhere(
        "spire.api.server.localauthority.v1.LocalAuthority",
        "TaintX509UpstreamAuthority",
        ManageAuthorities,
    ),
    local("spire.api.server.logger.v1.Logger", "GetLogger", ReadLog),
    local("spire.api.server.logger.v1.Logger", "ResetLogLevel", ManageLog),
    local("spire.api.server.logger.v1.Logger", "SetLogLevel", ManageLog),
    everywhere("spire.api.server.svid.v1.SVID", "BatchNewWITSVID", IssueForEntries),
    everywhere("spire.api.server.svid.v1.SVID", "BatchNewX509SVID", IssueForEntries),
    everywhere("spire.api.server.svid.v1.SVID", "MintJWTSVID", MintSvid),
    everywhere("spire.api.server.svid.v1.SVID", "MintWITSVID", MintSvid),
    everywhere("spire.api.server.svid.v1.SVID", "MintX509SVID", MintSvid),
    everywhere("spire.api.server.svid.v1.SVID", "NewDownstreamX509CA", IssueDownstreamAuthority),
    everywhere("spire.api.server.svid.v1.SVID", "NewJWTSVID", IssueForEntries),
    everywhere(
        "spire.api.server.trustdomain.v1.TrustDomain",
        "BatchCreateFederationRelationship",
        ManageFederation,
    ),
    everywhere(
        "spire.api.server.trustdomain.v1.TrustDomain",
        "BatchDeleteFederationRelationship",
        ManageFederation,
    ),
    everywhere(
        "spire.api.server.trustdomain.v1.TrustDomain",
        "BatchUpdateFederationRelationship",
        ManageFederation,
    ),
    everywhere(
        "spire.api.server.trustdomain.v1.TrustDomain",
        "GetFederationRelationship",
        ReadFederation,
    ),
    everywhere(
        "spire.api.server.trustdomain.v1.TrustDomain",
        "ListFederationRelationships",
        ReadFederation,
    ),
    everywhere("spire.api.server.trustdomain.v1.TrustDomain", "RefreshBundle", RefreshFederation),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usecase::authorization::Rights;

    #[test]
    fn the_table_is_sorted_so_that_every_method_is_found() {
        let key = |method: &Method| (method.service, method.name);
        assert!(TABLE.is_sorted_by(|a, b| key(a) < key(b)));
        for known in TABLE {
            assert_eq!(method(&format!("/{}/{}", known.service, known.name)), Some(known));
        }
        assert_eq!(method("/spire.api.server.entry.v1.Entry/Nothing"), None);
        assert_eq!(method(""), None);
    }

    #[test]
    fn reflection_lists_each_service_of_a_server_and_none_of_an_agent() {
        let all: Vec<_> = services().collect();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        for own in all {
            let ours = ["spire.api.server.", "signet.api.", "grpc.health.", "grpc.reflection."];
            assert!(ours.iter().any(|package| own.starts_with(package)), "{own}");
            assert!(!own.contains(".agent.explain.") && !own.contains("Workload"), "{own}");
        }
    }

    #[test]
    fn agents_never_write_and_only_attestation_and_the_bundle_are_open() {
        let open = |method: &&Method| method.action.rights().meets(Rights::ANYONE);
        let open: Vec<_> = methods().filter(open).map(|method| method.name).collect();
        assert_eq!(open, ["AttestAgent", "GetBundle"]);
        for method in methods().filter(|method| method.action.rights().meets(Rights::AGENT)) {
            assert!(
                !["Create", "Update", "Delete", "Set", "Append", "Mint"]
                    .iter()
                    .any(|word| method.name.contains(word)),
                "{}",
                method.name
            );
        }
    }

    #[test]
    fn what_is_there_on_the_local_socket_only_is_for_local_callers_only() {
        for method in methods().filter(|method| method.local_only) {
            assert_eq!(method.action.rights(), Rights::LOCAL, "{}", method.name);
        }
    }
}
