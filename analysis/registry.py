"""The plug-ins that are installed: found by entry point, checked once, with parameters in and out of Workitems.

A plug-in that cannot be loaded or breaks the contract is listed with its error; it never stops a server.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from analysis.api import Manifest, NotAnalysable, Params, Plugin
from pacs.dicom import ups_task
from pacs.dicom.ups_task import Parameter

GROUP = "m3dicom.plugins"
COMMAND = "command"


@dataclass(frozen=True)
class Installed:
    """A plug-in that can run. `target` is its entry point, "module:attribute", for the child process to load."""

    target: str
    plugin: Plugin

    @property
    def manifest(self) -> Manifest:
        """What it declares."""
        return self.plugin.manifest

    @property
    def id(self) -> str:
        """Its plug-in id."""
        return self.plugin.manifest.id

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its parameters."""
        return self.plugin.params.model_json_schema()

    def params(self, given: Mapping[str, Any]) -> Params:
        """Its parameters as it takes them, from what a Workitem says. Raises NotAnalysable in words.

        A Workitem knows numbers and texts; texts stand for JSON where the parameter is neither, and "null" for None
        where that can be a value.
        """
        given = {name: None if value == "null" and self._may_be_none(name) else value for name, value in given.items()}
        try:
            return self.plugin.params.model_validate(dict(given))
        except ValidationError as error:
            refused = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
        read = {name: _read(value) if name in refused else value for name, value in given.items()}
        try:
            return self.plugin.params.model_validate(read)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise NotAnalysable(f"the parameters cannot be used: {faults}") from None

    def asked(self, attributes: Mapping[str, Any]) -> Params:
        """The parameters that a Workitem asks for.

        Raises NotAnalysable as `params`, and for a number in another unit than the plug-in takes it in; InvalidInput
        for content items that are none.
        """
        fields = self.schema().get("properties", {})
        for name, unit in ups_task.units_of(attributes).items():
            own = ups_task.long_string(str(fields.get(name, {}).get("unit", "1"))) or "1"
            if name in fields and unit not in ("1", own):
                takes = "has no unit" if own == "1" else f"is in {own}"
                raise NotAnalysable(f"the parameters cannot be used: {name} {takes}, not in {unit}")
        return self.params(ups_task.parameters_of(attributes))

    def written(self, params: Params) -> list[Parameter]:
        """The parameters as a Workitem carries them; one that is None is left out where that is its default."""
        fields, declared = self.schema().get("properties", {}), self.plugin.params.model_fields
        return [
            Parameter(name, fields.get(name, {}).get("title", name), value, fields.get(name, {}).get("unit", "1"))
            for name, value in params.model_dump(mode="json").items()
            if value is not None or declared[name].get_default(call_default_factory=True, validated_data={}) is not None
        ]

    def _may_be_none(self, name: str) -> bool:
        property_: dict[str, Any] = self.schema().get("properties", {}).get(name, {})
        return any(each.get("type") == "null" for each in property_.get("anyOf", ()))


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


@dataclass(frozen=True)
class Broken:
    """An entry point that gives no usable plug-in, and why."""

    name: str
    error: str


class Registry:
    """The plug-ins of this installation, by id."""

    def __init__(self, installed: Iterable[Installed], broken: Iterable[Broken] = ()) -> None:
        self._installed = {each.id: each for each in installed}
        self.broken = tuple(broken)

    @classmethod
    def load(
        cls, targets: Mapping[str, str] | None = None, only: Iterable[str] = (), *, commands: Path | None = None
    ) -> Registry:
        """The plug-ins of the entry-point group and the commands in folders of `commands`, or those of `targets`.

        Targets are name to "module:attribute", or to "command:" and a folder.
        `only`, where given, names the plug-in ids to take. Of two plug-ins with one id the second is refused.
        """
        if targets is None:
            targets = {point.name: point.value for point in entry_points(group=GROUP)}
            found = sorted(commands.glob("*/plugin.toml")) if commands is not None else []
            targets |= {f"zz {path.parent.name}": f"{COMMAND}:{path.parent.resolve()}" for path in found}
        wanted = frozenset(only)
        installed: dict[str, Installed] = {}
        broken = []
        for name, target in sorted(targets.items()):
            try:
                plugin = resolve(target)
                manifest = Manifest.model_validate(plugin.manifest)
                if not issubclass(plugin.params, Params):
                    raise TypeError("params is no subclass of analysis.api.Params")
                plugin.params.model_json_schema()
                if manifest.id in installed:
                    raise ValueError(f"the id {manifest.id} is taken by {installed[manifest.id].target}")
            except Exception as error:  # whatever a stranger's module does while it is imported
                broken.append(Broken(name, f"{type(error).__name__}: {error}"))
                continue
            installed[manifest.id] = Installed(target, plugin)
        return cls((i for i in installed.values() if not wanted or i.id in wanted), broken)

    def get(self, plugin: str) -> Installed | None:
        """The plug-in of that id."""
        return self._installed.get(plugin)

    def __iter__(self) -> Any:
        return iter(self._installed.values())

    @property
    def ids(self) -> tuple[str, ...]:
        """All plug-in ids, in order."""
        return tuple(sorted(self._installed))


def resolve(target: str) -> Plugin:
    """The plug-in that "module:attribute" names, a class being instantiated, or "command:" and a folder."""
    module, _, attribute = target.partition(":")
    if module == COMMAND:
        from analysis.command import CommandPlugin

        return cast(Plugin, CommandPlugin(Path(attribute)))  # manifest and params are those of the folder
    found: Any = importlib.import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    plugin: Plugin = found() if isinstance(found, type) else found
    return plugin


def job_key(manifest: Manifest, params: Params, input_digests: Iterable[str]) -> str:
    """The task key: the same plug-in, version, parameters and input instances give the same one, on any machine."""
    body = [manifest.id, manifest.version, params.model_dump(mode="json"), sorted(input_digests)]
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
