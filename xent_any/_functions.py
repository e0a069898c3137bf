"""The public functions: each checks its arguments, runs one kernel on the rows and reduces."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from . import _binary, _errors, _formulas
from ._arguments import Arguments
from ._problem import binary_problem, cross_entropy_problem, linear_problem, require_log_probabilities, transform
from ._types import Array, ArrayT, Reduction

_F = TypeVar("_F", bound=Callable[..., Any])


def _public(function: _F) -> _F:
    """Refuse arguments that the function does not take, in words that say the way out."""
    parameters = inspect.signature(function).parameters
    most = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())

    @functools.wraps(function)
    def public(*args: Any, **options: Any) -> Any:
        if len(args) > most:
            raise _errors.surplus(function.__name__, list(parameters), most, len(args))
        for name in options:
            if name not in parameters:
                raise _errors.unexpected(function.__name__, list(parameters), name)
        return function(*args, **options)

    return public  # type: ignore[return-value]  # of the same signature


@_public
def cross_entropy(
    logits: ArrayT,
    labels: Array,
    *,
    axis: int = -1,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
) -> ArrayT:
    r"""Cross-entropy between the softmax of the logits and the labels.

    For a row of logits :math:`x` with target distribution :math:`q` (an index label is the distribution that is 1 at
    its class), class weights :math:`w` and sample weight :math:`s`,

    .. math:: \ell = s \sum_c w_c\, q'_c\, (\mathrm{lse}(x) - x_c) + s\, z\, \mathrm{lse}(x)^2,
              \qquad q' = (1 - \varepsilon)\, q + \varepsilon / C,

    where lse is `logsumexp`, :math:`\varepsilon` is `label_smoothing` and :math:`z` is `z_loss`. It is computed
    without cancellation: a row that is won by 17 in float32 has a loss of 1.2e-07, not of 0.

    Parameters
    ----------
    logits : array, real floating, shape (..., C, ...)
        Unnormalised log-probabilities, the classes along `axis`. A class at -inf is one that is not there. Half
        precision is computed in float32, block by block.
    labels : array
        Integer dtype: class indices, of the shape of `logits` without `axis`. Real floating dtype: class
        probabilities, of the shape of `logits`; finite and not negative, their sum may differ from 1.
    axis : int, default -1
        The axis of the classes.
    class_weight : array, shape (C,), optional
        A weight for each class, finite and not negative.
    sample_weight : array, shape of the unreduced loss, optional
        A weight for each row, finite and not negative. Rows of weight 0 are ignored.
    ignore_index : int or None, default -100
        Rows whose index label is this have loss 0, gradient 0 and no part in the mean, whatever their logits are.
    label_smoothing : float or 0-d array, in [0, 1], default 0
        The share of the target that is spread evenly over the classes.
    z_loss : float or 0-d array, not negative, default 0
        The weight of the squared log-sum-exp, which keeps it near 0.
    softcap : float or 0-d array, positive, optional
        Replaces each logit x by ``softcap * tanh(x / softcap)`` first; infinite ones stay.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the weights, ``sum_i s_i sum_c w_c q_ic``; over nothing it is NaN.
    denominator : float or 0-d array, positive, optional
        Replaces the mean's divisor, for gradient accumulation and data-parallel training.

    Returns
    -------
    array
        The loss, of the dtype of `logits` (float32 for half precision): a 0-d array, or of the shape of `logits`
        without `axis` for ``reduction="none"``.

    Raises
    ------
    TypeError
        For an argument that is not an array, arrays of two libraries, and dtypes other than those above.
    ValueError
        For shapes other than those above, arrays on two devices, and numbers out of range: `label_smoothing`,
        `denominator`, negative weights or probabilities, ...
    IndexError
        For an index label outside [0, C) that is not `ignore_index`. Where labels, weights or probabilities cannot
        be read without waiting (on a GPU, traced, lazy), the loss and the gradient of that row are NaN instead; of all
        rows, where that is a number.

    See Also
    --------
    cross_entropy_value_and_grad, cross_entropy_jvp, cross_entropy_hvp : its derivatives, with the same options.

    Notes
    -----
    Relative error of at most ``(8 + d) u`` in float32 and float64, with u the unit roundoff and d the largest
    distance from the maximum of a logit that matters; ``docs/derivation.md`` derives formula and bound.

    References
    ----------
    .. [1] I. J. Good, "Rational decisions", J. R. Stat. Soc. B 14 (1952) 107-114,
       doi:10.1111/j.2517-6161.1952.tb00104.x
    .. [2] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax functions",
       IMA J. Numer. Anal. 41 (2021) 2311-2330, doi:10.1093/imanum/draa038

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> logits = np.asarray([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    >>> float(xent_any.cross_entropy(logits, np.asarray([0, 1])))
    0.25126446...
    >>> float(xent_any.cross_entropy(np.asarray([17, 0, 0, 0], dtype=np.float32), np.asarray(0)))
    1.2419810...e-07
    """
    options = Arguments(
        class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator, axis
    )
    loss: ArrayT = cross_entropy_problem(_formulas.loss, logits, labels, options).run()[0]
    return loss


@_public
def cross_entropy_value_and_grad(
    logits: ArrayT,
    labels: Array,
    *,
    axis: int = -1,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
) -> tuple[ArrayT, ArrayT]:
    r"""`cross_entropy` and its gradient with respect to the logits.

    For an index label :math:`y` without options the gradient of a row is :math:`\mathrm{softmax}(x) - y`. At the
    label it is computed as minus the probability of the other classes, not as a probability minus 1.

    Parameters
    ----------
    logits, labels : array
        As in `cross_entropy`.
    axis, class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator
        As in `cross_entropy`. With ``reduction="none"`` the gradient is that of the sum of the losses.

    Returns
    -------
    loss : array
        Bitwise what `cross_entropy` returns.
    grad : array
        The gradient of the reduced loss, of the shape and dtype of `logits`; for half precision rounded once. The
        gradient of a mean over nothing is 0.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> loss, grad = xent_any.cross_entropy_value_and_grad(np.zeros((1, 4)), np.asarray([2]))
    >>> grad
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    options = Arguments(
        class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator, axis
    )
    problem = cross_entropy_problem(_formulas.loss_and_grad, logits, labels, options)
    loss, grad = problem.run()
    return loss, problem.restore(grad)


@_public
def cross_entropy_jvp(
    logits: ArrayT,
    tangent: ArrayT,
    labels: Array,
    *,
    axis: int = -1,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
) -> tuple[ArrayT, ArrayT]:
    r"""`cross_entropy` and its derivative in the direction of `tangent`, :math:`\langle \nabla\ell, t\rangle`.

    Parameters
    ----------
    logits, labels : array
        As in `cross_entropy`.
    tangent : array, shape and dtype of `logits`
        The direction. What it holds in ignored rows does not matter.
    axis, class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator
        As in `cross_entropy`.

    Returns
    -------
    loss, loss_tangent : array
        What `cross_entropy` returns, and its derivative, of the same shape and dtype.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> x, t = np.zeros((1, 2)), np.asarray([[1.0, 0.0]])
    >>> loss, slope = xent_any.cross_entropy_jvp(x, t, np.asarray([0]))
    >>> float(slope)
    -0.5
    """
    options = Arguments(
        class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator, axis
    )
    problem = cross_entropy_problem(_formulas.loss_and_jvp, logits, labels, options, tangent=tangent)
    loss, slope = problem.run()
    return loss, problem.total(slope)


@_public
def cross_entropy_hvp(
    logits: ArrayT,
    vector: ArrayT,
    labels: Array,
    *,
    axis: int = -1,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
) -> ArrayT:
    r"""The Hessian of the reduced `cross_entropy` with respect to the logits, times `vector`.

    For a row with :math:`p = \mathrm{softmax}(x)` and no options: :math:`H v = p \circ (v - \langle p, v\rangle)`.

    Parameters
    ----------
    logits, labels : array
        As in `cross_entropy`.
    vector : array, shape and dtype of `logits`
        What the Hessian is multiplied by. What it holds in ignored rows does not matter.
    axis, class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator
        As in `cross_entropy`. With ``reduction="none"`` the Hessian is that of the sum of the losses.

    Returns
    -------
    array, shape and dtype of `logits`

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> xent_any.cross_entropy_hvp(np.zeros((1, 2)), np.asarray([[1.0, 0.0]]), np.asarray([0]))
    array([[ 0.25, -0.25]])
    """
    options = Arguments(
        class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator, axis
    )
    problem = cross_entropy_problem(_formulas.hvp, logits, labels, options, vector=vector)
    product: ArrayT = problem.restore(problem.run()[0])
    return product


@_public
def linear_cross_entropy(
    hidden: ArrayT,
    weight: ArrayT,
    labels: Array,
    *,
    bias: Array | None = None,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
    max_bytes: int | None = None,
    recompute: bool | None = None,
) -> ArrayT:
    r"""`cross_entropy` of the logits of a linear layer, :math:`x = h W^\top + b`, which are never all held.

    The logits of a block of rows are computed, used and forgotten: beyond the arguments and what is returned, memory is
    needed for one block of them. It equals ``cross_entropy(hidden @ weight.T + bias, labels)`` to rounding.

    Parameters
    ----------
    hidden : array, real floating, shape (..., D)
        :math:`h`, the inputs of the layer.
    weight : array, real floating, shape (C, D)
        :math:`W`.
    labels : array
        Integer dtype: class indices, of shape (...). Real floating dtype: class probabilities, of shape (..., C).
    bias : array, real floating, shape (C,), optional
        :math:`b`.
    class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator
        As in `cross_entropy`.
    max_bytes : int, optional
        So much memory may be used for blocks of rows, and of classes where few rows would fit; at least one row is
        computed at a time. Of half precision, the sum of the gradients of `weight` takes memory beside it. Of 16 MiB
        or less, what the library of matrix products holds of its own may be too much. By default, what the backend
        declares: 256 MiB.
    recompute : bool, optional
        What is done where the framework differentiates. False: the gradient is computed together with the loss, and
        kept, which takes three matrix products in all, and the memory of the gradient from then on. True: the inputs
        alone are kept, and a derivative computes the logits anew, which takes four. By default False, but True for
        ``reduction="none"``, where it must be. Where nothing is differentiated, only the loss is computed.

    Returns
    -------
    array
        As `cross_entropy` of logits of shape (..., C) returns. Half precision is computed in float32, the logits among
        it. If the dtypes of `hidden`, `weight` and `bias` differ, each is converted to the widest of them, and float32
        at least: that is the dtype of the loss. Its derivatives have the dtypes of the arguments.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy`; TypeError for a `weight` or `bias` that is not real floating, ValueError for shapes that do
        not fit together, or a `max_bytes` that is not positive.

    See Also
    --------
    linear_cross_entropy_value_and_grad : together with the gradients.

    Notes
    -----
    The accuracy that `cross_entropy` promises is that given the logits; they have the rounding errors of a matrix
    product, and so do the gradients. Bits may depend on how the rows are cut into blocks.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> hidden, weight = np.asarray([[1.0, 2.0]]), np.asarray([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> float(xent_any.linear_cross_entropy(hidden, weight, np.asarray([0])))
    0.40760596...
    """
    options = Arguments(
        class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator
    )
    loss: ArrayT = linear_problem(hidden, weight, labels, bias, options, max_bytes, recompute).loss()
    return loss


@_public
def linear_cross_entropy_value_and_grad(
    hidden: ArrayT,
    weight: ArrayT,
    labels: Array,
    *,
    bias: Array | None = None,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
    max_bytes: int | None = None,
    recompute: bool | None = None,
) -> tuple[ArrayT, tuple[ArrayT, ArrayT, ArrayT | None]]:
    r"""`linear_cross_entropy` and its gradients with respect to the layer's inputs, weight and bias.

    With :math:`G` the gradient with respect to the logits, they are :math:`G W`, :math:`G^\top h` and the sum of the
    rows of :math:`G`.

    Parameters
    ----------
    hidden, weight, labels, bias, max_bytes, recompute
        As in `linear_cross_entropy`.
    class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator
        As in `cross_entropy`. With ``reduction="none"`` the gradients are those of the sum of the losses.

    Returns
    -------
    loss : array
        What `linear_cross_entropy` returns.
    grads : tuple of array
        ``(d_hidden, d_weight, d_bias)``, each of the shape and dtype of its argument; None for a bias that is None.
        They are computed in the precision of the loss and rounded once; bfloat16 on PyTorch is rounded where it enters
        a product, too. Those of a mean over nothing are 0.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `linear_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> hidden, weight = np.asarray([[1.0, 2.0]]), np.zeros((2, 2))
    >>> loss, (d_hidden, d_weight, d_bias) = xent_any.linear_cross_entropy_value_and_grad(
    ...     hidden, weight, np.asarray([0]), bias=np.zeros(2)
    ... )
    >>> d_weight
    array([[-0.5, -1. ],
           [ 0.5,  1. ]])
    """
    options = Arguments(
        class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator
    )
    problem = linear_problem(hidden, weight, labels, bias, options, max_bytes, recompute)
    loss, d_hidden, d_weight, d_bias = problem.loss_and_gradients()
    return loss, (d_hidden, d_weight, d_bias)


@_public
def nll_loss(
    log_probs: ArrayT,
    labels: Array,
    *,
    axis: int = -1,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
) -> ArrayT:
    """Negative log-likelihood of the labels under log-probabilities: `cross_entropy` after `log_softmax`.

    Parameters
    ----------
    log_probs : array, real floating, shape (..., C, ...)
        Log-probabilities, the classes along `axis`; -inf for a class that is not there.
    labels, axis, class_weight, sample_weight, ignore_index, label_smoothing, reduction, denominator
        As in `cross_entropy`.

    Returns
    -------
    array
        As `cross_entropy`.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy`. ValueError for a positive log-probability, beyond rounding, in a row that counts: that is of
        probabilities, or of logits. Where it cannot be read without waiting, the loss and the gradient of that row are
        NaN instead.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> log_probs = xent_any.log_softmax(np.asarray([[2.0, 1.0, 0.0]]))
    >>> float(xent_any.nll_loss(log_probs, np.asarray([0])))
    0.40760596...
    """
    options = Arguments(
        class_weight, sample_weight, ignore_index, label_smoothing, 0.0, None, reduction, denominator, axis
    )
    problem = cross_entropy_problem(_formulas.nll, log_probs, labels, options, name="log_probs")
    loss: ArrayT = problem.run()[0]
    require_log_probabilities(problem, log_probs, loss)
    return loss


@_public
def logsumexp(x: ArrayT, axis: int = -1, keepdims: bool = False) -> ArrayT:
    """Logarithm of the sum of exponentials, ``log(sum(exp(x)))``, without overflow and without cancellation.

    Parameters
    ----------
    x : array, real floating
    axis : int, default -1
        The axis that is summed over.
    keepdims : bool, default False
        Keep that axis, with length 1.

    Returns
    -------
    array
        Of the shape of `x` without `axis`, of its dtype (float32 for half precision). Of infinities: -inf where all
        are -inf, inf where one is inf.

    Raises
    ------
    TypeError
        If `x` is not an array of real floating dtype.
    ValueError
        If it has no such axis, or nothing along it.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> float(xent_any.logsumexp(np.asarray([1000.0, 1000.0])))
    1000.69314718...
    """
    if not isinstance(keepdims, bool):
        raise _errors.invalid(TypeError, "keepdims", "True or False", f"got {type(keepdims).__name__}")
    return transform(_formulas.logsumexp, x, axis, keepdims)


@_public
def log_softmax(x: ArrayT, axis: int = -1) -> ArrayT:
    """Logarithm of the `softmax`, ``x - logsumexp(x)``.

    Parameters
    ----------
    x : array, real floating
    axis : int, default -1
        The axis of the classes.

    Returns
    -------
    array
        Of the shape and dtype of `x`; float32 for half precision, whose 8 to 11 bits cannot hold a log-probability
        (`nll_loss` of it equals `cross_entropy`). NaN along an axis that holds NaN, inf or only -inf.

    Raises
    ------
    TypeError, ValueError
        As `logsumexp`.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> xent_any.log_softmax(np.asarray([0.0, 0.0]))
    array([-0.69314718, -0.69314718])
    """
    return transform(_formulas.log_softmax, x, axis)


@_public
def softmax(x: ArrayT, axis: int = -1) -> ArrayT:
    """Probabilities ``exp(x) / sum(exp(x))``.

    Parameters
    ----------
    x : array, real floating
    axis : int, default -1
        The axis of the classes.

    Returns
    -------
    array
        Of the shape and dtype of `x`; half precision is computed in float32 and rounded once. NaN along an axis that
        holds NaN, inf or only -inf.

    Raises
    ------
    TypeError, ValueError
        As `logsumexp`.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> xent_any.softmax(np.asarray([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    return transform(_formulas.softmax, x, axis)


@_public
def binary_cross_entropy(
    logits: ArrayT,
    labels: Array,
    *,
    pos_weight: float | Array | None = None,
    sample_weight: Array | None = None,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
) -> ArrayT:
    r"""Cross-entropy of independent events, with one logit for each.

    .. math:: \ell = s\,\bigl((1 - y)\,\mathrm{softplus}(z) + \pi\, y\, \mathrm{softplus}(-z)\bigr)

    with the stable ``softplus(z) = max(z, 0) + log1p(exp(-|z|))``. It equals `cross_entropy` of two classes with the
    logits (0, z).

    Parameters
    ----------
    logits : array, real floating, any shape
        :math:`z`, log-odds of the events. An infinite one is sure of its event.
    labels : array, shape of `logits`
        :math:`y`, probabilities of the events, in [0, 1]; of a real floating or an integer dtype.
    pos_weight : float or array that broadcasts to `logits`, optional
        :math:`\pi`, the weight of the positive term, finite and not negative.
    sample_weight : array, shape of `logits`, optional
        :math:`s`, a weight for each element, finite and not negative. Elements of weight 0 are ignored.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights; without them, by the number of elements.
    denominator : float or 0-d array, positive, optional
        Replaces the mean's divisor.

    Returns
    -------
    array
        The loss, of the dtype of `logits` (float32 for half precision): a 0-d array, or of the shape of `logits` for
        ``reduction="none"``.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; ValueError for labels outside [0, 1] where they can be read without waiting. Elsewhere
        that element's loss and gradient are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> float(xent_any.binary_cross_entropy(np.asarray([-10.0]), np.asarray([0.0])))
    4.5398899...e-05
    """
    options = (pos_weight, sample_weight, reduction, denominator)
    loss: ArrayT = binary_problem(_binary.binary, logits, labels, *options).run()[0]
    return loss


@_public
def binary_cross_entropy_value_and_grad(
    logits: ArrayT,
    labels: Array,
    *,
    pos_weight: float | Array | None = None,
    sample_weight: Array | None = None,
    reduction: Reduction = "mean",
    denominator: float | Array | None = None,
) -> tuple[ArrayT, ArrayT]:
    r"""`binary_cross_entropy` and its gradient with respect to the logits.

    .. math:: \frac{d\ell}{dz} = s\,\bigl((1 - y)\,\sigma(z) - \pi\, y\, \sigma(-z)\bigr),
              \qquad \sigma(z) = 1 / (1 + e^{-z})

    Parameters
    ----------
    logits, labels, pos_weight, sample_weight, reduction, denominator
        As in `binary_cross_entropy`. With ``reduction="none"`` the gradient is that of the sum of the losses.

    Returns
    -------
    loss : array
        Bitwise what `binary_cross_entropy` returns.
    grad : array
        The gradient of the reduced loss, of the shape and dtype of `logits`.

    Raises
    ------
    TypeError, ValueError
        As `binary_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> import xent_any
    >>> loss, grad = xent_any.binary_cross_entropy_value_and_grad(np.zeros(2), np.asarray([0.0, 1.0]))
    >>> grad
    array([ 0.25, -0.25])
    """
    options = (pos_weight, sample_weight, reduction, denominator)
    loss, grad = binary_problem(_binary.binary_and_grad, logits, labels, *options).run()
    return loss, grad
