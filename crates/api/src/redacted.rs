//! `Debug` for messages that carry secrets: it never shows them.

use std::fmt;

use crate::pb::{
    broker,
    csi::v1::NodePublishVolumeRequest,
    envoy::{
        config::core::v3::DataSource,
        service::discovery::v3::{DiscoveryResponse, Resource},
    },
    secretsstore::v1alpha1::{File, MountRequest},
    signet::api::server::console::v1::LoginResponse,
    spire::api::{
        agent::delegatedidentity::v1::X509svidWithKey, server::agent::v1::CreateJoinTokenRequest,
        types,
    },
    workload,
};

/// Stands where a secret would be printed.
struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(..)")
    }
}

macro_rules! redact {
    ($($message:ty, $name:literal { $($shown:ident),* } hides $($hidden:literal),+;)+) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name)
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field($hidden, &Hidden))+
                    .finish()
            }
        }
    )+};
}

redact! {
    broker::X509svid, "broker.X509SVID" { spiffe_id, x509_svid, bundle, hint } hides "x509_svid_key";
    broker::Jwtsvid, "broker.JWTSVID" { spiffe_id, hint } hides "svid";
    LoginResponse, "LoginResponse" { lifetime, url } hides "code";
    workload::X509svid, "X509SVID" { spiffe_id, x509_svid, bundle, hint } hides "x509_svid_key";
    workload::Jwtsvid, "JWTSVID" { spiffe_id, hint } hides "svid";
    workload::Witsvid, "WITSVID" { spiffe_id, hint } hides "wit_svid", "wit_svid_key";
    workload::ValidateJwtsvidRequest, "ValidateJWTSVIDRequest" { audience } hides "svid";
    X509svidWithKey, "X509SVIDWithKey" { x509_svid } hides "x509_svid_key";
    File, "File" { path, mode } hides "contents";
    MountRequest, "MountRequest" { target_path, permission } hides "attributes", "secrets";
    NodePublishVolumeRequest, "NodePublishVolumeRequest" { volume_id, target_path, readonly } hides
        "publish_context", "secrets", "volume_capability", "volume_context";
    CreateJoinTokenRequest, "CreateJoinTokenRequest" { ttl, agent_id } hides "token";
    DataSource, "DataSource" { filename } hides "inline";
    DiscoveryResponse, "DiscoveryResponse" { version_info, type_url, nonce } hides "resources";
    Resource, "Resource" { version, name } hides "resource";
    types::AttestationData, "AttestationData" { r#type } hides "payload";
    types::Jwtsvid, "JWTSVID" { id, expires_at, issued_at, hint } hides "token";
    types::JoinToken, "JoinToken" { expires_at } hides "value";
    types::Witsvid, "WITSVID" { id, expires_at, issued_at, hint } hides "token";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed() {
        let svid = workload::X509svid {
            spiffe_id: "spiffe://td/w".into(),
            x509_svid_key: bytes::Bytes::from_static(b"KEY"),
            ..Default::default()
        };
        let token = types::JoinToken { value: "SECRET".into(), expires_at: 7 };
        let jwt = types::Jwtsvid { token: "SECRET".into(), ..Default::default() };
        let text = format!("{svid:?} {token:?} {jwt:?}");
        assert!(text.contains("spiffe://td/w") && text.contains("(..)"), "{text}");
        for secret in ["KEY", "SECRET", "75, 69, 89"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
