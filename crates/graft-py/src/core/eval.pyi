from typing import Any

def eval(*args: Any) -> None:
    """Computes all arrays in trees, and waits. Other leaves are ignored."""

def async_eval(*args: Any) -> None:
    """Starts to compute all arrays in trees. Other leaves are ignored."""
