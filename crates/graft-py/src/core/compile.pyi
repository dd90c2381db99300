from collections.abc import Callable

def compile(
    fun: Callable[_P, _R],
    inputs: object | None = None,
    outputs: object | None = None,
    shapeless: bool = False,
) -> Callable[_P, _R]:
    """A function that runs `fun` once for each combination of shapes, dtypes and constants in its
    arguments, and the graph found then afterwards.

    Arrays in the trees `inputs` are inputs too, those in `outputs` are written to with what `fun`
    left there. With `shapeless`, a trace serves all shapes.
    """

def disable_compile() -> None:
    """Lets compiled functions run as they are, everywhere."""

def enable_compile() -> None:
    """Undoes `disable_compile` and the environment variable `MLX_DISABLE_COMPILE`."""
