"""The garbage collector of a serving process: what was loaded at the start is looked at once and never again."""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 10_000, 20, 50
"""A data set's metadata is some hundred containers, freed by their counts when it is filed: with Python's default of
700 every third arrival set off a collection that found nothing, a tenth of all CPU."""


def settle() -> None:
    """Leave the modules and tables alone from now on, and look for cycles of others less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
