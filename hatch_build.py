"""What is made before a wheel, an editable install or an sdist: the viewer, and the compiled part for a wheel."""

from __future__ import annotations

import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent


def _script(path: str) -> Any:
    """A file of the project as a module: nothing of the project itself is installed yet."""
    spec = spec_from_file_location(Path(path).stem + "_script", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs what lies beside the sources it builds."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build both. A wheel with the compiled part is for this platform, one without it for any."""
        _script("viewer/hatch_build.py").build_wanted()
        if self.target_name != "wheel":
            return
        make = _script("pacs/native/make.py")
        try:
            make.build()
        except (make.NotBuilt, OSError) as error:
            print(f"The compiled part is left out, everything will run in Python: {error}", file=sys.stderr)
            return
        if version == "standard":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
