"""Makes mammograms of breasts that never were: shape, parenchyma, fibres, detector, artefacts, and exact truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydicom import Dataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation
from scipy import ndimage

from analysis.evaluation import implants
from pacs import uids

Array = np.ndarray[Any, Any]
Laterality = Literal["L", "R"]
View = Literal["CC", "MLO"]


@dataclass(frozen=True)
class Acquisition:
    """How the breast is imaged.

    blur_mm: sigma of the detector's blur. noise: standard deviation of the log signal at 0.1 mm, in the thickest part.
    electronic: share of it that does not depend on dose. grain_mm: sigma of the correlation of the noise.
    sharpening: strength of the unsharp mask of the presentation, over sharpening_mm. film: digitised film with frame
    and labels instead of a detector.
    """

    spacing: float = 0.1
    blur_mm: float = 0.05
    noise: float = 0.012
    electronic: float = 0.2
    grain_mm: float = 0.03
    sharpening: float = 0.7
    sharpening_mm: float = 0.4
    inverted: bool = False
    film: bool = False
    bright_line: bool = False
    stored_bits: int = 12


@dataclass(frozen=True)
class Phantom:
    """pixels: uint16 (rows, columns). mask: the breast without its skin line, bool. truth: what was implanted."""

    pixels: Array
    mask: Array
    truth: implants.Truth
    acquisition: Acquisition
    laterality: Laterality
    view: View
    seed: int


def random_acquisition(rng: np.random.Generator) -> Acquisition:
    """One of many detectors, for training: pixel sizes from 0.05 to 0.1 mm, sharp and soft, quiet and noisy.

    A quarter are digitised films, half of those at 0.2 mm, as old collections are.
    """
    film = bool(rng.random() < 0.25)
    coarse = film and bool(rng.random() < 0.5)
    return Acquisition(
        spacing=0.2 if coarse else float(rng.choice([0.05, 0.07, 0.085, 0.094, 0.1, 0.1])),
        blur_mm=float(rng.uniform(0.03, 0.09)),
        noise=float(np.exp(rng.uniform(np.log(0.006), np.log(0.025)))),
        electronic=float(rng.uniform(0, 0.5)),
        grain_mm=float(rng.choice([0.0, rng.uniform(0.02, 0.07)])),
        sharpening=float(rng.choice([0.0, rng.uniform(0.2, 2.0)])),
        sharpening_mm=float(rng.uniform(0.15, 0.9)),
        inverted=bool(rng.random() < 0.3),
        film=film,
        bright_line=bool(rng.random() < 0.15),
        stored_bits=int(rng.choice([8, 12] if film else [12, 12, 14])),
    )


def power_law(rng: np.random.Generator, shape: tuple[int, int], exponent: float) -> Array:
    """Gaussian texture whose power falls with frequency to the minus `exponent`: float32, mean 0, deviation 1."""
    rows, columns = (1 << (size - 1).bit_length() if size < 64 else _smooth_size(size) for size in shape)
    white = np.fft.rfft2(rng.standard_normal((rows, columns), np.float32))
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
    frequency[0, 0] = 1.0
    shaped = np.fft.irfft2(white * frequency ** (-exponent / 2), s=(rows, columns)).astype(np.float32)
    shaped = shaped[: shape[0], : shape[1]]
    result: Array = (shaped - shaped.mean()) / shaped.std()
    return result


def _smooth_size(size: int) -> int:
    """The next length that an FFT does fast."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def _shape(rng: np.random.Generator, shape: tuple[int, int], spacing: float, view: View) -> tuple[Array, Array]:
    """The breast against the left border: mask, and relative thickness 0 to 1 that falls towards the skin."""
    rows, columns = shape
    step = max(1, round(0.4 / spacing))
    y = (np.arange(-(-rows // step)) + 0.5) * step / rows * 2 - 1
    x = (np.arange(-(-columns // step)) + 0.5) * step / columns
    centre, tall, wide = rng.uniform(-0.08, 0.08), rng.uniform(0.72, 0.92), rng.uniform(0.7, 0.92)
    power = rng.uniform(1.8, 2.4)
    reach = np.maximum(0, 1 - np.abs((y - centre) / tall) ** power) ** (1 / power) * wide
    nipple = rng.uniform(0.02, 0.05) * np.exp(-(((y - centre) / 0.05) ** 2))
    reach = reach + nipple
    if view == "MLO":  # the armpit: tissue goes on to the upper border
        reach = np.maximum(reach, np.where(y < centre, np.clip(0.45 * wide - 0.25 * (y + 1), 0, 1), 0))
    small = x[None, :] < reach[:, None]
    padded = np.pad(small, ((0, 0), (step, 0)), mode="edge")
    signed = ndimage.distance_transform_edt(padded) - ndimage.distance_transform_edt(~padded)
    smooth = ndimage.gaussian_filter(signed, 3.0)[:, step:] * (step * spacing)
    inside = _enlarged(smooth.astype(np.float32), shape, step)
    return inside > 0, 1 - np.exp(-np.maximum(inside, 0) / rng.uniform(3, 9))


def _enlarged(small: Array, shape: tuple[int, int], step: int) -> Array:
    """Bilinear enlargement by `step`, aligned at pixel centres."""
    rows = (np.arange(shape[0], dtype=np.float32) + 0.5) / step - 0.5
    columns = (np.arange(shape[1], dtype=np.float32) + 0.5) / step - 0.5
    r, c = np.clip(rows, 0, small.shape[0] - 1), np.clip(columns, 0, small.shape[1] - 1)
    r0, c0 = np.minimum(r.astype(int), small.shape[0] - 2), np.minimum(c.astype(int), small.shape[1] - 2)
    fr, fc = (r - r0)[:, None], (c - c0)[None, :]
    tall = small[r0] * (1 - fr) + small[r0 + 1] * fr
    result: Array = tall[:, c0] * (1 - fc) + tall[:, c0 + 1] * fc
    return result


def _fibres(rng: np.random.Generator, shape: tuple[int, int], spacing: float, density: float) -> Array:
    """Ducts, vessels and ligaments: curved lines of 0.1 to 1.2 mm, brighter here than there, crossing each other."""
    total = np.zeros(shape, np.float32)
    area = shape[0] * shape[1] * spacing * spacing / 100  # cm2
    for width, per_area, strength in (
        (0.07, 1.6, 0.020), (0.12, 2.0, 0.022), (0.2, 1.6, 0.03), (0.35, 1.0, 0.045), (0.6, 0.5, 0.06)
    ):  # fmt: skip
        step = max(1, int(width / spacing / 2))
        plane = np.zeros((-(-shape[0] // step), -(-shape[1] // step)), np.float32)
        for _ in range(rng.poisson(per_area * area * density)):
            length = np.exp(rng.uniform(np.log(2), np.log(45)))
            count = max(4, int(length / (0.5 * spacing * step)))
            turn = ndimage.gaussian_filter1d(
                rng.standard_normal(count), min(count / 4, 3 / spacing / step), mode="nearest"
            )
            angle = rng.normal(0, 0.9) + np.cumsum(turn) * spacing * step * rng.uniform(0.1, 1.2)
            y = rng.uniform(0, shape[0]) / step + np.cumsum(np.sin(angle)) * 0.5
            x = rng.uniform(-0.1, 1) * shape[1] / step + np.cumsum(np.cos(angle)) * 0.5
            light = 1 + 0.6 * ndimage.gaussian_filter1d(rng.standard_normal(count), 2, mode="nearest")
            light *= np.minimum(1, np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.15 * count + 1))
            light *= strength * np.exp(rng.normal(0, 0.6))
            r, c = np.rint(y).astype(int), np.rint(x).astype(int)
            keep = (r >= 0) & (r < plane.shape[0]) & (c >= 0) & (c < plane.shape[1])
            np.add.at(plane, (r[keep], c[keep]), (0.5 * light[keep]).astype(np.float32))
        sigma = width / spacing / step
        soft = ndimage.gaussian_filter(plane, sigma) * np.float32(sigma * np.sqrt(2 * np.pi))
        total += _enlarged(soft, shape, step) if step > 1 else soft
    return total


def _discs(rng: np.random.Generator, shape: tuple[int, int], spacing: float, density: float) -> Array:
    """What is round and no microcalcification: nodules, lymph nodes, skin pores and moles, coarse benign discs."""
    plane = np.zeros(shape, np.float32)
    area = shape[0] * shape[1] * spacing * spacing / 100
    for low, high, per_area, strength, edge in (
        (0.5, 1.3, 0.5, 0.03, 0.35), (1.3, 5.0, 0.15, 0.05, 0.2), (0.9, 2.5, 0.012, 0.5, 0.08)
    ):  # fmt: skip
        for _ in range(rng.poisson(per_area * area * density)):
            radius = rng.uniform(low, high) / 2
            soft = max(edge * radius, 0.6 * spacing)
            reach = int((radius + 4 * soft) / spacing) + 1
            r, c = (int(rng.uniform(0, size)) for size in shape)
            r0, r1, c0, c1 = max(0, r - reach), min(shape[0], r + reach), max(0, c - reach), min(shape[1], c + reach)
            y, x = np.mgrid[r0:r1, c0:c1].astype(np.float32)
            distance = np.hypot(y - r, (x - c) * rng.uniform(0.7, 1.4)) * spacing
            plane[r0:r1, c0:c1] += (
                strength * np.exp(rng.normal(0, 0.4)) / (1 + np.exp((distance - radius) / soft))
            ).astype(np.float32)
    return plane


def phantom(
    seed: int,
    *,
    size_mm: tuple[float, float] = (200.0, 110.0),
    acquisition: Acquisition | None = None,
    laterality: Laterality = "L",
    view: View = "CC",
    clusters: int = 1,
    contrast: tuple[float, float] = (6.0, 14.0),
    singles: int = 1,
) -> Phantom:
    """One mammogram with its truth; equal arguments give equal pixels.

    size_mm: (height, width) of the image. clusters: how many are implanted (fewer where there is no room).
    contrast: of their calcifications, in standard deviations of the noise at 0.1 mm.
    """
    rng = np.random.default_rng([seed, 0x4D47])
    setup = acquisition or Acquisition()
    spacing = setup.spacing
    shape = (round(size_mm[0] / spacing), round(size_mm[1] / spacing))
    mask, thick = _shape(rng, shape, spacing, view)

    # Attenuation: fat everywhere, gland where broad texture and the position say so, lines and discs on top.
    broad = power_law(rng, shape, rng.uniform(2.8, 3.4))
    fine = power_law(rng, shape, rng.uniform(2.2, 3.1))
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(0, 1, shape[1], dtype=np.float32)[None, :]
    seat = np.exp(-((y / 0.6) ** 2) - ((x - rng.uniform(0.2, 0.5)) / 0.35) ** 2)
    gland = 1 / (1 + np.exp(-(1.6 * broad + 3.0 * seat - rng.uniform(1.0, 3.2))))
    density = rng.uniform(0.5, 1.6)
    log_signal = 1.6 * thick + rng.uniform(0.25, 0.8) * thick * gland + rng.uniform(0.02, 0.09) * thick * gland * fine
    log_signal += rng.uniform(0.01, 0.04) * thick * broad
    log_signal += (_fibres(rng, shape, spacing, density) + _discs(rng, shape, spacing, density)) * thick
    if view == "MLO":
        muscle = np.clip((rng.uniform(0.25, 0.45) * (1 - (y + 1) / rng.uniform(1.2, 1.7)) - x) / 0.01, -30, 30)
        log_signal += 0.3 / (1 + np.exp(-muscle)) * thick
    del broad, fine

    # Detector: noise grows where fewer quanta arrive; calcifications are blurred with everything else.
    deviation = setup.noise * np.sqrt(setup.electronic + (1 - setup.electronic) * np.exp(log_signal - 1.7)) * mask
    inner = ndimage.binary_erosion(mask[::4, ::4], iterations=max(1, round(4 / (4 * spacing))), border_value=1)
    allowed = np.zeros(shape, bool)
    border = max(1, round(4 / spacing))
    grown = np.repeat(np.repeat(inner, 4, axis=0), 4, axis=1)[: shape[0], : shape[1]]
    allowed[border:-border, border:-border] = grown[border:-border, border:-border]
    truth = implants.plan(rng, allowed, spacing, clusters=clusters, contrast=contrast, singles=singles)
    log_signal = ndimage.gaussian_filter(log_signal.astype(np.float32), setup.blur_mm / spacing)
    log_signal += implants.layer(rng, shape, spacing, truth, setup.blur_mm) * deviation
    white = rng.standard_normal(shape, np.float32)
    if setup.grain_mm > 0:
        white = ndimage.gaussian_filter(white, setup.grain_mm / spacing)
    reference = ndimage.uniform_filter(white[:512, :512], max(1, round(0.1 / spacing)))
    log_signal += white / reference.std() * deviation
    pixels = _presented(rng, log_signal, mask, setup)
    if laterality == "R":
        pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        truth = _mirrored(truth, shape[1])
    return Phantom(np.ascontiguousarray(pixels), np.ascontiguousarray(mask), truth, setup, laterality, view, seed)


def _mirrored(truth: implants.Truth, columns: int) -> implants.Truth:
    flipped = [replace(item, column=columns - 1 - item.column) for item in truth.calcifications]
    return implants.Truth(tuple(flipped), tuple(replace(c, column=columns - 1 - c.column) for c in truth.clusters))


def _presented(rng: np.random.Generator, log_signal: Array, mask: Array, setup: Acquisition) -> Array:
    """Stored values: thickness evened out, sharpened, bent by a display curve, artefacts added, inverted if asked."""
    spacing = setup.spacing
    step = max(1, round(1.0 / spacing))
    cut = tuple(size // step * step for size in log_signal.shape)
    small = log_signal[: cut[0], : cut[1]].reshape(cut[0] // step, step, cut[1] // step, step).mean(axis=(1, 3))
    weight = mask[: cut[0], : cut[1]].reshape(cut[0] // step, step, cut[1] // step, step).mean(axis=(1, 3))
    sigma = 9.0 / (step * spacing)
    slow = ndimage.gaussian_filter(small * weight, sigma) / np.maximum(ndimage.gaussian_filter(weight, sigma), 0.02)
    even = rng.uniform(0.4, 0.8)
    value = log_signal - even * _enlarged(slow.astype(np.float32), log_signal.shape, step)
    if setup.sharpening > 0:
        value += setup.sharpening * (value - ndimage.gaussian_filter(value, setup.sharpening_mm / spacing))
    inside = value[mask]
    low, high = np.percentile(inside[:: max(1, inside.size // 200_000)], [0.5, 99.7])
    unit = (value - low) / (high - low)
    top = 2**setup.stored_bits - 1
    bent = 1 / (1 + np.exp(-rng.uniform(2.5, 4.5) * (unit - rng.uniform(0.35, 0.55))))
    shown = np.where(mask, (0.2 + 0.7 * bent) * top, 0.0)
    if setup.film:
        fog = 0.06 + 0.006 * rng.standard_normal(log_signal.shape, np.float32)
        shown = np.where(mask, shown, fog * top)
        frame = max(2, round(rng.uniform(0.8, 3) / spacing))
        shown[:frame], shown[:, -frame:] = top, top
        _dust(rng, shown, mask, spacing)
        _label(shown, spacing, top)
    elif rng.random() < 0.7:
        _label(shown, spacing, 0.8 * top)
    if setup.bright_line:
        at = int(shown.shape[1] * 0.97)
        shown[:, at : at + max(2, round(2.5 / spacing))] = 0.5 * top
    stored = np.clip(np.rint(shown), 0, top).astype(np.uint16)
    return (top - stored).astype(np.uint16) if setup.inverted else stored


def _dust(rng: np.random.Generator, shown: Array, mask: Array, spacing: float) -> None:
    """Specks and hairs on the film: bright, and sharper than anything that X-rays drew."""
    rows, columns = np.nonzero(mask[::8, ::8])
    area = len(rows) * 64 * spacing * spacing / 100  # cm2
    contrast = 0.25 * float(np.ptp(shown[::8, ::8][mask[::8, ::8]]))
    for _ in range(rng.poisson(0.25 * area)):
        pick = int(rng.integers(len(rows)))
        r, c = 8 * int(rows[pick]), 8 * int(columns[pick])
        steps = int(rng.integers(1, 3)) if rng.random() < 0.8 else int(rng.uniform(1, 3) / spacing)
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, steps))
        y = np.clip(r + np.cumsum(np.sin(angle)), 0, shown.shape[0] - 1).astype(int)
        x = np.clip(c + np.cumsum(np.cos(angle)), 0, shown.shape[1] - 1).astype(int)
        shown[y, x] += contrast * rng.uniform(0.3, 1.2)


def _label(shown: Array, spacing: float, value: float) -> None:
    """A view marker in the upper corner away from the chest wall, where there is only air."""
    height, width = round(4 / spacing), round(12 / spacing)
    r, c = round(8 / spacing), shown.shape[1] - width - round(6 / spacing)
    if c > 0 and r + height < shown.shape[0] and not np.any(shown[r : r + height, c : c + width] > 0.2 * value):
        shown[r : r + height, c : c + width] = value


_VIEWS = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
_ORIENTATIONS = {("L", "CC"): ["A", "R"], ("R", "CC"): ["P", "L"], ("L", "MLO"): ["A", "FR"], ("R", "MLO"): ["P", "FL"]}


def to_dataset(made: Phantom, *, study: str = "", series: int = 1, number: int = 1, **attributes: Any) -> Dataset:
    """A phantom as a Digital Mammography X-Ray Image, For Presentation (PS3.3 A.26), of a patient that never lived.

    Equal arguments give an equal data set. study: instances with the same text belong to one study. Keyword arguments
    set or replace attributes by keyword; None removes one.
    """
    study = study or f"mammogram-{made.seed}"
    setup = made.acquisition
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "PRIMARY", ""]
    ds.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    ds.SOPInstanceUID = uids.derived("mammogram", study, series, number)
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20260102", "093000", "SYN-MG"
    ds.SeriesDate, ds.SeriesTime = "20260102", "093000"
    ds.AcquisitionDate, ds.AcquisitionTime = "20260102", f"0930{number % 60:02d}"
    ds.ContentDate, ds.ContentTime = "20260102", f"0930{number % 60:02d}"
    ds.Modality, ds.PresentationIntentType = "MG", "FOR PRESENTATION"
    ds.Manufacturer, ds.ManufacturerModelName = "m3DICOM", "Synthetic mammogram"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "phantom", "1"
    ds.ReferringPhysicianName = None
    ds.StudyDescription, ds.SeriesDescription = "Synthetic mammography", "Synthetic views"
    ds.PatientName, ds.PatientID = "Synthetic^Mammogram", "SYN-MG"
    ds.PatientBirthDate, ds.PatientSex = "19600101", "F"
    ds.BodyPartExamined, ds.BodyPartThickness, ds.CompressionForce = "BREAST", "55", "90"
    ds.KVP, ds.Exposure, ds.AnodeTargetMaterial = "28", "80", "RHODIUM"
    ds.DetectorType, ds.DetectorID = "SCINTILLATOR", "PHANTOM"
    ds.ImagerPixelSpacing = [f"{setup.spacing:g}"] * 2
    ds.PositionerType, ds.ViewPosition = "MAMMOGRAPHIC", made.view
    ds.EstimatedRadiographicMagnificationFactor = "1"
    ds.StudyInstanceUID = uids.derived("mammogram study", study)
    ds.SeriesInstanceUID = uids.derived("mammogram series", study, series)
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", series, number
    ds.PatientOrientation = _ORIENTATIONS[made.laterality, made.view]
    ds.ImageLaterality, ds.OrganExposed = made.laterality, "BREAST"
    ds.BreastImplantPresent, ds.PartialView = "NO", "NO"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME1" if setup.inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = made.pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, setup.stored_bits, setup.stored_bits - 1
    ds.PixelRepresentation = 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1 if setup.inverted else 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "INVERSE" if setup.inverted else "IDENTITY"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    inside = made.pixels[made.mask]
    low, high = (float(value) for value in np.percentile(inside[:: max(1, inside.size // 100_000)], [4, 99.9]))
    ds.WindowCenter, ds.WindowWidth = f"{(low + high) / 2:.0f}", f"{1.2 * (high - low):.0f}"
    ds.AcquisitionContextSequence = []
    ds.AnatomicRegionSequence = [_coded("76752008", "SCT", "Breast")]
    view = _coded(_VIEWS[made.view][0], "SCT", _VIEWS[made.view][1])
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.PixelData = made.pixels.astype("<u2").tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def _coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
