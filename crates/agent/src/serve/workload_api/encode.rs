//! Answers of the Workload API, each encoded once per update.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use signet_api::{encoded::Framed, pb::workload as pb};
use signet_identity::{Bundle, JwtAuthority};
use signet_pki::jwks;
use tonic::Status;

use crate::{cache::WorkloadUpdate, entry::without_duplicate_hints};

/// Encoded answers, each made by the first reader that needs it.
#[derive(Default)]
struct EncodedAnswers {
    x509_svid: OnceLock<Framed>,
    x509_bundles: OnceLock<Framed>,
    jwt_bundles: OnceLock<Framed>,
    wit_bundles: OnceLock<Framed>,
}

/// The X.509-SVIDs of an update: the default identity, that of the lowest entry ID, first.
pub(super) fn x509_svids(update: &WorkloadUpdate) -> Result<Framed, Status> {
    once(&encoded(update).x509_svid, || {
        let bundle = x509_bundle(&update.bundle);
        let identities = without_duplicate_hints(update.identities.iter().collect(), |i| &*i.entry);
        let svids = identities
            .into_iter()
            .map(|identity| pb::X509svid {
                spiffe_id: identity.entry.spiffe_id.to_string(),
                x509_svid: Bytes::from(identity.svid.chain_der()),
                x509_svid_key: identity.svid.key_bytes(),
                bundle: bundle.clone(),
                hint: identity.entry.hint.to_string(),
            })
            .collect();
        Framed::new(&pb::X509svidResponse {
            svids,
            crl: Vec::new(),
            federated_bundles: update.federated.iter().map(|b| x509_item(b)).collect(),
        })
    })
}

/// The X.509 bundles of an update.
pub(super) fn x509_bundles(update: &WorkloadUpdate) -> Result<Framed, Status> {
    once(&encoded(update).x509_bundles, || {
        let bundles = served(update).map(x509_item).collect();
        Framed::new(&pb::X509BundlesResponse { crl: Vec::new(), bundles })
    })
}

/// The JWT bundles of an update.
pub(super) fn jwt_bundles_of(update: &WorkloadUpdate) -> Result<Framed, Status> {
    once(&encoded(update).jwt_bundles, || {
        let bundles = served(update).map(jwt_item).collect::<Result<_, Status>>()?;
        Framed::new(&pb::JwtBundlesResponse { bundles })
    })
}

/// The WIT bundles of an update.
pub(super) fn wit_bundles_of(update: &WorkloadUpdate) -> Result<Framed, Status> {
    once(&encoded(update).wit_bundles, || {
        let bundles = served(update).map(wit_item).collect::<Result<_, Status>>()?;
        Framed::new(&pb::WitBundlesResponse { bundles })
    })
}

/// Whether two updates give the same WIT bundles.
pub(super) fn same_wit_bundles(a: &WorkloadUpdate, b: &WorkloadUpdate) -> bool {
    same(a, b, |bundle| bundle.wit_authorities.iter().map(|a| (&a.key_id, &a.public_key)))
}

/// Whether two updates give the same X.509 bundles.
pub(super) fn same_x509_bundles(a: &WorkloadUpdate, b: &WorkloadUpdate) -> bool {
    same(a, b, |bundle| bundle.x509_authorities.iter().map(|a| &a.der))
}

/// Whether two updates give the same JWT bundles.
pub(super) fn same_jwt_bundles(a: &WorkloadUpdate, b: &WorkloadUpdate) -> bool {
    same(a, b, |bundle| bundle.jwt_authorities.iter().map(|a| (&a.key_id, &a.public_key)))
}

fn same<'a, I>(
    a: &'a WorkloadUpdate,
    b: &'a WorkloadUpdate,
    content: impl Fn(&'a Bundle) -> I,
) -> bool
where
    I: Iterator<Item: PartialEq>,
{
    let (mut a, mut b) = (served(a), served(b));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a.trust_domain == b.trust_domain && content(a).eq(content(b)) => {
            }
            _ => return false,
        }
    }
}

/// The bundles of an update; foreign ones only for those with an identity.
fn served(update: &WorkloadUpdate) -> impl Iterator<Item = &Bundle> {
    let foreign = update.federated.iter().filter(|_| update.matched > 0);
    std::iter::once(&update.bundle).chain(foreign).map(|bundle| &**bundle)
}

fn encoded(update: &WorkloadUpdate) -> Arc<EncodedAnswers> {
    update.derived.of()
}

fn once(
    slot: &OnceLock<Framed>,
    encode: impl FnOnce() -> Result<Framed, Status>,
) -> Result<Framed, Status> {
    if let Some(framed) = slot.get() {
        return Ok(framed.clone());
    }
    let framed = encode()?;
    Ok(slot.get_or_init(|| framed).clone())
}

/// The X.509 authorities of a bundle as the Workload API carries them: DER in a row.
pub fn x509_bundle(bundle: &Bundle) -> Bytes {
    let ders: Vec<&[u8]> = bundle.x509_authorities.iter().map(|a| &*a.der).collect();
    Bytes::from(ders.concat())
}

/// The JWT authorities of a bundle as the Workload API carries them: a JWKS document.
///
/// # Errors
/// `Unavailable` when an authority cannot be written.
pub fn jwt_bundles(bundle: &Bundle) -> Result<Bytes, Status> {
    keys(&bundle.jwt_authorities).map(Bytes::from)
}

fn keys(authorities: &[JwtAuthority]) -> Result<String, Status> {
    jwks::encode_jwt_jwks(authorities).map_err(|error| {
        tracing::error!(error = %error, "Could not serialize bundle response");
        Status::unavailable(format!("could not serialize response: {error}"))
    })
}

fn wit_item(bundle: &Bundle) -> Result<(String, String), Status> {
    Ok((bundle.trust_domain.id_string(), keys(&bundle.wit_authorities)?))
}

fn x509_item(bundle: &Bundle) -> (String, Bytes) {
    (bundle.trust_domain.id_string(), x509_bundle(bundle))
}

fn jwt_item(bundle: &Bundle) -> Result<(String, Bytes), Status> {
    Ok((bundle.trust_domain.id_string(), jwt_bundles(bundle)?))
}
