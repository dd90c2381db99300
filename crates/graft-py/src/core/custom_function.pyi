from collections.abc import Callable
from typing import Any, final

@final
class custom_function:
    """A function whose derivatives and vectorised form are given by rules.

    Used as a decorator; its methods `vjp`, `jvp` and `vmap` are decorators of the rules. A rule
    that is not given is found by transforming the function. Arrays that the function captures are
    constants, without a gradient.
    """

    def __new__(cls, f: Callable[..., Any]) -> custom_function: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def vjp(self, f: Callable[..., Any]) -> custom_function:
        """Sets the rule for vector-Jacobian products: a function of the positional arguments (the
        argument itself if there is one), the cotangents and the outputs, which returns a tree like
        the arguments.
        """

    def jvp(self, f: Callable[..., Any]) -> custom_function:
        """Sets the rule for Jacobian-vector products: a function of the positional arguments (the
        argument itself if there is one) and their tangents, with `None` where there is none, which
        returns a tree like the outputs.
        """

    def vmap(self, f: Callable[..., Any]) -> custom_function:
        """Sets the rule for vectorisation: a function of the positional arguments (the argument
        itself if there is one) and their axes, with `None` where there is none, which returns the
        outputs and their axes.
        """

def checkpoint(fun: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that returns what `fun` returns, and computes it again for a gradient in place of
    keeping what lies between.
    """
