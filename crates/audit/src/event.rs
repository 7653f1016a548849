//! What an audit event says.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use signet_identity::{SelectorSet, SpiffeId, Tenant, TrustDomain};
use signet_pki::digest;
use signet_time::UnixTime;

/// The message of most events: SPIRE's text.
pub const API_ACCESSED: &str = "API accessed";

/// One thing that was issued, changed or refused. Never holds a token, a key or a CSR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// What happened: [`API_ACCESSED`], unless nobody called.
    pub message: &'static str,
    /// Who asked for it.
    pub caller: Caller,
    /// The service that was called, as SPIRE names it (`svid.v1.SVID`); empty when none was.
    pub service: Cow<'static, str>,
    /// The method that was called (`BatchNewX509SVID`); empty when none was.
    pub method: Cow<'static, str>,
    /// What came of it.
    pub outcome: Outcome,
    /// The same in all events of one call, and in those of the calls that it led to elsewhere;
    /// empty when there was no call.
    pub request_id: Arc<str>,
    /// Whose it is, where that is known.
    pub tenant: Option<Arc<str>>,
    /// What kind of event it is.
    pub kind: Kind,
    /// Of a refusal: the reason as a word, where it has one.
    pub reason_code: Option<&'static str>,
    /// How many like it were not written since the last one of its kind.
    pub suppressed: u64,
    /// What it was about.
    pub fields: Vec<Field>,
}

/// What kind of event it is: what auditors ask for first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An agent became one, renewed, was banned or deleted; or a join token was made.
    Attestation,
    /// An authority of a server was prepared, activated, tainted, revoked, or came from outside.
    Authority,
    /// A broker gave, renewed or took back a credential, or refused to.
    Broker,
    /// Something was signed, or was to be.
    Issuance,
    /// A policy or a tenant changed.
    Policy,
    /// Something was looked at.
    #[default]
    Read,
    /// An entry, a bundle or a federation relationship changed.
    Registration,
    /// The log itself, or the program: started, stopped, could not be written.
    System,
}

impl Kind {
    /// Its name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attestation => "attestation",
            Self::Authority => "authority",
            Self::Broker => "broker",
            Self::Issuance => "issuance",
            Self::Policy => "policy",
            Self::Read => "read",
            Self::Registration => "registration",
            Self::System => "system",
        }
    }
}

/// Who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// By which right: `local`, `admin`, `agent`, `downstream`, `nobody`.
    pub authorized_as: Option<&'static str>,
    /// How that is known: `transport`, `config`, `entries`, `datastore`.
    pub authorized_via: Option<&'static str>,
    /// The SPIFFE ID that was proven.
    pub id: Option<SpiffeId>,
    /// The address of a caller on the network.
    pub addr: Option<SocketAddr>,
    /// The process ID of a caller on this machine.
    pub pid: Option<i32>,
    /// The effective user ID of a caller on this machine.
    pub uid: Option<u32>,
    /// The effective group ID of a caller on this machine.
    pub gid: Option<u32>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    #[default]
    Success,
    /// It was refused, or failed.
    Failure {
        /// The name of the gRPC code that says so (`PermissionDenied`).
        code: &'static str,
        /// Why, as the caller was told.
        reason: String,
    },
}

/// The value of a field, with the type that it has in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A number.
    Uint(u64),
    /// A string; lists are joined by commas, as SPIRE writes them.
    Text(Cow<'a, str>),
}

macro_rules! fields {
    ($($group:ident { $($(#[$doc:meta])* $variant:ident($type:ty) = $name:ident,)+ })+) => {
        /// A fact about what an event is about. The names are SPIRE's where it has the field.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Field {
            $($($(#[$doc])* $variant($type),)+)+
        }

        impl Field {
            /// The name that records carry.
            pub fn name(&self) -> &'static str {
                match self { $($(Self::$variant(_) => stringify!($name),)+)+ }
            }

            /// The value that records carry.
            pub fn value(&self) -> Value<'_> {
                match self { $($(Self::$variant(value) => value.recorded(),)+)+ }
            }
        }

        // The names of fields in the log are fixed when the program is built; those of a span may
        // stay empty. Every variant is in one of these spans, so that none can be lost.
        $(
            pub(crate) fn $group() -> tracing::Span {
                tracing::info_span!(
                    target: "signet_audit", stringify!($group), $($name = tracing::field::Empty,)+
                )
            }
        )+
    };
}

fields! {
    subject {
        /// An attested agent.
        AgentId(SpiffeId) = agent_id,
        /// The audiences of a JWT-SVID.
        Audience(Vec<String>) = audience,
        /// The profile of a bundle endpoint: `https_web` or `https_spiffe`.
        BundleEndpointProfile(&'static str) = bundle_endpoint_profile,
        /// The URL of a bundle endpoint.
        BundleEndpointUrl(String) = bundle_endpoint_url,
        /// The name of a credential of the broker's policy.
        Credential(String) = credential,
        /// The SHA-256 of a CSR, hex.
        Csr(String) = csr,
        /// The DNS names of an entry or a certificate.
        DnsNames(Vec<String>) = dns_name,
        /// The SPIFFE ID that a bundle endpoint has to prove.
        EndpointSpiffeId(String) = endpoint_spiffe_id,
        /// The ID of a registration entry, as it was given.
        EntryId(String) = entry_id,
        /// The trust domains that an entry federates with.
        FederatesWith(Vec<TrustDomain>) = federates_with,
        /// The hint of an entry.
        Hint(String) = hint,
        /// The ID of a JWT-SVID (its `jti`).
        JwtId(String) = jti,
        /// The ID of the key that signed a JWT-SVID.
        KeyId(String) = kid,
        /// The name of a lease that the broker handed out.
        LeaseId(String) = lease_id,
        /// An authority of this server: its subject key identifier or key ID.
        LocalAuthorityId(String) = local_authority_id,
        /// The parent of an entry.
        ParentId(SpiffeId) = parent_id,
        /// The selectors of an entry.
        Selectors(SelectorSet) = selectors,
        /// The serial number of an issued X.509 certificate, decimal.
        SerialNumber(String) = serial_num,
        /// The identity that was issued, or that the call was about.
        SpiffeId(SpiffeId) = spiffe_id,
        /// Whose it is. In an event it stands in [`AuditEvent::tenant`].
        Tenant(Tenant) = tenant,
        /// The subject key identifier of an upstream authority, hex.
        SubjectKeyId(String) = subject_key_id,
        /// The object of Kubernetes that a broker named: resource, namespace and name, or UID.
        SubjectObject(String) = subject_object,
        /// The process on whose behalf a delegate asked.
        SubjectPid(i32) = subject_pid,
        /// The trust domain that the call was about.
        TrustDomainId(String) = trust_domain_id,
        /// The SHA-256 of the X.509 authorities that were set or appended, hex.
        X509AuthoritiesSha256(Vec<String>) = x509_authorities_asn1_sha256,
    }
    detail {
        /// Whether an entry makes its workloads administrators.
        Admin(bool) = admin,
        /// The version that an agent reported.
        AgentVersion(String) = agent_version,
        /// Whether an entry makes its workloads downstream servers.
        Downstream(bool) = downstream,
        /// When what was issued, or an entry, expires; Unix seconds, 0 for never.
        ExpiresAt(UnixTime) = expires_at,
        /// How many JWT authorities were given.
        JwtAuthorities(u64) = jwt_authorities,
        /// When a published JWT authority expires; Unix seconds.
        JwtAuthorityExpiresAt(UnixTime) = jwt_authority_expires_at,
        /// The ID of a published JWT authority.
        JwtAuthorityKeyId(String) = jwt_authority_key_id,
        /// The IDs of appended JWT authorities.
        JwtAuthorityKeyIds(Vec<String>) = jwt_authority_key_ids,
        /// The lifetime of an entry's JWT-SVIDs; seconds, 0 for the server's default.
        JwtSvidTtl(i32) = jwt_svid_ttl,
        /// What becomes of entries that federate with a deleted bundle.
        Mode(&'static str) = mode,
        /// The log level that was set.
        NewLogLevel(&'static str) = new_log_level,
        /// The selectors by which an identity was given or an agent attested: a record holds their
        /// SHA-256.
        MatchedSelectors(Digested) = selectors_sha256,
        /// The node attestor that an agent used.
        NodeAttestorType(String) = node_attestor_type,
        /// How often a bundle should be fetched; seconds.
        RefreshHint(i64) = refresh_hint,
        /// The revision of an entry.
        RevisionNumber(i64) = revision_number,
        /// The rule of the broker's policy that granted something.
        Rule(String) = rule,
        /// The sequence number of a bundle.
        SequenceNumber(u64) = sequence_number,
        /// Whether an entry's SVIDs are for an SVID store.
        StoreSvid(bool) = store_svid,
        /// The lifetime that was asked for; seconds.
        Ttl(i32) = ttl,
        /// Why something was taken back.
        Why(String) = why,
        /// How many X.509 authorities were given.
        X509Authorities(u64) = x509_authorities,
        /// The lifetime of an entry's X.509-SVIDs; seconds, 0 for the server's default.
        X509SvidTtl(i32) = x509_svid_ttl,
    }
}

impl AuditEvent {
    /// An event that went well and is about nothing yet.
    pub fn new(
        caller: Caller,
        service: impl Into<Cow<'static, str>>,
        method: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            message: API_ACCESSED,
            caller,
            service: service.into(),
            method: method.into(),
            outcome: Outcome::Success,
            request_id: Arc::default(),
            tenant: None,
            kind: Kind::default(),
            reason_code: None,
            suppressed: 0,
            fields: Vec::new(),
        }
    }

    /// Whether something was only looked at: such events go into the program's log alone, unless
    /// they were refused.
    pub(crate) fn is_mere_look(&self) -> bool {
        self.kind == Kind::Read && self.outcome == Outcome::Success
    }
}

/// Selectors of which a record holds the SHA-256: what they were can be checked by who knows them,
/// and is not told to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digested(pub SelectorSet);

impl Digested {
    /// SHA-256 over the selectors, sorted, each `type:value` with a line end; lower-case hex.
    pub fn hex(&self) -> String {
        let mut text = String::new();
        for selector in &self.0 {
            text.push_str(&selector.to_string());
            text.push('\n');
        }
        digest::sha256_hex(text.as_bytes())
    }
}

/// How a value looks in a record.
trait Recorded {
    fn recorded(&self) -> Value<'_>;
}

macro_rules! recorded {
    ($($type:ty: $value:ident => $made:expr,)+) => {
        $(impl Recorded for $type {
            fn recorded(&self) -> Value<'_> {
                let $value = self;
                $made
            }
        })+
    };
}

recorded! {
    bool: it => Value::Bool(*it),
    i32: it => Value::Int((*it).into()),
    i64: it => Value::Int(*it),
    UnixTime: it => Value::Int(it.seconds()),
    u64: it => Value::Uint(*it),
    &'static str: it => Value::Text((*it).into()),
    String: it => Value::Text(it.as_str().into()),
    Digested: it => Value::Text(it.hex().into()),
    SpiffeId: it => Value::Text(it.to_string().into()),
    SelectorSet: it => joined(it.iter()),
    Tenant: it => Value::Text(it.as_str().into()),
    Vec<String>: it => joined(it.iter()),
    Vec<TrustDomain>: it => joined(it.iter().map(TrustDomain::id_string)),
}

fn joined<'a>(all: impl Iterator<Item = impl ToString>) -> Value<'a> {
    let all: Vec<String> = all.map(|one| one.to_string()).collect();
    Value::Text(all.join(",").into())
}
