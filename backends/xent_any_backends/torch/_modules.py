"""The modules of `torch.nn` that are about cross-entropy: PyTorch's own, but for what they compute.

TorchScript knows tensors and operators alone, not this library's Python: the modules' functions are operators as well,
``torch.ops.xent_any.cross_entropy`` and so on, for scripted modules. A process that loads such a module from a file
imports this package first.
"""

from typing import Any

import torch
from torch import Tensor

from ._functional import binary_cross_entropy_with_logits, cross_entropy, linear_cross_entropy, nll_loss

is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]  # TorchScript reads such comments in functions

_OPERATORS: Any = torch.library.Library("xent_any", "DEF")  # type: ignore[no-untyped-call]
for _function in (binary_cross_entropy_with_logits, cross_entropy, nll_loss):
    _OPERATORS.define(_function.__name__ + torch.library.infer_schema(_function, mutates_args=()))
    _OPERATORS.impl(_function.__name__, _function, "CompositeImplicitAutograd")


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, computed by `xent_any_backends.torch.cross_entropy`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in `xent_any_backends.torch.cross_entropy`; `weight` becomes a buffer.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import CrossEntropyLoss
    >>> loss = CrossEntropyLoss(label_smoothing=0.1)
    >>> logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
    >>> loss(logits, torch.tensor([0])).backward()
    >>> logits.grad
    tensor([[-0.2681,  0.2114,  0.0567]])
    """

    def forward(
        self,
        input: Tensor,  # noqa: A002  (PyTorch's name, as in the modules below)
        target: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss; the arguments are those of `xent_any_backends.torch.cross_entropy`."""
        if is_scripting():
            loss: Tensor = torch.ops.xent_any.cross_entropy(
                input,
                target,
                weight=self.weight,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
                sample_weight=sample_weight,
            )
            return loss
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            sample_weight=sample_weight,
        )


class NLLLoss(torch.nn.NLLLoss):
    """`torch.nn.NLLLoss`, computed by `xent_any_backends.torch.nll_loss`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction
        As in `xent_any_backends.torch.nll_loss`; `weight` becomes a buffer.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import NLLLoss
    >>> loss = NLLLoss(weight=torch.tensor([1.0, 3.0]))
    >>> loss(torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log(), torch.tensor([0, 1]))
    tensor(0.3890)
    """

    def forward(
        self,
        input: Tensor,  # noqa: A002
        target: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss; the arguments are those of `xent_any_backends.torch.nll_loss`."""
        if is_scripting():
            loss: Tensor = torch.ops.xent_any.nll_loss(
                input,
                target,
                weight=self.weight,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                sample_weight=sample_weight,
            )
            return loss
        return nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            sample_weight=sample_weight,
        )


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`torch.nn.BCEWithLogitsLoss`, computed by `xent_any_backends.torch.binary_cross_entropy_with_logits`.

    Parameters
    ----------
    weight, size_average, reduce, reduction, pos_weight
        As in `xent_any_backends.torch.binary_cross_entropy_with_logits`; `weight` and `pos_weight` become buffers.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import BCEWithLogitsLoss
    >>> loss = BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))
    >>> loss(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(1.0397)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
        """The loss; the arguments are those of `xent_any_backends.torch.binary_cross_entropy_with_logits`."""
        if is_scripting():
            loss: Tensor = torch.ops.xent_any.binary_cross_entropy_with_logits(
                input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
            )
            return loss
        return binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            pos_weight=self.pos_weight,
            reduction=self.reduction,
        )


if hasattr(torch.nn, "LinearCrossEntropyLoss"):

    class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):
        """`torch.nn.LinearCrossEntropyLoss`, computed by `xent_any_backends.torch.linear_cross_entropy`.

        Before PyTorch 2.13, which has it first, its construction is a `NotImplementedError`.

        Parameters
        ----------
        in_features, num_classes : int
            D and C, the sizes of the linear layer.
        out_features : tuple of int, default ()
            (d_1, ..., d_K).
        bias : bool, default False
            Whether the layer has one.
        device, dtype
            Of the layer.
        reduction, weight, ignore_index, label_smoothing, options
            As in `xent_any_backends.torch.linear_cross_entropy`; `weight` becomes a buffer.

        Examples
        --------
        >>> import torch
        >>> from xent_any_backends.torch import LinearCrossEntropyLoss
        >>> loss = LinearCrossEntropyLoss(2, 3)
        >>> loss.load_state_dict({"linear.weight": torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])})
        <All keys matched successfully>
        >>> loss(torch.tensor([[1.0, 2.0]]), torch.tensor([0])).backward()
        >>> loss.linear.weight.grad
        tensor([[-0.3348, -0.6695],
                [ 0.2447,  0.4895],
                [ 0.0900,  0.1801]])
        """

        def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
            """The loss; the arguments are those of `xent_any_backends.torch.linear_cross_entropy`."""
            lead = (self.num_classes, *self.out_features)
            bias = self.linear.bias
            return linear_cross_entropy(
                input,
                self.linear.weight.reshape(*lead, self.linear.in_features),
                target,
                linear_bias=None if bias is None else bias.reshape(lead),
                weight=self.weight,
                reduction=self.reduction,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
                options=self.options,
            )

else:

    class LinearCrossEntropyLoss(torch.nn.Module):  # type: ignore[no-redef]  # what there is of it before
        """`torch.nn.LinearCrossEntropyLoss`, which this PyTorch has not: `linear_cross_entropy` is there."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            raise NotImplementedError(
                f"LinearCrossEntropyLoss: needs PyTorch 2.13 or newer, got {torch.__version__}; linear_cross_entropy "
                "does not"
            )
