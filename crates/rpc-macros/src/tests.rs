//! What is wrong with a trait is told in words that say what to write instead.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::expand;

/// Everything that is said about a service with these options and this trait.
fn problems_with(options: &str, item: &str) -> Vec<String> {
    let error = expand(options.parse().unwrap(), item.parse().unwrap()).unwrap_err();
    error.into_iter().map(|error| error.to_string()).collect()
}

/// What is said about a method, which must be one thing.
fn problem_with(method: &str) -> String {
    let problems = problems_with("", &format!("trait Calculator {{ {method} }}"));
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    problem.clone()
}

#[test]
fn given_no_self_then_it_is_asked_for() {
    assert_eq!(
        problem_with("async fn add(ctx: Context, request: Add) -> Result<Sum, Status>;"),
        "`add` must take `&self` first: calls run side by side"
    );
}

#[test]
fn given_a_self_that_only_one_call_could_have_then_another_is_asked_for() {
    for receiver in ["&mut self", "self", "self: &Self"] {
        assert_eq!(
            problem_with(&format!(
                "async fn add({receiver}, ctx: Context, request: Add) -> Result<Sum, Status>;"
            )),
            "`add` must take `&self` first: calls run side by side"
        );
    }
}

#[test]
fn given_no_context_then_it_is_asked_for() {
    for arguments in [
        "&self",
        "&self, request: Add",
        "&self, request: Add, ctx: Context",
    ] {
        assert_eq!(
            problem_with(&format!(
                "async fn add({arguments}) -> Result<Sum, Status>;"
            )),
            "`add` must take the context after `&self`: `ctx: Context`"
        );
    }
}

#[test]
fn given_no_request_then_an_empty_one_is_suggested() {
    assert_eq!(
        problem_with("async fn add(&self, ctx: Context) -> Result<Sum, Status>;"),
        "`add` takes no request; write `request: ()` if there is nothing to say"
    );
}

#[test]
fn given_more_than_one_request_then_a_struct_is_suggested() {
    assert_eq!(
        problem_with("async fn add(&self, ctx: Context, a: i64, b: i64) -> Result<Sum, Status>;"),
        "`add` takes more than one request; put what it needs into one struct, so that fields can be added"
    );
}

#[test]
fn given_no_async_then_it_is_asked_for() {
    assert_eq!(
        problem_with("fn add(&self, ctx: Context, request: Add) -> Result<Sum, Status>;"),
        "`add` must be an `async fn`"
    );
}

#[test]
fn given_a_generic_method_then_the_reason_against_it_is_told() {
    for generics in ["<A>", "<'a>", "<const N: usize>"] {
        assert_eq!(
            problem_with(&format!(
                "async fn add{generics}(&self, ctx: Context, request: Add) -> Result<Sum, Status>;"
            )),
            "`add` cannot be generic: its messages are fixed on the wire"
        );
    }
}

#[test]
fn given_a_return_type_that_no_call_has_then_those_that_calls_have_are_told() {
    for output in [
        "",
        "-> Sum",
        "-> Result<Sum>",
        "-> impl Stream",
        "-> impl Stream<Item = Sum>",
        "-> impl Iterator<Item = Result<Sum, Status>>",
    ] {
        assert_eq!(
            problem_with(&format!(
                "async fn add(&self, ctx: Context, request: Add) {output};"
            )),
            "`add` must return `Result<Response, Error>` or `impl Stream<Item = Result<Response, Status>>`"
        );
    }
}

#[test]
fn given_a_stream_with_errors_of_its_own_then_a_status_is_asked_for() {
    assert_eq!(
        problem_with(
            "async fn all(&self, ctx: Context, request: ()) -> impl Stream<Item = Result<Sum, Mine>>;"
        ),
        "what a stream yields fails with `Status`"
    );
}

#[test]
fn given_a_stream_in_a_result_then_the_stream_alone_is_suggested() {
    assert_eq!(
        problem_with(
            "async fn all(&self, ctx: Context, request: ()) -> Result<impl Stream<Item = u8>, Status>;"
        ),
        "a method that streams returns `impl Stream<Item = Result<Response, Status>>`; a refusal is its first item"
    );
}

#[test]
fn given_a_request_without_one_owned_type_then_it_is_asked_for() {
    let about = |request: &str| {
        problem_with(&format!(
            "async fn add(&self, ctx: Context, request: {request}) -> Result<Sum, Status>;"
        ))
    };
    assert_eq!(
        about("&Add"),
        "a request is owned: it comes from another machine"
    );
    assert_eq!(
        about("impl Stream<Item = Add>"),
        "a request has one type; a stream of them is `Streaming<…>`"
    );
    assert_eq!(
        about("Streaming"),
        "say what it streams: `Streaming<Message>`"
    );
}

#[test]
fn given_a_body_or_a_condition_then_it_is_sent_elsewhere() {
    let add = "async fn add(&self, ctx: Context, request: Add) -> Result<Sum, Status>";
    assert_eq!(
        problem_with(&format!("{add} {{ todo() }}")),
        "a method has no body here; write it where the service is implemented"
    );
    assert_eq!(
        problem_with(&format!("#[cfg(unix)] {add};")),
        "a method cannot be conditional: both ends must know the same ones"
    );
}

#[test]
fn given_a_method_that_the_client_has_itself_then_another_name_is_suggested() {
    let problem =
        problem_with("async fn new(&self, ctx: Context, request: ()) -> Result<(), Status>;");
    assert!(problem.contains("#[rpc(name = \"New\")]"), "{problem}");
}

#[test]
fn given_two_methods_of_one_name_on_the_wire_then_it_is_told() {
    let one = "async fn one(&self, ctx: Context, request: ()) -> Result<(), Status>;";
    let two = "#[rpc(name = \"One\")] async fn two(&self, ctx: Context, request: ()) -> Result<(), Status>;";
    assert_eq!(
        problem_with(&format!("{one} {two}")),
        "another method is `Calculator/One` on the wire already"
    );
}

#[test]
fn given_options_nobody_knows_then_those_there_are_are_told() {
    let item = "trait Calculator {}";
    assert_eq!(
        problems_with("version = 1", item),
        ["unknown option; there are `package = \"…\"` and `codec = …`"]
    );
    assert_eq!(
        problems_with("codec = json", item),
        ["unknown codec; there are `postcard` (serde types) and `prost` (protobuf types)"]
    );
    assert_eq!(
        problems_with("package = \"calculator/v1\"", item),
        ["a package is names with dots between them, e.g. `calculator.v1`"]
    );
    let method = "async fn add(&self, ctx: Context, request: ()) -> Result<(), Status>;";
    assert_eq!(
        problem_with(&format!("#[rpc(cached)] {method}")),
        "unknown option; there are `idempotent`, `permission = \"…\"` and `name = \"…\"`"
    );
    assert_eq!(
        problem_with(&format!("#[rpc(permission = \"a b\")] {method}")),
        "a permission is visible ASCII without spaces, e.g. `compute:execute`"
    );
    assert_eq!(
        problem_with(&format!("#[rpc(name = \"a/b\")] {method}")),
        "a method's name is ASCII letters, digits and `_`, a letter first"
    );
}

#[test]
fn given_what_is_no_plain_trait_then_it_is_told() {
    assert_eq!(
        problems_with("", "trait Calculator<N> {}"),
        ["a service cannot be generic: its name and its messages are fixed on the wire"]
    );
    assert_eq!(
        problems_with("", "trait Calculator { type Number; }"),
        ["a service has methods only"]
    );
    assert_eq!(
        problems_with("", "struct Calculator;"),
        ["`service` goes on a trait: expected `trait`"]
    );
}

#[test]
fn given_several_wrong_methods_then_all_are_told_at_once() {
    let problems = problems_with(
        "",
        "trait Calculator { fn one(&self); async fn two(&self); const THREE: u8; }",
    );
    assert_eq!(problems.len(), 3, "{problems:?}");
}
