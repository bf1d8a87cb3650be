"""Looks at what is no language model: the user's code, graphs, trees, repositories of models, commands. Runs none of it.

From elsewhere comes data only: what runs code when it is loaded is taken from this machine, where the user put it.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.engines.custom_code import CodeError, serving
from headrace.errors import ModelError, WeightsError
from headrace.facts.artifact import FORMATS, Artifact
from headrace.spec.engines import CustomOptions
from headrace.spec.model import ModelSpec, Spec
from headrace.traffic import Task
from headrace.weights.formats import DATA
from headrace.weights.model import Weights
from headrace.weights.source import Source, parse

_CONFIG = "config.pbtxt"


def artifacts(spec: Spec) -> dict[str, Artifact]:
    """The artifacts of a spec that are on this machine, by model name; those from elsewhere are fetched as weights are. Raises
    WeightsError with all that is wrong, among it what is not taken from elsewhere.
    """
    found, problems = {}, []
    for name, model in spec.models.items():
        try:
            if (one := _artifact(model)) is not None:
                found[name] = one
        except (WeightsError, ModelError) as error:
            problems.append(f"models.{name}: {error}")
    if problems:
        raise WeightsError("\n".join(problems))
    return found


def _artifact(model: ModelSpec) -> Artifact | None:
    if model.command:
        return Artifact(" ".join(model.command)[:80], "command", 0, _tasks_of_command(model))
    if not model.source:
        return None
    source = parse(model.source)
    if source.kind != "file":
        _only_data(source, model)
        return None
    format = FORMATS.get(os.path.splitext(source.location)[1].lower())
    if _is_repository(source, model):
        return _repository(Path(source.location))
    if format is None and model.engine_name not in ("custom",):
        return None
    return _file(source, model)


def data_ways(model: ModelSpec) -> list[tuple[str, ...]]:
    """The formats to try for a source elsewhere that may be no language model: that of the file it names, else, where Triton is
    asked for, all that it serves. Empty for language models.
    """
    source = parse(model.source or "")
    if source.kind == "file":
        return []
    if format := DATA.get(_ending(source)):
        return [(format,)]
    if model.engine_name != "triton" or model.task not in ("auto", "infer"):
        return []
    return [tuple(DATA.values()) if model.task == "infer" else ("gguf", *DATA.values())]


def fetched_artifact(weights: Weights) -> Artifact | None:
    """What was fetched, or looked at where it is, as an artifact; None for a language model."""
    if weights.format == "onnx" or weights.format == "skops":
        return Artifact(weights.path, weights.format, weights.bytes)
    return None


def _only_data(source: Source, model: ModelSpec) -> None:
    """Raises WeightsError where the source, which is elsewhere, is no data."""
    format = "python" if model.engine_name == "custom" else FORMATS.get(_ending(source))
    if why := _RUNS.get(format or ""):
        raise WeightsError(
            f"{source} {why}, and such files are taken from this machine only.",
            f"Fetch it, look at it, and write file:…; from elsewhere come {' and '.join(DATA)}.",
        )
    if format and model.engine_name not in ("auto", "triton"):
        raise WeightsError(f"{model.engine_name} cannot serve {source}, which is {format}.", "Write engine: triton.")


_RUNS = {"python": "is code", "torch": "may hold pickles, which run code when they are loaded"}
"""Formats that are no data. Names of pickles are refused before, wherever they are."""


def _ending(source: Source) -> str:
    """Of the file that a source elsewhere names, with its dot; empty where it names none."""
    name = unquote(urlsplit(source.location).path) if source.kind == "https" else source.pick or ""
    return os.path.splitext(name)[1]


def _tasks_of_command(model: ModelSpec) -> tuple[Task, ...]:
    """What its server can do is not known: what the spec says, else by what it speaks."""
    usual: Task = "generate" if model.options(CustomOptions).speaks == "openai" else "infer"
    return (usual,) if model.task == "auto" else (model.task,)


def _is_repository(source: Source, model: ModelSpec) -> bool:
    folder = Path(os.path.expanduser(source.location))
    return folder.is_dir() and (model.engine_name == "triton" or any(folder.glob(f"*/{_CONFIG}")))


def _repository(folder: Path) -> Artifact:
    """A Triton model repository: a folder for each model, with its configuration."""
    models = sorted(config.parent.name for config in folder.glob(f"*/{_CONFIG}"))
    if not models:
        raise WeightsError(f"{folder} has no models.", f"A model repository has a folder for each, with a {_CONFIG} in it.")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Artifact(str(folder), "repository", size, ("infer",), tuple(models))


def _file(source: Source, model: ModelSpec) -> Artifact:
    path = Path(os.path.expanduser(source.location))
    format = FORMATS.get(path.suffix.lower())
    if not path.is_file():
        raise WeightsError(f"{path} does not exist.", _near(path.parent))
    if format is None:
        raise WeightsError(f"{path} is not Python code.", "Custom code is a .py file with a class that has predict.")
    tasks = _tasks(path, model.options(CustomOptions).class_ or "") if format == "python" else ("infer",)
    return Artifact(str(path), format, path.stat().st_size, tasks)


def _near(folder: Path) -> str:
    if not folder.is_dir():
        return f"There is no folder {folder} either."
    return f"{folder} has {', '.join(sorted(os.listdir(folder)))[:200] or 'nothing'}."


def _tasks(path: Path, wanted: str) -> tuple[Task, ...]:
    """What the class in the file can do, by its methods. Raises ModelError."""
    try:
        return serving(path.read_text("utf-8"), wanted).tasks
    except CodeError as error:
        line = f":{error.line}" if error.line else ""
        raise ModelError(f"{path}{line}: {error}.") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path} is not UTF-8.") from None
