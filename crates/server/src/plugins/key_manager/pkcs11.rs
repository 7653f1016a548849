//! `KeyManager "pkcs11"` (our own): keys in a hardware security module or TPM.

use std::{sync::Arc, time::Duration};

use signet_base::{SharedClock, chain};
use signet_config::Block;
use signet_pkcs11::{Pin, Settings, TokenKeys, TokenName};
use signet_pki::key_manager::{KeyIdentifier, KeyStore, SigningLimits};
use zeroize::Zeroizing;

use super::{KeyManager, key_identifier};
use crate::plugins::PluginError;

/// How many sessions are used unless told otherwise: small devices have few.
const DEFAULT_SESSIONS: usize = 4;
/// And at most.
const MAX_SESSIONS: usize = 64;
/// How long a signature may take unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// `KeyManager "pkcs11"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Keys {
    /// `module_path`, `token_label` or `token_serial`, the PIN, `max_sessions`.
    pub token: Settings,
    /// `operation_timeout`, default 10 s: how long a signature may take, waiting included.
    pub operation_timeout: Duration,
    /// Which keys are this server's.
    pub key_identifier: KeyIdentifier,
}

impl Pkcs11Keys {
    /// As many signatures at once as there are sessions.
    pub(super) fn limits(&self) -> SigningLimits {
        SigningLimits {
            at_once: self.token.max_sessions,
            deadline: self.operation_timeout,
            ..SigningLimits::default()
        }
    }
}

pub(super) fn pkcs11(block: &Block<'_>) -> Option<KeyManager> {
    let module_path = block.required("module_path", block.path("module_path"));
    if module_path.as_ref().is_some_and(|path| !path.is_absolute()) {
        block.error("module_path", "expected an absolute path: a module is code that is run");
    }
    let token = match (block.text("token_label"), block.text("token_serial")) {
        (Some(label), None) => Some(TokenName::Label(label)),
        (None, Some(serial)) => Some(TokenName::Serial(serial)),
        (None, None) => {
            let message = "one of token_label and token_serial must be configured";
            block.error("token_label", message);
            None
        }
        (Some(_), Some(_)) => {
            let message = "only one of token_label and token_serial can be used";
            block.error("token_serial", message);
            None
        }
    };
    let pin = pin(block);
    let max_sessions = block.integer::<usize>("max_sessions").unwrap_or(DEFAULT_SESSIONS);
    if !(1..=MAX_SESSIONS).contains(&max_sessions) {
        let message = format!("found {max_sessions}, expected 1 to {MAX_SESSIONS}");
        block.error("max_sessions", message);
    }
    let operation_timeout = block.duration("operation_timeout").unwrap_or(DEFAULT_TIMEOUT);
    if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&operation_timeout) {
        block.error("operation_timeout", "expected 100ms to 60s");
    }
    let key_identifier = key_identifier(block);
    let token = Settings { module_path: module_path?, token: token?, pin: pin?, max_sessions };
    Some(KeyManager::Pkcs11(Pkcs11Keys {
        token,
        operation_timeout,
        key_identifier: key_identifier?,
    }))
}

/// Exactly one of `pin`, `pin_file` and `pin_env`.
fn pin(block: &Block<'_>) -> Option<Pin> {
    let keys = ["pin", "pin_file", "pin_env"];
    let set: Vec<_> = keys.into_iter().filter(|key| block.text(key).is_some()).collect();
    match set[..] {
        ["pin"] => Some(Pin::Value(Zeroizing::new(block.text("pin")?))),
        ["pin_file"] => block.path("pin_file").map(Pin::File),
        ["pin_env"] => {
            let variable = block.text("pin_env")?;
            match std::env::var(&variable) {
                Ok(pin) if !pin.is_empty() => Some(Pin::Value(Zeroizing::new(pin))),
                _ => {
                    let message = format!("{variable} is not set in the environment");
                    block.error("pin_env", message);
                    None
                }
            }
        }
        [] => {
            block.error("pin_file", "one of pin, pin_file and pin_env must be configured");
            None
        }
        _ => {
            block.error("pin_file", "only one of pin, pin_file and pin_env can be used");
            None
        }
    }
}

/// The keys of this server; a missing key identifier file is made.
pub(super) fn store(
    settings: &Pkcs11Keys,
    clock: &SharedClock,
) -> Result<Arc<dyn KeyStore>, PluginError> {
    let id = settings.key_identifier.resolve().map_err(|error| failed(&error))?;
    let keys = TokenKeys::new(settings.token.clone(), &id, Arc::clone(clock));
    Ok(Arc::new(keys.map_err(|error| failed(&error))?))
}

/// Looks at the files; a module is not loaded, for that runs its code.
pub(super) fn check(settings: &Pkcs11Keys) -> Result<(), PluginError> {
    let module = &settings.token.module_path;
    if !module.is_file() {
        let why = format!("module_path: there is no file {}", module.display());
        return Err(PluginError::new("KeyManager", "pkcs11", why));
    }
    settings.token.pin.check().map_err(|error| failed(&error))?;
    settings.key_identifier.check().map_err(|error| failed(&error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> PluginError {
    PluginError::new("KeyManager", "pkcs11", chain(error))
}
