"""The garbage collector of a serving process: what was loaded at the start is never looked at."""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 10_000, 20, 50
"""A data set's metadata is some hundred containers, freed by their counts when it is filed: with Python's default of
700 every third arrival set off a collection that found nothing, a tenth of all CPU."""


def wait() -> None:
    """Collect nothing while code is loaded: next to nothing of that ends, and to look costs a tenth of the time."""
    gc.disable()


def settle() -> None:
    """Leave the modules and tables alone from now on, and look for cycles of others, less often than is usual.

    After a fork this matters most: a collection writes to every object that it looks at, and so makes a copy of it.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    gc.enable()
