def is_available() -> bool:
    """Whether MLX has CUDA and finds a device."""
