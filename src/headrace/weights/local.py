"""Weights that the user has: read in place, never copied, moved or changed."""

import json
import os
from typing import Any

from headrace.errors import WeightsError
from headrace.weights.bert import POOLING_FILE, choose_or_convert
from headrace.weights.formats import FormatMissing, is_pickle, parts, why_not_pickle
from headrace.weights.model import File
from headrace.weights.source import Source
from headrace.weights.store import Entry


def find(source: Source, formats: tuple[str, ...]) -> Entry:
    """The files of a `file:` source: a GGUF file, a safetensors file, or a folder with either. Raises WeightsError."""
    path = os.path.abspath(os.path.expanduser(source.location))
    if os.path.isdir(path):
        return _entry(source, path, _names(path), formats, source.pick)
    if not os.path.exists(path):
        raise WeightsError(f"{path} does not exist.", _near(path))
    if is_pickle(path):
        raise WeightsError(f"{path} is refused: {why_not_pickle([os.path.basename(path)])}")
    folder, name = os.path.split(path)
    if name.lower().endswith(".gguf"):
        return _entry(source, folder, [part for part in parts(name) if os.path.exists(os.path.join(folder, part))], formats, None)
    if name.endswith(".safetensors"):
        return _entry(source, folder, _names(folder), formats, name)
    raise FormatMissing(f"{path} is not weights.", "Name a .gguf or .safetensors file, or a folder that has one.")


def _entry(source: Source, folder: str, names: list[str], formats: tuple[str, ...], pick: str | None) -> Entry:
    choice = choose_or_convert(names, formats, pick, folder, lambda name: _json(os.path.join(folder, name)))
    files = tuple(File(name, os.path.getsize(os.path.join(folder, name))) for name in choice.weights + choice.side)
    if choice.format == "gguf":
        return Entry(str(source), "gguf", None, folder, files[0].name, files)
    return Entry(str(source), "safetensors", None, folder, "", files)


def _names(folder: str) -> list[str]:
    names = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    return names + [POOLING_FILE] * os.path.isfile(os.path.join(folder, POOLING_FILE))


def _near(path: str) -> str:
    """What is there instead, for a path that is not."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"There is no folder {folder} either."
    weights = [name for name in sorted(os.listdir(folder)) if name.endswith((".gguf", ".safetensors"))]
    return f"{folder} has {', '.join(weights[:8]) or 'no weights'}."


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}.") from error
    return data if isinstance(data, dict) else {}
