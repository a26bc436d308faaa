"""A plug-in package to start from: `m3dicom plugin new NAME`. It works and passes its own tests as it is written."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

from pacs.errors import InvalidInput

_FILES = {
    "pyproject.toml.in": "pyproject.toml",
    "README.md.in": "README.md",
    "plugin.py.in": "src/{package}/__init__.py",
    "test_plugin.py.in": "tests/test_{package}.py",
}


def write(name: str, folder: Path) -> list[Path]:
    """Write the package of the plug-in `name` into `folder`/`name`; the files written.

    Raises InvalidInput for a name that no plug-in id or Python package can have, for that of a module that is there
    (installing the new one would hide or replace it), and where the folder is there already.
    """
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9-]{1,39}[a-z0-9]", name):
        raise InvalidInput(f"a plug-in's name is three or more small letters, digits and hyphens, not {name!r}")
    if keyword.iskeyword(package):
        raise InvalidInput(f"a plug-in cannot be called {name!r}: that is a word of Python")
    if find_spec(package) is not None:
        raise InvalidInput(f"a plug-in cannot be called {name!r}: a module {package} is there already")
    root = folder / name
    if root.exists():
        raise InvalidInput(f"{root} is there already")
    words = name.split("-")
    values = {
        "name": name,
        "package": package,
        "title": " ".join(words).capitalize(),
        "class_name": "".join(word.capitalize() for word in words),
    }
    written = []
    for source, target in _FILES.items():
        text = resources.files("analysis.kit").joinpath("template", source).read_text(encoding="utf-8")
        path = root / target.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(values), encoding="utf-8")
        written.append(path)
    return written
