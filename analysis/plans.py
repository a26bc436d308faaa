"""What a rule would do with a study now: the inputs of each task, what it still waits for, or why it does nothing.

Functions of values and of what the index says of candidates; nothing is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from analysis.api import NotAnalysable
from analysis.matching import Candidate, Match, judged_by, tasks_among
from analysis.rules import COUNTED, Expected, Rule
from analysis.tests_in_words import written
from pacs.index import schema
from pacs.index.rule_waits import AHEAD_S

if TYPE_CHECKING:
    from pacs.index.engine import Index


@dataclass(frozen=True)
class Study:
    """What rules need to know of a study besides its instances. Times are in Unix seconds."""

    study_instance_uid: str
    scope: str
    patient_id: str
    issuer_of_patient_id: str
    date: str
    time: str
    last_instance_at: float
    stable_at: float | None

    @property
    def stable(self) -> bool:
        """Whether it has come to rest."""
        return self.stable_at is not None

    def unchanged(self, conn: Connection) -> bool:
        """Whether nothing has come since; nothing will until the transaction ends."""
        t = schema.study.c
        wanted = select(t.last_instance_at, t.stable_at).where(t.study_instance_uid == self.study_instance_uid)
        now = conn.execute(wanted.with_for_update()).first()
        return now is not None and (now[0] or 0.0, now[1]) == (self.last_instance_at, self.stable_at)


@dataclass(frozen=True)
class Verdict:
    """What a rule does with a study: tasks, each with its inputs, `waits_until` with `why`, or nothing, and why not.

    `comments` are for those who read the Workitem: what was expected and did not come.
    """

    tasks: tuple[tuple[Match, ...], ...] = ()
    waits_until: float | None = None
    why: str = ""
    comments: dict[str, str] = field(default_factory=dict)  # by target


def study(index: Index, study_instance_uid: str) -> Study | None:
    """The study, None where there is none."""
    t = schema.study.c
    wanted = select(
        t.study_instance_uid, t.scope, t.patient_id, t.issuer_of_patient_id, t.study_date, t.study_time,
        t.last_instance_at, t.stable_at,
    ).where(t.study_instance_uid == study_instance_uid)  # fmt: skip
    with index.read() as conn:
        found = conn.execute(wanted).first()
    if found is None:
        return None
    uid, scope, patient, issuer, date, time, last, stable_at = found
    return Study(uid, scope, patient or "", issuer or "", date or "", time or "", last or 0.0, stable_at)


def judge(rule: Rule, about: Study, found: Sequence[Candidate], now: float) -> Verdict:
    """What the rule does with what has arrived of a study."""
    if rule.scopes and about.scope not in rule.scopes:
        return Verdict(why="the study belongs to another access scope")
    seen = [each for each in found if not rule.sources or each.source_ae in rule.sources]
    if not seen:
        return Verdict(why="nothing came from " + ", ".join(sorted(rule.sources)) if rule.sources else "it is empty")
    try:
        made = tuple(tasks_among(rule.installed.manifest, lambda _: seen, rule.tests))
    except NotAnalysable as reason:
        return Verdict(why=str(reason))
    if not made:
        return Verdict(why=why_not(rule, seen))
    # What came to rest before the clock was put back came long ago; `rule_waits.put_back` says how long it waits still.
    last = about.last_instance_at if about.last_instance_at <= now + AHEAD_S else 0.0
    quiet_until = last + rule.quiet_s
    if now < quiet_until:
        return Verdict((), quiet_until, f"nothing new has to come for {rule.quiet_s:g} s")
    lacking = {each[0].target: words for each in made if (words := missing(rule.expect, each[0], seen))}
    until = last + rule.wait_s
    if lacking and now < until:
        whole = tuple(each for each in made if each[0].target not in lacking)
        return Verdict(whole, until, "; ".join(sorted(set(lacking.values()))))
    comments = {target: f"{words}; nothing more came for {rule.wait_s:g} s" for target, words in lacking.items()}
    return Verdict(made, comments=comments)


def missing(expect: Sequence[Expected], match: Match, found: Sequence[Candidate]) -> str:
    """What is expected and not there, in words; "" where all is."""
    words: list[str] = []
    for each in expect:
        if each.attribute:
            words += _fewer_than_told(each.attribute, match, found)
            continue
        among = match.instances if not each.tests else found
        count = sum(one.passes(each.tests) for one in among)
        if count < each.number:
            of = f" with {written(each.tests[0])}" if each.tests else ""
            words.append(f"{count} of {each.number} instances{of} are here")
    return ", ".join(words)


def _fewer_than_told(attribute: str, match: Match, found: Sequence[Candidate]) -> Iterator[str]:
    """What is there less than the instances themselves tell that there will be."""
    first = match.instances[0]
    if COUNTED[attribute] == "acquisition":
        groups: dict[tuple[str, str], list[Candidate]] = {}
        for one in match.instances:
            groups.setdefault((one.series_instance_uid, one.text("AcquisitionNumber")), []).append(one)
        for (_, number), group in groups.items():
            told = _told(group, attribute)
            if len(group) < told:
                yield f"{len(group)} of {told} images of acquisition {number or '?'} are here"
        return
    if COUNTED[attribute] == "series":
        among = [one for one in found if one.series_instance_uid == first.series_instance_uid]
        here, told, what = len(among), _told(among, attribute), "instances of the series"
    elif attribute == "NumberOfStudyRelatedSeries":
        here, told, what = len({one.series_instance_uid for one in found}), _told(found, attribute), "series"
    else:
        here, told, what = len(found), _told(found, attribute), "instances of the study"
    if here < told:
        yield f"{here} of {told} {what} are here"


def _told(instances: Sequence[Candidate], attribute: str) -> int:
    """What the first instance that says it says; 0 where none of the first few does."""
    for one in instances[:8]:
        text = one.text(attribute).strip()
        if text.isascii() and text.isdecimal() and len(text) <= 12:  # VR IS (PS3.5 6.2): strangers write more
            return int(text)
    return 0


def why_not(rule: Rule, found: Sequence[Candidate]) -> str:
    """Why the first input of the rule's plug-in fits nothing of this, series by series; tests are named, values not."""
    wanted = rule.installed.manifest.inputs[0]
    tests = (*wanted.where, *rule.tests)
    by_series: dict[str, list[Candidate]] = {}
    for each in found:
        by_series.setdefault(each.series_instance_uid, []).append(each)
    words = []
    for group in by_series.values():
        judged = judged_by(group)
        failed = judged.failed(tests)
        if failed is not None:
            reason = f"{written(failed)} does not hold"
        elif wanted.load != "datasets" and not judged.is_image:
            reason = "it has no images"
        elif len(group) < wanted.min_instances:
            reason = f"{len(group)} of at least {wanted.min_instances} instances"
        else:
            reason = "its other instances do not fit"
        words.append(f"series {judged.text('SeriesNumber') or '?'}: {reason}")
    return "; ".join(dict.fromkeys(words))
