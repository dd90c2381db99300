"""Loads MLX and checks that it is the version that the extension was built for."""

import sys

#: The version of MLX that this package is built for: its C++ interface changes between versions.
MLX_VERSION = "0.32.2"


def _remedy() -> str:
    if sys.platform == "darwin":
        return f"pip install 'mlx=={MLX_VERSION}'"
    return (
        f"pip install 'mlx[cpu]=={MLX_VERSION}', on a CUDA machine "
        f"pip install 'mlx[cuda12]=={MLX_VERSION}'"
    )


def check() -> None:
    """Imports `mlx.core` and checks its version.

    Raises:
        ImportError: There is no usable MLX, or it has another version; the message says what to
            install.
    """
    try:
        import mlx.core as mx
    except ImportError as error:
        raise ImportError(
            f"mlx_graft needs MLX {MLX_VERSION} with a backend ({error}). Run {_remedy()}"
        ) from error
    version = getattr(mx, "__version__", "unknown")
    if version != MLX_VERSION:
        raise ImportError(
            f"mlx_graft is built for MLX {MLX_VERSION}, and {version} is installed. Run {_remedy()}"
        )


check()
