"""`m3dicom correct`: merge and correct patients, relink and correct studies, list and undo what was corrected."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pacs import settings as settings_module
from pacs.errors import InvalidInput
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """The verb and its own verbs."""
    correct = verbs.add_parser("correct", help="merge patients, relink studies, correct who and what they are; undo it")
    inner = correct.add_subparsers(required=True, metavar="VERB")

    merge = _making(inner, "merge", "make one patient's studies, and those that come later, another patient's")
    merge.add_argument("patient_id", metavar="PATIENT_ID", help="whose studies they are now")
    merge.add_argument("--into", required=True, metavar="PATIENT_ID", help="whose they really are; known here")
    merge.add_argument("--issuer", default="", help="Issuer of Patient ID of the first")
    merge.add_argument("--into-issuer", default="", help="Issuer of Patient ID of the other")

    relink = _making(inner, "relink", "give a study to another patient")
    relink.add_argument("study", metavar="STUDY", help="Study Instance UID")
    relink.add_argument("--to", dest="into", required=True, metavar="PATIENT_ID", help="whose study it really is")
    relink.add_argument("--to-issuer", dest="into_issuer", default="", help="Issuer of Patient ID")
    _setting(relink, "of a patient who is not known here")

    patient = _making(inner, "patient", "correct what all studies of a patient say of him or her")
    patient.add_argument("patient_id", metavar="PATIENT_ID")
    patient.add_argument("--issuer", default="", help="Issuer of Patient ID")
    _setting(patient, "to correct")

    study = _making(inner, "study", "correct what a study says of itself and its patient")
    study.add_argument("study", metavar="STUDY", help="Study Instance UID")
    _setting(study, "to correct")

    listing = inner.add_parser("list", help="the corrections, the newest first")
    common(listing)
    listing.add_argument("--study", metavar="UID", help="only those that hold for this study")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list)

    show = inner.add_parser("show", help="one correction, and what its studies were before")
    common(show)
    show.add_argument("id", type=int)
    show.set_defaults(run=_show)

    undo = inner.add_parser("undo", help="let a correction no longer hold: everything is as before it")
    common(undo)
    undo.add_argument("id", type=int)
    undo.set_defaults(run=_undo)


def _making(inner: Verbs, kind: str, words: str) -> argparse.ArgumentParser:
    parser = inner.add_parser(kind, help=words)
    common(parser)
    parser.add_argument("--reason", required=True, help="recorded with the correction")
    parser.set_defaults(run=_make, kind=kind)
    return parser


def _setting(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEYWORD=VALUE", help=f"attribute {words}; may be repeated"
    )
    parser.add_argument(
        "--remove", action="append", default=[], metavar="KEYWORD", help="attribute that is to go; may be repeated"
    )


def _ask(chosen: argparse.Namespace, method: str, path: str, body: object = None) -> Any:
    from pacs.server import beside

    settings = settings_module.load(chosen.config, os.environ, {"data": chosen.data})
    return beside.ask(settings, method, path, body)


def _make(chosen: argparse.Namespace) -> int:
    changes: dict[str, str | None] = {}
    for each in getattr(chosen, "set", []):
        keyword, equals, value = each.partition("=")
        if not equals:
            raise InvalidInput(f"--set needs KEYWORD=VALUE: {keyword}")
        changes[keyword] = value
    changes |= dict.fromkeys(getattr(chosen, "remove", []))
    named = {
        "study_instance_uid": "study", "patient_id": "patient_id", "issuer": "issuer", "into_patient_id": "into",
        "into_issuer": "into_issuer",
    }  # fmt: skip
    body: dict[str, Any] = {name: getattr(chosen, attribute, "") for name, attribute in named.items()}
    made = _ask(
        chosen, "POST", "/api/corrections", body | {"kind": chosen.kind, "reason": chosen.reason, "changes": changes}
    )
    number = len(made["studies"])
    studies = "1 study" if number == 1 else f"{number} studies"
    later = " and for what comes later" if chosen.kind == "merge" else ""
    print(f"correction {made['id']} holds for {studies}{later}; undo: m3dicom correct undo {made['id']}")
    return 0


def _list(chosen: argparse.Namespace) -> int:
    path = "/api/corrections" + (f"?study={quote(chosen.study)}" if chosen.study else "")
    for each in _ask(chosen, "GET", path):
        if chosen.json:
            print(json.dumps(each, ensure_ascii=False))
            continue
        when = datetime.fromtimestamp(each["at"], UTC).strftime("%Y-%m-%d %H:%M")
        undone = " (undone)" if each["undone_at"] else ""
        holds = f"{each['number_of_studies']} studies"
        what = ", ".join(each["changes"])
        words = (f"{when} UTC", each["principal"], each["kind"] + undone, holds, what, each["reason"])
        print(each["id"], *words, sep="\t")
    return 0


def _show(chosen: argparse.Namespace) -> int:
    print(json.dumps(_ask(chosen, "GET", f"/api/corrections/{chosen.id}"), ensure_ascii=False, indent=2))
    return 0


def _undo(chosen: argparse.Namespace) -> int:
    undone = _ask(chosen, "POST", f"/api/corrections/{chosen.id}/undo", {})
    number = len(undone["studies"])
    studies = "1 study is" if number == 1 else f"{number} studies are"
    print(f"correction {undone['id']} no longer holds; {studies} as before it, those that came later included")
    return 0
