"""Operations written in Rust that enter MLX's graph as its own do.

They run on the CPU, for `float32`, `bfloat16` and `float16`; on a GPU, and for what they do not
know, they are MLX's own operations.
"""

from mlx_graft._core import (
    cross_entropy,
    gather_mm,
    gather_qmm,
    layer_norm,
    logsumexp,
    matmul,
    quantized_matmul,
    rms_norm,
    rope,
    scaled_dot_product_attention,
    softmax,
)

__all__ = [
    "cross_entropy",
    "gather_mm",
    "gather_qmm",
    "layer_norm",
    "logsumexp",
    "matmul",
    "quantized_matmul",
    "rms_norm",
    "rope",
    "scaled_dot_product_attention",
    "softmax",
]
