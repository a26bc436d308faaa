"""The short form of the fuzzers: every seed, those that once crashed among them, and some mutants of each."""

from __future__ import annotations

import random
import time

import pytest
from fuzz.targets import TARGETS, Slow, Target

MUTANTS = 5_000


def mutant(dice: random.Random, seed: bytes, other: bytes) -> bytes:
    """A seed with a few bytes changed, cut out, doubled or taken from another."""
    body = bytearray(seed)
    for _ in range(dice.choice((1, 1, 2, 6))):
        at = dice.randrange(len(body) + 1)
        match dice.randrange(6):
            case 0 if body:
                body[at % len(body)] ^= 1 << dice.randrange(8)
            case 1:
                body[at : at + 2] = dice.choice((b"\xff\xff", b"\0\0", b"\x7f\xff", b"\0\1"))
            case 2:
                del body[at : at + dice.randrange(1, 20)]
            case 3:
                body[at:at] = body[at : at + dice.randrange(1, 40)]
            case 4:
                start = dice.randrange(len(other) + 1)
                body[at:at] = other[start : start + dice.randrange(1, 40)]
            case _:
                body[at:at] = dice.randbytes(dice.randrange(1, 5))
    return bytes(body[:4096])


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_seeds_and_mutants_keep_what_is_promised(target: Target) -> None:
    seeds = target.seeds()
    assert seeds, "the seeds of this target are missing"
    for seed in seeds:
        target.timed(seed)
    dice = random.Random(20261122)
    for _ in range(MUTANTS):
        target.timed(mutant(dice, dice.choice(seeds), dice.choice(seeds)))


def test_a_broken_promise_is_noticed() -> None:
    def fails(data: bytes) -> None:
        raise KeyError(data)

    def lasts(data: bytes) -> None:
        began = time.process_time()
        while time.process_time() - began < data[0]:
            pass

    with pytest.raises(KeyError):
        Target("fails", fails, ()).timed(b"x")
    with pytest.raises(Slow):
        Target("slow", lasts, ()).timed(b"\2")
    Target("quick", lasts, ()).timed(b"\0")
