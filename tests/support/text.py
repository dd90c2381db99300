"""Text and tokenizers for the tests: small, fixed, made on the spot."""

from __future__ import annotations

import json
import random
from pathlib import Path

SUBJECTS = ["the parser", "a token", "this array", "one thread", "the cache", "each layer"]
VERBS = ["returns", "raises", "copies", "reads", "writes", "sorts"]
OBJECTS = ["a new list", "the same value", "an error", "two files", "its argument", "nothing"]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_BOS = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "[{{ message['role'] | upper }}] {{ message['content'] | trim }}{{ eos_token }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}[ASSISTANT] {% endif %}"
)


def sentences(count: int, seed: int) -> list[str]:
    """Returns sentences of one to eight clauses, the same for the same seed."""
    rng = random.Random(seed)

    def clause() -> str:
        return f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}"

    return [", and ".join(clause() for _ in range(rng.randint(1, 8))) + "." for _ in range(count)]


def write_tokenizer(folder: Path, *, bos: bool = False) -> int:
    """Writes `tokenizer.json` and `tokenizer_config.json`; returns the size of the vocabulary.

    A byte-level BPE, so that any text has an encoding. With `bos` the post-processor and the chat
    template put `<s>` in front, as Llama's do.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    specials = ["<s>", "</s>"] if bos else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(200, seed=7), trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>" if bos else "<|im_end|>",
        "pad_token": "</s>" if bos else "<|endoftext|>",
        "chat_template": WITH_BOS if bos else CHATML,
        "model_max_length": 512,
    }
    if bos:
        config["bos_token"] = "<s>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return int(tokenizer.get_vocab_size())


def rows(kind: str, count: int, seed: int) -> list[dict[str, object]]:
    """Returns data rows of mlx-lm's format `text`, `completions` or `chat`."""
    texts = sentences(2 * count, seed)
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    if kind == "text":
        return [{"text": first + " " + second} for first, second in pairs]
    if kind == "completions":
        return [{"prompt": first, "completion": second} for first, second in pairs]
    if kind == "chat":
        return [
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": first},
                    {"role": "assistant", "content": second},
                ]
            }
            for first, second in pairs
        ]
    raise ValueError(kind)


def write_data(folder: Path, kind: str = "text", *, train: int = 24, valid: int = 8) -> Path:
    """Writes `train.jsonl`, `valid.jsonl` and `test.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "valid": valid, "test": valid}.items()):
        lines = (json.dumps(row) for row in rows(kind, count, seed))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder
