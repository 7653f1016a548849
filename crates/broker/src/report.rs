//! `report`: who still uses an old secret, and who its new credential; from the broker's records and
//! the audit log of OpenBao.

mod evidence;
mod lines;
mod summary;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use signet_base::{Clock as _, SystemClock, chain};
use signet_config::parse_duration;
use signet_daemon::cli::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE, Output};
use signet_identity::{SpiffeId, TrustDomain};

use self::{evidence::Old, lines::read, summary::Summary};
use crate::policy::Policy;

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct ReportFlags {
    /// An audit log of OpenBao or Vault, a file of JSON lines; may be given again
    #[arg(long = "openbaoAudit", value_name = "FILE", required = true)]
    openbao_audits: Vec<PathBuf>,
    /// A log of the broker, written with log_format = "json"; may be given again
    #[arg(long = "brokerLog", value_name = "FILE")]
    broker_logs: Vec<PathBuf>,
    /// Where an old secret is in OpenBao, with its namespace, such as blue/secret/data/orders; what is
    /// below it counts as well, and the flag may be given again. Without it: every secret of the
    /// engine kv
    #[arg(long = "oldPath", value_name = "PATH")]
    old_paths: Vec<String>,
    /// A trust domain that is being left: its identities count as the old way
    #[arg(long = "oldTrustDomain", value_name = "NAME")]
    old_trust_domain: Option<TrustDomain>,
    /// Who somebody of the old way is now, by the name that the report shows; may be given again
    #[arg(long = "same", value_name = "OLD=SPIFFE_ID")]
    same: Vec<String>,
    /// The broker's policy, whose rules say which service account is which identity
    #[arg(long = "policy", value_name = "FILE")]
    policy: Option<PathBuf>,
    /// For how long nobody may have used the old way before it can be turned off
    #[arg(long = "quiet", value_name = "DURATION", default_value = "168h")]
    quiet: String,
    /// How to print
    #[arg(long = "output", value_name = "FORMAT", default_value = "pretty")]
    output: Output,
}

/// Reads, counts and prints. The exit code is 1 while the old way is needed, or that is not known yet.
pub(crate) fn main(flags: &ReportFlags) -> u8 {
    match report(flags) {
        Ok(summary) => {
            match flags.output {
                Output::Json => println!("{}", summary.json()),
                Output::Pretty => print!("{}", summary.text()),
            }
            if summary.can_be_turned_off() { EXIT_DONE } else { EXIT_FAILED }
        }
        Err((code, message)) => {
            eprintln!("{message}");
            code
        }
    }
}

fn report(flags: &ReportFlags) -> Result<Summary, (u8, String)> {
    let usage = |message: String| (EXIT_USAGE, message);
    let quiet: Duration =
        parse_duration(&flags.quiet).map_err(|error| usage(format!("-quiet: {error}")))?;
    let same = same(flags).map_err(usage)?;
    let old = Old {
        paths: flags.old_paths.iter().map(|path| path.trim_matches('/').to_owned()).collect(),
        trust_domain: flags.old_trust_domain.clone(),
        counts_brokered: flags.broker_logs.is_empty(),
    };
    let mut summary = Summary::new(SystemClock.unix(), quiet, same);
    for path in &flags.broker_logs {
        let taken = read(path, |record| {
            if let Some(found) = evidence::of_broker(record) {
                summary.add(found);
            }
        });
        let taken = taken.map_err(|error| (EXIT_FAILED, chain(&error)))?;
        if taken.records == 0 && taken.skipped > 0 {
            let path = path.display();
            return Err(usage(format!(
                "{path}: no line is JSON; the broker writes it with log_format = \"json\""
            )));
        }
        summary.skipped += taken.skipped;
    }
    for path in &flags.openbao_audits {
        let taken = read(path, |record| {
            if let Some(at) = evidence::time_of(record) {
                summary.covers(at);
            }
            if let Some(found) = evidence::of_openbao(record, &old) {
                summary.add(found);
            }
        });
        let taken = taken.map_err(|error| (EXIT_FAILED, chain(&error)))?;
        if taken.records == 0 && taken.skipped > 0 {
            let path = path.display();
            return Err(usage(format!("{path}: no line is JSON, expected an audit log")));
        }
        summary.skipped += taken.skipped;
    }
    Ok(summary)
}

/// Who the names of the old way are now: a SPIFFE ID, or the path of one.
fn same(flags: &ReportFlags) -> Result<BTreeMap<String, String>, String> {
    let mut same = BTreeMap::new();
    if let Some(path) = &flags.policy {
        let (policy, _) = Policy::load(path).map_err(|error| format!("-policy: {error}"))?;
        for rule in policy.rules() {
            // Where a rule is for several identities, it does not say which of them this is.
            if let [id] = rule.ids.as_slice()
                && id.is_exact()
            {
                for (namespace, name) in &rule.service_accounts {
                    same.insert(format!("{namespace}/{name}"), id.to_string());
                }
            }
        }
    }
    for text in &flags.same {
        let (old, id) =
            text.rsplit_once('=').ok_or_else(|| format!("-same {text}: expected OLD=SPIFFE_ID"))?;
        let id: SpiffeId = id.parse().map_err(|error| format!("-same {text}: {error}"))?;
        same.insert(old.to_owned(), id.to_string());
    }
    Ok(same)
}
