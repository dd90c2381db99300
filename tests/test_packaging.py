"""The ways to get this project other than a checkout: a dependent crate, an sdist, no Python.

And how its crates are found and read about.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

import pytest

from support.outside import MLX, clean_environment, outside_environment
from support.run import succeed

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


def run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    return succeed(*command, env={**clean_environment(), **(env or {})}, cwd=cwd, timeout=600)


@pytest.mark.slow
def test_a_crate_outside_the_workspace(root: Path) -> None:
    """It builds and runs without Python: two variables say where MLX and mlx-c are."""
    environment = {
        **outside_environment(root),
        "PYO3_PYTHON": "/nonexistent",
        "VIRTUAL_ENV": "/nonexistent",
    }
    crate = root / "tests/external-crate"
    # The versions that the workspace is tested with.
    shutil.copy(root / "Cargo.lock", crate / "Cargo.lock")
    assert run("cargo", "run", "--quiet", cwd=crate, env=environment) == "y = 2.000 x + 1.000\n"


def test_crates_say_what_they_are(root: Path) -> None:
    """crates.io shows these, and refuses a crate without some of them."""
    for manifest in (root / "mlx-c/Cargo.toml", *root.glob("crates/*/Cargo.toml")):
        package = tomllib.loads(manifest.read_text())["package"]
        if package.get("publish", True):
            wanted = {"description", "license", "repository", "readme", "categories", "keywords"}
            assert wanted <= package.keys(), package["name"]


@pytest.mark.slow
def test_documentation_is_built_without_mlx(root: Path, tmp_path: Path) -> None:
    """docs.rs sets the variable, and has neither MLX nor a network."""
    environment = {
        "DOCS_RS": "1",
        "CARGO_NET_OFFLINE": "true",
        "CARGO_TARGET_DIR": str(tmp_path),
        **dict.fromkeys(("MLX_C_SOURCE_DIR", "PYO3_PYTHON", "VIRTUAL_ENV"), "/nonexistent"),
    }
    command = ("cargo", "doc", "--quiet", "--no-deps", "--package", "mlx-c-sys")
    run(*command, cwd=root, env=environment)
    assert (tmp_path / "doc/mlx_c_sys/index.html").exists()


@pytest.mark.slow
def test_the_source_distribution(root: Path, tmp_path: Path) -> None:
    """It holds all it needs: pip builds and installs it into an environment of its own."""
    run("maturin", "sdist", "--out", tmp_path, cwd=root)
    (archive,) = tmp_path.glob("mlx_graft-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = [name.split("/", 1)[1] for name in tar.getnames()]
    licences = {"LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY-LICENSES"}
    for needed in (*licences, "Cargo.lock", "mlx-c/ext/graft_error.cpp", "mlx-c/build.rs"):
        assert any(name.endswith(needed) for name in names), needed

    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    # maturin and MLX are those of the outer environment: this tests the sdist, not the network.
    site = f"import site; site.addsitedir({str(MLX.parent)!r})"
    packages = run(python, "-c", "import site; print(site.getsitepackages()[0])").strip()
    (Path(packages) / "outer.pth").write_text(site + "\n")
    environment = {
        "PYO3_PYTHON": str(python),
        "VIRTUAL_ENV": str(tmp_path / "venv"),
        "CARGO_TARGET_DIR": str(root / "target"),
    }
    options = ["--no-build-isolation", "--no-deps", "--config-settings", "build-args=--profile=dev"]
    run(python, "-m", "pip", "install", *options, archive, env=environment)
    code = "import mlx_graft as mg; print(mg.__file__); print(mg.capi.library())"
    printed = run(python, "-c", code, cwd=tmp_path, env={"PYTHONPATH": ""})
    module, library = printed.splitlines()
    assert Path(module).is_relative_to(tmp_path)
    assert Path(library).is_relative_to(tmp_path)
    assert not list(Path(module).parent.rglob("libmlx.*")), "no second libmlx"
    (folder,) = Path(packages).glob("mlx_graft-*.dist-info/licenses")
    assert {path.name for path in folder.iterdir()} == licences
