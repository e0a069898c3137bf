"""What an error says: the argument, what was expected of it, what was got, and the way out."""

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

Error = TypeVar("Error", bound=Exception)

OTHER_NAMES = {
    "dim": "axis",
    "input": "logits or log_probs or hidden or x",
    "mask": "sample_weight",
    "pos_weight": "class_weight",
    "reduce": "reduction",
    "size_average": "reduction",
    "target": "labels",
    "weight": "class_weight or sample_weight",
    "where": "sample_weight",
    "y_pred": "logits or log_probs",
    "y_true": "labels",
}
"""What other libraries call arguments, where that is not near enough to be found."""

REMARKS = {
    "dtype": "cast the array",
    "from_logits": "leave it out: these are functions of logits, and nll_loss is one of log-probabilities",
    "num_classes": "leave it out: the shape of the logits tells",
}
"""What to do about arguments that there is no need for here."""


def invalid(error: type[Error], name: str, expected: str, got: str, way_out: str = "") -> Error:
    """An error about an argument, to be raised; `got` is a clause of its own if it does not begin with "got"."""
    return error(f"{name}: expected {expected}, {got}" + (way_out and f"; {way_out}"))


def unexpected(function: str, parameters: Sequence[str], name: str) -> TypeError:
    """The error about a keyword argument that is not among a function's `parameters`."""
    names = [word for word in OTHER_NAMES.get(name, "").split(" or ") if word in parameters]
    names = names or difflib.get_close_matches(name, parameters, n=1)
    way_out = f"did you mean {' or '.join(names)}?" if names else f"it takes {', '.join(parameters)}"
    way_out = REMARKS.get(name, way_out)
    return TypeError(f"{name}: {function}() got an unexpected keyword argument {name!r}; {way_out}")


def surplus(function: str, parameters: Sequence[str], most: int, given: int) -> TypeError:
    """The error about more positional arguments than a function takes."""
    others = ", ".join(f"{name}=..." for name in parameters[most:])
    way_out = f"pass by name {others}" if others else f"it takes {', '.join(parameters)}"
    return TypeError(f"{function}() takes {most} positional arguments, but {given} were given; {way_out}")


def shape_text(shape: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def dtype_text(dtype: Any) -> str:
    return getattr(dtype, "__name__", str(dtype)).rpartition(".")[2]
