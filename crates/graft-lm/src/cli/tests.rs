use std::ffi::OsString;
use std::path::Path;

use super::{ParseOutcome, parse_generate, parse_train};
use crate::args::{FineTuneType, GenerateArgs, OptimizerKind, TrainArgs};
use crate::models::KvQuantization;

fn argv(line: &[&str]) -> Vec<OsString> {
    std::iter::once("graft-train").chain(line.iter().copied()).map(OsString::from).collect()
}

fn train(line: &[&str]) -> TrainArgs {
    match parse_train(&argv(line)) {
        ParseOutcome::Run(args) => args,
        ParseOutcome::Exit { text, .. } => panic!("{text}"),
    }
}

fn train_exit(line: &[&str]) -> (String, i32) {
    match parse_train(&argv(line)) {
        ParseOutcome::Run(args) => panic!("{args:?}"),
        ParseOutcome::Exit { text, code } => (text, code),
    }
}

fn generate(line: &[&str]) -> GenerateArgs {
    match parse_generate(&argv(line)) {
        ParseOutcome::Run(args) => args,
        ParseOutcome::Exit { text, .. } => panic!("{text}"),
    }
}

fn generate_exit(line: &[&str]) -> (String, i32) {
    match parse_generate(&argv(line)) {
        ParseOutcome::Run(args) => panic!("{args:?}"),
        ParseOutcome::Exit { text, code } => (text, code),
    }
}

fn yaml(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path.to_string_lossy().into_owned())
}

#[test]
fn defaults_are_mlx_lms() {
    let args = train(&["--train"]);
    let found = serde_json::to_value(&args).unwrap();
    // CONFIG_DEFAULTS of mlx_lm 0.32.2, less `report_to` and `trust_remote_code`.
    let wanted = serde_json::json!({
        "model": "Qwen/Qwen3-0.6b", "train": true, "fine_tune_type": "lora", "optimizer": "adam",
        "optimizer_config": {"adam": {}, "adamw": {}, "muon": {}, "sgd": {}, "adafactor": {}},
        "data": "mlx-community/WikiSQL", "seed": 0, "num_layers": 16, "batch_size": 4,
        "iters": 1000, "val_batches": 25, "learning_rate": 1e-5, "steps_per_report": 10,
        "steps_per_eval": 200, "resume_adapter_file": null, "adapter_path": "adapters",
        "save_every": 100, "test": false, "test_batches": 500, "max_seq_length": 2048,
        "config": null, "grad_checkpoint": false, "grad_accumulation_steps": 1,
        "clear_cache_threshold": 0, "lr_schedule": null,
        "lora_parameters": {"rank": 8, "dropout": 0.0, "scale": 20.0},
        "mask_prompt": false, "project_name": null
    });
    assert_eq!(found, wanted);
}

#[test]
fn flags_win_over_yaml_which_wins_over_defaults() {
    let (_folder, path) = yaml(
        "train: true\niters: 7\nlearning_rate: 1e-4\noptimizer: adamw\noptimizer_config:\n  \
         adamw:\n    weight_decay: 0.1\n    betas: [0.9, 0.98]\nlora_parameters:\n  rank: 4\n  \
         keys: [\"self_attn.q_proj\"]\nlr_schedule:\n  name: cosine_decay\n  warmup: 10\n  \
         arguments: [1e-5, 1000, 1e-7]\nresume_adapter_file: null\nmemory_limit: 2GB\n",
    );
    let args = train(&["-c", &path, "--iters", "3", "--num-layers", "-1"]);
    assert_eq!((args.iters, args.num_layers, args.batch_size), (3, -1, 4));
    assert!((args.learning_rate - 1e-4).abs() < 1e-12);
    let options = args.optimizer_options().unwrap();
    assert_eq!(options.kind, OptimizerKind::AdamW);
    assert_eq!((options.betas, options.weight_decay), ([0.9, 0.98], 0.1));
    let lora = &args.lora_parameters;
    assert_eq!((lora.rank, lora.scale), (4, 20.0));
    assert_eq!(lora.keys.as_deref(), Some(&["self_attn.q_proj".to_owned()][..]));
    assert_eq!(args.lr_schedule.unwrap().warmup, 10);
    assert_eq!(args.memory_limit, Some(2_000_000_000));
}

#[test]
fn prefixes_repeats_and_equals_signs_work_as_in_argparse() {
    let args = train(&["--train", "--iter", "3", "--iters=5", "--learning-rate", "1e-3"]);
    assert_eq!(args.iters, 5);
    assert!((args.learning_rate - 1e-3).abs() < 1e-12);
    assert_eq!(train(&["--test", "--fine-tune-type", "full"]).fine_tune_type, FineTuneType::Full);
}

#[test]
fn a_misspelt_flag_names_the_nearest() {
    let (text, code) = train_exit(&["--train", "--batch-sice", "3"]);
    assert_eq!(code, 2);
    assert!(text.contains("'--batch-sice'") && text.contains("'--batch-size'"), "{text}");
}

#[test]
fn misspelt_yaml_keys_name_the_nearest_and_the_line() {
    let (_folder, path) = yaml("train: true\nlearning_rat: 1e-4\n");
    let (text, code) = train_exit(&["-c", &path]);
    let wanted =
        format!("error: {path}:2: `learning_rat`: unknown key; did you mean `learning_rate`?\n");
    assert_eq!((text, code), (wanted, 2));
    let (_folder, path) = yaml("train: true\nlora_parameters:\n  rank: 8\n  droput: 0.1\n");
    let (text, _) = train_exit(&["-c", &path]);
    assert!(text.ends_with(
        "lora.yaml:4: `lora_parameters.droput`: unknown key; did you mean `dropout`?\n"
    ));
    let (_folder, path) = yaml("train: true\noptimizer_config:\n  adam:\n    beta: [0.9, 0.9]\n");
    let (text, _) = train_exit(&["-c", &path]);
    assert!(text.ends_with("`optimizer_config.adam.beta`: unknown key; did you mean `betas`?\n"));
}

#[test]
fn alpha_is_told_to_be_scale() {
    let (_folder, path) = yaml("train: true\nlora_parameters:\n  rank: 8\n  alpha: 16\n");
    let (text, _) = train_exit(&["-c", &path]);
    assert!(text.contains("lora.yaml:4: `lora_parameters.alpha`: "), "{text}");
    assert!(text.contains("use `scale`"), "{text}");
}

#[test]
fn wrong_types_and_ranges_name_key_found_and_wanted() {
    let (_folder, path) = yaml("train: true\niters: \"ten\"\n");
    let (text, _) = train_exit(&["-c", &path]);
    assert!(text.ends_with(
        "lora.yaml:2: `iters`: found the text \"ten\", wanted an integer of at least 0\n"
    ));
    let (text, code) = train_exit(&["--train", "--batch-size", "0"]);
    assert_eq!(
        (text.as_str(), code),
        ("error: --batch-size: found the number 0, wanted an integer of at least 1\n", 2)
    );
    let (_folder, path) = yaml("train: true\nlora_parameters: {dropout: 1.0}\n");
    let (text, _) = train_exit(&["-c", &path]);
    assert!(text.contains("found the number 1.0, wanted a number from 0 to below 1"), "{text}");
    let (text, _) = train_exit(&["--train", "--iters", "ten"]);
    assert!(text.contains("'ten'") && text.contains("--iters"), "{text}");
    let (text, _) = train_exit(&["--train", "--cache-limit", "8TB"]);
    assert!(text.contains("--cache-limit: found the text \"8TB\", wanted a size such as 8GB"));
}

#[test]
fn numbers_are_finite() {
    for value in ["nan", "inf", "1e999"] {
        let (text, code) = train_exit(&["--train", "--learning-rate", value]);
        assert_eq!(code, 2);
        assert!(text.contains(&format!("'{value}' for '--learning-rate")), "{text}");
        assert!(text.contains("wanted a finite number"), "{text}");
        for flag in ["--temp", "--top-p", "--min-p", "--xtc-probability", "--xtc-threshold"] {
            let (text, code) = generate_exit(&[flag, value]);
            assert_eq!(code, 2);
            assert!(text.contains(flag) && text.contains("wanted a finite number"), "{text}");
        }
    }
}

#[test]
fn what_is_not_built_says_what_is() {
    let message = |line: &[&str]| {
        let (text, code) = train_exit(line);
        assert_eq!(code, 2);
        text
    };
    assert!(message(&["--train", "--fine-tune-type", "dora"]).contains("lora and full are"));
    assert!(message(&["--train", "--optimizer", "sgd"]).contains("adam and adamw are"));
    assert!(message(&["--train", "--report-to", "wandb"]).contains("metrics.jsonl"));
    assert!(message(&["--train", "--trust-remote-code"]).contains("not possible"));
    assert!(message(&[]).contains("give --train, --test or both"));
    assert!(message(&["-c", "missing.yaml"]).contains("missing.yaml: no such file"));
}

#[test]
fn help_and_version_exit_with_zero() {
    let (text, code) = train_exit(&["--help"]);
    assert_eq!(code, 0);
    assert!(text.contains("Usage: graft-train") && text.contains("--grad-checkpoint"), "{text}");
    let (text, code) = train_exit(&["--version"]);
    assert_eq!((text.trim(), code), (concat!("graft-train ", env!("CARGO_PKG_VERSION")), 0));
    let argv: Vec<OsString> = vec!["graft generate".into(), "-h".into()];
    match parse_generate(&argv) {
        ParseOutcome::Exit { text, code: 0 } => assert!(text.contains("Usage: graft generate")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn generation_reads_mlx_lms_flags() {
    let args = generate(&[
        "--model",
        "m",
        "-p",
        "- one\\n- two",
        "-m",
        "5",
        "--temp",
        "0.7",
        "--top-p",
        "0.9",
        "--top-k",
        "20",
        "--min-p",
        "0.05",
        "--seed",
        "3",
        "--verbose",
        "F",
        "--adapter-path",
        "a",
        "--extra-eos-token",
        "<a>",
        "<b>",
        "--chat-template-config",
        "{\"enable_thinking\": false}",
    ]);
    assert_eq!(args.prompt, "- one\n- two");
    assert_eq!((args.max_tokens, args.top_k, args.seed), (5, 20, Some(3)));
    assert_eq!((args.temp, args.top_p, args.min_p), (0.7, 0.9, 0.05));
    assert!(!args.verbose);
    assert_eq!(args.extra_eos_token, ["<a>", "<b>"]);
    assert_eq!(args.adapter_path.as_deref(), Some(Path::new("a")));
    assert_eq!(args.chat_template_config["enable_thinking"], false);
    let defaults = generate(&[]);
    assert_eq!((defaults.prompt.as_str(), defaults.max_tokens), ("hello", 100));
    assert!(defaults.verbose && defaults.max_kv_size.is_none());
    assert_eq!(generate(&["--prompt", "-"]).prompt, "-");
    assert_eq!(generate(&["--max-kv-size", "32"]).max_kv_size, Some(32));
    let quantized = generate(&["--kv-bits", "4", "--quantized-kv-start", "8"]).kv_quantization;
    assert_eq!(quantized, Some(KvQuantization { bits: 4, group_size: 64, start: 8 }));
    assert_eq!(generate(&["--kv-group-size", "32"]).kv_quantization, None);
}

#[test]
fn generation_refuses_what_is_not_built() {
    for line in [
        &["--draft-model", "m"][..],
        &["--num-draft-tokens", "3"],
        &["--prompt-cache-file", "f"],
        &["--image", "a.png"],
        &["-qa"],
        &["--trust-remote-code"],
    ] {
        let (text, code) = generate_exit(line);
        assert_eq!(code, 2, "{line:?}");
        assert!(text.contains("built"), "{text}");
    }
    let (text, code) = generate_exit(&["--kv-bits", "7"]);
    assert_eq!(code, 2);
    assert!(text.contains("--kv-bits 7: wanted one of 2, 3, 4, 5, 6, 8"), "{text}");
    let (text, _) = generate_exit(&["--prompt", "--ignore-chat-template"]);
    assert!(text.contains("the text is missing"), "{text}");
    let (text, _) = generate_exit(&["--max-token5", "3"]);
    assert!(text.contains("'--max-tokens'"), "{text}");
    let (text, _) = generate_exit(&["--chat-template-config", "[1]"]);
    assert!(text.contains("--chat-template-config: not a JSON object"), "{text}");
}
