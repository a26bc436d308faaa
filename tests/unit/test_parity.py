"""The parity script of GPUs: it can fail, and where there is no GPU it says so."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT

from analysis import device


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity", ROOT / "tests" / "gpu" / "parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity"] = module
    spec.loader.exec_module(module)
    return module


def test_differences(parity: ModuleType) -> None:
    assert parity.difference(np.ones(3), np.ones(4)) == float("inf")
    assert parity.difference(np.array([1, 2.5]), np.array([1, 2])) == 0.5
    assert parity.difference(np.array([True, False]), np.array([True, True])) == 0.5
    assert parity.difference(3.0, 3.0) == 0


def test_without_a_gpu_it_says_so(
    parity: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails, also where there is one
    assert parity.main([]) == 0
    assert parity.main(["--need-gpu"]) == 2
    assert capsys.readouterr().out.startswith("skipped: no usable GPU: ")


def test_a_broken_bound_is_told(parity: ModuleType) -> None:
    other = device.Backend("gpu", np, np, "one that adds wrongly")  # type: ignore[arg-type]

    def run(_xp: object, _nd: object, backend: device.Backend) -> dict[str, object]:
        return {"sum": np.ones(3) * (1 if backend.name == "cpu" else 1.1), "same": 1.0}

    cases = [parity.Case("sum", run, {"sum": 0.2, "same": 0}), parity.Case("exact sum", run, {"sum": 0.01})]
    good, bad = parity.compared(cases, other, 1)
    assert (good["holds"], bad["holds"]) == (True, False)
    assert bad["apart"]["sum"] == pytest.approx(0.1)


def test_it_runs_on_numpy_alone(parity: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main(["--against", "numpy", "--size", "48", "--times", "1", "--only", "texture"]) == 0
    assert "| texture |" in capsys.readouterr().out
    assert parity.main(["--against", "numpy", "--only", "nothing of this name"]) == 1
