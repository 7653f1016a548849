//! A thread's session with a token, opened and logged in when it is needed.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use zeroize::Zeroizing;

use crate::{Settings, TokenError, TokenName};

/// How many key handles a session remembers.
const MAX_HANDLES: usize = 256;

/// The modules of this process. The standard allows each to be initialised once, and one that was
/// finalised would end the sessions of others: they stay.
static MODULES: OnceLock<Mutex<BTreeMap<PathBuf, Pkcs11>>> = OnceLock::new();

/// What the threads of one token share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    /// The PIN that the token refused.
    refused: Mutex<Option<Zeroizing<String>>>,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, refused: Mutex::default() }
    }
}

/// A thread's session, if it has one.
pub(crate) struct ThreadSession {
    shared: Arc<Shared>,
    open: Option<OpenSession>,
}

/// An open session, logged in.
pub(crate) struct OpenSession {
    pub(crate) session: Session,
    /// Private keys by their labels.
    keys: HashMap<String, ObjectHandle>,
}

impl ThreadSession {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: None }
    }

    /// Does `work` in the session, and once more in a new one if it turns out to be broken.
    pub(crate) fn work<T>(
        &mut self,
        work: impl Fn(&mut OpenSession) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let was_open = self.open.is_some();
        match work(self.opened()?) {
            Err(TokenError::Call { is_session_lost: true, .. }) => {
                self.open = None;
                work(self.opened()?)
            }
            Err(TokenError::Call { is_handle_lost: true, .. }) if was_open => {
                let open = self.opened()?;
                open.keys.clear();
                work(open)
            }
            outcome => outcome,
        }
    }

    fn opened(&mut self) -> Result<&mut OpenSession, TokenError> {
        if self.open.is_none() {
            let session = self.open_session()?;
            self.open = Some(OpenSession { session, keys: HashMap::new() });
        }
        self.open.as_mut().ok_or(TokenError::Stopped)
    }

    fn open_session(&self) -> Result<Session, TokenError> {
        let settings = &self.shared.settings;
        let module = module(&settings.module_path)?;
        let (slot, needs_login) = slot_of(&module, &settings.token)?;
        // Some modules (AWS CloudHSM) have no read-only sessions.
        let session = module.open_rw_session(slot)?;
        if needs_login {
            self.log_in(&session)?;
        }
        Ok(session)
    }

    /// Logs the process in, unless another thread did.
    fn log_in(&self, session: &Session) -> Result<(), TokenError> {
        let pin = self.shared.settings.pin.read()?;
        // Held meanwhile: a wrong PIN is tried once, not by each thread.
        let mut refused = self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.as_ref() == Some(&pin) {
            return Err(TokenError::Pin("as before".to_owned()));
        }
        match session.login(UserType::User, Some(&AuthPin::from(pin.to_string()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                *refused = None;
                Ok(())
            }
            Err(Error::Pkcs11(
                code @ (RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked),
                _,
            )) => {
                *refused = Some(pin);
                Err(TokenError::Pin(format!("{code:?}")))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl OpenSession {
    /// The private key with this label.
    pub(crate) fn private_key(&mut self, label: &str) -> Result<ObjectHandle, TokenError> {
        if let Some(handle) = self.keys.get(label) {
            return Ok(*handle);
        }
        let found = self.objects(ObjectClass::PRIVATE_KEY, label)?;
        let handle = found.into_iter().next();
        let handle = handle.ok_or_else(|| TokenError::NoKey(label.to_owned()))?;
        if self.keys.len() >= MAX_HANDLES {
            self.keys.clear();
        }
        self.keys.insert(label.to_owned(), handle);
        Ok(handle)
    }

    /// The objects of a class with this label.
    pub(crate) fn objects(
        &self,
        class: ObjectClass,
        label: &str,
    ) -> Result<Vec<ObjectHandle>, TokenError> {
        let template = [
            Attribute::Class(class),
            Attribute::Token(true),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        Ok(self.session.find_objects(&template)?)
    }

    pub(crate) fn forget(&mut self, label: &str) {
        self.keys.remove(label);
    }
}

/// The module of a library, loaded and initialised once.
fn module(path: &Path) -> Result<Pkcs11, TokenError> {
    let modules = MODULES.get_or_init(Mutex::default);
    let mut modules = modules.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let wrong = |error: Error| {
        TokenError::Setting(format!("{} is not a usable PKCS#11 module: {error}", path.display()))
    };
    let module = Pkcs11::new(path).map_err(wrong)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(wrong(error)),
    }
    modules.insert(path.to_owned(), module.clone());
    Ok(module)
}

/// The slot that the token is in now, and whether it wants a login.
fn slot_of(module: &Pkcs11, name: &TokenName) -> Result<(Slot, bool), TokenError> {
    let mut labels = Vec::new();
    let mut found = None;
    for slot in module.get_slots_with_token()? {
        // It may have been taken out meanwhile.
        let Ok(token) = module.get_token_info(slot) else { continue };
        let is_it = match name {
            TokenName::Label(label) => token.label() == label,
            TokenName::Serial(serial) => token.serial_number() == serial,
        };
        if is_it && found.is_some() {
            let why = format!("there are two: {name}; use token_serial to tell them apart");
            return Err(TokenError::Setting(why));
        }
        if is_it {
            found = Some((slot, token.login_required()));
        } else if token.token_initialized() && labels.len() < 8 {
            labels.push(format!("{:?}", token.label()));
        }
    }
    found.ok_or_else(|| {
        let others = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
        TokenError::NoToken(name.to_string(), others)
    })
}
