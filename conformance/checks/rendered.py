"""WADO-RS: rendered resources and thumbnails, and the parameters of rendering (PS3.18 10.4.1.1.3, 8.3.5): part D."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.check import Level, NotApplicable, NotSupported, check
from conformance.checks.negotiation import rendered
from conformance.client import JSON, Answer
from conformance.codecs import decode
from conformance.context import Context
from conformance.data import Sample

SERVICE = "rendered"
Array = npt.NDArray[Any]


def render(c: Context, sample: Sample, query: str = "", accept: str = "image/png", what: str = "/rendered") -> Answer:
    """The answer for a rendered sample. Raises NotSupported where the server renders nothing at all."""
    rendered(c, "image/jpeg")
    return c.web.get(sample.path + what, query, accept=accept)


def picture(c: Context, answer: Answer, *types: str) -> Array | None:
    """The grey or colour levels of a 200 answer: (rows, columns[, samples]), judged to be an image of these types."""
    if not c.expect_status(answer, 200):
        return None
    if not c.expect("Content-Type " + " or ".join(types), answer.type in types, about=answer):
        return None
    try:
        return decode(answer.body, answer.type)
    except LookupError as error:
        raise NotApplicable(str(error)) from error
    except Exception as error:
        c.expect(f"a readable {answer.type}", False, error, about=answer)
        return None


def grey(image: Array) -> Array:
    """The levels of an image that is grey, as one plane of floats."""
    plane = image.astype(np.float64)
    return plane if plane.ndim == 2 else plane[..., 0] if plane.shape[2] < 3 else plane[..., :3].mean(axis=2)


def bad(c: Context, *queries: str) -> None:
    """Judge that each query is refused by 400."""
    for query in queries:
        c.expect_status(render(c, c.sample("images", "ct"), query), 400)


@check("D33", "PS3.18 8.7.4", "an image as JPEG and as PNG, of its own size", service=SERVICE)
def images(c: Context) -> None:
    for name, shape in (("ct", (16, 20)), ("colour", (16, 16)), ("odd", (5, 5)), ("frames", (12, 10))):
        for kind in ("image/jpeg", "image/png"):
            answer = render(c, c.sample("images", name), accept=kind)
            seen = picture(c, answer, kind)
            if seen is not None:
                c.expect_equal(f"rows and columns of {name}", seen.shape[:2], shape, about=answer)


@check("D34", "PS3.18 8.7.4", "an image as GIF and as JPEG 2000, or 406", Level.CONDITIONAL, service=SERVICE)
def other_types(c: Context) -> None:
    for kind, mark in (("image/gif", b"GIF8"), ("image/jp2", b"\0\0\0\x0cjP")):
        answer = render(c, c.sample("images", "ct"), accept=kind)
        if c.expect_status(answer, 200, 406) and answer.status == 200:
            c.expect(f"a file of {kind}", answer.body.startswith(mark), answer.body[:8], about=answer)


@check("D35", "PS3.18 8.7.4", "a rendering as DICOM JSON: 406", service=SERVICE)
def not_dicom(c: Context) -> None:
    c.expect_status(render(c, c.sample("images", "ct"), accept=JSON), 406)


@check("D36", "PS3.18 10.4.1.1.3", "a rendered frame is that frame", service=SERVICE)
def frame(c: Context) -> None:
    sample = c.sample("images", "frames")
    assert sample.pixels is not None
    answers = [render(c, sample, "window=128,256,linear", what=f"/frames/{n}/rendered") for n in (1, 2, 3)]
    seen = [picture(c, answer, "image/png") for answer in answers]
    for answer, image, pixels in zip(answers, seen, sample.pixels, strict=True):
        if image is None:
            continue
        plane = grey(image)
        distance = [float(np.abs(plane - other).mean()) for other in sample.pixels.astype(np.float64)]
        nearest = distance.index(min(distance))
        c.expect("nearest to its own frame", np.array_equal(sample.pixels[nearest], pixels), distance, about=answer)


@check("D37", "PS3.18 10.4.1.1.3", "a series and a study rendered", Level.CONDITIONAL, service=SERVICE)
def whole(c: Context) -> None:
    sample = c.sample("query", "alpha/CT/1")
    for path in (sample.series_path, sample.study_path):
        answer = c.web.get(path + "/rendered", accept='image/jpeg, multipart/related; type="image/jpeg", */*;q=0.1')
        if answer.status in (404, 405, 406, 501):
            raise NotSupported(f"{answer.status} for {path}/rendered")
        if c.expect_status(answer, 200, 406):
            found = answer.parts() if answer.type == "multipart/related" else []
            c.expect("rendered parts, or a single representation", found or answer.type, about=answer)


@check("D38", "PS3.18 8.7.4", "a structured report as text/html, with its text", Level.CONDITIONAL, service=SERVICE)
def report(c: Context) -> None:
    answer = render(c, c.sample("images", "report"), accept="text/html, */*;q=0.1")
    if answer.status in (406, 404, 501):
        raise NotSupported(f"{answer.status} for a rendered report")
    if c.expect_status(answer, 200, 406):
        c.expect("a text type", answer.type in ("text/html", "text/xml", "text/plain", "text/rtf", "application/pdf"),
                 about=answer)  # fmt: skip
        if answer.type.startswith("text/"):
            text = b"Nothing but a conformance test."
            c.expect("the text of the content item", text in answer.body, answer.body[:300], about=answer)


@check("D39", "PS3.18 8.7.4", "an encapsulated PDF as application/pdf", Level.CONDITIONAL, service=SERVICE)
def pdf(c: Context) -> None:
    sample = c.sample("images", "pdf")
    answer = render(c, sample, accept="application/pdf")
    if answer.status in (406, 404, 501):
        raise NotSupported(f"{answer.status} for a rendered PDF")
    if c.expect_status(answer, 200, 406):
        c.expect_equal("Content-Type", answer.type, "application/pdf", about=answer)
        wanted = bytes(sample.dataset.EncapsulatedDocument)
        c.expect("the document", answer.body.rstrip() == wanted.rstrip(), len(answer.body), about=answer)


@check("D40", "PS3.18 8.3.5.1.2", "quality from 1 to 100 is honoured; anything else is 400", service=SERVICE)
def quality(c: Context) -> None:
    bad(c, "quality=0", "quality=101", "quality=x")
    low, high = (render(c, c.sample("images", "large"), f"quality={q}", "image/jpeg") for q in (1, 100))
    c.expect_status(low, 200)
    c.expect("quality 1 takes fewer bytes than quality 100", len(low.body) < len(high.body),
             (len(low.body), len(high.body)), about=high)  # fmt: skip


@check("D41", "PS3.18 8.3.5.1.3", "viewport: the image fits into it", service=SERVICE)
def viewport(c: Context) -> None:
    for name, own in (("large", (256, 256)), ("ct", (16, 20))):
        answer = render(c, c.sample("images", name), "viewport=64,64")
        seen = picture(c, answer, "image/png")
        if seen is not None:
            rows, columns = seen.shape[:2]
            # Whether a small image grows, and whether the rest of the viewport is padded, is the server's choice.
            fits = max(rows, columns) == 64 or (own == (16, 20) and (rows, columns) == own)
            c.expect("within 64 rows and columns, one of them full", fits, (rows, columns), about=answer)
    bad(c, "viewport=a,b", "viewport=64")


@check("D42", "PS3.18 8.3.5.1.3", "viewport with a source region shows that region", Level.CONDITIONAL, service=SERVICE)
def region(c: Context) -> None:
    sample = c.sample("images", "large")
    assert sample.pixels is not None
    whole = picture(c, render(c, sample, "window=2048,4096,linear"), "image/png")
    answer = render(c, sample, "viewport=64,64,128,128,64,64&window=2048,4096,linear")
    if answer.status in (400, 406, 501):
        raise NotSupported(f"{answer.status} for a source region")
    part = picture(c, answer, "image/png")
    if part is not None and whole is not None:
        c.expect_equal("rows and columns", part.shape[:2], (64, 64), about=answer)
        if part.shape[:2] == (64, 64):
            off = float(np.abs(grey(part) - grey(whole)[128:192, 128:192]).mean())
            c.expect("the pixels from (128, 128), within 3 levels", off < 3, off, about=answer)


@check("D43", "PS3.18 8.3.5.1.4", "window: centre, width and function; anything else is 400", service=SERVICE)
def window(c: Context) -> None:
    bad(c, "window=a,b", "window=40", "window=40,400,cubic")
    sample = c.sample("images", "ct")
    dark, bright = (picture(c, render(c, sample, f"window={w},linear"), "image/png") for w in ("1400,200", "-900,200"))
    if dark is not None and bright is not None:
        c.expect("a window above most values is darker than one below", grey(dark).mean() + 50 < grey(bright).mean(),
                 (grey(dark).mean(), grey(bright).mean()), about=f"GET {sample.path}/rendered?window=…")  # fmt: skip
    for function in ("linear", "linear-exact", "sigmoid", "LINEAR"):
        c.expect_status(render(c, sample, f"window=40,400,{function}"), 200, *((400,) if function == "LINEAR" else ()))


@check("D43w", "PS3.3 C.11.2.1.2", "a window without width is refused", Level.ROBUSTNESS, service=SERVICE)
def no_width(c: Context) -> None:
    bad(c, "window=40,0,linear")


@check("D44", "PS3.18 8.3.5.1.1", "annotation changes the picture; without it nothing is burned in", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def annotation(c: Context) -> None:
    sample = c.sample("images", "large")
    assert sample.pixels is not None
    asked = "window=2048,4096,linear"
    bare = render(c, sample, asked)
    plain = picture(c, bare, "image/png")
    answer = render(c, sample, f"{asked}&annotation=patient,technique")
    noted = picture(c, answer, "image/png")
    if plain is None or noted is None:
        return
    wanted = np.clip(((sample.pixels[0].astype(np.float64) - 2047.5) / 4095 + 0.5) * 255, 0, 255)
    same = plain.shape[:2] == wanted.shape and float(np.abs(grey(plain) - wanted).max()) <= 3
    c.expect("nothing but the image without the parameter, within 3 levels", same, about=bare)
    if plain.shape == noted.shape and np.array_equal(plain, noted):
        raise NotSupported("annotation changes nothing")
    rest = float((grey(plain) == grey(noted)).mean()) if plain.shape == noted.shape else 0.0
    c.expect("words over the image, most of which stays as it is", rest > 0.5, f"{rest:.0%} the same", about=answer)


@check("D45", "PS3.18 8.3.5.1.1", "an unknown annotation does no harm", Level.ROBUSTNESS, service=SERVICE)
def unknown_annotation(c: Context) -> None:
    c.expect_status(render(c, c.sample("images", "ct"), "annotation=nonsense"), 200, 400)


@check("D46", "PS3.18 8.3.5.1.5", "iccprofile: embedded as asked, refused where unknown", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def iccprofile(c: Context) -> None:
    sample = c.sample("images", "colour")
    marks = {
        name: b"ICC_PROFILE" in render(c, sample, f"iccprofile={name}", "image/jpeg").body for name in ("no", "srgb")
    }
    if not marks["srgb"]:
        raise NotSupported("no profile is embedded for iccprofile=srgb")
    c.expect("no profile for iccprofile=no", not marks["no"], marks, about=f"GET {sample.path}/rendered?iccprofile=no")


@check("D47", "PS3.3 C.7.6.3.1.2", "MONOCHROME2 grows brighter with the value, MONOCHROME1 darker", service=SERVICE)
def monochrome(c: Context) -> None:
    for name, sign in (("implicit", 1), ("signed12", 1), ("monochrome1", -1)):
        sample = c.sample("images", name)
        assert sample.pixels is not None
        answer = render(c, sample)
        seen = picture(c, answer, "image/png")
        if seen is None or seen.shape[:2] != sample.pixels[0].shape:
            continue
        order = np.argsort(sample.pixels[0], axis=None, kind="stable")
        steps = np.diff(grey(seen).ravel()[order]) * sign
        c.expect("levels follow the values", steps.min() >= -1 and steps.max() > 0, float(steps.min()), about=answer)


@check("D47w", "PS3.3 C.11.2.1.2", "a linear window gives the levels of the formula, within 2", Level.ROBUSTNESS,
       service=SERVICE)  # fmt: skip
def levels(c: Context) -> None:
    sample = c.sample("images", "ct")
    assert sample.pixels is not None
    x = sample.pixels[0].astype(np.float64)
    for centre, width in ((40.0, 400.0), (0.0, 2000.0)):
        answer = render(c, sample, f"window={centre:g},{width:g},linear")
        seen = picture(c, answer, "image/png")
        if seen is not None and seen.shape[:2] == x.shape:
            wanted = np.clip(((x - (centre - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
            off = float(np.abs(grey(seen) - wanted).max())
            c.expect("every level within 2 of the formula", off <= 2, off, about=answer)


@check("D48", "PS3.18 10.4.1.1.3", "a presentation state rendered is its image, windowed as it says", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def presentation_states(c: Context) -> None:
    seen = {}
    for name in ("dark", "bright"):
        answer = render(c, c.sample("states", name), accept="image/png")
        if answer.status in (404, 406, 415, 501):
            raise NotSupported(f"{answer.status} for a rendered presentation state")
        seen[name] = picture(c, answer, "image/png")
        if seen[name] is None:
            return
    dark, bright = (float(grey(image).mean()) for image in seen.values() if image is not None)
    c.expect("the state with the higher window is darker", dark + 50 < bright, (dark, bright),
             about=f"GET {c.sample('states', 'dark').path}/rendered")  # fmt: skip


@check("D49", "PS3.18 10.4.1.1.4", "thumbnails of study, series, instance and frame", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def thumbnails(c: Context) -> None:
    sample = c.sample("images", "frames")
    if c.web.get(sample.path + "/thumbnail", accept="image/jpeg").status in (404, 405, 501):
        raise NotSupported("GET …/thumbnail is not there")
    report = c.sample("images", "report")
    for path in (sample.study_path, sample.series_path, sample.path, sample.path + "/frames/2", report.path):
        answer = c.web.get(path + "/thumbnail", accept="image/jpeg")
        if c.expect_status(answer, 200, *((404, 406) if path == report.path else ())) and answer.status == 200:
            c.expect("a JPEG", answer.type == "image/jpeg" and answer.body[:2] == b"\xff\xd8", about=answer)
