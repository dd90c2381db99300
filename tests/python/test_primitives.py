"""`examples/softplus`: an operation of somebody else's extension module, under all of MLX."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_graft as mg
from mlx_graft._runtime import MLX_VERSION
from support.leaks import counters, repeat
from support.outside import clean_environment, outside_environment
from support.run import succeed

pytestmark = pytest.mark.slow

Function = Callable[..., Any]


@pytest.fixture(scope="module")
def site(root: Path) -> Path:
    """The wheel of a copy of the example, unpacked; the copy has failing operations as well."""
    source = root / "target/softplus"  # as deep as the example: its paths still fit
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "examples/softplus", source)
    shutil.copy(root / "Cargo.lock", source)
    shutil.copy(root / "tests/support/failing.rs", source / "src")
    with (source / "src/lib.rs").open("a") as file:
        file.write("\nmod failing;\n")
    command = ["maturin", "build", "--profile=dev", "--out=dist"]
    environment = {**os.environ, **outside_environment(root), "PYO3_PYTHON": sys.executable}
    succeed(*command, f"--interpreter={sys.executable}", cwd=source, env=environment, timeout=600)
    (wheel,) = (source / "dist").glob("softplus-*.whl")
    site = source / "site"
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "libmlx" in name], "a second libmlx"
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def softplus(site: Path) -> ModuleType:
    sys.path.insert(0, str(site))
    try:
        return importlib.import_module("softplus")
    finally:
        sys.path.remove(str(site))


def load_failing(path: str) -> ModuleType:
    """The second module in the file of the first."""
    loader = importlib.machinery.ExtensionFileLoader("_failing", path)
    spec = importlib.util.spec_from_file_location("_failing", path, loader=loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def failing(softplus: ModuleType) -> ModuleType:
    return load_failing(softplus._softplus.__file__)


def in_mlx(x: mx.array, sharpness: float = 1.0) -> mx.array:
    return mx.logaddexp(0.0, sharpness * x)


def slope_in_mlx(x: mx.array, sharpness: float = 1.0) -> mx.array:
    return sharpness * mx.sigmoid(sharpness * x)


def numbers(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32))


def close(found: Any, expected: Any) -> None:
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            close(*pair)
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 0, 3), (3, 4, 5)])
def test_values(softplus: ModuleType, shape: tuple[int, ...]) -> None:
    x = numbers(*shape)
    close(softplus.softplus(x), in_mlx(x))
    close(softplus.softplus_and_slope(x, 2.5), (in_mlx(x, 2.5), slope_in_mlx(x, 2.5)))


def test_views(softplus: ModuleType) -> None:
    x = numbers(4, 6)
    for view in (x.T, x[::2, ::-1], mx.broadcast_to(x[0], (3, 6))):
        close(softplus.softplus(view), in_mlx(view))


def test_arrays_cross_without_evaluation(softplus: ModuleType) -> None:
    mx.synchronize()
    before = mx.get_active_memory()
    y = softplus.softplus(mx.zeros((1024, 1024)), sharpness=3.0)
    assert mx.get_active_memory() - before < 1 << 20
    assert mx.all(y == y[0, 0]).item()


def gradient(f: Function) -> Function:
    return mx.grad(lambda x: f(x, 1.5).sum())


TRANSFORMED: dict[str, Callable[[Function, mx.array], Any]] = {
    "grad": lambda f, x: gradient(f)(x),
    "value_and_grad": lambda f, x: mx.value_and_grad(lambda x: f(x).square().sum())(x),
    "second derivative": lambda f, x: mx.grad(lambda x: gradient(f)(x).square().sum())(x),
    "vjp": lambda f, x: mx.vjp(f, [x], [x + 1]),
    "jvp": lambda f, x: mx.jvp(f, [x], [x + 1]),
    "vmap": lambda f, x: mx.vmap(f, in_axes=1, out_axes=0)(x),
    "vmap of grad": lambda f, x: mx.vmap(gradient(f))(x),
    "grad of vmap": lambda f, x: gradient(lambda x, k: mx.vmap(lambda row: f(row, k))(x))(x),
    "jvp of grad": lambda f, x: mx.jvp(gradient(f), [x], [mx.ones_like(x)]),
    "compile": lambda f, x: [mx.compile(f)(x), mx.compile(f, shapeless=True)(x)],
    "compile merges": lambda f, x: mx.compile(lambda x: f(x) + f(x) * f(x, 2.0))(x),
    "compile of grad": lambda f, x: mx.compile(gradient(f))(x),
    "checkpoint": lambda f, x: mx.grad(lambda x: mx.checkpoint(f)(x).sum())(x),
    "grad of mlx_graft": lambda f, x: mg.core.grad(lambda x: f(x).sum())(x),
    "vmap of mlx_graft": lambda f, x: mg.core.vmap(f)(x),
    "compile of mlx_graft": lambda f, x: mg.core.compile(f)(x),
    "beside mlx_graft": lambda f, x: mx.grad(lambda x: mg.core.sum(mg.core.exp(f(x))))(x),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformed(softplus: ModuleType, name: str) -> None:
    x = numbers(5, 4)
    close(TRANSFORMED[name](softplus.softplus, x), TRANSFORMED[name](in_mlx, x))


def test_the_second_output(softplus: ModuleType) -> None:
    x, weight = numbers(8), numbers(8, seed=1)

    def ours(x: mx.array) -> mx.array:
        value, slope = softplus.softplus_and_slope(x, 2.0)
        return (value * slope * weight).sum()

    def theirs(x: mx.array) -> mx.array:
        return (in_mlx(x, 2.0) * slope_in_mlx(x, 2.0) * weight).sum()

    for transform in (mx.grad, lambda f: mx.compile(mx.grad(f))):
        close(transform(ours)(x), transform(theirs)(x))
    close(mx.jvp(ours, [x], [weight]), mx.jvp(theirs, [x], [weight]))


def test_wrong_arguments(softplus: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"\[softplus\] int32 is not float32"):
        softplus.softplus(mx.array([1, 2]))
    for wrong in (1.0, [1.0], None, np.zeros(3)):
        with pytest.raises(TypeError, match=r"an mlx\.core\.array"):
            softplus.softplus(wrong)
    with pytest.raises(TypeError):
        softplus.softplus(mx.zeros(3), sharpness="high")


def test_a_panic_outside_of_kernels(failing: ModuleType) -> None:
    with pytest.raises(BaseException, match="on purpose") as caught:
        failing.failing(mx.ones(3), "specs panic")
    assert caught.type.__name__ == "PanicException"
    with pytest.raises(ValueError, match=r"\[failing\] refuses"):
        failing.failing(mx.ones(3), "specs error")


@pytest.mark.parametrize("m", [mx, mg.core], ids=["mlx.core", "mlx_graft.core"])
@pytest.mark.parametrize("at", ["vjp", "jvp", "vmap"])
@pytest.mark.parametrize(
    ("how", "exception", "text"),
    [
        ("", RuntimeError, r"\[failing\] .* is not implemented for this operation"),
        (" panic", RuntimeError, "on purpose"),
        (" index", IndexError, "axis"),
        (" dtype", ValueError, "is float32, not int8"),
    ],
)
def test_derivatives_that_fail(
    failing: ModuleType, m: ModuleType, at: str, how: str, exception: type[Exception], text: str
) -> None:
    """The transformation is another library's, and raises what the callback says."""

    def f(x: mx.array) -> mx.array:
        return failing.failing(x, at + how)

    x = mx.ones(3)
    run = {
        "vjp": lambda: m.vjp(f, [x], [x]),
        "jvp": lambda: m.jvp(f, [x], [x]),
        "vmap": lambda: m.vmap(f)(mx.ones((2, 3))),
    }
    with pytest.raises(exception, match=text):
        run[at]()
    # Nothing of it is left for the next failure.
    with pytest.raises(ValueError, match="refuses"):
        failing.failing(x, "specs error")
    close(mx.vjp(lambda x: failing.failing(x, ""), [x], [x])[1], [x])


def test_eight_threads(softplus: ModuleType) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            compiled = mx.compile(gradient(softplus.softplus))
            for turn in range(25):
                x = numbers(33, 7, seed=100 * seed + turn)
                close(softplus.softplus(x), in_mlx(x))
                close(compiled(x), gradient(in_mlx)(x))
                close(mx.vmap(softplus.softplus)(x), in_mlx(x))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_thousand_repetitions_leave_nothing(softplus: ModuleType, failing: ModuleType) -> None:
    x = numbers(16, 16)
    derivative = mx.value_and_grad(lambda x: softplus.softplus(x).sum())
    compiled = mx.compile(lambda x: softplus.softplus_and_slope(x)[1])

    def once() -> None:
        mx.eval(derivative(x), compiled(x), mx.vmap(softplus.softplus)(x))
        mx.eval(mx.jvp(softplus.softplus, [x], [x]))
        with pytest.raises(TypeError):
            softplus.softplus("text")
        with pytest.raises(ValueError, match="refuses"):
            failing.failing(x, "specs error")
        with pytest.raises(RuntimeError, match="not implemented"):
            mx.grad(lambda x: failing.failing(x, "vjp").sum())(x)

    repeat(once, 1000, lambda: (*counters(), softplus.live_handles()))


def python(site: Path, code: str) -> str:
    here = Path(__file__).parent
    folders = [site, here, here.parent, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(map(str, folders))
    environment = {**clean_environment(), "PYTHONPATH": path}
    return succeed(sys.executable, "-c", textwrap.dedent(code), env=environment)


def test_failing_kernels(site: Path) -> None:
    """In a process of their own: MLX counts the tasks that failed as running."""
    code = """
        import softplus, mlx_graft, mlx.core as mx
        from test_primitives import load_failing
        module = load_failing(softplus._softplus.__file__)
        for how in ("kernel error", "kernel panic"):
            for evaluate in (mx.eval, mlx_graft.core.eval, module.evaluate):
                try:
                    evaluate(module.failing(mx.ones(3), how))
                except RuntimeError as error:
                    print(error)
                assert module.failing(mx.ones(3), "").tolist() == [1, 1, 1]
    """
    error, panic = "[failing] fails as planned\n", "[failing] the kernel panicked: on purpose\n"
    assert python(site, code) == 3 * error + 3 * panic


def test_alone_in_a_process(site: Path) -> None:
    code = """
        import sys, softplus, mlx.core as mx
        y, slope = mx.value_and_grad(lambda x: softplus.softplus(x).sum())(mx.zeros(2))
        print(slope.tolist(), "mlx_graft" in sys.modules)
    """
    assert python(site, code) == "[0.5, 0.5] False\n"


@pytest.mark.parametrize("order", ["softplus, mlx_graft", "mlx_graft, softplus"])
def test_imported_in_either_order(site: Path, order: str) -> None:
    code = f"""
        import {order}, mlx.core as mx
        f = lambda x: mlx_graft.core.sum(softplus.softplus(mlx_graft.core.square(x)))
        print(mx.grad(f)(mx.ones(1)).item() - 2 * mx.sigmoid(mx.array(1.0)).item())
    """
    assert abs(float(python(site, code))) < 1e-6


def test_another_version_of_mlx_is_refused(site: Path) -> None:
    code = """
        import mlx.core as mx
        mx.__version__ = "0.99.0"
        try:
            import softplus
        except ImportError as error:
            print(error)
    """
    assert f"pip install 'mlx=={MLX_VERSION}'" in python(site, code)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads an ELF file")
def test_nothing_is_exported_but_the_entries(softplus: ModuleType) -> None:
    """mlx-c and nanobind are linked in statically: two modules must not see each other's."""
    command = ["nm", "--dynamic", "--defined-only", "--format=just-symbols"]
    names = succeed(*command, softplus._softplus.__file__).split()
    assert {name for name in names if not name.startswith("PyInit_")} == set()


def test_the_guide_shows_this_example(root: Path) -> None:
    guide = (root / "docs/primitives.md").read_text()
    for file in ("src/operation.rs", "src/lib.rs", "build.rs", "python/softplus/__init__.py"):
        text = (root / "examples/softplus" / file).read_text()
        code = text.removeprefix("//! The operation.\n").strip()
        assert code in guide, file
