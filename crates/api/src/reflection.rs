//! gRPC reflection that costs nothing until somebody asks.

use std::{
    convert::Infallible,
    marker::PhantomData,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{Status, body::Body, server::NamedService, service::Routes};
use tower::Service;

use crate::pb::FILE_DESCRIPTOR_SET;

/// Adds both versions of the reflection service to `routes`; it lists `services`, beside itself.
///
/// Descriptors that are read take half a megabyte, and few callers ask for them: they are read at
/// the first call.
pub fn with_reflection<'a>(routes: Routes, services: impl IntoIterator<Item = &'a str>) -> Routes {
    let described = Arc::new(Described {
        services: services.into_iter().map(Box::from).collect(),
        routes: OnceLock::new(),
    });
    routes
        .add_service(Reflection::<V1>(Arc::clone(&described), PhantomData))
        .add_service(Reflection::<V1Alpha>(described, PhantomData))
}

/// The names of a socket's services, and what describes them once it was asked for.
struct Described {
    services: Box<[Box<str>]>,
    routes: OnceLock<Result<Routes, Status>>,
}

impl Described {
    fn routes(&self) -> Result<Routes, Status> {
        let build = || {
            self.build()
                .map_err(|error| Status::internal(format!("the API cannot be described: {error}")))
        };
        self.routes.get_or_init(build).clone()
    }

    fn build(&self) -> Result<Routes, tonic_reflection::server::Error> {
        let builder = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET);
            self.services.iter().fold(builder, |builder, name| builder.with_service_name(&**name))
        };
        Ok(Routes::new(builder().build_v1()?).add_service(builder().build_v1alpha()?).prepare())
    }
}

struct Reflection<V>(Arc<Described>, PhantomData<V>);

struct V1;
struct V1Alpha;

impl<V> Clone for Reflection<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

impl NamedService for Reflection<V1> {
    const NAME: &'static str = "grpc.reflection.v1.ServerReflection";
}

impl NamedService for Reflection<V1Alpha> {
    const NAME: &'static str = "grpc.reflection.v1alpha.ServerReflection";
}

impl<V> Service<Request<Body>> for Reflection<V> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let described = Arc::clone(&self.0);
        Box::pin(async move {
            match described.routes() {
                Ok(mut routes) => routes.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    use super::*;

    async fn ask(routes: Routes, question: MessageRequest) -> MessageResponse {
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let questions = tokio_stream::iter([request]);
        let answers = ServerReflectionClient::new(routes).server_reflection_info(questions).await;
        let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
        answer.message_response.unwrap()
    }

    #[tokio::test]
    async fn descriptors_are_read_at_the_first_call_and_say_what_is_served() {
        let services = || ["SpiffeWorkloadAPI".into()].into();
        let described = Arc::new(Described { services: services(), routes: OnceLock::new() });
        let routes = Routes::new(Reflection::<V1>(Arc::clone(&described), PhantomData));
        assert!(described.routes.get().is_none());
        let list = MessageRequest::ListServices(String::new());
        let MessageResponse::ListServicesResponse(list) = ask(routes.clone(), list).await else {
            panic!("not a list");
        };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["SpiffeWorkloadAPI"]);
        assert!(described.routes.get().is_some_and(Result::is_ok));

        let file = MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".into());
        let MessageResponse::FileDescriptorResponse(file) = ask(routes, file).await else {
            panic!("not a file");
        };
        assert!(!file.file_descriptor_proto.is_empty());
    }

    #[tokio::test]
    async fn both_versions_are_served() {
        let routes = with_reflection(Routes::default(), ["SpiffeWorkloadAPI"]).prepare();
        for version in ["v1", "v1alpha"] {
            let request = Request::builder()
                .method("POST")
                .uri(format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"))
                .header("content-type", "application/grpc")
                .body(Body::empty())
                .unwrap();
            let answer = routes.clone().call(request).await.unwrap();
            assert!(Status::from_header_map(answer.headers()).is_none(), "{answer:?}");
        }
    }
}
