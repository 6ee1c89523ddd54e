//! What is written for a service. Everything is named from its root, because the traits of others may stand among any
//! names; generic parameters get names that the trait does not use.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, ReturnType, Type, Visibility};

use crate::definition::{ErrorType, Gives, Method, Service, Takes};
use crate::options::Codec;

/// The trait, the descriptor, the server and the client.
pub(crate) fn service(service: &Service) -> TokenStream {
    let names = Names::new(service);
    let descriptor = descriptor(service, &names);
    let definition = definition(service);
    let server = server(service, &names);
    let client = client(service, &names);
    quote! {
        #definition
        #descriptor
        #server
        #client
    }
}

/// What the written items are called.
struct Names {
    server: Ident,
    client: Ident,
    descriptor: Ident,
    /// The implementation of the trait, as a parameter.
    handler: Ident,
    /// What a client calls through, as a parameter.
    caller: Ident,
    codec: Ident,
}

impl Names {
    fn new(service: &Service) -> Self {
        let name = service.item.ident.unraw();
        let used = identifiers(service);
        let free = |wanted: &str| {
            let mut name = wanted.to_owned();
            while used.contains(&name) {
                name.push('_');
            }
            Ident::new(&name, Span::call_site())
        };
        Self {
            server: format_ident!("{name}Server", span = service.item.ident.span()),
            client: format_ident!("{name}Client", span = service.item.ident.span()),
            descriptor: format_ident!("{}_SERVICE", screaming(&name.to_string())),
            handler: free("T"),
            caller: free("C"),
            codec: match service.codec {
                Codec::Postcard => Ident::new("Postcard", Span::call_site()),
                Codec::Prost => Ident::new("Prost", Span::call_site()),
            },
        }
    }

    /// The codec and a type of message, as arguments. Where the codec cannot carry it the compiler points at the type.
    fn carried(&self, message: &Type) -> TokenStream {
        let mut codec = self.codec.clone();
        codec.set_span(message.span());
        quote_spanned!(message.span()=> ::warren_rpc::#codec, #message)
    }

    /// A function of the library that carries one type of message.
    fn carry(&self, function: &str, message: &Type) -> TokenStream {
        let function = Ident::new(function, message.span());
        let carried = self.carried(message);
        quote_spanned!(message.span()=> ::warren_rpc::__private::#function::<#carried>)
    }
}

/// Every identifier of the trait.
fn identifiers(service: &Service) -> Vec<String> {
    fn collect(tokens: TokenStream, into: &mut Vec<String>) {
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Ident(name) => into.push(name.to_string()),
                proc_macro2::TokenTree::Group(group) => collect(group.stream(), into),
                _ => {}
            }
        }
    }
    let mut all = vec![service.item.ident.to_string()];
    for method in &service.methods {
        collect(method.signature.to_token_stream(), &mut all);
    }
    all
}

/// `CalculatorV2` as `CALCULATOR_V2`.
fn screaming(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut after_lower = false;
    for letter in name.chars() {
        if letter.is_uppercase() && after_lower {
            out.push('_');
        }
        after_lower = letter.is_lowercase() || letter.is_ascii_digit();
        out.extend(letter.to_uppercase());
    }
    out
}

/// The trait itself, with what `async fn` leaves open: futures and streams can move between threads.
fn definition(service: &Service) -> TokenStream {
    let item = &service.item;
    let (attributes, visibility, name) = (&item.attrs, &item.vis, &item.ident);
    let supertraits = item.supertraits.iter();
    let methods = service.methods.iter().map(|method| {
        let attributes = &method.attributes;
        let mut signature = method.signature.clone();
        signature.asyncness = None;
        let output = match &signature.output {
            ReturnType::Default => quote!(()),
            ReturnType::Type(_, ty) => match &method.gives {
                Gives::One { .. } => quote!(#ty),
                Gives::Stream { .. } => quote!(#ty + ::core::marker::Send),
            },
        };
        signature.output = ReturnType::Default;
        quote! {
            #(#attributes)*
            #signature -> impl ::core::future::Future<Output = #output> + ::core::marker::Send;
        }
    });
    quote! {
        #(#attributes)*
        #visibility trait #name:
            #(#supertraits +)* ::core::marker::Send + ::core::marker::Sync + 'static
        {
            #(#methods)*
        }
    }
}

fn descriptor(service: &Service, names: &Names) -> TokenStream {
    let visibility = &service.item.vis;
    let (name, descriptor) = (&service.name, &names.descriptor);
    let doc = format!("The names and promises of `{name}`.");
    let encoding = match service.codec {
        Codec::Postcard => quote!(Postcard),
        Codec::Prost => quote!(Protobuf),
    };
    let methods = service.methods.iter().map(|method| {
        let path = &method.path;
        let kind = method.kind();
        let idempotent = method.options.idempotent;
        let permission = match &method.options.permission {
            None => quote!(::core::option::Option::None),
            Some(permission) => {
                quote!(::core::option::Option::Some(::warren_rpc::__private::Cow::Borrowed(#permission)))
            }
        };
        quote! {
            ::warren_rpc::Method {
                path: ::warren_rpc::__private::Cow::Borrowed(#path),
                kind: ::warren_rpc::Kind::#kind,
                idempotent: #idempotent,
                permission: #permission,
            }
        }
    });
    quote! {
        #[doc = #doc]
        #visibility static #descriptor: ::warren_rpc::ServiceDescriptor =
            ::warren_rpc::ServiceDescriptor {
                name: #name,
                encoding: ::warren_rpc::Encoding::#encoding,
                methods: &[#(#methods),*],
            };
    }
}

impl Method {
    /// The variant of `Kind`.
    fn kind(&self) -> Ident {
        let kind = match (&self.takes, &self.gives) {
            (Takes::One(_), Gives::One { .. }) => "Unary",
            (Takes::One(_), Gives::Stream { .. }) => "ServerStreaming",
            (Takes::Stream(_), Gives::One { .. }) => "ClientStreaming",
            (Takes::Stream(_), Gives::Stream { .. }) => "Bidirectional",
        };
        Ident::new(kind, Span::call_site())
    }

    fn is_unary(&self) -> bool {
        matches!(
            (&self.takes, &self.gives),
            (Takes::One(_), Gives::One { .. })
        )
    }
}

fn server(service: &Service, names: &Names) -> TokenStream {
    let (visibility, name) = (&service.item.vis, &service.item.ident);
    let Names {
        server,
        handler,
        descriptor,
        ..
    } = names;
    let doc = format!(
        "Serves `{}` with an implementation of [`{name}`]. Clones share it.",
        service.name
    );
    let dispatch = dispatch(service, names);
    quote! {
        #[doc = #doc]
        #[allow(dead_code, reason = "a client needs no server")]
        #visibility struct #server<#handler> {
            service: ::warren_rpc::__private::Arc<#handler>,
        }

        #[allow(dead_code, reason = "a client needs no server")]
        impl<#handler: #name> #server<#handler> {
            /// Serves with this implementation.
            #[must_use]
            #visibility fn new(service: #handler) -> Self {
                Self::shared(::warren_rpc::__private::Arc::new(service))
            }

            /// Serves with an implementation that others hold too.
            #[must_use]
            #visibility const fn shared(service: ::warren_rpc::__private::Arc<#handler>) -> Self {
                Self { service }
            }
        }

        impl<#handler> ::core::clone::Clone for #server<#handler> {
            fn clone(&self) -> Self {
                Self { service: ::core::clone::Clone::clone(&self.service) }
            }
        }

        impl<#handler> ::core::fmt::Debug for #server<#handler> {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(#descriptor.name)
            }
        }

        #dispatch
    }
}

/// `impl Service`: from an index and bytes to the method and its messages, and back.
fn dispatch(service: &Service, names: &Names) -> TokenStream {
    let name = &service.item.ident;
    let Names {
        server,
        handler,
        descriptor,
        ..
    } = names;
    let arms = |unary: bool| {
        let methods = service.methods.iter().enumerate();
        methods
            .filter(move |(_, method)| method.is_unary() == unary)
            .map(move |(index, method)| {
                let body = if unary {
                    answer(service, method, names)
                } else {
                    converse(service, method, names)
                };
                quote! {
                    #index => {
                        let service = ::core::clone::Clone::clone(&self.service);
                        ::warren_rpc::__private::Box::pin(async move { #body })
                    }
                }
            })
    };
    let (unary, streaming) = (arms(true), arms(false));
    quote! {
        #[allow(unused_variables, deprecated, reason = "not every service has methods of both sorts")]
        impl<#handler: #name> ::warren_rpc::Service for #server<#handler> {
            fn descriptor(&self) -> &'static ::warren_rpc::ServiceDescriptor {
                &#descriptor
            }

            fn unary(
                &self,
                method: usize,
                context: ::warren_rpc::Context,
                request: ::warren_rpc::__private::Bytes,
            ) -> ::warren_rpc::BoxFuture<
                ::core::result::Result<::warren_rpc::__private::Bytes, ::warren_rpc::Failure>,
            > {
                match method {
                    #(#unary)*
                    _ => ::warren_rpc::__private::no_such_method(&#descriptor, method),
                }
            }

            fn streaming(
                &self,
                method: usize,
                context: ::warren_rpc::Context,
                incoming: ::warren_rpc::Incoming,
                outgoing: ::warren_rpc::Outgoing,
            ) -> ::warren_rpc::BoxFuture<::core::result::Result<(), ::warren_rpc::Failure>> {
                match method {
                    #(#streaming)*
                    _ => ::warren_rpc::__private::no_such_method(&#descriptor, method),
                }
            }
        }
    }
}

/// The call of the implementation.
fn call(service: &Service, method: &Method, names: &Names) -> TokenStream {
    let (name, handler) = (&service.item.ident, &names.handler);
    let function = &method.signature.ident;
    quote!(<#handler as #name>::#function(&*service, context, request).await)
}

/// How the implementation's error becomes what the wire takes.
fn to_failure(error: &ErrorType, names: &Names) -> TokenStream {
    match error {
        ErrorType::Status => quote!(::warren_rpc::__private::status_failure),
        ErrorType::Application(error) => names.carry("failure", error),
    }
}

/// A unary method at the server.
fn answer(service: &Service, method: &Method, names: &Names) -> TokenStream {
    let (Takes::One(request), Gives::One { response, error }) = (&method.takes, &method.gives)
    else {
        return TokenStream::new();
    };
    let call = call(service, method, names);
    let to_failure = to_failure(error, names);
    let (decode, encode) = (
        names.carry("decode", request),
        names.carry("encode", response),
    );
    quote! {
        let request = #decode(request)?;
        #encode(::core::result::Result::map_err(#call, #to_failure)?)
    }
}

/// A method of another kind at the server.
fn converse(service: &Service, method: &Method, names: &Names) -> TokenStream {
    let call = call(service, method, names);
    let request = match &method.takes {
        Takes::One(request) => {
            let only = names.carry("only", request);
            quote!(#only(incoming).await?)
        }
        Takes::Stream(item) => {
            let requests = names.carry("requests", item);
            quote!(#requests(incoming))
        }
    };
    let respond = match &method.gives {
        Gives::One { response, error } => {
            let to_failure = to_failure(error, names);
            let encode = names.carry("encode", response);
            quote! {
                let response = #encode(::core::result::Result::map_err(#call, #to_failure)?)?;
                ::core::result::Result::Ok(outgoing.send(response).await?)
            }
        }
        Gives::Stream { item } => {
            let respond = names.carry("respond", item);
            quote!(#respond(#call, outgoing).await)
        }
    };
    quote! {
        let request = #request;
        #respond
    }
}

fn client(service: &Service, names: &Names) -> TokenStream {
    let (visibility, name) = (&service.item.vis, &service.item.ident);
    let Names { client, caller, .. } = names;
    let doc = format!("Calls `{}`, which [`{name}`] describes.", service.name);
    let methods = service
        .methods
        .iter()
        .enumerate()
        .map(|(index, method)| client_method(index, method, visibility, names));
    quote! {
        #[doc = #doc]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #[allow(dead_code, reason = "a server needs no client")]
        #visibility struct #client<#caller> {
            caller: #caller,
        }

        #[allow(dead_code, reason = "a server needs no client")]
        impl<#caller: ::warren_rpc::Caller> #client<#caller> {
            /// Calls through `caller`: a connection or a pool of them.
            #[must_use]
            #visibility const fn new(caller: #caller) -> Self {
                Self { caller }
            }

            #(#methods)*
        }
    }
}

fn client_method(
    index: usize,
    method: &Method,
    visibility: &Visibility,
    names: &Names,
) -> TokenStream {
    let Names {
        descriptor, caller, ..
    } = names;
    let (function, context, request) = (&method.signature.ident, &method.context, &method.request);
    let attributes = method.attributes.iter().filter(|it| is_carried_over(it));
    let doc = client_doc(method);
    let (item, takes) = match &method.takes {
        Takes::One(ty) => (ty, quote!(#ty)),
        Takes::Stream(ty) => {
            let bounds = quote!(::core::marker::Send + 'static);
            let stream = quote!(impl ::warren_rpc::__private::Stream<Item = #ty> + #bounds);
            (ty, stream)
        }
    };
    let helper = |name: &str, response: &Type| {
        let name = Ident::new(name, function.span());
        let (sent, got) = (names.carried(item), names.carried(response));
        quote!(::warren_rpc::__private::#name::<#sent, #got, #caller>)
    };
    let method_of_wire = quote!(&#descriptor.methods[#index]);
    let (output, body) = match &method.gives {
        Gives::One { response, error } => {
            let (output, from_failure) = client_error(response, error, names);
            let call = helper(if method.is_unary() { "unary" } else { "upload" }, response);
            let call = quote!(#call(&self.caller, #method_of_wire, #context, #request).await);
            let body = quote!(::core::result::Result::map_err(#call, #from_failure));
            (output, body)
        }
        Gives::Stream { item: response } => {
            let call = match &method.takes {
                Takes::One(_) => helper("download", response),
                Takes::Stream(_) => helper("exchange", response),
            };
            let body = quote!(#call(&self.caller, #method_of_wire, #context, #request).await);
            let streaming = quote!(::warren_rpc::Streaming<#response>);
            let output = quote!(::core::result::Result<#streaming, ::warren_rpc::Status>);
            (output, body)
        }
    };
    quote_spanned! {function.span()=>
        #(#attributes)*
        #doc
        #visibility async fn #function(
            &self,
            #context: ::warren_rpc::Context,
            #request: #takes,
        ) -> #output {
            #body
        }
    }
}

/// What a call with one response returns, and how a failure becomes its error.
fn client_error(response: &Type, error: &ErrorType, names: &Names) -> (TokenStream, TokenStream) {
    match error {
        ErrorType::Status => (
            quote!(::core::result::Result<#response, ::warren_rpc::Status>),
            quote!(::core::convert::From::from),
        ),
        ErrorType::Application(error) => (
            quote!(::core::result::Result<#response, ::warren_rpc::CallError<#error>>),
            names.carry("call_error", error),
        ),
    }
}

fn is_carried_over(attribute: &Attribute) -> bool {
    attribute.path().is_ident("doc") || attribute.path().is_ident("deprecated")
}

/// What the client's documentation says beside the trait's.
fn client_doc(method: &Method) -> TokenStream {
    let repeatable = if method.options.idempotent {
        "; idempotent"
    } else {
        ""
    };
    let after = if method.attributes.iter().any(|it| it.path().is_ident("doc")) {
        "\n\n"
    } else {
        ""
    };
    let ends = match (&method.takes, &method.gives) {
        (_, Gives::One { .. }) => "Dropping the future cancels the call at the server.",
        (_, Gives::Stream { .. }) => "Dropping the responses cancels the call at the server.",
    };
    let fails = match &method.gives {
        Gives::One {
            error: ErrorType::Application(_),
            ..
        } => "The service's own error, or the status of a call that did not get an answer.",
        Gives::One { .. } => "The status that the service or the machinery gave.",
        Gives::Stream { .. } => {
            "The status of a call that could not be begun; later failures end the stream."
        }
    };
    let doc = format!(
        "{after}Calls `{}`{repeatable}. {ends}\n\n# Errors\n{fails}",
        method.path
    );
    quote!(#[doc = #doc])
}
