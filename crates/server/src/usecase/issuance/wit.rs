//! WIT-SVIDs.

use bytes::Bytes;
use signet_audit::Field;
use signet_authority::{AuthorityKind, JwtSvid, WitSvidParams};
use signet_base::chain;
use signet_daemon::spans;
use signet_identity::{Entry, EntryId, SpiffeId};
use signet_pki::{PublicKey, wit::ProofAlgorithm};
use tracing::Instrument as _;

use super::{Issuance, NOT_FOUND, YIELD_AFTER, entry_fields, positive, token_fields};
use crate::{
    limits::Limit,
    usecase::{Call, authorization::Action, error::Error},
};

/// One WIT-SVID that an agent asks for.
#[derive(Clone, Debug)]
pub struct WitRequest {
    /// The entry, as it was asked for.
    pub entry_id: String,
    /// The key to bind, SubjectPublicKeyInfo DER.
    pub public_key: Bytes,
    /// How that key signs proofs, as JOSE names it.
    pub signing_algorithm: String,
}

impl Issuance {
    /// Signs a WIT-SVID of any identity, for a key that the caller chose.
    ///
    /// # Errors
    /// `Invalid` when the key or its algorithm is none; or when it cannot be signed.
    pub async fn mint_wit(
        &self,
        call: &Call,
        id: &SpiffeId,
        (public_key, algorithm): (&[u8], &str),
        ttl: i32,
    ) -> Result<JwtSvid, Error> {
        call.may(Action::MintSvid)?;
        call.about(Field::SpiffeId(id.clone()));
        call.about(Field::Ttl(ttl));
        self.may_mint(call, id).await?;
        let public_key = PublicKey::from_spki(public_key)
            .map_err(|error| Error::invalid("invalid public key").because(chain(&error)))?;
        let svid = self.sign_wit(id, &public_key, algorithm, ttl).await?;
        if call.audit.is_on() {
            token_fields(&svid).into_iter().for_each(|field| call.about(field));
        }
        Ok(svid)
    }

    /// Signs WIT-SVIDs of entries that the calling agent is authorised for; the answers are in order.
    /// They live as long as the entry's X.509-SVIDs, as in SPIRE.
    ///
    /// # Errors
    /// `Unsupported` when WIT-SVIDs are off; `Exhausted` when they are too many.
    pub async fn wit(
        &self,
        call: &Call,
        requests: &[WitRequest],
    ) -> Result<Vec<Result<(SpiffeId, JwtSvid), Error>>, Error> {
        call.may(Action::IssueForEntries)?;
        let agent = call.agent_id()?;
        if requests.is_empty() {
            return Err(Error::invalid("missing parameters"));
        }
        let (limits, principal) = (&self.limits, &call.principal);
        limits.acquire(principal, Limit::SignWit, requests.len(), "certificate signing").await?;
        self.must_be_on(AuthorityKind::Wit)?;
        let ids: Vec<Option<EntryId>> = requests.iter().map(|r| r.entry_id.parse().ok()).collect();
        let entries = self.entries_for(agent, &ids).await?;
        let mut results = Vec::with_capacity(requests.len());
        for (n, (request, entry)) in requests.iter().zip(&entries).enumerate() {
            if n % YIELD_AFTER == YIELD_AFTER - 1 {
                tokio::task::yield_now().await;
            }
            let result = match entry {
                Ok(entry) => self.wit_of(request, entry.as_deref()).await,
                Err(denial) => Err(denial.clone().into()),
            };
            let entry = entry.as_ref().ok().and_then(Option::as_ref);
            call.audit.item(&result, || {
                let mut about = vec![Field::EntryId(request.entry_id.clone())];
                if let Some(entry) = entry {
                    about.extend(entry_fields(entry));
                }
                if let Ok((_, svid)) = &result {
                    about.extend(token_fields(svid));
                }
                about
            });
            results.push(result);
        }
        Ok(results)
    }

    async fn wit_of(
        &self,
        request: &WitRequest,
        entry: Option<&Entry>,
    ) -> Result<(SpiffeId, JwtSvid), Error> {
        if request.entry_id.is_empty() {
            return Err(Error::invalid("missing entry ID"));
        }
        if request.public_key.is_empty() {
            return Err(Error::invalid("missing public key"));
        }
        let entry = entry.ok_or_else(|| Error::not_found(NOT_FOUND))?;
        let public_key = PublicKey::from_spki(&request.public_key)
            .map_err(|error| Error::invalid("malformed public key").because(chain(&error)))?;
        let (id, algorithm) = (&entry.spiffe_id, &request.signing_algorithm);
        let svid = self.sign_wit(id, &public_key, algorithm, entry.x509_svid_ttl).await?;
        Ok((id.clone(), svid))
    }

    async fn sign_wit(
        &self,
        spiffe_id: &SpiffeId,
        public_key: &PublicKey,
        algorithm: &str,
        ttl: i32,
    ) -> Result<JwtSvid, Error> {
        let kind = public_key.algorithm();
        let fits = algorithm.parse().ok().filter(|known: &ProofAlgorithm| known.is_for(kind));
        let algorithm = fits.ok_or_else(|| {
            let why = format!("unsupported signing algorithm for a {kind:?} key: {algorithm}");
            Error::invalid("invalid signing algorithm or key type").because(why)
        })?;
        let params = WitSvidParams { spiffe_id, public_key, algorithm, ttl: positive(ttl) };
        let span = tracing::info_span!(target: spans::TARGET, "sign WIT-SVID");
        let signed = self.authority.sign_wit_svid(params).instrument(span).await;
        let svid = signed.map_err(|error| Error::signing("failed to sign WIT-SVID", &error))?;
        self.counted.signed_wit.inc(&[]);
        Ok(svid)
    }
}
