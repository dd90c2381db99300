"""`accelerate()` replaces MLX's operations, says what it leaves, and goes away again."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_graft as mg
from mlx_graft import kernels
from mlx_graft.accelerate._functions import REPLACEMENTS
from support.run import execute

bound_before = mx.matmul


@pytest.fixture(autouse=True)
def off_afterwards() -> Iterator[None]:
    """Leaves no test with the operations of another."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mg.accelerate(False)


@pytest.fixture
def accelerated() -> None:
    """Native operations for one test."""
    mg.accelerate()


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[mx.Device]:
    """The devices that native products were put on, as they are."""
    native, found = kernels.matmul, []

    def matmul(a: mx.array, b: mx.array) -> mx.array:
        found.append(mx.default_device())
        return native(a, b)

    monkeypatch.setattr(kernels, "matmul", matmul)
    return found


def attribute(owner: Any, name: str) -> object:
    """What stands under a name, not what looking it up makes of it."""
    return vars(owner)[name]


def present() -> list[object]:
    rows = [(owner, name) for owner, name, _ in REPLACEMENTS]
    rows += [(mx, name) for name in ("compile", "export_function", "exporter")]
    return [attribute(owner, name) for owner, name in rows]


def test_every_name_is_replaced_and_restored() -> None:
    before = present()
    names = mg.accelerate()
    during = present()
    assert len(names) == len(set(names)) == len(before)
    assert all(a is not b for a, b in zip(before, during, strict=True))
    for name in names:
        owner, _, attribute_name = name.rpartition(".")
        holder = mx.array if owner == "mlx.core.array" else sys.modules[owner]
        assert hasattr(holder, attribute_name), name
    assert mg.accelerate() == names
    assert all(a is b for a, b in zip(during, present(), strict=True)), "a second call is none"
    assert mg.accelerate(False) == []
    assert all(a is b for a, b in zip(before, present(), strict=True))
    assert mg.accelerate(False) == []


def test_replacements_look_like_the_originals() -> None:
    originals = {(owner, name): getattr(owner, name) for owner, name, _ in REPLACEMENTS}
    mg.accelerate()
    for (owner, name), original in originals.items():
        found = getattr(owner, name)
        assert found.__name__ == original.__name__
        assert found.__doc__ == original.__doc__


def test_products_are_native_only_meanwhile(products: list[mx.Device]) -> None:
    a = mx.ones((2, 3))
    mx.eval(a @ a.T)
    assert products == []
    mg.accelerate()
    mx.eval(a @ a.T, mx.matmul(a, a.T))
    assert len(products) == 2
    mg.accelerate(False)
    mx.eval(a @ a.T)
    assert len(products) == 2


@pytest.mark.usefixtures("accelerated")
def test_names_bound_before_stay(products: list[mx.Device]) -> None:
    mx.eval(bound_before(mx.ones((2, 2)), mx.ones((2, 2))))
    assert products == []


def test_a_compiled_function_is_named(products: list[mx.Device]) -> None:
    mg.accelerate()

    @mx.compile
    def compiled_meanwhile(x: mx.array) -> mx.array:
        return x @ x

    mx.eval(compiled_meanwhile(mx.ones((2, 2))))
    assert len(products) == 1
    with pytest.warns(UserWarning, match=r"compiled.*compiled_meanwhile") as found:
        mg.accelerate(False)
    assert [warning.filename for warning in found] == [__file__]
    # It still computes, and is not traced again.
    assert compiled_meanwhile(mx.ones((2, 2))).tolist() == [[2, 2], [2, 2]]
    assert len(products) == 1
    # A shape that it has not seen is traced anew, with MLX's own operations.
    assert compiled_meanwhile(mx.ones((3, 3))).tolist() == [[3] * 3] * 3
    assert len(products) == 1


def test_nothing_is_said_when_nothing_was_compiled() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mg.accelerate()
        mx.compile(lambda x: x @ x)  # never called, so never traced
        mg.accelerate(False)


def test_a_function_compiled_before_is_not_traced_again(products: list[mx.Device]) -> None:
    compiled = mx.compile(lambda x: x @ x)
    mx.eval(compiled(mx.ones((2, 2))))
    mg.accelerate()
    mx.eval(compiled(mx.ones((2, 2))))
    mg.accelerate(False)
    assert products == []


def test_a_gpu_keeps_its_own_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """There need not be one: only the default device is asked."""
    before = present()
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
    with pytest.warns(UserWarning, match="GPU") as found:
        assert mg.accelerate() == []
    assert [warning.filename for warning in found] == [__file__]
    assert all(a is b for a, b in zip(before, present(), strict=True))


@pytest.mark.usefixtures("accelerated")
def test_streams_and_devices(products: list[mx.Device]) -> None:
    a = mx.ones((2, 2))
    stream = mx.new_stream(mx.cpu)
    for where in (None, mx.cpu, mx.Device(mx.cpu, 0), stream):
        assert mx.matmul(a, a, stream=where).tolist() == [[2, 2], [2, 2]]
        assert mx.softmax(a, -1, stream=where).tolist() == [[0.5, 0.5], [0.5, 0.5]]
        assert mx.logsumexp(mx.zeros((1, 1)), axis=-1, stream=where).item() == 0
    assert products == [mx.Device(mx.cpu, 0)] * 4


@pytest.mark.usefixtures("accelerated")
def test_an_exported_function_has_mlx_operations(products: list[mx.Device], tmp_path: Path) -> None:
    def f(x: mx.array) -> mx.array:
        return mx.softmax(x @ x, axis=-1)

    x = mx.eye(3)
    wanted = f(x)
    assert len(products) == 1
    file = str(tmp_path / "f.mlxfn")
    mx.export_function(file, f, x)
    assert mx.allclose(mx.import_function(file)(x)[0], wanted).item()
    with mx.exporter(file, f) as exporter:
        exporter(x)
    assert mx.allclose(mx.import_function(file)(x)[0], wanted).item()
    assert len(products) == 1
    mx.eval(x @ x)
    assert len(products) == 2, "native again once it is exported"


@pytest.mark.usefixtures("accelerated")
def test_inputs_of_an_exported_function_have_any_name(tmp_path: Path) -> None:
    path, x = str(tmp_path / "f.mlxfn"), mx.ones((2, 2))
    mx.export_function(path, lambda file, original: file @ original, file=x, original=x)
    (found,) = mx.import_function(path)(file=x, original=x)
    assert found.tolist() == [[2, 2], [2, 2]]
    with mx.exporter(file=path, fun=lambda file: file @ file, shapeless=False) as exporter:
        exporter(file=x)
    assert mx.import_function(path)(file=x)[0].tolist() == [[2, 2], [2, 2]]


@pytest.mark.usefixtures("accelerated")
def test_a_function_that_fails_to_export_leaves_the_kernels(
    products: list[mx.Device], tmp_path: Path
) -> None:
    def f(_: mx.array) -> mx.array:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mx.export_function(str(tmp_path / "f.mlxfn"), f, mx.ones(2))
    mx.eval(mx.eye(2) @ mx.eye(2))
    assert len(products) == 1


def test_a_sum_over_everything_is_a_number() -> None:
    """MLX's `reshape` without arguments ends the process."""
    mg.accelerate()
    x = mx.arange(6.0).reshape(2, 3)
    assert mx.tensordot(x, x, 2).item() == 55
    assert mx.einsum("ij,ij->", x, x).item() == 55
    assert mx.inner(x[1], x[1]).item() == 50


A, B, C = mx.ones((2, 3)), mx.ones((4, 5)), mx.ones((2, 3, 4))
PACKED = mx.quantize(mx.ones((2, 8, 64)))
WRONG: dict[str, Callable[[], object]] = {
    "matmul of shapes": lambda: mx.matmul(A, B),
    "matmul of a number": lambda: mx.matmul(mx.array(1.0), A),
    "matmul of integers": lambda: mx.matmul(mx.array([[1]]), mx.array([[1]])),
    "@ of shapes": lambda: A @ B,
    "@ with a list": lambda: A @ [1, 2, 3],
    "addmm of shapes": lambda: mx.addmm(A, A, B),
    "addmm that grows": lambda: mx.addmm(mx.ones((7, 2, 4)), A, B.T[:3]),
    "inner of shapes": lambda: mx.inner(A, B),
    "tensordot of axes": lambda: mx.tensordot(A, B, 5),
    "tensordot of shapes": lambda: mx.tensordot(A, B, 1),
    "tensordot of pairs": lambda: mx.tensordot(A, B, [[0], [0, 1]]),
    "tensordot of an axis too far": lambda: mx.tensordot(A, A, [[7], [0]]),
    "einsum of shapes": lambda: mx.einsum("ij,jk", A, B),
    "einsum of an unknown output": lambda: mx.einsum("ij,jk->z", A, A.T),
    "einsum of no text": lambda: mx.einsum("", A, A.T),
    "einsum of signs": lambda: mx.einsum("i!,!k", A, A.T),
    "gather_mm of shapes": lambda: mx.gather_mm(C, C, None, mx.array([0, 1])),
    "gather_mm of no integers": lambda: mx.gather_mm(C, C.swapaxes(1, 2), None, mx.ones(2)),
    "gather_qmm of shapes": lambda: mx.gather_qmm(C, *PACKED, rhs_indices=mx.array([0, 1])),
    "softmax of an axis": lambda: mx.softmax(A, axis=4),
    "logsumexp of an axis": lambda: mx.logsumexp(A, axis=(0, 7)),
    "rms_norm of a weight": lambda: mx.fast.rms_norm(A, mx.ones(7), 1e-5),
    "rms_norm of a number": lambda: mx.fast.rms_norm(mx.array(1.0), None, 1e-5),
    "layer_norm of a weight": lambda: mx.fast.layer_norm(A, mx.ones(7), None, 1e-5),
    "layer_norm of a bias": lambda: mx.fast.layer_norm(A, mx.ones(3), mx.ones((3, 1)), 1e-5),
    "layer_norm of a number": lambda: mx.fast.layer_norm(mx.array(1.0), None, None, 1e-5),
    "rope of dimensions": lambda: mx.fast.rope(
        A, 2, traditional=False, base=1e4, scale=1.0, offset=0
    ),
    "rope of no base": lambda: mx.fast.rope(
        mx.ones((1, 1, 2, 4)), 4, traditional=False, base=None, scale=1.0, offset=0
    ),
    "attention of shapes": lambda: mx.fast.scaled_dot_product_attention(A, A, A, scale=1.0),
    "attention of a mask": lambda: mx.fast.scaled_dot_product_attention(
        *[mx.ones((1, 2, 3, 4))] * 3, scale=1.0, mask="diagonal"
    ),
    "attention of a mask's shape": lambda: mx.fast.scaled_dot_product_attention(
        *[mx.ones((1, 2, 3, 4))] * 3, scale=1.0, mask=mx.zeros((5, 5))
    ),
}


def failure(call: Callable[[], object]) -> tuple[type, str] | None:
    try:
        mx.eval(call())
    except Exception as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_mlx_own(name: str) -> None:
    wanted = failure(WRONG[name])
    mg.accelerate()
    assert failure(WRONG[name]) == wanted


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("name", ["matmul", "einsum", "softmax", "tensordot", "addmm"])
def test_a_call_without_arguments_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError):
        getattr(mx, name)()


@pytest.mark.usefixtures("accelerated")
def test_subscripts_that_are_no_text_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        mx.einsum(5, A, A.T)


@pytest.mark.usefixtures("accelerated")
def test_a_scale_of_all_experts_is_for_later_versions_of_mlx() -> None:
    """mlx-lm passes one, which is None but for a mode that this version does not have."""
    x, experts = mx.ones((2, 1, 64)), mx.array([0, 1])
    y = mx.gather_qmm(x, *PACKED, rhs_indices=experts, global_scale=None)
    assert y.tolist() == [[[64.0] * 8]] * 2
    with pytest.raises(TypeError):
        mx.gather_qmm(x, *PACKED, rhs_indices=experts, global_scale=mx.ones(2))


# The command


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return execute(sys.executable, "-m", "mlx_graft.accelerate", *arguments, cwd=cwd)


PROGRAM = """\
import sys
import mlx.core as mx
import mlx_graft
if __name__ == "__main__":
    print(sys.argv[1:], mx.matmul.__module__, "mlx.core.matmul" in mlx_graft.accelerate())
    print((mx.ones((2, 2)) @ mx.ones((2, 2))).tolist())
    import neighbour
    sys.exit(3)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with a script beside a module of its own."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "neighbour.py").write_text("print('neighbour')\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys; print('package', sys.argv[1:])\n")
    return tmp_path


@pytest.mark.parametrize("target", [["program.py"], ["-m", "program"]], ids=["script", "module"])
def test_the_command_runs(target: list[str], program: Path) -> None:
    found = run(*target, "-m", "--flag", cwd=program)
    assert found.returncode == 3, found.stderr
    lines = ["['-m', '--flag'] mlx.core True", "[[2.0, 2.0], [2.0, 2.0]]", "neighbour"]
    assert found.stdout.splitlines() == lines


def test_a_script_elsewhere_finds_its_neighbours(program: Path, tmp_path_factory: Any) -> None:
    found = run(program / "program.py", cwd=tmp_path_factory.mktemp("elsewhere"))
    assert found.returncode == 3, found.stderr
    assert found.stdout.splitlines()[-1] == "neighbour"


SAYS_WHERE = """\
import os
import sys
os.chdir("/")
print(__file__)
print([os.path.realpath(folder) for folder in sys.path])
"""


@pytest.mark.parametrize("flags", [[], ["-I"], *([["-P"]] if sys.version_info >= (3, 11) else [])])
def test_a_script_finds_what_it_finds_without_the_command(flags: list[str], tmp_path: Path) -> None:
    """The folders that are searched, in order, are those of `python script.py`."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/where.py").write_text(SAYS_WHERE)
    script = "scripts/where.py"
    command = [sys.executable, *flags, "-m", "mlx_graft.accelerate", script]
    found = execute(*command, cwd=tmp_path)
    wanted = execute(sys.executable, *flags, script, cwd=tmp_path)
    assert found.returncode == wanted.returncode == 0, found.stderr
    assert found.stdout == wanted.stdout
    assert wanted.stdout.startswith(str(tmp_path))
    assert (repr(str(tmp_path / "scripts")) in found.stdout) == (not flags)
    assert repr(str(tmp_path)) not in found.stdout


def test_a_module_finds_what_it_finds_without_the_command(program: Path) -> None:
    (program / "where.py").write_text(SAYS_WHERE)
    found = run("-m", "where", cwd=program)
    wanted = execute(sys.executable, "-m", "where", cwd=program)
    assert found.stdout == wanted.stdout != ""


def test_a_package_runs_as_a_module(program: Path) -> None:
    found = run("-m", "package", "a", cwd=program)
    assert found.stdout == "package ['a']\n", found.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "usage"),
        ([], 2, "usage"),
        (["-m"], 2, "usage"),
        (["--unknown"], 2, "usage"),
        (["-m", "no_such_module"], 1, "no module named no_such_module"),
        (["-m", "package.missing"], 1, "no module named package.missing"),
        (["-m", "no_such_package.module"], 1, "no module named no_such_package.module"),
        (["missing.py"], 1, "missing.py"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], code: int, says: str, program: Path
) -> None:
    found = run(*arguments, cwd=program)
    assert found.returncode == code
    assert says in (found.stdout if code == 0 else found.stderr)
    assert "Traceback" not in found.stderr
