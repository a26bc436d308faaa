"""The digest of stored content: BLAKE3 with 256 bits, see docs/adr/0004-blake3.md. Other digests are SHA-256."""

from __future__ import annotations

from blake3 import blake3 as Digest

__all__ = ["Digest"]
