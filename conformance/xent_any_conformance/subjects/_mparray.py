"""mparray: many digits."""

import mparray
import mpmath

from . import Subject
from ._namespace import Namespace


def load(name: str) -> Subject:
    mpmath.mp.dps = 50
    record = Namespace(mparray)
    return Subject(name, record, record.devices()[0])
