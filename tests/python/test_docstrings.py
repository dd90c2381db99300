"""`help()` says what every public function, method and property is for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest

import mlx_graft as mg
from mlx_graft import _core


def undocumented(module: ModuleType) -> Iterator[str]:
    """Names the functions and classes without a docstring, and what such classes have."""
    for name, found in inspect.getmembers(module):
        ours = inspect.isclass(found) and found.__module__.startswith("mlx_graft")
        if name.startswith("_") or not (ours or inspect.isroutine(found)):
            continue
        if not found.__doc__:
            yield name
        for member, value in inspect.getmembers(found) if ours else ():
            documentable = inspect.isroutine(value) or inspect.isdatadescriptor(value)
            if not member.startswith("_") and documentable and not value.__doc__:
                yield f"{name}.{member}"


@pytest.mark.parametrize("module", [mg, mg.core, mg.kernels, _core], ids=lambda m: m.__name__)
def test_every_public_name_is_documented(module: ModuleType) -> None:
    assert not list(undocumented(module))
