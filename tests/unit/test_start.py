"""What a server has to load before its doors open: libraries that compute or encode stay out until they are needed."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("pydicom", "highdicom", "pynetdicom", "scipy", "boto3", "skimage", "sklearn")


def test_doors_open_without_what_only_few_requests_need() -> None:
    code = f"""
import sys
import pacs.server.processes, pacs.dimse.acceptor
from analysis.registry import Registry
assert Registry.load().ids
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.strip() == "[]"
