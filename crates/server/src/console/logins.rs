//! Who may open the console, and who has.

use std::sync::{Arc, Mutex};

use signet_console::session::Sessions;

use crate::usecase::principal::Peer;

/// One-time codes and sessions; shared with the service that hands out codes.
pub type Logins = Arc<Mutex<Sessions<Peer>>>;
