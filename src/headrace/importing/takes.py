"""What can become of a flag: a key of ours, a setting of the engine, an argument passed on, or nothing, with the reason."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from headrace.importing.base import Flag, Found
from headrace.importing.words import secret_value, unresolved

Take = Callable[[Found, Flag], None]

_WHILE_LOADING = ("bitsandbytes", "eetq", "int8wo", "torchao", "experts_int8", "rtn", "ptpc_fp8")
_HUMAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKmMgG]?)")
_FACTORS = {"": 1, "k": 1000, "m": 10**6, "g": 10**9, "K": 1024, "M": 2**20, "G": 2**30}


def number(text: str) -> int | None:
    """A whole number above 0 as vLLM reads one (`8k` is 8000, `8K` 8192), else None."""
    match = _HUMAN.fullmatch(text.strip())
    value = round(float(match[1]) * _FACTORS[match[2]]) if match and len(match[1]) < 12 else 0
    return value or None


def count(key: str, why: str = "", *, above: int = 0) -> Take:
    """A number for `key`; one that is not above `above` says what is the default anyway."""

    def take(found: Found, flag: Flag) -> None:
        value = number(flag.value)
        if value is None:
            _unclear(found, flag, key)
        elif value > above:
            found.set(key, value, why)

    return take


def option(key: str, *, values: Mapping[str, Any] | None = None) -> Take:
    """A setting of the engine: one of `values`, or a number."""

    def take(found: Found, flag: Flag) -> None:
        value = values.get(flag.value) if values is not None else number(flag.value)
        if value is None:
            _unclear(found, flag, key)
        else:
            found.options[key] = value

    return take


def model(found: Found, flag: Flag) -> None:
    """Where the model is."""
    found.location = flag.value


def revision(found: Found, flag: Flag) -> None:
    found.revision = flag.value


def served(found: Found, flag: Flag) -> None:
    """The names that clients use."""
    found.served = [name for value in flag.values for name in value.split(",") if name]


def task(value: str) -> Take:
    return lambda found, flag: found.set("task", value)


def made(why: str) -> Take:
    """What Headrace does itself, or plans."""
    return lambda found, flag: found.note("not needed", _said(flag), why, flag.line)


def lost(why: str) -> Take:
    return lambda found, flag: found.note("not carried", _said(flag), why, flag.line)


def secret(found: Found, flag: Flag) -> None:
    """Never its value, not even in a note."""
    why = "a key in arguments can be read by everybody on the machine; Headrace makes the engines' keys itself (value not shown)"
    found.note("not carried", flag.name, why, flag.line)


def passed(found: Found, flag: Flag) -> None:
    """Passed on to the engine as it is."""
    if any(secret_value(word) for word in flag.words):
        secret(found, flag)
    elif any(unresolved(word) for word in flag.words):
        found.note("not carried", _said(flag), "its variable has no value here; write it out in engine args", flag.line)
    else:
        found.args += flag.words


def quantization(found: Found, flag: Flag) -> None:
    """Formats that a plan chooses between are a key, and those that an engine makes while it loads are passed on; all others are
    in the checkpoint's own configuration."""
    known = {"fp8": "fp8", "awq": "awq", "awq_marlin": "awq", "none": "none"}.get(flag.value.lower())
    if known:
        found.set("quantization", known)
    elif flag.value.lower().startswith(_WHILE_LOADING):
        passed(found, flag)
    else:
        found.note("not needed", _said(flag), "the checkpoint says its format itself", flag.line)


def adapters(found: Found, flag: Flag) -> None:
    """LoRA modules: `name=path`, or JSON with both."""
    for text in flag.values:
        try:
            each = json.loads(text) if text.startswith("{") else dict(zip(("name", "path"), text.split("=", 1), strict=True))
            name, path = str(each["name"]), str(each["path"])
        except (ValueError, KeyError, TypeError):
            found.note("not carried", _said(flag), "an adapter is name=path", flag.line)
            continue
        found.keys["adapters"] = {**found.keys.get("adapters", {}), name: place(path)}


def place(path: str) -> str:
    """A source of ours for an org/name or a path."""
    return f"hf:{path}" if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path, re.ASCII) else f"file:{path}"


def _unclear(found: Found, flag: Flag, key: str) -> None:
    found.note("not carried", _said(flag), f"what that is as `{key}` is not clear; it is left to the plan", flag.line)


def _said(flag: Flag) -> str:
    """The flag as it was written, without what may be a secret."""
    words = [flag.words[0].partition("=")[0], *flag.values]
    return " ".join("…" if secret_value(word) else word for word in words)[:120]
