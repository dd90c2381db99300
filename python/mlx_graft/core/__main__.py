"""`python -m mlx_graft.core --self-test`: is what is installed here equal to `mlx.core`?"""

from __future__ import annotations

import argparse
import sys

import mlx.core as mx

from mlx_graft.core._self_test import run


def main() -> int:
    """Runs the self-test.

    Returns:
        0 if every comparison came out equal or within tolerance, 1 if one did not, and 3 if the
        time was up before everything was compared once.
    """
    parser = argparse.ArgumentParser(prog="python -m mlx_graft.core", description=__doc__)
    parser.add_argument(
        "--self-test",
        action="store_true",
        required=True,
        help="compare values, gradients and errors of all operations with those of mlx.core",
    )
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="stop after about this time (default: 120)"
    )
    parser.add_argument(
        "--device", choices=["cpu", "gpu"], help="where to run (default: MLX's default device)"
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of the arrays (default: 7)")
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error("--seconds must be above 0")
    if options.device is not None:
        device = mx.Device(mx.cpu if options.device == "cpu" else mx.gpu)
        if not mx.is_available(device):
            parser.error(f"--device {options.device}: MLX has no such device here")
        mx.set_default_device(device)
    return run(options.seconds, options.seed)


if __name__ == "__main__":
    sys.exit(main())
