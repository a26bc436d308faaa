"""Searching: a query in, ready DICOM JSON rows out, limited to what the asker may see."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, select

from pacs.auth import Principal, Right
from pacs.dicom.attributes import LEVELS, Level, Returned, by_tag, level_of
from pacs.dicom.matching import ALL, All, MatchKey, Query, UIDList, Universal, matches_in
from pacs.errors import TooLarge
from pacs.index import rows, schema
from pacs.index.engine import Index
from pacs.index.search import Ends, Page, kept, kept_values, patients, search
from pacs.index.statement import Found, Statement, Values

MAX_EXAMINED = 20_000
"""Entities that are read one by one for a key that no column answers; more have to be narrowed by other keys."""

_BLOBS = {Level.STUDY: schema.study.c, Level.SERIES: schema.series.c, Level.IMAGE: schema.instance.c}


@dataclass(frozen=True, slots=True)
class Row:
    """One match. `json` is a DICOM JSON object in which the byte 0xFF stands for the service root."""

    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    json: bytes

    @property
    def attributes(self) -> dict[str, Any]:
        """The object parsed; its RetrieveURL begins after the service root."""
        return rows.loads(self.json)


@dataclass(frozen=True, slots=True)
class Matches:
    """One page of matches, and how many follow it."""

    rows: list[Row]
    remaining: int


class QueryService:
    """Searching the index. Safe from any thread."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def search(self, query: Query, principal: Principal) -> Matches:
        """The entities of one level that match: studies newest first, series and instances in order of arrival.

        Rows hold the attributes returned by default (PS3.18 Tables 10.6.3-3 to 10.6.3-5), those that were matched, and
        those of `include` that belong to the level or one above; known ones without a value are empty. Raises
        Forbidden, Unavailable, and TooLarge where a key without a column leaves too much to look at.
        """
        principal.require(Right.QUERY)
        if query.limit is not None and query.limit <= 0:
            return Matches([], 0)
        held = [key for key in query.keys if not key.attribute.matchable and not isinstance(key.criterion, Universal)]
        return self._examined(query, held, principal) if held else self._page(query, principal)

    def _page(self, query: Query, principal: Principal) -> Matches:
        if query.level is Level.PATIENT:
            with self._index.read() as conn:
                page = patients(conn, query, principal.scope)
            return Matches([_patient(found, query) for found in page.rows], page.remaining)
        maker = _Maker(query)
        if query.limit is not None and (known := kept_values(query)) is not None:
            page = self._kept(query, principal.scope, maker.shape, *known)
            return Matches([maker.row(each) for each in page.rows], page.remaining)
        with self._index.read() as conn:
            page = search(conn, query, principal.scope, maker.columns)
        return Matches([maker.row(found) for found in page.rows], page.remaining)

    def _kept(self, query: Query, scope: str, shape: _Shape, compared: _Compared, values: Values) -> Page:
        """A page of a query for equal values and ranges, by SQL that is kept."""
        assert query.limit is not None
        select_page, count = _statements(query.level, compared, bool(scope), shape)
        values = {**values, "scope": scope, "rows": query.limit + 1, "offset": query.offset}
        found = self._index.fetch(select_page, values)
        if len(found) <= query.limit:
            return Page(found, 0)
        total = int(self._index.fetch(count, values)[0].matches)
        return Page(found[: query.limit], max(total - query.offset - query.limit, 1))

    def _examined(self, query: Query, held: list[MatchKey], principal: Principal) -> Matches:
        """Matches of keys that no column answers, found by looking at every entity that the other keys leave."""
        others = replace(query, keys=tuple(key for key in query.keys if key not in held), limit=1000, offset=0)
        if query.include is not ALL:
            others = replace(others, include=query.include | {key.attribute.tag for key in held})
        rows = (row for row in self._all(others, principal) if all(matches_in(key, row.attributes) for key in held))
        found = list(rows)
        page = found[query.offset :] if query.limit is None else found[query.offset : query.offset + query.limit]
        return Matches(page, max(0, len(found) - query.offset - len(page)))

    def _all(self, query: Query, principal: Principal) -> Iterator[Row]:
        examined, remaining = 0, 1
        while remaining:
            found = self._page(replace(query, offset=examined), principal)
            examined += len(found.rows)
            if examined + found.remaining > MAX_EXAMINED:
                raise TooLarge(f"no index for one of the keys, and more than {MAX_EXAMINED} candidates: add other keys")
            yield from found.rows
            remaining = found.remaining if found.rows else 0

    def may_see(self, principal: Principal, study_instance_uid: str | None) -> bool:
        """Whether the principal's scope covers the study; what belongs to no study is everybody's."""
        if not principal.scope or study_instance_uid is None:
            return True
        wanted = select(schema.study.c.scope).where(schema.study.c.study_instance_uid == study_instance_uid)
        with self._index.read() as conn:
            return conn.execute(wanted).scalar() == principal.scope


@dataclass(frozen=True, slots=True)
class _Part:
    """What one level gives to a row: its default attributes or not, and named ones, or everything that is held."""

    level: Level
    default: bool
    named: frozenset[str]
    everything: bool

    @property
    def reads_row(self) -> bool:
        return self.default or bool(self.named)

    @property
    def reads_more(self) -> bool:
        return self.everything or bool(self.named)


class _Maker:
    """Makes the rows of one query at STUDY, SERIES or IMAGE level."""

    def __init__(self, query: Query) -> None:
        self.level = query.level
        self._parts = _parts(query)
        self.shape, self._plain = _shape(self._parts)
        self._parsed: dict[bytes, dict[str, Any]] = {}  # those of upper levels repeat from row to row

    @property
    def columns(self) -> tuple[ColumnElement[Any], ...]:
        """What the rows are made from."""
        return _columns(self.shape)

    def row(self, found: Found) -> Row:
        """The row of one match."""
        study = found.study_instance_uid
        series, sop = getattr(found, "series_instance_uid", None), getattr(found, "sop_instance_uid", None)
        if self._plain:
            return Row(study, series, sop, getattr(found, f"{self.level}_row"))
        attributes: dict[str, Any] = {}
        for part in self._parts:
            if part.reads_row:
                attributes |= self._taken(part, found)
        if series is None:
            path = rows.study_path(study)
        elif sop is None:
            path = rows.series_path(study, series)
        else:
            path = rows.instance_path(study, series, sop)
        return Row(study, series, sop, rows.dumps(attributes, path))

    def _taken(self, part: _Part, found: Found) -> dict[str, Any]:
        default = self._loads(getattr(found, f"{part.level}_row"))
        taken = dict(default) if part.default else {tag: default[tag] for tag in part.named if tag in default}
        if part.reads_more:
            more = self._loads(getattr(found, f"{part.level}_more"))
            if part.everything:
                wanted: Any = more.keys()
            else:
                wanted = part.named | {creator for tag in part.named if (creator := _private_creator(tag))}
            taken |= {
                tag: more[tag]
                for tag in wanted
                if tag in more
                and (part.level is not Level.IMAGE or (tag not in taken and _of_instance(tag, more[tag])))
            }
        return _empty(part.named - taken.keys()) | taken

    def _loads(self, blob: bytes) -> dict[str, Any]:
        parsed = self._parsed.get(blob)
        if parsed is None:
            parsed = rows.loads(blob if blob[:1] == b"{" else zlib.decompress(blob))
            if len(self._parsed) < 64:
                self._parsed[blob] = parsed
        return parsed


_Include = frozenset[str] | Literal[All.ALL]
_REMEMBERED = 64
"""Of searches that name more attributes nothing is remembered."""

_Shape = tuple[tuple[Level, bool, bool], ...]
"""For each level whether its row, and whether more of it is read."""
_Compared = tuple[tuple[str, Ends], ...]
"""How each attribute is compared."""


@lru_cache(maxsize=64)
def _columns(shape: _Shape) -> tuple[ColumnElement[Any], ...]:
    uids = (
        schema.study.c.study_instance_uid,
        schema.series.c.series_instance_uid,
        schema.instance.c.sop_instance_uid,
    )
    columns: list[ColumnElement[Any]] = [*uids[: len(shape)]]
    for level, reads_row, reads_more in shape:
        if reads_row:
            columns.append(_BLOBS[level].row.label(f"{level}_row"))
        if reads_more:
            columns.append(_more_column(level).label(f"{level}_more"))
    return tuple(columns)


@lru_cache(maxsize=256)
def _statements(level: Level, compared: _Compared, scoped: bool, shape: _Shape) -> tuple[Statement, Statement]:
    return kept(level, compared, scoped=scoped, columns=_columns(shape))


@lru_cache(maxsize=256)
def _shape(parts: tuple[_Part, ...]) -> tuple[_Shape, bool]:
    """What has to be read for rows of these parts, and whether they are ready as they are read."""
    plain = not parts[-1].reads_more and not any(part.reads_row for part in parts[:-1])
    return tuple((part.level, part.reads_row, part.reads_more) for part in parts), plain


def _parts(query: Query) -> tuple[_Part, ...]:
    tags = tuple([key.attribute.tag for key in query.keys])
    single = frozenset(
        [
            key.attribute.tag
            for key in query.keys
            if isinstance(key.criterion, UIDList) and len(key.criterion.values) == 1
        ]
    )
    given = query.include
    if given is ALL or len(given) <= _REMEMBERED:
        return _remembered_parts(query.level, tags, single, given, query.with_upper)
    return _made_parts(query.level, tags, single, given, query.with_upper)


def _made_parts(
    level: Level, tags: tuple[str, ...], single: frozenset[str], include: _Include, with_upper: bool | None
) -> tuple[_Part, ...]:
    """The parts of a row: for a search by keys of these tags, of which `single` name one UID each."""
    # PS3.18 10.6.3.3: results of a search beyond one study (or series) carry the attributes of the levels above.
    named_parent = {Level.STUDY: "0020000D", Level.SERIES: "0020000E"}
    asked = _asked(tags, include)
    parts = []
    for each in LEVELS[1 : LEVELS.index(level) + 1]:
        default = each is level or (named_parent[each] not in single if with_upper is None else with_upper)
        own = {each, Level.PATIENT} if each is Level.STUDY else {each}
        named = frozenset(tag for tag in asked if level_of(tag) in own and not _there_anyway(tag, default=default))
        parts.append(_Part(each, default, named, default and include is ALL))
    return tuple(parts)


_remembered_parts = lru_cache(maxsize=512)(_made_parts)


def _there_anyway(tag: str, *, default: bool) -> bool:
    """Whether an attribute is in the row without being named: rows hold the UIDs of the levels above them too."""
    attribute = by_tag(tag)
    always = default and attribute is not None and attribute.returned is Returned.ALWAYS
    return always or tag in ("0020000D", "0020000E")


def _asked(tags: Iterable[str], include: _Include) -> set[str]:
    asked = {tag.partition(".")[0] for tag in tags}
    return asked if include is ALL else asked | include


def _more_column(level: Level) -> ColumnElement[Any]:
    if level is not Level.IMAGE:
        column: ColumnElement[Any] = _BLOBS[level].extra
        return column
    held = schema.instance_metadata.c
    return select(held.json).where(held.instance_key == schema.instance.c.id).scalar_subquery()


def _of_instance(tag: str, held: Any) -> bool:
    return level_of(tag) is Level.IMAGE and not rows.holds_bulk(held)


def _private_creator(tag: str) -> str | None:
    """The tag of the element that reserves a private element's block (PS3.5 section 7.8.1)."""
    return f"{tag[:4]}00{tag[4:6]}" if int(tag[:4], 16) % 2 and tag[4:6] != "00" else None


def _empty(tags: frozenset[str]) -> dict[str, Any]:
    known = ((tag, by_tag(tag)) for tag in tags)
    return {tag: {"vr": row.vr} for tag, row in known if row is not None and not row.computed}


def _patient(found: Found, query: Query) -> Row:
    held, more = rows.loads(found.row), rows.loads(found.extra)
    tags = [key.attribute.tag for key in query.keys]
    asked = frozenset(tag for tag in _asked(tags, query.include) if level_of(tag) is Level.PATIENT)
    wanted = more.keys() if query.include is ALL else asked
    attributes = {tag: value for tag, value in held.items() if level_of(tag) is Level.PATIENT}
    attributes |= {tag: more[tag] for tag in wanted if tag in more and level_of(tag) is Level.PATIENT}
    counts = {"00201200": found.studies, "00201202": found.series, "00201204": found.instances}
    attributes |= {tag: rows.value("IS", int(count)) for tag, count in counts.items()}
    return Row(None, None, None, rows.dumps(_empty(asked) | attributes, None))
