"""/api for administrators: quarantine, versions, rejections, corrections, discrepancies, retention. JSON in and out.

docs/corrections.md documents every route; each needs the right "admin" (removing for good also "delete").
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pacs import uids
from pacs.auth import Right
from pacs.correction_request import Request as Correction
from pacs.errors import NotFound
from pacs.json_api import NUMBER, TEXT, UID, Asked, Body, Field, Handler, Row, Schema

if TYPE_CHECKING:
    from pacs.archive import Archive

_TAG = "corrections"
_INSTANCE = Field("instance", "Only those of this SOP Instance UID.", UID)
_STUDY = Field("study", "Only those of this Study Instance UID.", UID)


def _object(**members: Schema) -> Schema:
    return {"type": "object", "properties": members}


_ASIDE = _object(
    id=NUMBER, state=TEXT, study_instance_uid=UID, series_instance_uid=UID, sop_instance_uid=UID, sop_class_uid=UID,
    digest=TEXT, principal=TEXT, source_ae=TEXT, received_at={"type": "number"}, at={"type": "number"}, by=TEXT,
    reason=TEXT, note_uid=TEXT,
)  # fmt: skip
_CORRECTION = _object(
    id=NUMBER, kind=TEXT, changes={"type": "object"}, principal=TEXT, reason=TEXT, at={"type": "number"},
    undone_at={"type": ["number", "null"]}, undone_by=TEXT,
)  # fmt: skip
_ANY = _object()


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


class Quarantine(Body):
    """What is done with a newcomer that is kept aside."""

    decision: Literal["accept", "reject"]
    reason: str = ""


class Aside(Body):
    """What is done with an old version, or a rejected instance."""

    decision: Literal["restore", "remove"]
    reason: str = ""


class Corrected(Body):
    """A correction (docs/corrections.md); `changes` are attributes with their values as text, null for one to go."""

    kind: str = ""
    reason: str = ""
    study_instance_uid: str = ""
    patient_id: str = ""
    issuer: str = ""
    into_patient_id: str = ""
    into_issuer: str = ""
    changes: dict[str, str | None] | None = None


class Keep(Body):
    """Why a study is not to be removed by any rule."""

    reason: str = ""


def rows(archive: Archive) -> list[Row]:
    """Every row of this file."""
    keeping, corrections = archive.keeping, archive.corrections

    def listing(state: str) -> Handler:
        def handler(asked: Asked) -> object:
            instance = asked.path.get("uid") or asked.query.get("instance")
            return keeping.listed(asked.principal, state, instance=instance, study=asked.query.get("study"))

        return handler

    def one(state: str) -> Handler:
        return lambda asked: _of_state(keeping.of(asked.principal, asked.number()), state)

    def decide(state: str, bring_in: str) -> Handler:
        def handler(asked: Asked) -> object:
            number = asked.number()
            _of_state(keeping.of(asked.principal, number), state)
            done = keeping.bring_in if asked.body.decision == bring_in else keeping.discard
            return done(asked.principal, number, asked.body.reason)

        return handler

    def correct(asked: Asked) -> object:
        given = asked.body.model_dump(exclude={"changes"})
        return corrections.make(asked.principal, Correction(**given, changes=asked.body.changes or {}))

    def keep(asked: Asked) -> None:
        archive.retention.keep(asked.principal, uids.checked(asked.path["uid"]), asked.body.reason)

    def release(asked: Asked) -> None:
        archive.retention.release(asked.principal, uids.checked(asked.path["uid"]))

    def due(asked: Asked) -> object:
        return [asdict(each) for each in archive.retention.preview(asked.principal, time.time())]

    def discrepancies(asked: Asked) -> object:
        return archive.discrepancies.listed(asked.principal, settled=asked.query.get("all") == "true")

    def settle(asked: Asked) -> None:
        archive.discrepancies.settle(asked.principal, asked.number())

    def row(method: str, path: str, handler: Handler, summary: str, answer: Any = None, **more: Any) -> Row:
        return Row(method, path, handler, summary, _TAG, right=Right.ADMIN, answer=answer, **more)

    def aside(path: str, state: str, words: str, body: type[Body], bring_in: str) -> list[Row]:
        return [
            row("GET", path, one(state), f"One {words}, and how it differs from what is held.", _ASIDE),
            row("POST", path, decide(state, bring_in), f"Decide what becomes of one {words}.", _ASIDE, body=body,
                errors=(409,), description="Removing for good needs the right `delete`, too."),
        ]  # fmt: skip

    held = (_INSTANCE, _STUDY)
    return [
        row("GET", "/api/quarantine", listing("quarantined"), "Newcomers that are kept aside.", _list(_ASIDE),
            query=held),
        *aside("/api/quarantine/{id}", "quarantined", "newcomer", Quarantine, "accept"),
        row("GET", "/api/instances/{uid}/versions", listing("replaced"), "Old versions of an instance.", _list(_ASIDE),
            query=(_STUDY,)),
        *aside("/api/versions/{id}", "replaced", "old version", Aside, "restore"),
        row("GET", "/api/rejections", listing("rejected"), "Instances that a note has rejected.", _list(_ASIDE),
            query=held),
        *aside("/api/rejections/{id}", "rejected", "rejected instance", Aside, "restore"),
        row("GET", "/api/corrections", lambda asked: corrections.listed(asked.principal, asked.query.get("study")),
            "Corrections of who a patient or study is.", _list(_CORRECTION), query=(_STUDY,)),
        row("POST", "/api/corrections", correct, "Make a correction.", _CORRECTION, body=Corrected, errors=(404, 409)),
        row("GET", "/api/corrections/{id}", lambda asked: corrections.of(asked.principal, asked.number()),
            "One correction, and what it changed.", _CORRECTION),
        row("POST", "/api/corrections/{id}/undo", lambda asked: corrections.undo(asked.principal, asked.number()),
            "Undo a correction.", _CORRECTION, errors=(409,)),
        row("GET", "/api/discrepancies", discrepancies, "Headers that disagree within a study.", _list(_ANY),
            query=(Field("all", "Settled ones, too.", {"type": "string", "enum": ["true", "false"]}),)),
        row("POST", "/api/discrepancies/{id}/settle", settle, "Note that a discrepancy was looked at."),
        row("GET", "/api/retention", due, "What rules would remove now.", _list(_ANY)),
        row("GET", "/api/kept", lambda asked: archive.retention.kept(asked.principal),
            "Studies that no rule removes.", _list(_ANY)),
        row("PUT", "/api/studies/{uid}/keep", keep, "Keep a study from every rule.", body=Keep),
        row("DELETE", "/api/studies/{uid}/keep", release, "Leave a study to the rules again."),
    ]  # fmt: skip


def _of_state(found: dict[str, Any], state: str) -> dict[str, Any]:
    if found["state"] != state:
        raise NotFound(f"not {state}", about=str(found["id"]))
    return found
