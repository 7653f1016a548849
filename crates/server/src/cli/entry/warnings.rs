//! What looks like a mistake in an entry and is none that the server refuses.

use std::collections::BTreeSet;

use signet_api::pb::spire::api::{
    server::{
        agent::v1::{GetAgentRequest, agent_client::AgentClient},
        entry::v1::{ListEntriesRequest, entry_client::EntryClient, list_entries_request},
    },
    types,
};
use signet_identity::spiffe_id::SERVER_PATH;
use signet_time::UnixTime;
use tonic::transport::Channel;

use crate::cli::env::{CliError, Env};

/// How many warnings of a file are printed.
const MOST_WARNINGS: usize = 20;
/// How many parents of a file are looked for.
const MOST_PARENTS: usize = 100;
/// Lifetimes outside of these are hardly meant, seconds.
const SHORTEST_TTL: i32 = 60;
const LONGEST_TTL: i32 = 30 * 24 * 3600;

/// Types of selectors that the attestors of Signet and SPIRE make.
const TYPES: &[&str] = &[
    "aws_iid",
    "azure_imds",
    "azure_msi",
    "docker",
    "gcp_iit",
    "http_challenge",
    "join_token",
    "k8s",
    "k8s_psat",
    "k8s_sat",
    "slurm",
    "spiffe_id",
    "sshpop",
    "systemd",
    "tpm_devid",
    "unix",
    "windows",
    "x509pop",
];
/// Beginnings of the values of `unix` selectors.
const UNIX: &[&str] =
    &["uid", "gid", "user", "group", "supplementary_gid", "supplementary_group", "path", "sha256"];

/// Warns on standard error of what is probably not meant.
///
/// # Errors
/// [`CliError::Print`] when the warnings cannot be printed.
pub(super) fn warn(entries: &[types::Entry], now: UnixTime, env: &mut Env) -> Result<(), CliError> {
    let many = entries.len() > 1;
    let warnings = entries.iter().enumerate().flat_map(|(at, entry)| {
        let place = if many { format!("entries[{at}]: ") } else { String::new() };
        warnings_about(entry, now).into_iter().map(move |warning| format!("{place}{warning}"))
    });
    let warnings: Vec<String> = warnings.collect();
    for warning in warnings.iter().take(MOST_WARNINGS) {
        env.complain(format_args!("warning: {warning}"))?;
    }
    if let Some(more) = warnings.len().checked_sub(MOST_WARNINGS).filter(|more| *more > 0) {
        env.complain(format_args!("warning: {more} more warnings"))?;
    }
    Ok(())
}

fn warnings_about(entry: &types::Entry, now: UnixTime) -> Vec<String> {
    let mut warnings: Vec<String> = entry.selectors.iter().filter_map(selector).collect();
    for (name, ttl) in [("X.509-SVIDs", entry.x509_svid_ttl), ("JWT-SVIDs", entry.jwt_svid_ttl)] {
        if ttl > 0 && ttl < SHORTEST_TTL {
            warnings.push(format!("{name} live {ttl} s only; they are renewed all the time"));
        } else if ttl > LONGEST_TTL {
            warnings.push(format!(
                "{name} are to live {} days; they end with the authority that signs them",
                ttl / (24 * 3600)
            ));
        }
    }
    if entry.expires_at != 0 && entry.expires_at <= now.seconds() {
        let at = crate::cli::text::utc(entry.expires_at);
        warnings.push(format!("the entry expired at {at}: nobody gets it"));
    }
    warnings
}

/// What is odd about a selector.
fn selector(one: &types::Selector) -> Option<String> {
    let text = format!("{}:{}", one.r#type, one.value);
    if !TYPES.contains(&one.r#type.as_str()) {
        return Some(format!(
            "selector {text}: no attestor known here makes selectors of the type {:?}",
            one.r#type
        ));
    }
    let two = one
        .value
        .split([',', ' '])
        .skip(1)
        .any(|rest| rest.split_once(':').is_some_and(|(kind, _)| TYPES.contains(&kind.trim())));
    if two {
        return Some(format!(
            "selector {text} looks like several; give each by a -selector of its own"
        ));
    }
    if one.r#type != "unix" {
        return None;
    }
    let (kind, value) = one.value.split_once(':').unwrap_or((&one.value, ""));
    if !UNIX.contains(&kind) {
        return Some(format!("selector {text}: expected one of unix:{}", UNIX.join(", unix:")));
    }
    let number = matches!(kind, "uid" | "gid" | "supplementary_gid");
    (number && value.parse::<u32>().is_err()).then(|| {
        format!("selector {text}: expected a number; for a name use unix:user or unix:group")
    })
}

/// Warns of parents that are neither attested agents nor identities of other entries. What cannot
/// be asked is not warned of: the entries were written, and that is what was to be done.
///
/// # Errors
/// [`CliError::Print`] when the warnings cannot be printed.
pub(super) async fn warn_of_parents(
    entries: &[types::Entry],
    channel: Channel,
    env: &mut Env,
) -> Result<(), CliError> {
    let parents: BTreeSet<(&str, &str)> = entries
        .iter()
        .filter_map(|entry| entry.parent_id.as_ref())
        .filter(|id| id.path != SERVER_PATH)
        .map(|id| (id.trust_domain.as_str(), id.path.as_str()))
        .collect();
    let mut agents = AgentClient::new(channel.clone());
    let mut others = EntryClient::new(channel);
    for (trust_domain, path) in parents.into_iter().take(MOST_PARENTS) {
        let id = types::Spiffeid { trust_domain: trust_domain.into(), path: path.into() };
        let request = GetAgentRequest { id: Some(id.clone()), output_mask: None };
        match agents.get_agent(request).await {
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Ok(_) | Err(_) => continue,
        }
        let request = ListEntriesRequest {
            filter: Some(list_entries_request::Filter {
                by_spiffe_id: Some(id),
                ..list_entries_request::Filter::default()
            }),
            output_mask: Some(types::EntryMask::default()),
            page_size: 1,
            page_token: String::new(),
        };
        let known = others.list_entries(request).await.map(|page| page.into_inner().entries);
        if known.is_ok_and(|entries| entries.is_empty()) {
            env.complain(format_args!(
                "warning: the parent spiffe://{trust_domain}{path} is no attested agent and no \
                 other entry's SPIFFE ID: until it is, nobody gets the identity"
            ))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(selector: &str) -> types::Entry {
        let (kind, value) = selector.split_once(':').unwrap();
        types::Entry {
            selectors: vec![types::Selector { r#type: kind.into(), value: value.into() }],
            ..types::Entry::default()
        }
    }

    #[test]
    fn slips_in_selectors_are_pointed_out() {
        for (selector, wanted) in [
            ("linux:uid:1", "\"linux\""),
            ("unix:uid:abc", "expected a number"),
            ("unix:uuid:1", "expected one of"),
            ("unix:uid:1,unix:gid:2", "looks like several"),
            ("k8s:ns:a k8s:sa:b", "looks like several"),
        ] {
            let found = warnings_about(&entry(selector), UnixTime::EPOCH).join("\n");
            assert!(found.contains(wanted), "{selector}: {found}");
        }
        for good in [
            "unix:uid:1",
            "unix:path:/bin/a, b",
            "k8s:ns:a",
            "docker:label:x:a,b:c",
            "unix:sha256:00",
        ] {
            assert_eq!(warnings_about(&entry(good), UnixTime::EPOCH), [] as [&str; 0], "{good}");
        }
    }

    #[test]
    fn lifetimes_and_expiry_that_are_hardly_meant_are_pointed_out() {
        let with = |x509_svid_ttl, expires_at| {
            let entry = types::Entry { x509_svid_ttl, expires_at, ..entry("unix:uid:1") };
            warnings_about(&entry, UnixTime::from_seconds(1_000_000)).len()
        };
        assert_eq!((with(0, 0), with(3600, 2_000_000)), (0, 0));
        assert_eq!((with(1, 0), with(365 * 24 * 3600, 0), with(0, 7)), (1, 1, 1));
    }
}
