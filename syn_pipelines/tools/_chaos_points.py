"""Where to kill: points spread over the whole of an undisturbed run, a pure function of its events and a seed."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from syn_pipelines.tools._chaos_child import HALF, KINDS, TIME, Event

TURNS = (HALF, *KINDS)  # what is torn does the most harm


@dataclass(frozen=True)
class Target:
    """A point: the event of the undisturbed run (its number, -1: the start) and what to kill at. delay_s: after the event."""

    index: int
    kind: str
    delay_s: float = 0.0


def draw(events: Sequence[Event], kills: int, rng: random.Random) -> list[Target]:
    """``kills`` targets in the order of the run.

    A step gets a share by the root of the number of its files, and within it each kind (half writes twice) and each file the
    same, so that a journal with a thousand replies does not outweigh the rest, nor a step that only writes into the log.
    """
    steps: dict[str, dict[str, dict[str, list[int]]]] = {}
    for index, (step, kind, name, *_) in enumerate(events):
        steps.setdefault(step, {}).setdefault(kind, {}).setdefault(name, []).append(index)
    weights = [len(set().union(*kinds.values())) ** 0.5 for kinds in steps.values()]
    bounds = [sum(weights[:k + 1]) / sum(weights) for k in range(len(weights))]
    begins = [0.0, *(min(events[next(iter(files.values()))[0]][4] for files in kinds.values())
                     for kinds in list(steps.values())[1:]), events[-1][4]]
    waiting: list[str] = []  # kinds that have had no turn
    targets: list[Target] = []
    for share in ((k + rng.random()) / kills for k in range(kills)):
        place = min(bisect_right(bounds, share), len(steps) - 1)
        kinds = list(steps.values())[place]
        if not any(kind in kinds or kind == TIME for kind in waiting):
            waiting = rng.sample(TURNS, len(TURNS))  # a step may lack those that are left
        kind = next(kind for kind in waiting if kind in kinds or kind == TIME)
        waiting.remove(kind)
        if kind == TIME:
            targets.append(_at_second(events, rng.uniform(begins[place], begins[place + 1])))
        else:
            targets.append(Target(rng.choice(rng.choice(list(kinds[kind].values()))), kind))
    return sorted(targets, key=lambda target: (target.index, target.delay_s))


def _at_second(events: Sequence[Event], second: float) -> Target:
    """The last event before a second of the run, and how long to wait from there on."""
    before = [index for index, event in enumerate(events) if event[4] <= second]
    index = before[-1] if before else -1
    return Target(index, TIME, second - (events[index][4] if before else 0.0))


def more(events: Sequence[Event], rng: random.Random) -> Iterator[Target]:
    """Targets for a run that is complete, where only the first steps still write something: ever nearer to the start."""
    high = len(events)
    while True:
        high = max(high // 2, 1)
        yield Target(rng.randrange(high), rng.choice([kind for kind in KINDS if kind != TIME]))
