//! What is to be set up: pure.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::{Value, json};
use signet_identity::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::{
    issue::TOKEN_ROLE,
    policy::{Credential, Engine, Policy, Rule, Tenant},
};

/// The name of the broker's own policy, in each namespace.
const BROKER_POLICY: &str = "signet-broker";
/// Leeways, seconds: OpenBao's own (150, 150, 60) make a token without `exp` live on.
const LEEWAY: i64 = 5;
/// How long a session of the broker lives.
const BROKER_TTL: &str = "15m";
/// How long a token of a workload that logs in by itself lives.
const DIRECT_TTL: &str = "10m";
/// The longest life of a token that the broker makes for an identity.
const MAX_TOKEN_TTL: &str = "24h";
/// Logins a second and namespace: an unknown key makes OpenBao fetch the keys.
const LOGIN_RATE: i64 = 100;

/// Where OpenBao finds the keys of JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verifier {
    /// By OIDC discovery, with these roots.
    Discovery(String, Option<String>),
    /// At a URL, with these roots.
    Jwks(String, Option<String>),
    /// PEM public keys.
    Keys(Vec<String>),
}

/// A cluster whose service accounts may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The API server's URL.
    pub host: String,
    /// Its roots, PEM.
    pub ca: Option<String>,
    /// Whether a reviewer's token was given.
    pub has_reviewer: bool,
}

/// What is set up besides what the policy says.
#[derive(Clone)]
pub struct Setup {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Who the broker is.
    pub broker: SpiffeId,
    /// The prefix of audiences.
    pub audience: String,
    /// `iss`.
    pub issuer: String,
    /// Where the keys are.
    pub verifier: Verifier,
    /// Whether workloads may log in by JWT-SVID themselves.
    pub jwt_roles: bool,
    /// The trust bundle, PEM, if they may by X.509-SVID.
    pub cert_bundle: Option<String>,
    /// The cluster, if pods may by service account.
    pub kubernetes: Option<Kubernetes>,
    /// The reviewer's token: a secret, applied but never printed.
    pub reviewer: Option<Zeroizing<String>>,
}

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What it is for.
    pub what: String,
    /// The namespace; empty for the root.
    pub namespace: String,
    /// The path below `/v1/`.
    pub path: String,
    /// The body.
    pub body: Value,
    /// Done only when a GET of this path in the same namespace has no `data` member (or answer) of
    /// this name: mounts and namespaces cannot be made twice.
    pub unless: Option<(String, String)>,
    /// Printed in the body's place of this member: a secret that is not shown.
    pub hidden: Option<&'static str>,
}

/// Everything, in order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The calls.
    pub steps: Vec<Step>,
    /// What cannot be set up here, and who has to.
    pub warnings: Vec<String>,
}

impl Plan {
    /// The plan for a policy.
    pub fn new(policy: &Policy, setup: &Setup) -> Self {
        let mut plan = Self::default();
        plan.step(
            "show correlation IDs in the audit log",
            "",
            "sys/config/auditing/request-headers/X-Correlation-Id",
            json!({ "hmac": false }),
        );
        for tenant in policy.tenants() {
            plan.tenant(policy, tenant, setup);
        }
        plan
    }

    fn step(&mut self, what: &str, namespace: &str, path: &str, body: Value) -> &mut Step {
        self.steps.push(Step {
            what: what.to_owned(),
            namespace: namespace.to_owned(),
            path: path.to_owned(),
            body,
            unless: None,
            hidden: None,
        });
        let last = self.steps.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "just pushed")]
        &mut self.steps[last]
    }

    fn mount(&mut self, what: &str, namespace: &str, list: &str, at: &str, body: Value) {
        let step = self.step(what, namespace, &format!("{list}/{at}"), body);
        step.unless = Some((list.to_owned(), format!("{at}/")));
    }

    fn tenant(&mut self, policy: &Policy, tenant: &Tenant, setup: &Setup) {
        let ns = tenant.namespace.as_str();
        let name = &tenant.name;
        if !ns.is_empty() {
            let (parent, own) = ns.rsplit_once('/').unwrap_or(("", ns));
            let what = format!("namespace of tenant {name}");
            let step = self.step(&what, parent, &format!("sys/namespaces/{own}"), json!({}));
            step.unless = Some((format!("sys/namespaces/{own}"), "id".to_owned()));
        }
        let mount = &tenant.login_mount;
        self.mount(
            "JWT-SVIDs are taken",
            ns,
            "sys/auth",
            mount,
            json!({ "type": "jwt", "description": "JWT-SVIDs" }),
        );
        self.step(
            "keys and issuer of JWT-SVIDs",
            ns,
            &format!("auth/{mount}/config"),
            jwt_config(setup),
        );
        let audience = audience(tenant, setup);
        self.step(
            "the broker logs in, by its own SVID only",
            ns,
            &format!("auth/{mount}/role/{}", tenant.login_role),
            with(
                jwt_role(&audience, &[BROKER_POLICY.to_owned()], BROKER_TTL),
                json!({ "bound_subject": setup.broker.to_string() }),
            ),
        );
        self.quota(tenant);
        self.step(
            "what the broker may do",
            ns,
            &format!("sys/policies/acl/{BROKER_POLICY}"),
            json!({ "policy": broker_policy(setup.cert_bundle.is_some()) }),
        );
        self.step(
            "tokens of identities: orphans, with policies of credentials only",
            ns,
            &format!("auth/token/roles/{TOKEN_ROLE}"),
            json!({
                "orphan": true,
                "renewable": true,
                "token_type": "service",
                "token_no_default_policy": true,
                "token_explicit_max_ttl": MAX_TOKEN_TTL,
                "allowed_policies_glob": ["signet-credential-*"],
            }),
        );
        let rules: Vec<&Rule> = policy.rules().iter().filter(|rule| rule.tenant == *name).collect();
        let granted: BTreeSet<&str> =
            rules.iter().flat_map(|rule| rule.credentials.iter().map(String::as_str)).collect();
        for credential in policy.credentials().filter(|c| granted.contains(c.name.as_str())) {
            self.credential(tenant, credential);
        }
        if setup.jwt_roles {
            self.jwt_roles(policy, tenant, &rules, setup, &audience);
        }
        if let Some(bundle) = &setup.cert_bundle {
            self.mount(
                "X.509-SVIDs are taken",
                ns,
                "sys/auth",
                "cert",
                json!({ "type": "cert", "description": "X.509-SVIDs; they need a common name" }),
            );
            let (roles, warnings) = cert_roles(policy, tenant, &setup.trust_domain, bundle);
            self.warnings.extend(warnings);
            for (path, body) in roles {
                self.step("workloads log in by X.509-SVID", ns, &path, body);
            }
        }
        if let Some(kubernetes) = &setup.kubernetes {
            self.kubernetes(policy, tenant, &rules, kubernetes, setup, &audience);
        }
    }

    fn quota(&mut self, tenant: &Tenant) {
        let ns = tenant.namespace.as_str();
        let prefix = if ns.is_empty() { String::new() } else { format!("{ns}/") };
        // Quotas are of the root namespace.
        self.step(
            "logins are limited: each unknown key makes OpenBao fetch the keys",
            "",
            &format!("sys/quotas/rate-limit/signet-login-{}", tenant.name),
            json!({
                "path": format!("{prefix}auth/{}/login", tenant.login_mount),
                "rate": LOGIN_RATE,
            }),
        );
    }

    fn credential(&mut self, tenant: &Tenant, credential: &Credential) {
        let ns = tenant.namespace.as_str();
        let mount = &credential.mount;
        self.step(
            &format!("read {} and nothing else", credential.name),
            ns,
            &format!("sys/policies/acl/{}", credential.bao_policy()),
            json!({ "policy": credential_policy(credential) }),
        );
        let (kind, options) = match &credential.engine {
            Engine::Aws { .. } => ("aws", Value::Null),
            Engine::Database { .. } => ("database", Value::Null),
            Engine::Kv { .. } => ("kv", json!({ "version": "2" })),
            Engine::Pki { .. } => ("pki", Value::Null),
            Engine::Transit { .. } => ("transit", Value::Null),
        };
        let mut body = json!({ "type": kind });
        if !options.is_null() {
            body = with(body, json!({ "options": options }));
        }
        if !self.steps.iter().any(|s| s.namespace == ns && s.path == format!("sys/mounts/{mount}"))
        {
            self.mount("engine", ns, "sys/mounts", mount, body);
        }
        match &credential.engine {
            Engine::Database { role, setup: Some((connection, owner)) } => {
                let (create, revoke) = database_statements(owner);
                let ttl = format!("{}s", credential.ttl.as_secs());
                self.step(
                    "logins that end with their sessions",
                    ns,
                    &format!("{mount}/roles/{role}"),
                    json!({
                        "db_name": connection,
                        "creation_statements": create,
                        "revocation_statements": revoke,
                        "rollback_statements": revoke,
                        "default_ttl": ttl,
                        "max_ttl": MAX_TOKEN_TTL,
                    }),
                );
            }
            Engine::Database { role, setup: None } => self.warnings.push(format!(
                "tenant {}: the role {mount}/roles/{role} is yours to write: its \
                 revocation_statements have to end open sessions; with connection and member_of in \
                 credential {} it is written here",
                tenant.name, credential.name
            )),
            Engine::Transit { key, operations } => {
                let body = json!({ "type": transit_key_type(operations) });
                let step = self.step("key", ns, &format!("{mount}/keys/{key}"), body);
                step.unless = Some((format!("{mount}/keys/{key}"), "name".to_owned()));
            }
            Engine::Aws { role, .. } | Engine::Pki { role } => self.warnings.push(format!(
                "tenant {}: the role {role} of {mount} is yours to write, with a life of at most \
                 {} s",
                tenant.name,
                credential.ttl.as_secs()
            )),
            Engine::Kv { .. } => {}
        }
    }

    fn jwt_roles(
        &mut self,
        policy: &Policy,
        tenant: &Tenant,
        rules: &[&Rule],
        setup: &Setup,
        audience: &str,
    ) {
        for rule in rules {
            let Some((subjects, exact)) = subjects(rule, &setup.trust_domain) else {
                self.warnings.push(not_said(rule, "JWT"));
                continue;
            };
            let mut claims = json!({ "sub": subjects });
            for (claim, value) in &rule.claims {
                claims = with(claims, json!({ claim: value }));
            }
            if tenant.path.is_none() {
                claims = with(claims, json!({ "tenant": tenant.name }));
            }
            let kind = if exact { "string" } else { "glob" };
            let path = format!("auth/{}/role/signet-{}", tenant.login_mount, rule.name);
            self.step(
                "workloads log in by JWT-SVID",
                &tenant.namespace,
                &path,
                with(
                    jwt_role(audience, &policies(policy, rule), DIRECT_TTL),
                    json!({ "bound_claims": claims, "bound_claims_type": kind }),
                ),
            );
        }
    }

    fn kubernetes(
        &mut self,
        policy: &Policy,
        tenant: &Tenant,
        rules: &[&Rule],
        kubernetes: &Kubernetes,
        setup: &Setup,
        audience: &str,
    ) {
        let ns = tenant.namespace.as_str();
        self.mount(
            "service accounts are taken",
            ns,
            "sys/auth",
            "kubernetes",
            json!({ "type": "kubernetes" }),
        );
        let mut body = json!({
            "kubernetes_host": kubernetes.host,
            "disable_iss_validation": true,
            "disable_local_ca_jwt": kubernetes.has_reviewer,
        });
        if let Some(ca) = &kubernetes.ca {
            body = with(body, json!({ "kubernetes_ca_cert": ca }));
        }
        if let Some(reviewer) = &setup.reviewer {
            body = with(body, json!({ "token_reviewer_jwt": **reviewer }));
        }
        let step = self.step("the cluster", ns, "auth/kubernetes/config", body);
        if setup.reviewer.is_some() {
            step.hidden = Some("token_reviewer_jwt");
        }
        for rule in rules {
            // Names and namespaces of a role are combined with one another: one role for each
            // namespace, or a service account of one would count in another.
            let namespaces: BTreeSet<&str> =
                rule.service_accounts.iter().map(|(namespace, _)| namespace.as_str()).collect();
            if !rule.claims.is_empty() && !namespaces.is_empty() {
                self.warnings.push(format!(
                    "rule {}: service accounts have no claims: no role for them",
                    rule.name
                ));
                continue;
            }
            for namespace in namespaces {
                let names: Vec<&str> = rule
                    .service_accounts
                    .iter()
                    .filter(|(of, _)| of == namespace)
                    .map(|(_, name)| name.as_str())
                    .collect();
                self.step(
                    "pods log in by service account",
                    ns,
                    &format!("auth/kubernetes/role/signet-{}-{namespace}", rule.name),
                    json!({
                        "bound_service_account_names": names,
                        "bound_service_account_namespaces": [namespace],
                        "audience": audience,
                        "alias_name_source": "serviceaccount_uid",
                        "token_policies": policies(policy, rule),
                        "token_no_default_policy": true,
                        "token_ttl": DIRECT_TTL,
                        "token_max_ttl": DIRECT_TTL,
                    }),
                );
            }
        }
    }
}

/// The roles of certificate authentication, path and body, one for each rule that can be said so.
/// They hold the bundle, and have to be written again before a new authority is used.
pub fn cert_roles(
    policy: &Policy,
    tenant: &Tenant,
    trust_domain: &TrustDomain,
    bundle: &str,
) -> (Vec<(String, Value)>, Vec<String>) {
    let mut roles = Vec::new();
    let mut warnings = Vec::new();
    for rule in policy.rules().iter().filter(|rule| rule.tenant == tenant.name) {
        match subjects(rule, trust_domain) {
            Some((subjects, _)) if rule.claims.is_empty() && tenant.path.is_some() => roles.push((
                format!("auth/cert/certs/signet-{}", rule.name),
                json!({
                    "certificate": bundle,
                    "allowed_uri_sans": subjects,
                    "token_policies": policies(policy, rule),
                    "token_no_default_policy": true,
                    "token_ttl": DIRECT_TTL,
                    "token_max_ttl": DIRECT_TTL,
                }),
            )),
            _ => warnings.push(not_said(rule, "certificate")),
        }
    }
    (roles, warnings)
}

/// How logins of PostgreSQL are made and ended: their sessions end, and what they own goes to the
/// role that they were members of. Without that they could work on after their lease.
pub fn database_statements(owner: &str) -> (Vec<String>, Vec<String>) {
    let create = format!(
        "CREATE ROLE \"{{{{name}}}}\" LOGIN PASSWORD '{{{{password}}}}' VALID UNTIL \
         '{{{{expiration}}}}' IN ROLE \"{owner}\"; GRANT \"{{{{name}}}}\" TO CURRENT_USER;"
    );
    // No new session first, then the open ones.
    let revoke = format!(
        "ALTER ROLE \"{{{{name}}}}\" NOLOGIN; SELECT pg_terminate_backend(pid) FROM \
         pg_stat_activity WHERE usename = '{{{{name}}}}'; REASSIGN OWNED BY \"{{{{name}}}}\" TO \
         \"{owner}\"; DROP OWNED BY \"{{{{name}}}}\"; DROP ROLE IF EXISTS \"{{{{name}}}}\";"
    );
    (vec![create], vec![revoke])
}

fn audience(tenant: &Tenant, setup: &Setup) -> String {
    match &tenant.login_audience {
        Some(audience) => audience.clone(),
        None => format!("{}/{}", setup.audience, tenant.name),
    }
}

fn jwt_config(setup: &Setup) -> Value {
    let keys = match &setup.verifier {
        Verifier::Discovery(url, ca) => {
            json!({ "oidc_discovery_url": url, "oidc_discovery_ca_pem": ca })
        }
        Verifier::Jwks(url, ca) => json!({ "jwks_url": url, "jwks_ca_pem": ca }),
        Verifier::Keys(keys) => json!({ "jwt_validation_pubkeys": keys }),
    };
    let mut body = with(
        keys,
        json!({
            "bound_issuer": setup.issuer,
            "jwt_supported_algs": ["ES256", "ES384", "RS256"],
        }),
    );
    if let Value::Object(body) = &mut body {
        body.retain(|_, value| !value.is_null());
    }
    body
}

fn jwt_role(audience: &str, policies: &[String], ttl: &str) -> Value {
    json!({
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [audience],
        "expiration_leeway": LEEWAY,
        "not_before_leeway": LEEWAY,
        "clock_skew_leeway": LEEWAY,
        "token_policies": policies,
        "token_no_default_policy": true,
        "token_type": "service",
        "token_ttl": ttl,
        "token_max_ttl": ttl,
    })
}

fn policies(policy: &Policy, rule: &Rule) -> Vec<String> {
    let named = |c: &&Credential| rule.credentials.contains(&c.name);
    policy.credentials().filter(named).map(Credential::bao_policy).collect()
}

/// The SPIFFE IDs of a rule as OpenBao can compare them, and whether all are exact; `None` when a
/// glob would let in more.
fn subjects(rule: &Rule, trust_domain: &TrustDomain) -> Option<(Vec<String>, bool)> {
    let mut all = Vec::new();
    for id in &rule.ids {
        all.push(format!("{}{}", trust_domain.id_string(), id.glob()?));
    }
    Some((all, rule.ids.iter().all(crate::policy::IdPattern::is_exact)))
}

fn not_said(rule: &Rule, method: &str) -> String {
    format!(
        "rule {}: {method} authentication cannot say what it says (a * for one segment, claims, or a \
         tenant that only a claim names): its workloads have to use the broker",
        rule.name
    )
}

fn credential_policy(credential: &Credential) -> String {
    let mount = &credential.mount;
    let path = |path: String, capability: &str| {
        format!("path \"{path}\" {{ capabilities = [\"{capability}\"] }}\n")
    };
    match &credential.engine {
        Engine::Aws { role, sts: true } => path(format!("{mount}/sts/{role}"), "update"),
        Engine::Aws { role, sts: false } | Engine::Database { role, .. } => {
            path(format!("{mount}/creds/{role}"), "read")
        }
        Engine::Kv { path: secret } => path(format!("{mount}/data/{secret}"), "read"),
        Engine::Pki { role } => path(format!("{mount}/sign/{role}"), "update"),
        Engine::Transit { key, operations } => {
            operations.iter().map(|op| path(format!("{mount}/{op}/{key}"), "update")).collect()
        }
    }
}

fn broker_policy(keeps_certs: bool) -> String {
    let mut text = String::new();
    for path in [
        format!("auth/token/create/{TOKEN_ROLE}"),
        "auth/token/lookup-accessor".to_owned(),
        "auth/token/renew-accessor".to_owned(),
        "auth/token/revoke-accessor".to_owned(),
        "sys/leases/renew".to_owned(),
        "sys/leases/revoke".to_owned(),
    ] {
        let _ = writeln!(text, "path \"{path}\" {{ capabilities = [\"update\"] }}");
    }
    if keeps_certs {
        text.push_str(
            "path \"auth/cert/certs/signet-*\" { capabilities = [\"create\", \"update\"] }\n",
        );
    }
    text
}

/// A key of transit that does what it is for: OpenBao's default one does not sign.
fn transit_key_type(operations: &[String]) -> &'static str {
    let has =
        |names: [&str; 2]| operations.iter().any(|operation| names.contains(&operation.as_str()));
    match (has(["sign", "verify"]), has(["encrypt", "decrypt"])) {
        (true, true) => "rsa-3072",
        (true, false) => "ed25519",
        (false, _) => "aes256-gcm96",
    }
}

fn with(mut value: Value, more: Value) -> Value {
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}
