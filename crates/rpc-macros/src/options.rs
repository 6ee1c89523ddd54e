//! What stands in parentheses: `#[service(package = "…", codec = …)]` and `#[rpc(…)]`.

use proc_macro2::{Ident, TokenStream};
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::{Attribute, LitStr};

/// How messages become bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Codec {
    #[default]
    Postcard,
    Prost,
}

/// What is said of the whole service.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) package: Option<String>,
    pub(crate) codec: Codec,
}

impl Options {
    pub(crate) fn parse(tokens: TokenStream) -> syn::Result<Self> {
        let mut options = Self::default();
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("package") {
                options.package = Some(dotted_name(&meta)?);
            } else if meta.path.is_ident("codec") {
                options.codec = codec(&meta)?;
            } else {
                return Err(
                    meta.error("unknown option; there are `package = \"…\"` and `codec = …`")
                );
            }
            Ok(())
        });
        parser.parse2(tokens)?;
        Ok(options)
    }
}

fn codec(meta: &ParseNestedMeta<'_>) -> syn::Result<Codec> {
    let name: Ident = meta.value()?.parse()?;
    match name.to_string().as_str() {
        "postcard" => Ok(Codec::Postcard),
        "prost" => Ok(Codec::Prost),
        _ => Err(syn::Error::new(
            name.span(),
            "unknown codec; there are `postcard` (serde types) and `prost` (protobuf types)",
        )),
    }
}

/// What is said of one method.
#[derive(Debug, Default)]
pub(crate) struct MethodOptions {
    pub(crate) name: Option<String>,
    pub(crate) idempotent: bool,
    pub(crate) permission: Option<String>,
}

impl MethodOptions {
    /// Takes the `#[rpc(…)]` attributes out of `attributes` and reads them.
    pub(crate) fn take(attributes: &mut Vec<Attribute>) -> syn::Result<Self> {
        let mut options = Self::default();
        let ours: Vec<_> = attributes
            .extract_if(.., |attribute| attribute.path().is_ident("rpc"))
            .collect();
        for attribute in ours {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("idempotent") {
                    options.idempotent = true;
                } else if meta.path.is_ident("permission") {
                    options.permission = Some(permission(&meta)?);
                } else if meta.path.is_ident("name") {
                    options.name = Some(simple_name(&meta)?);
                } else {
                    return Err(meta.error(
                        "unknown option; there are `idempotent`, `permission = \"…\"` and `name = \"…\"`",
                    ));
                }
                Ok(())
            })?;
        }
        Ok(options)
    }
}

fn permission(meta: &ParseNestedMeta<'_>) -> syn::Result<String> {
    let text: LitStr = meta.value()?.parse()?;
    let value = text.value();
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "a permission is visible ASCII without spaces, e.g. `compute:execute`";
        return Err(syn::Error::new(text.span(), message));
    }
    Ok(value)
}

fn simple_name(meta: &ParseNestedMeta<'_>) -> syn::Result<String> {
    let text: LitStr = meta.value()?.parse()?;
    if !is_name(&text.value()) {
        let message = "a method's name is ASCII letters, digits and `_`, a letter first";
        return Err(syn::Error::new(text.span(), message));
    }
    Ok(text.value())
}

fn dotted_name(meta: &ParseNestedMeta<'_>) -> syn::Result<String> {
    let text: LitStr = meta.value()?.parse()?;
    if !text.value().split('.').all(is_name) {
        let message = "a package is names with dots between them, e.g. `calculator.v1`";
        return Err(syn::Error::new(text.span(), message));
    }
    Ok(text.value())
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
