//! `grpc.reflection.v1.ServerReflection`: what services there are and what their messages are, for clients that were
//! built without the `.proto`.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use warren_rpc_macros::service;

use self::messages::server_reflection_request::MessageRequest;
use self::messages::server_reflection_response::MessageResponse;
use self::messages::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};
use crate::context::Context;
use crate::server::{Phase, Shared};
use crate::status::{Code, Status};
use crate::streaming::Streaming;

#[expect(unreachable_pub, clippy::all, reason = "written by `prost-build`")]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}

/// What services there are and what their messages are.
#[service(package = "grpc.reflection.v1", codec = prost)]
pub(super) trait ServerReflection {
    /// Answers each question in order.
    async fn server_reflection_info(
        &self,
        ctx: Context,
        questions: Streaming<ServerReflectionRequest>,
    ) -> impl Stream<Item = Result<ServerReflectionResponse, Status>>;
}

/// The same under the name that older clients know. Its messages are the same bytes.
mod old {
    use super::*;

    #[service(package = "grpc.reflection.v1alpha", codec = prost)]
    pub(in crate::grpc) trait ServerReflection {
        /// Answers each question in order.
        async fn server_reflection_info(
            &self,
            ctx: Context,
            questions: Streaming<ServerReflectionRequest>,
        ) -> impl Stream<Item = Result<ServerReflectionResponse, Status>>;
    }
}

/// Tells of one server.
#[derive(Clone)]
pub(super) struct Reflection(Weak<Shared>);

pub(super) fn server(reflection: Reflection) -> ServerReflectionServer<Reflection> {
    ServerReflectionServer::new(reflection)
}

pub(super) fn server_under_its_old_name(
    reflection: Reflection,
) -> old::ServerReflectionServer<Reflection> {
    old::ServerReflectionServer::new(reflection)
}

impl ServerReflection for Reflection {
    async fn server_reflection_info(
        &self,
        _: Context,
        questions: Streaming<ServerReflectionRequest>,
    ) -> impl Stream<Item = Result<ServerReflectionResponse, Status>> {
        self.answers(questions)
    }
}

impl old::ServerReflection for Reflection {
    async fn server_reflection_info(
        &self,
        _: Context,
        questions: Streaming<ServerReflectionRequest>,
    ) -> impl Stream<Item = Result<ServerReflectionResponse, Status>> {
        self.answers(questions)
    }
}

impl Reflection {
    pub(super) const fn new(server: Weak<Shared>) -> Self {
        Self(server)
    }

    /// Answers until there are no more questions or the server drains.
    fn answers(
        &self,
        questions: Streaming<ServerReflectionRequest>,
    ) -> impl Stream<Item = Result<ServerReflectionResponse, Status>> + Send {
        let phase = self.0.upgrade().map(|server| server.phase.subscribe());
        let drains = async move {
            if let Some(mut phase) = phase {
                // A server that is gone drains no more.
                let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
            }
        };
        let server = Weak::clone(&self.0);
        let answers = questions.map(move |question| {
            let server = server.upgrade();
            let gone = || Status::new(Code::Unavailable, "the server is shutting down");
            Ok(respond(&server.ok_or_else(gone)?, question?))
        });
        answers.take_until(Box::pin(drains))
    }
}

fn respond(server: &Arc<Shared>, question: ServerReflectionRequest) -> ServerReflectionResponse {
    let answer = match &question.message_request {
        None => Err(Status::new(Code::InvalidArgument, "nothing is asked")),
        Some(asked) => answer(server, asked),
    };
    let answer = answer.unwrap_or_else(|status| {
        MessageResponse::ErrorResponse(ErrorResponse {
            error_code: status.code() as i32,
            error_message: status.message().to_owned(),
        })
    });
    ServerReflectionResponse {
        valid_host: question.host.clone(),
        original_request: Some(question),
        message_response: Some(answer),
    }
}

fn answer(server: &Arc<Shared>, asked: &MessageRequest) -> Result<MessageResponse, Status> {
    let known = server.grpc.descriptors.load();
    let files = |found: Option<Vec<Bytes>>, what: &dyn std::fmt::Display| match found {
        Some(files) => Ok(MessageResponse::FileDescriptorResponse(
            FileDescriptorResponse {
                file_descriptor_proto: files.into_iter().map(Vec::from).collect(),
            },
        )),
        None => Err(not_found(what)),
    };
    match asked {
        MessageRequest::FileByFilename(name) => files(known.file(name), name),
        MessageRequest::FileContainingSymbol(symbol) => {
            files(known.file_with_symbol(symbol), symbol)
        }
        MessageRequest::FileContainingExtension(asked) => {
            let (message, number) = (&asked.containing_type, asked.extension_number);
            let found = known.file_with_extension(message, number);
            files(found, &format_args!("extension {number} of {message}"))
        }
        MessageRequest::AllExtensionNumbersOfType(name) => {
            let extension_number = known.extensions_of(name).ok_or_else(|| not_found(name))?;
            Ok(MessageResponse::AllExtensionNumbersResponse(
                ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number,
                },
            ))
        }
        MessageRequest::ListServices(_) => {
            Ok(MessageResponse::ListServicesResponse(ListServiceResponse {
                service: services(server),
            }))
        }
    }
}

/// What gRPC clients can call, in order. The old name of this service is not told: it is the same one.
fn services(server: &Arc<Shared>) -> Vec<ServiceResponse> {
    let router = server.router.load();
    let mut names = router.protobuf_services();
    names.insert(super::health::HEALTH_SERVICE.name);
    names.insert(SERVER_REFLECTION_SERVICE.name);
    let named = |name: &str| ServiceResponse {
        name: name.to_owned(),
    };
    names.into_iter().map(named).collect()
}

fn not_found(what: &dyn std::fmt::Display) -> Status {
    Status::new(
        Code::NotFound,
        format!("no descriptor of `{what}` is registered here"),
    )
}
