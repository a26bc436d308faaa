"""What every DIMSE check begins with: the server as an application entity, its data, a C-FIND, the suite's own SCP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from pydicom import Dataset

from conformance import pdu
from conformance.check import Blocked, NoAnswer, NotApplicable
from conformance.context import Context as Run
from conformance.context import DimseTarget
from conformance.data import CT, MR, Maker, Sample, ramp
from conformance.dimse import Association, Message, encode
from conformance.pdu import Context
from conformance.scp import Listener
from conformance.wire import Connection, DimseFailure, NotAccepted, Rejected, Target

VERIFICATION: Final = "1.2.840.10008.1.1"
PATIENT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
BOTH: Final = (pdu.EXPLICIT, pdu.IMPLICIT)


class Entity:
    """The server under test for one check: associations with it, and findings that tell what was said."""

    def __init__(self, run: Run) -> None:
        self.run = run
        given = run.dimse
        calling = run.options.listen.partition("@")[0] or given.calling
        timeout_s = min(run.options.timeout_s, 30)
        self.target = Target(given.title, given.host, given.port, calling, timeout_s, given.tls, tell=self._tell)

    def open(self, *contexts: Context | str, **options: Any) -> Association:
        """An association; a UID alone proposes both little endian syntaxes."""
        proposed = [Context(each, BOTH) if isinstance(each, str) else each for each in contexts]
        return Association(self.target, proposed, **options)

    def expect(self, expected: str, good: object, seen: object = "") -> bool:
        """Judge one thing; the conversation so far is what was asked."""
        return self.run.expect(expected, good, seen, about=self.target.conversation)

    def _tell(self, conversation: str) -> None:
        self.run.last = conversation

    def status(self, message: Message, *statuses: int | range) -> bool:
        """Judge the status of a response."""
        wanted = [each if isinstance(each, range) else range(each, each + 1) for each in statuses]
        names = " or ".join(f"{each[0]:04X}H" + (f" to {each[-1]:04X}H" if len(each) > 1 else "") for each in wanted)
        return self.expect(f"status {names}", any(message.status in each for each in wanted), message)

    @property
    def listener(self) -> Listener:
        """The suite's own SCP at --listen. Raises NotApplicable without it."""
        place = self.run.options.listen
        if not place:
            raise NotApplicable("no --listen AET@HOST:PORT was given, at which the server knows an AE of the suite's")
        port = int(place.rpartition(":")[2])
        found: Listener = self.run.fact("dimse listener", lambda: Listener(port))
        return found

    @property
    def title(self) -> str:
        """The AE title at which the server knows the suite."""
        return self.run.options.listen.partition("@")[0]


@dataclass(frozen=True)
class Held:
    """What the server was given by C-STORE for these checks, a handful of small studies of its own."""

    maker: Maker
    samples: tuple[Sample, ...]

    def of(self, study: str, series: str = "") -> list[Sample]:
        """The instances of a study, or of one series in it."""
        wanted = self.maker.uid("study", study), self.maker.uid("series", study, series)
        return [each for each in self.samples if each.study == wanted[0] and (not series or each.series == wanted[1])]

    def study(self, study: str) -> str:
        """Its Study Instance UID."""
        return self.maker.uid("study", study)

    def series(self, study: str, series: str) -> str:
        """Its Series Instance UID."""
        return self.maker.uid("series", study, series)

    @property
    def everybody(self) -> str:
        """A Patient ID with a wild card that matches the test patients alone."""
        return self.maker.patient_id("DIMSE") + "*"


STUDIES: Final = ("one", "two", "three", "four")


def make(maker: Maker) -> list[Sample]:
    """Four studies of three patients. One patient's name is in Latin-1, another's in three scripts."""
    first = {"PatientID": maker.patient_id("DIMSE1"), "PatientName": "ZZConformance^Dimse^Anna", "PatientSex": "F"}
    second = {
        "PatientID": maker.patient_id("DIMSE2"), "PatientName": "ZZConförmance^Dimse^Änne",
        "SpecificCharacterSet": "ISO_IR 100",
    }  # fmt: skip
    third = {
        "PatientID": maker.patient_id("DIMSE3"), "PatientName": "ZZYamada^Tarou=山田^太郎=やまだ^たろう",
        "SpecificCharacterSet": "ISO_IR 192",
    }  # fmt: skip
    short = maker.accession[:13]
    studies: dict[str, dict[str, Any]] = {
        "one": {**first, "StudyDate": "20240115", "StudyTime": "080000", "AccessionNumber": short + "a1",
                "StudyID": "ZZD1", "StudyDescription": "conformance DIMSE one"},
        "two": {**first, "StudyDate": "20240120", "StudyTime": "123000", "AccessionNumber": short + "a2",
                "StudyID": "ZZD2", "StudyDescription": "conformance DIMSE two"},
        "three": {**second, "StudyDate": "20240201", "StudyTime": "180000.5", "AccessionNumber": "", "StudyID": "ZZD3"},
        "four": {**third, "StudyDate": "20240131", "StudyTime": "235959", "AccessionNumber": short + "b1",
                 "StudyID": "ZZD4"},
    }  # fmt: skip
    asked = Dataset()
    asked.RequestedProcedureID, asked.ScheduledProcedureStepID = "ZZRP9", "ZZSPS9"
    made: list[Sample] = []
    for study, series, sop_class, modality, count in (
        ("one", "ct", CT, "CT", 3), ("one", "mr", MR, "MR", 2), ("two", "ct", CT, "CT", 1),
        ("three", "mr", MR, "MR", 1), ("four", "ct", CT, "CT", 1),
    ):  # fmt: skip
        for number in range(1, count + 1):
            ds = maker.dataset(study + "", series, number, sop_class, Modality=modality, **studies[study])
            ds.SeriesNumber, ds.InstanceNumber = 1 if modality == "CT" else 2, number
            ds.SeriesDescription, ds.ProtocolName = f"conformance {modality}", "ZZPROTOCOL"
            ds.ContentDate, ds.ContentTime = "20240203", "040506"
            if study == "two":
                ds.RequestAttributesSequence = [asked]
            pixels = np.asarray(ramp(8, 8, top=4000, dtype="u2") + number).astype("u2")
            made.append(maker.image(f"{study}/{series}/{number}", ds, pixels, bits_stored=12))
    return made


def held(entity: Entity) -> Held:
    """The data, stored at the first call and visible to C-FIND. Raises Blocked where that did not work."""
    kept: Held | str = entity.run.fact("dimse data", lambda: _kept(entity))
    if isinstance(kept, str):
        raise Blocked(kept)
    return kept


def _kept(entity: Entity) -> Held | str:
    maker = Maker(entity.run.maker.run + "D")
    samples = make(maker)
    try:
        refused = store(entity.run.dimse, samples, calling=entity.target.calling)
    except (DimseFailure, NotAccepted) as error:
        return f"the data of this check could not be stored: {error}"
    if refused:
        return f"the data of this check was refused: {next(iter(refused.values()))}"
    entity.run.studies.update(each.study for each in samples)
    data = Held(maker, tuple(samples))
    until = time.monotonic() + entity.run.options.visible_s
    while time.monotonic() < until:
        try:
            seen = [
                len(find(entity, "IMAGE", StudyInstanceUID=each.study, SeriesInstanceUID=each.series).pending)
                for each in {sample.series: sample for sample in samples}.values()
            ]
        except (NoAnswer, NotAccepted):
            return data  # no C-FIND to be asked: the checks say so themselves
        if sum(seen) >= len(samples):
            break
        time.sleep(0.2)
    return data


def reachable(target: DimseTarget) -> None:
    """Nothing where an application entity lets us in at the address.

    Raises Closed where nobody listens or no TLS can be agreed on, and NoAnswer where it is none or refuses us.
    """
    at = f"{target.host}:{target.port}"
    to = Target(target.title, target.host, target.port, target.calling, timeout_s=10, tls=target.tls)
    Connection(to).sock.close()
    try:
        with Association(to, [Context(VERIFICATION, (pdu.IMPLICIT,))]):
            pass
    except Rejected as error:
        why = {(1, 3): f"it does not know {target.calling} (--calling)", (1, 7): f"it is not {target.title}"}
        reason = why.get(error.codes[1:], "see PS3.8 table 9-21")
        raise NoAnswer(f"{at} refuses the association ({error}): {reason}") from error
    except (DimseFailure, pdu.Malformed) as error:
        raise NoAnswer(f"{at} does not answer as an application entity: {error}") from error


def store(target: DimseTarget, samples: Sequence[Sample], calling: str = "") -> dict[str, str]:
    """C-STORE them; why each that was refused was, by SOP Instance UID. Raises DimseFailure."""
    refused: dict[str, str] = {}
    pairs = sorted({(each.sop_class, each.syntax) for each in samples})
    for start in range(0, len(pairs), 128):
        group = pairs[start : start + 128]
        to = Target(target.title, target.host, target.port, calling or target.calling, tls=target.tls)
        with Association(to, [Context(sop_class, (syntax,)) for sop_class, syntax in group]) as assoc:
            for each in samples:
                if (each.sop_class, each.syntax) in group:
                    reason = _stored(assoc, each)
                    if reason:
                        refused[each.instance] = reason
    return refused


def _stored(assoc: Association, sample: Sample) -> str:
    try:
        answer = assoc.store(sample.sop_class, sample.instance, dataset_of(sample), transfer_syntax=sample.syntax)
    except NotAccepted as error:
        return str(error)
    return "" if answer.status in (0, *range(0xB000, 0xC000)) else str(answer)


def dataset_of(sample: Sample) -> bytes:
    """The data set in its Part 10 file, as it goes on the wire."""
    return sample.file[144 + int.from_bytes(sample.file[140:144], "little") :]


@dataclass
class Found:
    """What a C-FIND gave."""

    pending: list[Message] = field(default_factory=list)
    final: Message | None = None

    @property
    def identifiers(self) -> list[Dataset]:
        """The identifiers of the pending responses."""
        return [message.dataset() for message in self.pending]

    def values(self, keyword: str) -> list[str]:
        """One attribute of each match, sorted."""
        return sorted(str(each.get(keyword, "")) for each in self.identifiers)


def identifier(level: str | None, keys: Mapping[str, Any]) -> Dataset:
    """A C-FIND, C-MOVE or C-GET identifier from keywords; text that is not ASCII is marked as UTF-8."""
    ds = Dataset()
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    if level is not None:
        ds.QueryRetrieveLevel = level
    if not all(str(value).isascii() for value in keys.values()) and "SpecificCharacterSet" not in ds:
        ds.SpecificCharacterSet = "ISO_IR 192"
    return ds


def find(
    entity: Entity,
    level: str | None,
    *,
    model: str = STUDY_FIND,
    options: Mapping[str, Any] | None = None,
    raw: Callable[[str], bytes] | None = None,
    **keys: Any,
) -> Found:
    """A C-FIND on an association of its own. `options` are those of an association; `raw` makes the identifier."""
    with entity.open(model, **(options or {})) as assoc:
        return find_on(assoc, level, model=model, raw=raw, **keys)


def find_on(
    assoc: Association,
    level: str | None,
    *,
    model: str = STUDY_FIND,
    raw: Callable[[str], bytes] | None = None,
    **keys: Any,
) -> Found:
    """A C-FIND on an open association."""
    syntax = assoc.context(model)[1]
    encoded = raw(syntax) if raw else encode(identifier(level, keys), syntax)
    shown = ", ".join(f"{keyword}={value}" for keyword, value in keys.items())
    assoc.target.note(f"→ C-FIND at {level}: {shown}")
    found = Found()
    for message in assoc.request("C-FIND", model, encoded):
        if message.name == "C-FIND-RSP" and message.status in (0xFF00, 0xFF01):
            found.pending.append(message)
        else:
            found.final = message
    return found
