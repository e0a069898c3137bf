"""NumPy's blocks on threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import xent_any
from xent_any_backends.numpy import _threads

COMPUTE = """
import hashlib
import numpy as np
import xent_any

rng = np.random.default_rng(0)
for rows, classes in ((200_000, 10), (3_000, 500)):
    x = rng.normal(size=(rows, classes)).astype("float32")
    x[0, 0] = 300  # above its others as no other row's
    y = rng.integers(0, classes, rows)
    q = rng.random(size=(rows, classes)).astype("float32")
    for labels in (y, q):
        for result in xent_any.cross_entropy_value_and_grad(x, labels, label_smoothing=0.1):
            print(hashlib.sha256(np.ascontiguousarray(result)).hexdigest())
"""


def computed(threads: str, source: str = COMPUTE) -> str:
    environment = os.environ | {"XENT_ANY_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, env=environment, timeout=100
    )
    return done.stdout or done.stderr


def test_the_number_of_threads_changes_no_bits():
    one = computed("1")
    assert len(one.split()) == 8
    assert one == computed("2") == computed("5")


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none(given):
    assert f"ValueError: XENT_ANY_NUM_THREADS: expected a positive integer, got {given!r}" in computed(given)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3_000, 300)), rng.integers(0, 300, 3_000)


def test_calls_from_several_threads_at_once():
    alone = [xent_any.cross_entropy_value_and_grad(*problem(seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: xent_any.cross_entropy_value_and_grad(*problem(seed % 4)), range(12)))
    for i, (loss, grad) in enumerate(together):
        assert loss == alone[i % 4][0]
        np.testing.assert_array_equal(grad, alone[i % 4][1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_has_threads_of_its_own():
    source = """
import os
import numpy as np
import xent_any

x, y = np.zeros((100_000, 20)), np.zeros(100_000, dtype=int)
before = xent_any.cross_entropy(x, y)
child = os.fork()
if child == 0:
    os._exit(int(xent_any.cross_entropy(x, y) != before))
print("the child's answer:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert computed("2", source) == "the child's answer: 0\n"


def test_what_a_thread_raises_is_raised():
    source = """
import numpy as np
from xent_any_backends.numpy import _threads

class Block:
    outputs = ()

    def compute(self):
        raise KeyError("of a thread")

_threads.in_threads(3, [Block()] * 9)
"""
    assert "KeyError: 'of a thread'" in computed("3", source)


def test_cpus_that_cannot_be_chosen(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(_threads.os, "sched_setaffinity", refuse, raising=False)
    with _threads._pool.__wrapped__(len(_threads._cpus()) or 1) as pool:
        assert pool.submit(int).result() == 0
