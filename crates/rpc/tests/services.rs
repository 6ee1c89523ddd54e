//! Services as people write them, over real QUIC on loopback: all kinds of methods, both codecs, typed errors.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use support::{Organization, eventually};
use warren_rpc::{
    ApplicationError, AuthorizeRequest, Authorizer, CallError, Caller, Claims, Code, Connection,
    Context, Failure, Incoming, Kind, Method, Service, Status, Streaming, ms,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Page {
    title: String,
    words: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum LibraryError {
    #[error("there is no page `{title}`")]
    NoSuchPage { title: String },
    #[error("the library is closed")]
    Closed,
}

impl ApplicationError for LibraryError {
    fn code(&self) -> Code {
        match self {
            Self::NoSuchPage { .. } => Code::NotFound,
            Self::Closed => Code::FailedPrecondition,
        }
    }
}

/// A service of serde types, without a package.
#[warren_rpc::service]
trait Library {
    /// One page.
    #[rpc(idempotent, permission = "library:read")]
    async fn page(&self, ctx: Context, title: String) -> Result<Page, LibraryError>;

    /// All pages, borrowed from the service while they are sent.
    async fn pages(&self, ctx: Context, from: u32) -> impl Stream<Item = Result<Page, Status>>;

    /// Counts the words of pages; refuses those without a title.
    async fn count(&self, ctx: Context, pages: Streaming<Page>) -> Result<u32, LibraryError>;

    /// Says each title back; an empty one ends it badly.
    #[rpc(name = "Recite")]
    async fn say(
        &self,
        ctx: Context,
        titles: Streaming<String>,
    ) -> impl Stream<Item = Result<String, Status>>;

    /// Yields for ever; `running` counts while it lives.
    async fn forever(&self, ctx: Context, _: ()) -> impl Stream<Item = Result<u64, Status>>;

    /// Fails as the machinery does.
    async fn busy(&self, ctx: Context, _request: ()) -> Result<(), Status>;
}

#[derive(Default)]
struct Shelf {
    pages: Vec<Page>,
    running: Arc<AtomicUsize>,
}

/// Counts a stream while it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Library for Shelf {
    async fn page(&self, _: Context, title: String) -> Result<Page, LibraryError> {
        // Not ready at once, so that the handler gets a task.
        tokio::task::yield_now().await;
        let found = self.pages.iter().find(|page| page.title == title);
        found.cloned().ok_or(LibraryError::NoSuchPage { title })
    }

    async fn pages(&self, _: Context, from: u32) -> impl Stream<Item = Result<Page, Status>> {
        let pages = self.pages.iter().skip(from as usize);
        stream::iter(pages.map(|page| Ok(page.clone())))
    }

    async fn count(&self, _: Context, mut pages: Streaming<Page>) -> Result<u32, LibraryError> {
        let mut words = 0;
        while let Some(Ok(page)) = pages.message().await {
            if page.title.is_empty() {
                return Err(LibraryError::Closed);
            }
            words += page.words;
        }
        Ok(words)
    }

    async fn say(
        &self,
        _: Context,
        titles: Streaming<String>,
    ) -> impl Stream<Item = Result<String, Status>> {
        titles.map(|title| match title?.as_str() {
            // By `?`: an error of the service's own becomes a status.
            "" => Err(LibraryError::Closed)?,
            title => Ok(title.to_uppercase()),
        })
    }

    async fn forever(&self, _: Context, (): ()) -> impl Stream<Item = Result<u64, Status>> {
        let running = Running::new(&self.running);
        stream::iter(0..).map(move |n| {
            let _still = &running;
            Ok(n)
        })
    }

    async fn busy(&self, _: Context, (): ()) -> Result<(), Status> {
        Err(Status::overloaded(ms(5)))
    }
}

fn page(title: &str, words: u32) -> Page {
    Page {
        title: title.into(),
        words,
    }
}

fn shelf() -> Shelf {
    Shelf {
        pages: vec![page("one", 1), page("two", 2), page("three", 3)],
        ..Shelf::default()
    }
}

/// Lets everybody call everything.
struct Everyone;

impl Authorizer for Everyone {
    fn authorize(&self, _: &AuthorizeRequest<'_>) -> Result<Option<Arc<Claims>>, Status> {
        Ok(None)
    }
}

/// A client of a server with `service`.
async fn connection(service: impl Service) -> Connection {
    let organization = Organization::new("org_test");
    let (_server, address) =
        organization.serve_as(service, |builder| builder.with_authorizer(Everyone));
    organization.connect(address).await
}

async fn library(shelf: Shelf) -> LibraryClient<Connection> {
    LibraryClient::new(connection(LibraryServer::new(shelf)).await)
}

#[test]
fn given_a_trait_then_its_descriptor_says_names_kinds_and_promises() {
    let methods: Vec<_> = LIBRARY_SERVICE
        .methods
        .iter()
        .map(|method| {
            let permission = method.permission.as_deref();
            (&*method.path, method.kind, method.idempotent, permission)
        })
        .collect();
    assert_eq!(LIBRARY_SERVICE.name, "Library");
    assert_eq!(
        methods,
        [
            ("Library/Page", Kind::Unary, true, Some("library:read")),
            ("Library/Pages", Kind::ServerStreaming, false, None),
            ("Library/Count", Kind::ClientStreaming, false, None),
            ("Library/Recite", Kind::Bidirectional, false, None),
            ("Library/Forever", Kind::ServerStreaming, false, None),
            ("Library/Busy", Kind::Unary, false, None),
        ]
    );
}

#[tokio::test]
async fn given_a_unary_method_then_its_response_comes_back() {
    let library = library(shelf()).await;
    let found = library
        .page(Context::deadline(ms(9_000)), "two".into())
        .await;
    assert_eq!(found, Ok(page("two", 2)));
}

#[tokio::test]
async fn given_an_error_of_the_service_then_the_caller_has_it_with_its_type() {
    let library = library(shelf()).await;
    let missing = library.page(Context::new(), "four".into()).await;
    let expected = LibraryError::NoSuchPage {
        title: "four".into(),
    };
    assert_eq!(missing, Err(CallError::Application(expected)));
}

#[tokio::test]
async fn given_a_handler_that_passes_on_a_refusal_then_its_caller_is_not_told_that_nothing_happened()
 {
    let library = library(shelf()).await;
    // `busy` fails as if a call of its own had been refused, whatever it did before.
    let refused: Status = library.busy(Context::new(), ()).await.unwrap_err();
    let passed_on = Status::overloaded(ms(5));
    assert_eq!(
        (refused.code(), refused.message(), refused.retry_after()),
        (
            passed_on.code(),
            passed_on.message(),
            passed_on.retry_after()
        )
    );
    assert!(!refused.had_no_effect(), "it would be called again");
}

#[tokio::test]
async fn given_a_stream_that_borrows_from_the_service_then_all_of_it_arrives_in_order() {
    let library = library(shelf()).await;
    let pages = library.pages(Context::new(), 1).await.unwrap();
    let pages: Vec<_> = pages.map(Result::unwrap).collect().await;
    assert_eq!(pages, [page("two", 2), page("three", 3)]);
}

#[tokio::test]
async fn given_a_stream_of_requests_then_one_response_answers_them_all() {
    let library = library(shelf()).await;
    let pages = stream::iter((0..1_000).map(|n| page("p", n)));
    assert_eq!(library.count(Context::new(), pages).await, Ok(499_500));
}

#[tokio::test]
async fn given_a_stream_that_the_service_refuses_half_way_then_its_error_has_its_type() {
    let library = library(shelf()).await;
    // Never ends: the answer must not wait for it.
    let pages = stream::iter([page("p", 1), page("", 1)]).chain(stream::pending());
    let refused = library.count(Context::new(), pages).await;
    assert_eq!(refused, Err(CallError::Application(LibraryError::Closed)));
}

#[tokio::test]
async fn given_streams_both_ways_then_each_message_is_answered_before_the_next_is_sent() {
    let library = library(shelf()).await;
    let (say, said) = tokio::sync::mpsc::unbounded_channel::<String>();
    let said = stream::unfold(said, async |mut said| Some((said.recv().await?, said)));
    let mut answers = library.say(Context::new(), said).await.unwrap();
    for word in ["one", "two", "three"] {
        say.send(word.into()).unwrap();
        let answer = answers.message().await.unwrap();
        assert_eq!(answer.unwrap(), word.to_uppercase());
    }
    drop(say);
    assert!(answers.message().await.is_none());
}

#[tokio::test]
async fn given_a_stream_that_fails_then_the_status_comes_after_what_was_yielded() {
    let library = library(shelf()).await;
    let titles = stream::iter(["one", "", "two"].map(String::from));
    let answers = library.say(Context::new(), titles).await.unwrap();
    let answers: Vec<_> = answers.collect().await;
    let closed = Status::new(Code::FailedPrecondition, "the library is closed");
    assert_eq!(answers, [Ok("ONE".into()), Err(closed)]);
}

#[tokio::test]
async fn given_responses_that_are_dropped_then_the_servers_stream_is_too() {
    let running = Arc::new(AtomicUsize::new(0));
    let library = library(Shelf {
        running: Arc::clone(&running),
        ..Shelf::default()
    })
    .await;
    let mut numbers = library.forever(Context::new(), ()).await.unwrap();
    assert_eq!(numbers.message().await.unwrap(), Ok(0));
    assert_eq!(running.load(Ordering::SeqCst), 1);
    drop(numbers);
    eventually("the server's stream ends", || {
        running.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn given_a_request_of_another_type_then_the_server_refuses_it() {
    let connection = connection(LibraryServer::new(shelf())).await;
    let garbage = Bytes::from_static(&[200, 1, 2]);
    let refused = connection
        .unary(&LIBRARY_SERVICE.methods[0], Context::new(), garbage)
        .await;
    let Err(Failure::Status(status)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(status.code(), Code::InvalidArgument);
}

/// Answers every unary call with the same thing.
#[derive(Clone)]
struct Answers(Result<Bytes, Failure>);

impl Caller for Answers {
    async fn unary(&self, _: &Method, _: Context, _: Bytes) -> Result<Bytes, Failure> {
        self.0.clone()
    }

    async fn streaming(&self, _: &Method, _: Context, _: Incoming) -> Result<Incoming, Status> {
        Ok(Incoming::new(stream::empty()))
    }
}

#[tokio::test]
async fn given_an_error_of_a_newer_version_then_its_code_and_text_are_left() {
    let status = Status::new(Code::Aborted, "a reason of tomorrow");
    let library = LibraryClient::new(Answers(Err(Failure::Application {
        encoded: Bytes::from_static(&[99]),
        status: status.clone(),
    })));
    let failed = library.page(Context::new(), "one".into()).await;
    assert_eq!(failed, Err(CallError::Status(status)));
}

#[tokio::test]
async fn given_a_response_of_another_type_then_it_is_the_servers_fault() {
    let library = LibraryClient::new(Answers(Ok(Bytes::from_static(&[200, 1, 2]))));
    let failed = library.page(Context::new(), "one".into()).await;
    assert_eq!(failed.unwrap_err().status().unwrap().code(), Code::Internal);
}

#[tokio::test]
async fn given_a_server_that_ends_without_a_response_then_it_is_the_servers_fault() {
    let library = LibraryClient::new(Answers(Ok(Bytes::new())));
    let failed = library.count(Context::new(), stream::empty()).await;
    assert_eq!(failed.unwrap_err().status().unwrap().code(), Code::Internal);
}

/// The same over protobuf, in a place where every short name means something else.
mod protobuf {
    #![allow(dead_code)]

    use std::fmt;

    use futures::stream;

    /// A message that has the name other code likes for parameters.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct T {
        #[prost(string, tag = "1")]
        pub(super) text: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct C {
        #[prost(uint64, tag = "1")]
        pub(super) count: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Refusal {
        #[prost(uint64, tag = "1")]
        pub(super) limit: u64,
    }

    impl fmt::Display for Refusal {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "more than {} characters", self.limit)
        }
    }

    impl std::error::Error for Refusal {}
    impl warren_rpc::ApplicationError for Refusal {}

    struct Box;
    struct Arc;
    struct Bytes;
    struct Service;
    struct Future;
    struct Send;
    struct Sync;
    struct Ok;
    struct Err;
    struct Some;
    struct None;
    struct Option;
    struct Clone;
    struct Debug;
    struct From;
    struct Failure;
    struct Outgoing;
    struct Caller;
    struct Kind;

    #[warren_rpc::service(package = "test.v1", codec = prost)]
    pub(super) trait EchoV2: std::any::Any {
        async fn measure(&self, ctx: warren_rpc::Context, request: T) -> Result<C, Refusal>;
        async fn spell_out(
            &self,
            ctx: warren_rpc::Context,
            request: T,
        ) -> impl futures::Stream<Item = Result<T, warren_rpc::Status>>;
        async fn join(
            &self,
            ctx: warren_rpc::Context,
            parts: warren_rpc::Streaming<T>,
        ) -> Result<T, warren_rpc::Status>;
        #[deprecated]
        async fn r#match(
            &self,
            ctx: warren_rpc::Context,
            parts: warren_rpc::Streaming<T>,
        ) -> impl futures::Stream<Item = Result<C, warren_rpc::Status>>;
    }

    pub(super) struct Echo;

    impl EchoV2 for Echo {
        async fn measure(&self, _: warren_rpc::Context, request: T) -> Result<C, Refusal> {
            let count = request.text.len() as u64;
            if count > 10 {
                return Result::Err(Refusal { limit: 10 });
            }
            Result::Ok(C { count })
        }

        async fn spell_out(
            &self,
            _: warren_rpc::Context,
            request: T,
        ) -> impl futures::Stream<Item = Result<T, warren_rpc::Status>> {
            let letters: Vec<_> = request.text.chars().map(String::from).collect();
            stream::iter(letters.into_iter().map(|text| Result::Ok(T { text })))
        }

        async fn join(
            &self,
            _: warren_rpc::Context,
            mut parts: warren_rpc::Streaming<T>,
        ) -> Result<T, warren_rpc::Status> {
            let mut text = String::new();
            while let std::option::Option::Some(part) = parts.message().await {
                text += &part?.text;
            }
            Result::Ok(T { text })
        }

        async fn r#match(
            &self,
            _: warren_rpc::Context,
            parts: warren_rpc::Streaming<T>,
        ) -> impl futures::Stream<Item = Result<C, warren_rpc::Status>> {
            futures::StreamExt::map(parts, |part| {
                part.map(|part| C {
                    count: part.text.len() as u64,
                })
            })
        }
    }
}

use protobuf::{C, ECHO_V2_SERVICE, Echo, EchoV2Client, EchoV2Server, Refusal, T};

fn text(text: &str) -> T {
    T { text: text.into() }
}

async fn echo() -> EchoV2Client<Connection> {
    EchoV2Client::new(connection(EchoV2Server::shared(Arc::new(Echo)).clone()).await)
}

#[test]
fn given_a_package_and_words_in_names_then_paths_are_as_grpc_has_them() {
    let paths: Vec<_> = ECHO_V2_SERVICE.methods.iter().map(|it| &*it.path).collect();
    assert_eq!(
        paths,
        [
            "test.v1.EchoV2/Measure",
            "test.v1.EchoV2/SpellOut",
            "test.v1.EchoV2/Join",
            "test.v1.EchoV2/Match"
        ]
    );
}

#[tokio::test]
async fn given_protobuf_messages_then_a_unary_method_answers_or_refuses() {
    let echo = echo().await;
    let short = echo.measure(Context::new(), text("four")).await;
    assert_eq!(short, Ok(C { count: 4 }));
    let long = echo.measure(Context::new(), text("more than ten")).await;
    assert_eq!(long, Err(CallError::Application(Refusal { limit: 10 })));
}

#[tokio::test]
async fn given_protobuf_messages_then_streams_go_each_way() {
    let echo = echo().await;
    let letters = echo.spell_out(Context::new(), text("abc")).await.unwrap();
    let letters: Vec<_> = letters.map(|letter| letter.unwrap().text).collect().await;
    assert_eq!(letters, ["a", "b", "c"]);
    let parts = || stream::iter(["ab", "c", ""].map(text));
    assert_eq!(echo.join(Context::new(), parts()).await, Ok(text("abc")));
    #[expect(
        deprecated,
        reason = "the client's method is as deprecated as the trait's"
    )]
    let counts = echo.r#match(Context::new(), parts()).await.unwrap();
    let counts: Vec<_> = counts.map(|count| count.unwrap().count).collect().await;
    assert_eq!(counts, [2, 1, 0]);
}

#[tokio::test]
async fn given_bytes_that_are_no_protobuf_then_the_server_refuses_them() {
    let connection = connection(EchoV2Server::new(Echo)).await;
    let garbage = Bytes::from_static(&[0x0a, 200]);
    let refused = connection
        .unary(&ECHO_V2_SERVICE.methods[0], Context::new(), garbage)
        .await;
    let Err(Failure::Status(status)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(status.code(), Code::InvalidArgument);
}
