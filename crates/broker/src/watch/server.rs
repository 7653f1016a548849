//! Calls to the server, ours or SPIRE's. Protobuf types do not leave this module.

use std::{collections::BTreeSet, fmt, io, path::Path, sync::Arc, time::Duration};

use signet_api::{
    MAX_MESSAGE_SIZE, connect,
    convert::{ConvertError, agent_id_from_pb, entry_from_pb, selectors_from_pb},
    pb::{
        signet::api::{
            push::v1::{
                self as push, ListEntryChangesRequest, SubscribeRequest, push_client::PushClient,
            },
            server::tenancy::v1::{
                ListTenantsRequest, Tenant, tenancy_client::TenancyClient, tenant::State,
            },
        },
        spire::api::{
            server::{
                agent::v1::{ListAgentsRequest, agent_client::AgentClient},
                entry::v1::{ListEntriesRequest, entry_client::EntryClient},
            },
            types::{self, AgentMask},
        },
    },
};
use signet_identity::{Entry, EntryId, IndexChange, SelectorSet, SpiffeId, TrustDomain};
use signet_pki::tls::no_server_name;
use signet_time::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many items are listed at a time.
const PAGE: i32 = 1_000;
/// The most pages of a list: a server that never ends is not believed.
const MAX_PAGES: usize = 10_000;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The answer cannot be used.
    #[error("{method}: the server's answer cannot be used: {why}")]
    Malformed {
        /// The call.
        method: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The call failed.
    #[error("{method}: {}: {}", .status.code(), .status.message())]
    Rpc {
        /// The call.
        method: &'static str,
        /// Why.
        status: Box<Status>,
    },
}

/// Where things stand on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// Which history the revisions belong to.
    pub feed_id: String,
    /// The newest change of an entry.
    pub entries: u64,
    /// The newest change of an agent.
    pub agents: u64,
}

/// What has changed since a revision.
#[derive(Clone, Debug)]
pub enum Changes {
    /// These.
    Since {
        /// What to ask after next time.
        revision: u64,
        /// Whether there are more.
        more: bool,
        /// The changes.
        changes: Vec<IndexChange>,
    },
    /// Everything has to be listed anew, and followed from here.
    Resync {
        /// The newest revision, before the list.
        revision: u64,
    },
}

/// An attested agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its ID.
    pub id: SpiffeId,
    /// What its node is.
    pub selectors: SelectorSet,
    /// Whether it is banned.
    pub banned: bool,
}

/// Notices as they come.
pub struct Notices(Streaming<push::Notice>);

impl Notices {
    /// The next one.
    ///
    /// # Errors
    /// [`ServerError`] when the stream ends.
    pub async fn next(&mut self) -> Result<Notice, ServerError> {
        const METHOD: &str = "Subscribe";
        let notice = self.0.message().await.map_err(|status| failed(METHOD, status))?;
        let ended = || failed(METHOD, Status::unavailable("the stream has ended"));
        let notice = notice.ok_or_else(ended)?;
        Ok(Notice {
            feed_id: notice.feed_id,
            entries: notice.entries_revision,
            agents: notice.agents_revision,
        })
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notices")
    }
}

/// A server. Clones share the connection.
#[derive(Clone)]
pub struct Server(Channel);

impl Server {
    /// At its local socket.
    pub fn at_socket(socket: &Path) -> Self {
        Self(connect::unix_lazy(socket))
    }

    /// Over mTLS, as an administrator; `address` is `host:port`.
    pub fn over_tls(address: String, tls: Arc<rustls::ClientConfig>) -> Self {
        Self(connect::over_lazy_watched("https://spire-server", move || {
            let (address, connector) = (address.clone(), TlsConnector::from(Arc::clone(&tls)));
            async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                let handshake = connector.connect(no_server_name(), stream);
                tokio::time::timeout(DEADLINE, handshake)
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
        }))
    }

    /// Subscribes to notices; `None` from a SPIRE server, which has none.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn subscribe(&self) -> Result<Option<Notices>, ServerError> {
        const METHOD: &str = "Subscribe";
        let mut client = PushClient::new(self.0.clone());
        let opening = client.subscribe(SubscribeRequest::default());
        match tokio::time::timeout(DEADLINE, opening).await {
            Ok(Ok(answer)) => Ok(Some(Notices(answer.into_inner()))),
            Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(None),
            Ok(Err(status)) => Err(failed(METHOD, status)),
            Err(_) => Err(failed(METHOD, Status::deadline_exceeded("no answer"))),
        }
    }

    /// What has changed since `revision`.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn changes(
        &self,
        trust_domain: &TrustDomain,
        feed_id: &str,
        revision: u64,
    ) -> Result<Changes, ServerError> {
        const METHOD: &str = "ListEntryChanges";
        let request =
            ListEntryChangesRequest { feed_id: feed_id.to_owned(), after_revision: revision };
        let mut client =
            PushClient::new(self.0.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE);
        let answer = within(METHOD, client.list_entry_changes(asked(request))).await?;
        if answer.resync {
            return Ok(Changes::Resync { revision: answer.revision });
        }
        let mut changes = Vec::with_capacity(answer.changes.len());
        for change in answer.changes {
            let id: EntryId = change.id.parse().map_err(|e| malformed(METHOD, &e))?;
            changes.push(match &change.entry {
                Some(message) => IndexChange::Entry(entry(METHOD, trust_domain, message)?),
                None => IndexChange::EntryGone(id),
            });
        }
        Ok(Changes::Since { revision: answer.revision, more: answer.more, changes })
    }

    /// Every entry.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn entries(&self, trust_domain: &TrustDomain) -> Result<Vec<Entry>, ServerError> {
        const METHOD: &str = "ListEntries";
        let mut client =
            EntryClient::new(self.0.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE);
        let mut all = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let request = ListEntriesRequest { page_size: PAGE, page_token, ..Default::default() };
            let page = within(METHOD, client.list_entries(asked(request))).await?;
            for message in &page.entries {
                all.push(entry(METHOD, trust_domain, message)?);
            }
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
        Err(malformed(METHOD, &"the list has no end"))
    }

    /// Every agent, banned or not.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn agents(&self, trust_domain: &TrustDomain) -> Result<Vec<Agent>, ServerError> {
        const METHOD: &str = "ListAgents";
        let mut client =
            AgentClient::new(self.0.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE);
        let mask = AgentMask { selectors: true, banned: true, ..Default::default() };
        let mut all = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let request = ListAgentsRequest {
                output_mask: Some(mask),
                page_size: PAGE,
                page_token,
                ..Default::default()
            };
            let page = within(METHOD, client.list_agents(asked(request))).await?;
            for agent in &page.agents {
                all.push(Agent {
                    id: agent_id_from_pb(trust_domain, agent.id.as_ref())
                        .map_err(|error| malformed(METHOD, &error))?,
                    selectors: selectors_from_pb(&agent.selectors)
                        .map_err(|error| malformed(METHOD, &error))?,
                    banned: agent.banned,
                });
            }
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
        Err(malformed(METHOD, &"the list has no end"))
    }

    /// The names of the tenants that are suspended; none from a server that has no tenants.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn suspended(&self) -> Result<BTreeSet<String>, ServerError> {
        const METHOD: &str = "ListTenants";
        let mut client = TenancyClient::new(self.0.clone());
        let asked = client.list_tenants(asked(ListTenantsRequest {}));
        let answer = match within(METHOD, asked).await {
            Err(ServerError::Rpc { status, .. }) if status.code() == Code::Unimplemented => {
                return Ok(BTreeSet::new());
            }
            answer => answer?,
        };
        let is_suspended = |tenant: &Tenant| tenant.state == State::Suspended as i32;
        Ok(answer.tenants.into_iter().filter(is_suspended).map(|tenant| tenant.name).collect())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

fn entry(
    method: &'static str,
    trust_domain: &TrustDomain,
    message: &types::Entry,
) -> Result<Entry, ServerError> {
    let convert = || -> Result<Entry, ConvertError> {
        Ok(Entry {
            id: message.id.parse().map_err(ConvertError::from)?,
            spec: entry_from_pb(trust_domain, message)?,
            revision_number: message.revision_number,
            created_at: UnixTime::from_seconds(message.created_at),
        })
    };
    convert().map_err(|error| malformed(method, &error))
}

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

async fn within<T>(
    method: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, ServerError> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failed(method, status)),
        Err(_) => Err(failed(method, Status::deadline_exceeded("no answer"))),
    }
}

fn failed(method: &'static str, status: Status) -> ServerError {
    ServerError::Rpc { method, status: Box::new(status) }
}

fn malformed(method: &'static str, why: &dyn fmt::Display) -> ServerError {
    ServerError::Malformed { method, why: why.to_string() }
}
