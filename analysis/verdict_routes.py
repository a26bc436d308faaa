"""/api/verdicts: what readers say of findings; /api/accuracy: what that comes to for each plug-in version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.accuracy import Accuracy, Correction, as_table, corrections_as_table
from analysis.batch_report import as_csv
from analysis.verdict_models import Form, NewVerdict, Verdict
from pacs import uids
from pacs.auth import Right
from pacs.json_api import UID, Asked, Field, Reply, Row

if TYPE_CHECKING:
    from analysis.verdicts import Verdicts


def rows(verdicts: Verdicts) -> list[Row]:
    """The rows of the JSON API."""

    def listed(asked: Asked) -> object:
        study, report = (
            None if (uid := asked.query.get(name)) is None else uids.checked(uid, name) for name in ("study", "report")
        )
        return verdicts.listed(asked.principal, study, report)

    def accuracy(asked: Asked) -> object:
        found = verdicts.accuracy(asked.principal, asked.query.get("plugin"), asked.query.get("reader"))
        if asked.query.get("format") == "csv":
            return Reply(as_csv(as_table(found)), "text/csv; charset=utf-8", "accuracy.csv")
        return found

    def corrections(asked: Asked) -> object:
        found = verdicts.corrections(asked.principal, asked.query.get("plugin"), asked.query.get("reader"))
        if asked.query.get("format") == "csv":
            return Reply(as_csv(corrections_as_table(found)), "text/csv; charset=utf-8", "corrections.csv")
        return found

    among = (
        Field("plugin", "Only of this plug-in."),
        Field("reader", "Only by this reader."),
        Field("format", "json (default) or csv.", {"type": "string", "enum": ["json", "csv"]}),
    )
    tag = "verdicts"
    return [
        Row("GET", "/api/verdicts", listed, "What readers have said of findings, in the order of time.", tag,
            Right.READ, (Field("study", "Only on this study.", UID), Field("report", "Only on this SR.", UID)),
            answer=list[Verdict]),
        Row("POST", "/api/verdicts", lambda asked: verdicts.say(asked.principal, asked.body),
            "Accept, reject or correct a finding, or add a missed one.", tag, Right.PROCESS, body=NewVerdict,
            answer=Verdict, status=201, errors=(404,),
            description="Files a verified SR (TID 1500) that succeeds the report; the reader is who is logged in. "
            "Saying the same again changes nothing; the latest verdict of a reader counts."),
        Row("GET", "/api/verdicts/form",
            lambda asked: verdicts.form(asked.principal, asked.query["report"], asked.query["tracking_uid"]),
            "What of a finding can be corrected, and to which codes.", tag, Right.READ,
            (Field("report", "SOP Instance UID of the SR that has the finding.", UID, required=True),
             Field("tracking_uid", "Tracking Unique Identifier of the finding.", UID, required=True)),
            answer=Form, errors=(404,)),
        Row("GET", "/api/accuracy", accuracy, "How often readers found each plug-in version right.", tag, Right.QUERY,
            among, answer=list[Accuracy], also=("text/csv",)),
        Row("GET", "/api/accuracy/corrections", corrections, "What readers corrected, how often, and by how much.",
            tag, Right.READ, among, answer=list[Correction], also=("text/csv",)),
    ]  # fmt: skip
