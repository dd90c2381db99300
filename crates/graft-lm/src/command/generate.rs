//! Generation from a command line.

use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use mlx_graft::memory;
use serde_json::{Value, json};

use super::{Resolve, check_interrupted};
use crate::adapters::load_adapters;
use crate::args::GenerateArgs;
use crate::chat_template::ChatOptions;
use crate::generate::{GenerateOptions, Generation, SamplerOptions};
use crate::lora::KeySequence;
use crate::models::Model;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Generates as the flags say and writes the text to `out` as it comes.
///
/// # Errors
/// Everything that a user can get wrong, with the file and the remedy.
pub fn run_generate(
    args: &GenerateArgs,
    resolve: Resolve,
    out: &mut dyn Write,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<()> {
    let folder = resolve(&args.model)?;
    let mut tokenizer = Tokenizer::load(&folder)?;
    for token in &args.extra_eos_token {
        tokenizer.add_eos_token(token)?;
    }
    let model = Rc::new(Model::load(&folder)?);
    if let Some(adapters) = &args.adapter_path {
        load_adapters(&model, adapters)?;
    }
    let prompt = prompt_tokens(args, &tokenizer)?;
    let options = GenerateOptions {
        max_tokens: u64::try_from(args.max_tokens).ok(),
        sampler: SamplerOptions {
            temp: args.temp as f32,
            top_p: args.top_p as f32,
            min_p: args.min_p as f32,
            min_tokens_to_keep: i32::try_from(args.min_tokens_to_keep).unwrap_or(i32::MAX),
            top_k: i32::try_from(args.top_k).unwrap_or(i32::MAX),
            xtc_probability: args.xtc_probability as f32,
            xtc_threshold: args.xtc_threshold as f32,
        },
        prefill_step_size: args.prefill_step_size,
        max_kv_size: args.max_kv_size,
        kv_quantization: args.kv_quantization,
        eos_token_ids: tokenizer.eos_token_ids().clone(),
        ignore_eos: false,
        newline_tokens: tokenizer.encode("\n", false)?,
    };
    let seed = args.seed.unwrap_or_else(time_seed);
    let mut write = |text: &str| {
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::io("standard output"))
    };
    if args.verbose {
        write("==========\n")?;
    }
    let keys = KeySequence::new(seed)?;
    let mut last = None;
    check_interrupted(interrupted)?;
    let tokenizer = Arc::new(tokenizer);
    for token in Generation::new(model, tokenizer, &prompt, options, keys, interrupted)? {
        let token = token?;
        write(&token.text)?;
        last = Some(token);
        if interrupted() {
            write("\n")?;
            return Err(Error::Interrupted("stopped".into()));
        }
    }
    write("\n")?;
    if args.verbose {
        write("==========\n")?;
        match last {
            None => write("No text generated for this prompt\n")?,
            Some(last) => write(&format!(
                "Prompt: {} tokens, {:.3} tokens-per-sec\n\
                 Generation: {} tokens, {:.3} tokens-per-sec\n\
                 Peak memory: {:.3} GB\n",
                last.prompt_tokens,
                last.prompt_tps,
                last.generation_tokens,
                last.generation_tps,
                memory::peak()? as f64 / 1e9,
            ))?,
        }
    }
    Ok(())
}

/// The tokens of the prompt that the flags describe, through the chat template if there is one.
///
/// # Errors
/// [`Error::Usage`] if the template refuses the messages or standard input is not text.
pub fn prompt_tokens(args: &GenerateArgs, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut prompt = args.prompt.clone();
    if prompt == "-" {
        prompt.clear();
        std::io::stdin()
            .read_to_string(&mut prompt)
            .map_err(|e| Error::Usage(format!("--prompt -: standard input: {e}")))?;
    }
    if args.ignore_chat_template || tokenizer.chat_template().is_none() {
        return tokenizer.encode(&prompt, true);
    }
    let mut messages: Vec<Value> = Vec::new();
    if let Some(system) = &args.system_prompt {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": prompt}));
    let prefill = args.prefill_response.as_ref();
    if let Some(prefill) = prefill {
        messages.push(json!({"role": "assistant", "content": prefill}));
    }
    let options = ChatOptions {
        add_generation_prompt: prefill.is_none(),
        continue_final_message: prefill.is_some(),
        variables: args.chat_template_config.clone(),
        ..ChatOptions::default()
    };
    tokenizer.encode_chat(&Value::Array(messages), &options)
}

/// A seed that differs from run to run.
fn time_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_nanos() as u64)
}
