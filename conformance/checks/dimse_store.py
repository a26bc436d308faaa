"""C-STORE: what a Storage SCP answers, and what becomes of what it took (PS3.4 annex B, PS3.7 9.1.1): K14 to K28."""

from __future__ import annotations

import threading
from functools import partial
from typing import Final

import numpy as np
from pydicom import Dataset

from conformance import pdu
from conformance.ae import BOTH, STUDY_GET, Entity, dataset_of, find, held
from conformance.check import Blocked, Level, NotSupported, check
from conformance.context import Context
from conformance.data import CR, CT, MR, SC, Maker, Sample, ramp
from conformance.dimse import DEFLATED, VERIFICATION, Message, decode
from conformance.pdu import Context as Proposed
from conformance.wire import Aborted, Closed, DimseFailure

rule = partial(check, service="C-STORE", needs="dimse")

ARC: Final = "1.2.840.10008.5.1.4.1.1."
CLASSES: Final = (
    CR, CT, MR, SC, f"{ARC}1.1", f"{ARC}1.2", f"{ARC}1.3", f"{ARC}2.1", f"{ARC}3.1", f"{ARC}4.1", f"{ARC}6.1",
    f"{ARC}7.2", f"{ARC}7.4", f"{ARC}12.1", f"{ARC}13.1.3", f"{ARC}20", f"{ARC}77.1.4", f"{ARC}128", f"{ARC}481.1",
    f"{ARC}11.1", f"{ARC}66", f"{ARC}66.4", f"{ARC}66.5", f"{ARC}88.11", f"{ARC}88.22", f"{ARC}88.33", f"{ARC}88.59",
    f"{ARC}104.1", f"{ARC}104.3", f"{ARC}481.2", f"{ARC}481.3", f"{ARC}481.5", f"{ARC}9.1.1", f"{ARC}30",
)  # fmt: skip
"""Storage SOP Classes that are offered: images, presentation states, reports, radiotherapy, waveforms, documents."""
FAILURE: Final = (range(0x0100, 0x0300), range(0xA700, 0xB000), range(0xC000, 0xD000))
TAKEN: Final = (0x0000, range(0xB000, 0xC000))
OK: Final = frozenset({0x0000, *range(0xB000, 0xC000)})


def instance(maker: Maker, study: str, number: int, sop_class: str = CT, **attributes: object) -> Sample:
    """A small object of any class."""
    ds = maker.dataset(study, "s", number, sop_class, PatientID=maker.patient_id("DSTORE"), **attributes)
    ds.InstanceNumber, ds.Modality = number, "CT"
    pixels = np.asarray(ramp(8, 8, top=4000, dtype="u2") + number).astype("u2")
    return maker.image(f"{study}/{number}", ds, pixels, bits_stored=12)


def begin(run: Context, study: str) -> tuple[Entity, Maker]:
    """The server, and a maker of objects of their own. Raises NotSupported where CT is not taken."""
    entity = Entity(run)
    maker = Maker(run.maker.run + "S")
    run.studies.add(maker.uid("study", study))
    with entity.open(CT, VERIFICATION) as assoc:
        assoc.context(CT)
    return entity, maker


def count(entity: Entity, sample: Sample) -> int:
    """How many instances C-FIND has under these UIDs. Raises NotAccepted where there is no C-FIND."""
    found = find(entity, "IMAGE", StudyInstanceUID=sample.study, SeriesInstanceUID=sample.series,
                 SOPInstanceUID=sample.instance)  # fmt: skip
    return len(found.pending)


@rule("K14", "PS3.4 B.2, PS3.7 9.3.1.2", "Instances of every accepted Storage SOP Class are taken, and can be found")
def every_class(run: Context) -> None:
    entity, maker = begin(run, "classes")
    samples = [instance(maker, "classes", at, sop_class) for at, sop_class in enumerate(CLASSES, 1)]
    taken = []
    with entity.open(*CLASSES) as assoc:
        for sample in samples:
            if not assoc.accepts(sample.sop_class):
                continue
            syntax = assoc.context(sample.sop_class)[1]
            sent = sample.dataset if syntax == pdu.IMPLICIT else dataset_of(sample)
            answer = assoc.store(sample.sop_class, sample.instance, sent)
            entity.expect(f"{sample.sop_class}: 0000H or a warning", answer.status in OK, answer)
            _response(entity, answer, sample, assoc.last_id)
            if answer.status in OK:
                taken.append(sample)
    entity.expect("at least one Storage SOP Class is accepted", taken)
    if not taken:
        return
    first = taken[0]
    found = find(entity, "IMAGE", StudyInstanceUID=first.study, SeriesInstanceUID=first.series, SOPInstanceUID="")
    wanted = sorted(each.instance for each in taken)
    got = found.values("SOPInstanceUID")
    entity.expect("C-FIND finds each once", got == wanted, f"{len(got)} of {len(wanted)}")


def _response(entity: Entity, answer: Message, sample: Sample, number: int) -> None:
    fields = answer.fields
    entity.expect("Command Field 8001H", fields.get("CommandField") == 0x8001, answer.name)
    got = fields.get("MessageIDBeingRespondedTo")
    entity.expect("Message ID Being Responded To", got == number, got)
    about = fields.get("AffectedSOPInstanceUID", sample.instance)
    entity.expect("Affected SOP Instance UID, where given", about == sample.instance, about)
    entity.expect("no data set (0101H), a well-formed command set",
                  fields.get("CommandDataSetType") == pdu.NO_DATA_SET and not answer.faults, answer.faults)  # fmt: skip


@rule("K15", "PS3.4 B.2.3", "A data set of another SOP class than the command says is not stored in silence",
      Level.ROBUSTNESS)  # fmt: skip
def other_class(run: Context) -> None:
    entity, maker = begin(run, "other")
    sample = instance(maker, "other", 1, MR)
    with entity.open(CT, VERIFICATION) as assoc:
        answer = assoc.store(CT, sample.instance, encoded(sample, assoc.context(CT)[1]))
        entity.status(answer, *FAILURE, 0xB007)


def encoded(sample: Sample, syntax: str) -> bytes | Dataset:
    """The object for a context in either little endian syntax."""
    return dataset_of(sample) if syntax == pdu.EXPLICIT else sample.dataset


@rule("K16", "PS3.4 B.2.3", "What is no data set is refused, and the association or at least the server stays")
def no_dataset(run: Context) -> None:
    entity, _ = begin(run, "nothing")
    for title, raw in (("bytes that are no element", b"\xff\xfe\xfd\xfc" * 60), ("nothing at all", b"")):
        with entity.open(CT, VERIFICATION) as assoc:
            entity.target.note(f"→ C-STORE of {title}")
            try:
                entity.status(assoc.store(CT, run.maker.uid("broken", title), raw), *FAILURE)
            except (Aborted, Closed) as end:
                entity.expect("a status of failure, or the end of the association", True, end)
    with entity.open(VERIFICATION) as assoc:
        entity.expect("C-ECHO afterwards: 0000H", assoc.ask("C-ECHO", VERIFICATION).status == 0)


@rule("K16a", "PS3.4 B.2.3", "A data set that breaks off is refused and not found later")
def cut_dataset(run: Context) -> None:
    entity, maker = begin(run, "cut")
    sample = instance(maker, "cut", 1)
    with entity.open(Proposed(CT, (pdu.EXPLICIT,))) as assoc:
        assoc.context(CT)
        try:
            answer = assoc.store(CT, sample.instance, dataset_of(sample)[:-71])
        except (Aborted, Closed) as end:
            entity.expect("a status of failure, or the end of the association", True, end)
        else:
            entity.status(answer, *FAILURE, range(0xB000, 0xC000))
            if answer.status in OK:
                return
    entity.expect("C-FIND does not find it", count(entity, sample) == 0)


@rule("K19", "PS3.7 9.1.1.1.4", "Another SOP Instance UID in the data set than in the command is not taken in silence",
      Level.ROBUSTNESS)  # fmt: skip
def other_instance(run: Context) -> None:
    entity, maker = begin(run, "uid")
    sample = instance(maker, "uid", 1)
    with entity.open(CT) as assoc:
        answer = assoc.store(CT, maker.uid("another"), encoded(sample, assoc.context(CT)[1]))
        entity.status(answer, *FAILURE, range(0xB000, 0xC000))


@rule("K20", "PS3.7 9.1.1.1.9", "A SOP class that is not the context's is refused", Level.ROBUSTNESS)
def not_negotiated(run: Context) -> None:
    entity, maker = begin(run, "class")
    sample = instance(maker, "class", 1, MR)
    with entity.open(CT) as assoc:
        try:
            sent = encoded(sample, assoc.context(CT)[1])
            answer = assoc.ask("C-STORE", CT, sent, sop_class=MR, AffectedSOPInstanceUID=sample.instance)
            entity.status(answer, *FAILURE)
        except (Aborted, Closed) as end:
            entity.expect("or the end of the association", True, end)


@rule("K23", "PS3.4 B.4.1", "Level 2 storage keeps every element, private ones too", Level.CONDITIONAL)
def full_storage(run: Context) -> None:
    entity, maker = begin(run, "full")
    with entity.open(CT, extended={CT: b"\2\0\0\0\0\0"}) as assoc:
        level = assoc.accepted.extended.get(CT, b"")[:1]
    if level != b"\2":
        raise NotSupported(f"level 2 storage is not declared by extended negotiation ({level.hex() or 'no answer'})")
    sample = instance(maker, "full", 1, ImageComments="kept as it is")
    block = sample.dataset.private_block(0x0051, "ZZ CONFORMANCE", create=True)
    block.add_new(0x01, "LO", "kept")
    block.add_new(0x02, "UN", b"\1\2\3\4")
    got = round_trip(entity, sample)
    for element in sample.dataset:
        same = element.tag in got and _same(element.value, got[element.tag].value)
        entity.expect(f"{element.tag} {element.keyword} is there as sent", same, got.get(element.tag, "lost"))


def _same(sent: object, got: object) -> bool:
    if isinstance(got, bytes) and not isinstance(sent, bytes):  # a private element of unknown VR
        got = got.decode("latin-1").rstrip(" \0")
    return sent == got


def round_trip(entity: Entity, sample: Sample, syntaxes: tuple[str, ...] = BOTH) -> Dataset:
    """The object as C-GET gives it back after a C-STORE of it."""
    got = round_trip_raw(entity, sample, syntaxes)
    return decode(got.raw or b"", got.transfer_syntax)


def round_trip_raw(entity: Entity, sample: Sample, syntaxes: tuple[str, ...]) -> Message:
    """The C-STORE request by which C-GET gives the object back. Raises Blocked, NotAccepted."""
    with entity.open(Proposed(sample.sop_class, syntaxes)) as assoc:
        syntax = assoc.context(sample.sop_class)[1]
        plain = syntax in BOTH  # then what the check put into the data set goes along
        sent = sample.dataset if plain else dataset_of(sample)
        answer = assoc.store(sample.sop_class, sample.instance, sent)
        if answer.status not in OK:
            raise Blocked(f"C-STORE: {answer}")
    got: list[Message] = []
    with entity.open(STUDY_GET, Proposed(sample.sop_class, syntaxes, scu=False, scp=True)) as assoc:
        assoc.context(STUDY_GET)

        def take(message: Message) -> None:
            got.append(message)
            assoc.answer(message, 0)

        assoc.on_request = take
        where = Dataset()
        where.QueryRetrieveLevel = "IMAGE"
        where.StudyInstanceUID, where.SeriesInstanceUID = sample.study, sample.series
        where.SOPInstanceUID = sample.instance
        final = assoc.ask("C-GET", STUDY_GET, where)
    if not got:
        raise Blocked(f"C-GET gives nothing back: {final}")
    return got[0]


@rule("K24", "PS3.8 7.3, PS3.4 B.2.2", "What was cut off by an abort is not there; what was answered before is")
def aborted(run: Context) -> None:
    entity, maker = begin(run, "abort")
    whole, half = instance(maker, "abort", 1), instance(maker, "abort", 2)
    assoc = entity.open(CT)
    number, syntax = assoc.context(CT)
    entity.expect("the first: 0000H", assoc.store(CT, whole.instance, encoded(whole, syntax)).status in OK)
    command = pdu.encode_command({
        "AffectedSOPClassUID": CT, "CommandField": 1, "MessageID": 99, "Priority": 0, "CommandDataSetType": 1,
        "AffectedSOPInstanceUID": half.instance,
    })  # fmt: skip
    assoc.send(pdu.pdu(pdu.P_DATA, pdu.pdv(number, 3, command)))
    assoc.send(pdu.pdu(pdu.P_DATA, pdu.pdv(number, 0, dataset_of(half)[:300])))
    assoc.abort()
    entity.target.note("→ half of a C-STORE, then A-ABORT")
    entity.expect("the first is found", count(entity, whole) == 1)
    entity.expect("the half one is not", count(entity, half) == 0)


@rule("K25", "PS3.4 B.2.2", "Four associations store at the same time: all of it is there, and once")
def parallel(run: Context) -> None:
    entity, maker = begin(run, "parallel")
    samples = [instance(maker, "parallel", number) for number in range(1, 21)]
    errors: list[str] = []

    def send(part: list[Sample]) -> None:
        try:
            with entity.open(CT) as assoc:
                for each in part:
                    answer = assoc.store(CT, each.instance, encoded(each, assoc.context(CT)[1]))
                    if answer.status not in OK:
                        errors.append(str(answer))
        except DimseFailure as error:
            errors.append(str(error))

    threads = [threading.Thread(target=send, args=(samples[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entity.expect("every C-STORE: 0000H", not errors, errors[:3])
    first = samples[0]
    found = find(entity, "IMAGE", StudyInstanceUID=first.study, SeriesInstanceUID=first.series, SOPInstanceUID="")
    got = found.values("SOPInstanceUID")
    entity.expect("each found once", got == sorted(each.instance for each in samples), f"{len(got)} of {len(samples)}")


@rule("K27", "PS3.4 B.2.2", "The same instance again is one instance", Level.PRACTICE)
def twice(run: Context) -> None:
    entity, maker = begin(run, "twice")
    sample = instance(maker, "twice", 1)
    with entity.open(CT) as assoc:
        sent = encoded(sample, assoc.context(CT)[1])
        entity.expect("the first: 0000H", assoc.store(CT, sample.instance, sent).status in OK)
        entity.status(assoc.store(CT, sample.instance, sent), *TAKEN, 0x0111)
    entity.expect("C-FIND finds one", count(entity, sample) == 1, count(entity, sample))


@rule("K28", "PS3.5 10, PS3.4 B.4", "What is accepted compressed is given back as it was sent", Level.CONDITIONAL)
def compressed(run: Context) -> None:
    entity, maker = begin(run, "compressed")
    pixels = ramp(16, 16, top=255)
    judged = False
    for at, (name, syntax) in enumerate((
        ("RLE", "1.2.840.10008.1.2.5"), ("JPEG baseline", "1.2.840.10008.1.2.4.50"),
        ("JPEG lossless", "1.2.840.10008.1.2.4.70"), ("JPEG-LS", "1.2.840.10008.1.2.4.80"),
        ("JPEG 2000", "1.2.840.10008.1.2.4.90"),
    )):  # fmt: skip
        ds = maker.dataset("compressed", "s", at, SC, PatientID=maker.patient_id("DSTORE"), InstanceNumber=at + 1)
        try:
            sample = maker.image(name, ds, pixels, syntax)
        except LookupError:
            continue
        with entity.open(Proposed(SC, (syntax,)), VERIFICATION) as assoc:
            if not assoc.accepts(SC):
                continue
        got = round_trip_raw(entity, sample, (syntax,))
        sent = decode(dataset_of(sample), pdu.EXPLICIT).PixelData
        back = decode(got.raw or b"", pdu.EXPLICIT).get("PixelData", b"")
        judged = (
            entity.expect(f"{name}: the same encapsulated bytes", frames_of(sent) == frames_of(back), len(back)) or True
        )
    if not judged:
        raise NotSupported("no compressed transfer syntax is accepted for Secondary Capture")


def frames_of(encapsulated: bytes) -> bytes:
    """The fragments of encapsulated pixel data in a row, without item headers (PS3.5 A.4)."""
    out, at, first = b"", 0, True
    while at + 8 <= len(encapsulated):
        length = int.from_bytes(encapsulated[at + 4 : at + 8], "little")
        if encapsulated[at : at + 4] != b"\xfe\xff\x00\xe0":
            break
        if not first:
            out += encapsulated[at + 8 : at + 8 + length]
        at, first = at + 8 + length, False
    return out


@rule("K28a", "PS3.5 A.5", "A deflated context carries a deflated data set", Level.CONDITIONAL)
def deflated(run: Context) -> None:
    entity, maker = begin(run, "deflated")
    sample = instance(maker, "deflated", 1)
    with entity.open(Proposed(CT, (DEFLATED,)), VERIFICATION) as assoc:
        if not assoc.accepts(CT):
            raise NotSupported("Deflated Explicit VR Little Endian is not accepted")
        entity.status(assoc.store(CT, sample.instance, sample.dataset), *TAKEN)
    entity.expect("C-FIND finds it", count(entity, sample) == 1)


@rule("K29", "PS3.4 B.2.2", "What C-STORE acknowledged is there for WADO-RS", Level.PRACTICE, needs="dimse,dicomweb")
def both_doors(run: Context) -> None:
    data = held(Entity(run))
    sample = data.of("one", "ct")[0]
    run.expect_status(run.web.get(f"{sample.path}/metadata"), 200)
