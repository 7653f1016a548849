//! Push: what concerns a client reaches it at once, and nothing else does.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::time::{Duration, Instant};

use signet_api::{
    pb::{
        signet::api::push::v1::{
            ListEntryChangesRequest, ListEntryChangesResponse, Notice, SubscribeRequest,
            push_client::PushClient,
        },
        spire::api::server::agent::v1::BanAgentRequest,
    },
    status::{Reason, denied_reason},
};
use support::{TestAgent, TestServer, pb_id};
use tonic::Streaming;

const SOON: Duration = Duration::from_secs(5);

async fn subscribe(server: &TestServer, agent: &TestAgent) -> Streaming<Notice> {
    let mut client = PushClient::new(agent.channel(server).await);
    client.subscribe(SubscribeRequest::default()).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<Notice>) -> Notice {
    tokio::time::timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn an_entry_reaches_its_agent_and_no_other() {
    let server = TestServer::start().await;
    let (one, other) = (server.agent().await, server.agent().await);
    let (mut to_one, mut to_other) =
        (subscribe(&server, &one).await, subscribe(&server, &other).await);
    let (first, at_rest) = (next(&mut to_one).await, next(&mut to_other).await);
    assert_eq!(first.feed_id, at_rest.feed_id);
    assert_eq!((first.agents_revision, first.relationships_revision), (0, 0));

    let mut slowest = Duration::ZERO;
    let mut seen = first.entries_revision;
    for n in 0..20 {
        let begun = Instant::now();
        let id = format!("spiffe://example.org/w{n}");
        let entry = server.create_entry(&id, &one.id, "unix:uid:0").await;
        let notice = next(&mut to_one).await;
        slowest = slowest.max(begun.elapsed());
        assert!(notice.entries_revision > seen);
        seen = notice.entries_revision;
        server.delete_entry(&entry).await;
        let notice = next(&mut to_one).await;
        assert!(notice.entries_revision > seen);
        seen = notice.entries_revision;
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    // What did not concern it never came: the next thing it hears is about the bundle.
    let quiet = tokio::time::timeout(Duration::from_millis(200), to_other.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_agent_is_banned() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let mut stream = subscribe(&server, &agent).await;
    next(&mut stream).await;
    let id = Some(pb_id(&agent.id));
    server.agents().ban_agent(BanAgentRequest { id }).await.unwrap();
    let ended = tokio::time::timeout(SOON, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(denied_reason(&ended), Some(Reason::AgentBanned));
    server.stop().await;
}

#[tokio::test]
async fn streams_end_with_the_server_so_that_it_can_stop() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let mut stream = subscribe(&server, &agent).await;
    next(&mut stream).await;
    server.tasks.token().cancel();
    let ended = tokio::time::timeout(SOON, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Unavailable);
    server.stop().await;
}

#[tokio::test]
async fn a_local_subscriber_hears_of_everything() {
    let server = TestServer::start().await;
    let mut client = PushClient::new(server.local.clone());
    let mut stream = client.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    let first = next(&mut stream).await;
    let agent = server.agent().await;
    let notice = next(&mut stream).await;
    assert!(notice.agents_revision > first.agents_revision);
    server.create_entry("spiffe://example.org/w", &agent.id, "unix:uid:0").await;
    let mut notice = next(&mut stream).await;
    while notice.entries_revision == first.entries_revision {
        notice = next(&mut stream).await;
    }
    server.stop().await;
}

async fn changes(
    client: &mut PushClient<tonic::transport::Channel>,
    feed_id: &str,
    after_revision: u64,
) -> ListEntryChangesResponse {
    let request = ListEntryChangesRequest { feed_id: feed_id.to_owned(), after_revision };
    client.list_entry_changes(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn who_keeps_a_copy_of_all_entries_is_told_what_has_changed() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let mut client = PushClient::new(server.local.clone());
    let start = changes(&mut client, "", 0).await;
    assert!(start.resync && start.changes.is_empty() && !start.feed_id.is_empty());

    let kept = server.create_entry("spiffe://example.org/a", &agent.id, "unix:uid:0").await;
    let gone = server.create_entry("spiffe://example.org/b", &agent.id, "unix:uid:0").await;
    server.delete_entry(&gone).await;
    let told = changes(&mut client, &start.feed_id, start.revision).await;
    assert!(!told.resync && !told.more && told.revision > start.revision);
    assert_eq!(told.changes.len(), 2, "{told:?}");
    for change in &told.changes {
        match &change.entry {
            Some(entry) => assert_eq!((&entry.id, &change.id), (&kept, &kept)),
            None => assert_eq!(change.id, gone),
        }
    }
    let nothing = changes(&mut client, &start.feed_id, told.revision).await;
    assert!(!nothing.resync && nothing.changes.is_empty() && nothing.revision == told.revision);

    // Many changes come in portions; a revision that was never reached begins anew.
    for n in 0..250 {
        server.create_entry(&format!("spiffe://example.org/w{n}"), &agent.id, "unix:uid:0").await;
    }
    let first = changes(&mut client, &start.feed_id, told.revision).await;
    assert!(first.more);
    let second = changes(&mut client, &start.feed_id, first.revision).await;
    assert!(!second.more && first.changes.len() + second.changes.len() == 250);
    assert!(changes(&mut client, &start.feed_id, u64::MAX).await.resync);
    server.stop().await;
}

#[tokio::test]
async fn an_agent_is_not_told_about_all_entries() {
    let server = TestServer::start().await;
    let agent = server.agent().await;
    let mut client = PushClient::new(agent.channel(&server).await);
    let refused = client.list_entry_changes(ListEntryChangesRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::PermissionDenied);
    server.stop().await;
}
