"""Custom resources checked as an API server would: structural schema without unknown fields, defaults, CEL rules.

The definitions are other projects' and not in this repository: HEADRACE_CRDS names the folder, else it is looked for beside the
checkout. Without it the tests that need it are skipped.
"""

import copy
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from celpy.adapter import json_to_cel

FOLDER = Path(os.environ.get("HEADRACE_CRDS", Path(__file__).parents[4] / "shared" / "crds"))
needs_crds = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no CRDs in {FOLDER}: set HEADRACE_CRDS")

_FILES = {
    "ScaledObject": "keda/keda.sh_scaledobjects.yaml",
    "TriggerAuthentication": "keda/keda.sh_triggerauthentications.yaml",
    "InferenceSet": "kaito/kaito.sh_inferencesets.yaml",
    "Workspace": "kaito/kaito.sh_workspaces.yaml",
    # Azure's azmonitoring.coreos.com has the same schema, by its documentation.
    "PodMonitor": "prometheus-operator/monitoring.coreos.com_podmonitors.yaml",
    "ServiceMonitor": "prometheus-operator/monitoring.coreos.com_servicemonitors.yaml",
    "LeaderWorkerSet": "lws/leaderworkerset.x-k8s.io_leaderworkersets.yaml",
    "HTTPRoute": "gateway-api/gateway.networking.k8s.io_httproutes.yaml",
    "InferencePool": "gateway-api-inference-extension/inference.networking.k8s.io_inferencepools.yaml",
    "InferenceObjective": "gateway-api-inference-extension/inference.networking.x-k8s.io_inferenceobjectives.yaml",
}
CUSTOM = tuple(_FILES)


def problems(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a custom resource."""
    schema = _schema(manifest["kind"], manifest["apiVersion"].rpartition("/")[2])
    found = [
        f"{error.json_path}: {error.message}" for error in _validator(manifest["kind"], json.dumps(schema)).iter_errors(manifest)
    ]
    whole = copy.deepcopy(manifest)
    _default(whole, schema)
    return [*found, *_broken(whole, schema, "$")]


@cache
def _schema(kind: str, version: str) -> dict[str, Any]:
    with (FOLDER / _FILES[kind]).open() as file:
        definition = yaml.load(file, yaml.CSafeLoader)
    versions = {each["name"]: each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"]}
    schema: dict[str, Any] = versions[version]
    return schema


@cache
def _validator(kind: str, text: str) -> Any:
    schema = _strict(json.loads(text))
    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"const": kind}, "metadata": {"type": "object"}}
    return jsonschema.Draft202012Validator(schema)


def _strict(node: Any) -> Any:
    """The schema with every object closed, but for what only restricts (allOf, anyOf, oneOf)."""
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("description", "format", "default", "nullable") or key.startswith("x-"):
            continue
        if key == "properties":
            kept[key] = {name: _strict(below) for name, below in value.items()}
        else:
            kept[key] = _strict(value) if key in ("items", "additionalProperties") else value
    if "properties" in kept and "additionalProperties" not in kept and not node.get("x-kubernetes-preserve-unknown-fields"):
        kept["additionalProperties"] = False
    return kept


def _default(value: Any, schema: dict[str, Any]) -> None:
    """Structural defaults, filled in depth first."""
    if isinstance(value, dict):
        for name, below in schema.get("properties", {}).items():
            if name not in value and "default" in below:
                value[name] = copy.deepcopy(below["default"])
            if name in value:
                _default(value[name], below)
    elif isinstance(value, list) and "items" in schema:
        for each in value:
            _default(each, schema["items"])


def _broken(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Rules that are not kept. One that cannot be evaluated is a failure of this check, and raises."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not _program(rule["rule"]).evaluate({"self": json_to_cel(value)}):
            yield f"{path}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        for name, below in schema.get("properties", {}).items():
            if name in value:
                yield from _broken(value[name], below, f"{path}.{name}")
    elif isinstance(value, list) and "items" in schema:
        for place, each in enumerate(value):
            yield from _broken(each, schema["items"], f"{path}[{place}]")


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
