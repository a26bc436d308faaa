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


MOST_LETTERS = 10_000


class Concept(Body):
    """A coded concept (PS3.3 section 8); a value beyond 16 characters becomes a Long Code Value."""

    value: str = Bound(min_length=1, max_length=64, pattern=_SHORT)
    scheme: str = Bound(min_length=1, max_length=16, pattern=_SHORT)
    meaning: str = Bound(min_length=1, max_length=64, pattern=_SHORT)


class _Other(Body):
    """What of the finding is corrected: the concept name of an item of its group."""

    code: str = Bound(description="Code Value of the name")
    scheme: str = Bound(description="Its Coding Scheme Designator")
    position: int | None = Bound(None, ge=1, description="Which, where several items have that name; from 1")


class OtherNumber(_Other):
    """Another number for a measurement."""

    value: float = Bound(allow_inf_nan=False)


class OtherCode(_Other):
    """Another code: a category, an assessment, what was found, where."""

    value: Concept


class OtherText(_Other):
    """Other words."""

    value: str = Bound(min_length=1, max_length=MOST_LETTERS, pattern=_WORDS)


Other = OtherNumber | OtherCode | OtherText


class NewVerdict(Body):
    """What a reader says of a finding."""

    report: str = Bound(description="SOP Instance UID of the SR that has the finding, or that misses it")
    tracking_uid: str | None = Bound(None, description="Tracking Unique Identifier of the finding")
    verdict: Literal["accepted", "rejected", "corrected", "missed"]
    comment: str = Bound("", max_length=1024, pattern=_WORDS)
    measurements: list[OtherNumber] = Bound([], max_length=100, description="Corrected numbers")
    codes: list[OtherCode] = Bound([], max_length=100, description="Corrected codes: categories, assessments, kinds")
    texts: list[OtherText] = Bound([], max_length=100, description="Corrected texts")
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
    corrected: dict[str, Any] = Bound(
        description="What the reader has changed: measurements, codes and texts, each with value and what it was, and "
        "shape and points; of a missed finding, where it is"
    )
    plugin: str = Bound(description="Empty until the report that is judged is here, too")
    version: str
    finding: bool = Bound(description="False of what a report says of an image or of the whole")
    reader: str
    at: float
    counts: bool = Bound(description="Whether it is the reader's latest on this finding")


class CodedValue(BaseModel):
    """A coded concept as a document has it."""

    value: str
    scheme: str
    meaning: str


class Correctable(BaseModel):
    """One thing that a finding says and that a reader can correct: a field of a form."""

    kind: Literal["number", "code", "text"] = Bound(description="Goes to measurements, codes or texts of a verdict")
    code: str = Bound(description="Code Value of its name")
    scheme: str = Bound(description="Its Coding Scheme Designator")
    meaning: str = Bound(description="Its Code Meaning")
    position: int = Bound(description="Which of those with that name, from 1")
    of: int = Bound(description="How many have that name")
    value: float | CodedValue | str = Bound(description="As the report has it")
    now: float | CodedValue | str = Bound(description="As whoever asks has corrected it last")
    unit: str = Bound(description="UCUM, of a number; empty for none")
    choices: list[CodedValue] = Bound(description="Of a code: what may stand there by the lists of PS3.16 and by what "
                                      "the report says elsewhere; any other code may, too")  # fmt: skip


class Form(BaseModel):
    """What of a finding can be corrected."""

    report_uid: str
    tracking_uid: str
    tracking_id: str
    place: bool = Bound(description="Whether it has an outline on one image, which can be corrected")
    fields: list[Correctable]


def told(row: Row[Any], counts: bool) -> Verdict:
    """A row of the table as it is told."""
    m = row._mapping
    own = {"corrected": orjson.loads(row.corrected), "counts": counts}
    return Verdict(**{name: m[name] for name in Verdict.model_fields if name not in own}, **own)
