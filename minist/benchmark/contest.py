"""Contestants take turns, in one run and on the same cores.

Between turns there is a pause: idle threads of BLAS and OpenMP spin for tens of milliseconds and
would slow whoever comes next. What is compared is the ratio of medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

PAUSE = 0.2  # seconds; longer than any thread spins

Step = Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """A step to be timed, and the context (threads, BLAS) that it is timed in."""

    step: Step
    context: Callable[[], AbstractContextManager] = nullcontext


def medians(
    contestants: dict[str, Contestant], rounds: int = 3, seconds: float = 0.3
) -> dict[str, float]:
    """Milliseconds of a step of each: medians over `rounds` turns of about `seconds` each."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            time.sleep(PAUSE)
            with contestant.context():
                times[name] += turn(contestant.step, seconds)
    return {name: statistics.median(t) for name, t in times.items()}


def turn(step: Step, seconds: float) -> list[float]:
    """Milliseconds of each step, after two to warm up."""
    step(), step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return times
