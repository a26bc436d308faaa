"""The process in which plug-ins run: `python -m analysis.child`, one task after another, killed by its parent at will.

Speaks JSON lines over two pipes. The parent sends {"task": …} and {"cancel": true}; the child answers {"ready": …},
{"progress": …, "message": …} and, once per task, one of {"done": …}, {"refused": words}, {"cancelled": true} and
{"failed": {"type": …, "trace": […]}}. A trace holds places in the code and no values, so no patient data.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.keeper import keep

UNREADABLE = "the input cannot be read"


class Line:
    """The two pipes to the parent."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = os.fdopen(incoming, "r", encoding="utf-8")
        self._outgoing = os.fdopen(outgoing, "w", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()
        self.tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.cancelled = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, **message: Any) -> None:
        """Send one message."""
        with self._lock:
            self._outgoing.write(json.dumps(message) + "\n")

    def _listen(self) -> None:
        for line in self._incoming:
            message = json.loads(line)
            if message.get("cancel"):
                self.cancelled.set()
            elif "task" in message:
                self.cancelled.clear()
                self.tasks.put(message["task"])
        os._exit(0)  # the parent closed the pipe: it is done with us, whatever we are doing


class HostContext:
    """What a plug-in is given (`analysis.api.Context`)."""

    def __init__(self, backend: Any, inputs: Mapping[str, Any], outputs: frozenset[str], line: Line) -> None:
        self.xp, self.nd, self.backend = backend.xp, backend.nd, backend.description
        self.inputs = inputs
        self.emitted: list[tuple[str, Any]] = []
        self.files: Mapping[str, tuple[Path, ...]] = {}  # the host's own business, both: commands get them
        self.scratch: Path | None = None
        self._outputs = outputs
        self._line = line

    def progress(self, fraction: float, message: str = "") -> None:
        """Report 0 to 1; the first tenth is reading the inputs, the last twentieth is writing the results."""
        from analysis.api import Cancelled

        if self._line.cancelled.is_set():
            raise Cancelled
        self._line.say(progress=0.1 + 0.85 * min(max(float(fraction), 0.0), 1.0), message=str(message)[:200])

    def emit(self, output: str, value: Any) -> None:
        """Keep a result until the end; BrokenContract for an output that the manifest does not declare."""
        from analysis.api import BrokenContract

        if output not in self._outputs:
            raise BrokenContract(f"The manifest declares no output named {str(output)[:64]!r}.")
        self.emitted.append((output, value))


def _reading(line: Line) -> Any:
    from analysis.api import Cancelled

    def progress(fraction: float) -> None:
        if line.cancelled.is_set():
            raise Cancelled
        line.say(progress=0.1 * fraction, message="reading images")

    return progress


def perform(task: Mapping[str, Any], plugin: Any, backend: Any, line: Line) -> list[dict[str, Any]]:
    """Run one task; the results as Part 10 files in `task["out"]`: path, UIDs and defects (words) of each.

    Raises Cancelled, NotAnalysable, BrokenContract, and whatever the plug-in raises.
    """
    from analysis import inputs as loading
    from analysis.package import package_of
    from analysis.results import checks, contract, provenance
    from analysis.results.encode import encode

    manifest = plugin.manifest
    loads = {each.name: each.load for each in manifest.inputs}
    given: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    used: tuple[loading.Instance, ...]
    for entry in task["inputs"]:
        instances = [loading.read(Path(path)) for path in entry["files"]]
        if not instances:
            given[entry["name"]], used = None, ()
        elif loads[entry["name"]] == "datasets":
            given[entry["name"]], used = loading.datasets(instances), tuple(instances)
        elif loads[entry["name"]] == "volume":
            given[entry["name"]], used = loading.volume(instances, _reading(line))
        else:
            given[entry["name"]], used = loading.images(instances, _reading(line)), tuple(instances)
        sources |= {str(each.header.SOPInstanceUID): each.header for each in used}
    params = plugin.params.model_validate(task["params"])
    ctx = HostContext(backend, given, frozenset(output.name for output in manifest.outputs), line)
    ctx.files = {entry["name"]: tuple(map(Path, entry["files"])) for entry in task["inputs"]}
    ctx.scratch = Path(task["out"]).parent
    ctx.progress(0.0, "starting")
    backend.limit(task.get("gpu_memory_mb", 0))
    plugin.run(ctx, params)
    line.say(progress=0.95, message="writing results")
    run = provenance.RunInfo(
        task_key=task["task_key"],
        workitem_uid=task["workitem_uid"],
        plugin_id=manifest.id,
        plugin_version=manifest.version,
        plugin_title=manifest.title,
        params=provenance.params_dict(params),
        backend=backend.description,
        when=datetime.fromtimestamp(task["when"], UTC),
        sources=tuple(sources.values()),
        input_digests=tuple(task["input_digests"]),
        digests=task.get("digests", {}),
        package=str(package_of(plugin)),
    )
    results = encode(run, ctx.emitted, task.get("forms", ()))
    contract.complete(manifest.outputs, results)
    files = [provenance.part10(ds) for ds in results]
    defects: dict[int, list[str]] = {}
    for found in checks.examine(files, run.sources):
        defects.setdefault(found.index, []).append(found.words)
    made = []
    for number, (ds, data) in enumerate(zip(results, files, strict=True)):
        path = Path(task["out"]) / f"{number:04d}.dcm"
        path.write_bytes(data)
        made.append(
            {
                "path": str(path),
                "study": str(ds.StudyInstanceUID),
                "series": str(ds.SeriesInstanceUID),
                "sop_class": str(ds.SOPClassUID),
                "sop_instance": str(ds.SOPInstanceUID),
                "defects": defects.get(number, []),
            }
        )
    return made


def places(error: BaseException) -> list[str]:
    """Where an error came from, as file, line and function: never its values."""
    found = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in found]


def _modest() -> None:
    """Print nothing, and be the first to go when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, lambda *_: None)  # and so is the end of a service, of which all of it is told
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))  # for `terminate()`
    warnings.simplefilter("ignore")  # pydicom's warnings quote values
    logging.disable(logging.CRITICAL)


def main(arguments: list[str]) -> None:
    """Serve tasks of one plug-in until the parent closes the pipe: TARGET DEVICE IN_FD OUT_FD PARENT_PID CRASH_FD."""
    target, setting = arguments[:2]
    incoming, outgoing, parent, crash = map(int, arguments[2:6])
    keep(parent, (incoming, outgoing, crash))
    _modest()
    faulthandler.enable(crash)  # a native crash leaves the places in the code, no values
    line = Line(incoming, outgoing)

    from analysis.api import BrokenContract, Cancelled, NotAnalysable
    from analysis.command import CommandFailed

    try:
        from analysis import device, registry

        for heavy in ("analysis.inputs", "analysis.results.encode", "analysis.results.checks", "highdicom"):
            importlib.import_module(heavy)  # before the clock of a task runs
        backend = device.choose(setting)
        plugin = registry.resolve(target)
    except BaseException as error:
        line.say(failed={"type": type(error).__name__, "trace": places(error)})
        return
    line.say(ready=backend.description, version=plugin.manifest.version, pid=os.getpid())
    while True:
        task = line.tasks.get()
        try:
            line.say(done=perform(task, plugin, backend, line))
        except Cancelled:
            line.say(cancelled=True)
        except NotAnalysable as error:
            line.say(refused=str(error) or UNREADABLE)
        except MemoryError:
            line.say(failed={"type": "MemoryError", "trace": []})
        except CommandFailed as error:
            line.say(failed={"type": "CommandFailed", "trace": [], "words": error.words})
        except BrokenContract as error:
            line.say(failed={"type": "BrokenContract", "trace": [], "words": str(error)})
        except Exception as error:
            line.say(failed={"type": type(error).__name__, "trace": places(error)})
        finally:
            backend.free()


if __name__ == "__main__":
    main(sys.argv[1:])
