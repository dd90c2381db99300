# Everything lands in .venv, target and (make demo) demo; nothing needs root.
# `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Flags of `make bench`, such as `BENCH=--quick` or `BENCH="inference --fresh"`, and of `make wheel`,
# such as `WHEEL="--compatibility manylinux_2_35"`.
BENCH ?=
WHEEL ?=
# The interpreter that makes .venv, and MLX's backend on Linux: cpu, cuda12 or cuda13.
PYTHON ?= python3
MLX_BACKEND ?= cpu
MLX_VERSION := 0.32.2

# The build scripts find MLX through this environment; cargo rebuilds when one of these changes, so
# they are the same for every recipe.
export VIRTUAL_ENV := $(CURDIR)/.venv
export PYO3_PYTHON := $(VIRTUAL_ENV)/bin/python
export PATH := $(VIRTUAL_ENV)/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME
# An extension module does not link libpython; maturin says so to PyO3 in this way, and without it
# cargo and maturin would compile PyO3 in turns.
export PYO3_BUILD_EXTENSION_MODULE := 1

# What is tested again with MLX's own operations on the CPU: the graph is that of a GPU.
WITHOUT_KERNELS := tests/parity/test_training.py tests/parity/test_generation.py \
	tests/parity/test_logits.py -k 'not many_lengths'

SETUP := .venv/.made-from-pyproject
# Doctests get no link arguments from a build script: they find libmlx through the loader's path.
MLX_LIB = $$(python -c 'import mlx, pathlib; print(next(p for p in map(pathlib.Path, mlx.__path__) if (p / "lib").is_dir()) / "lib")')
WITH_MLX = export LD_LIBRARY_PATH="$(MLX_LIB):$${LD_LIBRARY_PATH:-}" DYLD_LIBRARY_PATH="$(MLX_LIB):$${DYLD_LIBRARY_PATH:-}";

.PHONY: help setup install build demo test test-rust test-python parity leakcheck gen lint format licences \
	bench bench-peers docs wheel sdist

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 14

$(SETUP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	python -m pip install --quiet --upgrade 'pip>=25.1'
	python -m pip install --quiet --group dev 'mlx[$(MLX_BACKEND)]==$(MLX_VERSION)'
	touch $@

setup: $(SETUP) ## Make .venv with everything from PyPI.

install: $(SETUP) ## Compile the Rust code for use, optimised, and install the package into .venv.
	maturin develop --release

build: $(SETUP) ## The same for development: compiles faster, runs slower. Tests and the demo use it.
	maturin develop

demo: build ## Train a small language model, LoRA-tune it, print samples, plot demo/loss.png.
	python examples/demo.py

test: lint gen-check docs test-rust test-python ## Run every test and linter.

.PHONY: gen-check
gen-check: $(SETUP)
	cargo xtask gen --check
	cargo xtask coverage --check

test-rust: build
	$(WITH_MLX) cargo test --workspace --exclude graft-py --lib --bins --tests
	$(WITH_MLX) cargo test --workspace --exclude graft-py --doc

test-python: build
	cargo build --package graft-train
	python -m mypy.stubtest mlx_graft._core mlx_graft.core --ignore-missing-stub
	python -m pytest
	if python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("mlx_lm"))'; then \
		GRAFT_MAX_ISA=none python -m pytest $(WITHOUT_KERNELS); \
	else \
		echo "Not tested: training and generation with MLX's own operations. mlx-lm is needed" \
			"for it, and it needs Python 3.11."; \
	fi

parity: build ## Compare every operation with mlx.core on many random shapes, layouts and numbers.
	PARITY_EXAMPLES=200 python -m pytest tests/parity/test_ops.py tests/parity/test_random_cases.py

leakcheck: build ## Repeat everything 100,000 times, then valgrind and AddressSanitizer; takes long.
	export LEAK_REPETITIONS=100000; $(WITH_MLX) cargo test --package mlx-graft --test leaks
	LEAK_REPETITIONS=100000 python -m pytest tests/python/test_leaks.py
	$(WITH_MLX) tests/leakcheck.sh

gen: $(SETUP) ## Write the generated sources again, after a change of ops.toml or of mlx-c.
	cargo xtask gen

lint: build ## Check formatting, types, lints and licences.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	ruff format --check .
	ruff check .
	mypy
	if cargo deny --version >/dev/null 2>&1; then cargo deny check licenses bans sources; fi

format: $(SETUP) ## Format all sources.
	cargo fmt --all
	ruff format .
	ruff check --fix .

licences: ## Write THIRD-PARTY-LICENSES again, after a change of dependencies; needs cargo-about.
	cargo about generate --frozen --manifest-path crates/graft-py/Cargo.toml --config about.toml \
		--fail about.hbs --output-file THIRD-PARTY-LICENSES

bench: install ## Measure against mlx-lm, PyTorch and llama.cpp; writes docs/benchmarks.md.
	cargo build --release --package graft-train
	cargo bench --no-run --package graft-kernels --package graft-lm
	$(WITH_MLX) python bench/run.py --page benchmarks $(BENCH)

bench-peers: ## Install PyTorch, PEFT and llama.cpp into .venv-peers: gigabytes, and minutes.
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	CMAKE_ARGS="-DGGML_NATIVE=ON" .venv-peers/bin/python -m pip install --requirement bench/peers.txt

docs: $(SETUP) ## Build the Rust API reference into target/doc.
	RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps --exclude xtask --exclude graft-py

wheel: $(SETUP) ## Build a wheel for the Python of .venv into dist.
	maturin build --release --out dist $(WHEEL)

sdist: $(SETUP) ## Build the source distribution into dist.
	maturin sdist --out dist
