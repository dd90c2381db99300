//! The raw declarations of `mlx-c-sys`, made by bindgen from the C headers.
//!
//! The result must be the same on every machine, so no header of the system is read: the little
//! that the headers of mlx-c want of the C library is declared here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use syn::{
    Attribute, Expr, ExprLit, ForeignItem, Item, ItemForeignMod, Lit, Meta, MetaNameValue,
    parse_quote,
};

use crate::FIRST_LINE;

/// The C library as far as the headers use it. Half-precision numbers are their bits.
const C_LIBRARY: &[(&str, &str)] = &[
    ("arm_bf16.h", "#define __bf16 uint16_t\n"),
    ("arm_fp16.h", "#include <stdint.h>\n#define __fp16 uint16_t\n"),
    ("complex.h", ""),
    ("float.h", ""),
    ("stdbool.h", "#define bool _Bool\n"),
    ("stddef.h", "typedef __SIZE_TYPE__ size_t;\n"),
    (
        "stdint.h",
        "typedef __UINTPTR_TYPE__ uintptr_t;\n\
         typedef __INT8_TYPE__ int8_t;\ntypedef __INT16_TYPE__ int16_t;\n\
         typedef __INT32_TYPE__ int32_t;\ntypedef __INT64_TYPE__ int64_t;\n\
         typedef __UINT8_TYPE__ uint8_t;\ntypedef __UINT16_TYPE__ uint16_t;\n\
         typedef __UINT32_TYPE__ uint32_t;\ntypedef __UINT64_TYPE__ uint64_t;\n",
    ),
    ("stdio.h", "#include <stddef.h>\ntypedef struct FILE FILE;\n"),
    ("stdlib.h", "#include <stddef.h>\n"),
];

/// The platforms whose declarations are compared. The first has nothing that the others lack; on
/// arm64 there are accessors of half-precision numbers too.
const TARGETS: [&str; 3] =
    ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin"];

/// The text of `bindings.rs`, before rustfmt.
pub fn generate(root: &Path, source: &Path) -> Result<String> {
    let library = root.join("target/xtask/include");
    std::fs::create_dir_all(&library)
        .with_context(|| format!("cannot make {}", library.display()))?;
    for (name, text) in C_LIBRARY {
        let guarded = format!("#pragma once\n{text}");
        std::fs::write(library.join(name), guarded).with_context(|| format!("writing {name}"))?;
    }
    let mut headers = headers(&source.join("mlx/c"))?;
    headers.extend(self::headers(&root.join("mlx-c/ext"))?);

    let [x86, arm_linux, arm_mac] =
        TARGETS.map(|target| declare(target, &library, source, &headers));
    let (x86, arm) = (x86?, arm_linux?);
    if arm != arm_mac? {
        bail!("the headers declare different things for {} and {}", TARGETS[1], TARGETS[2]);
    }
    Ok(format!(
        "// {FIRST_LINE} the headers of mlx-c and mlx-c/ext\n\n{}",
        prettyplease::unparse(&merge(&x86, arm)?)
    ))
}

/// The headers in a folder, by name.
pub fn headers(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut headers: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"))
        .collect();
    headers.sort();
    Ok(headers)
}

/// The declarations for one platform.
fn declare(target: &str, library: &Path, source: &Path, headers: &[PathBuf]) -> Result<syn::File> {
    let includes: Vec<String> =
        headers.iter().map(|header| format!("#include \"{}\"", header.display())).collect();
    let rust = bindgen::RustTarget::stable(85, 0).map_err(|e| anyhow!("{e}"))?;
    let bindings = bindgen::Builder::default()
        .rust_target(rust)
        .header_contents("mlx_c.h", &(includes.join("\n") + "\n"))
        .clang_args(["-x", "c", "-std=c17", "-nostdinc", "-target", target])
        .clang_args([format!("-isystem{}", library.display()), format!("-I{}", source.display())])
        .allowlist_function("mlx_.*|_mlx_.*|graft_.*")
        .allowlist_type("mlx_.*|graft_.*")
        // A constant with internal linkage: `mlx_array { ctx: null }` says the same.
        .blocklist_var("mlx_array_empty")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(false)
        .merge_extern_blocks(true)
        .use_core()
        .ctypes_prefix("core::ffi")
        .disable_header_comment()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .formatter(bindgen::Formatter::None)
        .generate()
        .with_context(|| format!("reading the headers for {target}"))?;
    let mut file = syn::parse_file(&bindings.to_string())
        .with_context(|| format!("the declarations for {target} are not Rust"))?;
    for item in &mut file.items {
        match item {
            Item::ForeignMod(block) => {
                for item in &mut block.items {
                    if let ForeignItem::Fn(function) = item {
                        one_line_per_doc(&mut function.attrs);
                    }
                }
            }
            Item::Struct(item) => one_line_per_doc(&mut item.attrs),
            Item::Type(item) => one_line_per_doc(&mut item.attrs),
            _ => {}
        }
    }
    Ok(file)
}

/// Splits a comment of several lines, so that it is printed with `///`.
fn one_line_per_doc(attributes: &mut Vec<Attribute>) {
    *attributes = std::mem::take(attributes)
        .into_iter()
        .flat_map(|attribute| match doc(&attribute) {
            Some(text) => text.lines().map(|line| parse_quote!(#[doc = #line])).collect(),
            None => vec![attribute],
        })
        .collect();
}

fn doc(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(MetaNameValue {
            path,
            value: Expr::Lit(ExprLit { lit: Lit::Str(text), .. }),
            ..
        }) if path.is_ident("doc") => Some(text.value()),
        _ => None,
    }
}

/// One file for all platforms: what only arm64 declares is marked so.
fn merge(x86: &syn::File, mut arm: syn::File) -> Result<syn::File> {
    let common = foreign_items(&x86.items);
    for item in &mut arm.items {
        match item {
            Item::ForeignMod(block) => {
                for item in &mut block.items {
                    if !common.contains(&&*item) {
                        let ForeignItem::Fn(function) = item else {
                            bail!("only functions may differ between platforms");
                        };
                        function.attrs.push(parse_quote!(#[cfg(target_arch = "aarch64")]));
                    }
                }
            }
            item if !x86.items.contains(item) => {
                let Item::Type(alias) = item else {
                    bail!("only functions and type aliases may differ between platforms");
                };
                alias.attrs.push(parse_quote!(#[cfg(target_arch = "aarch64")]));
            }
            _ => {}
        }
    }
    let all = foreign_items(&arm.items).len();
    if x86
        .items
        .iter()
        .any(|item| !matches!(item, Item::ForeignMod(_)) && !arm.items.contains(item))
        || all < common.len()
    {
        bail!("the headers declare something on x86-64 that arm64 lacks");
    }
    Ok(arm)
}

fn foreign_items(items: &[Item]) -> Vec<&ForeignItem> {
    let blocks = items.iter().filter_map(|item| match item {
        Item::ForeignMod(ItemForeignMod { items, .. }) => Some(items),
        _ => None,
    });
    blocks.flatten().collect()
}
