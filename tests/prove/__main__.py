"""`python -m prove [--only NAME,…] [--scale X] [--list]`: the long runs, and their report."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prove import registry


def main() -> int:
    """Run what was asked for; 1 where anything failed."""
    here = Path(__file__).parent
    for module in sorted(path.stem for path in here.glob("*.py") if path.stem not in ("__main__", "registry")):
        import_module(f"prove.{module}")
    parser = argparse.ArgumentParser(prog="make prove", description="The long runs behind the short tests.")
    parser.add_argument("--only", default="", metavar="NAMES", help="names separated by commas; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the full length: 0.1 is a tenth")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument("--no-report", action="store_true", help="leave docs/proofs.md as it is")
    given = parser.parse_args()
    if given.list:
        for each in registry.PROOFS.values():
            print(f"{each.name:18} {each.claim}")
        return 0
    names = [name for name in given.only.split(",") if name] or list(registry.PROOFS)
    unknown = [name for name in names if name not in registry.PROOFS]
    if unknown:
        parser.error(f"no proof named {', '.join(unknown)}; there are: {', '.join(registry.PROOFS)}")
    return 1 if registry.prove(names, given.scale, report=None if given.no_report else registry.REPORT) else 0


sys.exit(main())
