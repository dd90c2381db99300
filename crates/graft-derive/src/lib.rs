//! The derive macro `Module` of `graft-lm`: every field of a struct of layers is visited under its
//! own name, so that field names are weight names and none can be forgotten.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Fields, parse_macro_input};

/// Implements `Module` for a struct with named fields by visiting each field in order.
///
/// A field that holds no weights says `#[module(skip)]`.
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|e| e.to_compile_error()).into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let fields = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => &fields.named,
            other => return Err(syn::Error::new_spanned(other, "Module needs named fields")),
        },
        _ => return Err(syn::Error::new_spanned(input, "Module needs a struct")),
    };
    let mut visits = Vec::new();
    for field in fields {
        let mut skip = false;
        for attr in field.attrs.iter().filter(|attr| attr.path().is_ident("module")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("skip") {
                    skip = true;
                    Ok(())
                } else {
                    Err(meta.error("the only option is `skip`"))
                }
            })?;
        }
        if !skip {
            let name = field.ident.as_ref().expect("a named field");
            // A weight may be named like a keyword: `r#type`.
            let text = name.unraw().to_string();
            visits.push(quote! {
                crate::nn::visit_child(&self.#name, path, #text, visitor);
            });
        }
    }
    let name = &input.ident;
    let (generics, types, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics crate::nn::Module for #name #types #bounds {
            fn visit(&self, path: &mut String, visitor: &mut dyn crate::nn::Visitor) {
                #(#visits)*
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_weight_may_be_named_like_a_keyword() {
        let layer = syn::parse_quote! { struct Layer { r#type: Array } };
        let code = super::expand(&layer).expect("a struct with named fields").to_string();
        assert!(code.contains("\"type\"") && !code.contains("\"r#type\""), "{code}");
    }
}
