def is_available() -> bool:
    """Whether MLX has Metal and finds a device."""

def start_capture(path: str) -> None:
    """Starts to capture what runs on the GPU into a `.gputrace` file. Nothing happens without
    Metal."""

def stop_capture() -> None:
    """Ends the capture. Nothing happens without Metal."""

def device_info() -> dict[str, str | int]:
    """`mlx_graft.core.device_info` of the GPU, under its former name."""

def get_active_memory() -> int:
    """`mlx_graft.core.get_active_memory`, under its former name."""

def get_peak_memory() -> int:
    """`mlx_graft.core.get_peak_memory`, under its former name."""

def get_cache_memory() -> int:
    """`mlx_graft.core.get_cache_memory`, under its former name."""

def reset_peak_memory() -> None:
    """`mlx_graft.core.reset_peak_memory`, under its former name."""

def set_memory_limit(limit: int) -> int:
    """`mlx_graft.core.set_memory_limit`, under its former name."""

def set_cache_limit(limit: int) -> int:
    """`mlx_graft.core.set_cache_limit`, under its former name."""

def set_wired_limit(limit: int) -> int:
    """`mlx_graft.core.set_wired_limit`, under its former name."""

def clear_cache() -> None:
    """`mlx_graft.core.clear_cache`, under its former name."""
