//! Carrying out a plan.

use std::env;

use anyhow::{Context as _, bail};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{Plan, Step, client, print::AUDIT_HINT};
use crate::{
    bao::{Bao, BaoCall, BaoError, check_version},
    config::Config,
};

pub(super) fn apply(config: &Config, plan: &Plan) -> anyhow::Result<()> {
    let token = ["BAO_TOKEN", "VAULT_TOKEN"].iter().find_map(|name| env::var(name).ok());
    let Some(token) = token.map(Zeroizing::new) else {
        bail!("BAO_TOKEN is not set: a token that may set up namespaces is needed, or -dry-run");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting threads")?;
    runtime.block_on(async {
        let bao = client(config)?;
        let health = bao.health().await.context("asking OpenBao for its state")?;
        check_version(&health.version, config.openbao.vault)?;
        if health.sealed {
            bail!("OpenBao is sealed");
        }
        audit_devices(&bao, &token).await;
        for step in &plan.steps {
            take(&bao, &token, step).await.with_context(|| {
                format!("{} (namespace {:?}, {})", step.what, step.namespace, step.path)
            })?;
        }
        println!("{} steps are in force.", plan.steps.len());
        Ok(())
    })
}

async fn take(bao: &Bao, token: &str, step: &Step) -> Result<(), BaoError> {
    if let Some((path, member)) = &step.unless {
        let there = bao.call(BaoCall::get(&step.namespace, path).by(token)).await;
        let has = |answer: &Value| {
            answer.get(member).is_some()
                || answer.get("data").is_some_and(|data| data.get(member).is_some())
        };
        match there {
            Ok((_, answer)) if has(&answer) => {
                println!("is there   {:<10} {}", step.namespace, step.path);
                return Ok(());
            }
            Ok(_) | Err(BaoError::Refused { status: 404 | 400, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    bao.call(BaoCall::post(&step.namespace, &step.path, &step.body).by(token)).await?;
    println!("written    {:<10} {}", step.namespace, step.path);
    Ok(())
}

/// Audit devices cannot be made by API: says so when there is none.
async fn audit_devices(bao: &Bao, token: &str) {
    match bao.call(BaoCall::get("", "sys/audit").by(token)).await {
        Ok((_, answer)) => {
            let devices = answer.get("data").and_then(Value::as_object).map_or(0, |all| all.len());
            if devices == 0 {
                eprintln!(
                    "warning: OpenBao has no audit device, and none can be made by API; in its \
                     configuration:\n\n{AUDIT_HINT}"
                );
            }
        }
        Err(error) => {
            let error = signet_base::chain(&error);
            eprintln!("warning: cannot see whether OpenBao has an audit device: {error}");
        }
    }
}
