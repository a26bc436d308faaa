"""`python -m fuzz TARGET CORPUS [libFuzzer options]`: one target under atheris, guided by the coverage of our code.

The last line of standard output tells, as JSON, how many inputs ran and how much memory the process grew by. An input
that breaks a promise ends the run with a traceback and is left beside the corpus as libFuzzer does it (crash-…).
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import atheris

with atheris.instrument_imports(include=["pacs", "dicomweb"], enable_loader_override=False):
    from fuzz.targets import TARGETS

WARM = 20_000


def main() -> None:
    """Fuzz until libFuzzer's own options end it."""
    target = TARGETS[sys.argv[1]]
    runs, warm = 0, 0

    def one(data: bytes) -> None:
        nonlocal runs, warm
        target.timed(data)
        runs += 1
        if runs == WARM:
            warm = _resident()
        if runs % 2000 == 0:
            Path(sys.argv[2] + ".runs").write_text(json.dumps({"runs": runs, "grew": _resident() - (warm or _peak())}))

    atheris.Setup([sys.argv[0], sys.argv[2], *sys.argv[3:], f"-max_len={target.max_length}"], one)
    atheris.Fuzz()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


main()
