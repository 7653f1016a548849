//! The rules of relying parties.

use std::collections::HashSet;

use serde_json::Value;
use signet_base::chain;
use signet_identity::SpiffeId;
use signet_pki::{
    jwks::decode_jwt_jwks,
    jwt::{JwtBundle, validate},
};

use super::{Facts, Fetched, Target, Token};

/// Whether a rule is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Good,
    /// It may not be, or something else should be known.
    Doubt,
    /// It is not: the relying party refuses.
    Bad,
}

/// What came of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is met.
    pub verdict: Verdict,
    /// Which rule.
    pub rule: &'static str,
    /// What was found, and what was expected.
    pub detail: String,
}

/// The limits of a relying party, as it publishes them.
struct Limits {
    /// Longest issuer, characters.
    issuer: usize,
    /// Whether the issuer may name a port.
    port: bool,
    /// Algorithms of signatures.
    algorithms: &'static [&'static str],
    /// Longest subject, bytes.
    subject: usize,
    /// Longest audience, characters.
    audience: usize,
    /// Most keys of one kind.
    keys: usize,
    /// Longest token, characters.
    token: usize,
    /// Longest life of a token, seconds.
    life: Option<i64>,
    /// Whether a token must have exactly one audience.
    one_audience: bool,
    /// Claims and header members that must be there.
    required: &'static [&'static str],
}

const ANY: &[&str] = &["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256"];

impl Target {
    const fn limits(self) -> Limits {
        match self {
            Self::Aws => Limits {
                issuer: 255,
                port: false,
                algorithms: &["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"],
                subject: 255,
                audience: 255,
                keys: 100,
                token: 20_000,
                life: None,
                one_audience: false,
                required: &["iss", "sub", "aud", "exp", "iat"],
            },
            Self::Entra => Limits {
                issuer: 600,
                port: true,
                algorithms: &["RS256"],
                subject: 600,
                audience: 600,
                keys: usize::MAX,
                token: usize::MAX,
                life: None,
                one_audience: true,
                required: &["iss", "sub", "aud", "exp", "iat", "kid"],
            },
            Self::Gcp => Limits {
                issuer: usize::MAX,
                port: true,
                algorithms: &["RS256", "ES256"],
                subject: 127,
                audience: usize::MAX,
                keys: usize::MAX,
                token: usize::MAX,
                life: Some(24 * 3600),
                one_audience: false,
                required: &["iss", "sub", "aud", "exp", "iat"],
            },
            Self::Openbao => Limits {
                issuer: usize::MAX,
                port: true,
                algorithms: ANY,
                subject: usize::MAX,
                audience: usize::MAX,
                keys: usize::MAX,
                token: usize::MAX,
                life: None,
                one_audience: false,
                required: &["iss", "sub", "aud", "exp"],
            },
        }
    }
}

/// Applies every rule of `target`.
pub fn apply(target: Target, facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    let limits = target.limits();
    issuer(&mut findings, &limits, &facts.issuer);
    audience(&mut findings, target, &limits, &facts.audience);
    configuration(&mut findings, facts);
    keys(&mut findings, &limits, facts);
    match &facts.token {
        Some(found) => token(&mut findings, &limits, facts, found),
        None => findings.add(Verdict::Doubt, "token", "none was given, so none was checked"),
    }
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, verdict: Verdict, rule: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { verdict, rule, detail: detail.into() });
    }

    fn check(
        &mut self,
        rule: &'static str,
        is_met: bool,
        good: impl Into<String>,
        bad: impl Into<String>,
    ) {
        match is_met {
            true => self.add(Verdict::Good, rule, good),
            false => self.add(Verdict::Bad, rule, bad),
        }
    }
}

fn issuer(findings: &mut Findings, limits: &Limits, issuer: &str) {
    let rest = issuer.strip_prefix("https://");
    let is_https = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', '@']));
    findings.check(
        "issuer URL",
        is_https,
        issuer,
        format!("{issuer:?}, expected https:// with a host, without query and fragment"),
    );
    let authority = rest.unwrap_or_default().split('/').next().unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !limits.port {
        let bad = format!("{authority:?} names a port, which is not accepted");
        findings.check("issuer port", !has_port, "none is named", bad);
    }
    length(findings, "issuer length", issuer.chars().count(), limits.issuer, "characters");
}

fn audience(findings: &mut Findings, target: Target, limits: &Limits, audience: &str) {
    length(findings, "audience length", audience.chars().count(), limits.audience, "characters");
    match target {
        Target::Entra if audience != "api://AzureADTokenExchange" => {
            let why = format!("{audience:?}, where api://AzureADTokenExchange is recommended");
            findings.add(Verdict::Doubt, "audience", why);
        }
        Target::Gcp if !audience.contains("/workloadIdentityPools/") => {
            let why = format!(
                "{audience:?} is not the default of a provider: name it in its allowed audiences"
            );
            findings.add(Verdict::Doubt, "audience", why);
        }
        _ => {}
    }
}

fn configuration(findings: &mut Findings, facts: &Facts) {
    let Some(found) = fetched(findings, "provider configuration", &facts.configuration) else {
        return;
    };
    let says = found.members.get("issuer").and_then(Value::as_str).unwrap_or_default();
    findings.check(
        "issuer match",
        says == facts.issuer,
        "the document names the same issuer, byte for byte",
        format!("the document names {says:?}, expected {:?} byte for byte", facts.issuer),
    );
    let uri = found.members.get("jwks_uri").and_then(Value::as_str).unwrap_or_default();
    let bad = format!("{uri:?}, expected an https:// URL");
    findings.check("jwks_uri", uri.starts_with("https://"), uri, bad);
}

fn keys(findings: &mut Findings, limits: &Limits, facts: &Facts) {
    let Some(found) = fetched(findings, "keys", &facts.keys) else { return };
    let none = Vec::new();
    let all = found.members.get("keys").and_then(Value::as_array).unwrap_or(&none);
    let text = |key: &Value, name: &str| {
        key.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    findings.check("number of keys", !all.is_empty(), all.len().to_string(), "there is none");
    for kind in ["RSA", "EC"] {
        let count = all.iter().filter(|key| text(key, "kty") == kind).count();
        if limits.keys != usize::MAX {
            let rule = if kind == "RSA" { "RSA keys" } else { "EC keys" };
            length(findings, rule, count, limits.keys, "keys");
        }
    }
    let kids: Vec<_> = all.iter().map(|key| text(key, "kid")).collect();
    let different: HashSet<_> = kids.iter().filter(|kid| !kid.is_empty()).collect();
    findings.check(
        "key IDs",
        different.len() == all.len(),
        "each key has one of its own",
        "some key has none, or that of another one",
    );
    let algorithm = |key: &Value| match (text(key, "kty").as_str(), text(key, "crv").as_str()) {
        ("RSA", _) => "RS256",
        ("EC", "P-256") => "ES256",
        ("EC", "P-384") => "ES384",
        ("EC", "P-521") => "ES512",
        _ => "",
    };
    let usable = all.iter().filter(|key| limits.algorithms.contains(&algorithm(key))).count();
    let accepted = limits.algorithms.join(", ");
    findings.check(
        "algorithms of the keys",
        usable > 0,
        format!("{usable} of {} keys sign by one of {accepted}", all.len()),
        format!(
            "no key signs by one of {accepted}; set jwt_key_type or second_jwt_key of the server"
        ),
    );
}

fn token(findings: &mut Findings, limits: &Limits, facts: &Facts, token: &Token) {
    length(findings, "token length", token.text.len(), limits.token, "characters");
    let missing: Vec<_> = limits
        .required
        .iter()
        .filter(|name| !token.claims.contains_key(**name) && !token.header.contains_key(**name))
        .copied()
        .collect();
    findings.check(
        "token claims",
        missing.is_empty(),
        format!("{} are there", limits.required.join(", ")),
        format!("{} missing{}", missing.join(", "), hint(&missing)),
    );
    let algorithm = token.header.get("alg").and_then(Value::as_str).unwrap_or_default();
    let accepted = limits.algorithms.join(", ");
    findings.check(
        "token algorithm",
        limits.algorithms.contains(&algorithm),
        algorithm,
        format!("{algorithm:?}, expected one of {accepted}"),
    );
    let says = token.claim("iss").unwrap_or_default();
    findings.check(
        "token issuer",
        says == facts.issuer,
        "the same, byte for byte",
        format!("{says:?}, expected {:?} byte for byte", facts.issuer),
    );
    let audience = token.audience();
    findings.check(
        "token audience",
        audience.contains(&facts.audience.as_str()),
        facts.audience.clone(),
        format!("{audience:?}, expected {:?} among them", facts.audience),
    );
    if limits.one_audience {
        let found = audience.len();
        let bad = format!("{found} audiences, exactly one is accepted");
        findings.check("one audience", found == 1, "exactly one", bad);
    }
    let subject = token.claim("sub").unwrap_or_default();
    length(findings, "subject length", subject.len(), limits.subject, "bytes");
    if let (Some(most), Some(expires), Some(issued)) =
        (limits.life, token.time("exp"), token.time("iat"))
    {
        let life = expires - issued;
        let text = format!("{life} s, at most {most} s are accepted");
        findings.check("token lifetime", life <= most, text.clone(), text);
    }
    signature(findings, facts, token);
}

/// Signature, times and audience, by the keys that are published.
fn signature(findings: &mut Findings, facts: &Facts, token: &Token) {
    let Ok(found) = &facts.keys else {
        return findings.add(
            Verdict::Bad,
            "token signature",
            "there are no keys to verify it with",
        );
    };
    let verified = || -> Result<String, String> {
        let keys = decode_jwt_jwks(&found.text).map_err(|error| chain(&error).to_string())?;
        let subject = token.claim("sub").unwrap_or_default();
        let id: SpiffeId = subject.parse().map_err(|error| format!("sub: {error}"))?;
        let bundle = JwtBundle::new(id.trust_domain().clone(), &keys);
        let audience = [facts.audience.clone()];
        let valid = validate(&token.text, &audience, facts.now, |_| Some(&bundle));
        valid.map(|valid| format!("verified, of {}", valid.id)).map_err(|e| chain(&e).to_string())
    };
    match verified() {
        Ok(good) => findings.add(Verdict::Good, "token signature", good),
        Err(why) => findings.add(Verdict::Bad, "token signature", why),
    }
}

fn hint(missing: &[&str]) -> &'static str {
    match missing.contains(&"iss") {
        true => ": set jwt_issuer in the server's configuration",
        false => "",
    }
}

fn fetched<'f>(
    findings: &mut Findings,
    rule: &'static str,
    found: &'f Result<Fetched, String>,
) -> Option<&'f Fetched> {
    let found = match found {
        Ok(found) => found,
        Err(why) => {
            findings.add(Verdict::Bad, rule, why);
            return None;
        }
    };
    let (ms, kind) = (found.took.as_millis(), &found.content_type);
    if ms >= 5_000 {
        let why = format!("{} took {ms} ms, relying parties wait for 5 s", found.url);
        findings.add(Verdict::Bad, rule, why);
    } else if !kind.starts_with("application/json") && !kind.contains("+json") {
        let why = format!("{} is of type {kind:?}, expected application/json", found.url);
        findings.add(Verdict::Doubt, rule, why);
    } else {
        findings.add(Verdict::Good, rule, format!("{} in {ms} ms", found.url));
    }
    Some(found)
}

fn length(findings: &mut Findings, rule: &'static str, is: usize, most: usize, unit: &str) {
    let text = match most {
        usize::MAX => format!("{is} {unit}"),
        most => format!("{is} {unit}, at most {most} are accepted"),
    };
    findings.check(rule, is <= most, text.clone(), text);
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use serde_json::json;
    use signet_time::UnixTime;

    use super::*;

    fn fetched(value: Value) -> Result<Fetched, String> {
        Ok(Fetched {
            url: "https://x.test/".into(),
            content_type: "application/json".into(),
            text: value.to_string().into_bytes(),
            members: value.as_object().unwrap().clone(),
            took: Duration::from_millis(1),
        })
    }

    fn facts(issuer: &str, key: Value) -> Facts {
        let claims = json!({
            "iss": issuer, "sub": "spiffe://td.test/w", "aud": ["a"], "exp": 2000, "iat": 1000,
        });
        Facts {
            issuer: issuer.into(),
            audience: "a".into(),
            configuration: fetched(json!({ "issuer": issuer, "jwks_uri": "https://x.test/keys" })),
            keys: fetched(json!({ "keys": [key] })),
            token: Some(Token {
                text: "a.b.c".into(),
                header: json!({ "alg": "ES256", "kid": "k" }).as_object().unwrap().clone(),
                claims: claims.as_object().unwrap().clone(),
            }),
            now: UnixTime::from_seconds(1500),
        }
    }

    fn bad(target: Target, facts: &Facts) -> BTreeMap<&'static str, String> {
        let all = apply(target, facts).into_iter();
        let bad = all.filter(|finding| finding.verdict == Verdict::Bad);
        // The tokens of these tests are signed by nobody.
        let bad = bad.filter(|finding| finding.rule != "token signature");
        bad.map(|finding| (finding.rule, finding.detail)).collect()
    }

    #[test]
    fn each_cloud_has_its_own_reasons_to_refuse() {
        let ec = json!({ "kty": "EC", "crv": "P-256", "kid": "k" });
        let good = facts("https://x.test", ec.clone());
        for target in [Target::Aws, Target::Gcp, Target::Openbao] {
            assert!(bad(target, &good).is_empty(), "{target:?}: {:?}", bad(target, &good));
        }
        let entra = bad(Target::Entra, &good);
        let rules: Vec<_> = entra.keys().copied().collect();
        assert_eq!(rules, ["algorithms of the keys", "token algorithm"]);

        let port = facts("https://x.test:8443", ec.clone());
        assert!(bad(Target::Aws, &port).contains_key("issuer port"));
        assert!(bad(Target::Gcp, &port).is_empty());

        let mut long = good.clone();
        let claims = &mut long.token.as_mut().unwrap().claims;
        claims.insert("sub".into(), format!("spiffe://td.test/{}", "w".repeat(150)).into());
        assert!(bad(Target::Gcp, &long)["subject length"].contains("at most 127"));
        assert!(bad(Target::Aws, &long).is_empty());

        let mut lives = good.clone();
        lives.token.as_mut().unwrap().claims.insert("exp".into(), (1001 + 24 * 3600).into());
        assert!(bad(Target::Gcp, &lives).contains_key("token lifetime"));

        let mut two = facts("https://x.test", json!({ "kty": "RSA", "kid": "k" }));
        let found = two.token.as_mut().unwrap();
        found.header.insert("alg".into(), "RS256".into());
        found.claims.insert("aud".into(), json!(["a", "b"]));
        assert_eq!(bad(Target::Entra, &two).into_keys().collect::<Vec<_>>(), ["one audience"]);
    }

    #[test]
    fn an_issuer_is_compared_byte_for_byte() {
        let ec = json!({ "kty": "EC", "crv": "P-256", "kid": "k" });
        let mut slash = facts("https://x.test/", ec.clone());
        slash.configuration =
            fetched(json!({ "issuer": "https://x.test", "jwks_uri": "http://x.test/keys" }));
        let claims = &mut slash.token.as_mut().unwrap().claims;
        claims.remove("iss");
        let found = bad(Target::Aws, &slash);
        assert!(found.contains_key("issuer match") && found.contains_key("jwks_uri"));
        assert!(found["token claims"].ends_with("set jwt_issuer in the server's configuration"));
        let mut same = facts("https://x.test", ec.clone());
        same.keys = fetched(json!({ "keys": [ec.clone(), ec] }));
        assert!(bad(Target::Aws, &same).contains_key("key IDs"));
        same.keys = Err("no route".into());
        assert_eq!(bad(Target::Aws, &same)["keys"], "no route");
    }
}
