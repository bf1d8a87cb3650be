"""Manifests to import, built around one pod."""

import json
from typing import Any

from headrace.importing.convert import File, Imported, convert
from headrace.spec.load import loads
from headrace.spec.model import Spec
from headrace.weights.source import parse


def deployment(
    image: str = "vllm/vllm-openai:v0.11.0",
    args: list[str] | None = None,
    *,
    name: str = "chat",
    kind: str = "Deployment",
    pod: dict[str, Any] | None = None,
    **container: Any,
) -> dict[str, Any]:
    """A workload with one container."""
    engine = {"name": "engine", "image": image, **({} if args is None else {"args": args}), **container}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [engine], **(pod or {})}}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {"template": template}}


def of(*objects: dict[str, Any]) -> Imported:
    """What becomes of these objects, each in a file of its own (JSON is YAML)."""
    return convert([File(f"{place}.yaml", json.dumps(one)) for place, one in enumerate(objects)])


def spec(made: Imported) -> Spec:
    """The result, by our own loader: that it loads is part of every test."""
    return loads(made.text, check_source=parse)


def said(made: Imported) -> str:
    return "\n".join(map(str, made.notes))
