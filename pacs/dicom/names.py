"""Persons' names compared by sound: fuzzy semantic matching of person names (PS3.4 C.2.2.2.1.1).

A name is the set of its words, whatever component or group they stand in: case, accents and the order of the
components do not matter. Each word is kept twice, as it is spelled and as it sounds, in one text that the index
searches: "|müller^jo=山田" is kept as "|muller|MLR|jo|JO|山田|山田|". How a Latin word sounds:

1. letters lose their accents ("ø" is "o", "ß" is "ss", katakana are hiragana);
2. groups of letters become the letter that they sound like (`_GROUPS`: "ph" is "f", "sch" is "s", "th" is "t");
3. consonants become one of ten signs (`_SIGNS`): voiced and unvoiced ones are the same, "c" and "g" are K, and S
   where "c" stands before e, i or y; h and vowels are silent, but a word that begins with one begins with H or A;
4. a letter that sounds like the one right before it is not written again.

A word with fewer than two consonants ("Lee", "Ali") would sound like too many others: it is compared by spelling,
y as i and double letters as one. Words in other scripts are compared by spelling.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_LENGTH = 512
"""Characters of a name that are looked at."""

MAX_WORDS = 16

_LETTERS = str.maketrans(
    {"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h", "ŋ": "ng"}
    | {chr(katakana): chr(katakana - 0x60) for katakana in range(0x30A1, 0x30F7)}
)
_SILENT_MARKS = re.compile(r"['’‘`ʼ´]")
_WORD = re.compile(r"[^\W_]+")
_PATTERN = re.compile(r"(?:[^\W_]|[*?])+")
_LATIN = re.compile(r"[a-z]+")

# In this order, each wherever it stands; a leading "^" means at the start of the word only.
_GROUPS = tuple(
    (re.compile(pattern), sound)
    for pattern, sound in (
        ("^[kg]n", "n"), ("^wr", "r"), ("^y", "j"), ("^pf", "f"), ("sch|sh|sz", "s"), ("ph", "f"),
        ("th|ght|dt", "t"), ("ch|ck|qu", "k"), ("tz|ts|ds", "s"), ("mps", "ms"), ("x", "ks"), ("c(?=[eiy])", "s"),
    )
)  # fmt: skip
_SIGNS = str.maketrans("bpfvwdtcgkqszlmnrj", "PPFFFTTKKKKSSLMNRJ", "")
_DOUBLE = re.compile(r"(.)\1+")
_VOWELS_AND_H = re.compile(r"[aeiouyh]+")


def words(name: str) -> str | None:
    """All words of a name as the index keeps them, None where it has none."""
    spelled = _WORD.findall(_plain(name[:MAX_LENGTH]))[:MAX_WORDS]
    return "|" + "".join(f"{word}|{sound(word)}|" for word in spelled) if spelled else None


def patterns(key: str) -> tuple[str, ...]:
    """What `words` of a name have to fit, each of them, to match a key; () where the key has no word.

    A word with wildcards is compared by spelling, any other by sound. `*` and `?` are the only signs of patterns.
    """
    spelled = [word for word in _PATTERN.findall(_plain(key[:MAX_LENGTH])) if word.strip("*?")][:MAX_WORDS]
    return tuple(f"*|{word if '*' in word or '?' in word else sound(word)}|*" for word in spelled)


@lru_cache(maxsize=4096)
def sound(word: str) -> str:
    """How a word in small letters without accents sounds: signs in capital letters, or the word where it has none."""
    if not _LATIN.fullmatch(word):
        return word
    rest = word
    for group, letter in _GROUPS:
        rest = group.sub(letter, rest)
    signs = _DOUBLE.sub(r"\1", rest.translate(_SIGNS))
    consonants = _VOWELS_AND_H.sub("", signs)
    if len(consonants) < 2:
        return _DOUBLE.sub(r"\1", word.replace("y", "i")).upper()
    return {"h": "H", "y": ""}.get(signs[0], "A" if signs[0].islower() else "") + consonants


def _plain(text: str) -> str:
    text = _SILENT_MARKS.sub("", unicodedata.normalize("NFKC", text).casefold()).translate(_LETTERS)
    if text.isascii():
        return text
    return "".join(_without_accent(char) for char in unicodedata.normalize("NFC", text))


def _without_accent(char: str) -> str:
    if char > "\u058f":  # marks belong to the letter beyond the Latin, Greek and Cyrillic scripts
        return char if not "\u1e00" <= char <= "\u1fff" else unicodedata.normalize("NFD", char)[0]
    return "".join(part for part in unicodedata.normalize("NFD", char) if not unicodedata.combining(part))
