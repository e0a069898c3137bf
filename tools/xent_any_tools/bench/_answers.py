"""Contestants made ready: each has given the right answer before it is measured."""

from collections.abc import Callable
from typing import Any

from ._clock import Call
from ._problems import Inputs, disagreement
from .contestants import LOSS, Contestant, reason


def prepared(contestant: Contestant, inputs: Inputs) -> tuple[dict[str, Any], Call | None]:
    """The contestant's row, and its call where it gives the right answer."""
    row: dict[str, Any] = {
        "key": contestant.key,
        **{name: getattr(contestant, name) for name in ("name", "library", "group", "computes", "ours", "limit")},
    }
    try:
        call = contestant.prepare(inputs)
        waited = _waiting(call, contestant.wait)
        result = waited(0)
        wrong = None if contestant.limit else _wrong(contestant, inputs, result)
        if wrong is not None:
            return row | {"status": "wrong", "reason": wrong}, None
        waited(1)
    except NotImplementedError as error:
        return row | {"status": "not there", "reason": reason(error)}, None
    except Exception as error:  # noqa: BLE001  (one contestant's failure is a line of the record)
        return row | {"status": "failed", "reason": reason(error)}, None
    return row | {"status": "timed"}, waited if inputs.problem.device == "cpu" else call


def _wrong(contestant: Contestant, inputs: Inputs, result: Any) -> str | None:
    if contestant.computes == LOSS:
        return disagreement(inputs, result, None)
    if not isinstance(result, tuple) or len(result) != 2:
        return f"expected a loss and a gradient, got {type(result).__name__}"
    return disagreement(inputs, *result)


def _waiting(call: Call, wait: Callable[[Any], Any] | None) -> Call:
    """The call, and waiting for its result."""
    if wait is None:
        return call

    def waited(i: int) -> Any:
        result = call(i)
        wait(result)
        return result

    return waited
