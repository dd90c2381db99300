//! `graft generate`: the flags of `mlx_lm.generate`.

use std::ffi::OsString;

use clap::Parser;
use serde::Serialize;

use super::{ParseOutcome, finite, given_flags};
use crate::args::GenerateArgs;
use crate::args::keys::Origins;

/// Generate text with a language model.
#[derive(Parser, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(version, infer_long_args = true, args_override_self = true)]
struct GenerateFlags {
    /// The folder of the model, or the name of a Hugging Face repository [default:
    /// mlx-community/Llama-3.2-3B-Instruct-4bit].
    #[arg(long)]
    model: Option<String>,
    /// Not possible: models are built in.
    #[arg(long)]
    trust_remote_code: bool,
    /// The folder of trained adapters.
    #[arg(long)]
    adapter_path: Option<String>,
    /// More tokens that end the text, as tokens or as ids.
    #[arg(long, num_args = 1..)]
    extra_eos_token: Vec<String>,
    /// The system message of the chat.
    #[arg(long, allow_hyphen_values = true, value_parser = text)]
    system_prompt: Option<String>,
    /// The message to the model, - for standard input [default: hello].
    #[arg(short, long, allow_hyphen_values = true, value_parser = text)]
    prompt: Option<String>,
    /// Not supported: models that see images.
    #[arg(long, num_args = 1..)]
    image: Vec<String>,
    /// The beginning of the answer, which the model goes on from.
    #[arg(long, allow_hyphen_values = true, value_parser = text)]
    prefill_response: Option<String>,
    /// The most tokens to generate [default: 100].
    #[arg(short, long, allow_negative_numbers = true)]
    max_tokens: Option<i64>,
    /// The temperature; 0 takes the likeliest token [default: 0].
    #[arg(long, allow_negative_numbers = true, value_parser = finite)]
    temp: Option<f64>,
    /// Sample from the likeliest tokens that hold this much probability [default: 1].
    #[arg(long, allow_negative_numbers = true, value_parser = finite)]
    top_p: Option<f64>,
    /// Drop tokens less likely than this share of the likeliest [default: 0].
    #[arg(long, allow_negative_numbers = true, value_parser = finite)]
    min_p: Option<f64>,
    /// Sample from this many likeliest tokens, 0 for all [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    top_k: Option<i64>,
    /// The chance that XTC sampling happens at a token [default: 0].
    #[arg(long, allow_negative_numbers = true, value_parser = finite)]
    xtc_probability: Option<f64>,
    /// The probability above which XTC drops a token [default: 0.1].
    #[arg(long, allow_negative_numbers = true, value_parser = finite)]
    xtc_threshold: Option<f64>,
    /// How many tokens --min-p leaves at least [default: 1].
    #[arg(long, allow_negative_numbers = true)]
    min_tokens_to_keep: Option<i64>,
    /// The seed of sampling.
    #[arg(long)]
    seed: Option<u64>,
    /// Give the prompt to the model as it is.
    #[arg(long)]
    ignore_chat_template: bool,
    /// Accepted and without effect, as upstream: transformers dropped default templates.
    #[arg(long)]
    use_default_chat_template: bool,
    /// Further variables of the chat template, as a JSON object.
    #[arg(long)]
    chat_template_config: Option<String>,
    /// Print speeds and memory too; F or False prints only the text [default: True].
    #[arg(long)]
    verbose: Option<String>,
    /// The most tokens whose keys and values are held; the first four always are.
    #[arg(long, allow_negative_numbers = true)]
    max_kv_size: Option<i64>,
    /// How many tokens of the prompt are processed at a time [default: 2048].
    #[arg(long, allow_negative_numbers = true)]
    prefill_step_size: Option<i64>,
    /// Not supported: saved prompt caches.
    #[arg(long)]
    prompt_cache_file: Option<String>,
    /// Not supported: quantized activations.
    #[arg(long)]
    quantize_activations: bool,
    /// Hold keys and values in so many bits: 2, 3, 4, 5, 6 or 8.
    #[arg(long, allow_negative_numbers = true)]
    kv_bits: Option<i64>,
    /// Elements that share a scale, with --kv-bits: 32, 64 or 128 [default: 64].
    #[arg(long, allow_negative_numbers = true)]
    kv_group_size: Option<i64>,
    /// The number of tokens from which on --kv-bits holds [default: 5000].
    #[arg(long, allow_negative_numbers = true)]
    quantized_kv_start: Option<i64>,
    /// Not supported: speculative decoding.
    #[arg(long)]
    draft_model: Option<String>,
    /// Not supported: speculative decoding.
    #[arg(long, allow_negative_numbers = true)]
    num_draft_tokens: Option<i64>,
}

/// A text that may begin with a hyphen, unless it looks like the next flag.
fn text(value: &str) -> Result<String, String> {
    let hyphen = value.len() > 1 && value.starts_with('-');
    if hyphen && !value.contains(char::is_whitespace) && value.parse::<f64>().is_err() {
        return Err("the text is missing: this is read as the next flag".to_owned());
    }
    Ok(value.to_owned())
}

/// Reads the command line of generation; `argv[0]` is the command's name in help and errors.
pub fn parse_generate(argv: &[OsString]) -> ParseOutcome<GenerateArgs> {
    // argparse knows short flags of two letters.
    let argv: Vec<OsString> = argv
        .iter()
        .map(|arg| if arg == "-qa" { "--quantize-activations".into() } else { arg.clone() })
        .collect();
    match given_flags::<GenerateFlags>(&argv) {
        Ok(flags) => {
            let origins = Origins { file: None, flags: flags.keys().cloned().collect() };
            GenerateArgs::read(flags, &origins).into()
        }
        Err((text, code)) => ParseOutcome::Exit { text, code },
    }
}
