from mlx.core import array

def einsum_path(subscripts: str, *operands: array) -> tuple[list[tuple[int, ...]], str]:
    """The order in which `einsum` contracts the operands, and its costs as a text.

    A tuple has the positions of the operands of a contraction, whose result goes to the end.

    Raises: The subscripts do not fit the operands.
    """
