"""Blocks of private elements (PS3.5 7.8.1) placed by the name of their creator. Pure."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

from pacs.errors import InvalidInput

_PRIVATE = re.compile(r"[0-9A-F]{3}[13579BDF]00[0-9A-F]{2}")


class Blocks:
    """The blocks of one data set in the DICOM JSON model, which gets a creator element for each new one."""

    def __init__(self, dataset: MutableMapping[str, Any]) -> None:
        self._dataset = dataset

    def place(self, tag: str, creator: str) -> str:
        """The tag of the element that `creator` calls `tag` (block number 00, or any), in the block reserved for it.

        Raises InvalidInput for a tag that is not private, and where no block is free.
        """
        base = tag[:4] + "00" + tag[6:]
        if _PRIVATE.fullmatch(base) is None:
            raise InvalidInput("a private creator for an element that is not private", about=tag[:64])
        group, mine = tag[:4], {"vr": "LO", "Value": [creator]}
        numbers = [number for number in (int(tag[4:6], 16), *range(0x10, 0x100)) if number >= 0x10]
        for wanted in (mine, None):
            for number in numbers:
                if self._dataset.get(f"{group}00{number:02X}") == wanted:
                    self._dataset[f"{group}00{number:02X}"] = mine
                    return f"{group}{number:02X}{tag[6:]}"
        raise InvalidInput("no block is free for a private creator", about=tag)
