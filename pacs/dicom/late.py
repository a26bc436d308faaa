"""Owns libraries that a server loads only when somebody asks for a picture: with the first use of a name of theirs.

`from pacs.dicom.late import numpy as np` stands for `import numpy as np` in modules that every server loads and few
requests need. NumPy alone is a ninth of the memory of a server that has just started.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import imagecodecs as imagecodecs
    import numpy as numpy
else:

    class _Late:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            found = getattr(import_module(self._name), attribute)
            setattr(self, attribute, found)  # from now on it is found without coming here
            return found

    imagecodecs = _Late("imagecodecs")
    numpy = _Late("numpy")


def load() -> None:
    """Load them now: for a process that does nothing else."""
    for name in ("numpy", "imagecodecs"):
        import_module(name)
