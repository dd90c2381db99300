"""Fine-tuning and running language models on MLX, with the trainer in Rust.

Arrays are MLX's own: every function takes and returns `mlx.core.array`, without a copy, and
`mx.grad`, `mx.compile` and `mx.vmap` trace through the Rust code.

Example:
    >>> import mlx_graft as mg
    >>> model, tokenizer = mg.load("path or hub repository")  # doctest: +SKIP
    >>> mg.apply_lora(model, rank=8, num_layers=16)  # doctest: +SKIP
    >>> trainer = mg.Trainer(model, mg.TrainConfig(learning_rate=1e-4, iters=200))  # doctest: +SKIP
"""

# First of all: the extension links to the libmlx that `mlx.core` loads.
from mlx_graft import _runtime as _runtime  # isort: skip

from mlx_graft import capi, core, kernels
from mlx_graft._core import Dataset, GenerationResponse, KVCache, Model, Tokenizer
from mlx_graft.accelerate import accelerate
from mlx_graft.config import TrainConfig
from mlx_graft.generate import generate, stream_generate
from mlx_graft.load import load, load_dataset, load_tokenizer
from mlx_graft.lora import apply_lora
from mlx_graft.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "GenerationResponse",
    "KVCache",
    "Model",
    "Tokenizer",
    "TrainConfig",
    "Trainer",
    "__version__",
    "accelerate",
    "apply_lora",
    "capi",
    "core",
    "generate",
    "kernels",
    "load",
    "load_dataset",
    "load_tokenizer",
    "stream_generate",
]
