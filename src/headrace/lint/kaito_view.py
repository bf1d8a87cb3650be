"""KAITO's kinds that serve a model, alike: resource, inference, selector, wherever each of them has it."""

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.facts import catalogue
from headrace.importing.base import At
from headrace.lint.context import Context, Object

HISTORICAL = (
    *("falcon-7b", "falcon-7b-instruct", "falcon-40b", "falcon-40b-instruct", "phi-2"),
    *("llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-2-7b-chat", "llama-2-13b-chat", "llama-2-70b-chat"),
)
"""Presets that KAITO had and has no more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Workspace or an InferenceSet says."""

    owner: Object
    resource: At
    inference: At
    tuning: At
    selector: At

    @property
    def preset(self) -> At:
        return self.inference.get("preset", "name")

    @property
    def template(self) -> At:
        return self.inference.get("template")

    @property
    def annotations(self) -> At:
        return self.owner.at.get("metadata", "annotations")


def wanted(context: Context) -> Iterator[Wanted]:
    """Those of the run; a Workspace below `spec` is none, and HR420 says so."""
    for one in context.of("Workspace"):
        if one.group == "kaito.sh" and not one.spec:
            resource = one.at.get("resource")
            yield Wanted(one, resource, one.at.get("inference"), one.at.get("tuning"), resource.get("labelSelector"))
    for one in context.of("InferenceSet"):
        template = one.spec.get("template")
        if one.group == "kaito.sh" and template:
            none = At(None, one.at.file, one.at.lines, ("tuning",))
            yield Wanted(one, template.get("resource"), template.get("inference"), none, one.spec.get("labelSelector"))


def presets() -> tuple[str, ...]:
    """Names that KAITO's webhook knows, short ones among them."""
    return catalogue.kaito_presets()


def filled(at: At) -> bool:
    """Whether it is a value, and no place for one."""
    return bool(at.text) and not any(mark in at.text for mark in ("{{", "${", "<", "$("))
