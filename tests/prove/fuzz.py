"""The long run of the fuzzers: each target in turn, in slices, its corpus growing and kept in build/fuzz."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from fuzz.targets import TARGETS
from prove.registry import ROOT, Result, Run, proof

from pacs.native import make

SLICE_S = 30
GROWTH_LIMIT = 50 << 20
NATIVE_INPUTS = 250_000
SANITIZERS = "address,undefined"


@proof("fuzz", "No input makes a parser crash, hang, take over a second or leak; guided by coverage (atheris).")
def fuzz(run: Run) -> Result:
    """One slice of every target a round; each slice is a process of its own and goes on with the corpus so far."""
    runs, grew, coverage, seconds = Counter[str](), Counter[str](), dict[str, int](), Counter[str]()
    found: list[str] = []
    folder = ROOT / "build" / "fuzz"
    for number in run.rounds(60 * len(TARGETS)):
        name = list(TARGETS)[number % len(TARGETS)]
        corpus = folder / name
        corpus.mkdir(parents=True, exist_ok=True)
        for at, seed in enumerate(TARGETS[name].seeds()):
            (corpus / f"seed{at}").write_bytes(seed)
        before = set(folder.glob("crash-*")) | set(folder.glob("timeout-*")) | set(folder.glob("oom-*"))
        output = _slice(name, corpus, folder)
        state = json.loads(Path(f"{corpus}.runs").read_text())
        whole = re.search(r"Done (\d+) runs", output)
        runs[name] += int(whole[1]) if whole else state["runs"]
        seconds[name] += SLICE_S
        grew[name] = max(grew[name], state["grew"])
        points = re.findall(r"cov: (\d+)", output)
        coverage[name] = max([coverage.get(name, 0), *map(int, points)])
        after = set(folder.glob("crash-*")) | set(folder.glob("timeout-*")) | set(folder.glob("oom-*"))
        for path in sorted(after - before):
            error = re.findall(r"^(?:[\w.]+)?(?:Error|Exception|Slow)\b.*$", output, re.MULTILINE)
            found.append(f"{name}: {error[-1][:200] if error else path.name}")
            run.note(f"- FOUND {found[-1]} ({path.name})")
        run.say(f"{name}: {sum(runs.values()):,} inputs in all, {len(found)} found")
    rows: list[tuple[object, ...]] = [("target", "inputs", "seconds", "coverage points", "memory grew by, MiB")]
    for name in TARGETS:
        size = f"{grew[name] / (1 << 20):.1f}"
        rows.append((name, f"{runs[name]:,}", seconds[name], coverage.get(name, 0), size))
    assert all(size < GROWTH_LIMIT for size in grew.values()), f"memory grew: {dict(grew)}"
    total = f"{sum(runs.values()):,} inputs"
    return Result(rows, f"{total}; " + (f"**{len(found)} found**" if found else "no crash, hang, slow input or leak"))


@proof(
    "fuzz-native",
    "No stream of PDUs, data set or text makes the part in C touch memory that is not its own (ASan, UBSan).",
)
def fuzz_native(run: Run) -> Result:
    """Streams that are made, spoilt and cut off, in buffers of their exact length, some of them through a socket."""
    folder = ROOT / "build" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    driver, flags = folder / "native_driver", ("-std=c11", "-g", "-O1", "-fwrapv", "-fno-sanitize-recover=all")
    sources = [*sorted((ROOT / "tests/fuzz").glob("native_*.c")), *make.sources()]
    build = [*make.compilers()[0], *flags, f"-fsanitize={SANITIZERS}", f"-I{make.HERE}", "-o", driver, *sources]
    subprocess.run(build, check=True)
    inputs, found = 0, list[str]()
    for number in run.rounds(40):
        done = subprocess.run(
            ["nice", "-n", "19", driver, str(number + 1), str(NATIVE_INPUTS)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            inputs += NATIVE_INPUTS
        else:
            said = re.findall(r"(?:ERROR|BROKEN|runtime error).*", done.stderr)
            found.append(f"round {number + 1}: {said[0][:200] if said else done.stderr[-200:]}")
            run.note(f"- FOUND {found[-1]}")
        run.say(f"{inputs:,} inputs, {len(found)} found")
    rows = [("inputs", "found"), (f"{inputs:,}", len(found))]
    return Result(rows, f"{inputs:,} inputs; " + (f"**{len(found)} found**" if found else "nothing found"))


def _slice(name: str, corpus: Path, folder: Path) -> str:
    Path(f"{corpus}.runs").write_text('{"runs": 0, "grew": 0}')
    options = [f"-max_total_time={SLICE_S}", "-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={folder}/"]
    command = ["nice", "-n", "19", sys.executable, "-m", "fuzz", name, str(corpus), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    return done.stdout + done.stderr
