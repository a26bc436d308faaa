"""What is asked of batches and told of them: the models of /api/batches."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic import Field as Bound

from pacs.json_api import Body

MOST_QUERY = 16_384  # characters: what is kept with the batch and told in every list


class NewBatch(Body):
    """What is to be computed, and on what."""

    plugin: str = Bound(description="Id of a plug-in")
    version: str | None = Bound(None, description="Only with this version: refused where another is installed")
    query: str = Bound(
        "",
        max_length=MOST_QUERY,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Studies, as QIDO-RS asks for them: ModalitiesInStudy=CT&StudyDate=20200101-",
    )
    parameters: dict[str, Any] = Bound({}, description="Those of the plug-in's schema; others keep their defaults")
    priority: Literal["HIGH", "MEDIUM", "LOW"] = Bound("LOW", description="LOW: what arrives goes first")
    rate_per_minute: float | None = Bound(None, gt=0, le=100_000, description="At most so many Workitems a minute")
    at_once: int = Bound(100, ge=1, le=10_000, description="At most so many that are not finished")
    only_changed: bool = Bound(False, description="Leave out what has results of this version with these parameters")


class Resume(Body):
    """How to go on with a batch."""

    version: str | None = Bound(
        None, description="Of the plug-in, where it is another than the batch was made for: all is done with that one"
    )


class Preview(BaseModel):
    """What a batch would do."""

    plugin: str
    version: str
    studies: int
    tasks: int
    to_run: int
    there: int = Bound(description="Done already, by the same version with the same parameters on the same instances")
    open: int = Bound(description="The same task waits or runs already")
    unchanged: int = Bound(description="Left out by only_changed")
    replacing: int = Bound(description="To run, with results of another version, parameters or input there")
    estimate_s: float | None = Bound(description="With the workers of this server; null where no task was ever done")
    examples: list[dict[str, str]] = Bound(description="The first of those to run")


class Batch(BaseModel):
    """A batch and how far it is."""

    id: int
    state: Literal["planning", "running", "paused", "reporting", "done", "cancelled", "failed"]
    reason: str
    plugin: str
    version: str
    query: str | None = Bound(description="Null for all but who asked for the batch, and administrators")
    parameters: dict[str, Any]
    priority: str
    rate_per_minute: float | None
    at_once: int
    only_changed: bool
    principal: str = Bound(description="Who asked for it")
    mine: bool = Bound(description="Whether whoever asks may pause, resume and cancel it")
    studies: int = Bound(description="That match the query")
    planned: int = Bound(description="Of these, looked at")
    unchanged: int = Bound(description="Left out: results of this version with these parameters are there")
    items: dict[str, int] = Bound(description="How many tasks are in which state")
    progress: float = Bound(description="0 to 1")
    estimate_s: float | None = Bound(description="What is left, with the workers of this server")
    report: bool = Bound(description="Whether there is a report")
    report_study_uid: str | None = Bound(description="The study in the archive that the report was filed in")
    report_instance_uid: str | None
    created_at: float
    updated_at: float
    ended_at: float | None


class Item(BaseModel):
    """One task of a batch."""

    id: int
    state: str
    study_instance_uid: str
    target: str = Bound(description="UID of the study, series or instance")
    label: str
    workitem_uid: str | None
    previous_uid: str | None = Bound(description="The Workitem whose results it is compared with")
    reason: str
    updated_at: float
