"""What a batch has to do: the studies of its query, and for each task of them whether its result is there already."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from analysis import plans
from analysis.api import Input, NotAnalysable, Params
from analysis.matching import Candidate, Match, candidates, tasks_among
from analysis.matching import results as results_of
from analysis.priors import Priors
from analysis.registry import Installed, job_key
from analysis.reports_read import version_of
from analysis.rules import Rule
from pacs import uids
from pacs.dicom import ups, ups_task
from pacs.dicom.matching import Query
from pacs.index import batches as sql
from pacs.index.workitems import WorkitemRow

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.auth import Principal

PAGE = 1000
OVERLAP = 20  # a study that is removed meanwhile moves those behind it up

Standing = Literal["new", "open", "there", "unchanged"]


@dataclass(frozen=True)
class Planned:
    """One task of a batch.

    standing: "new", "open" (the same task waits or runs), "there" (it was done), or "unchanged" (its input has results
    of this version with these parameters). workitem_uid: of the task that is there. previous_uid: the Workitem that has
    results of another version, parameters or instances; replaces: whether they are outdated by this one, which those
    with other parameters are not.
    """

    inputs: tuple[Match, ...]
    key: str
    standing: Standing
    workitem_uid: str | None
    previous_uid: str | None
    replaces: bool

    @property
    def study_instance_uid(self) -> str:
        """The study it is about."""
        return self.inputs[0].instances[0].study_instance_uid


def studies(archive: Archive, query: Query, principal: Principal) -> list[str]:
    """Study Instance UIDs of all that match, oldest first, whatever page the query asks for. Raises Forbidden."""
    found: dict[str, None] = {}
    offset = 0
    while True:
        page = archive.query.search(replace(query, limit=PAGE, offset=offset), principal)
        found |= dict.fromkeys(row.study_instance_uid for row in page.rows if row.study_instance_uid)
        if not page.remaining or not page.rows:
            return list(reversed(found))
        offset += max(1, len(page.rows) - OVERLAP)


def planned(
    archive: Archive, installed: Installed, params: Params, study: str, principal: Principal, *, only_changed: bool
) -> Iterator[Planned]:
    """The tasks of one study."""
    manifest = installed.manifest
    inputs_found = list(_inputs(archive, installed, study, principal))
    if not inputs_found:
        return
    with archive.index.read() as conn:
        known = sql.workitems_of(conn, manifest.id, study)
    written = _written(installed, params)
    by_key = {row.task_key: row for row in reversed(known) if row.task_key}
    heirs = {row.uid: row for row in known}
    by_target: dict[str | None, list[WorkitemRow]] = {}
    for row in known:
        if row.state is ups.State.COMPLETED:
            by_target.setdefault(_target(inputs_found[0][0].level, row), []).append(row)
    for inputs in inputs_found:
        key = job_key(manifest, params, [each.identity for match in inputs for each in match.instances])
        same = _heir(heirs, by_key[key]) if key in by_key else None
        if same is not None and same.state is ups.State.COMPLETED and not _is_version(archive, installed, same):
            same = None
        done = [row for row in by_target.get(inputs[0].target, ()) if row is not same]
        # A request has no task key: it is the same task when version, parameters and instances are.
        if same is None or same.state is ups.State.CANCELED:
            asked = next((row for row in reversed(done) if _is_same(archive, installed, written, row, inputs)), None)
            if asked is not None:
                same = asked
                done.remove(asked)
        standing: Standing = "new"
        if same is not None and same.state is not ups.State.CANCELED:
            standing = "there" if same.state is ups.State.COMPLETED else "open"
        # Results with other parameters stand beside each other: what comes after the same ones is theirs to replace.
        alike = [row for row in done if _parameters(installed, row) == written]
        if only_changed and (
            standing == "there" or any(_is_version(archive, installed, row) for row in alike if not row.superseded_by)
        ):
            standing = "unchanged"
        uid = same.uid if same is not None and standing in ("there", "open", "unchanged") else None
        previous = next(reversed(alike or done), None)
        yield Planned(inputs, key, standing, uid, previous.uid if previous is not None else None, bool(alike))


def _heir(known: Mapping[str, WorkitemRow], row: WorkitemRow) -> WorkitemRow:
    """The request for the very same that has taken the place of a Workitem, or the Workitem."""
    while row.state is ups.State.CANCELED:
        heir = known.get(row.superseded_by or "")
        if heir is None or heir.request_key != row.request_key:
            break
        row = heir
    return row


def _inputs(archive: Archive, installed: Installed, study: str, principal: Principal) -> Iterator[tuple[Match, ...]]:
    """The inputs of every task that the plug-in's own tests ask for: results of others and earlier studies included."""
    manifest = installed.manifest
    rule = Rule("batch", installed, priors=int(any(each.prior for each in manifest.inputs)))
    found = candidates(archive.index, study, principal)

    def pool(wanted: Input) -> Sequence[Candidate]:
        if not wanted.results_of:
            return found
        known = archive.worklist.of_plugin(wanted.results_of, study, requested=True)
        done = [row.uid for row in known if row.state is ups.State.COMPLETED and not row.superseded_by]
        return results_of(archive.index, study, done[-1], principal) if done else []

    earlier: tuple[Match, ...] = ()
    about = plans.study(archive.index, study)
    if rule.prior_input is not None and about is not None:
        earlier = tuple(Priors(archive).found(rule, about, rule.prior_input))
        if not earlier and not rule.prior_input.optional:
            return
    try:
        for inputs in tasks_among(manifest, pool):
            yield (*inputs, *earlier)
    except NotAnalysable:
        return  # an input that it needs is not there


def _target(level: str, row: WorkitemRow) -> str | None:
    """The UID of the study, series or instance that a Workitem works on."""
    references = ups_task.references_of(row.attributes)
    if not references:
        return None
    match level:
        case "study":
            return references[0].study_instance_uid
        case "series":
            return references[0].series_instance_uid
    return references[0].instances[0][1] if references[0].instances else None


def _written(installed: Installed, params: Params) -> dict[str, Any]:
    """The parameters as a Workitem says them back."""
    items = [ups_task.content_item(each) for each in installed.written(params)]
    return ups_task.parameters_of({ups.PARAMETERS_SEQUENCE: ups.element("SQ", *items)})


def _parameters(installed: Installed, row: WorkitemRow) -> dict[str, Any] | None:
    """The parameters of a finished Workitem with the defaults of now; None for those that are not taken any more."""
    try:
        return _written(installed, installed.params(ups_task.parameters_of(row.attributes)))
    except NotAnalysable:
        return None


def _is_version(archive: Archive, installed: Installed, row: WorkitemRow) -> bool:
    """Whether a finished Workitem was done by the version that is installed."""
    made = [sop for each in ups_task.outputs_of(row.attributes) for _, sop in each.instances]
    return (row.version or version_of(archive.index, made)) == installed.manifest.version


def _is_same(
    archive: Archive, installed: Installed, written: dict[str, Any], row: WorkitemRow, inputs: Sequence[Match]
) -> bool:
    named = {sop for each in ups_task.references_of(row.attributes) for _, sop in each.instances}
    taken = {each.sop_instance_uid for match in inputs for each in match.instances}
    if named != taken or _parameters(installed, row) != written:
        return False
    return _is_version(archive, installed, row)


def create(
    archive: Archive, installed: Installed, params: Params, task: Planned, principal: Principal, *,
    priority: str, round_: str, now: float,
) -> str:  # fmt: skip
    """The UID of the Workitem of a task, made now or known: whatever happens twice makes one.

    A task that ended CANCELED gets another Workitem; `round_` names the attempt. Raises ArchiveError.
    """
    manifest = installed.manifest
    attributes = ups_task.build(
        plugin=manifest.id,
        title=manifest.title,
        label=f"{manifest.title}: {task.inputs[0].label}",
        parameters=installed.written(params),
        inputs=[reference for match in task.inputs for reference in match.references],
        patient=task.inputs[0].instances[0].corrected,
        now=now,
        priority=priority,
        replaces=task.previous_uid if task.replaces else None,
    )
    return archive.worklist.create(
        attributes,
        uids.derived("workitem", task.key),
        principal,
        task=task.key,
        version=manifest.version,
        again=uids.derived("workitem", task.key, round_),
    )


def seconds_each(archive: Archive, plugin: str) -> float | None:
    """How long a task of that plug-in took lately (the median), None where none was done."""
    took = []
    with archive.index.read() as conn:
        rows = sql.durations(conn, plugin)
    for row in rows:
        performed = next(iter(ups.items(row.attributes, ups.PERFORMED_PROCEDURE_SEQUENCE)), {})
        began, ended = (ups.value(performed, tag) for tag in (ups.PERFORMED_START_DATETIME, ups.PERFORMED_END_DATETIME))
        if began and ended:
            took.append(max(0.0, ups.from_dt(str(ended)) - ups.from_dt(str(began))))
    return statistics.median(took) if took else None


def estimate_s(archive: Archive, plugin: str, number: int, rate_per_minute: float | None) -> float | None:
    """How long so many tasks may take with the workers of this server; None where no task was ever done."""
    each = seconds_each(archive, plugin)
    paced = number * 60 / rate_per_minute if rate_per_minute else 0.0
    if each is None:
        return paced or None
    return max(paced, number * each / max(1, archive.settings.workers))
