//! Reading the policy file.

use std::{collections::BTreeMap, time::Duration};

use signet_config::{Block, Context, Document};

use super::{Credential, Engine, Policy, Rule, Tenant};

/// The longest that anything handed out may live.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// The shortest: below, renewing is all that a workload would do.
const MIN_TTL: Duration = Duration::from_secs(5);
/// How long what is handed out lives unless said otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// How long a wrapping token may live.
const MAX_WRAP: Duration = Duration::from_secs(3600);
/// The most tenants, credentials and rules of a file, each.
const MAX_ITEMS: usize = 10_000;
/// What can be done with a key of the transit engine.
const OPERATIONS: &[&str] = &["decrypt", "encrypt", "hmac", "sign", "verify"];

pub(super) fn policy(context: &Context, document: &Document) -> Option<Policy> {
    let root = Block::root(context, document);
    let mut policy = Policy::default();
    for (name, block) in root.labelled("tenant") {
        let block = block.named(format!("tenant {name:?}"));
        check_name(&block, &name);
        if let Some(tenant) = tenant(&name, block) {
            policy.tenants.insert(name, tenant);
        }
    }
    for (name, block) in root.labelled("credential") {
        let block = block.named(format!("credential {name:?}"));
        check_name(&block, &name);
        if let Some(credential) = credential(&name, block) {
            policy.credentials.insert(name, credential);
        }
    }
    let mut granted: BTreeMap<&str, usize> = BTreeMap::new();
    let rules = root.labelled("rule");
    for (name, block) in rules {
        let block = block.named(format!("rule {name:?}"));
        check_name(&block, &name);
        if let Some(rule) = rule(&name, block, &policy) {
            policy.rules.push(rule);
        }
    }
    for name in policy.rules.iter().flat_map(|rule| &rule.credentials) {
        *granted.entry(name).or_default() += 1;
    }
    for name in policy.credentials.keys().filter(|name| !granted.contains_key(name.as_str())) {
        context.warn(root.pos(), format_args!("no rule grants the credential {name:?}"));
    }
    for (kind, count) in [
        ("tenants", policy.tenants.len()),
        ("credentials", policy.credentials.len()),
        ("rules", policy.rules.len()),
    ] {
        if count > MAX_ITEMS {
            context.error(root.pos(), format!("more than {MAX_ITEMS} {kind}"));
        }
    }
    let paths: Vec<(&str, &str)> = policy
        .tenants
        .values()
        .filter_map(|tenant| Some((tenant.name.as_str(), tenant.path.as_deref()?)))
        .collect();
    for (at, (name, path)) in paths.iter().enumerate() {
        for (other, theirs) in paths.iter().skip(at + 1) {
            if path.starts_with(theirs) || theirs.starts_with(path) {
                let message = format!(
                    "tenants {name:?} and {other:?}: {path} and {theirs} overlap, so that an \
                     identity could be of both"
                );
                context.error(root.pos(), message);
            }
        }
    }
    root.finish();
    Some(policy)
}

fn is_sql_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Names are parts of URLs and of names in OpenBao.
fn check_name(block: &Block<'_>, name: &str) {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fine) {
        let message =
            format!("name {name:?}: expected 1 to 64 characters of a to z, 0 to 9, - and _");
        block.context().error(block.pos(), message);
    }
}

/// A part of a path in OpenBao: nothing that leads elsewhere.
fn place(block: &Block<'_>, key: &'static str, text: Option<String>) -> Option<String> {
    let text = text?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let trimmed = text.trim_matches('/');
    let leads = trimmed.split('/').any(|part| matches!(part, "" | "." | ".."));
    if leads || !trimmed.bytes().all(fine) || trimmed.len() > 256 {
        block.error(
            key,
            format_args!("found {text:?}, expected a path of letters, digits, -, _ and ."),
        );
        return None;
    }
    Some(trimmed.to_owned())
}

fn tenant(name: &str, block: Block<'_>) -> Option<Tenant> {
    let namespace = match block.text("namespace") {
        Some(text) if text == "root" || text == "/" => Some(String::new()),
        Some(text) => place(&block, "namespace", Some(text)),
        None => {
            block.missing("namespace");
            None
        }
    };
    let path = block.text("path").and_then(|path| {
        let inner = path.trim_matches('/');
        let whole = path == "/" || (path == format!("/{inner}/") && !inner.contains("//"));
        if !whole || inner.contains('*') {
            block.error(
                "path",
                format_args!("found {path:?}, expected a path that begins and ends with a slash, such as /t/acme/"),
            );
            return None;
        }
        Some(path)
    });
    let suspended = block.flag("suspended");
    let login = block.block("login");
    let (mut mount, mut role, mut audience) = (None, None, None);
    if let Some(login) = login {
        mount = place(&login, "mount", login.text("mount"));
        role = place(&login, "role", login.text("role"));
        audience = login.text("audience");
        login.finish();
    }
    block.finish();
    Some(Tenant {
        name: name.to_owned(),
        namespace: namespace?,
        path,
        suspended,
        login_mount: mount.unwrap_or_else(|| "jwt".to_owned()),
        login_role: role.unwrap_or_else(|| "signet-broker".to_owned()),
        login_audience: audience,
    })
}

fn credential(name: &str, block: Block<'_>) -> Option<Credential> {
    let engine_name = block.required_text("engine");
    let mut mount = place(&block, "mount", block.text("mount"));
    let role = || {
        let role = place(&block, "role", block.text("role"));
        block.required("role", role)
    };
    let engine = match engine_name.as_deref() {
        Some("database") => {
            let connection = place(&block, "connection", block.text("connection"));
            let member_of = block.text("member_of");
            if let Some(name) = member_of.as_deref().filter(|name| !is_sql_name(name)) {
                block.error(
                    "member_of",
                    format_args!(
                        "found {name:?}, expected a PostgreSQL role's name of a to z, 0 to 9 and _"
                    ),
                );
            }
            let setup = match (connection, member_of) {
                (Some(connection), Some(member_of)) => Some((connection, member_of)),
                (None, None) => None,
                _ => {
                    block.error(
                        "connection",
                        "connection and member_of are for bootstrap: set both or none",
                    );
                    None
                }
            };
            role().map(|role| Engine::Database { role, setup })
        }
        Some("pki") => role().map(|role| Engine::Pki { role }),
        Some("aws") => {
            let sts = block.flag("sts");
            role().map(|role| Engine::Aws { role, sts })
        }
        Some("kv") => {
            mount = mount.or_else(|| Some("secret".to_owned()));
            let path = place(&block, "path", block.text("path"));
            block.required("path", path).map(|path| Engine::Kv { path })
        }
        Some("transit") => {
            let operations = block.texts("operations");
            for operation in &operations {
                if !OPERATIONS.contains(&operation.as_str()) {
                    block.error(
                        "operations",
                        format_args!(
                            "found {operation:?}, expected some of {}",
                            OPERATIONS.join(", ")
                        ),
                    );
                }
            }
            if operations.is_empty() {
                block.missing("operations");
            }
            let key = place(&block, "key", block.text("key"));
            block.required("key", key).map(|key| Engine::Transit { key, operations })
        }
        Some(other) => {
            block.error(
                "engine",
                format_args!("found {other:?}, expected aws, database, kv, pki or transit"),
            );
            None
        }
        None => None,
    };
    let ttl = block.duration("ttl").unwrap_or(DEFAULT_TTL);
    if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
        block.error("ttl", format_args!("{ttl:?} is not between {MIN_TTL:?} and {MAX_TTL:?}"));
    }
    let max_uses = block.integer::<u32>("max_uses").filter(|uses| *uses > 0);
    let wrap = block.duration("wrap_ttl");
    if wrap.is_some_and(|wrap| wrap > MAX_WRAP || wrap < Duration::from_secs(1)) {
        block.error("wrap_ttl", format_args!("expected between 1 s and {MAX_WRAP:?}"));
    }
    if wrap.is_some() && matches!(engine, Some(Engine::Transit { .. })) {
        block.error("wrap_ttl", "the answers of the transit engine are no secrets to be wrapped");
    }
    let mount = mount.or(engine_name);
    block.finish();
    Some(Credential { name: name.to_owned(), mount: mount?, engine: engine?, ttl, max_uses, wrap })
}

fn rule(name: &str, block: Block<'_>, policy: &Policy) -> Option<Rule> {
    let tenant = block.required_text("tenant");
    let ids: Vec<super::IdPattern> = block.parsed_list("ids");
    let credentials = block.texts("credentials");
    if let Some(tenant) = &tenant {
        match policy.tenants.get(tenant) {
            None => block.error("tenant", format_args!("there is no tenant {tenant:?}")),
            Some(known) => {
                if let Some(path) = known.path.as_deref().filter(|path| *path != "/") {
                    for id in ids.iter().filter(|id| !id.lies_below(path)) {
                        block.error(
                            "ids",
                            format_args!(
                                "{id} does not lie below {path}, the path of tenant {tenant:?}"
                            ),
                        );
                    }
                }
            }
        }
    }
    for credential in credentials.iter().filter(|name| !policy.credentials.contains_key(*name)) {
        block.error("credentials", format_args!("there is no credential {credential:?}"));
    }
    for (key, empty) in [("ids", ids.is_empty()), ("credentials", credentials.is_empty())] {
        if empty && block.pos_of(key).is_none() {
            block.missing(key);
        }
    }
    let mut service_accounts = Vec::new();
    for text in block.texts("service_accounts") {
        let dns = |name: &str| {
            (1..=63).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        match text.split_once('/') {
            Some((namespace, name)) if dns(namespace) && dns(name) => {
                service_accounts.push((namespace.to_owned(), name.to_owned()));
            }
            _ => block.error(
                "service_accounts",
                format_args!("found {text:?}, expected \"namespace/name\" without wildcards"),
            ),
        }
    }
    let mut claims = BTreeMap::new();
    for text in block.texts("claims") {
        match text.split_once('=') {
            Some((claim, value)) if !claim.is_empty() => {
                claims.insert(claim.to_owned(), value.to_owned());
            }
            _ => block.error("claims", format_args!("found {text:?}, expected \"claim=value\"")),
        }
    }
    block.finish();
    Some(Rule {
        name: name.to_owned(),
        tenant: tenant?,
        ids,
        claims,
        credentials,
        service_accounts,
    })
}
