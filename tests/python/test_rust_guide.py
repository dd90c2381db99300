"""The Python half of the program in docs/rust.md runs; a doctest runs the half in Rust."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from support.run import succeed


def test_the_program_in_python(root: Path) -> None:
    text = (root / "docs/rust.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
    shape, weights = succeed(sys.executable, "-c", program).splitlines()
    assert shape.startswith("(2, 3)")
    assert weights.startswith("[1.0, -2.0, 0.5]")
