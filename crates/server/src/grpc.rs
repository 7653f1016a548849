//! The gRPC edge: the services of the server's API, one module each, and what is in front of them.
//!
//! A method reads its message, asks a use case, and writes the answer; what is refused or fails
//! becomes SPIRE's code and text in one place. Only here are messages and statuses of gRPC known.

pub mod agent;
pub mod bundle;
pub mod console;
pub mod debug;
pub mod entry;
pub mod explain;
pub mod federation;
pub mod health;
pub mod interceptor;
pub mod localauthority;
pub mod logger;
pub mod methods;
pub mod push;
pub mod second_jwt;
pub(crate) mod shared;
pub mod svid;
pub mod tenancy;
pub mod trustdomain;

use signet_api::{MAX_MESSAGE_SIZE, reflection::with_reflection};
use signet_base::Tasks;
use tonic::service::Routes;

use crate::{
    context::Context,
    usecase::{UseCases, authorization::Authorizer},
};

/// The services on the network; the local socket has these and more.
pub(crate) fn routes(
    context: &Context,
    use_cases: &UseCases,
    authorizer: &Authorizer,
    tasks: &Tasks,
) -> Routes {
    let UseCases {
        agents,
        attestation,
        authorities,
        bundles,
        entries,
        explain,
        federation,
        issuance,
        tenants,
    } = use_cases.clone();
    let tenancy = tenancy::TenancyService::new(tenants, entries.clone(), agents.clone());
    let agent = agent::AgentService::new(agents, attestation).into_server();
    let explain = explain::ExplainService::new(context, explain);
    let push = push::PushService::new(authorizer.clone(), context, entries.clone(), tasks.clone());
    Routes::new(agent.max_decoding_message_size(MAX_MESSAGE_SIZE))
        .add_service(bundle::BundleService::new(bundles).into_server())
        .add_service(entry::EntryService::new(entries).into_server())
        .add_service(localauthority::LocalAuthorityService::new(authorities.clone()).into_server())
        .add_service(second_jwt::SecondJwtService::new(authorities).into_server())
        .add_service(push.into_server())
        .add_service(svid::SvidService::new(issuance).into_server())
        .add_service(explain.into_server())
        .add_service(federation::FederationService::new(federation.clone()).into_server())
        .add_service(tenancy.into_server())
        .add_service(trustdomain::TrustDomainService::new(federation).into_server())
}

/// The services on the local socket.
pub(crate) fn local_routes(
    context: &Context,
    use_cases: &UseCases,
    authorizer: &Authorizer,
    tasks: &Tasks,
) -> Routes {
    let routes = routes(context, use_cases, authorizer, tasks)
        .add_service(console::ConsoleService::new(context).into_server())
        .add_service(debug::DebugService::new(context).into_server())
        .add_service(health::HealthService::new(context).into_server())
        .add_service(logger::LoggerService::new(context.log.clone()).into_server());
    // The descriptors hold services of other programs too (those of agents): they are not listed.
    with_reflection(routes, methods::services())
}
