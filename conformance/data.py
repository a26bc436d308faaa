"""Data sets of the suite's own making: unmistakable names, UIDs under 2.25, files in any transfer syntax.

Nothing here knows a server; `conformance.corpus` says which objects a run stores.
"""

from __future__ import annotations

import io
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info

from conformance.codecs import DEFLATED, EBE, ELE, ILE, UNENCODED, encapsulated, encode_frames

Array = npt.NDArray[Any]

CT, MR, SC = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"
CR, SR, PDF = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.104.1"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
SEG, RAW = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66"
MF_BYTE, MF_WORD = "1.2.840.10008.5.1.4.1.1.7.2", "1.2.840.10008.5.1.4.1.1.7.3"
MF_BIT, MF_COLOUR = "1.2.840.10008.5.1.4.1.1.7.1", "1.2.840.10008.5.1.4.1.1.7.4"
PARAMETRIC, STL = "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.104.3"
FAMILY = "ZZConformance"
"""The family name of every test patient."""
IMPLEMENTATION = "2.25.93650518437961734221986571905716839041"
LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")


@dataclass
class Sample:
    """One object that was made: its data set, its Part 10 file, and how the server took it."""

    name: str
    dataset: Dataset
    file: bytes = field(repr=False)
    syntax: str = ELE
    frames: tuple[bytes, ...] = field(default=(), repr=False)
    """The encoded frames of encapsulated pixel data, or the native ones."""
    pixels: Array | None = field(default=None, repr=False)
    refused: str = ""

    @property
    def study(self) -> str:
        """Study Instance UID."""
        return str(self.dataset.StudyInstanceUID)

    @property
    def series(self) -> str:
        """Series Instance UID."""
        return str(self.dataset.SeriesInstanceUID)

    @property
    def instance(self) -> str:
        """SOP Instance UID."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def sop_class(self) -> str:
        """SOP Class UID."""
        return str(self.dataset.SOPClassUID)

    @property
    def path(self) -> str:
        """The instance's resource below the base URL."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.instance}"

    @property
    def series_path(self) -> str:
        """The series' resource."""
        return f"/studies/{self.study}/series/{self.series}"

    @property
    def study_path(self) -> str:
        """The study's resource."""
        return f"/studies/{self.study}"


@dataclass
class Maker:
    """Makes objects for one run; the run's name keeps two runs apart."""

    run: str

    def uid(self, *name: object) -> str:
        """The same UID for the same name within a run (PS3.5 B.2)."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'conformance/{self.run}/{name}').int}"

    def patient_id(self, name: str) -> str:
        """A Patient ID that no patient has."""
        return f"ZZCONF-{self.run}-{name}"

    def dataset(self, study: str, series: str, instance: object, sop_class: str = SC, **attributes: Any) -> Dataset:
        """A data set with what every composite object carries; attributes by keyword replace or add, None removes."""
        ds = Dataset()
        ds.SOPClassUID = sop_class
        ds.StudyInstanceUID = self.uid("study", study)
        ds.SeriesInstanceUID = self.uid("series", study, series)
        ds.SOPInstanceUID = self.uid("instance", study, series, instance)
        ds.PatientName, ds.PatientID = f"{FAMILY}^{study}", self.patient_id(study)
        ds.PatientBirthDate, ds.PatientSex = "19500101", "O"
        ds.StudyDate, ds.StudyTime, ds.StudyID = "20240115", "101500", "1"
        ds.AccessionNumber = f"ZY{self.run}"[:16]
        ds.ReferringPhysicianName = f"{FAMILY}^Referring"
        ds.StudyDescription = "conformance test, may be deleted"
        ds.Modality, ds.Manufacturer = "OT", "conformance suite"
        ds.SeriesNumber, ds.InstanceNumber = 1, 1
        if sop_class.startswith(SC):
            ds.ConversionType = "SYN"
        for keyword, value in attributes.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        return ds

    @property
    def accession(self) -> str:
        """The Accession Number that the studies of the corpus `query` share, and nobody else has."""
        return f"ZZ{self.run}"[:16]

    def sample(self, name: str, ds: Dataset, syntax: str = ELE) -> Sample:
        """The object in a syntax that needs no encoder."""
        return Sample(name, ds, part10(ds, syntax), syntax)

    def image(
        self,
        name: str,
        ds: Dataset,
        pixels: Array,
        syntax: str = ELE,
        *,
        bits_stored: int = 0,
        photometric: str = "",
        fragments: int = 1,
        offsets: str = "basic",
    ) -> Sample:
        """The object with these pixels: (frames, rows, columns[, samples]), encoded in a syntax.

        `fragments` splits each frame; `offsets` is `basic`, `empty` or `extended` (PS3.5 A.4). Raises LookupError where
        no encoder for the syntax is installed.
        """
        describe(ds, pixels, bits_stored, photometric)
        if syntax in UNENCODED:
            native = pixels.tobytes() if pixels.dtype != bool else b""
            size = len(native) // len(pixels)
            frames = tuple(native[n * size : (n + 1) * size] for n in range(len(pixels)))
            if pixels.dtype == bool:
                native = np.packbits(pixels.ravel(), bitorder="little").tobytes()
                frames = tuple(np.packbits(one.ravel(), bitorder="little").tobytes() for one in pixels)
            keyword, vr = pixel_element(pixels)
            if syntax == EBE:
                raise LookupError("big endian files are not made")
            ds.add_new(keyword, vr, native + b"\0" * (len(native) % 2))
        else:
            frames = encode_frames(pixels, syntax, ds)
            value, extended = encapsulated(frames, fragments, offsets)
            ds.add_new("PixelData", "OB", value)
            ds["PixelData"].is_undefined_length = True
            if extended:
                ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = extended
        return Sample(name, ds, part10(ds, syntax), syntax, tuple(frames), pixels)


def describe(ds: Dataset, pixels: Array, bits_stored: int, photometric: str) -> None:
    """Set the attributes of the Image Pixel Module (PS3.3 C.7.6.3) from the pixels."""
    samples = pixels.shape[3] if pixels.ndim == 4 else 1
    ds.SamplesPerPixel = samples
    ds.PhotometricInterpretation = photometric or ("RGB" if samples == 3 else "MONOCHROME2")
    if samples == 3:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = pixels.shape[1], pixels.shape[2]
    if len(pixels) > 1 or ds.SOPClassUID in (MF_BIT, MF_BYTE, MF_WORD, MF_COLOUR, SEG, PARAMETRIC):
        ds.NumberOfFrames = len(pixels)
    ds.BitsAllocated = 1 if pixels.dtype == bool else pixels.dtype.itemsize * 8
    if pixels.dtype.kind == "f":
        return
    ds.BitsStored = bits_stored or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")


def pixel_element(pixels: Array) -> tuple[str, str]:
    """The element that holds native pixels of this type, and its VR (PS3.5 8.1, A.2)."""
    if pixels.dtype.kind == "f":
        return ("FloatPixelData", "OF") if pixels.dtype.itemsize == 4 else ("DoubleFloatPixelData", "OD")
    return "PixelData", "OB" if pixels.dtype == bool or pixels.dtype.itemsize == 1 else "OW"


def ramp(rows: int, columns: int, frames: int = 1, *, top: int = 255, dtype: str = "u1", low: int = 0) -> Array:
    """Smooth pixels that differ between frames: (frames, rows, columns), from `low` to `top`."""
    y, x = np.mgrid[0:rows, 0:columns]
    base = (y * 3 + x * 5).astype(np.float64)
    made = [base + 7 * number for number in range(frames)]
    stack = np.stack(made)
    stack = low + (top - low) * stack / stack.max()
    return np.asarray(np.rint(stack).astype(dtype))


def part10(ds: Dataset, syntax: str = ELE, *, implementation: str = IMPLEMENTATION) -> bytes:
    """The data set as a Part 10 file (PS3.10 section 7)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", SC)
    meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "2.25.1")
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = implementation
    head, body = DicomBytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_file_meta_info(head, meta, enforce_standard=True)
        dcmwrite(body, ds, implicit_vr=syntax == ILE, little_endian=True)
    content = body.getvalue()
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        content = packer.compress(content) + packer.flush()
        content += b"\0" * (len(content) % 2)
    file: bytes = b"\0" * 128 + b"DICM" + head.getvalue() + content
    return file


def read(file: bytes) -> Dataset:
    """A Part 10 file read back. Raises ValueError where it is none."""
    if file[128:132] != b"DICM":
        raise ValueError("no DICM after the preamble (PS3.10 7.1)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dcmread(io.BytesIO(file))
        except Exception as error:
            raise ValueError(f"not readable: {error}") from error


def element(tag: int, vr: str, value: bytes = b"") -> bytes:
    """One element in Explicit VR Little Endian, byte for byte as given; a value of odd length is padded."""
    value += (b" " if vr not in ("OB", "UI", "UN", "OW") else b"\0") * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in LONG:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def items(*contents: bytes) -> bytes:
    """The value of a sequence: items of defined length."""
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(each)) + each for each in contents)


def with_elements(sample: Sample, elements: Iterable[tuple[int, str, bytes]]) -> Sample:
    """The sample with these elements put in byte for byte, in tag order, in place of what it had there.

    The sample has to be in Explicit VR Little Endian. Its data set becomes what pydicom reads from the file.
    """
    raw = {tag: element(tag, vr, value) for tag, vr, value in elements}
    meta_end = 144 + struct.unpack_from("<I", sample.file, 140)[0]
    body, low = b"", 0
    for tag in [*sorted(raw), 1 << 32]:
        between = Dataset()
        for each in sample.dataset:
            if low <= int(each.tag) < tag:
                between.add(each)
        body += _plain(between) + raw.get(tag, b"")
        low = tag + 1
    sample.file = sample.file[:meta_end] + body
    sample.dataset = read(sample.file)
    return sample


def _plain(ds: Dataset) -> bytes:
    """A data set without its meta information, in Explicit VR Little Endian."""
    out = io.BytesIO()
    dcmwrite(out, ds, implicit_vr=False, little_endian=True)
    return out.getvalue()


def same_elements(sent: Dataset, got: Dataset, ignore: Sequence[str] = ()) -> list[str]:
    """The elements in which two data sets differ (group 0002 and the ignored keywords left out), in words."""
    found = []
    for tag in sorted({*sent.keys(), *got.keys()}):
        here, there = sent.get(tag), got.get(tag)
        keyword = (here if here is not None else there).keyword
        if keyword in ignore or tag.group == 2:
            continue
        if here is None or there is None:
            found.append(f"{tag} {keyword}: {'added' if here is None else 'lost'}")
        elif here.VR == "SQ":
            pairs = list(zip(here.value, there.value, strict=False))
            if len(here.value) != len(there.value):
                found.append(f"{tag} {keyword}: {len(here.value)} items became {len(there.value)}")
            found += [f"{tag} > {inner}" for one, two in pairs for inner in same_elements(one, two, ignore)]
        elif here.value != there.value and repr(here.value) != repr(there.value):  # NaN equals NaN here
            found.append(f"{tag} {keyword}: {str(here.value)[:60]!r} became {str(there.value)[:60]!r}")
    return found
