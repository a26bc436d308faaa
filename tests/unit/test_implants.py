"""Implanted calcifications and synthetic mammograms: what is put in is there, where and as strong as the truth says."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.evaluation import implants, mammogram_phantom

SPACING = 0.1


def noise(seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return (1000 + 20 * np.random.default_rng(seed).standard_normal((400, 300))).astype(np.float32)


def test_a_plan_keeps_the_protocol() -> None:
    allowed = np.zeros((600, 500), bool)
    allowed[50:-50, 50:-50] = True
    truth = implants.plan(np.random.default_rng(1), allowed, SPACING, clusters=3, contrast=(5, 12), singles=2)
    assert len(truth.clusters) == 3
    for number, cluster in enumerate(truth.clusters):
        members = [c for c in truth.calcifications if c.cluster == number]
        assert len(members) == cluster.count
        assert 5 <= cluster.count <= 18
        for c in members:
            assert np.hypot(c.row - cluster.row, c.column - cluster.column) * SPACING <= cluster.radius + 1e-6
            assert allowed[round(c.row), round(c.column)]
            assert 0.12 <= c.diameter <= 0.6
    assert sum(c.cluster == -1 for c in truth.calcifications) == 2


def test_a_grain_has_its_volume_and_place() -> None:
    for shift in ((0.0, 0.0), (0.3, -0.4)):
        stamp = implants.grain(np.random.default_rng(2), 0.5, 0.05, shift)
        reach = stamp.shape[0] // 2
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        assert (stamp * y).sum() / stamp.sum() == pytest.approx(shift[0], abs=1.2)
        assert (stamp * x).sum() / stamp.sum() == pytest.approx(shift[1], abs=1.2)
        assert 0.8 < stamp.max() <= 1.0
        # A sphere's mean chord times its cross-section is its volume: 2/3 of the peak over the disc.
        assert stamp.sum() * 0.05**2 == pytest.approx(2 / 3 * np.pi * 0.25**2, rel=0.5)


def test_implants_rise_above_the_noise_as_said() -> None:
    image = noise()
    allowed = np.ones(image.shape, bool)
    made, truth = implants.implant(image, SPACING, allowed, np.random.default_rng(3), clusters=1, contrast=(10, 10.001))
    added = made - image
    deviation = implants.local_noise(image, SPACING)
    assert deviation.mean() == pytest.approx(20, rel=0.1)
    large = [c for c in truth.calcifications if c.diameter > 0.3]
    for c in large:
        r, k = round(c.row), round(c.column)
        peak = added[max(0, r - 2) : r + 3, max(0, k - 2) : k + 3].max()
        assert 0.35 * c.contrast * 20 < peak < 1.6 * c.contrast * 20
    # Nothing changed far from all of them.
    far = np.ones(image.shape, bool)
    for c in truth.calcifications:
        far[max(0, round(c.row) - 15) : round(c.row) + 16, max(0, round(c.column) - 15) : round(c.column) + 16] = False
    np.testing.assert_allclose(added[far], 0, atol=1e-3)


def test_inverted_images_get_dark_calcifications_in_their_own_type() -> None:
    image = noise().astype(np.uint16)
    allowed = np.ones(image.shape, bool)
    made, _ = implants.implant(image, SPACING, allowed, np.random.default_rng(4), clusters=1, inverted=True)
    assert made.dtype == np.uint16
    assert (made.astype(int) - image).min() < -10
    assert (made.astype(int) - image).max() <= 1
    assert made.min() >= image.min()


def test_a_phantom_is_repeatable_and_mirrors_with_its_truth() -> None:
    options = {"size_mm": (60.0, 40.0), "clusters": 1, "contrast": (20.0, 20.1)}
    one, again = (mammogram_phantom.phantom(5, **options) for _ in range(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert one.truth == again.truth
    right = mammogram_phantom.phantom(5, laterality="R", **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(right.pixels, one.pixels[:, ::-1])
    for a, b in zip(one.truth.calcifications, right.truth.calcifications, strict=True):
        assert b.column == one.pixels.shape[1] - 1 - a.column
    assert not np.array_equal(one.pixels, mammogram_phantom.phantom(6, **options).pixels)  # type: ignore[arg-type]


def test_calcifications_of_a_phantom_are_bright_where_the_truth_says() -> None:
    options = {"size_mm": (80.0, 50.0), "clusters": 1, "contrast": (25.0, 25.1), "singles": 0}
    for inverted in (False, True):
        setup = mammogram_phantom.Acquisition(inverted=inverted)
        made = mammogram_phantom.phantom(7, acquisition=setup, **options)  # type: ignore[arg-type]
        values = made.pixels.astype(float) * (-1 if inverted else 1)
        large = [c for c in made.truth.calcifications if c.diameter > 0.2]
        assert large
        for c in large:
            r, k = round(c.row), round(c.column)
            around = np.median(values[max(0, r - 12) : r + 13, max(0, k - 12) : k + 13])
            assert values[r - 1 : r + 2, k - 1 : k + 2].max() > around
        assert made.mask[round(made.truth.clusters[0].row), round(made.truth.clusters[0].column)]


def test_power_law_texture_has_its_slope() -> None:
    texture = mammogram_phantom.power_law(np.random.default_rng(8), (512, 512), 3.0)
    power = np.abs(np.fft.fft2(texture)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    band = (frequency > 0.01) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.1)


def test_a_phantom_becomes_a_mammogram_dataset() -> None:
    setup = mammogram_phantom.Acquisition(inverted=True, spacing=0.2)
    made = mammogram_phantom.phantom(9, size_mm=(60, 40), acquisition=setup, laterality="R", view="MLO")
    ds = mammogram_phantom.to_dataset(made, number=2, InstitutionName="Nowhere")
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.2"
    assert (ds.ImageLaterality, ds.ViewPosition, ds.PhotometricInterpretation) == ("R", "MLO", "MONOCHROME1")
    assert [float(mm) for mm in ds.ImagerPixelSpacing] == [0.2, 0.2]
    assert ds.InstitutionName == "Nowhere"
    assert len(ds.PixelData) == 2 * ds.Rows * ds.Columns
    assert ds == mammogram_phantom.to_dataset(made, number=2, InstitutionName="Nowhere")
