//! Reading a policy file.

use std::collections::BTreeSet;

use nix::unistd::{Group, User};
use signet_config::{Block, ConfigError, Context, Document, decode_document};
use signet_identity::{Selector, SpiffeId, Tenant, tenant::AgentRule};

use super::{Grant, LocalRule, Rules, Tenants, VERBS};

/// The most rules of one kind.
const MAX_RULES: usize = 10_000;

pub(super) fn rules(document: &Document) -> Result<Rules, ConfigError> {
    decode_document(document, |context, document| Some(decode(context, document)))
        .map(|(rules, _)| rules)
}

fn decode(context: &Context, document: &Document) -> Rules {
    let root = Block::root(context, document);
    let mut rules = Rules::default();
    for (label, block) in bounded(&root, "admin") {
        let pos = block.pos();
        let grant = grant(block);
        match label.parse::<SpiffeId>() {
            Err(error) => {
                context.error(pos, format!("admin {label:?}: not a SPIFFE ID: {error}"));
            }
            Ok(id) => {
                if rules.admins.insert(id, grant).is_some() {
                    context.error(pos, format!("admin {label:?} is there more than once"));
                }
            }
        }
    }
    for (label, block) in bounded(&root, "local") {
        let pos = block.pos();
        let grant = grant(block);
        match who(&label) {
            Ok((users, groups)) => {
                rules.local.push(LocalRule { name: label, users, groups, grant });
            }
            Err(why) => context.error(pos, format!("local {label:?}: {why}")),
        }
    }
    for (label, block) in bounded(&root, "agent_tenants") {
        let pos = block.pos();
        let path = block.text("path").unwrap_or_default();
        let selectors = block.texts("selectors");
        let selectors: Result<_, _> = selectors.iter().map(|it| it.parse::<Selector>()).collect();
        let tenants = block.parsed_list::<Tenant>("tenants").into_iter().collect();
        if !path.is_empty() && !path.starts_with("/spire/agent/") {
            block.error("path", "paths of agents begin with /spire/agent/");
        }
        block.finish();
        match selectors {
            Ok(selectors) => rules.agents.push(AgentRule { path, selectors, tenants }),
            Err(error) => {
                context.error(pos, format!("agent_tenants {label:?}: selectors: {error}"));
            }
        }
    }
    root.finish();
    rules
}

fn bounded<'a>(root: &Block<'a>, key: &'static str) -> Vec<(String, Block<'a>)> {
    let found = root.labelled(key);
    if found.len() > MAX_RULES {
        root.error(key, format_args!("more than {MAX_RULES} rules"));
    }
    found
}

fn grant(block: Block<'_>) -> Grant {
    let names = block.texts("tenants");
    let tenants = match names.iter().any(|name| name == "*") {
        true => Tenants::All,
        false => Tenants::Only(block.parsed_list::<Tenant>("tenants").into_iter().collect()),
    };
    if names.len() > 1 && tenants == Tenants::All {
        block.error("tenants", "\"*\" stands alone");
    }
    if names.is_empty() {
        block.error("tenants", "name the tenants, or \"*\" for all and for what has none");
    }
    let mut paths = Vec::new();
    for path in block.texts("paths") {
        let trimmed = path.strip_suffix('/').unwrap_or(&path);
        match trimmed.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => paths.push(trimmed.to_owned()),
            _ => block.error("paths", format_args!("{path:?} is no path: /tenants/blue, say")),
        }
    }
    let verbs = block.texts("verbs");
    if verbs.is_empty() {
        block.error("verbs", "name the verbs, \"entry.*\" say, or \"*\" for all");
    }
    for verb in &verbs {
        let known = match verb.strip_suffix('*') {
            Some("") => true,
            Some(group) => group.ends_with('.') && VERBS.iter().any(|it| it.0.starts_with(group)),
            None => VERBS.iter().any(|(name, _)| name == verb),
        };
        if !known {
            block.error("verbs", format_args!("{verb:?} is no verb; `policy verbs` lists them"));
        }
    }
    let verbs = if verbs.iter().any(|verb| verb == "*") { Vec::new() } else { verbs };
    block.finish();
    Grant { tenants, paths, verbs }
}

/// Whom `uid:N`, `gid:N`, `user:NAME` and `group:NAME` name, as the system knows them now.
fn who(label: &str) -> Result<(BTreeSet<u32>, BTreeSet<u32>), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is no number"));
    let one = |id: u32| BTreeSet::from([id]);
    match label.split_once(':') {
        Some(("uid", text)) => Ok((one(number(text)?), BTreeSet::new())),
        Some(("gid", text)) => Ok((BTreeSet::new(), one(number(text)?))),
        Some(("user", name)) => {
            let user = User::from_name(name).map_err(|error| error.to_string())?;
            let user = user.ok_or_else(|| format!("this machine has no user {name:?}"))?;
            Ok((one(user.uid.as_raw()), BTreeSet::new()))
        }
        Some(("group", name)) => {
            let group = Group::from_name(name).map_err(|error| error.to_string())?;
            let group = group.ok_or_else(|| format!("this machine has no group {name:?}"))?;
            let members = group.mem.iter().filter_map(|name| User::from_name(name).ok().flatten());
            Ok((members.map(|user| user.uid.as_raw()).collect(), one(group.gid.as_raw())))
        }
        _ => Err("expected user:NAME, group:NAME, uid:NUMBER or gid:NUMBER".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rules, String> {
        let document = signet_config::parse("policy.conf", text).map_err(|e| e.to_string())?;
        Rules::from_document(&document).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_names_administrators_local_users_and_agents() {
        let rules = read(
            r#"
            admin "spiffe://td/ops/blue" {
                tenants = ["blue"] paths = ["/tenants/blue/"] verbs = ["entry.*", "agent.read"]
            }
            local "group:root" { tenants = ["*"] verbs = ["*"] }
            agent_tenants "nodes" {
                path = "/spire/agent/k8s_psat/" selectors = ["k8s_psat:cluster:a"] tenants = ["blue"]
            }
            "#,
        )
        .unwrap();
        let grant = &rules.admins[&"spiffe://td/ops/blue".parse().unwrap()];
        assert_eq!(grant.paths, ["/tenants/blue"]);
        assert!(rules.local[0].groups.contains(&0));
        assert_eq!(rules.local[0].grant.tenants, Tenants::All);
        assert_eq!(rules.agents[0].selectors.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, expected) in [
            ("admin \"x\" { tenants = [\"a\"] verbs = [\"*\"] }", "not a SPIFFE ID"),
            ("admin \"spiffe://td/x\" { verbs = [\"*\"] }", "name the tenants"),
            ("admin \"spiffe://td/x\" { tenants = [\"a\"] }", "name the verbs"),
            ("admin \"spiffe://td/x\" { tenants = [\"A\"] verbs = [\"*\"] }", "a tenant is named"),
            ("admin \"spiffe://td/x\" { tenants = [\"a\"] verbs = [\"entry.eat\"] }", "is no verb"),
            ("admin \"spiffe://td/x\" { tenants=[\"a\"] verbs=[\"*\"] paths=[\"x\"] }", "no path"),
            ("local \"bob\" { tenants = [\"a\"] verbs = [\"*\"] }", "expected user:NAME"),
            ("local \"user:no-such-user\" { tenants = [\"a\"] verbs = [\"*\"] }", "has no user"),
            ("agent_tenants \"x\" { path = \"/x\" tenants = [\"a\"] }", "begin with /spire/agent/"),
            ("package spire", "expected `=`"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }
}
