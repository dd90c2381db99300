"""Functions that take indices build the graph of `mlx.core`: no checks, so it can be exported."""

import mlx.core as mx
import pytest

from mlx_graft import core


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("take", lambda x, i: (x, i, 0)),
        ("take_along_axis", lambda x, i: (x, i[:, None], 1)),
        ("put_along_axis", lambda x, i: (x, i[:, None], mx.ones((3, 1)), 1)),
        ("slice", lambda x, i: (x, i[:1], (0,), (2, 3))),
        ("gather_mm", lambda x, i: (x[:, None, :], x[:, :, None], i, i)),
    ],
)
def test_the_graph_is_that_of_mlx(name, arguments, tmp_path):
    x, indices = mx.arange(9.0).reshape(3, 3), mx.array([1, 0, 2])
    results = []
    for module in (mx, core):
        function = getattr(module, name)
        file = str(tmp_path / f"{module.__name__}.mlxfn")
        mx.export_function(file, lambda x, i, f=function: f(*arguments(x, i + 0)), x, indices)
        results += mx.import_function(file)(x, indices)
    assert mx.array_equal(*results)
