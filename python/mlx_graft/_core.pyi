"""The extension module: conversions between Python and the Rust crates."""

from collections.abc import Callable, Sequence
from os import PathLike
from types import ModuleType
from typing import Any, Literal, final, overload

import mlx.core as mx

__all__ = [
    "BUILD_PROFILE",
    "MLX_VERSION",
    "Dataset",
    "Generation",
    "GenerationResponse",
    "KVCache",
    "Model",
    "Tokenizer",
    "Trainer",
    "check_options",
    "core",
    "cross_entropy",
    "gather_mm",
    "gather_qmm",
    "generate",
    "identity",
    "layer_norm",
    "live_handles",
    "logsumexp",
    "matmul",
    "overwrite",
    "profile",
    "quantized_matmul",
    "resolve_model",
    "rms_norm",
    "rope",
    "scaled_dot_product_attention",
    "softmax",
    "train",
]

BUILD_PROFILE: str
MLX_VERSION: str
core: ModuleType

def identity(x: mx.array) -> mx.array:
    """Returns its argument, through Rust and back."""

def live_handles() -> int:
    """Returns the number of handles of MLX objects that Rust holds."""

def resolve_model(name: str) -> Any:
    """Returns the folder of a model: a path, or the name of a repository in the hub's cache."""

def matmul(a: mx.array, b: mx.array) -> mx.array:
    """Multiplies matrices by the native kernel where it is the fastest: `mx.matmul` elsewhere."""

def softmax(a: mx.array) -> mx.array:
    """Computes `mx.softmax(a, axis=-1, precise=True)`."""

def logsumexp(a: mx.array, *, keepdims: bool = False) -> mx.array:
    """Computes `mx.logsumexp(a, axis=-1)`."""

def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Computes `mlx.nn.losses.cross_entropy` of rows; `targets` are `int32`."""

def overwrite(a: mx.array, b: mx.array) -> None:
    """Makes the object `a` hold the array `b`, whatever its shape and dtype."""

def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    """Computes `mx.fast.rms_norm`."""

def layer_norm(x: mx.array, weight: mx.array | None, bias: mx.array | None, eps: float) -> mx.array:
    """Computes `mx.fast.layer_norm`."""

def rope(
    x: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: int,
    freqs: mx.array | None = None,
) -> mx.array:
    """Computes `mx.fast.rope`."""

def scaled_dot_product_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Literal["causal"] | mx.array | None = None,
) -> mx.array:
    """Computes `mx.fast.scaled_dot_product_attention`."""

def quantized_matmul(
    x: mx.array,
    w: mx.array,
    /,
    scales: mx.array,
    biases: mx.array | None = None,
    transpose: bool = True,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
    *,
    stream: mx.Stream | mx.ThreadLocalStream | mx.Device | mx.DeviceType | None = None,
) -> mx.array:
    """Multiplies by a quantized matrix, as `mx.quantized_matmul`, by the native kernel on a CPU."""

def gather_mm(
    a: mx.array,
    b: mx.array,
    /,
    lhs_indices: mx.array | None = None,
    rhs_indices: mx.array | None = None,
    *,
    sorted_indices: bool = False,
    stream: mx.Stream | mx.ThreadLocalStream | mx.Device | mx.DeviceType | None = None,
) -> mx.array:
    """Multiplies matrices picked by indices, as `mx.gather_mm`, by the native kernel on a CPU."""

def gather_qmm(
    x: mx.array,
    w: mx.array,
    /,
    scales: mx.array,
    biases: mx.array | None = None,
    lhs_indices: mx.array | None = None,
    rhs_indices: mx.array | None = None,
    transpose: bool = True,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
    *,
    sorted_indices: bool = False,
    stream: mx.Stream | mx.ThreadLocalStream | mx.Device | mx.DeviceType | None = None,
) -> mx.array:
    """Multiplies by picked quantized matrices, as `mx.gather_qmm`, natively on a CPU."""

def check_options(options: dict[str, Any]) -> None:
    """Fails if an option of training is wrong."""

def train(argv: Sequence[str], resolve: Callable[[str], Any]) -> int:
    """Runs `graft train` and returns the exit code."""

def profile(argv: Sequence[str], resolve: Callable[[str], Any]) -> int:
    """Runs `graft profile` and returns the exit code."""

def generate(argv: Sequence[str], resolve: Callable[[str], Any]) -> int:
    """Runs `graft generate` and returns the exit code."""

@final
class Model:
    """A language model, loaded from a Hugging Face folder."""

    def __new__(cls, folder: str | PathLike[str]) -> Model: ...
    def __call__(self, tokens: mx.array, cache: KVCache | None = None) -> mx.array:
        """Returns the logits of tokens: int32 `(B, T)` to `(B, T, V)`, differentiable."""
    def make_cache(self, max_kv_size: int | None = None) -> KVCache:
        """Returns a cache for calls that go on from each other.

        It holds at most `max_kv_size` tokens, the first four always among them; less than 1 is a
        `ValueError`.
        """
    def parameters(self) -> Any:
        """Returns all parameters in nested dicts and lists, as `mlx.nn.Module.parameters`."""
    def trainable_parameters(self) -> Any:
        """Returns the trainable parameters in nested dicts and lists."""
    def update(self, parameters: Any) -> None:
        """Replaces parameters by those of a nested dict, which may hold a part of them."""
    def freeze(self) -> None:
        """Makes every parameter frozen."""
    def unfreeze(self) -> None:
        """Makes every floating-point parameter trainable; packed ones stay frozen."""
    def apply_lora(
        self,
        rank: int,
        scale: float,
        dropout: float,
        keys: Sequence[str] | None,
        num_layers: int,
    ) -> None:
        """Adds low-rank adapters that start from the state of `mx.random`."""
    def load_adapters(self, folder: str | PathLike[str]) -> None:
        """Adds the adapters of a folder, ours or mlx-lm's.

        A model that has adapters with the same options in the same layers takes their values.
        """
    def save_adapters(self, folder: str | PathLike[str]) -> None:
        """Writes the trainable parameters and how they were made, as mlx-lm reads them."""
    def save_weights(self, folder: str | PathLike[str]) -> None:
        """Writes model.safetensors and config.json."""
    @property
    def layers(self) -> list[Any]:
        """The parameters of each block."""
    @property
    def num_layers(self) -> int:
        """The number of blocks."""
    @property
    def vocab_size(self) -> int:
        """The number of tokens that the model knows."""
    @property
    def model_type(self) -> str:
        """The architecture, as in config.json."""
    @property
    def config(self) -> Any:
        """The content of config.json."""

@final
class KVCache:
    """The keys and values of the tokens so far."""

    @property
    def offset(self) -> int:
        """The number of tokens processed, those that a bounded cache has forgotten included."""

@final
class Tokenizer:
    """The tokenizer of a model folder, with the ids of transformers' `AutoTokenizer`."""

    def __new__(cls, folder: str | PathLike[str]) -> Tokenizer: ...
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Returns the ids of a text."""
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Returns the text of ids."""
    @overload
    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: Literal[True] = True,
        *,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Returns the ids of a chat, or its text with `tokenize=False`.

        With `continue_final_message` they end within the last message, for the model to go on from
        there. `chat_template` is Jinja in the place of the tokenizer's own; `kwargs` are further
        variables of the template. What asks for another result, such as `return_tensors`, is a
        `NotImplementedError`.
        """
    @overload
    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        *,
        tokenize: Literal[False],
        continue_final_message: bool = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> str: ...
    @property
    def chat_template(self) -> str | None:
        """The Jinja text of the chat template."""
    @property
    def eos_token_ids(self) -> list[int]:
        """The ids that end a text."""
    @property
    def bos_token_id(self) -> int | None:
        """The id that begins a text."""
    @property
    def eos_token_id(self) -> int | None:
        """The tokenizer's own id that ends a text."""
    @property
    def pad_token_id(self) -> int | None:
        """The id that fills up a row."""
    @property
    def vocab_size(self) -> int:
        """The number of tokens, without those added to the vocabulary."""

@final
class Dataset:
    """Tokenized rows."""

    @staticmethod
    def load(
        path: str | PathLike[str], tokenizer: Tokenizer, given: dict[str, Any] | None = None
    ) -> Dataset:
        """Reads and tokenizes a file of one JSON object per line."""
    @staticmethod
    def from_rows(
        rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, given: dict[str, Any] | None = None
    ) -> Dataset:
        """Tokenizes a list of dicts."""
    @staticmethod
    def from_tokens(rows: Sequence[Sequence[int]]) -> Dataset:
        """Takes rows that are tokenized already."""
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[list[int], int]:
        """The tokens of a row and how many of them are the prompt's."""

@final
class Trainer:
    """Trains the trainable parameters of a model; `mlx_graft.Trainer` wraps it."""

    def __new__(cls, model: Model, options: dict[str, Any]) -> Trainer: ...
    def step(self, tokens: mx.array, lengths: mx.array) -> mx.array:
        """Trains on one batch and returns its loss before the update."""
    def evaluate(self, data: Dataset, num_batches: int) -> float:
        """Returns the mean loss per token over a data set, or over `num_batches` of it if not -1."""
    def fit(
        self,
        train: Dataset,
        valid: Dataset | None,
        callbacks: list[Any],
        folder: str | PathLike[str] | None,
        resume: bool,
    ) -> None:
        """Trains for the configured number of iterations."""
    def save(self, folder: str | PathLike[str]) -> None:
        """Writes the trained weights and their configuration to a folder."""
    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
    @property
    def step_count(self) -> int:
        """The number of batches trained on."""

@final
class Generation:
    """The tokens that follow a prompt; `mlx_graft.stream_generate` makes it."""

    def __new__(
        cls,
        model: Model,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temp: float,
        top_p: float,
        min_p: float,
        min_tokens_to_keep: int,
        top_k: int,
        xtc_probability: float,
        xtc_threshold: float,
        prefill_step_size: int,
        max_kv_size: int | None,
        kv_bits: int | None,
        kv_group_size: int,
        quantized_kv_start: int,
        ignore_eos: bool = False,
    ) -> Generation: ...
    def __iter__(self) -> Generation: ...
    def __next__(self) -> GenerationResponse: ...

@final
class GenerationResponse:
    """A token with the text that became whole by it."""

    @property
    def text(self) -> str:
        """New text, which may be empty until a character is whole."""
    @property
    def token(self) -> int:
        """The token."""
    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
    @property
    def prompt_tps(self) -> float:
        """Tokens of the prompt per second."""
    @property
    def generation_tokens(self) -> int:
        """Tokens generated so far."""
    @property
    def generation_tps(self) -> float:
        """Tokens generated per second."""
    @property
    def finish_reason(self) -> str | None:
        """`stop` or `length` on the last token."""
