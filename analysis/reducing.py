"""The process in which a plug-in reduces the results of a batch: one task as JSON on its standard input, one answer."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import warnings
from typing import Any

OVERHEAD_MB = 4096  # of address space: libraries map far more than they use


class ReduceContext:
    """What `reduce` is given: `analysis.api.Context` without inputs and results."""

    def __init__(self) -> None:
        import numpy
        import scipy.ndimage

        self.xp: Any = numpy
        self.nd: Any = scipy.ndimage
        self.backend = f"numpy {numpy.__version__}"
        self.inputs: dict[str, Any] = {}

    def progress(self, fraction: float, message: str = "") -> None:
        """Nobody listens."""

    def emit(self, output: str, value: Any) -> None:
        """ValueError: a batch has a table, and no results."""
        raise ValueError("reduce returns a table and emits nothing")


def main(target: str) -> int:
    """Answer {"table": …}, or {"failed": words}; never with a value that a plug-in's error quotes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plug-in prints is no answer
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    task = json.load(sys.stdin)

    from analysis.api import NotAnalysable, Table
    from analysis.batch_report import RESULTS, TABLE
    from analysis.registry import resolve

    try:
        plugin: Any = resolve(target)
        params = plugin.params.model_validate(task["params"])
        limit = (task["memory_mb"] + OVERHEAD_MB) << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        made = plugin.reduce(ReduceContext(), RESULTS.validate_python(task["results"]), params)
        if not isinstance(made, Table):
            raise NotAnalysable("reduce returned no Table")
        if any(len(row) != len(made.columns) for row in made.rows):
            raise NotAnalysable("a row of its table has another number of cells than there are columns")
        said = {"table": TABLE.dump_python(made, mode="json")}
    except NotAnalysable as error:
        said = {"failed": str(error)}
    except MemoryError:
        said = {"failed": "it took more memory than the plug-in declares"}
    except Exception as error:
        said = {"failed": f"{type(error).__name__} in the plug-in"}
    with answers:
        json.dump(said, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
