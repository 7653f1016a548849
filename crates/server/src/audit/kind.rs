//! What kind of events calls make.

use signet_audit::Kind;

use crate::usecase::authorization::Action;

/// What kind of events a call makes.
pub(super) fn kind(action: Action) -> Kind {
    match action {
        Action::AttestAgent
        | Action::BanAgent
        | Action::CreateJoinToken
        | Action::DeleteAgent
        | Action::RenewAgent => Kind::Attestation,
        Action::ManageAuthorities | Action::PublishAuthority => Kind::Authority,
        Action::IssueDownstreamAuthority | Action::IssueForEntries | Action::MintSvid => {
            Kind::Issuance
        }
        Action::ManageLog | Action::ManageTenants => Kind::Policy,
        Action::OpenConsole => Kind::System,
        Action::AppendBundle
        | Action::CreateEntries
        | Action::DeleteEntries
        | Action::ManageBundles
        | Action::ManageFederation
        | Action::RefreshFederation
        | Action::UpdateEntries => Kind::Registration,
        Action::DescribeApi
        | Action::ExplainEntries
        | Action::FollowEntries
        | Action::ReadAgents
        | Action::ReadAuthorities
        | Action::ReadAuthorizedEntries
        | Action::ReadBundle
        | Action::ReadBundles
        | Action::ReadEntries
        | Action::ReadFederatedBundle
        | Action::ReadFederation
        | Action::ReadHealth
        | Action::ReadLog
        | Action::ReadServerInfo
        | Action::ReadTenants
        | Action::ReportAgentStatus
        | Action::ReportUnknownKey
        | Action::WatchChanges => Kind::Read,
    }
}
