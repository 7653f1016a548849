//! Workload attestor `systemd`: the unit of the calling process, asked of systemd over D-Bus.
//!
//! systemd is given the handle of the pinned process (`GetUnitByPIDFD`, systemd 253 and later), so
//! that no other process can be meant. An older systemd is given the number, and the pinned
//! process is checked before and after: while it lives, the number is its own.
//!
//! The connection to the bus is made when it is first needed, kept, and made anew after it broke.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use signet_identity::Selector;
use tokio::sync::Mutex;
use zbus::{
    Connection, DynamicType, Fd, Message, OwnedObjectPath, OwnedVariant, connection::Builder,
};

use super::{WorkloadAttestError, WorkloadAttestor};
use crate::peer::PinnedPeer;

/// The attestor's name and the type of its selectors.
pub const NAME: &str = "systemd";

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// How long systemd may take in all, the connection included.
const DEADLINE: Duration = Duration::from_secs(10);

/// The `systemd` workload attestor.
#[derive(Debug)]
pub struct SystemdAttestor {
    /// The bus to use; unset for the system's.
    bus: Option<String>,
    deadline: Duration,
    connection: Mutex<Option<Connection>>,
    /// Whether systemd is too old for `GetUnitByPIDFD`.
    by_number: AtomicBool,
}

/// Why systemd does not name a unit.
#[derive(Debug, thiserror::Error)]
enum UnitError {
    /// The bus is not there.
    #[error("failed to open the connection to D-Bus: {0}")]
    Bus(#[source] zbus::Error),
    /// systemd refused, or the connection broke.
    #[error("{what}: {source}")]
    Call { what: &'static str, source: zbus::Error },
    /// An answer of another form than systemd's.
    #[error("{0}: unexpected answer from systemd")]
    Malformed(&'static str),
}

impl Default for SystemdAttestor {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemdAttestor {
    /// An attestor that asks the system's bus. Nothing is connected yet.
    pub fn new() -> Self {
        Self {
            bus: None,
            deadline: DEADLINE,
            connection: Mutex::new(None),
            by_number: AtomicBool::new(false),
        }
    }

    /// Asks the bus at this D-Bus address instead, within this time.
    #[must_use]
    pub fn on_bus(mut self, address: &str, deadline: Duration) -> Self {
        self.bus = Some(address.to_owned());
        self.deadline = deadline;
        self
    }

    async fn connection(&self) -> Result<Connection, UnitError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        *kept = None;
        let builder = match &self.bus {
            Some(address) => Builder::address(address.as_str()),
            None => Builder::system(),
        };
        let connection = builder.build().await.map_err(UnitError::Bus)?;
        // Another systemd may be behind it now.
        self.by_number.store(false, Ordering::Relaxed);
        *kept = Some(connection.clone());
        Ok(connection)
    }

    /// The `Id` and `FragmentPath` of the unit that `peer` belongs to.
    async fn unit(&self, peer: &PinnedPeer) -> Result<(String, String), UnitError> {
        let connection = self.connection().await?;
        match self.ask(&connection, peer).await {
            // The kept connection turned out to be broken: once more on a new one.
            Err(UnitError::Call { source: zbus::Error::InputOutput(_), .. }) => {
                self.forget(&connection).await;
                let connection = self.connection().await?;
                self.ask(&connection, peer).await
            }
            answer => answer,
        }
    }

    /// Makes the next caller connect anew, unless somebody has already.
    async fn forget(&self, broken: &Connection) {
        let mut kept = self.connection.lock().await;
        if kept.as_ref().is_some_and(|kept| kept.unique_name() == broken.unique_name()) {
            *kept = None;
        }
    }

    async fn ask(
        &self,
        connection: &Connection,
        peer: &PinnedPeer,
    ) -> Result<(String, String), UnitError> {
        let path = self.unit_path(connection, peer).await?;
        let id = property(connection, &path, "Id").await?;
        let fragment_path = property(connection, &path, "FragmentPath").await?;
        Ok((id, fragment_path))
    }

    async fn unit_path(
        &self,
        connection: &Connection,
        peer: &PinnedPeer,
    ) -> Result<OwnedObjectPath, UnitError> {
        if let Some(pidfd) = peer.pidfd()
            && !self.by_number.load(Ordering::Relaxed)
        {
            let what = "failed to get the unit by pidfd";
            let handle = Fd::from(pidfd.as_fd());
            match manager(connection, "GetUnitByPIDFD", &handle).await {
                Ok(answer) => {
                    let body = answer.body();
                    let unit: Result<(OwnedObjectPath, String, Vec<u8>), _> = body.deserialize();
                    return Ok(unit.map_err(|_| UnitError::Malformed(what))?.0);
                }
                Err(error) if is_unknown_method(&error) => {
                    tracing::info!("systemd is older than 253: units are asked for by pid");
                    self.by_number.store(true, Ordering::Relaxed);
                }
                Err(source) => return Err(UnitError::Call { what, source }),
            }
        }
        let what = "failed to get the unit by pid";
        let answer = manager(connection, "GetUnitByPID", &peer.pid().cast_unsigned()).await;
        let answer = answer.map_err(|source| UnitError::Call { what, source })?;
        answer.body().deserialize().map_err(|_| UnitError::Malformed(what))
    }
}

fn is_unknown_method(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::FDO(error) => matches!(**error, zbus::fdo::Error::UnknownMethod(_)),
        zbus::Error::MethodError(name, ..) => {
            name.as_str() == "org.freedesktop.DBus.Error.UnknownMethod"
        }
        _ => false,
    }
}

async fn manager<B: serde::Serialize + DynamicType>(
    connection: &Connection,
    method: &'static str,
    body: &B,
) -> Result<Message, zbus::Error> {
    connection.call_method(Some(SERVICE), MANAGER_PATH, Some(MANAGER), method, body).await
}

async fn property(
    connection: &Connection,
    unit: &OwnedObjectPath,
    name: &'static str,
) -> Result<String, UnitError> {
    let answer = connection
        .call_method(Some(SERVICE), unit, Some(PROPERTIES), "Get", &(UNIT, name))
        .await
        .map_err(|source| UnitError::Call { what: name, source })?;
    let value: OwnedVariant =
        answer.body().deserialize().map_err(|_| UnitError::Malformed(name))?;
    String::try_from(value).map_err(|_| UnitError::Malformed(name))
}

#[async_trait::async_trait]
impl WorkloadAttestor for SystemdAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
        let failed = |why: String| WorkloadAttestError::Failed(why);
        peer.verify().map_err(|error| failed(error.to_string()))?;
        let (id, fragment_path) = tokio::time::timeout(self.deadline, self.unit(peer))
            .await
            .map_err(|_| WorkloadAttestError::TimedOut(self.deadline))?
            .map_err(|error| failed(error.to_string()))?;
        peer.verify().map_err(|error| failed(error.to_string()))?;
        [format!("id:{id}"), format!("fragment_path:{fragment_path}")]
            .iter()
            .map(|value| {
                Selector::new(NAME, value)
                    .map_err(|error| failed(format!("selector {value:?}: {error}")))
            })
            .collect()
    }
}
