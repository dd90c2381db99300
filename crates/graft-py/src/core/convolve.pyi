from mlx.core import array

def convolve(
    a: array,
    v: array,
    /,
    mode: str = "full",
    *,
    stream: _StreamOrDevice = None,
) -> array:
    """The discrete convolution of two sequences, as in `numpy.convolve`.

    `mode` is `full` (wherever they overlap), `same` (as long as the longer one) or `valid` (where
    one lies within the other).

    Shape: one dimension, as long as the mode says.

    Raises: An array has not one dimension or no elements, or the mode is unknown.
    """
