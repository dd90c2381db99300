use std::fs;
use std::path::Path;

use serde_json::json;

use super::{
    BatchPosition, BatchRng, Batches, Dataset, DatasetOptions, Row, Widths, load_datasets,
};
use crate::args::TrainArgs;
use crate::chat_template::Time;
use crate::tiny;
use crate::tokenizer::Tokenizer;

/// A tokenizer of whole words, with a chat template that refuses the role `robot`.
fn tokenizer() -> Tokenizer {
    let template = "{% for m in messages %}{% if m.role == 'robot' %}\
         {{ raise_exception('unknown role: robot') }}{% endif %}{{ m.content }} {% endfor %}";
    tokenizer_with(template)
}

fn tokenizer_with(template: &str) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_tokenizer(folder.path(), template);
    Tokenizer::load(folder.path()).unwrap()
}

fn load(text: &[u8]) -> crate::Result<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.jsonl");
    fs::write(&path, text).unwrap();
    Dataset::load(&path, &tokenizer(), &DatasetOptions::default())
}

/// The message of loading `text`, without the folder.
#[track_caller]
fn message(text: &str) -> String {
    let message = load(text.as_bytes()).unwrap_err().to_string();
    message[message.find("train.jsonl").unwrap()..].to_owned()
}

fn rows(lengths: &[usize]) -> Dataset {
    let row = |length: &usize| Row { tokens: vec![1; *length], offset: 0, sort_key: *length };
    Dataset::new(lengths.iter().map(row).collect(), "rows")
}

#[test]
fn reads_the_three_formats() {
    let text = load(b"{\"text\": \"a b\"}\r\n{\"text\": \"b end\", \"x\": 1}\n\n \n").unwrap();
    assert_eq!(text.rows()[0], Row { tokens: vec![2, 3, 1], offset: 0, sort_key: 1 });
    assert_eq!(text.rows()[1], Row { tokens: vec![3, 1], offset: 0, sort_key: 2 });
    let chat = load(b"{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}").unwrap();
    assert_eq!(chat.rows()[0].tokens, [3]);
    let pair = load(b"{\"prompt\": \"a\", \"completion\": \"b\", \"text\": \"b b\"}").unwrap();
    assert_eq!(pair.rows()[0].tokens, [2, 3]);
}

#[test]
fn broken_lines_are_named() {
    assert_eq!(
        message("{\"text\": \"a\"}\n{\"text\": \"a\"\n"),
        "train.jsonl:2: not JSON at column 12: EOF while parsing an object"
    );
    assert_eq!(
        message("{\"text\": \"a\"}\n\n{\"text\": \"a\"}\n"),
        "train.jsonl:2: a blank line between rows; remove it"
    );
    assert_eq!(
        message("[1]"),
        "train.jsonl:1: found a list, wanted a JSON object such as {\"text\": \"...\"}"
    );
    let invalid = load(b"{\"text\": \"\xff\"}").unwrap_err().to_string();
    assert!(invalid.contains("train.jsonl:1: not JSON at column"), "{invalid}");
}

#[test]
fn wrong_keys_and_types_are_named() {
    assert_eq!(
        message("{\"txt\": \"a\", \"id\": 1}"),
        "train.jsonl:1: found the keys `txt`, `id`; wanted `text`, or `prompt` and `completion`, \
         or `messages`"
    );
    assert_eq!(
        message("{\"text\": \"a\"}\n{\"txt\": \"a\"}"),
        "train.jsonl:2: found the keys `txt`; wanted `text`, as in the first row"
    );
    assert_eq!(
        message("{\"text\": 3}"),
        "train.jsonl:1: `text`: found the number 3, wanted a text"
    );
    let shape = "wanted a list of objects with `role` and `content`";
    assert_eq!(
        message("{\"messages\": []}"),
        format!("train.jsonl:1: `messages`: found an empty list, {shape}")
    );
    assert_eq!(
        message("{\"messages\": [{\"content\": \"a\"}]}"),
        format!("train.jsonl:1: `messages`: found no text `role` in message 0, {shape}")
    );
    assert_eq!(
        message("{\"prompt\": \"a\", \"completion\": \"b\", \"tools\": 1}"),
        "train.jsonl:1: `tools`: found the number 1, wanted a list of objects"
    );
}

#[test]
fn what_the_template_refuses_names_the_line() {
    let text = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n\
                {\"messages\": [{\"role\": \"robot\", \"content\": \"a\"}]}\n";
    let message = message(text);
    assert!(message.starts_with("train.jsonl:2: the chat template failed: "), "{message}");
    assert!(message.contains("unknown role: robot"), "{message}");
}

#[test]
fn masking_needs_a_prompt() {
    let options = DatasetOptions { mask_prompt: true, ..DatasetOptions::default() };
    let row = serde_json::from_value(json!({"text": "a"})).unwrap();
    let error = Dataset::from_json(&[row], Path::new("rows"), &tokenizer(), &options);
    let message = error.unwrap_err().to_string();
    assert!(message.starts_with("rows:1: rows of `text` have no prompt to mask"), "{message}");
}

#[test]
fn masking_needs_a_message_before_the_last() {
    let options = DatasetOptions { mask_prompt: true, ..DatasetOptions::default() };
    let row = |n: usize| {
        let messages = vec![json!({"role": "user", "content": "a"}); n];
        serde_json::from_value(json!({ "messages": messages })).unwrap()
    };
    let rows = |rows: &[_]| Dataset::from_json(rows, Path::new("rows"), &tokenizer(), &options);
    let message = rows(&[row(2), row(1)]).unwrap_err().to_string();
    assert!(message.starts_with("rows:2: `messages`: nothing is before the last"), "{message}");
    assert_eq!(rows(&[row(2)]).unwrap().rows()[0].offset, 1);
}

#[test]
fn the_time_that_a_template_prints_can_be_set() {
    let printing = "{{ strftime_now('%M') | list | join(' ') }} {{ messages[0].content }}";
    let mut tokenizer = tokenizer_with(printing);
    let load = |tokenizer: &Tokenizer, row: &serde_json::Value| {
        let rows = [row.as_object().unwrap().clone()];
        let options = DatasetOptions::default();
        Dataset::from_json(&rows, Path::new("rows"), tokenizer, &options).unwrap()
    };
    let chat = json!({"messages": [{"role": "user", "content": "a"}]});
    assert!(load(&tokenizer, &chat).rendered().is_some());
    for minute in ["05", "37"] {
        let text = format!("2026-11-30T23:{minute}:00+00:00");
        let time: Time = serde_json::from_value(json!(text)).unwrap();
        // Set after the template was compiled, too.
        tokenizer.set_time(time);
        let found = load(&tokenizer, &chat);
        assert_eq!(found.rendered(), Some(time));
        let digits = minute.bytes().map(|digit| 4 + i32::from(digit - b'0'));
        assert_eq!(found.rows()[0].tokens, digits.chain([2]).collect::<Vec<_>>());
        assert_eq!(load(&tokenizer, &json!({"text": "a"})).rendered(), None);
    }
    assert_eq!(
        tokenizer.printed_time().map(|time| time.to_string()).as_deref(),
        Some("2026-11-30T23:37:00+00:00")
    );
    assert_eq!(load(&self::tokenizer(), &chat).rendered(), None, "it prints no time");
}

#[test]
fn keys_can_be_renamed() {
    let options = DatasetOptions { text_feature: "body".to_owned(), ..DatasetOptions::default() };
    let row = serde_json::from_value(json!({"body": "a"})).unwrap();
    let dataset = Dataset::from_json(&[row], Path::new("rows"), &tokenizer(), &options);
    assert_eq!(dataset.unwrap().rows()[0].tokens, [2, 1]);
}

#[test]
fn folders_files_and_hub_names_that_are_missing_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_string_lossy().into_owned();
    let args = |data: &str, train: bool| TrainArgs {
        data: data.to_owned(),
        train,
        test: !train,
        ..TrainArgs::default()
    };
    let message = |args: &TrainArgs| load_datasets(args, &tokenizer()).unwrap_err().to_string();
    let found = message(&args(&data, true));
    assert!(found.contains("train.jsonl: no such file"), "{found}");
    let found = message(&args(&data, false));
    assert!(found.contains("test.jsonl: no such file"), "{found}");
    let found = message(&args(&format!("{data}/no"), true));
    assert!(found.contains("no such folder; --data takes a folder"), "{found}");
    let found = message(&args("someone/rows", true));
    assert!(found.contains("datasets of the Hugging Face hub are not loaded here"), "{found}");
    let found = message(&TrainArgs { train: true, ..TrainArgs::default() });
    assert!(found.starts_with("no data: give --data FOLDER (or `data: FOLDER` in"), "{found}");
    fs::write(folder.path().join("train.jsonl"), " \n").unwrap();
    let found = message(&args(&data, true));
    assert!(found.contains("train.jsonl: no rows"), "{found}");
    fs::write(folder.path().join("train.jsonl"), "{\"text\": \"a\"}").unwrap();
    let datasets = load_datasets(&args(&data, true), &tokenizer()).unwrap();
    assert_eq!(datasets.train.unwrap().len(), 1);
    assert!(datasets.valid.is_none());
    assert!(datasets.warnings[0].contains("valid.jsonl: not found or empty"));
}

#[test]
fn buckets_are_few_and_wide_enough() {
    let few = |longest, most| Widths::Few.width(longest, most);
    for longest in 0..=256 {
        assert_eq!(few(longest, 2048), 1 + longest.div_ceil(32) * 32);
    }
    for longest in 0..=2048 {
        let upstream = Widths::Upstream.width(longest, 2048);
        assert_eq!(upstream, (1 + longest.div_ceil(32) * 32).min(2048));
    }
    let mut widths: Vec<usize> = (1..=2048).map(|longest| few(longest, 2048)).collect();
    for (longest, width) in (1..).zip(&widths) {
        // One more than upstream's multiple at least, or the most there is.
        assert!(*width > longest || *width == 2048);
        assert!(*width <= longest + longest / 4 + 33);
    }
    assert_eq!(widths[256..320], [1 + 320; 64]);
    widths.dedup();
    assert_eq!(widths.len(), 20);
    assert_eq!(few(5000, 100), 100);
    assert_eq!(few(4000, 1 << 20), 4097);
}

#[test]
fn batches_have_the_widths_that_are_asked_for() {
    let dataset = rows(&[260, 270]);
    let width =
        |batches: Batches| batches.clone().next(&dataset, &mut BatchRng::new(0)).unwrap().width;
    let batches = Batches::new(&dataset, 2, 2048, false).unwrap();
    assert_eq!(width(batches.clone()), 1 + 320);
    assert_eq!(width(batches.with_widths(Widths::Upstream)), 1 + 288);
}

#[test]
fn long_rows_are_cut_with_a_warning() {
    let dataset = rows(&[3, 40]);
    let mut batches = Batches::new(&dataset, 2, 16, false).unwrap();
    let mut rng = BatchRng::new(0);
    let batch = batches.next(&dataset, &mut rng).unwrap();
    assert_eq!((batch.width, batch.rows()), (16, 2));
    assert_eq!(batch.lengths, [(0, 3), (0, 16)]);
    assert_eq!(batch.tokens[..5], [1, 1, 1, 0, 0]);
    assert!(batch.warning.unwrap().contains("The longest sentence 40 will be truncated to 16"));
    assert!(batches.next(&dataset, &mut rng).is_none());
}

#[test]
fn rows_of_similar_lengths_share_a_batch() {
    // Rows of one format, which mlx-lm takes as they come.
    let row = |length| Row { tokens: vec![1; length], offset: 0, sort_key: 1 };
    let dataset = Dataset::new([40, 3, 33, 7, 90, 2].map(row).to_vec(), "rows");
    let mut batches = Batches::new(&dataset, 2, 2048, false).unwrap().by_length(&dataset);
    assert_eq!(batches.per_epoch(), 3);
    let mut rng = BatchRng::new(0);
    let mut found = Vec::new();
    while let Some(batch) = batches.next(&dataset, &mut rng) {
        found.push((batch.width, batch.lengths));
    }
    found.sort();
    let wanted = [(33, [2, 3]), (65, [7, 33]), (97, [40, 90])];
    assert_eq!(found, wanted.map(|(width, rows)| (width, rows.map(|n| (0, n)).to_vec())));
}

#[test]
fn too_few_rows_for_a_batch_are_told() {
    let message = Batches::new(&rows(&[1]), 4, 16, true).unwrap_err().to_string();
    assert_eq!(
        message,
        "rows: found 1 rows, wanted at least batch_size = 4; add rows or make the batch smaller"
    );
}

#[test]
fn a_batch_without_targets_is_named() {
    let row = |length, offset| Row { tokens: vec![1; length], offset, sort_key: 1 };
    let check = |rows: &[Row], size| {
        let data = Dataset::new(rows.to_vec(), "rows");
        Batches::new(&data, size, 64, true)?.check_targets(&data)
    };
    // Cut to 64 tokens, of which the first is no target.
    let rows = [row(90, 63), row(9, 8), row(90, 64), row(1, 0)];
    let message = check(&rows, 1).unwrap_err().to_string();
    assert!(message.starts_with("rows:3: no token is left to learn: "), "{message}");
    // A row without targets is no harm beside one with some, as in mlx-lm.
    check(&rows, 2).unwrap();
    let message = check(&[row(90, 80), row(70, 64)], 2).unwrap_err().to_string();
    assert!(message.starts_with("rows:1: no token is left to learn, nor in"), "{message}");
}

#[test]
fn an_iteration_goes_on_from_its_position() {
    let data = rows(&[3, 9, 4, 7, 5, 6, 8]);
    let mut rng = BatchRng::new(3);
    let mut batches = Batches::new(&data, 2, 100, true).unwrap();
    // Before the first, within an epoch, at the end of one, and in a later one.
    for skip in [0, 2, 1, 2] {
        for _ in 0..skip {
            batches.next(&data, &mut rng).unwrap();
        }
        let mut other = Batches::new(&data, 2, 100, true).unwrap();
        other.go_to(batches.position(), &data).unwrap();
        let mut others_rng = BatchRng::at(rng.position());
        let (mut rng, mut batches) = (rng.clone(), batches.clone());
        for _ in 0..7 {
            assert_eq!(other.next(&data, &mut others_rng), batches.next(&data, &mut rng));
            assert_eq!(other.position(), batches.position());
        }
    }
}

#[test]
fn a_position_of_other_data_is_refused() {
    let (six, four) = (rows(&[3; 6]), rows(&[3; 4]));
    let mut rng = BatchRng::new(3);
    let mut batches = Batches::new(&six, 2, 100, true).unwrap();
    batches.next(&six, &mut rng).unwrap();
    let position = batches.position();
    let mut other = Batches::new(&four, 2, 100, true).unwrap();
    let message = other.go_to(position, &four).unwrap_err().to_string();
    assert!(message.starts_with("rows: found 2 batches"), "{message}");
    assert!(message.contains("batch 1 of 3"), "{message}");
    for broken in
        [BatchPosition { given: 4, ..position }, BatchPosition { epoch: None, ..position }]
    {
        assert!(batches.go_to(broken, &six).is_err());
    }
    assert_eq!(batches.position(), position);
}
