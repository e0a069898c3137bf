"""The types of the public functions' arguments and results."""

from typing import Any, Literal, Protocol, TypedDict, TypeVar


class Array(Protocol):
    """An array of any library that follows the Array API standard."""

    @property
    def dtype(self) -> Any: ...
    @property
    def ndim(self) -> int: ...
    @property
    def shape(self) -> Any: ...


ArrayT = TypeVar("ArrayT", bound=Array)
"""The class of the logits, which is that of the results. What a type says of their shape or dtype is not theirs."""

Reduction = Literal["none", "mean", "sum"]


class LossOptions(TypedDict, total=False):
    """The keyword arguments of all functions that return cross-entropy."""

    class_weight: Array | None
    sample_weight: Array | None
    ignore_index: int | None
    label_smoothing: float | Array
    z_loss: float | Array
    softcap: float | Array | None
    reduction: Reduction
    denominator: float | Array | None


class CrossEntropyOptions(LossOptions, total=False):
    """The keyword arguments of `cross_entropy` and its derivatives, for the annotation ``**options: Unpack[...]``."""

    axis: int


class LinearOptions(LossOptions, total=False):
    """The keyword arguments of `linear_cross_entropy` and its gradient, likewise."""

    bias: Array | None
    max_bytes: int | None
    recompute: bool | None
