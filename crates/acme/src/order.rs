//! One order: from an account to a certificate.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rustls_pki_types::Der;
use signet_base::{Clock, SharedClock, chain};
use signet_http::HttpClient;
use signet_pki::{
    KeyType, ManagedKey, PrivateKey, digest, jws, pem,
    tls::TlsIdentity,
    x509::{
        Certificate, CsrParams, MAX_CHAIN, Name, challenge_certificate, create_csr_with,
        parse_chain,
    },
};
use signet_time::UnixTime;

use crate::{
    AcmeError, Settings,
    certificates::Certificates,
    error::readable,
    transport::{Asked, Transport},
};

/// How an order is looked at until it has got on: soon at first, for three minutes at most.
const LOOKING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

/// An authority that knows our account.
pub(crate) struct Authority {
    account: Account,
    thumbprint: String,
}

/// When a certificate is to be renewed, and after how long to ask that again.
pub(crate) struct Window {
    pub(crate) from: UnixTime,
    pub(crate) to: UnixTime,
    pub(crate) ask_after: Duration,
}

impl Authority {
    /// Finds the account of that key, or makes one. The terms of service are agreed to: whoever did
    /// not want that has no such settings.
    pub(crate) async fn open(
        settings: &Settings,
        http: &HttpClient,
        key: ManagedKey,
        asked: Asked,
        clock: SharedClock,
    ) -> Result<Self, AcmeError> {
        let thumbprint = jws::thumbprint(key.public_key());
        let transport = Transport::new(http, key, asked, clock);
        let contact = settings.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let account = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        // The credentials that are made here hold the key that nobody uses.
        let (account, _) = Account::builder_with_http(Box::new(transport))
            .create(&account, settings.directory_url.clone(), None)
            .await?;
        Ok(Self { account, thumbprint })
    }

    /// Orders a certificate and answers the challenges; the chain that comes fits domain and key.
    pub(crate) async fn obtain(
        &self,
        domain: &str,
        key: &ManagedKey,
        certificates: &Arc<Certificates>,
        clock: &dyn Clock,
    ) -> Result<Vec<Arc<[u8]>>, AcmeError> {
        let identifiers = [Identifier::Dns(domain.to_owned())];
        let mut order = self.account.new_order(&NewOrder::new(&identifiers)).await?;
        let mut answering = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(AcmeError::Refused(format!("authorization is {status:?}"))),
            }
            let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
            let mut challenge = challenge.ok_or(AcmeError::NoChallenge)?;
            let authorized = format!("{}.{}", challenge.token, self.thumbprint);
            let digest = digest::sha256(authorized.as_bytes());
            let signer = PrivateKey::generate(KeyType::EcP256)?.signer()?;
            let answer = challenge_certificate(domain, &digest, &*signer, clock.unix())?;
            let answer = TlsIdentity::new(&[answer.der.into()], signer)?;
            answering.push(certificates.answer(domain, answer));
            challenge.set_ready().await?;
        }
        match order.poll_ready(&LOOKING).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(refusal(&mut order, None).await),
            Err(error @ Error::Api(_)) => return Err(refusal(&mut order, Some(error)).await),
            Err(error) => return Err(error.into()),
        }
        drop(answering);
        let params = CsrParams {
            subject: Name::default(),
            uri: None,
            dns_names: vec![domain.to_owned()],
            extensions: Vec::new(),
        };
        order.finalize_csr(&create_csr_with(&params, key).await?).await?;
        let text = order.poll_certificate(&LOOKING).await?;
        fitting(&text, domain, key, clock.unix())
    }

    /// When the authority suggests to renew a certificate (RFC 9773).
    pub(crate) async fn window(&self, leaf: &Certificate) -> Result<Window, Error> {
        // The number as DER has it: one that would be negative begins with a zero.
        let mut serial = leaf.serial().as_bytes().to_vec();
        if serial.first().is_some_and(|first| first & 0x80 != 0) {
            serial.insert(0, 0);
        }
        let id = CertificateIdentifier::new(
            Der::from_slice(leaf.authority_key_id()),
            Der::from_slice(&serial),
        );
        let (info, ask_after) = self.account.renewal_info(&id).await?;
        let window = info.suggested_window;
        Ok(Window { from: window.start.into(), to: window.end.into(), ask_after })
    }
}

/// Why a domain was not confirmed: what the authority says of the challenges says more than what it
/// says of the order.
async fn refusal(order: &mut Order, error: Option<Error>) -> AcmeError {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let problems = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(problems.map(|problem| readable(&problem.to_string())));
    }
    match error {
        _ if !reasons.is_empty() => AcmeError::Refused(reasons.join("; ")),
        Some(error) => AcmeError::Refused(readable(&chain(&error))),
        None => AcmeError::Refused("it does not say why".to_owned()),
    }
}

/// The chain of a PEM text, if it is one for that domain and key and valid now.
fn fitting(
    text: &str,
    domain: &str,
    key: &ManagedKey,
    now: UnixTime,
) -> Result<Vec<Arc<[u8]>>, AcmeError> {
    let ders = pem::decode_certificates(text)?;
    let chain = parse_chain(&ders)?;
    let leaf = chain.first().ok_or(AcmeError::Unfit("empty"))?;
    if chain.len() > MAX_CHAIN {
        return Err(AcmeError::Unfit("longer than a chain may be"));
    }
    if !leaf.dns_names().iter().any(|name| name.eq_ignore_ascii_case(domain)) {
        return Err(AcmeError::Unfit("for another domain"));
    }
    if !leaf.public_key().is_ok_and(|found| found == key.public_key()) {
        return Err(AcmeError::Unfit("for another key"));
    }
    if leaf.not_after() <= now {
        return Err(AcmeError::Unfit("expired, or this machine's clock is ahead"));
    }
    Ok(ders.into_iter().map(Arc::from).collect())
}

#[cfg(test)]
mod tests {
    use signet_base::SystemClock;

    use super::*;

    #[test]
    fn a_certificate_for_another_domain_or_key_or_of_the_past_is_not_taken() {
        let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
        let other: ManagedKey =
            PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap().into();
        let now = SystemClock.unix();
        let made = challenge_certificate("web.test", &[0; 32], &*signer, now).unwrap();
        let text = pem::encode_certificates([&*made.der]);
        let key: ManagedKey = signer.into();
        let of = |text: &str, domain: &str, key: &ManagedKey, now| {
            fitting(text, domain, key, now).map_err(|error| error.to_string())
        };
        assert_eq!(of(&text, "WEB.test", &key, now).unwrap().len(), 1);
        assert!(of(&text, "other.test", &key, now).unwrap_err().contains("another domain"));
        assert!(of(&text, "web.test", &other, now).unwrap_err().contains("another key"));
        assert!(of(&text, "web.test", &key, now + 7200).unwrap_err().contains("expired"));
        assert!(of("", "web.test", &key, now).is_err());
        let long = text.repeat(MAX_CHAIN + 1);
        assert!(of(&long, "web.test", &key, now).unwrap_err().contains("that came"));
    }
}
