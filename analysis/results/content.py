"""Owns the items of an SR content tree (PS3.3 C.17.3) for documents that are built by hand, and their references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom import Dataset

from analysis.api import Code, Measurement
from analysis.results import provenance

CONTAINS, PROPERTY, MODIFIER = "CONTAINS", "HAS PROPERTIES", "HAS CONCEPT MOD"
INFERRED, SELECTED, ACQUISITION, OBSERVATION = "INFERRED FROM", "SELECTED FROM", "HAS ACQ CONTEXT", "HAS OBS CONTEXT"


def _item(relationship: str, kind: str, name: Code | None, children: Iterable[Dataset] = ()) -> Dataset:
    ds = Dataset()
    ds.RelationshipType, ds.ValueType = relationship, kind
    if name is not None:
        ds.ConceptNameCodeSequence = provenance.sequence(provenance.code(name))
    below = list(children)
    if below:
        ds.ContentSequence = provenance.sequence(*below)
    return ds


def container(relationship: str, name: Code, children: Iterable[Dataset]) -> Dataset:
    """A heading with what stands below it."""
    ds = _item(relationship, "CONTAINER", name, children)
    ds.ContinuityOfContent = "SEPARATE"
    return ds


def code(relationship: str, name: Code, value: Code, children: Iterable[Dataset] = ()) -> Dataset:
    """A concept whose value is coded."""
    ds = _item(relationship, "CODE", name, children)
    ds.ConceptCodeSequence = provenance.sequence(provenance.code(value))
    return ds


def text(relationship: str, name: Code, value: str) -> Dataset:
    """A concept whose value is text."""
    ds = _item(relationship, "TEXT", name)
    ds.TextValue = value
    return ds


def uid(relationship: str, name: Code, value: str) -> Dataset:
    """A concept whose value is a UID."""
    ds = _item(relationship, "UIDREF", name)
    ds.UID = value
    return ds


def date(relationship: str, name: Code, value: str) -> Dataset:
    """A concept whose value is a day, as DA."""
    ds = _item(relationship, "DATE", name)
    ds.Date = value
    return ds


def time(relationship: str, name: Code, value: str) -> Dataset:
    """A concept whose value is a time of day, as TM."""
    ds = _item(relationship, "TIME", name)
    ds.Time = value
    return ds


def decimal(value: float) -> str:
    """`value` as DS with ten digits, or as many as its 16 characters hold (PS3.5 6.2)."""
    return next(text for digits in range(10, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)


def number(relationship: str, value: Measurement) -> Dataset:
    """A number with its unit (PS3.3 C.18.1)."""
    ds = _item(relationship, "NUM", value.name)
    measured = Dataset()
    measured.NumericValue = decimal(value.value)
    measured.MeasurementUnitsCodeSequence = provenance.sequence(provenance.code(value.unit))
    ds.MeasuredValueSequence = provenance.sequence(measured)
    return ds


def image(
    relationship: str, referenced: Dataset, children: Iterable[Dataset] = (), name: Code | None = None
) -> Dataset:
    """A reference to an image."""
    ds = _item(relationship, "IMAGE", name, children)
    ds.ReferencedSOPSequence = provenance.sequence(provenance.reference(referenced))
    return ds


def composite(relationship: str, referenced: Dataset) -> Dataset:
    """A reference to what is neither image nor waveform: a report, a presentation state."""
    ds = _item(relationship, "COMPOSITE", None)
    ds.ReferencedSOPSequence = provenance.sequence(provenance.reference(referenced))
    return ds


def coordinates(relationship: str, name: Code, graphic: str, data: Sequence[float], where: Sequence[int]) -> Dataset:
    """A place on the image that another item of this document names (PS3.3 C.18.6)."""
    ds = _item(relationship, "SCOORD", name, [by_reference(SELECTED, where)])
    ds.GraphicType = graphic
    ds.GraphicData = [float(each) for each in data]
    return ds


def by_reference(relationship: str, where: Sequence[int]) -> Dataset:
    """Another item of this document, by its position from the root, counted from 1 (PS3.3 C.17.3.2.5)."""
    ds = Dataset()
    ds.RelationshipType = relationship
    ds.ReferencedContentItemIdentifier = list(where)
    return ds


def document(ds: Dataset, title: Code, template: str, children: Iterable[Dataset]) -> None:
    """Make `ds` the root of a content tree of a template of PS3.16 (SR Document Content module, PS3.3 C.17.3)."""
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = provenance.sequence(provenance.code(title))
    used = Dataset()
    used.MappingResource, used.TemplateIdentifier = "DCMR", template
    ds.ContentTemplateSequence = provenance.sequence(used)
    ds.ContentSequence = provenance.sequence(*children)
