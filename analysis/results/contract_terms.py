"""Owns what texts, codes, numbers and arrays of a plug-in have to be; what is wrong with one is said in words.

Texts become attributes whose VRs bound them (PS3.5 6.2), and a code that PS3.16 knows keeps the meaning it has there:
who writes another has taken a wrong code, or will be read wrongly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis.api import Array, BrokenContract, Code, Measurement
from analysis.results import meanings, provenance
from analysis.results.checks import concepts

LABEL = 64
"""Characters of a name of something, as LO has them."""
SENTENCE = 256
_SCHEME = 16  # of SH
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")  # TAB, LF, FF and CR may be in UT


def text(value: Any, what: str, *, most: int = LABEL) -> None:
    """Raise BrokenContract where `what` is not 1 to `most` characters without backslashes and controls."""
    if not isinstance(value, str):
        raise BrokenContract(f"{what} is no text, but {type(value).__name__}.")
    if not value.strip():
        raise BrokenContract(f"{what} is empty.")
    if len(value) > most:
        raise BrokenContract(f"{what} has {len(value)} characters; there is room for {most}.")
    if "\\" in value or _CONTROLS.search(value) or not _is_unicode(value):
        raise BrokenContract(f"{what} has a backslash or a control character in it.")


def prose(value: Any, what: str) -> None:
    """Raise BrokenContract where `what` is no text of any length, with lines."""
    if not isinstance(value, str) or _NOT_IN_TEXT.search(value) or not _is_unicode(value):
        raise BrokenContract(f"{what} is no text, or has control characters in it.")


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in value)


def code(value: Any, what: str) -> None:
    """Raise BrokenContract where `what` is no code (PS3.3 8), or has another meaning than PS3.16 gives it."""
    if not isinstance(value, Code):
        raise BrokenContract(f"{_capital(what)} is no Code, but {type(value).__name__}.")
    text(value.value, f"The value of the code of {what}", most=1024)
    text(value.scheme, f"The coding scheme of {what}", most=_SCHEME)
    text(value.meaning, f"The meaning of the code of {what}")
    meant = meanings.contradicted(value.scheme, value.value, value.meaning)
    if meant:
        raise BrokenContract(
            f"The code of {what}, {value.value} of {value.scheme}, means {meant!r}, not {value.meaning!r}."
        )
    if concepts.unknown(provenance.code(value)):
        raise BrokenContract(f"The code of {what}, {value.value}, is none that DCM has (PS3.16).")


def measurements(values: Iterable[Measurement], whose: str) -> None:
    """Raise BrokenContract where one is no finite number with a name and a unit of UCUM."""
    for each in values:
        code(each.name, f"a measurement of {whose}")
        if (each.name.scheme, each.name.value) in concepts.STRUCTURE:
            raise BrokenContract(f"A measurement of {whose} has a name that reports use themselves: {each.name.value}.")
        what = f"the measurement {each.name.meaning!r} of {whose}"
        number(each.value, what)
        code(each.unit, f"the unit of {what}")
        if each.unit.scheme != "UCUM":
            raise BrokenContract(f"The unit of {what} is not of UCUM.")


def number(value: Any, what: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise BrokenContract where `what` is no finite number from `low` to `high`."""
    if isinstance(value, str | bytes) or not math.isfinite(float(value)):
        raise BrokenContract(f"{_capital(what)} is no finite number.")
    if not low <= float(value) <= high:
        bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
        raise BrokenContract(f"{_capital(what)} is {float(value):g}, not {bounds}.")


def lengths(values: Sequence[Any], what: str) -> None:
    """Raise BrokenContract where `what` is not (rows, columns) in mm, both above 0."""
    if len(values) != 2:
        raise BrokenContract(f"{_capital(what)} has {len(values)} numbers; it is (rows, columns).")
    for each in values:
        above_zero(each, what)


def above_zero(value: Any, what: str) -> None:
    """Raise BrokenContract where `what`, a length in mm, is no finite number above 0."""
    number(value, what)
    if not float(value) > 0:
        raise BrokenContract(f"{_capital(what)} is {float(value):g} mm, not above 0.")


def array(value: Any, what: str, shape: Sequence[int | None], kinds: str) -> Array:
    """`value`, if it is a NumPy array of that shape (None = any length but 0), of one of these kinds of dtype, finite.

    Raises BrokenContract otherwise.
    """
    if not isinstance(value, np.ndarray):
        raise BrokenContract(f"{what} are no NumPy array, but {type(value).__name__}.")
    fits = len(value.shape) == len(shape) and all(
        have == wanted or (wanted is None and have) for have, wanted in zip(value.shape, shape, strict=True)
    )
    if not fits or value.dtype.kind not in kinds:
        wanted = ", ".join("n" if each is None else str(each) for each in shape)
        raise BrokenContract(f"{what} are {value.dtype} of the shape {value.shape}, not of the shape ({wanted}).")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise BrokenContract(f"{what} hold what is no number.")
    return value


def _capital(what: str) -> str:
    return what[:1].upper() + what[1:]
