"""A reader at the viewer: a page, what went wrong on it, and how to look at what it shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Locator, Page

Pixels = npt.NDArray[np.uint8]


@dataclass
class Visitor:
    """A page, what went wrong on it, and how to look at it."""

    page: Page
    home: str
    problems: list[str] = field(default_factory=list)

    def open(self, hash_: str) -> Page:
        """Go to a place of the viewer."""
        self.page.goto(f"{self.home}/{hash_}")
        return self.page

    def study(self, study_instance_uid: str) -> Page:
        """Open a study and wait for its first image."""
        self.open(f"#/study/{study_instance_uid}")
        self.page.wait_for_selector(".pane[data-rendered]", timeout=60_000)
        self.settle()
        return self.page

    def settle(self, selector: str = ".pane", pause_ms: int = 400) -> None:
        """Wait until nothing was drawn for `pause_ms`."""
        before = None
        while True:
            now = self.page.eval_on_selector_all(selector, "all => all.map(e => e.dataset.rendered).join()")
            if now == before:
                return
            before = now
            self.page.wait_for_timeout(pause_ms)

    def see(self, what: Locator | str) -> Pixels:
        """What is drawn there: (rows, columns, 3), sRGB."""
        locator = self.page.locator(what) if isinstance(what, str) else what
        with Image.open(io.BytesIO(locator.first.screenshot())) as image:
            return np.asarray(image.convert("RGB"))


Visit = Callable[..., Visitor]


def store(client: httpx.Client, *files: bytes) -> None:
    """File Part 10 bytes over STOW-RS, one request."""
    body = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files) + b"--x--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=x'
    answer = client.post("/studies", content=body, headers={"Content-Type": kind, "Accept": "application/dicom+json"})
    assert answer.status_code == 200, answer.text
