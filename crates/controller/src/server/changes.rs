//! What has changed on the server: our own push, which SPIRE's server does not have.

use signet_api::pb::signet::api::push::v1::{
    self as pb, ListEntryChangesRequest, SubscribeRequest, push_client::PushClient,
};
use signet_identity::EntryId;
use tonic::{Code, Streaming};

use super::{Held, Server, ServerError, entries::held};

/// Where things stand on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// Which history the revisions belong to.
    pub feed_id: String,
    /// Newest change of an entry.
    pub entries: u64,
    /// Newest change of a federation relationship.
    pub relationships: u64,
    /// Newest change of a bundle.
    pub bundles: u64,
}

/// What has changed since a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// These entries, each with what it is now, or that it is gone.
    Since {
        /// What to ask after next time.
        revision: u64,
        /// Whether there are more.
        more: bool,
        /// The entries.
        entries: Vec<(EntryId, Option<Held>)>,
    },
    /// Everything has to be listed anew, and followed from here.
    Resync {
        /// Which history.
        feed_id: String,
        /// Its newest revision, before the list.
        revision: u64,
    },
    /// The server does not know this call: it is to be listed again and again.
    Unsupported,
}

/// Notices as they come.
#[derive(Debug)]
pub struct Notices(Streaming<pb::Notice>);

impl Notices {
    /// The next notice; none when the server ends the stream.
    ///
    /// # Errors
    /// [`ServerError`] when the stream breaks.
    pub async fn next(&mut self) -> Result<Option<Notice>, ServerError> {
        let notice = self
            .0
            .message()
            .await
            .map_err(|status| ServerError::Rpc { method: "Subscribe", status: Box::new(status) })?;
        Ok(notice.map(|notice| Notice {
            feed_id: notice.feed_id,
            entries: notice.entries_revision,
            relationships: notice.relationships_revision,
            bundles: notice.bundles_revision,
        }))
    }
}

impl Server {
    /// Subscribes to notices of change; they come until the server ends the stream.
    ///
    /// # Errors
    /// [`ServerError`]; `Unimplemented` from a SPIRE server.
    pub async fn subscribe(&self) -> Result<Notices, ServerError> {
        let channel = self.channel.clone();
        // The deadline is for the beginning of the stream, not for all of it.
        let opening =
            async move { PushClient::new(channel).subscribe(SubscribeRequest::default()).await };
        let failed = |status| ServerError::Rpc { method: "Subscribe", status: Box::new(status) };
        match tokio::time::timeout(super::DEADLINE, opening).await {
            Ok(answer) => Ok(Notices(answer.map_err(failed)?.into_inner())),
            Err(_) => Err(failed(tonic::Status::deadline_exceeded("no answer"))),
        }
    }

    /// What has changed since `revision` of `feed_id`; with an empty `feed_id`, where things
    /// stand.
    ///
    /// # Errors
    /// [`ServerError`] when the server cannot be reached or refuses, or its answer cannot be read.
    pub async fn changes(&self, feed_id: &str, revision: u64) -> Result<Changes, ServerError> {
        const METHOD: &str = "ListEntryChanges";
        let request =
            ListEntryChangesRequest { feed_id: feed_id.to_owned(), after_revision: revision };
        let answer = self
            .call(METHOD, None, request, |channel, limit, request| async move {
                PushClient::new(channel)
                    .max_decoding_message_size(limit)
                    .list_entry_changes(request)
                    .await
            })
            .await;
        let answer = match answer {
            Err(error) if error.code() == Some(Code::Unimplemented) => {
                return Ok(Changes::Unsupported);
            }
            answer => answer?,
        };
        if answer.resync {
            return Ok(Changes::Resync { feed_id: answer.feed_id, revision: answer.revision });
        }
        let ids = answer.changes.iter().filter(|change| change.entry.is_some());
        let owners = match answer.changes.is_empty() {
            true => Default::default(),
            false => self.owners(ids.map(|change| change.id.clone())).await?,
        };
        let mut entries = Vec::with_capacity(answer.changes.len());
        for change in answer.changes {
            let id = change.id.parse().map_err(|error| ServerError::Malformed {
                method: METHOD,
                why: format!("entry ID {:?}: {error}", change.id),
            })?;
            let now = match &change.entry {
                Some(entry) => Some(held(METHOD, entry, owners.get(&entry.id))?),
                None => None,
            };
            entries.push((id, now));
        }
        Ok(Changes::Since { revision: answer.revision, more: answer.more, entries })
    }
}
