"""The checks, a file for each service; importing this package registers them all."""

from __future__ import annotations

import pkgutil
from importlib import import_module

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")
