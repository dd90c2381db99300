def get_active_memory() -> int:
    """Bytes in use by arrays."""

def get_peak_memory() -> int:
    """The most bytes in use by arrays since the start or since `reset_peak_memory`."""

def get_cache_memory() -> int:
    """Bytes kept for reuse."""

def reset_peak_memory() -> None:
    """Starts the peak anew."""

def set_memory_limit(limit: int) -> int:
    """Sets the memory limit in bytes, a guideline for the allocator; returns the previous one."""

def set_cache_limit(limit: int) -> int:
    """Sets how many bytes are kept for reuse at most; returns the previous limit."""

def set_wired_limit(limit: int) -> int:
    """Sets how many bytes stay resident on a GPU at most; returns the previous limit."""

def clear_cache() -> None:
    """Gives the memory kept for reuse back to the system."""
