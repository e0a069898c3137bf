"""Records that the conformance kit is tried on; each is certified as ``strangers:NAME``."""

import os

import array_api_strict
import numpy as np

from xent_any_backends.numpy import NumPy


class Declares(NumPy):
    """NumPy with a deviation."""

    def __init__(self, **deviations):
        self.deviations = {id_.replace("_", "."): reason for id_, reason in deviations.items()}


class Empty(Declares):
    """Fails for arrays of no rows with one error or another."""

    def asarray(self, values, dtype, device):
        if np.shape(values)[:1] == (0,):
            raise MemoryError("no rows")
        return super().asarray(values, dtype, device)


class Int64Alone(NumPy):
    """Makes arrays of no other integer dtype, though its namespace lists them."""

    def asarray(self, values, dtype, device):
        if "int" in dtype and dtype != "int64":
            raise OverflowError(f"no {dtype}")
        return super().asarray(values, dtype, device)


class Crashes(NumPy):
    def asarray(self, values, dtype, device):
        if np.shape(values) == (3, 4):
            os._exit(3)
        return super().asarray(values, dtype, device)


class Unimportable(NumPy):
    def devices(self):
        raise RuntimeError("no such device")


NEEDLESS = Declares(contract_labels_wrapped="it wraps nothing")
UNKNOWN = Declares(contract_nonsense="there is no such check")
CRASHES = Crashes()
DECLARED = Empty(contract_empty_batch=("there are no arrays without rows", MemoryError))
OTHERWISE = Empty(contract_empty_batch=("there are no arrays without rows", ValueError))
UNSPECIFIED = Empty(contract_empty_batch="there are no arrays without rows")
INT64_ALONE = Int64Alone()
NO_DEVICE = Unimportable()
NAMESPACE = array_api_strict
NEITHER = 3
