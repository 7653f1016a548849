//! Bundles, and notices of what changed.

use super::*;

#[tonic::async_trait]
impl bundle_server::Bundle for Service {
    async fn get_bundle(
        &self,
        _: Request<bundle::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let mut state = self.lock();
        state.calls.push("GetBundle");
        Ok(Response::new(convert::bundle_to_pb(&state.bundle(), None)))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<bundle::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        self.agent(&request, "GetFederatedBundle")?;
        match self.lock().federated.get(&request.get_ref().trust_domain) {
            Some(bundle) => Ok(Response::new(convert::bundle_to_pb(bundle, None))),
            None => Err(Status::not_found("bundle not found")),
        }
    }

    refuse! {
        count_bundles(bundle::CountBundlesRequest) -> bundle::CountBundlesResponse;
        append_bundle(bundle::AppendBundleRequest) -> types::Bundle;
        publish_jwt_authority(bundle::PublishJwtAuthorityRequest)
            -> bundle::PublishJwtAuthorityResponse;
        publish_wit_authority(bundle::PublishWitAuthorityRequest)
            -> bundle::PublishWitAuthorityResponse;
        list_federated_bundles(bundle::ListFederatedBundlesRequest)
            -> bundle::ListFederatedBundlesResponse;
        batch_create_federated_bundle(bundle::BatchCreateFederatedBundleRequest)
            -> bundle::BatchCreateFederatedBundleResponse;
        batch_update_federated_bundle(bundle::BatchUpdateFederatedBundleRequest)
            -> bundle::BatchUpdateFederatedBundleResponse;
        batch_set_federated_bundle(bundle::BatchSetFederatedBundleRequest)
            -> bundle::BatchSetFederatedBundleResponse;
        batch_delete_federated_bundle(bundle::BatchDeleteFederatedBundleRequest)
            -> bundle::BatchDeleteFederatedBundleResponse;
    }
}

#[tonic::async_trait]
impl push_server::Push for Service {
    type SubscribeStream = Answers<push::Notice>;

    async fn subscribe(
        &self,
        request: Request<push::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.agent(&request, "Subscribe")?;
        if self.notices.borrow().is_none() {
            return Err(Status::unimplemented("no push"));
        }
        let notices = WatchStream::new(self.notices.clone()).filter_map(|notice| notice.map(Ok));
        Ok(Response::new(Box::pin(notices)))
    }

    refuse! {
        list_entry_changes(push::ListEntryChangesRequest) -> push::ListEntryChangesResponse;
    }
}
