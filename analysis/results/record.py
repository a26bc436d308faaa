"""Owns the provenance record of a result: one JSON text in every object of a task, for programs and for the curious.

The standard's own places say the same for people and other systems (Contributing Equipment, Algorithm Identification,
references); what has no place there, digests and typed parameters, is here, in a private block (PS3.5 7.8.1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

    from analysis.results.provenance import RunInfo

CREATOR, GROUP, ELEMENT = "m3DICOM PROVENANCE 1", 0x0099, 0x01
TAG = "00991001"
MOST_LISTED = 500
"""More inputs than this are not listed one by one: their count and their common digest stand for them."""


def record(run: RunInfo) -> dict[str, Any]:
    """What ran, on what, with what: JSON values."""
    digests = dict(sorted(run.digests.items()))
    lines = "".join(f"{uid} {digest}\n" for uid, digest in digests.items()) or "\n".join(run.input_digests)
    made: dict[str, Any] = {
        "task": run.task_key,
        "workitem": run.workitem_uid,
        "plugin": {"id": run.plugin_id, "version": run.plugin_version, "title": run.plugin_title},
        "package": run.package,
        "parameters": dict(run.params),
        "backend": run.backend,
        "inputs": {
            "count": len(run.sources),
            "digest": hashlib.sha256(lines.encode()).hexdigest(),
            **({"instances": digests} if digests and len(digests) <= MOST_LISTED else {}),
        },
    }
    return made


def write(ds: Dataset, run: RunInfo) -> None:
    """Put the record into `ds`."""
    block = ds.private_block(GROUP, CREATOR, create=True)
    text = json.dumps(record(run), sort_keys=True, separators=(",", ":"))
    block.add_new(ELEMENT, "UT", text)


def read(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of an instance from its DICOM JSON metadata; None where it has none that can be read."""
    creator = (metadata.get("00990010") or {}).get("Value") or [""]
    values = (metadata.get(TAG) or {}).get("Value") or []
    if creator[0] != CREATOR or not values:
        return None
    try:
        found = json.loads(values[0])
    except (TypeError, ValueError):
        return None
    return found if isinstance(found, dict) else None
