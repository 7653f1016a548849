//! X.509 authorities.

use std::sync::Arc;

use signet_identity::{Bundle, SpiffeId, X509Authority};
use signet_pki::{
    KeyType, ManagedKey, PublicKey, UpstreamAuthority,
    ports::X509CaAttributes,
    x509::{
        Ca, CaParams, Certificate, CsrParams, SvidParams, TrustBundle, create_csr_with,
        self_signed_ca, verify_svid,
    },
};
use signet_time::UnixTime;

use super::{Handle, Kind, KindNames, NewAuthority, Published, Withdrawal};
use crate::{
    AuthorityError, AuthorityOptions, OperationClass, OperationError, TrustRoot,
    context::{Context, UPSTREAM_DEADLINE, composing, within},
    journal::{Journal, Record, SlotId, Status, X509Record},
    material::X509Ca,
    ports::BundleEdit,
    slot::LocalAuthority,
};

/// Key usage bits of a certificate, by their number in RFC 5280 4.2.1.3.
const KEY_CERT_SIGN: u16 = 1 << 5;

/// X.509 authorities: self-signed, or signed by an upstream authority.
#[derive(Debug)]
pub(crate) struct X509;

impl Kind for X509 {
    type Material = X509Ca;
    type Record = X509Record;
    type Publication = Vec<Arc<[u8]>>;

    const NAMES: KindNames = KindNames {
        log: "X509 CA",
        api: "X.509",
        disabled: "X.509 functionality is disabled",
        nothing_to_taint: "no ca found with provided subject key ID",
        already_tainted: "root CA is already tainted",
        nothing_to_revoke: Some("no root CA found with provided subject key ID"),
        prepared_is_not_revoked: "only Old local authority can be revoked",
        not_tainted: "it is not possible to revoke an untainted root CA",
    };
    const TAINT_IS_ANNOUNCED: bool = true;

    fn key_id(slot: SlotId) -> String {
        slot.x509_key_id()
    }

    fn key_type(options: &AuthorityOptions) -> KeyType {
        options.x509_key_type
    }

    fn is_enabled(_options: &AuthorityOptions) -> bool {
        true
    }

    fn records(journal: &Journal) -> &[X509Record] {
        &journal.x509
    }

    fn records_mut(journal: &mut Journal) -> &mut Vec<X509Record> {
        &mut journal.x509
    }

    async fn make(
        context: &mut Context,
        slot: SlotId,
        key: ManagedKey,
    ) -> Result<NewAuthority<Self>, AuthorityError> {
        let now = context.now();
        let (ca, roots) = match context.ports.trust_root.clone() {
            TrustRoot::Upstream(upstream) => mint(context, &*upstream, key, now).await?,
            TrustRoot::SelfSigned => self_sign(context, key, now).await?,
        };
        if roots.iter().any(|root| root.tainted) {
            context.check_upstream_soon();
        }
        // A root that was revoked comes back only if the upstream signs with it again.
        let is_needed = |der: &Arc<[u8]>| {
            !context.revoked_roots.contains(der) || ca.is_under(std::slice::from_ref(der))
        };
        let certificate = ca.ca.certificate();
        let record = X509Record {
            slot,
            status: Status::Prepared,
            issued_at: now,
            not_after: certificate.not_after(),
            authority_id: certificate.subject_key_id_hex(),
            upstream_authority_id: certificate.authority_key_id_hex(),
            certificate: certificate.der().to_vec(),
            upstream_chain: ca.ca.upstream_chain().iter().map(|der| der.to_vec()).collect(),
        };
        let publication = roots.into_iter().map(|root| root.der).filter(is_needed).collect();
        Ok(NewAuthority {
            authority: LocalAuthority::prepared(&record, ca),
            record,
            publication,
            // The journal does not know the upstream's roots: after a crash in between they could
            // not be added again, and they are right in the bundle whatever comes of this CA.
            publish_first: context.has_upstream(),
        })
    }

    fn publication(record: &X509Record) -> Vec<Arc<[u8]>> {
        vec![record.certificate.clone().into()]
    }

    async fn publish(context: &mut Context, roots: Vec<Arc<[u8]>>) -> Result<(), AuthorityError> {
        let edit = BundleEdit { append_x509: roots, ..BundleEdit::default() };
        context.edit_bundle(edit).await.map(drop)
    }

    fn load(record: &X509Record, key: ManagedKey) -> Result<X509Ca, AuthorityError> {
        let certificate =
            Certificate::from_der(&record.certificate).map_err(AuthorityError::BadCertificate)?;
        let chain = record.upstream_chain.iter().map(|der| der.as_slice().into()).collect();
        let ca =
            Ca::new(certificate, chain, key.public_key()).map_err(AuthorityError::Certificate)?;
        Ok(X509Ca { ca, key, issued_at: record.issued_at })
    }

    fn must_be_in_bundle(context: &Context) -> bool {
        !context.has_upstream()
    }

    /// Nobody trusts a new self-signed CA who did not hear of it from this server, and nobody
    /// connects to a server that he does not trust.
    fn loss_locks_out(context: &Context) -> bool {
        !context.has_upstream()
    }

    fn is_in_bundle(bundle: &Bundle, record: &X509Record) -> bool {
        bundle.x509_authorities.iter().any(|authority| *authority.der == *record.certificate)
    }

    fn is_withdrawn(bundle: &Bundle, authority: &LocalAuthority<X509Ca>) -> bool {
        // A self-signed CA is under itself.
        let Some(ca) = &authority.material else { return false };
        let all = &bundle.x509_authorities;
        let above = all.iter().filter(|root| ca.is_under(std::slice::from_ref(&root.der)));
        above.clone().all(|root| root.tainted)
    }

    fn published(bundle: &Bundle, id: &str) -> Vec<Published> {
        let all = bundle.x509_authorities.iter();
        all.filter_map(|authority| {
            let certificate = Certificate::from_der(&authority.der).ok()?;
            (certificate.subject_key_id_hex() == id).then(|| Published {
                handle: Handle::Certificate(Arc::clone(&authority.der)),
                tainted: authority.tainted,
                expires_at: certificate.not_after(),
            })
        })
        .collect()
    }

    fn may_be_withdrawn(context: &Context, withdrawal: Withdrawal) -> Result<(), OperationError> {
        if !context.has_upstream() {
            return Ok(());
        }
        Err(OperationError::new(
            OperationClass::FailedPrecondition,
            format!(
                "local authority can't be {} if there is an upstream authority",
                withdrawal.done()
            ),
        ))
    }

    fn revoked(_context: &mut Context, _id: &str) {}
}

impl Record for X509Record {
    fn slot(&self) -> SlotId {
        self.slot
    }

    fn status(&self) -> Status {
        self.status
    }

    fn set_status(&mut self, status: Status) {
        self.status = status;
    }

    fn issued_at(&self) -> UnixTime {
        self.issued_at
    }

    fn not_after(&self) -> UnixTime {
        self.not_after
    }

    fn authority_id(&self) -> &str {
        &self.authority_id
    }

    fn upstream_authority_id(&self) -> &str {
        &self.upstream_authority_id
    }

    fn is_for(&self, key: &PublicKey) -> bool {
        Certificate::from_der(&self.certificate)
            .is_ok_and(|certificate| certificate.public_key().ok() == Some(key))
    }
}

pub(crate) async fn ca_attributes(context: &Context) -> Result<X509CaAttributes, AuthorityError> {
    let subject = context.shared.options.ca_subject.clone();
    let mut attributes = X509CaAttributes { subject, extensions: Vec::new() };
    for composer in context.shared.composers().iter() {
        attributes = composing(composer.name(), composer.server_x509_ca(attributes))
            .await
            .map_err(AuthorityError::Composer)?;
    }
    Ok(attributes)
}

async fn self_sign(
    context: &Context,
    key: ManagedKey,
    now: UnixTime,
) -> Result<(X509Ca, Vec<X509Authority>), AuthorityError> {
    let attributes = ca_attributes(context).await?;
    let params = CaParams {
        trust_domain: context.shared.options.trust_domain.clone(),
        subject: attributes.subject,
        extensions: attributes.extensions,
        now,
        not_after: now + context.shared.options.ca_ttl,
    };
    let unsigned = self_signed_ca(key.public_key(), &params);
    let unsigned = unsigned.map_err(AuthorityError::Certificate)?;
    let issued = unsigned.sign_with(&key).await.map_err(AuthorityError::Certificate)?;
    let certificate = Certificate::from_der(&issued.der).map_err(AuthorityError::BadCertificate)?;
    let root = X509Authority { der: Arc::clone(certificate.der()), tainted: false };
    let ca = Ca::new(certificate, Vec::new(), key.public_key());
    let ca = ca.map_err(AuthorityError::Certificate)?;
    Ok((X509Ca { ca, key, issued_at: now }, vec![root]))
}

async fn mint(
    context: &Context,
    upstream: &dyn UpstreamAuthority,
    key: ManagedKey,
    now: UnixTime,
) -> Result<(X509Ca, Vec<X509Authority>), AuthorityError> {
    let attributes = ca_attributes(context).await?;
    let trust_domain = context.shared.options.trust_domain.clone();
    let params = CsrParams {
        subject: attributes.subject,
        uri: Some(SpiffeId::of_trust_domain(trust_domain)),
        dns_names: Vec::new(),
        extensions: attributes.extensions,
    };
    let csr = create_csr_with(&params, &key).await.map_err(AuthorityError::Csr)?;
    let minting = upstream.mint_x509_ca(&csr, context.shared.options.ca_ttl);
    let minted = within(UPSTREAM_DEADLINE, "the upstream authority", minting)
        .await?
        .map_err(AuthorityError::Upstream)?;
    let Some(leaf) = minted.chain.first() else {
        return Err(AuthorityError::InvalidUpstreamCa("it has no certificate".to_owned()));
    };
    let certificate = Certificate::from_der(leaf).map_err(AuthorityError::BadCertificate)?;
    let ca = Ca::new(certificate, minted.chain.clone(), key.public_key());
    let ca = ca.map_err(AuthorityError::Certificate)?;
    let ca = X509Ca { ca, key, issued_at: now };
    check_ca(context, &ca, &minted.upstream_roots, now)
        .await
        .map_err(AuthorityError::InvalidUpstreamCa)?;
    Ok((ca, minted.upstream_roots))
}

/// Whether a CA can do its work: an SVID that it signs must verify to the roots.
pub(crate) async fn check_ca(
    context: &Context,
    ca: &X509Ca,
    roots: &[X509Authority],
    now: UnixTime,
) -> Result<(), String> {
    let certificate = ca.ca.certificate();
    let trust_domain = &context.shared.options.trust_domain;
    if !certificate.is_ca() {
        return Err("cA constraint is not set".to_owned());
    }
    if certificate.key_usage().is_some_and(|usage| usage & KEY_CERT_SIGN == 0) {
        return Err("keyCertSign key usage must be set".to_owned());
    }
    match certificate.spiffe_id() {
        Ok(id) if id.path().is_empty() && id.is_member_of(trust_domain) => {}
        Ok(id) => return Err(format!("it is for {id}, expected {}", trust_domain.id_string())),
        Err(error) => return Err(error.to_string()),
    }
    let id = SpiffeId::server(trust_domain.clone());
    let params = SvidParams {
        spiffe_id: &id,
        public_key: ca.key.public_key(),
        dns_names: &[],
        subject: None,
        extensions: &[],
        now,
        not_after: now + 60,
    };
    let unsigned = ca.ca.svid(&params).map_err(|error| error.to_string())?;
    let issued = unsigned.sign_with(&ca.key).await.map_err(|error| error.to_string())?;
    let mut chain: Vec<&[u8]> = vec![&issued.der];
    chain.extend(ca.ca.upstream_chain().iter().map(|der| &**der));
    let mut bundle = Bundle::empty(trust_domain.clone());
    bundle.x509_authorities = roots.to_vec();
    let bundle = TrustBundle::from_bundle(&bundle).map_err(|error| error.to_string())?;
    verify_svid(&chain, &bundle, now).map(drop).map_err(|error| {
        format!("an SVID that it signs does not verify to the upstream roots: {error}")
    })
}
