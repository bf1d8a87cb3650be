"""A container of a pod, or a service of docker-compose, → the model that it serves; and what of it is not carried."""

import re
from collections.abc import Collection, Mapping

from headrace.importing.base import At, Found
from headrace.importing.flags import take, take_variable
from headrace.importing.launchers import TITLES, engine_of, launched, tag_of
from headrace.importing.words import Word, expanded, names, secret_name, unresolved

_OURS = {
    **dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), "Headrace makes its own, sized by the plan"),
    **dict.fromkeys(("lifecycle", "ports", "securityContext"), "Headrace makes its own"),
    **dict.fromkeys(("imagePullPolicy", "name", "terminationMessagePath", "terminationMessagePolicy"), ""),
    "volumeMounts": "Headrace mounts what the model needs",
}
"""Fields that Headrace writes itself; without a reason they are of no consequence."""

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "HUGGINGFACE_HUB_TOKEN")
_CACHES = ("HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "LLAMA_CACHE")
_SET = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "VLLM_PORT", "VLLM_HOST_IP")
"""What engines/vllm.py and sglang.py set themselves."""


def served_by(container: At) -> str | None:
    """The engine that a container runs, None for all others."""
    found = launched(container.get("image").text, _words(container))
    return found[0] if found else None


def read_container(container: At, found: Found) -> None:
    """Put what a container says into `found`: image, command, environment, devices, and all that is lost."""
    image = container.get("image")
    variables = {each.get("name").text: _value(each) for each in container.get("env").each()}
    said = _words(container)
    words = expanded(said, variables)
    engine, rest = launched(image.text, words) or (engine_of(image.text) or "vllm", [])
    found.engine = engine
    used = {name for word in said for name in names(word.text)}
    for each in container.get("env").each():
        _environment(found, each, used)
    take(found, rest)
    _image(found, image)
    _devices(found, container.get("resources"))
    for field, value in container.items():
        _other(found, field, value)


def _words(container: At) -> list[Word]:
    return [word for key in ("command", "args") for word in _listed(container.get(key))]


def _listed(value: At) -> list[Word]:
    return [Word(word.text, word.line) for word in value.each()]


def _value(variable: At) -> str | None:
    """A variable's value, None when it comes from elsewhere."""
    return variable.get("value").text if "value" in (variable.value or {}) else None


def _environment(found: Found, variable: At, used: Collection[str]) -> None:
    name, value = variable.get("name").text, _value(variable)
    where = _reference(variable)
    if name in _TOKENS:
        _token(found, variable, where, value)
    elif name in _CACHES:
        found.note("not needed", f"env {name}", "weights are in Headrace's own cache (weights.cache)", variable.line)
    elif name in _SET:
        found.note("not needed", f"env {name}", "Headrace sets it itself", variable.line)
    elif name in used and value is not None and not secret_name(name):
        found.note("not needed", f"env {name}", "its value is written out where it was used", variable.line)
    elif value is None or secret_name(name) or not take_variable(found, name, value, variable.line):
        source = f" ({where})" if where else ""
        found.note("not carried", f"env {name}{source}", "there is no key for an engine's environment", variable.line)


def _token(found: Found, variable: At, where: str, value: str | None) -> None:
    name = variable.get("name").text
    if value is not None and not unresolved(value):
        why = "a token as plain text (not shown) belongs into a Secret with the key HF_TOKEN: kubernetes.secret is its name"
        found.note("not carried", f"env {name}", why, variable.line)
        return
    secret = variable.get("valueFrom", "secretKeyRef")
    if not secret:
        found.note("not carried", f"env {name}", f"{where or 'the environment'}: Headrace reads HF_TOKEN", variable.line)
        return
    found.secret, key = secret.get("name").text, secret.get("key").text
    if key != "HF_TOKEN":
        why = f"Secret {found.secret} needs the token under the key HF_TOKEN as well: it has it as {key}"
        found.note("decided", f"env {name}", why, variable.line)


def _reference(variable: At) -> str:
    """Where a value comes from: `Secret hf-token, key token`."""
    kinds = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap", "fieldRef": "field", "resourceFieldRef": "resource"}
    for kind, title in kinds.items():
        if source := variable.get("valueFrom", kind):
            named = source.get("name").text or source.get("fieldPath").text or source.get("resource").text
            key = source.get("key").text
            return f"{title} {named}, key {key}" if key else f"{title} {named}"
    return ""


def _image(found: Found, image: At) -> None:
    tag = tag_of(image.text)
    if found.engine == "ollama":
        return
    if found.engine == "tei":
        why = "it is no engine of Headrace; auto chooses one that embeds"
        found.note("decided", f"image {image.text}", why, image.line)
        return
    which = f"Headrace pins its own version of {TITLES[found.engine]}"
    pinned = "kubernetes.images takes this one" if tag else "this one was not pinned"
    found.note("not carried", f"image {image.text}", f"{which}; {pinned}", image.line)


def _devices(found: Found, resources: At) -> None:
    """The GPUs that a pod asks for: how many, whether shared, whether a slice."""
    limits = dict(resources.get("requests").items()) | dict(resources.get("limits").items())
    for name, amount in limits.items():
        if name == "nvidia.com/gpu" or name == "amd.com/gpu":
            found.gpus = amount.number
        elif name == "nvidia.com/gpu.shared":
            found.gpus = 1
            found.set("share", "time-slice", "nvidia.com/gpu.shared was asked for")
        elif name.startswith("nvidia.com/mig-"):
            found.gpus = 1
            found.set("share", "mig", f"{name} was asked for; the plan chooses the slice")
        elif name in ("cpu", "memory", "ephemeral-storage"):
            continue
        else:
            found.note("not carried", f"resource {name}", "Headrace plans GPUs only", amount.line)
    if planned := [name for name in ("cpu", "memory") if name in limits]:
        found.note("not needed", f"resources {' and '.join(planned)}", "the plan says what a replica takes", resources.line)


def _other(found: Found, field: str, value: At) -> None:
    if field in ("image", "command", "args", "env", "resources") or not value:
        return
    if field == "envFrom":
        for each in value.each():
            source = each.get("secretRef", "name").text or each.get("configMapRef", "name").text
            found.note("not carried", f"envFrom {source}", "there is no key for an engine's environment", each.line)
        return
    why = _OURS.get(field)
    if why is None:
        found.note("not carried", field, "Headrace has no key for it", value.line)
    elif why:
        found.note("not needed", field, why, value.line)


def compose_container(name: str, service: At) -> At:
    """A service of docker-compose as the container it would be in a pod; values keep their lines."""
    from shlex import split

    value: dict[str, object] = {"name": name, "image": service.get("image").text}
    lines: dict[tuple[str | int, ...], int] = {(): service.line, ("image",): service.get("image").line}
    for ours, theirs in (("command", "entrypoint"), ("args", "command")):
        given = service.get(theirs)
        words = [each.text for each in given.each()] or (split(given.text) if _closed(given.text) else given.text.split())
        value[ours] = words
        lines |= {(ours, place): (_line(given, place)) for place in range(len(words))}
    variables = _variables(service.get("environment"))
    value["env"] = [{"name": key, "value": text} for key, (text, _) in variables.items()]
    lines |= {("env", place): line for place, (_, line) in enumerate(variables.values())}
    if count := _compose_gpus(service):
        value["resources"] = {"limits": {"nvidia.com/gpu": count}}
    return At(value, service.file, lines)


def _closed(text: str) -> bool:
    return not (text.count("'") % 2 or text.count('"') % 2)


def _line(given: At, place: int) -> int:
    listed = list(given.each())
    return listed[place].line if listed else given.line


def _variables(given: At) -> Mapping[str, tuple[str, int]]:
    """Of a mapping, or of a list of NAME=value."""
    listed = ((*each.text.partition("="), each.line) for each in given.each())
    return {name: (value, line) for name, _, value, line in listed} | {k: (v.text, v.line) for k, v in given.items()}


def _compose_gpus(service: At) -> int:
    devices = service.get("deploy", "resources", "reservations", "devices")
    wanted = [device for device in devices.each() if re.search("gpu|nvidia", str(device.value))]
    return sum(device.get("count").number or len(device.get("device_ids").value or ()) for device in wanted)
