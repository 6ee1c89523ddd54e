//! The attribute that turns a trait into a service: its server, its client and its descriptor.
//!
//! Owns: what a service trait may look like, and the code that is written for it. Never does: anything at run time; what
//! the written code calls is in `warren-rpc`, and so is the documentation of the attribute for its users.
//!
//! Start reading at `definition.rs` for the rules, then `write.rs` for what comes out.

mod definition;
mod options;
mod write;

use proc_macro2::TokenStream;

/// Writes the server, the client and the descriptor of a service.
#[proc_macro_attribute]
pub fn service(
    options: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    expand(options.into(), item.into())
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}

/// The trait and what belongs to it, or everything that is wrong with it.
fn expand(options: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let options = options::Options::parse(options)?;
    let definition = definition::Service::read(options, item)?;
    Ok(write::service(&definition))
}

#[cfg(test)]
mod tests;
