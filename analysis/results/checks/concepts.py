"""Owns the check of codes: that a name or value means what PS3.16 says it means, in any report and anywhere else.

Of the scheme DCM the standard's own table knows every code and its meaning; of other schemes the table here has the
names and values that the templates of our reports fix. What a plug-in hands out is held against all that PS3.16 knows
(`analysis.results.meanings`); codes of private schemes are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pydicom import Dataset
from pydicom.sr._concepts_dict import concepts

from analysis.results.checks import trees
from analysis.results.checks.trees import concept, value

Meanings = Mapping[str, tuple[str, ...]]

_LATER = {"OT": "Other"}  # a modality of PS3.3 C.7.3.1.1.1 that CID 29 does not have
_DCM: Meanings = MappingProxyType(
    {code: (meaning,) for entry in concepts["DCM"].values() for code, (meaning, *_) in entry.items()}
    | {code: (meaning,) for code, meaning in _LATER.items()}
)

_OURS = (
    *("111036", "113000", "126000", "126001"),  # titles
    *("121049", "121058", "121005", "121012", "121013", "121014", "121015", "121016"),  # language, procedure, observer
    *("111028", "126200", "121139", "112227"),  # library
    *("126010", "125007", "112039", "112040", "111001", "111002", "111003", "121071"),  # groups of measurements
    *("111030", "121191", "121232", "121233", "121112", "121077", "111017", "111012"),
    *("111027", "111031", "111044", "111043", "111060", "111061", "111018", "111019"),  # mammography CAD
    *("111026", "111066", "111034", "111056", "111059", "111010", "111041", "111009"),
    *("111008", "111038", "111064", "111063", "111025", "111022", "111065"),
    "113012",  # key objects
    *("121008", "121106"),  # verdicts: who, and a comment
)
STRUCTURE = frozenset(("DCM", code) for code in _OURS) - {("DCM", "111038")}
"""(scheme, code value) of names that the templates give their own items: no name of a plug-in's measurement."""

NAMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {code: ("DCM", _DCM[code][0]) for code in _OURS}
    | {
        "260753009": ("SCT", "Source"),
        "276214006": ("SCT", "Finding category"),
        "118565006": ("SCT", "Volume"),
        "81827009": ("SCT", "Diameter"),
        "C0034375": ("UMLS", "Qualitative Evaluations"),
        "C0JK": ("IBSI", "Surface Area of Mesh"),
    }
)
"""Scheme and meaning of the names of content items, by code value."""

VALUES: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "121049": {"en-US": ("RFC5646", "English (United States)")},
        "121058": {"363679005": ("SCT", "Imaging procedure")},
        "111027": {
            "73056007": ("SCT", "Right breast"),
            "80248007": ("SCT", "Left breast"),
            "63762007": ("SCT", "Both breasts"),
        },
        "111031": {  # CID 4014
            "399162004": ("SCT", "cranio-caudal"),
            "399368009": ("SCT", "medio-lateral oblique"),
            "399260004": ("SCT", "medial-lateral"),
            "399352003": ("SCT", "latero-medial"),
            "399099002": ("SCT", "latero-medial oblique"),
            "399196006": ("SCT", "caudo-cranial"),
            "399188001": ("SCT", "superolateral to inferomedial oblique"),
            "441555000": ("SCT", "inferomedial to superolateral oblique"),
            "399192008": ("SCT", "cranio-caudal exaggerated laterally"),
            "399101009": ("SCT", "cranio-caudal exaggerated medially"),
        },
        "111059": {
            "129769006": ("SCT", "Calcification Cluster"),
            "129770007": ("SCT", "Individual Calcification"),
        },
        "111022": {
            "129769006": ("SCT", "Calcification Cluster"),
            "129770007": ("SCT", "Individual Calcification"),
        },
        "111009": {"44771000": ("SCT", "Microcalcifications of the breast")},
        "111008": {"129766004": ("SCT", "Grouped calcification distribution")},
    }
)
"""Values of coded items whose templates leave no other, by the name of the item: scheme and meaning by code value."""


def defects(ds: Dataset) -> Iterator[str]:
    """What is wrong with the names and fixed values of a report, in words; nothing for what is none."""
    if str(ds.get("SOPClassUID")) not in trees.SR_CLASSES:
        return
    for path, _, item in [((1,), ds, ds), *trees.walk(ds)]:
        where = "item " + ".".join(map(str, path))
        code, scheme = concept(item)
        if not code:
            continue
        measured = item.get("ValueType") == "NUM"
        if code in NAMES and not (measured and scheme.startswith("99")):
            if not _is(item.ConceptNameCodeSequence[0], NAMES[code]):
                yield f"{where}: its name has another scheme or meaning than PS3.16 gives the code"
        elif not measured and scheme != "99M3DICOM":
            yield f"{where}: its name is none of a template that is written here"
        if code in VALUES and item.get("ValueType") == "CODE":
            said = value(item)[0]
            if said not in VALUES[code]:
                yield f"{where}: a value that its context group does not have"
            elif not _is(item.ConceptCodeSequence[0], VALUES[code][said]):
                yield f"{where}: its value has another scheme or meaning than PS3.16 gives the code"
        for number in item.get("MeasuredValueSequence") or ():
            for unit in number.get("MeasurementUnitsCodeSequence") or ():
                if unit.get("CodingSchemeDesignator") != "UCUM":
                    yield f"{where}: a unit that is not of UCUM"


def unknown(item: Dataset) -> bool:
    """Whether an item of a code sequence is of the scheme DCM and not as PS3.16 has it."""
    if item.get("CodingSchemeDesignator") != "DCM":
        return False
    known = _DCM.get(str(item.get("CodeValue") or ""), ())
    return not any(_same(str(item.get("CodeMeaning") or ""), each) for each in known)


def _is(item: Dataset, wanted: tuple[str, str]) -> bool:
    return item.get("CodingSchemeDesignator") == wanted[0] and _same(str(item.get("CodeMeaning") or ""), wanted[1])


def _same(said: str, wanted: str) -> bool:
    """Upper and lower case, and the places where a line may break, make no difference."""
    return said.replace("\u200b", "").casefold() == wanted.replace("\u200b", "").casefold()
