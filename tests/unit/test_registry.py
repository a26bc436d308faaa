"""Plug-ins found, checked and refused; parameters in and out; task keys; the choice of device."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import Field

from analysis import device
from analysis.api import Context, Input, Manifest, NotAnalysable, Output, Params
from analysis.registry import Installed, Registry, job_key
from pacs.dicom import ups, ups_task
from pacs.errors import Unavailable


class CountParams(Params):
    threshold: float = Field(300, ge=-1000, le=3000, title="Threshold", json_schema_extra={"unit": "HU"})
    smooth: bool = True
    name: str = "x"
    limit: int | None = None
    windows: tuple[int, ...] = (1, 2)


class Count:
    manifest: ClassVar[Manifest] = Manifest(
        id="count", version="1", title="Count", inputs=(Input(name="series"),), outputs=(Output(name="r", kind="SR"),)
    )
    params: ClassVar[type[Params]] = CountParams

    def run(self, ctx: Context, params: Any) -> None:
        """Nothing."""


class NotOne:
    manifest: ClassVar[dict[str, str]] = {"id": "no"}
    params = CountParams


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    module = ModuleType("some_plugins")
    module.count, module.Count, module.broken = Count(), Count, NotOne()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_plugins", module)
    targets = {
        "a": "some_plugins:count", "b": "some_plugins:Count", "c": "some_plugins:broken", "d": "some_plugins:absent",
        "e": "no_such_module:x",
    }  # fmt: skip
    return Registry.load(targets)


def test_broken_plugins_are_listed_and_do_not_stop_the_others(registry: Registry) -> None:
    assert registry.ids == ("count",)
    assert [broken.name for broken in registry.broken] == ["b", "c", "d", "e"]
    assert "taken by some_plugins:count" in registry.broken[0].error
    assert "ModuleNotFoundError" in registry.broken[3].error
    assert registry.get("count") is not None
    assert registry.get("other") is None


def test_the_installed_plugins_load() -> None:
    assert Registry.load().broken == ()


def test_parameters_survive_a_workitem(registry: Registry) -> None:
    installed = registry.get("count")
    assert installed is not None
    params = CountParams(threshold=226.5, smooth=False, name="1", windows=(3, 4))
    items = map(ups_task.content_item, installed.written(params))
    attributes = {ups.PARAMETERS_SEQUENCE: ups.element("SQ", *items)}
    assert installed.params(ups_task.parameters_of(attributes)) == params
    assert installed.params({}) == CountParams()
    [threshold] = [p for p in installed.written(params) if p.name == "threshold"]
    assert (threshold.title, threshold.unit) == ("Threshold", "HU")


class Unset(Params):
    """Parameters for which None is another value than their default."""

    limit: float | None = 5.0
    name: str | None = "x"
    words: str = "x"
    rest: int | None = None
    made: list[int] | None = Field(default_factory=lambda: [1])


@pytest.mark.parametrize(
    "given",
    [{"limit": None}, {"name": None}, {"words": "null"}, {"words": ""}, {"rest": None}, {"name": "5"}, {"made": None}],
)
def test_what_is_not_set_is_not_the_default_again(given: dict[str, Any]) -> None:
    installed = Installed("", SimpleNamespace(params=Unset))  # type: ignore[arg-type]
    params = installed.params(given)
    assert installed.params(ups_task.read_back(installed.written(params))) == params


@pytest.mark.parametrize(
    ("given", "words"),
    [({"threshold": 9999}, "threshold: .*less than"), ({"other": 1}, "other"), ({"smooth": "perhaps"}, "smooth")],
)
def test_wrong_parameters_are_refused_in_words(registry: Registry, given: dict[str, Any], words: str) -> None:
    installed = registry.get("count")
    assert installed is not None
    with pytest.raises(NotAnalysable, match=words):
        installed.params(given)


@pytest.mark.parametrize(
    ("name", "value", "unit", "words"),
    [
        ("threshold", 30, "mm", "threshold is in HU, not in mm"),
        ("voxels", 3, "mm", "voxels has no unit, not in mm"),
        ("threshold", 30, "HU", ""), ("threshold", 30, "1", ""), ("threshold", 30, "", ""),
    ],
)  # fmt: skip
def test_a_number_in_another_unit_is_refused(name: str, value: float, unit: str, words: str) -> None:
    class InUnits(Params):
        """One parameter with a unit, one without."""

        threshold: float = Field(300, json_schema_extra={"unit": "HU"})
        voxels: int = 1

    installed = Installed("", SimpleNamespace(params=InUnits))  # type: ignore[arg-type]
    item = ups_task.content_item(ups_task.Parameter(name, name, value, unit or "1"))
    if not unit:
        del item[ups_task.UNITS_CODE_SEQUENCE]
    attributes = {ups.PARAMETERS_SEQUENCE: ups.element("SQ", item)}
    if words:
        with pytest.raises(NotAnalysable, match=words):
            installed.asked(attributes)
    else:
        assert installed.asked(attributes) == InUnits(threshold=30)


def test_job_key_depends_on_everything_but_the_order_of_inputs() -> None:
    manifest = Count.manifest
    base = job_key(manifest, CountParams(), ["a", "b"])
    assert base == job_key(manifest, CountParams(), ["b", "a"])
    others = {
        job_key(manifest, CountParams(threshold=1), ["a", "b"]),
        job_key(manifest, CountParams(), ["a"]),
        job_key(manifest.model_copy(update={"version": "2"}), CountParams(), ["a", "b"]),
        job_key(manifest.model_copy(update={"id": "other"}), CountParams(), ["a", "b"]),
    }
    assert len(others | {base}) == 5


def test_the_cpu_backend() -> None:
    backend = device.choose("cpu")
    assert backend.xp is np
    assert backend.description == f"numpy {np.__version__}"
    assert backend.nd.gaussian_filter(np.ones((3, 3)), 1).sum() == pytest.approx(9)


def test_a_gpu_that_is_not_there_is_refused_or_replaced() -> None:
    auto = device.choose("auto")
    if auto.name == "gpu":
        assert "cupy" in auto.description
        assert device.choose("gpu") == auto
    else:
        assert auto == device.choose("cpu")
        with pytest.raises(Unavailable, match="no usable GPU"):
            device.choose("gpu")
