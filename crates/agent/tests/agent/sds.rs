//! Envoy's SDS: what a proxy is told, when, and what comes of its answers.

use prost::Message as _;
use signet_api::{
    connect,
    pb::envoy::{
        config::core::v3::Node,
        extensions::transport_sockets::tls::v3::Secret,
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            },
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
    },
    pb::{
        google::rpc,
        signet::api::agent::secretstreams::v1::{
            ListSecretStreamsRequest, list_secret_streams_response::Stream,
            secret_streams_client::SecretStreamsClient,
        },
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::fixture::{Fixture, PATIENCE, Running, eventually, id, own_uid};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// One open stream of either kind.
struct Talk<Q, A> {
    requests: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

type Sotw = Talk<DiscoveryRequest, DiscoveryResponse>;
type Delta = Talk<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

impl<Q, A> Talk<Q, A> {
    async fn ask(&self, request: Q) {
        assert!(self.requests.send(request).await.is_ok(), "the stream is open");
    }

    async fn answer(&mut self) -> Result<A, Status> {
        let answer =
            tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("in time")?;
        answer.ok_or_else(|| Status::ok("the stream ended"))
    }
}

async fn client(agent: &Running) -> SecretDiscoveryServiceClient<Channel> {
    SecretDiscoveryServiceClient::new(connect::unix(&agent.socket).await.unwrap())
}

async fn sotw(agent: &Running) -> Sotw {
    let (requests, outgoing) = mpsc::channel(8);
    let call = client(agent).await.stream_secrets(ReceiverStream::new(outgoing)).await;
    Talk { requests, answers: call.unwrap().into_inner() }
}

async fn delta(agent: &Running) -> Delta {
    let (requests, outgoing) = mpsc::channel(8);
    let call = client(agent).await.delta_secrets(ReceiverStream::new(outgoing)).await;
    Talk { requests, answers: call.unwrap().into_inner() }
}

fn wants(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "proxy-1".into(), ..Node::default() }),
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: TYPE.into(),
        ..DiscoveryRequest::default()
    }
}

fn subscribes(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node { id: "proxy-1".into(), ..Node::default() }),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        type_url: TYPE.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn names(answer: &DiscoveryResponse) -> Vec<String> {
    assert_eq!(answer.type_url, TYPE);
    answer.resources.iter().map(|any| Secret::decode(&*any.value).unwrap().name).collect()
}

fn told(answer: &DeltaDiscoveryResponse) -> Vec<&str> {
    answer.resources.iter().map(|resource| resource.name.as_str()).collect()
}

async fn streams(agent: &Running, authority: &str) -> Vec<Stream> {
    let mut client = SecretStreamsClient::new(connect::unix(&agent.admin).await.unwrap());
    let request = ListSecretStreamsRequest { authority_id: authority.to_owned() };
    client.list_secret_streams(request).await.unwrap().into_inner().streams
}

#[tokio::test]
async fn a_proxy_gets_what_it_names_and_each_change_of_it() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut stream = sotw(&agent).await;
    stream.ask(wants(&["ROOTCA", "default"])).await;
    let first = stream.answer().await.unwrap();
    assert_eq!(names(&first), ["ROOTCA", "default"]);
    assert_eq!((first.version_info.as_str(), first.nonce.len()), ("1", 8));

    // Accepted, with another list and no node.
    let next = DiscoveryRequest {
        version_info: first.version_info.clone(),
        response_nonce: first.nonce.clone(),
        node: None,
        ..wants(&["default"])
    };
    stream.ask(next).await;
    let second = stream.answer().await.unwrap();
    assert_eq!(names(&second), ["default"]);
    assert_eq!(second.version_info, "1");
    assert_ne!(second.nonce, first.nonce);

    fixture.server.lock().entries.get_mut("w1").unwrap().revision_number += 1;
    fixture.notify(1);
    let third = stream.answer().await.unwrap();
    assert_eq!(names(&third), ["default"]);
    assert_ne!(third.resources, second.resources);
    assert_eq!(third.version_info, "2");

    // A rejection, with a nonce that is long past, does not take the subscription away.
    let rejection = DiscoveryRequest {
        response_nonce: first.nonce,
        error_detail: Some(rpc::Status { message: "bad key".into(), ..rpc::Status::default() }),
        ..wants(&["ROOTCA"])
    };
    stream.ask(rejection).await;
    assert_eq!(names(&stream.answer().await.unwrap()), ["ROOTCA"]);
    let seen = streams(&agent, "").await;
    assert_eq!((seen.len(), seen[0].rejected.as_str()), (1, "bad key"));
    assert_eq!((seen[0].node_id.as_str(), seen[0].names[0].as_str()), ("proxy-1", "ROOTCA"));
    agent.stop().await;
}

#[tokio::test]
async fn unknown_names_end_a_stream_and_an_unasked_call_unless_they_are_waited_for() {
    let mut fixture = Fixture::new().await;
    fixture.server.lock().entries.clear();
    let agent = fixture.serving().await;
    let mut stream = sotw(&agent).await;
    stream.ask(wants(&["default", "ROOTCA"])).await;
    let refused = stream.answer().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let text = "workload is not authorized for the requested identities [\"default\"]";
    assert_eq!(refused.message(), text);
    let call = client(&agent).await.fetch_secrets(wants(&["default"])).await;
    assert_eq!(call.unwrap_err().message(), text);
    let fetched = client(&agent).await.fetch_secrets(wants(&[])).await.unwrap().into_inner();
    assert_eq!((fetched.nonce.as_str(), fetched.version_info.as_str()), ("", ""));
    agent.stop().await;

    fixture.options.agent = "sds { unknown_names = \"wait\" }".into();
    let agent = fixture.serving().await;
    let mut stream = sotw(&agent).await;
    stream.ask(wants(&["default"])).await;
    fixture.notify(1);
    eventually(|| fixture.server.lock().count("Subscribe") > 0).await;
    fixture.server.lock().add_entry("w1", &[&own_uid()]);
    fixture.notify(2);
    assert_eq!(names(&stream.answer().await.unwrap()), ["default"]);
    agent.stop().await;
}

#[tokio::test]
async fn increments_survive_a_restart_and_tell_what_is_gone() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut stream = delta(&agent).await;
    stream.ask(subscribes(&["default", "ROOTCA"])).await;
    let first = stream.answer().await.unwrap();
    assert_eq!(told(&first), ["ROOTCA", "default"]);
    eventually(|| fixture.data("svid-cache.sealed").exists()).await;
    agent.stop().await;

    let agent = fixture.serving().await;
    let mut stream = delta(&agent).await;
    let has = |answer: &DeltaDiscoveryResponse| {
        let versions = answer.resources.iter().map(|r| (r.name.clone(), r.version.clone()));
        DeltaDiscoveryRequest {
            initial_resource_versions: versions.collect(),
            ..subscribes(&["default", "ROOTCA"])
        }
    };
    stream.ask(has(&first)).await;
    // Nothing of these is sent again: the next thing heard is what is gone.
    let holding = async {
        while streams(&agent, "").await.first().is_none_or(|stream| stream.accepted.len() < 2) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holding).await.expect("in time");
    fixture.server.lock().entries.clear();
    fixture.notify(2);
    let gone = stream.answer().await.unwrap();
    assert_eq!(
        (told(&gone), gone.removed_resources.as_slice()),
        (vec![], ["default".to_owned()].as_slice())
    );
    fixture.server.lock().add_entry("w2", &[&own_uid()]);
    fixture.notify(3);
    assert_eq!(told(&stream.answer().await.unwrap()), ["default"]);
    stream.ask(subscribes(&["*"])).await;
    let everything = stream.answer().await.unwrap();
    assert_eq!(told(&everything), [id(""), id("w2")].map(|id| id.trim_end_matches('/').to_owned()));
    agent.stop().await;
}

#[tokio::test]
async fn operators_see_who_still_runs_an_old_root() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut stream = delta(&agent).await;
    stream.ask(subscribes(&["ROOTCA"])).await;
    let answer = stream.answer().await.unwrap();
    let seen = streams(&agent, "").await;
    assert_eq!((seen[0].accepted.len(), seen[0].pending.len()), (0, 1));
    stream.ask(DeltaDiscoveryRequest { response_nonce: answer.nonce, ..subscribes(&[]) }).await;
    let accepted = async {
        loop {
            match streams(&agent, "").await.remove(0) {
                stream if stream.accepted.is_empty() => tokio::task::yield_now().await,
                stream => return stream,
            }
        }
    };
    let seen = tokio::time::timeout(PATIENCE, accepted).await.expect("in time");
    let root = &seen.accepted[0].authority_ids[0];
    assert_eq!(streams(&agent, &root.to_uppercase()).await.len(), 1);
    assert!(streams(&agent, "00ff").await.is_empty());
    agent.stop().await;
}

#[tokio::test]
async fn long_requests_of_many_streams_do_not_keep_each_other_from_coming() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    // On one connection, whose window is that of one of them: far more than may be under way.
    let client = client(&agent).await;
    let streams = (0..60).map(|number| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let (requests, outgoing) = mpsc::channel(1);
            let node = Node { id: "x".repeat(60_000 + number), ..Node::default() };
            let request = DiscoveryRequest { node: Some(node), ..wants(&["ROOTCA"]) };
            requests.send(request).await.unwrap();
            let call = client.stream_secrets(ReceiverStream::new(outgoing)).await;
            let mut talk = Talk { requests, answers: call.unwrap().into_inner() };
            names(&talk.answer().await.unwrap())
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        assert_eq!(stream.await.unwrap(), ["ROOTCA"]);
    }
    agent.stop().await;
}

#[tokio::test]
async fn each_api_of_the_socket_can_be_switched_off() {
    let mut fixture = Fixture::new().await;
    fixture.options.agent.push_str("\ndisable_sds_api = true");
    let agent = fixture.serving().await;
    let refused = client(&agent).await.fetch_secrets(wants(&[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(agent.fetch().await.is_ok());
    agent.stop().await;

    fixture.options.agent = "disable_workload_api = true".into();
    let agent = fixture.serving().await;
    assert!(client(&agent).await.fetch_secrets(wants(&[])).await.is_ok());
    assert_eq!(agent.fetch().await.unwrap_err().code(), Code::Unimplemented);
    agent.stop().await;
}
