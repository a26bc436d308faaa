"""What a reader may say of a finding, and what is told of it: the models of /api/verdicts."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic import Field as Bound
from sqlalchemy import Row

from analysis.api import CODE_SCHEME, Code
from pacs.json_api import Body

VERDICT = Code("verdict", CODE_SCHEME, "Reader's verdict")
"""The name of the evaluation that a verification SR gives to a finding."""


_SHORT = r"^[^\\\x00-\x1f\x7f\s]([^\\\x00-\x1f\x7f]*[^\\\x00-\x1f\x7f\s])?$"
"""What SH and LO can carry and keep (PS3.5 6.2): one value, no control characters, no blanks at its ends."""
_WORDS = r"^[^\x00-\x08\x0b\x0e-\x1f\x7f]*$"
"""What UT can carry: of control characters only TAB, LF, FF and CR; ESC would begin another character set."""


class OtherNumber(Body):
    """Another number for a measurement of the finding."""

    code: str = Bound(description="Code Value of the measurement's name")
    scheme: str = Bound(description="Its Coding Scheme Designator")
    value: float = Bound(allow_inf_nan=False)


class Concept(Body):
    """A coded concept (PS3.3 section 8)."""

    value: str = Bound(min_length=1, max_length=16, pattern=_SHORT)
    scheme: str = Bound(min_length=1, max_length=16, pattern=_SHORT)
    meaning: str = Bound(min_length=1, max_length=64, pattern=_SHORT)


class NewVerdict(Body):
    """What a reader says of a finding."""

    report: str = Bound(description="SOP Instance UID of the SR that has the finding, or that misses it")
    tracking_uid: str | None = Bound(None, description="Tracking Unique Identifier of the finding")
    verdict: Literal["accepted", "rejected", "corrected", "missed"]
    comment: str = Bound("", max_length=1024, pattern=_WORDS)
    measurements: list[OtherNumber] = Bound([], max_length=100, description="Corrected numbers")
    shape: Literal["point", "circle", "polygon"] | None = Bound(None, description="Of the corrected or missed place")
    points: list[tuple[float, float]] = Bound(
        [], max_length=10_000, description="(column, row) in pixels, (0.5, 0.5) the centre of the first; a circle has "
        "its centre and a point on its edge"
    )  # fmt: skip
    image: str | None = Bound(None, description="SOP Instance UID of the image of a missed finding")
    frame: int | None = Bound(None, ge=1, le=(1 << 31) - 1, description="Its frame, from 1; needed of several")
    finding: Concept | None = Bound(None, description="What was missed")


class Verdict(BaseModel):
    """A verdict, and where it is in the archive."""

    sop_instance_uid: str = Bound(description="Of the verification SR")
    series_instance_uid: str
    study_instance_uid: str
    report_uid: str
    tracking_uid: str
    tracking_id: str
    verdict: Literal["accepted", "rejected", "corrected", "missed"]
    comment: str
    corrected: dict[str, Any]
    plugin: str
    version: str
    reader: str
    at: float
    counts: bool = Bound(description="Whether it is the reader's latest on this finding")


def told(row: Row[Any], counts: bool) -> Verdict:
    """A row of the table as it is told."""
    m = row._mapping
    own = {"corrected": orjson.loads(row.corrected), "counts": counts}
    return Verdict(**{name: m[name] for name in Verdict.model_fields if name not in own}, **own)
