//! How requests are answered, with the paths, texts and statuses of SPIRE's provider.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header::ACCESS_CONTROL_ALLOW_ORIGIN},
    response::Response,
    routing::any,
};
use signet_daemon::http::{Document, not_allowed, text};
use signet_pki::digest;

use crate::keys::{Keys, Published, cached};

/// The longest host that is looked at, bytes (RFC 1035, and a port).
const MAX_HOST: usize = 260;

/// What a provider says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `domains`: by which host names the provider configuration may be asked for.
    pub domains: BTreeSet<Domain>,
    /// `jwt_issuer`: what `issuer` is, byte for byte; none makes it of the host that was asked.
    pub jwt_issuer: Option<IssuerUrl>,
    /// `jwks_uri`: where the keys are; none makes it of the issuer or the host.
    pub jwks_uri: Option<IssuerUrl>,
    /// `server_path_prefix`, default `/`.
    pub path_prefix: PathPrefix,
    /// `allow_insecure_scheme`: URLs are `http` where the request came without TLS.
    pub allow_insecure_scheme: bool,
    /// `log_requests`: every request is a line of the log, at level debug.
    pub log_requests: bool,
}

/// A host name as it is compared: lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// The name, or an address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a host name without scheme, port and path; one that is not ASCII as punycode (xn--…)"
)]
pub struct BadDomain;

impl FromStr for Domain {
    type Err = BadDomain;

    fn from_str(text: &str) -> Result<Self, BadDomain> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_name = !text.is_empty() && text.len() <= MAX_HOST && text.chars().all(is_good);
        let is_address = text.parse::<std::net::Ipv6Addr>().is_ok();
        if is_name || is_address { Ok(Self(text.to_ascii_lowercase())) } else { Err(BadDomain) }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An absolute URL that is given out exactly as it was written: an issuer is compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerUrl(String);

/// A text that is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an absolute http or https URL with a host, without query and fragment")]
pub struct BadIssuerUrl;

impl IssuerUrl {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IssuerUrl {
    type Err = BadIssuerUrl;

    fn from_str(text: &str) -> Result<Self, BadIssuerUrl> {
        let uri: Uri = text.parse().map_err(|_| BadIssuerUrl)?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let is_bare = uri.query().is_none() && !text.contains('#');
        if is_web && has_host && is_bare { Ok(Self(text.to_owned())) } else { Err(BadIssuerUrl) }
    }
}

/// What stands before both paths: empty, or a path that begins with a slash and ends without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathPrefix(String);

/// A text that is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a path such as /tenant, of unreserved characters")]
pub struct BadPathPrefix;

impl FromStr for PathPrefix {
    type Err = BadPathPrefix;

    fn from_str(text: &str) -> Result<Self, BadPathPrefix> {
        let path = text.trim_matches('/');
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
        let segments = |segment: &str| {
            !segment.is_empty() && !matches!(segment, "." | "..") && segment.chars().all(is_good)
        };
        match path {
            "" => Ok(Self::default()),
            path if path.split('/').all(segments) => Ok(Self(format!("/{path}"))),
            _ => Err(BadPathPrefix),
        }
    }
}

/// A provider. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Provider(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    keys: Keys,
    configuration_path: String,
    keys_path: String,
}

impl Provider {
    /// Serves `keys`.
    pub fn new(settings: Settings, keys: Keys) -> Self {
        let prefix = &settings.path_prefix.0;
        Self(Arc::new(Inner {
            configuration_path: format!("{prefix}/.well-known/openid-configuration"),
            keys_path: format!("{prefix}/keys"),
            settings,
            keys,
        }))
    }

    /// The provider as a service; `has_tls` says whether requests come by TLS of ours.
    pub fn router(self, has_tls: bool) -> Router {
        let answer = move |request: Request| {
            let answer = self.answer(&request, has_tls);
            async move { answer }
        };
        Router::new().fallback_service(any(answer))
    }

    fn answer(&self, request: &Request, has_tls: bool) -> Response {
        let inner = &*self.0;
        let answer = match request.uri().path() {
            path if path == inner.keys_path => self.keys(request),
            path if path == inner.configuration_path => self.configuration(request, has_tls),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        if inner.settings.log_requests {
            tracing::debug!(
                method = %request.method(),
                path = request.uri().path(),
                status = answer.status().as_u16(),
                "Incoming request"
            );
        }
        answer
    }

    fn keys(&self, request: &Request) -> Response {
        if !request.method().is_safe() {
            return not_allowed();
        }
        match self.0.keys.published().as_deref() {
            Some(Published::Document(document)) => {
                document.answer(request.method(), request.headers())
            }
            Some(Published::Nothing) => {
                let why = "jwt not supported/enabled in this service\n";
                text(StatusCode::NOT_IMPLEMENTED, why)
            }
            None => text(StatusCode::INTERNAL_SERVER_ERROR, "document not available\n"),
        }
    }

    fn configuration(&self, request: &Request, has_tls: bool) -> Response {
        if !request.method().is_safe() {
            return not_allowed();
        }
        let Some(host) = asked_host(request) else {
            return text(StatusCode::BAD_REQUEST, "the request names no host\n");
        };
        let settings = &self.0.settings;
        if !domain_of(host).is_some_and(|domain| settings.domains.contains(&domain)) {
            return text(StatusCode::BAD_REQUEST, "domain is not allowed\n");
        }
        let is_secure = has_tls || forwarded_proto(request.headers()) == Some("https");
        let scheme = if settings.allow_insecure_scheme && !is_secure { "http" } else { "https" };
        let document = self.document(scheme, host);
        document.answer(request.method(), request.headers())
    }

    fn document(&self, scheme: &str, host: &str) -> Document {
        let Settings { jwt_issuer, jwks_uri, path_prefix: PathPrefix(prefix), .. } =
            &self.0.settings;
        let issuer = match jwt_issuer {
            Some(issuer) => issuer.as_str().to_owned(),
            None => format!("{scheme}://{host}{prefix}"),
        };
        let keys = match (jwks_uri, jwt_issuer) {
            (Some(uri), _) => uri.as_str().to_owned(),
            (None, Some(issuer)) => format!("{}/keys", issuer.as_str().trim_end_matches('/')),
            (None, None) => format!("{scheme}://{host}{prefix}/keys"),
        };
        let document = serde_json::json!({
            "issuer": issuer,
            "jwks_uri": keys,
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "ES384"],
        });
        let body = format!("{document:#}");
        let tag = digest::sha256_hex(body.as_bytes());
        // Browsers may read it, as with SPIRE.
        let document = Document::json(body, &tag)
            .with(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        match self.0.keys.publishing() {
            publishing if publishing.max_age.is_some() => cached(document, publishing),
            _ => document,
        }
    }
}

/// The host that was asked for, as a proxy before this server says, or the request itself.
fn asked_host(request: &Request) -> Option<&str> {
    let headers = request.headers();
    let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = named("x-forwarded-host").filter(|host| !host.is_empty());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let host = host.or_else(|| named("host"))?;
    (host.len() <= MAX_HOST).then_some(host)
}

/// The name or address of `name`, `name:port`, `[address]` or `[address]:port`.
fn domain_of(host: &str) -> Option<Domain> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.parse().ok()
}

/// What a proxy says of the way a request came to it.
fn forwarded_proto(headers: &HeaderMap) -> Option<&'static str> {
    let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let proto = named("x-forwarded-proto").or_else(|| named("x-forwarded-scheme"));
    let proto = proto.or_else(|| {
        let fields = named("forwarded")?.split(',').next()?.split(';');
        let pairs = fields.filter_map(|field| field.trim().split_once('='));
        let mut protos = pairs.filter(|(name, _)| name.eq_ignore_ascii_case("proto"));
        protos.next().map(|(_, value)| value.trim_matches('"'))
    })?;
    if proto.eq_ignore_ascii_case("https") { Some("https") } else { Some("http") }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use signet_base::SystemClock;
    use signet_pki::{KeyType, PrivateKey};
    use signet_time::UnixTime;

    use super::*;
    use crate::keys::Publishing;

    fn settings() -> Settings {
        Settings {
            domains: ["oidc.test", "::1"].iter().map(|name| name.parse().unwrap()).collect(),
            jwt_issuer: None,
            jwks_uri: None,
            path_prefix: PathPrefix::default(),
            allow_insecure_scheme: false,
            log_requests: false,
        }
    }

    fn provider(settings: Settings) -> Provider {
        let keys = Keys::new(Publishing::default(), SystemClock::shared());
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        keys.set(&[signet_identity::JwtAuthority {
            public_key: key.public_key().spki_der().into(),
            key_id: "one".into(),
            expires_at: UnixTime::EPOCH,
            tainted: false,
        }]);
        Provider::new(settings, keys)
    }

    fn request(path: &str, headers: &[(&str, &str)]) -> Request {
        let request =
            headers.iter().fold(Request::get(path), |r, (name, value)| r.header(*name, *value));
        request.body(Body::empty()).unwrap()
    }

    async fn configuration(provider: &Provider, headers: &[(&str, &str)]) -> serde_json::Value {
        let path = provider.0.configuration_path.clone();
        let answer = provider.answer(&request(&path, headers), false);
        assert_eq!(answer.status(), StatusCode::OK);
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn the_issuer_is_the_host_that_was_asked_or_what_is_configured_byte_for_byte() {
        let plain = provider(settings());
        let document = configuration(&plain, &[("host", "oidc.test:8443")]).await;
        assert_eq!(document["issuer"], "https://oidc.test:8443");
        assert_eq!(document["jwks_uri"], "https://oidc.test:8443/keys");
        assert_eq!(document["id_token_signing_alg_values_supported"][1], "ES256");
        let proxied = [("host", "10.0.0.1"), ("x-forwarded-host", "OIDC.test")];
        assert_eq!(configuration(&plain, &proxied).await["issuer"], "https://OIDC.test");

        let below = Settings { path_prefix: "/a/b/".parse().unwrap(), ..settings() };
        let document = configuration(&provider(below), &[("host", "[::1]:1")]).await;
        assert_eq!(document["issuer"], "https://[::1]:1/a/b");
        assert_eq!(document["jwks_uri"], "https://[::1]:1/a/b/keys");

        for (issuer, keys) in [
            ("https://issuer.test", "https://issuer.test/keys"),
            ("https://issuer.test/", "https://issuer.test/keys"),
            ("https://issuer.test/x/", "https://issuer.test/x/keys"),
        ] {
            let fixed = Settings { jwt_issuer: Some(issuer.parse().unwrap()), ..settings() };
            let document = configuration(&provider(fixed), &[("host", "oidc.test")]).await;
            assert_eq!(
                (&document["issuer"], &document["jwks_uri"]),
                (&issuer.into(), &keys.into())
            );
        }
        let both = Settings {
            jwt_issuer: Some("https://issuer.test".parse().unwrap()),
            jwks_uri: Some("https://keys.test/k".parse().unwrap()),
            ..settings()
        };
        let document = configuration(&provider(both), &[("host", "oidc.test")]).await;
        assert_eq!(document["jwks_uri"], "https://keys.test/k");
    }

    #[tokio::test]
    async fn plain_urls_only_where_allowed_and_no_proxy_says_otherwise() {
        let open = provider(Settings { allow_insecure_scheme: true, ..settings() });
        let host = ("host", "oidc.test");
        assert_eq!(configuration(&open, &[host]).await["issuer"], "http://oidc.test");
        for https in [("x-forwarded-proto", "HTTPS"), ("forwarded", "for=1.2.3.4;proto=https")] {
            assert_eq!(configuration(&open, &[host, https]).await["issuer"], "https://oidc.test");
        }
    }

    #[test]
    fn other_hosts_paths_and_verbs_are_refused() {
        let provider = provider(settings());
        let status = |request: Request| provider.answer(&request, true).status().as_u16();
        let known = "/.well-known/openid-configuration";
        assert_eq!(status(request(known, &[("host", "evil.test")])), 400);
        assert_eq!(status(request(known, &[("host", "oidc.test.evil.test")])), 400);
        assert_eq!(status(request(known, &[])), 400);
        let two = [("host", "oidc.test"), ("x-forwarded-host", "evil.test")];
        assert_eq!(status(request(known, &two)), 400);
        assert_eq!(status(request("/", &[("host", "oidc.test")])), 404);
        // As with SPIRE, the keys are given to whoever asks, by whatever name.
        assert_eq!(status(request("/keys", &[("host", "evil.test")])), 200);
        for path in [known, "/keys"] {
            let post = Request::post(path).header("host", "oidc.test").body(Body::empty()).unwrap();
            assert_eq!(status(post), 405, "{path}");
        }
    }

    #[test]
    fn names_urls_and_prefixes_are_checked() {
        for bad in ["", "a/b", "a:1", "https://a", "ä.test", "a b"] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
        for bad in ["", "issuer.test", "https://", "ftp://a", "https://a?b", "https://a#b", "/x"] {
            assert!(bad.parse::<IssuerUrl>().is_err(), "{bad}");
        }
        for bad in ["a b", "/a//b", "/..", "/a?b", "/%41"] {
            assert!(bad.parse::<PathPrefix>().is_err(), "{bad}");
        }
        for good in ["", "/", "//"] {
            assert_eq!(good.parse::<PathPrefix>(), Ok(PathPrefix::default()));
        }
    }
}
