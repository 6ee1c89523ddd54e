//! What a service trait says: read once, with every rule it breaks told at its place.

use std::collections::BTreeSet;

use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{
    Attribute, Error, FnArg, GenericArgument, ItemTrait, Pat, PatType, PathArguments, PathSegment,
    ReturnType, Signature, TraitItem, TraitItemFn, Type, TypeParamBound,
};

use crate::options::{Codec, MethodOptions, Options};

/// The longest path that the wire takes, in bytes.
const MAX_PATH_BYTES: usize = 255;

/// A service.
pub(crate) struct Service {
    /// The trait as it was written, without its items.
    pub(crate) item: ItemTrait,
    pub(crate) codec: Codec,
    /// Package and name.
    pub(crate) name: String,
    pub(crate) methods: Vec<Method>,
}

/// One of its methods.
pub(crate) struct Method {
    /// All but `#[rpc]`.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) signature: Signature,
    pub(crate) options: MethodOptions,
    /// `service/method`.
    pub(crate) path: String,
    /// What the arguments are called at the client.
    pub(crate) context: Ident,
    pub(crate) request: Ident,
    pub(crate) takes: Takes,
    pub(crate) gives: Gives,
}

/// What a method takes.
pub(crate) enum Takes {
    One(Type),
    /// `Streaming<…>`.
    Stream(Type),
}

/// What a method gives.
pub(crate) enum Gives {
    One {
        response: Type,
        error: ErrorType,
    },
    /// `impl Stream<Item = Result<…, Status>>`.
    Stream {
        item: Type,
    },
}

/// How a method fails.
pub(crate) enum ErrorType {
    /// As the machinery does: a type that is called `Status`.
    Status,
    Application(Box<Type>),
}

impl Service {
    pub(crate) fn read(options: Options, tokens: TokenStream) -> syn::Result<Self> {
        let mut item: ItemTrait = syn::parse2(tokens).map_err(|error| {
            let message = format!("`service` goes on a trait: {error}");
            Error::new(error.span(), message)
        })?;
        let mut problems = Problems::default();
        problems.note(check_trait(&item));
        let name = match &options.package {
            Some(package) => format!("{package}.{}", item.ident.unraw()),
            None => item.ident.unraw().to_string(),
        };
        let mut methods = Vec::new();
        for item in std::mem::take(&mut item.items) {
            match item {
                TraitItem::Fn(method) => methods.extend(problems.note(Method::read(&name, method))),
                other => {
                    let message = "a service has methods only";
                    problems.note::<()>(Err(Error::new_spanned(other, message)));
                }
            }
        }
        problems.note(check_paths(&methods));
        problems.end()?;
        Ok(Self {
            item,
            codec: options.codec,
            name,
            methods,
        })
    }
}

fn check_trait(item: &ItemTrait) -> syn::Result<()> {
    if !item.generics.params.is_empty() || item.generics.where_clause.is_some() {
        let message =
            "a service cannot be generic: its name and its messages are fixed on the wire";
        return Err(Error::new(item.ident.span(), message));
    }
    if let Some(token) = &item.unsafety {
        return Err(Error::new_spanned(token, "a service cannot be unsafe"));
    }
    Ok(())
}

/// Two methods of one path: the second would never be called.
fn check_paths(methods: &[Method]) -> syn::Result<()> {
    let mut known = BTreeSet::new();
    for method in methods {
        let span = method.signature.ident.span();
        if !known.insert(&method.path) {
            let message = format!("another method is `{}` on the wire already", method.path);
            return Err(Error::new(span, message));
        }
        if method.path.len() > MAX_PATH_BYTES {
            let message = format!("a method's path is at most {MAX_PATH_BYTES} bytes long");
            return Err(Error::new(span, message));
        }
    }
    Ok(())
}

impl Method {
    fn read(service: &str, item: TraitItemFn) -> syn::Result<Self> {
        let mut attributes = item.attrs;
        let signature = item.sig;
        let options = MethodOptions::take(&mut attributes)?;
        let conditional = |attribute: &&Attribute| attribute.path().is_ident("cfg");
        if let Some(attribute) = attributes.iter().find(conditional) {
            let message = "a method cannot be conditional: both ends must know the same ones";
            return Err(Error::new_spanned(attribute, message));
        }
        if let Some(body) = &item.default {
            let message = "a method has no body here; write it where the service is implemented";
            return Err(Error::new_spanned(body, message));
        }
        check_signature(&signature)?;
        let (context, request) = arguments(&signature)?;
        let takes = Takes::read(request)?;
        let gives = Gives::read(&signature)?;
        let name = options.name.clone();
        let name = name.unwrap_or_else(|| upper_camel(&signature.ident));
        Ok(Self {
            path: format!("{service}/{name}"),
            context: argument_name(context, "context"),
            request: argument_name(request, "request"),
            attributes,
            signature,
            options,
            takes,
            gives,
        })
    }
}

fn check_signature(signature: &Signature) -> syn::Result<()> {
    let name = &signature.ident;
    if signature.asyncness.is_none() {
        let message = format!("`{name}` must be an `async fn`");
        return Err(Error::new_spanned(signature.fn_token, message));
    }
    if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
        let message = format!("`{name}` cannot be generic: its messages are fixed on the wire");
        return Err(Error::new(name.span(), message));
    }
    if signature.unsafety.is_some() || signature.abi.is_some() || signature.variadic.is_some() {
        let message = format!("`{name}` must be a plain `async fn`");
        return Err(Error::new(name.span(), message));
    }
    if name == "new" {
        let message = "the client has a function `new` itself; name the method otherwise and say \
            `#[rpc(name = \"New\")]` if it must be that on the wire";
        return Err(Error::new(name.span(), message));
    }
    let by_reference = signature.receiver().is_some_and(|receiver| {
        receiver.reference.is_some()
            && receiver.mutability.is_none()
            && receiver.colon_token.is_none()
    });
    if !by_reference {
        let message = format!("`{name}` must take `&self` first: calls run side by side");
        return Err(match signature.receiver() {
            Some(receiver) => Error::new_spanned(receiver, message),
            None => Error::new_spanned(name, message),
        });
    }
    Ok(())
}

/// The context and the request.
fn arguments(signature: &Signature) -> syn::Result<(&PatType, &PatType)> {
    let name = &signature.ident;
    let mut arguments = signature
        .inputs
        .iter()
        .filter_map(|argument| match argument {
            FnArg::Typed(argument) => Some(argument),
            FnArg::Receiver(_) => None,
        });
    let context = arguments.next();
    let is_context =
        |argument: &&PatType| last_segment(&argument.ty).is_some_and(|it| it.ident == "Context");
    let Some(context) = context.filter(is_context) else {
        let message = format!("`{name}` must take the context after `&self`: `ctx: Context`");
        return Err(match context {
            Some(other) => Error::new_spanned(other, message),
            None => Error::new_spanned(name, message),
        });
    };
    let Some(request) = arguments.next() else {
        let message =
            format!("`{name}` takes no request; write `request: ()` if there is nothing to say");
        return Err(Error::new(name.span(), message));
    };
    if let Some(second) = arguments.next() {
        let message = format!(
            "`{name}` takes more than one request; put what it needs into one struct, so that fields can be added"
        );
        return Err(Error::new_spanned(second, message));
    }
    Ok((context, request))
}

impl Takes {
    fn read(argument: &PatType) -> syn::Result<Self> {
        let ty = &*argument.ty;
        match ty {
            Type::ImplTrait(_) => Err(Error::new_spanned(
                ty,
                "a request has one type; a stream of them is `Streaming<…>`",
            )),
            Type::Reference(_) => Err(Error::new_spanned(
                ty,
                "a request is owned: it comes from another machine",
            )),
            _ => match last_segment(ty).filter(|segment| segment.ident == "Streaming") {
                None => Ok(Self::One(ty.clone())),
                Some(segment) => match &types_of(segment)[..] {
                    [item] => Ok(Self::Stream((*item).clone())),
                    _ => Err(Error::new_spanned(
                        ty,
                        "say what it streams: `Streaming<Message>`",
                    )),
                },
            },
        }
    }
}

impl Gives {
    fn read(signature: &Signature) -> syn::Result<Self> {
        let unsupported = |place: &dyn ToTokens| {
            let message = format!(
                "`{}` must return `Result<Response, Error>` or `impl Stream<Item = Result<Response, Status>>`",
                signature.ident
            );
            Error::new_spanned(place, message)
        };
        let ReturnType::Type(_, ty) = &signature.output else {
            return Err(unsupported(&signature.ident));
        };
        if let Type::ImplTrait(promise) = &**ty {
            let item = promise.bounds.iter().find_map(stream_item);
            let item = item.ok_or_else(|| unsupported(ty))?;
            let (response, error) = result_of(item).ok_or_else(|| unsupported(item))?;
            if !is_status(error) {
                let message = "what a stream yields fails with `Status`";
                return Err(Error::new_spanned(error, message));
            }
            return Ok(Self::Stream {
                item: response.clone(),
            });
        }
        let (response, error) = result_of(ty).ok_or_else(|| unsupported(ty))?;
        if let Type::ImplTrait(_) = response {
            let message = "a method that streams returns `impl Stream<Item = Result<Response, Status>>`; \
                a refusal is its first item";
            return Err(Error::new_spanned(response, message));
        }
        let error = if is_status(error) {
            ErrorType::Status
        } else {
            ErrorType::Application(Box::new(error.clone()))
        };
        Ok(Self::One {
            response: response.clone(),
            error,
        })
    }
}

/// `Item` of `Stream<Item = …>`.
fn stream_item(bound: &TypeParamBound) -> Option<&Type> {
    let TypeParamBound::Trait(bound) = bound else {
        return None;
    };
    let segment = bound.path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(item) if segment.ident == "Stream" && item.ident == "Item" => {
            Some(&item.ty)
        }
        _ => None,
    })
}

/// Both types of `Result<…, …>`.
fn result_of(ty: &Type) -> Option<(&Type, &Type)> {
    let segment = last_segment(ty).filter(|segment| segment.ident == "Result")?;
    match types_of(segment)[..] {
        [response, error] => Some((response, error)),
        _ => None,
    }
}

fn is_status(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|segment| segment.ident == "Status")
}

fn types_of(segment: &PathSegment) -> Vec<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return Vec::new();
    };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(path) => path.path.segments.last(),
        // What `macro_rules` puts around the types it passes on.
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

fn argument_name(argument: &PatType, otherwise: &str) -> Ident {
    match &*argument.pat {
        Pat::Ident(pattern) if !pattern.ident.to_string().starts_with('_') => pattern.ident.clone(),
        _ => Ident::new(otherwise, Span::mixed_site()),
    }
}

/// gRPC's convention, whatever the codec: `add_two` is `AddTwo` on the wire.
fn upper_camel(name: &Ident) -> String {
    let name = name.unraw().to_string();
    let mut camel = String::with_capacity(name.len());
    for word in name.split('_') {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

/// Everything that is wrong, so that nobody mends one thing at a time.
#[derive(Default)]
struct Problems(Option<Error>);

impl Problems {
    /// The value, or nothing and its problem noted.
    fn note<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        match (result, &mut self.0) {
            (Ok(value), _) => return Some(value),
            (Err(error), Some(all)) => all.combine(error),
            (Err(error), none) => *none = Some(error),
        }
        None
    }

    fn end(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
