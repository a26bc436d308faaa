"""The long runs by name, what drives them, and the report they leave: docs/proofs.md, a section each.

A proof is a function that gets a `Run`: it asks for rounds, says how it goes, and gives back a table and a sentence on
what came out. Whatever it raises is the outcome too, and is written down as a failure.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "proofs.md"
HEAD = """# Proofs

What the long runs found, written by `make prove` (`make prove ONLY=name` for one of them; each section is of the last
time its run was made). A short form of each is in the normal test suite.
"""


@dataclass
class Run:
    """One proof under way."""

    name: str
    scale: float = 1.0
    """How much of the full length is wanted: 0.1 makes a tenth of the rounds."""
    verbose: bool = True
    notes: list[str] = field(default_factory=list)
    ending: bool = False

    def rounds(self, count: int) -> Iterator[int]:
        """The numbers of `count` rounds, scaled; the machine's locks are held during each, and free in between.

        SIGINT (Ctrl-C) ends them after the one under way, so that what was found so far is written down.
        """
        total = max(1, round(count * self.scale))
        for number in range(total):
            with machine():
                yield number
            self.say(f"{number + 1} of {total}")
            if self.ending:
                self.note(f"- ended early, after {number + 1} of {total} rounds")
                return

    def say(self, text: str) -> None:
        """One line of progress on the screen."""
        if self.verbose:
            print(f"{time.strftime('%H:%M:%S')} {self.name}: {text}", flush=True)

    def note(self, text: str) -> None:
        """One line for the report, below the table."""
        self.notes.append(text)
        self.say(text)


@dataclass(frozen=True)
class Result:
    """What a proof found: rows of a table, the first being its head, and the outcome in a sentence."""

    rows: Sequence[Sequence[object]]
    outcome: str


@dataclass(frozen=True)
class Proof:
    """A long run: its name, what it proves, and the function that does it."""

    name: str
    claim: str
    run: Callable[[Run], Result]


PROOFS: dict[str, Proof] = {}


def proof(name: str, claim: str) -> Callable[[Callable[[Run], Result]], Callable[[Run], Result]]:
    """Put a function into the registry under `name`."""

    def register(function: Callable[[Run], Result]) -> Callable[[Run], Result]:
        assert name not in PROOFS
        PROOFS[name] = Proof(name, claim, function)
        return function

    return register


@contextmanager
def machine() -> Iterator[None]:
    """Hold the locks named in PROVE_LOCKS, shared, so that whoever measures can have the machine alone in between.

    The variable names two files, `GATE:RUN`; the gate is held only until the second lock is there.
    """
    names = [name for name in os.environ.get("PROVE_LOCKS", "").split(":") if name]
    with ExitStack() as stack:
        for name in names:
            handle = open(name)  # noqa: SIM115
            stack.callback(handle.close)
            fcntl.flock(handle, fcntl.LOCK_SH)
            if len(names) == 2 and name == names[0]:
                gate = handle
        if len(names) == 2:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


def prove(names: Sequence[str], scale: float = 1.0, *, report: Path | None = REPORT) -> int:
    """Run the proofs of these names; how many failed. Each one's section of `report` is written when it ends."""
    failed = 0
    for name in names:
        run = Run(name, scale)
        signal.signal(signal.SIGINT, lambda *_, run=run: setattr(run, "ending", True))
        run.say(PROOFS[name].claim)
        began = time.monotonic()
        try:
            result, good = PROOFS[name].run(run), True
        except (AssertionError, OSError, RuntimeError, TimeoutError) as error:
            result, good = Result((), f"**Failed:** {type(error).__name__}: {str(error)[-3000:]}"), False
        failed += not good
        run.say(result.outcome)
        if report is not None:
            write(report, name, section(PROOFS[name], run, result, time.monotonic() - began))
        if not good:
            print(f"{name} FAILED", file=sys.stderr)
    return failed


def section(proof: Proof, run: Run, result: Result, seconds: float) -> str:
    """One proof's part of the report."""
    now = datetime.datetime.now(tz=datetime.UTC)
    lines = [f"## {proof.name}", "", f"{proof.claim}", "", f"- when: {now:%Y-%m-%d %H:%M} UTC, {seconds:.0f} s"]
    lines += [f"- machine: {describe_machine()}"]
    lines += [f"- command: `make prove ONLY={proof.name}`" + ("" if run.scale == 1 else f" at scale {run.scale:g}")]
    lines += [f"- outcome: {result.outcome}", ""]
    if result.rows:
        head, *rows = [[str(cell) for cell in row] for row in result.rows]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    lines += [*run.notes, ""] if run.notes else []
    return "\n".join(lines)


def write(report: Path, name: str, text: str) -> None:
    """Put a section into the report in the place of the older one, sections in alphabetical order."""
    old = report.read_text() if report.exists() else ""
    parts = re.split(r"^(?=## )", old, flags=re.MULTILINE)[1:]
    sections = {part.split("\n", 1)[0].removeprefix("## ").strip(): part.strip() for part in parts}
    sections[name] = text.strip()
    report.write_text(HEAD + "".join(f"\n{sections[each]}\n" for each in sorted(sections)))


def describe_machine() -> str:
    """Cores, memory and software in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
