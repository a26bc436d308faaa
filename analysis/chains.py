"""What rules do with the results of a task: those that say that they build on results of its plug-in, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from analysis import plans
from analysis.api import Input, NotAnalysable
from analysis.matching import Candidate, candidates, results, tasks_among
from analysis.plans import Study, Verdict
from analysis.rules import Rule
from pacs.auth import SYSTEM
from pacs.dicom import ups_task
from pacs.dicom.ups import State
from pacs.index import workitems

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.index.workitems import WorkitemRow


def verdicts(archive: Archive, rules: Iterable[Rule], uid: str) -> Iterator[tuple[Rule, Study, Verdict]]:
    """What each rule that builds on the plug-in of this Workitem does, once it is COMPLETED and not superseded."""
    asking = [rule for rule in rules if rule.results_of]
    if not asking:
        return
    with archive.index.read() as conn:
        row = workitems.get(conn, uid)
    if row is None or row.study_instance_uid is None or row.state is not State.COMPLETED or row.superseded_by:
        return
    asking = [rule for rule in asking if row.plugin in rule.results_of]
    about = plans.study(archive.index, row.study_instance_uid) if asking else None
    if about is None:
        return
    principal = replace(SYSTEM, scope=about.scope)
    theirs = results(archive.index, about.study_instance_uid, uid, principal)
    sources = _sources(archive, row, about)
    for rule in asking:
        yield rule, about, _verdict(archive, rule, about, row, theirs, sources)


def holds(conn: Connection, uid: str) -> bool:
    """Whether the results of this Workitem are still those to build on; they are until the transaction ends."""
    row = workitems.get(conn, uid, lock=True)
    return row is not None and row.state is State.COMPLETED and row.superseded_by is None


def _sources(archive: Archive, row: WorkitemRow, about: Study) -> list[Candidate]:
    """What the task itself worked on: other inputs are looked for there."""
    references = ups_task.references_of(row.attributes)
    named = {sop for each in references for _, sop in each.instances}
    series = {each.series_instance_uid for each in references}
    found = candidates(archive.index, about.study_instance_uid, replace(SYSTEM, scope=about.scope))
    if named:
        return [each for each in found if each.sop_instance_uid in named]
    return found if None in series else [each for each in found if each.series_instance_uid in series]


def _verdict(
    archive: Archive,
    rule: Rule,
    about: Study,
    row: WorkitemRow,
    theirs: Sequence[Candidate],
    sources: Sequence[Candidate],
) -> Verdict:
    if rule.scopes and about.scope not in rule.scopes:
        return Verdict(why="the study belongs to another access scope")
    inputs = rule.installed.manifest.inputs
    declared = any(each.results_of for each in inputs)

    def pool(wanted: Input) -> Sequence[Candidate]:
        if wanted.results_of == row.plugin or (not declared and wanted is inputs[0]):
            return theirs
        return _latest(archive, wanted.results_of, about) if wanted.results_of else sources

    try:
        return Verdict(tuple(tasks_among(rule.installed.manifest, pool, rule.tests)))
    except NotAnalysable as reason:
        return Verdict(why=str(reason))


def _latest(archive: Archive, plugin: str, about: Study) -> list[Candidate]:
    """The results of the last task of that plug-in on the study that are good."""
    known = archive.worklist.of_plugin(plugin, about.study_instance_uid, requested=True)
    done = [each for each in known if each.state is State.COMPLETED and not each.superseded_by]
    scope = replace(SYSTEM, scope=about.scope)
    return results(archive.index, about.study_instance_uid, done[-1].uid, scope) if done else []
