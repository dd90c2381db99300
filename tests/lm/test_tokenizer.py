"""Tokenizer classes and chat templates, against `transformers` and mlx-lm.

The folders and templates are those of the Rust crate's own tests, whose expectations are recorded;
here the peers are asked anew, through the Python API.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import mlx_graft as mg

transformers = pytest.importorskip("transformers", reason="transformers needs Python 3.11")

GOLDEN = Path(__file__).resolve().parents[2] / "crates" / "graft-lm" / "tests" / "golden"
SHARED = {
    "byte_level": "byte_level",
    "qwen2": "byte_level",
    "gpt2": "byte_level",
    "spm": "spm",
    "llama": "spm",
    "mistral": "spm",
}
TEXTS = [
    "",
    " hello  world \n\n",
    "THEY'LL say 1234567 x\u00a0y 日本語 😀👩‍👩‍👧 e\u0301",
    "<|im_start|>user\nhi<|im_end|></s> b <s>c",
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "<a> & “b”", "x": 1e-5}}]
CHATS: dict[str, list[dict[str, Any]]] = {
    "thinking": [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2", "name": None},
        {"role": "user", "content": "and 2+2?"},
    ],
    "tools": [
        {"role": "system", "content": "Brief. "},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": {"n": [1, 2.5, None, True]}}}],
        },
        {"role": "tool", "content": '{"t": 20.5}'},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make(name: str, template: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp(name)
        for source in (GOLDEN / SHARED[name], GOLDEN / name):
            shutil.copytree(source, folder, dirs_exist_ok=True)
        if template is not None:
            shutil.copy(GOLDEN / "templates" / template, folder / "chat_template.jinja")
        return folder

    return make


@pytest.mark.parametrize("name", SHARED)
def test_classes(name: str, folder: Any) -> None:
    """Each class that transformers rebuilds gives its ids and its texts."""
    path = folder(name)
    ours, theirs = mg.load_tokenizer(path), transformers.AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(
            text, add_special_tokens=False
        )
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(
            ids, skip_special_tokens=True
        )
    assert ours.bos_token_id == theirs.bos_token_id
    assert ours.eos_token_id == theirs.eos_token_id


@pytest.mark.parametrize("generation", [False, True])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", ["chatml_tools.jinja", "headers_date.jinja", "plain.jinja"])
def test_templates(template: str, chat: str, tools: Any, generation: bool, folder: Any) -> None:
    """A chat becomes the ids that mlx-lm's wrapper gives, `enable_thinking` included."""
    from mlx_lm.tokenizer_utils import load

    path = folder("byte_level", template)
    ours, theirs = mg.load_tokenizer(path), load(path)
    # The templates that need a first token get it as a variable.
    options = {"add_generation_prompt": generation, "bos_token": "<|endoftext|>"}
    expected = theirs.apply_chat_template(CHATS[chat], tools=tools, **options)
    assert ours.apply_chat_template(CHATS[chat], tools=tools, **options) == expected


OTHER_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}"
    "{{ documents | tojson }}"
)


@pytest.mark.parametrize(
    "options",
    [
        {"continue_final_message": True},
        {"chat_template": OTHER_TEMPLATE},
        {"chat_template": OTHER_TEMPLATE, "documents": [{"title": "a", "text": "b"}]},
    ],
    ids=["continue", "template", "documents"],
)
def test_options_of_templates(options: Any, folder: Any) -> None:
    path = folder("byte_level", "chatml_tools.jinja")
    ours, theirs = mg.load_tokenizer(path), transformers.AutoTokenizer.from_pretrained(path)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]
    expected = theirs.apply_chat_template(chat, return_dict=False, **options)
    assert ours.apply_chat_template(chat, return_dict=False, **options) == expected
    expected = theirs.apply_chat_template(chat, tokenize=False, **options)
    assert ours.apply_chat_template(chat, tokenize=False, **options) == expected


def test_options_that_are_missing(folder: Any) -> None:
    tokenizer = mg.load_tokenizer(folder("byte_level", "plain.jinja"))
    for name, value in [("return_tensors", "np"), ("return_dict", True), ("max_length", 9)]:
        with pytest.raises(NotImplementedError, match=f"`{name}`: found .*; a chat template gives"):
            tokenizer.apply_chat_template(CHATS["thinking"], **{name: value})
    with pytest.raises(ValueError, match="the chat template is not Jinja"):
        tokenizer.apply_chat_template(CHATS["thinking"], chat_template="{% if %}")


def test_end_tokens(folder: Any) -> None:
    """The ids that end a text are those of the configuration and of the tokenizer."""
    assert set(mg.load_tokenizer(folder("byte_level")).eos_token_ids) == {0, 2}


def test_without_template(folder: Any) -> None:
    with pytest.raises(FileNotFoundError, match="the tokenizer has no chat template"):
        mg.load_tokenizer(folder("byte_level")).apply_chat_template(CHATS["thinking"])


def test_without_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"only tokenizer\.model; convert it in Python"):
        mg.load_tokenizer(tmp_path)
