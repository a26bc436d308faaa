"""Words burnt into a picture: who the patient is, how the image was made (PS3.18 8.3.5.1.1); icons for what is none."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom.json_model import text, texts
from pacs.dicom.late import numpy as np
from pacs.dicom.lookup import Metadata, items, number

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import ImageDraw

    Picture = npt.NDArray[np.uint8]

KEYWORDS: Final = ("patient", "technique")
MAX_LINE: Final = 120
_FACE: Final = "DejaVuSans.ttf"
_SMALLEST, _PART = 9, 40
"""Letters are a fortieth of the picture high, and never smaller than can be read."""


def patient(metadata: Metadata) -> list[str]:
    """What the keyword "patient" shows: name, ID, birth date and sex, study, one line each."""
    name = (text(metadata, "00100010") or "").split("=")[0].replace("^", " ").strip()
    birth = " ".join(filter(None, (_date(text(metadata, "00100030")), text(metadata, "00100040"))))
    study = " ".join(filter(None, (_date(text(metadata, "00080020")), _time(text(metadata, "00080030")))))
    lines = [name, text(metadata, "00100020"), birth, study, text(metadata, "00080050"), text(metadata, "00081030")]
    return [line for line in lines if line]


def technique(metadata: Metadata, frame_number: int, frames: int) -> list[str]:
    """What the keyword "technique" shows: what made the image and how, one line each."""
    groups = [*items(metadata, "52009230")[frame_number - 1 : frame_number], *items(metadata, "52009229")[:1]]
    measures = [item for group in groups for item in items(group, "00289110")[:1]] + [metadata]

    def measured(tag: str, unit: str, label: str) -> str:
        value = next((v for place in measures if (v := number(place, tag)) is not None), None)
        return "" if value is None else f"{label} {value:g} {unit}"

    numbers = [f"{label} {value}" for tag, label in (("00200011", "Se"), ("00200013", "Im"))
               if (value := text(metadata, tag))]  # fmt: skip
    place = [text(metadata, tag) for tag in ("00200062", "00185101")]
    series = [text(metadata, "00080060"), text(metadata, "0008103E"), *place]
    lines = [
        " ".join(filter(None, series)),
        " ".join([*numbers, *([f"Fr {frame_number}/{frames}"] if frames > 1 else [])]),
        ", ".join(filter(None, (measured("00180060", "kV", "KVP"), measured("00181151", "mA", "Current"),
                                measured("00181152", "mAs", "Exposure")))),
        ", ".join(filter(None, (measured("00180080", "ms", "TR"), measured("00180081", "ms", "TE")))),
        measured("00180050", "mm", "Slice"),
        measured("00201041", "mm", "Location"),
        " ".join(filter(None, [text(metadata, "00080070"), text(metadata, "00081090")])),
    ]  # fmt: skip
    return [line for line in lines if line]


def _date(value: str | None) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if value and len(value) == 8 and value.isdecimal() else value or ""


def _time(value: str | None) -> str:
    return f"{value[:2]}:{value[2:4]}" if value and len(value) >= 4 and value[:4].isdecimal() else value or ""


def burnt_in(picture: Picture, top: Sequence[str], bottom: Sequence[str]) -> Picture:
    """The picture with lines at its upper left and its lower left, white with a black edge, and made smaller to fit."""
    from PIL import Image, ImageDraw

    if not top and not bottom:
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    draw = ImageDraw.Draw(image)
    size = max(_SMALLEST, round(min(image.size) / _PART))
    lines = [*top, *bottom]
    while size > _SMALLEST and not _fits(draw, lines, size, image.size):
        size -= 1
    step, margin = size * 1.3, size * 0.6
    for index, line in enumerate(top):
        words(draw, (margin, margin + index * step), line, size)
    start = image.size[1] - margin - len(bottom) * step
    for index, line in enumerate(bottom):
        words(draw, (margin, start + index * step), line, size)
    return np.asarray(image)


def _fits(draw: ImageDraw.ImageDraw, lines: Sequence[str], size: int, room: tuple[int, int]) -> bool:
    longest = max(width(draw, line, size) for line in lines)
    return bool(longest <= room[0] - size * 1.2 and len(lines) * size * 1.3 <= room[1] - size * 1.2)


def font(size: float) -> Any:
    """A typeface `size` pixels high: DejaVu Sans where the machine has it, else Pillow's own, which is ASCII."""
    from PIL import ImageFont

    size = max(6.0, size)
    return ImageFont.truetype(_FACE, size) if _has_face() else ImageFont.load_default(size)


@cache
def _has_face() -> bool:
    from PIL import ImageFont

    try:
        ImageFont.truetype(_FACE, 10)
    except OSError:
        return False
    return True


def width(draw: ImageDraw.ImageDraw, line: str, size: float) -> float:
    """How long `words` writes a line, in pixels."""
    return float(draw.textlength(_printable(line), font(size)))


def words(draw: ImageDraw.ImageDraw, at: tuple[float, float], line: str, size: float, level: int = 255) -> None:
    """One line of text with its upper left corner there."""
    white, black = (level, 0) if draw.mode == "L" else ((level,) * 3, (0, 0, 0))
    edge = max(1, round(size / 10))
    draw.text(at, _printable(line), font=font(size), fill=white, stroke_width=edge, stroke_fill=black)


def _printable(line: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in line)[:MAX_LINE]
    if _has_face():
        return line
    # Letters without their accents are read better than boxes.
    apart = unicodedata.normalize("NFKD", line)
    return "".join(character for character in apart if not unicodedata.combining(character))


def icon(metadata: Metadata, width: int, height: int) -> Picture:
    """A picture for what is no image: a sheet of paper with the modality on it and what it is called."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (width, height), 24)
    draw = ImageDraw.Draw(image)
    side = min(width, height)
    left, top = (width - side * 0.62) / 2, (height - side * 0.8) / 2
    right, bottom, fold = width - left, height - top, side * 0.18
    sheet = [(left, top), (right - fold, top), (right, top + fold), (right, bottom), (left, bottom)]
    draw.polygon(sheet, fill=200)
    draw.polygon([(right - fold, top), (right - fold, top + fold), (right, top + fold)], fill=150)
    label = (texts(metadata, "00080060") or ["?"])[0][:4] or "?"
    size = side * 0.22
    while size > 6 and draw.textlength(label, font(size)) > (right - left) * 0.85:
        size *= 0.9
    draw.text((width / 2, (top + fold + bottom) / 2), label, font=font(size), fill=40, anchor="mm")
    return np.asarray(image)
