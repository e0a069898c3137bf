"""What the contract promises of labels, weights, reductions, infinities, dtypes and inputs."""

import numpy as np
import pytest

from ..plugin import check
from ..subjects import Subject


@check(
    "contract.labels.out-of-range",
    "An index outside [0, C) raises IndexError with its value and position, or its row is NaN.",
    source="docs/contract.md, Labels",
)
@pytest.mark.parametrize("wrong", [-1, 4, 2**31 - 1])
def test_out_of_range(subject: Subject, wrong):
    x, y = subject(np.zeros((3, 4))), subject([0, wrong, 2])
    if subject.reads(y):
        with pytest.raises(IndexError, match=rf"labels\[1\] is {wrong}$"):
            subject.functions.cross_entropy(x, y)
    else:
        loss, grad = subject.functions.cross_entropy_value_and_grad(x, y, reduction="none")
        np.testing.assert_array_equal(np.isnan(subject.numpy(loss)), [False, True, False])
        assert np.isnan(subject.numpy(grad)[1]).all()
