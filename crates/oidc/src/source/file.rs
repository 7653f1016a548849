//! A file in the SPIFFE bundle format, as `bundle show -format spiffe` prints it.

use std::{path::Path, time::Duration};

use signet_base::{chain, files::read_regular};
use signet_identity::{JwtAuthority, TrustDomain};
use signet_pki::jwks::{MAX_BUNDLE_LEN, decode_spiffe};
use tokio::time::MissedTickBehavior;

use super::Complaint;
use crate::keys::Keys;

pub(super) async fn run(path: &Path, poll_interval: Duration, keys: &Keys) {
    let mut ticks = tokio::time::interval(poll_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complaint = Complaint::default();
    loop {
        ticks.tick().await;
        match read(path) {
            Ok(found) => {
                keys.set(&found);
                complaint.over();
            }
            Err(why) => complaint.say("file", why),
        }
    }
}

fn read(path: &Path) -> Result<Vec<JwtAuthority>, String> {
    let shown = path.display();
    let bytes = read_regular(path, MAX_BUNDLE_LEN as u64).map_err(|e| format!("{shown}: {e}"))?;
    // Whose bundle it is does not matter: the document does not say, and nobody asks.
    let nobody: TrustDomain = "file".parse().map_err(|_| "not a trust domain".to_owned())?;
    let bundle = decode_spiffe(nobody, &bytes).map_err(|e| format!("{shown}: {}", chain(&e)))?;
    Ok(bundle.jwt_authorities)
}
