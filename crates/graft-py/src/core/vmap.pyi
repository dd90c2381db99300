from collections.abc import Callable

def vmap(fun: Callable[_P, _R], in_axes: object = 0, out_axes: object = 0) -> Callable[_P, _R]:
    """A function that calls `fun`, written for single items, on whole batches at once.

    `in_axes` and `out_axes` say which axis numbers the items: an integer, or a tree that is a
    prefix of the arguments or of what `fun` returns, with `None` for what all items share.
    """
