from os import PathLike
from typing import Any, BinaryIO

def load(
    file: BinaryIO | str | PathLike[str],
    /,
    format: str | None = None,
    return_metadata: bool = False,
    *,
    stream: _StreamOrDevice = None,
) -> Any:
    """Loads arrays from a file or a file object, by its ending or by `format`.

    An npy file gives an array, an npz, safetensors or gguf file a dict of arrays; with
    `return_metadata`, a safetensors or gguf file gives its metadata too. From a path, arrays are
    read when they are evaluated; from a file object, which must be seekable, at once.

    Raises: `ValueError` for an unknown format or dtype, or no npz file; `RuntimeError`, naming the
    file, if it is missing or broken; what the file object raises.
    """

def save(file: BinaryIO | str | PathLike[str], arr: array) -> None:
    """Saves an array in npy format.

    A path gets the ending `.npy`, and its old content until the new is whole.
    """

def savez(file: BinaryIO | str | PathLike[str], *args: array, **kwargs: array) -> None:
    """Saves arrays in npz format, by keyword or as `arr_0`, `arr_1`, ….

    A path gets the ending `.npz`, and its old content until the new is whole.
    """

def savez_compressed(
    file: BinaryIO | str | PathLike[str], /, *args: array, **kwargs: array
) -> None:
    """Saves arrays in npz format, deflated, by keyword or as `arr_0`, `arr_1`, ….

    A path gets the ending `.npz`, and its old content until the new is whole.
    """

def save_safetensors(
    file: BinaryIO | str | PathLike[str],
    arrays: dict[str, array],
    metadata: dict[str, str] | None = None,
) -> None:
    """Saves arrays and metadata in safetensors format.

    A path gets the ending `.safetensors`, and its old content until the new is whole.
    """

def save_gguf(
    file: str | PathLike[str],
    arrays: dict[str, array],
    metadata: dict[str, array | str | list[str]] | None = None,
) -> None:
    """Saves arrays and metadata in gguf format.

    A path gets the ending `.gguf`, and its old content until the new is whole.
    """
