//! A registration server in memory: SPIRE's calls, and ours for pushing changes when asked for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
};

use signet_api::pb::{
    signet::api::push::v1::{
        EntryChange, ListEntryChangesRequest, ListEntryChangesResponse, Notice, SubscribeRequest,
        push_server,
    },
    spire::api::{
        server::{
            bundle::v1::{self as bundle, bundle_server},
            entry::v1::{
                self as entry, batch_create_entry_response, batch_delete_entry_response,
                batch_update_entry_response, entry_server,
            },
            trustdomain::v1::{
                self as td, batch_create_federation_relationship_response,
                batch_delete_federation_relationship_response,
                batch_update_federation_relationship_response, trust_domain_server,
            },
        },
        types,
    },
};
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

#[derive(Default)]
struct Store {
    entries: BTreeMap<String, types::Entry>,
    relationships: BTreeMap<String, types::FederationRelationship>,
    next: u64,
    log: Vec<String>,
    calls: BTreeMap<&'static str, usize>,
    /// Errors for the next calls of a method.
    failures: Vec<(&'static str, Code)>,
    /// SPIFFE ID paths that are refused.
    refused: Vec<String>,
    /// Trust domains of which there is a bundle, and how often one was given.
    bundles: BTreeMap<String, usize>,
    /// The paths of the SPIFFE IDs after each write.
    history: Vec<Vec<String>>,
}

impl Store {
    fn keep(&mut self, new: types::FederationRelationship) {
        if new.trust_domain_bundle.is_some() {
            *self.bundles.entry(new.trust_domain.clone()).or_default() += 1;
        }
        self.relationships.insert(new.trust_domain.clone(), new);
    }
}

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct FakeServer {
    pub socket: PathBuf,
    store: Arc<Mutex<Store>>,
    revision: Arc<watch::Sender<u64>>,
}

impl FakeServer {
    /// `push`: whether it is one of ours.
    pub fn start(dir: &Path, push: bool) -> Self {
        let socket = dir.join("server.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let fake =
            Self { socket, store: Arc::default(), revision: Arc::new(watch::Sender::new(0)) };
        let mut router = tonic::transport::Server::builder()
            .add_service(entry_server::EntryServer::new(fake.clone()))
            .add_service(trust_domain_server::TrustDomainServer::new(fake.clone()))
            .add_service(bundle_server::BundleServer::new(fake.clone()));
        if push {
            router = router.add_service(push_server::PushServer::new(fake.clone()));
        }
        let incoming = UnixListenerStream::new(listener);
        tokio::spawn(async move { router.serve_with_incoming(incoming).await });
        fake
    }

    pub fn entries(&self) -> Vec<types::Entry> {
        self.store.lock().unwrap().entries.values().cloned().collect()
    }

    /// The paths of the entries' SPIFFE IDs, sorted.
    pub fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = self
            .entries()
            .into_iter()
            .map(|entry| entry.spiffe_id.unwrap_or_default().path)
            .collect();
        paths.sort();
        paths
    }

    pub fn relationships(&self) -> Vec<String> {
        self.store.lock().unwrap().relationships.keys().cloned().collect()
    }

    pub fn calls(&self, method: &str) -> usize {
        self.store.lock().unwrap().calls.get(method).copied().unwrap_or_default()
    }

    pub fn fail(&self, method: &'static str, code: Code) {
        self.store.lock().unwrap().failures.push((method, code));
    }

    pub fn refuse(&self, path: &str) {
        self.store.lock().unwrap().refused.push(path.to_owned());
    }

    pub fn accept(&self) {
        self.store.lock().unwrap().refused.clear();
    }

    /// Somebody else writes an entry.
    pub fn insert(&self, entry: types::Entry) {
        let mut store = self.store.lock().unwrap();
        store.log.push(entry.id.clone());
        store.entries.insert(entry.id.clone(), entry);
        self.tell(store);
    }

    /// Somebody else deletes an entry.
    pub fn remove(&self, id: &str) {
        let mut store = self.store.lock().unwrap();
        store.log.push(id.to_owned());
        store.entries.remove(id);
        self.tell(store);
    }

    /// The paths of the SPIFFE IDs after each write so far.
    pub fn history(&self) -> Vec<Vec<String>> {
        self.store.lock().unwrap().history.clone()
    }

    /// How often a bundle of a trust domain came with a relationship or by itself.
    pub fn bundles(&self, trust_domain: &str) -> usize {
        self.store.lock().unwrap().bundles.get(trust_domain).copied().unwrap_or_default()
    }

    /// The server has fetched the bundle of a trust domain.
    pub fn fetch_bundle(&self, trust_domain: &str) {
        let mut store = self.store.lock().unwrap();
        *store.bundles.entry(trust_domain.to_owned()).or_default() += 1;
        store.log.push(String::new());
        self.tell(store);
    }

    fn tell(&self, mut store: std::sync::MutexGuard<'_, Store>) {
        let entries = store.entries.values();
        let mut paths: Vec<String> =
            entries.map(|entry| entry.spiffe_id.clone().unwrap_or_default().path).collect();
        paths.sort();
        store.history.push(paths);
        let revision = store.log.len() as u64;
        drop(store);
        self.revision.send_replace(revision);
    }

    fn called(&self, method: &'static str) -> Result<(), Status> {
        let mut store = self.store.lock().unwrap();
        *store.calls.entry(method).or_default() += 1;
        match store.failures.iter().position(|(failing, _)| *failing == method) {
            Some(at) => {
                let (_, code) = store.failures.remove(at);
                Err(Status::new(code, "as the test wishes"))
            }
            None => Ok(()),
        }
    }
}

fn status(code: Code, message: &str) -> Option<types::Status> {
    Some(types::Status { code: code.into(), message: message.to_owned() })
}

fn same(a: &types::Entry, b: &types::Entry) -> bool {
    let sorted = |entry: &types::Entry| {
        let mut all: Vec<_> =
            entry.selectors.iter().map(|one| (one.r#type.clone(), one.value.clone())).collect();
        all.sort();
        all
    };
    a.spiffe_id == b.spiffe_id && a.parent_id == b.parent_id && sorted(a) == sorted(b)
}

#[tonic::async_trait]
impl entry_server::Entry for FakeServer {
    type SyncAuthorizedEntriesStream =
        Pin<Box<dyn Stream<Item = Result<entry::SyncAuthorizedEntriesResponse, Status>> + Send>>;

    async fn count_entries(
        &self,
        _: Request<entry::CountEntriesRequest>,
    ) -> Result<Response<entry::CountEntriesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_entries(
        &self,
        request: Request<entry::ListEntriesRequest>,
    ) -> Result<Response<entry::ListEntriesResponse>, Status> {
        self.called("ListEntries")?;
        let request = request.into_inner();
        let store = self.store.lock().unwrap();
        let rest = store.entries.range(request.page_token.clone()..);
        let rest = rest.filter(|(id, _)| **id != request.page_token);
        let size = usize::try_from(request.page_size).unwrap_or(usize::MAX);
        let entries: Vec<_> = rest.take(size).map(|(_, entry)| entry.clone()).collect();
        let full = entries.len() == size;
        let next_page_token =
            entries.last().filter(|_| full).map(|entry| entry.id.clone()).unwrap_or_default();
        Ok(Response::new(entry::ListEntriesResponse { entries, next_page_token }))
    }

    async fn get_entry(
        &self,
        _: Request<entry::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn batch_create_entry(
        &self,
        request: Request<entry::BatchCreateEntryRequest>,
    ) -> Result<Response<entry::BatchCreateEntryResponse>, Status> {
        self.called("BatchCreateEntry")?;
        let mut store = self.store.lock().unwrap();
        let mut results = Vec::new();
        for mut new in request.into_inner().entries {
            let path = new.spiffe_id.clone().unwrap_or_default().path;
            let (status, entry) = if store.refused.contains(&path) {
                (status(Code::InvalidArgument, "as the test wishes"), None)
            } else if let Some(old) = store.entries.values().find(|old| same(old, &new)) {
                (status(Code::AlreadyExists, "similar entry already exists"), Some(old.clone()))
            } else {
                store.next += 1;
                if new.id.is_empty() {
                    new.id = format!("id-{}", store.next);
                }
                store.log.push(new.id.clone());
                store.entries.insert(new.id.clone(), new.clone());
                (status(Code::Ok, "OK"), Some(new))
            };
            results.push(batch_create_entry_response::Result { status, entry });
        }
        self.tell(store);
        Ok(Response::new(entry::BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<entry::BatchUpdateEntryRequest>,
    ) -> Result<Response<entry::BatchUpdateEntryResponse>, Status> {
        self.called("BatchUpdateEntry")?;
        let mut store = self.store.lock().unwrap();
        let mut results = Vec::new();
        for new in request.into_inner().entries {
            let (status, entry) = if store.entries.contains_key(&new.id) {
                store.log.push(new.id.clone());
                store.entries.insert(new.id.clone(), new.clone());
                (status(Code::Ok, "OK"), Some(new))
            } else {
                (status(Code::NotFound, "entry not found"), None)
            };
            results.push(batch_update_entry_response::Result { status, entry });
        }
        self.tell(store);
        Ok(Response::new(entry::BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<entry::BatchDeleteEntryRequest>,
    ) -> Result<Response<entry::BatchDeleteEntryResponse>, Status> {
        self.called("BatchDeleteEntry")?;
        let mut store = self.store.lock().unwrap();
        let mut results = Vec::new();
        for id in request.into_inner().ids {
            let status = match store.entries.remove(&id) {
                Some(_) => {
                    store.log.push(id.clone());
                    status(Code::Ok, "OK")
                }
                None => status(Code::NotFound, "entry not found"),
            };
            results.push(batch_delete_entry_response::Result { status, id });
        }
        self.tell(store);
        Ok(Response::new(entry::BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        _: Request<entry::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<entry::GetAuthorizedEntriesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn sync_authorized_entries(
        &self,
        _: Request<Streaming<entry::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tonic::async_trait]
impl push_server::Push for FakeServer {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Notice, Status>> + Send>>;

    async fn subscribe(
        &self,
        _: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let revisions = tokio_stream::wrappers::WatchStream::new(self.revision.subscribe());
        let notices = tokio_stream::StreamExt::map(revisions, |revision| {
            Ok(Notice {
                feed_id: "feed".to_owned(),
                entries_revision: revision,
                relationships_revision: revision,
                bundles_revision: revision,
                ..Notice::default()
            })
        });
        Ok(Response::new(Box::pin(notices)))
    }

    async fn list_entry_changes(
        &self,
        request: Request<ListEntryChangesRequest>,
    ) -> Result<Response<ListEntryChangesResponse>, Status> {
        self.called("ListEntryChanges")?;
        let request = request.into_inner();
        let store = self.store.lock().unwrap();
        let mut answer = ListEntryChangesResponse {
            feed_id: "feed".to_owned(),
            resync: request.feed_id != "feed",
            revision: store.log.len() as u64,
            ..Default::default()
        };
        if !answer.resync {
            let after = usize::try_from(request.after_revision).unwrap();
            for id in &store.log[after..] {
                let entry = store.entries.get(id).cloned();
                answer.changes.push(EntryChange { id: id.clone(), entry });
            }
        }
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl trust_domain_server::TrustDomain for FakeServer {
    async fn list_federation_relationships(
        &self,
        _: Request<td::ListFederationRelationshipsRequest>,
    ) -> Result<Response<td::ListFederationRelationshipsResponse>, Status> {
        self.called("ListFederationRelationships")?;
        let store = self.store.lock().unwrap();
        Ok(Response::new(td::ListFederationRelationshipsResponse {
            federation_relationships: store.relationships.values().cloned().collect(),
            next_page_token: String::new(),
        }))
    }

    async fn get_federation_relationship(
        &self,
        _: Request<td::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<td::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<td::BatchCreateFederationRelationshipResponse>, Status> {
        let mut store = self.store.lock().unwrap();
        let mut results = Vec::new();
        for new in request.into_inner().federation_relationships {
            store.keep(new);
            results.push(batch_create_federation_relationship_response::Result {
                status: status(Code::Ok, "OK"),
                federation_relationship: None,
            });
        }
        Ok(Response::new(td::BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<td::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<td::BatchUpdateFederationRelationshipResponse>, Status> {
        let mut store = self.store.lock().unwrap();
        let mut results = Vec::new();
        for new in request.into_inner().federation_relationships {
            store.keep(new);
            results.push(batch_update_federation_relationship_response::Result {
                status: status(Code::Ok, "OK"),
                federation_relationship: None,
            });
        }
        Ok(Response::new(td::BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<td::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<td::BatchDeleteFederationRelationshipResponse>, Status> {
        let mut store = self.store.lock().unwrap();
        let mut results = Vec::new();
        for trust_domain in request.into_inner().trust_domains {
            store.relationships.remove(&trust_domain);
            results.push(batch_delete_federation_relationship_response::Result {
                status: status(Code::Ok, "OK"),
                trust_domain,
            });
        }
        Ok(Response::new(td::BatchDeleteFederationRelationshipResponse { results }))
    }

    async fn refresh_bundle(
        &self,
        _: Request<td::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tonic::async_trait]
impl bundle_server::Bundle for FakeServer {
    async fn list_federated_bundles(
        &self,
        _: Request<bundle::ListFederatedBundlesRequest>,
    ) -> Result<Response<bundle::ListFederatedBundlesResponse>, Status> {
        let store = self.store.lock().unwrap();
        let names = store.bundles.keys().cloned();
        let bundles =
            names.map(|trust_domain| types::Bundle { trust_domain, ..Default::default() });
        Ok(Response::new(bundle::ListFederatedBundlesResponse {
            bundles: bundles.collect(),
            next_page_token: String::new(),
        }))
    }

    async fn count_bundles(
        &self,
        _: Request<bundle::CountBundlesRequest>,
    ) -> Result<Response<bundle::CountBundlesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_bundle(
        &self,
        _: Request<bundle::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn append_bundle(
        &self,
        _: Request<bundle::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<bundle::PublishJwtAuthorityRequest>,
    ) -> Result<Response<bundle::PublishJwtAuthorityResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn publish_wit_authority(
        &self,
        _: Request<bundle::PublishWitAuthorityRequest>,
    ) -> Result<Response<bundle::PublishWitAuthorityResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_federated_bundle(
        &self,
        _: Request<bundle::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<bundle::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchCreateFederatedBundleResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<bundle::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchUpdateFederatedBundleResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn batch_set_federated_bundle(
        &self,
        _: Request<bundle::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchSetFederatedBundleResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn batch_delete_federated_bundle(
        &self,
        _: Request<bundle::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchDeleteFederatedBundleResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
