"""Writes the files that the tests of this folder compare with, made by the peers.

Run it in an environment with mlx, mlx-lm and transformers, and commit what it writes:

    python crates/graft-lm/tests/golden/make_golden.py

It trains two tiny tokenizers, encodes texts and chats with ``transformers.AutoTokenizer``, and
records the text that mlx-lm streams and the batches of ``mlx_lm.tuner.trainer.iterate_batches``.
"""

import inspect
import json
import shutil
import types
from pathlib import Path

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper, load
from mlx_lm.tuner.datasets import CacheDataset, create_dataset
from mlx_lm.tuner.trainer import iterate_batches
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

HERE = Path(__file__).parent

CORPUS = [inspect.getsource(module) for module in (json, types, inspect)]
TEXTS = [
    "",
    "hello",
    " hello  world ",
    "def f(x):\n    return x ** 2  # 1234567 and 3.14",
    "naïve café — “quotes” … 12,345.67",
    "日本語のテキスト와 한국어 😀👩‍👩‍👧 é (combining: e\u0301)",
    "<|im_start|>user\nI'm fine, THEY'LL say\r\n\r\n\ttabs<|im_end|>\n",
    "a</s> b <s>c",
    "x\u00a0y\u200bz \ufffd",
]


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer like those of GPT-2, SmolLM and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"(?i:'s|'t|'re|'ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"),
                behavior="isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )


def spm() -> PreTrainedTokenizerFast:
    """A tokenizer like that of Llama 2: words joined by U+2581, byte fallback, a first token."""
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    words = ["\n".join(" ".join(line.split()) for line in text.split("\n")) for text in CORPUS]
    pieces = [piece for text in words for piece in text.split("\n")]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    tokenizer.train_from_iterator(
        pieces, trainers.BpeTrainer(vocab_size=520, special_tokens=special + fallback)
    )
    tokenizer.pre_tokenizer = None
    # The bytes are plain tokens of the vocabulary, not added ones.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def save(tokenizer: PreTrainedTokenizerFast, name: str, declared: str, model: dict) -> Path:
    """Writes a tokenizer folder that declares a class and belongs to a kind of model."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = declared
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    (folder / "config.json").write_text(json.dumps(model))
    return folder


def encodings(folder: Path) -> dict:
    """Texts as ids and back."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text)
        rows.append(
            {
                "text": text,
                "ids": ids,
                "plain_ids": tokenizer.encode(text, add_special_tokens=False),
                "decoded": tokenizer.decode(ids),
                "decoded_skip": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    return {
        "rows": rows,
        "streamed": streamed(folder),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "vocab_size": tokenizer.vocab_size,
    }


def streamed(folder: Path) -> list:
    """Ids, and the text that each of them and the end bring in mlx-lm."""
    tokenizer = load(folder)
    vocabulary = tokenizer.get_vocab()
    space = vocabulary.get("Ġ", vocabulary.get("▁"))
    cases = []
    for text in TEXTS:
        for spaces in range(3):
            ids = [space] * spaces + tokenizer.encode(text, add_special_tokens=False)
            detokenizer, parts = tokenizer.detokenizer, []
            for token in ids:
                detokenizer.add_token(token)
                parts.append(detokenizer.last_segment)
            detokenizer.finalize()
            cases.append({"ids": ids, "parts": [*parts, detokenizer.last_segment]})
    return cases


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <now> & later, in “Zürich”",
            "parameters": {"type": "object", "properties": {"n": {"default": 1e-5, "max": 2.0}}},
        },
    }
]
CHATS = {
    "short": [{"role": "user", "content": "Hi  there\n"}],
    "system": [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "2 < 3 & 'x' \"y\"?"},
        {"role": "assistant", "content": "Yes.\n"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Sure. "},
    ],
    "thinking": [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2", "name": None},
        {"role": "user", "content": "and 2+2?"},
        {"role": "assistant", "content": "4", "reasoning": "also easy"},
    ],
    "tools": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": {"n": 2}}}
            ],
        },
        {"role": "tool", "name": "weather", "content": '{"t": 20.5}'},
        {"role": "assistant", "content": "20.5 degrees"},
    ],
    "extra": [
        {
            "role": "user",
            "content": "é",
            "extra": {"b": [1, 2.5, None, True], "a": "“q” it's"},
            "flag": False,
        }
    ],
    "wrong_order": [{"role": "assistant", "content": "first"}],
}


def render(tokenizer: AutoTokenizer, source: str, chat: list, **options: object) -> dict:
    """A chat as text, or the error it gives."""
    try:
        text = tokenizer.apply_chat_template(chat, chat_template=source, tokenize=False, **options)
    except Exception as error:
        return {"error": str(error)}
    return {"text": text}


def templates(folder: Path) -> list:
    """Every chat in every template, with and without tools."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        source = path.read_text()
        for name, chat in CHATS.items():
            for tools in (None, TOOLS):
                for mode in ("plain", "generate", "continue"):
                    options = {
                        "add_generation_prompt": mode == "generate",
                        "continue_final_message": mode == "continue",
                    }
                    variables = {"enable_thinking": False, "date_string": "01 Jan 2026"}
                    case = render(tokenizer, source, chat, tools=tools, **options, **variables)
                    case.update(template=path.name, chat=name, tools=tools is not None, mode=mode)
                    cases.append(case)
    return cases


def batches() -> dict:
    """The first batches of a training with validations in between, as ``train`` draws them."""
    random = np.random.default_rng(0)
    folder = HERE / "byte_level"
    tokenizer = TokenizerWrapper(AutoTokenizer.from_pretrained(folder))
    rows = []
    for index in range(23):
        row = {"text": " ".join(["word"] * int(random.integers(1, 90))) + f" {index}"}
        if index % 5 == 0:
            row = {"source": "x", **row}
        rows.append(row)
    config = types.SimpleNamespace(mask_prompt=False)
    train = CacheDataset(create_dataset(rows[:17], tokenizer, config))
    valid = CacheDataset(create_dataset(rows[17:], tokenizer, config))
    np.random.seed(3)
    steps = []
    iterator = iterate_batches(train, 3, 64, loop=True)
    for step in range(12):
        batch, lengths = next(iterator)
        steps.append({"tokens": batch.tolist(), "lengths": lengths.tolist()})
        if step % 4 == 0:
            # evaluate() zips a range with the batches, so it asks for no more than it needs.
            for _, (batch, lengths) in zip(range(2), iterate_batches(valid, 2, 64), strict=False):
                steps.append({"tokens": batch.tolist(), "lengths": lengths.tolist()})
    return {"rows": rows, "steps": steps}


def processed() -> list:
    """Rows as ``process`` of mlx-lm's datasets gives them."""
    folder = HERE / "byte_level"
    hf = AutoTokenizer.from_pretrained(folder)
    hf.chat_template = (HERE / "templates" / "chatml_tools.jinja").read_text()
    tokenizer = TokenizerWrapper(hf)
    files = {
        "text": [{"text": "one"}, {"text": "two<|im_end|>"}, {"text": ""}],
        "completions": [
            {"prompt": "a?", "completion": "b."},
            {"prompt": "c?", "completion": "d.", "tools": TOOLS},
        ],
        "chat": [{"messages": CHATS["system"]}, {"messages": CHATS["tools"], "tools": TOOLS}],
    }
    cases = []
    for name, rows in files.items():
        for mask_prompt in (False, True):
            if (name, mask_prompt) == ("text", True):
                continue
            config = types.SimpleNamespace(mask_prompt=mask_prompt)
            usable = [row for row in rows if row.get("text") != ""]
            dataset = create_dataset(usable, tokenizer, config)
            expected = [dataset.process(dataset[index]) for index in range(len(dataset))]
            cases.append({"rows": usable, "mask_prompt": mask_prompt, "expected": expected})
    return cases


def main() -> None:
    """Writes the folders and ``expected.json``."""
    byte = byte_level()
    llama = spm()
    folders = {
        "byte_level": save(byte, "byte_level", "TokenizersBackend", {"eos_token_id": [0, 2]}),
        "qwen2": save(byte, "qwen2", "PreTrainedTokenizerFast", {"model_type": "qwen2"}),
        "gpt2": save(byte, "gpt2", "GPT2TokenizerFast", {"model_type": "llama"}),
        "spm": save(llama, "spm", "PreTrainedTokenizerFast", {"model_type": "llama"}),
        "llama": save(llama, "llama", "LlamaTokenizerFast", {"model_type": "llama"}),
        "mistral": save(llama, "mistral", "LlamaTokenizerFast", {"model_type": "mistral"}),
    }
    expected = {
        "encodings": {name: encodings(folder) for name, folder in folders.items()},
        "chats": CHATS,
        "tools": TOOLS,
        "templates": templates(folders["llama"]),
        "processed": processed(),
        "batches": batches(),
    }
    (HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=False))
    # The folders differ in their small files only.
    for name, source in (("qwen2", "byte_level"), ("gpt2", "byte_level")):
        check_same(folders[name], folders[source])
    for name in ("llama", "mistral"):
        check_same(folders[name], folders["spm"])


def check_same(folder: Path, source: Path) -> None:
    """Removes the copy of ``tokenizer.json``: the tests take the one in ``source``."""
    copy, original = folder / "tokenizer.json", source / "tokenizer.json"
    assert copy.read_bytes() == original.read_bytes()
    copy.unlink()


if __name__ == "__main__":
    main()
