"""Rendered resources over HTTP: pictures, presentation states, reports, documents, video, thumbnails."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Iterator
from typing import Any

import dicom_data
import httpx
import numpy as np
import pytest
from dicomweb_server import Web, parts, serving
from PIL import Image, ImageCms
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG4HP41, ExplicitVRLittleEndian

from pacs import uids
from pacs.dicom import icc

GSPS, PDF, CDA, OBJ = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("11.1", "104.1", "104.2", "104.4"))
REPORT, ENHANCED = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.2.1"
REPRESENTATIVE = "RepresentativeFrameNumber"
NO_PIXELS = dict.fromkeys(
    [
        "PixelData",
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "RescaleIntercept",
        "RescaleSlope",
        "RescaleType",
        "WindowCenter",
        "WindowWidth",
        "PixelSpacing",
        "SliceThickness",
        "ImagePositionPatient",
        "ImageOrientationPatient",
    ]
)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("rendered")) as web:
        yield web


def named(name: str, **attributes: Any) -> Dataset:
    """One instance in a study of its own."""
    own = {
        "SOPInstanceUID": uids.derived(name, "i"),
        "SeriesInstanceUID": uids.derived(name, "r"),
        "StudyInstanceUID": uids.derived(name, "s"),
    }
    return dicom_data.image(0, **(own | attributes))


def path(ds: Dataset) -> str:
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def stored(web: Web, *instances: Dataset) -> str:
    """The path of the first of them."""
    answer = web.store(*instances)
    assert answer.status_code == 200, answer.text
    return path(instances[0])


def opened(answer: httpx.Response, media_type: str) -> Image.Image:
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type), answer.text[:300]
    return Image.open(io.BytesIO(answer.content))


def png(web: Web, where: str, **params: Any) -> np.ndarray[Any, Any]:
    return np.asarray(opened(web.get(where, "image/png", params=params), "image/png")).astype(int)


def ramp(name: str, **attributes: Any) -> Dataset:
    """64 by 64 pixels from 0 to 4095, shown as 0 to 255 by its own window."""
    values = np.arange(4096, dtype="<u2").tobytes()
    shown = {"Rows": 64, "Columns": 64, "RescaleIntercept": 0, "WindowCenter": 2048, "WindowWidth": 4096}
    return named(name, **(shown | {"PixelData": values} | attributes))


GRAY = (np.arange(4096) / 4095 * 255).reshape(64, 64)


def test_media_types(web: Web) -> None:
    where = stored(web, ramp("types")) + "/rendered"
    for media_type, form in (
        ("image/png", "PNG"),
        ("image/gif", "GIF"),
        ("image/jpeg", "JPEG"),
        ("image/jp2", "JPEG2000"),
    ):
        image = opened(web.get(where, media_type), media_type)
        assert (image.format, image.size) == (form, (64, 64))
        assert np.abs(np.asarray(image.convert("L")).astype(int) - GRAY).max() <= (1 if form in ("PNG", "GIF") else 16)
    assert opened(web.get(where), "image/jpeg").format == "JPEG"
    lossless = opened(web.get(where, "image/jp2", params={"quality": 100}), "image/jp2")
    assert np.abs(np.asarray(lossless).astype(int) - GRAY).max() <= 1


def test_tables_and_overlays_that_are_bulk_data(web: Web) -> None:
    """Longer than what is held inline: they are fetched for the picture (PS3.3 C.11.2, C.7.6.3.1.5, C.9.2)."""
    voi = Dataset()
    voi.LUTDescriptor, voi.LUTData = [4096, 0, 16], np.arange(4096)[::-1].astype("<u2").tobytes()
    voi["LUTDescriptor"].VR, voi["LUTData"].VR = "US", "OW"
    voi.LUTData = (np.arange(4096)[::-1] * 16).astype("<u2").tobytes()
    ds = ramp("voi table", VOILUTSequence=[voi])
    overlay = np.zeros((64, 64), np.uint8)
    overlay[10:20, 30:50] = 1
    ds.add_new(0x60000010, "US", 64)
    ds.add_new(0x60000011, "US", 64)
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [3, 2])
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60003000, "OW", np.packbits(overlay.ravel(), bitorder="little").tobytes() * 4)
    where = stored(web, ds)
    shown = png(web, where + "/rendered")
    expected = (np.arange(4096)[::-1] * 16 / 65535 * 255).reshape(64, 64)
    expected[12:22, 31:51] = 255
    assert np.abs(shown - expected).max() <= 1
    # Nothing lies over a thumbnail.
    assert png(web, where + "/thumbnail", viewport="64,64")[15, 40] != 255
    colours = np.random.default_rng(2).integers(0, 65536, (3, 65536)).astype("<u2")
    palette = named(
        "palette", Rows=256, Columns=256, PhotometricInterpretation="PALETTE COLOR", BitsStored=16, HighBit=15,
        PixelData=np.arange(65536, dtype="<u2").tobytes(), WindowCenter=None, WindowWidth=None,
    )  # fmt: skip
    for keyword, entries in zip(("Red", "Green", "Blue"), colours, strict=True):
        palette.add_new(f"{keyword}PaletteColorLookupTableDescriptor", "US", [0, 0, 16])
        palette.add_new(f"{keyword}PaletteColorLookupTableData", "OW", entries.tobytes())
    shown = png(web, stored(web, palette) + "/rendered")
    np.testing.assert_array_equal(shown.reshape(-1, 3), (colours >> 8).T)


def test_annotations(web: Web) -> None:
    where = stored(web, ramp("words", Rows=64, Columns=64, PixelData=bytes(8192), KVP=120)) + "/rendered"
    bare = png(web, where, viewport="400,400")
    patient, technique, both = (
        png(web, where, viewport="400,400", annotation=words) for words in ("patient", "technique", "technique,patient")
    )
    assert not bare.any()
    assert patient[:150].any()
    assert not patient[250:].any()
    assert technique[250:].any()
    assert not technique[:150].any()
    assert both[:150].any() and both[250:].any()  # noqa: PT018
    warned = web.get(where, params={"annotation": "hat-size,patient"})
    assert "hat-size" in warned.headers["warning"]
    assert "warning" not in web.get(where, params={"annotation": "patient"}).headers


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png"])
@pytest.mark.parametrize("space", icc.SPACES)
def test_profiles_name_the_colours_they_are_in(web: Web, media_type: str, space: str) -> None:
    rgb = np.random.default_rng(3).integers(60, 200, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    ds = named("colours", Rows=64, Columns=64, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8,
               BitsStored=8, HighBit=7, PlanarConfiguration=0, PixelData=rgb.tobytes(), WindowCenter=None,
               WindowWidth=None, RescaleIntercept=None, RescaleSlope=None, RescaleType=None)  # fmt: skip
    where = stored(web, ds) + "/rendered"
    answer = web.get(where, media_type, params={"iccprofile": space, "quality": 100})
    image = opened(answer, media_type)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    back = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), renderingIntent=1)
    assert back is not None
    assert np.abs(np.asarray(back).astype(int) - rgb)[4::8, 4::8].max() <= (3 if media_type == "image/png" else 12)
    assert "icc_profile" not in opened(web.get(where, media_type), media_type).info
    assert "icc_profile" not in opened(web.get(where, media_type, params={"iccprofile": "no"}), media_type).info
    assert opened(web.get(where, media_type, params={"iccprofile": "yes"}), media_type).info["icc_profile"]


def test_an_images_own_profile(web: Web) -> None:
    own = icc.profile("adobergb")
    rgb = np.full((8, 8, 3), (30, 200, 90), np.uint8)
    ds = named("own profile", Rows=8, Columns=8, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8,
               BitsStored=8, HighBit=7, PlanarConfiguration=0, PixelData=rgb.tobytes(), ICCProfile=own)  # fmt: skip
    where = stored(web, ds) + "/rendered"
    kept = opened(web.get(where, "image/png", params={"iccprofile": "yes"}), "image/png")
    assert kept.info["icc_profile"].rstrip(b"\0") == own.rstrip(b"\0")
    np.testing.assert_array_equal(np.asarray(kept), rgb)
    turned = png(web, where, iccprofile="srgb")[0, 0]
    reference = ImageCms.profileToProfile(
        Image.fromarray(rgb),
        ImageCms.ImageCmsProfile(io.BytesIO(own)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=1,
    )
    assert np.abs(turned - np.asarray(reference)[0, 0]).max() <= 2
    assert web.get(where, params={"iccprofile": "cmyk"}).status_code == 400
    assert "profile" in web.get(where, "image/gif", params={"iccprofile": "yes"}).headers["warning"]


def multiframe(name: str, count: int = 5) -> Dataset:
    """Frames of one value each, with a window of their own in their functional groups."""
    frames = np.stack([np.full((16, 12), 400 * number, "<u2") for number in range(count)])
    groups = []
    for number in range(count):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = 400 * number - 1024, 2 if number % 2 else 4096
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    return named(name, SOPClassUID=ENHANCED, NumberOfFrames=count, PixelData=frames.tobytes(), WindowCenter=None,
                 WindowWidth=None, PerFrameFunctionalGroupsSequence=groups, FrameTime=250)  # fmt: skip


def test_every_frame_by_itself_as_parts_and_as_animation(web: Web) -> None:
    where = stored(web, multiframe("frames"))
    single = [web.get(f"{where}/frames/{n}/rendered", "image/png").content for n in range(1, 6)]
    levels = [int(np.asarray(Image.open(io.BytesIO(each)))[0, 0]) for each in single]
    assert levels == [128, 255, 128, 255, 128]
    every = parts(web.get(f"{where}/rendered", 'multipart/related; type="image/png"'))
    assert [content for _, content in every] == single
    assert {headers["content-type"] for headers, _ in every} == {"image/png"}
    some = parts(web.get(f"{where}/frames/4,2/rendered", 'multipart/related; type="image/png"'))
    assert [content for _, content in some] == [single[3], single[1]]
    moving = opened(web.get(f"{where}/rendered", "image/gif"), "image/gif")
    assert moving.n_frames == 5  # type: ignore[attr-defined]
    seen = []
    for number in range(5):
        moving.seek(number)
        assert moving.info["duration"] == 250
        seen.append(int(np.asarray(moving.convert("L"))[0, 0]))
    assert seen == levels
    assert opened(web.get(f"{where}/frames/2/rendered", "image/gif"), "image/gif").n_frames == 1  # type: ignore[attr-defined]


def test_every_image_of_a_series_as_parts(web: Web) -> None:
    slices = [ramp("series", InstanceNumber=n + 1, SOPInstanceUID=uids.derived("series", n)) for n in range(3)]
    for number, ds in enumerate(slices):
        ds.WindowCenter = 1000 * number
    stored(web, *slices)
    series = path(slices[0]).partition("/instances")[0]
    every = parts(web.get(f"{series}/rendered", "multipart/related; type=image/png"))
    assert [content for _, content in every] == [web.get(path(ds) + "/rendered", "image/png").content for ds in slices]
    study = series.partition("/series")[0]
    assert len(parts(web.get(f"{study}/rendered", "multipart/related; type=image/jpeg"))) == 3


@pytest.mark.parametrize(("said", "shown"), [({}, 3), ({REPRESENTATIVE: 1}, 1), ({REPRESENTATIVE: 5}, 5),
                                             ({REPRESENTATIVE: 0}, 3), ({REPRESENTATIVE: 9}, 3)])  # fmt: skip
def test_the_representative_frame_stands_for_an_image(web: Web, said: dict[str, int], shown: int) -> None:
    """As its maker says (PS3.3 C.7.6.9), else the middle one: the first of a volume is often black."""
    grey = np.stack([np.full((64, 64), 800 * number, "<u2") for number in range(5)])
    where = stored(
        web, ramp(f"volume {said}", SOPClassUID=ENHANCED, NumberOfFrames=5, PixelData=grey.tobytes(), **said)
    )
    for below in ("rendered", "thumbnail"):
        frame = opened(web.get(f"{where}/frames/{shown}/{below}", "image/png"), "image/png").tobytes()
        for base in (where, where.partition("/instances")[0], where.partition("/series")[0]):
            picture = opened(web.get(f"{base}/{below}", "image/png"), "image/png")
            assert abs(int(np.asarray(picture)[5, 5]) - 800 * (shown - 1) / 4095 * 255) <= 1, (base, below)
            assert picture.tobytes() == frame


def test_pictures_leave_as_they_are_made(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked for many has the first of them while the last are not even begun."""
    slices = [ramp("many", InstanceNumber=n + 1, SOPInstanceUID=uids.derived("many", n)) for n in range(30)]
    stored(web, *slices)
    arrived, drawn = threading.Event(), 0
    render = web.archive.decoding.render

    def waiting(*arguments: Any, **options: Any) -> bytes:
        nonlocal drawn
        drawn += 1
        if drawn == 25:
            assert arrived.wait(60), "nothing arrived before the 25th picture was drawn"
        return render(*arguments, **options)

    monkeypatch.setattr(web.archive.decoding, "render", waiting)
    series = path(slices[0]).partition("/instances")[0]
    received = b""
    headers = {"Accept": "multipart/related; type=image/jpeg"}
    with web.client.stream("GET", f"{series}/rendered", headers=headers) as answer:
        for piece in answer.iter_raw():
            received += piece
            if received.count(b"/rendered\r\n") >= 20:  # those made ahead, and some more
                arrived.set()
    assert (drawn, received.count(b"/rendered\r\n"), received.count(b"\xff\xd8\xff")) == (30, 30, 30)


@pytest.mark.parametrize("level", ["", "/instances", "/series", "/frames"])
def test_thumbnails_at_every_level(web: Web, level: str) -> None:
    where = stored(web, ramp("thumbnail", Rows=256, Columns=16))
    base = {"": where, "/instances": where.partition("/instances")[0], "/series": where.partition("/series")[0]}.get(
        level, where + "/frames/1"
    )
    small = opened(web.get(base + "/thumbnail"), "image/jpeg")
    assert small.size == (8, 128)
    assert opened(web.get(base + "/thumbnail", "image/png", params={"viewport": "32,32"}), "image/png").size == (2, 32)
    assert web.get(base + "/thumbnail", "text/html").status_code == 406
    assert web.get(where + "/frames/2/thumbnail").status_code == 404


def state(image: Dataset, **attributes: Any) -> Dataset:
    """A presentation state of one image."""
    ds = named("state of " + str(image.SOPInstanceUID), **NO_PIXELS)
    ds.SOPClassUID, ds.Modality = GSPS, "PR"
    ds.StudyInstanceUID = image.StudyInstanceUID
    ds.SOPInstanceUID = uids.derived("state", str(image.SOPInstanceUID), *map(str, attributes.values()))
    reference, series, voi, area = Dataset(), Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedImageSequence = image.SeriesInstanceUID, [reference]
    voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = 2048, 4096, "LINEAR"
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [64, 64]
    area.PresentationSizeMode, area.PresentationPixelSpacing = "SCALE TO FIT", [1, 1]
    ds.ReferencedSeriesSequence, ds.SoftcopyVOILUTSequence, ds.DisplayedAreaSelectionSequence = [series], [voi], [area]
    ds.PresentationLUTShape, ds.ImageRotation, ds.ImageHorizontalFlip = "IDENTITY", 0, "N"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def test_a_state_presents_its_image(web: Web) -> None:
    image = ramp("presented", WindowCenter=5, WindowWidth=10)
    stored(web, image)

    def shown(**attributes: Any) -> np.ndarray[Any, Any]:
        return png(web, stored(web, state(image, **attributes)) + "/rendered")

    assert np.abs(shown() - GRAY).max() <= 1
    assert np.abs(shown(PresentationLUTShape="INVERSE") - (255 - GRAY)).max() <= 1
    # Rotation is clockwise and comes before the flip (PS3.3 C.10.6).
    assert np.abs(shown(ImageRotation=90) - np.rot90(GRAY, -1)).max() <= 1
    assert np.abs(shown(ImageRotation=90, ImageHorizontalFlip="Y") - np.rot90(GRAY, -1)[:, ::-1]).max() <= 1
    steep = Dataset()
    steep.WindowCenter, steep.WindowWidth = 1000, 100
    expected = np.clip(((np.arange(4096) - 999.5) / 99 + 0.5) * 255, 0, 255).reshape(64, 64)
    assert np.abs(shown(SoftcopyVOILUTSequence=[steep]) - expected).max() <= 1
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [256, 0, 10])
    lut.add_new("LUTData", "OW", (np.arange(256) ** 2 // 64).astype("<u2").tobytes())
    curve = (np.rint(GRAY) ** 2 // 64) / 1023 * 255
    # The table has 256 steps for what are 4096 here: its steepest is two levels high.
    assert np.abs(shown(PresentationLUTSequence=[lut], PresentationLUTShape=None) - curve).max() <= 2
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [-7, 11], [32, 42]
    area.PresentationSizeMode, area.PresentationPixelSpacing = "SCALE TO FIT", [1, 1]
    part = shown(DisplayedAreaSelectionSequence=[area])
    assert part.shape == (32, 40)
    assert np.abs(part[:, 8:] - GRAY[10:42, :32]).max() <= 1
    assert not part[:, :8].any()
    round_ = shown(ShutterShape="CIRCULAR", CenterOfCircularShutter=[32, 32], RadiusOfCircularShutter=20,
                   ShutterPresentationValue=0x8000)  # fmt: skip
    assert round_[0, 0] == 128
    assert abs(round_[32, 32] - GRAY[32, 32]) <= 1
    assert np.abs(shown(SoftcopyVOILUTSequence=None) - GRAY).max() <= 1


def plane(ds: Dataset, group: int, rows: slice) -> None:
    """An overlay plane that covers some rows of an image of 64 by 64 (PS3.3 C.9.2)."""
    mask = np.zeros((64, 64), np.uint8)
    mask[rows] = 1
    for element, vr, value in (
        (0x10, "US", 64), (0x11, "US", 64), (0x40, "CS", "G"), (0x50, "SS", [1, 1]), (0x100, "US", 1), (0x102, "US", 0),
        (0x3000, "OW", np.packbits(mask.ravel(), bitorder="little").tobytes()),
    ):  # fmt: skip
        ds.add_new(group << 16 | element, vr, value)


def test_a_state_shows_the_overlays_that_it_activates(web: Web) -> None:
    image = ramp("overlaid", PixelData=bytes(8192))
    plane(image, 0x6000, np.s_[0:4])
    plane(image, 0x6002, np.s_[10:14])
    plane(image, 0x6004, np.s_[20:24])
    assert png(web, stored(web, image) + "/rendered")[:24].max(axis=1).astype(bool).sum() == 12

    def rows(name: str, *layers: tuple[int, str], own: bool = False) -> list[int]:
        ds = state(image, ContentLabel=name)
        for group, layer in layers:
            ds.add_new(group << 16 | 0x1001, "CS", layer)
        if own:
            plane(ds, 0x6004, np.s_[40:44])
        return list(np.flatnonzero(png(web, stored(web, ds) + "/rendered").min(axis=1) == 255))

    assert rows("NONE") == []
    assert rows("SECOND", (0x6000, ""), (0x6002, "LAYER")) == [10, 11, 12, 13]
    # A plane of the state's own takes the place of the image's of the same group.
    assert rows("OWN", (0x6002, "LAYER"), (0x6004, "LAYER"), own=True) == [10, 11, 12, 13, 40, 41, 42, 43]


def test_graphics_of_a_state(web: Web) -> None:
    image = ramp("graphics", PixelData=bytes(8192))
    stored(web, image)
    line, words, layer = Dataset(), Dataset(), Dataset()
    line.GraphicAnnotationUnits, line.GraphicDimensions, line.NumberOfGraphicPoints = "PIXEL", 2, 5
    line.GraphicData, line.GraphicType, line.GraphicFilled = [10, 10, 30, 10, 30, 20, 10, 20, 10, 10], "POLYLINE", "Y"
    words.UnformattedTextValue, words.BoundingBoxAnnotationUnits = "XXXX", "DISPLAY"
    words.BoundingBoxTopLeftHandCorner, words.BoundingBoxBottomRightHandCorner = [0.1, 0.6], [0.9, 0.9]
    words.BoundingBoxTextHorizontalJustification = "LEFT"
    layer.GraphicLayer, layer.GraphicObjectSequence, layer.TextObjectSequence = "A", [line], [words]
    where = stored(web, state(image, GraphicAnnotationSequence=[layer])) + "/rendered"
    shown = png(web, where)
    assert (shown[12:19, 12:29] == 255).all()
    assert not shown[25:36].any()
    assert shown[38:].max() > 100
    twice = png(web, where, viewport="128,128")
    assert twice.shape == (128, 128)
    assert (twice[24:38, 24:58] == 255).all()
    words.UnformattedTextValue = "X"
    columns = {}
    for side in ("LEFT", "CENTER", "RIGHT"):  # PS3.3 C.10.5: within its bounding box
        words.BoundingBoxTextHorizontalJustification = side
        drawn = png(web, stored(web, state(image, GraphicAnnotationSequence=[layer])) + "/rendered")[38:]
        columns[side] = np.flatnonzero(drawn.max(axis=0) > 100).mean()
    assert columns["LEFT"] < 16 < 24 < columns["CENTER"] < 40 < 48 < columns["RIGHT"]


def test_what_a_state_rules_out(web: Web) -> None:
    image = ramp("ruled out")
    where = stored(web, state(image))
    assert web.get(where + "/rendered").status_code == 404  # its image is not here
    stored(web, image)
    assert web.get(where + "/rendered").status_code == 200
    for query in ("window=1,2", "viewport=10,10,0,0,5,5"):
        assert web.client.get(f"{where}/rendered?{query}").status_code == 400
    assert len(parts(web.get(where + "/rendered", "multipart/related; type=image/png"))) == 1
    assert opened(web.get(where + "/thumbnail"), "image/jpeg").size == (128, 128)


def item(relationship: str, kind: str, name: str, **values: Any) -> Dataset:
    ds, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99TEST", name
    ds.RelationshipType, ds.ValueType, ds.ConceptNameCodeSequence = relationship, kind, [code]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def test_reports(web: Web) -> None:
    unit, measured, coded, reference = Dataset(), Dataset(), Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mm", "UCUM", "millimeter"
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "12.5", [unit]
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = "T-1", "SRT", "Lunge & Pleura"
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = ENHANCED, "1.2.3.4.5"
    ds = named("report", **NO_PIXELS)
    ds.SOPClassUID, ds.Modality = REPORT, "SR"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "1", "99TEST", "Befund <b>"
    ds.ValueType, ds.ContinuityOfContent, ds.ConceptNameCodeSequence = "CONTAINER", "SEPARATE", [title]
    ds.PatientName = "Müller^Jürgen"
    finding = item("CONTAINS", "CONTAINER", "Findings", ContinuityOfContent="SEPARATE")
    finding.ContentSequence = [
        item("CONTAINS", "TEXT", "Text", TextValue="<script>alert(1)</script>\nsecond line"),
        item("CONTAINS", "NUM", "Diameter", MeasuredValueSequence=[measured]),
        item("CONTAINS", "CODE", "Site", ConceptCodeSequence=[coded]),
        item("CONTAINS", "IMAGE", "Image", ReferencedSOPSequence=[reference]),
        item("HAS OBS CONTEXT", "PNAME", "Observer", PersonName="Reader^Ruth"),
        item("CONTAINS", "DATETIME", "When", DateTime="20260102030405"),
        item("CONTAINS", "DATE", "Day", Date="20260103"),
        item("CONTAINS", "UIDREF", "Tracking", UID="1.2.99"),
        item("CONTAINS", "SCOORD", "Where", GraphicType="POINT", GraphicData=[1.5, 2.5]),
    ]
    ds.ContentSequence = [finding]
    where = stored(web, ds)
    page = web.get(where + "/rendered")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox" in page.headers["content-security-policy"]
    text = web.get(where + "/rendered", "text/plain")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    for seen in ("Müller Jürgen", "Findings", "Diameter", "12.5 mm", "1.2.3.4.5", "Reader Ruth", "20260102030405",
                 "20260103", "1.2.99", "POINT (1.5, 2.5)", "second line"):  # fmt: skip
        assert seen in page.text, seen
        assert seen in text.text, seen
    assert "Lunge &amp; Pleura" in page.text
    assert "Lunge & Pleura" in text.text
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "Befund &lt;b&gt;" in page.text
    assert page.text.count("<ul>") == page.text.count("</ul>") == 2
    assert page.text.count("<li>") == page.text.count("</li>") == 10
    assert web.get(where + "/rendered", "image/jpeg").status_code == 406
    icon = opened(web.get(where + "/thumbnail", "image/png"), "image/png")
    assert icon.size == (128, 128)
    assert len(np.unique(np.asarray(icon))) > 3


@pytest.mark.parametrize(
    ("sop_class", "media_type", "content"),
    [
        (PDF, "application/pdf", b"%PDF-1.4\n" + b"x" * 4000 + b"\n%%EOF\n"),
        (PDF, "application/pdf", b"%PDF-1.4 short"),
        (CDA, "text/xml", b"<?xml version='1.0'?><ClinicalDocument xmlns='urn:hl7-org:v3'/>"),
        (OBJ, "model/obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
    ],
)
def test_documents_as_they_were_put_in(web: Web, sop_class: str, media_type: str, content: bytes) -> None:
    ds = named(f"document {media_type} {len(content)}", **NO_PIXELS)
    ds.SOPClassUID, ds.Modality = sop_class, "DOC"
    ds.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    ds.EncapsulatedDocumentLength, ds.MIMETypeOfEncapsulatedDocument = len(content), media_type
    where = stored(web, ds)
    answer = web.get(where + "/rendered")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, media_type, content)
    assert ("content-security-policy" in answer.headers) == media_type.startswith("text/")
    assert web.get(where + "/rendered", media_type).content == content
    expect_ranges(web, where + "/rendered", content)
    refused = web.get(where + "/rendered", "image/jpeg")
    assert (refused.status_code, media_type in refused.json()["detail"]) == (406, True)
    assert opened(web.get(where + "/thumbnail"), "image/jpeg").size == (128, 128)


@pytest.mark.parametrize("size", [1, 5000])
def test_a_text_document_without_its_length_loses_its_padding(web: Web, size: int) -> None:
    ds = named(f"document without length {size}", **NO_PIXELS)
    content = b"<ClinicalDocument>" + b"x" * size + b"</ClinicalDocument>"
    content += b"\n" * (1 - len(content) % 2)
    ds.SOPClassUID, ds.Modality, ds.EncapsulatedDocument = CDA, "DOC", content + b"\0"
    assert web.get(stored(web, ds) + "/rendered").content == content


def test_twelve_bits_allocated_are_not_rendered(web: Web) -> None:
    ds = ramp("packed", BitsAllocated=12, BitsStored=12, HighBit=11, PixelData=bytes(6144))
    where = stored(web, ds)
    for below in ("/rendered", "/frames/1/rendered", "/thumbnail"):
        refused = web.get(where + below)
        assert (refused.status_code, refused.json()["about"]) == (406, "00280100")
    assert web.get(where + "/metadata").status_code == 200
    assert web.get(stored(web, state(ds)) + "/rendered").status_code == 406


def expect_ranges(web: Web, where: str, whole: bytes) -> None:
    """Players and readers of documents ask for parts (RFC 9110 14)."""
    size, tag = len(whole), web.get(where).headers["etag"]
    for asked, first, last in (
        ("0-0", 0, 0), ("3-", 3, size - 1), (f"{size // 2}-{size // 2 + 5}", size // 2, size // 2 + 5),
        ("-7", size - 7, size - 1), (f"5-{size * 2}", 5, size - 1),
    ):  # fmt: skip
        part = web.get(where, headers={"Range": f"bytes={asked}", "If-Range": tag})
        assert (part.status_code, part.headers["content-range"]) == (206, f"bytes {first}-{last}/{size}")
        assert part.content == whole[first : last + 1]
    assert web.get(where, headers={"Range": f"bytes={size}-"}).status_code == 416
    changed = web.get(where, headers={"Range": "bytes=0-3", "If-Range": '"another"'})
    assert (changed.status_code, changed.content) == (200, whole)


def test_video_as_it_is(web: Web) -> None:
    stream = np.random.default_rng(5).integers(0, 256, 3_000_001, np.uint8).tobytes()
    ds = named("video", SamplesPerPixel=3, PhotometricInterpretation="YBR_PARTIAL_420", BitsAllocated=8, BitsStored=8,
               HighBit=7, PlanarConfiguration=0, NumberOfFrames=30, WindowCenter=None, WindowWidth=None)  # fmt: skip
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4.1"
    ds.PixelData = encapsulate([stream], has_bot=False)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    answer = web.store(dicom_data.part10(ds, MPEG4HP41))
    assert answer.status_code == 200, answer.text
    shown = web.get(path(ds) + "/rendered", "video/mp4")
    assert (shown.status_code, shown.headers["content-type"]) == (200, "video/mp4")
    assert shown.content.rstrip(b"\0") == stream.rstrip(b"\0")
    expect_ranges(web, path(ds) + "/rendered", shown.content)
    assert web.get(path(ds) + "/rendered").headers["content-type"] == "video/mp4"
    assert web.get(path(ds) + "/rendered", "image/jpeg").status_code == 406
    assert opened(web.get(path(ds) + "/thumbnail"), "image/jpeg").size == (128, 128)


def test_big_endian_tables(web: Web) -> None:
    """Bulk tables of Explicit VR Big Endian change their byte order on the way to the picture."""
    voi = Dataset()
    voi.add_new("LUTDescriptor", "US", [4096, 0, 16])
    voi.add_new("LUTData", "OW", (np.arange(4096)[::-1] * 16).astype(">u2").tobytes())
    ds = ramp("big endian", VOILUTSequence=[voi])
    big = copy.deepcopy(ds)
    big.PixelData = np.arange(4096, dtype=">u2").tobytes()
    answer = web.store(dicom_data.part10(big, "1.2.840.10008.1.2.2"))
    assert answer.status_code == 200, answer.text
    shown = png(web, path(ds) + "/rendered")
    assert np.abs(shown - (np.arange(4096)[::-1] * 16 / 65535 * 255).reshape(64, 64)).max() <= 1
    assert str(ExplicitVRLittleEndian) == "1.2.840.10008.1.2.1"
