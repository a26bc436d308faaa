"""Queries as SQL: matching keys become conditions with bound parameters, levels become joins.

A key of a level below the one that is searched asks for entities that have such a child.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    or_,
    select,
    true,
)

from pacs.dicom.attributes import LEVELS, Attribute, Level, by_tag
from pacs.dicom.matching import (
    AllOf,
    AnyOf,
    Criterion,
    Empty,
    Fuzzy,
    Item,
    MatchKey,
    Moments,
    Query,
    Range,
    Single,
    UIDList,
    Universal,
    Wildcard,
    name_groups,
)
from pacs.index import schema
from pacs.index.statement import Found, Statement

study, series, instance, request = schema.study, schema.series, schema.instance, schema.series_request
_HIGHEST = "\U0010ffff"
_UIDS_IN_ONE_LIST = 5_000  # both databases limit bound parameters to 32 000 and more


_OF_CHILDREN = frozenset(("00080061", "00080062"))  # what is in any of the study's series or instances
_OWN = {level: frozenset(LEVELS[: at + 1]) for at, level in enumerate(LEVELS)}


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page and how many matches follow it."""

    rows: Sequence[Found]
    remaining: int


def search(conn: Connection, query: Query, scope: str, columns: Sequence[ColumnElement[Any]]) -> Page:
    """One page of matching entities, with these columns, in an order that stays while the data stays.

    Studies and patients come newest first, series and instances in their order of arrival.
    """
    keys = [key for key in query.keys if not isinstance(key.criterion, Universal)]
    source, conditions = _where(conn.dialect.name, query.level, keys, scope)
    wanted = select(*columns).select_from(source).where(*conditions).order_by(*_ORDER[query.level])
    return _page(conn, wanted, query, lambda: select(func.count()).select_from(source).where(*conditions))


Ends = Literal["=", ">=", "<=", "><"]
"""How a kept statement compares a column: with one value, or with the ends of a range."""


def kept_values(query: Query) -> tuple[tuple[tuple[str, Ends], ...], dict[str, str | int | float]] | None:
    """How each attribute of a query is compared, and with which values; None where its SQL has to be made for it.

    Queries for equal values and ranges of the level or of those above differ from others of their kind by values
    alone, so that their SQL can be kept (`kept`). Parameters are named by the tag, the upper end of a range after it.
    """
    shape: list[tuple[str, Ends]] = []
    values: dict[str, str | int | float] = {}
    above = _OWN[query.level]
    for key in query.keys:
        tag, criterion = key.attribute.tag, key.criterion
        if isinstance(criterion, Universal):
            continue
        if key.attribute.level not in above or tag in _OF_CHILDREN or "." in tag or key.attribute.column is None:
            return None
        if isinstance(criterion, Single) and criterion.vr != "PN":
            shape.append((tag, "="))
            values[tag] = criterion.value
        elif isinstance(criterion, UIDList) and len(criterion.values) == 1:
            shape.append((tag, "="))
            values[tag] = criterion.values[0]
        elif isinstance(criterion, Range):
            shape.append(
                (tag, "><" if None not in (criterion.low, criterion.high) else ">=" if criterion.low else "<=")
            )
            values |= {name: end for name, end in ((tag, criterion.low), (f"{tag}u", criterion.high)) if end}
        else:
            return None
    return (tuple(shape), values) if len({tag for tag, _ in shape}) == len(shape) else None


def kept(
    level: Level, shape: Sequence[tuple[str, Ends]], *, scoped: bool, columns: Sequence[ColumnElement[Any]]
) -> tuple[Statement, Statement]:
    """The SQL of a query of this shape, and that which counts its matches.

    Parameters are those of `kept_values`, "scope" where `scoped`, "rows" and "offset".
    """
    source = _source(level)
    conditions = [study.c.scope == bindparam("scope")] if scoped else []
    for tag, ends in shape:
        attribute = by_tag(tag)
        assert attribute is not None
        column = _columns(attribute)[0]
        if ends == "=":
            conditions.append(column == bindparam(tag))
        if ends in (">=", "><"):
            conditions.append(column >= bindparam(tag))
        if ends in ("<=", "><"):
            conditions.append(column <= bindparam(f"{tag}u"))
    wanted = select(*columns).select_from(source).where(*conditions).order_by(*_ORDER[level])
    counted = select(func.count().label("matches")).select_from(source).where(*conditions)
    return Statement(wanted.limit(bindparam("rows")).offset(bindparam("offset"))), Statement(counted)


def patients(conn: Connection, query: Query, scope: str) -> Page:
    """One page of patients: per (ID, issuer) the newest study's row and extra, and the counts below the patient."""
    keys = [key for key in query.keys if not isinstance(key.criterion, Universal)]
    _, conditions = _where(conn.dialect.name, Level.PATIENT, keys, scope)
    c = study.c
    # A study without Patient ID is a patient of its own: nothing says that two of them are the same.
    alone = case((c.patient_id.is_(None), c.id), else_=0)
    grouped = (
        select(
            func.max(c.id).label("id"),
            func.count().label("studies"),
            func.sum(c.number_of_series).label("series"),
            func.sum(c.number_of_instances).label("instances"),
        )
        .where(*conditions)
        .group_by(c.patient_id, c.issuer_of_patient_id, alone)
        .subquery()
    )
    g = grouped.c
    wanted = (
        select(g.studies, g.series, g.instances, c.row, c.extra)
        .join_from(grouped, study, c.id == g.id)
        .order_by(g.id.desc())
    )
    return _page(conn, wanted, query, lambda: select(func.count()).select_from(grouped))


_ORDER: dict[Level, tuple[ColumnElement[Any], ...]] = {
    Level.STUDY: (study.c.id.desc(),),
    Level.SERIES: (series.c.id,),
    Level.IMAGE: (instance.c.id,),
}


def _page(conn: Connection, wanted: Select[*tuple[Any, ...]], query: Query, count: Any) -> Page:
    if query.limit is not None:
        # One row beyond the page tells whether there is any need to count.
        wanted = wanted.limit(query.limit + 1)
    elif query.offset and conn.dialect.name == "sqlite":
        wanted = wanted.limit(-1)
    found = conn.execute(wanted.offset(query.offset) if query.offset else wanted).all()
    if query.limit is None or len(found) <= query.limit:
        return Page(found, 0)
    total = int(conn.execute(count()).scalar_one())
    return Page(found[: query.limit], max(total - query.offset - query.limit, 0))


def _source(level: Level) -> FromClause:
    source: FromClause = study
    if level in (Level.SERIES, Level.IMAGE):
        source = source.join(series, series.c.study_key == study.c.id)
    if level is Level.IMAGE:
        source = source.join(instance, instance.c.series_key == series.c.id)
    return source


def _where(
    dialect: str, level: Level, keys: list[MatchKey], scope: str
) -> tuple[FromClause, list[ColumnElement[bool]]]:
    source = _source(level)
    conditions = [study.c.scope == scope] if scope else []
    below: list[ColumnElement[bool]] = []
    deeper: list[ColumnElement[bool]] = []
    requests: list[ColumnElement[bool]] = []
    for key in keys:
        condition = _condition(dialect, key)
        if "." in key.attribute.tag:
            requests.append(condition)
        elif key.attribute.level is Level.SERIES and level in (Level.PATIENT, Level.STUDY):
            below.append(condition)
        elif key.attribute.level is Level.IMAGE and level is not Level.IMAGE:
            deeper.append(condition)
        else:
            conditions.append(condition)
    if requests:
        held = exists().where(request.c.series_key == series.c.id, *requests)
        (conditions if level in (Level.SERIES, Level.IMAGE) else below).append(held)
    if deeper and level is Level.SERIES:
        conditions.append(exists().where(instance.c.series_key == series.c.id, *deeper))
    elif deeper and not below:
        conditions.append(exists().where(instance.c.study_key == study.c.id, *deeper))
    elif deeper:
        below.append(exists().where(instance.c.series_key == series.c.id, *deeper))
    if below:
        conditions.append(exists().where(series.c.study_key == study.c.id, *below))
    return source, conditions


def _condition(dialect: str, key: MatchKey) -> ColumnElement[bool]:
    attribute, criterion = key.attribute, key.criterion
    if isinstance(criterion, AllOf):  # each value may be that of another series
        return and_(*(_condition(dialect, MatchKey(attribute, choice)) for choice in criterion.choices))
    if attribute.tag == "00080061":  # any of the study's series has it (PS3.4 C.3.4)
        inner = series.alias()
        return _any_child(dialect, inner, inner.c.study_key, inner.c.modality, criterion)
    if attribute.tag == "00080062":
        held = instance.alias()
        return _any_child(dialect, held, held.c.study_key, held.c.sop_class_uid, criterion)
    if isinstance(criterion, Moments):
        return _moments(criterion, *_columns(attribute), *_columns(criterion.time))
    return compare(dialect, criterion, _columns(attribute))


def _moments(moments: Moments, date: ColumnElement[Any], time: ColumnElement[Any]) -> ColumnElement[bool]:
    """As `matching.within`; the comparisons of the date alone are what an index serves."""
    ends: list[ColumnElement[bool]] = []
    if moments.low is not None:
        ends += [date >= moments.low[0], or_(date > moments.low[0], time >= moments.low[1])]
    if moments.high is not None:
        ends += [date <= moments.high[0], or_(date < moments.high[0], time <= moments.high[1])]
    return and_(true(), *ends)


def _any_child(
    dialect: str, table: FromClause, owner: ColumnElement[Any], column: ColumnElement[Any], criterion: Criterion
) -> ColumnElement[bool]:
    if isinstance(criterion, Empty):
        return ~exists().where(owner == study.c.id, column.is_not(None)).correlate(study)
    return exists().where(owner == study.c.id, compare(dialect, criterion, (column,))).correlate(study)


def _columns(attribute: Attribute) -> tuple[ColumnElement[Any], ...]:
    if "." in attribute.tag:
        table: FromClause = request
    else:
        table = {Level.SERIES: series, Level.IMAGE: instance}.get(attribute.level, study)
    return tuple(table.c[name] for name in attribute.columns)


def compare(dialect: str, criterion: Criterion, columns: tuple[ColumnElement[Any], ...]) -> ColumnElement[bool]:
    """What a criterion says of the columns of one attribute: one, or for a name its three groups and its words."""
    if not columns:
        return true()  # an attribute that cannot be matched is returned and otherwise ignored (PS3.4 C.2.2.1.3)
    match criterion:
        case Universal():
            return true()
        case Empty():
            return and_(*(column.is_(None) for column in columns))
        case AnyOf(choices):
            return or_(*(compare(dialect, choice, columns) for choice in choices))
        case AllOf(choices):
            return and_(*(compare(dialect, choice, columns) for choice in choices))
        case UIDList(values):
            slices = [values[at : at + _UIDS_IN_ONE_LIST] for at in range(0, len(values), _UIDS_IN_ONE_LIST)]
            return or_(false(), *(columns[0].in_(part) if len(part) > 1 else columns[0] == part[0] for part in slices))
        case Fuzzy(patterns):
            if columns[3].table is not study:
                return and_(*(_like(dialect, pattern, columns[3]) for pattern in patterns))
            return _words(dialect, patterns, columns[3])
        case Moments() | Item():
            raise TypeError("no criterion of one column")
        case Single("PN", value):
            return _name(dialect, str(value), columns)
        case Wildcard("PN", pattern):
            return _name(dialect, pattern, columns)
        case Single(_, value):
            return columns[0] == value
        case Wildcard(_, pattern):
            return _like(dialect, pattern, columns[0])
        case Range(_, low, high):
            ends = [columns[0] >= low] if low is not None else []
            return and_(*ends, columns[0] <= high) if high is not None else and_(true(), *ends)


def _words(dialect: str, patterns: Sequence[str], column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Names by their words, found in the narrow index of that column instead of in the wide rows."""
    inner = study.alias()
    held = inner.c[column.name]
    return study.c.id.in_(select(inner.c.id).where(*(_like(dialect, pattern, held) for pattern in patterns)))


def _name(dialect: str, key: str, columns: tuple[ColumnElement[Any], ...]) -> ColumnElement[bool]:
    return and_(
        true(),
        *(or_(*(_like(dialect, pattern, columns[at]) for at in places)) for places, pattern in name_groups(key)),
    )


def _like(dialect: str, pattern: str, column: ColumnElement[Any]) -> ColumnElement[bool]:
    """A pattern of `*` and `?` in the words of the database, with the literal start as a range that an index serves."""
    prefix = pattern[: min((at for c in "*?" if (at := pattern.find(c)) >= 0), default=len(pattern))]
    if prefix == pattern:
        return column == pattern
    if dialect == "sqlite":  # GLOB is exact about case, LIKE is not
        fitting: ColumnElement[bool] = column.op("GLOB", is_comparison=True)(pattern.replace("[", "[[]"))
    else:
        escaped = pattern.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        fitting = column.like(escaped.replace("*", "%").replace("?", "_"), escape="!")
    return and_(column >= prefix, column < prefix + _HIGHEST, fitting) if prefix else fitting
