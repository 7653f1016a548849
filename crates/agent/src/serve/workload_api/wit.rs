//! `FetchWITSVID`.

use std::sync::Arc;

use signet_api::{encoded::Framed, pb::workload as pb};
use signet_identity::SpiffeId;
use tonic::Status;

use super::{Frames, Handler, wanted_id};
use crate::{
    audit::Call,
    cache::Subscription,
    server_sets::Issuers,
    trace,
    wit::{Answer, WitService},
    wit_cache::WitSvid,
};

/// An open stream of WIT-SVIDs. It is looked at when the caller's identities or bundles change, and
/// when a WIT-SVID is due.
struct WitStream {
    handler: Arc<Handler>,
    wit: Arc<Issuers<WitService>>,
    call: Call,
    wanted: Option<SpiffeId>,
    subscription: Subscription,
    /// What was sent last.
    sent: Vec<Arc<WitSvid>>,
}

impl Handler {
    pub(super) async fn wit_svids(
        self: Arc<Self>,
        wit: Arc<Issuers<WitService>>,
        call: Call,
        request: pb::WitsvidRequest,
    ) -> Result<Frames, Status> {
        let wanted = wanted_id(&request.spiffe_id)?;
        let selectors = self.attestor.attest(&call.caller).await?;
        let subscription = self.cache.subscribe(selectors);
        let mut stream =
            WitStream { handler: self, wit, call, wanted, subscription, sent: Vec::new() };
        let looked = trace::timed("wit_svids", stream.look(), |found| match found {
            Ok(found) => format!("{} WIT-SVIDs", found.svids.len()),
            Err(error) => error.message().to_owned(),
        });
        let first = looked.await?;
        let frame = stream.send(&first)?;
        let rest = futures_util::stream::unfold(Some((stream, first)), |state| async move {
            let (mut stream, last) = state?;
            match stream.next(last).await {
                Ok((frame, answer)) => Some((Ok(frame), Some((stream, answer)))),
                Err(status) => {
                    stream.handler.audit.refused(&stream.call, &status);
                    Some((Err(status), None))
                }
            }
        });
        let once = futures_util::stream::once(std::future::ready(Ok(frame)));
        Ok(Box::pin(futures_util::StreamExt::chain(once, rest)))
    }
}

impl WitStream {
    /// What the caller is to have now.
    async fn look(&self) -> Result<Answer, Status> {
        let selectors = self.subscription.selectors();
        let entries = self.handler.entries(selectors, self.wanted.as_ref());
        if entries.is_empty() {
            return Err(self.handler.attestor.no_identity(&self.call.caller, selectors));
        }
        let own = self.handler.cache.own_bundle();
        self.call.in_its_name(self.wit.fetch(&entries, &own)).await
    }

    /// Waits until there is something else to send.
    async fn next(&mut self, mut last: Answer) -> Result<(Framed, Answer), Status> {
        loop {
            let wait =
                tokio::time::timeout(last.look_again, self.handler.next(&mut self.subscription));
            if let Ok(changed) = wait.await {
                changed?;
            }
            let answer = self.look().await?;
            let given = answer.svids.iter().map(|(_, svid)| Arc::as_ptr(svid));
            if !given.eq(self.sent.iter().map(Arc::as_ptr)) {
                return Ok((self.send(&answer)?, answer));
            }
            last = answer;
        }
    }

    fn send(&mut self, answer: &Answer) -> Result<Framed, Status> {
        let Self { handler, call, .. } = &*self;
        if !call.caller.is_self() {
            handler.metrics.issued.add(&["wit"], answer.svids.len() as u64);
            for (entry, svid) in &answer.svids {
                tracing::debug!(
                    pid = call.caller.pid(),
                    spiffe_id = %entry.spiffe_id,
                    expires_at = svid.expires_at.seconds(),
                    "Fetched WIT SVID"
                );
            }
            handler.audit.issued(call, |issued| {
                for (entry, svid) in &answer.svids {
                    issued.wit(&entry.id, svid);
                }
            });
        }
        self.sent = answer.svids.iter().map(|(_, svid)| Arc::clone(svid)).collect();
        let svids = answer.svids.iter().map(|(entry, svid)| pb::Witsvid {
            spiffe_id: entry.spiffe_id.to_string(),
            wit_svid: svid.token.clone(),
            wit_svid_key: svid.key.to_string(),
            hint: entry.hint.to_string(),
        });
        Framed::new(&pb::WitsvidResponse { svids: svids.collect() })
    }
}
