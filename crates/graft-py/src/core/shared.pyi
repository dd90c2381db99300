from mlx_graft.core._shared import *  # noqa: F403

matrix_norm = linalg.norm
