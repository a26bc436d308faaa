"""Which of a Workitem's inputs is meant for which input of the plug-in: Input Information names none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.api import Input, Manifest, NotAnalysable
from pacs.dicom.ups_task import References


def assigned(
    manifest: Manifest, references: Sequence[References], made_by: Mapping[str, str]
) -> list[tuple[Input, list[References]]]:
    """Each input of the plug-in with what is given for it, in the order of the manifest; nothing for one to do without.

    A plug-in with one input gets all. Else results go to the input that takes results of their plug-in (`made_by`
    tells it by SOP Instance UID), what is of another study than the first of all to the one for an earlier study, and
    the rest to the others: one for each in order, or all to the only one. Raises NotAnalysable in words.
    """
    if not references:
        raise NotAnalysable("the Workitem names no input")
    if len(manifest.inputs) == 1:
        return [(manifest.inputs[0], list(references))]
    current = references[0].study_instance_uid
    kinds: dict[str, list[References]] = {}
    wanted: dict[str, list[Input]] = {}
    for each in manifest.inputs:
        wanted.setdefault(_kind(each), []).append(each)
    for reference in references:
        plugin = made_by.get(reference.instances[0][1], "") if reference.instances else ""
        if plugin and f"results of {plugin}" in wanted:
            kind = f"results of {plugin}"
        elif reference.study_instance_uid != current and "prior" in wanted:
            kind = "prior"
        else:
            kind = ""
        kinds.setdefault(kind, []).append(reference)
    if "" in kinds and "" not in wanted:
        raise NotAnalysable("an input is given that the analysis does not take")
    shared = {kind: _shared(kinds.get(kind, []), inputs) for kind, inputs in wanted.items()}
    return [(each, shared[_kind(each)].get(each.name, [])) for each in manifest.inputs]


def _kind(wanted: Input) -> str:
    return f"results of {wanted.results_of}" if wanted.results_of else "prior" if wanted.prior else ""


def _shared(given: Sequence[References], inputs: Sequence[Input]) -> dict[str, list[References]]:
    """What each of the inputs of one kind gets."""
    needed = [each for each in inputs if not each.optional]
    if len(inputs) == 1 and (given or not needed):
        return {inputs[0].name: list(given)}
    for taking in (inputs, needed):
        if len(given) == len(taking):
            return {each.name: [one] for each, one in zip(taking, given, strict=True)}
    names = ", ".join(each.name for each in needed)
    raise NotAnalysable(f"{len(needed)} inputs are needed ({names}), {len(given)} are given")
