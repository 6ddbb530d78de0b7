"""What a forward does that outlives it, done in a fixed order.

Batch norm's running statistics depend on the order of batches. Training that spreads a step over
threads collects the lasting effects of each micro-batch, and applies them in the order of these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Effect = Callable[[], None]


class _Thread(threading.local):
    deferred: list[Effect] | None = None


_thread = _Thread()


@contextmanager
def deferred() -> Iterator[list[Effect]]:
    """Collect, in this thread, the lasting effects of forwards instead of applying them."""
    before, _thread.deferred = _thread.deferred, []
    try:
        yield _thread.deferred
    finally:
        _thread.deferred = before


def lasting(effect: Effect) -> None:
    """Apply an effect of a forward that outlives it: now, or when `deferred` effects are."""
    if _thread.deferred is None:
        effect()
    else:
        _thread.deferred.append(effect)
