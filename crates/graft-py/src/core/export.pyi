from collections.abc import Callable
from os import PathLike
from typing import Any, final

def export_function(
    file_or_callback: str | PathLike[str] | Callable[[dict[str, Any]], object],
    fun: Callable[..., Any],
    *args: Any,
    shapeless: bool = False,
    metadata: str | None = None,
    **kwargs: Any,
) -> None:
    """Exports a function to a file, or gives its graph to a callback.

    The arguments are example inputs: arrays by position and by keyword, or one tuple of arrays and
    one dict of arrays. A callback gets a dict for each part of the graph.

    Raises: `ValueError` for other inputs or outputs, `RuntimeError` for a file that cannot be
    written, and what the function or the callback raises; then a file has its old content.
    """

def import_function(file: str | PathLike[str], return_metadata: bool = False) -> Any:
    """Imports a function from a file.

    The function takes arrays as `export_function` does, and returns a tuple of arrays. With
    `return_metadata`, returns the function and the text that was saved beside it.

    Raises: `RuntimeError` if the file is missing or no exported function.
    """

@final
class FunctionExporter:
    """Exports several traces of one function to a file, which is there when this is closed."""

    def __call__(self, *args: Any, **kwargs: Any) -> None: ...
    def close(self) -> None:
        """Puts the file in its place."""
    def __enter__(self) -> FunctionExporter: ...
    def __exit__(
        self,
        exc_type: object | None = None,
        exc_value: object | None = None,
        traceback: object | None = None,
    ) -> None: ...

def exporter(
    file: str | PathLike[str],
    fun: Callable[..., Any],
    *,
    shapeless: bool = False,
    metadata: str | None = None,
) -> FunctionExporter:
    """Makes an exporter of several traces of one function.

    Raises: `RuntimeError` if the file cannot be written.
    """

def export_to_dot(file: object, *args: Any, **kwargs: array) -> None:
    """Writes the graph that computes arrays in the DOT language, to a path or a file object.

    Keywords name arrays of the graph.
    """
