#!/usr/bin/env bash
# `make leakcheck` after the long repetitions: the tests of mlx-graft and of graft-kernels under
# valgrind's memcheck, and with AddressSanitizer where a nightly toolchain allows it.
# LEAK_REPETITIONS is small here, as every instruction is slow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LEAK_REPETITIONS=3
tests=(--package mlx-graft --lib --test closures --test containers --test host_data --test leaks)
kernels=(--package graft-kernels --lib --tests)
host=$(rustc -vV | sed -n 's/^host: //p')

if command -v valgrind >/dev/null; then
    # Cargo runs each test binary through this program.
    runner=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER
    echo "valgrind memcheck, $(valgrind --version):"
    # What MLX keeps to the end is still reachable; what it loses is in the file of suppressions.
    export "$runner=valgrind --quiet --error-exitcode=9 --leak-check=full \
--suppressions=$PWD/tests/valgrind.supp \
--show-leak-kinds=definite --errors-for-leak-kinds=definite --num-callers=30"
    cargo test "${tests[@]}" -- --test-threads=1
    # Valgrind knows no AVX-512, and its CPUID says so: the kernels, which choose when they run, take
    # their AVX2 paths here. AddressSanitizer below sees those of the processor.
    cargo test "${kernels[@]}" -- --test-threads=1
    unset "$runner"
else
    echo "skipped: valgrind is not installed"
fi

if rustc +nightly -vV >/dev/null 2>&1; then
    echo "AddressSanitizer, $(rustc +nightly --version):"
    # MLX keeps some memory to the end of the process, so leaks are left to valgrind.
    export ASAN_OPTIONS=detect_leaks=0 RUSTFLAGS="-Zsanitizer=address"
    for package in tests kernels; do
        declare -n chosen=$package
        cargo +nightly test --target "$host" --target-dir target/asan "${chosen[@]}"
    done
else
    echo "skipped: AddressSanitizer needs a nightly toolchain (rustup toolchain install nightly)"
fi
