"""What the what-if page asks: the fields of its form, as a URL, as the words and the file of `headrace plan`."""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlencode

import yaml

from headrace.spec.model import ModelSpec
from headrace.units import show_duration
from headrace.weights.source import parse

AUTO = "auto"
ENGINES = (AUTO, "vllm", "llamacpp", "openvino", "sglang", "tgi")
QUANTIZATIONS = (AUTO, "none", "fp8", "awq")
FILE = "plan.yaml"
_LONGEST = 200
_HUB = re.compile(r"hf:[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,96})?(:[\w.-]{1,32})?")
_FOR = ("users", "prompt", "output", "context", "ttft", "tpot")


@dataclass(frozen=True, slots=True)
class Question:
    """The form, as it was filled in; empty texts leave it to the plan. `machine` is auto for the one that we are on, a GPU, a
    cloud, or cloud:size; `count` of GPUs or machines.
    """

    model: str = ""
    machine: str = AUTO
    count: str = "1"
    users: str = ""
    prompt: str = ""
    output: str = ""
    context: str = ""
    ttft: str = ""
    tpot: str = ""
    engine: str = AUTO
    quantization: str = AUTO

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "Question":
        """The fields of a form; unknown ones are left out, empty ones are at their default."""
        said = {field.name: given.get(field.name, "").strip()[:_LONGEST] for field in fields(cls)}
        return cls(**{name: text for name, text in said.items() if text})

    @property
    def query(self) -> str:
        """What is not at its default, as it stands in a URL."""
        default = asdict(Question())
        return urlencode({name: text for name, text in asdict(self).items() if text != default[name]})

    @property
    def here(self) -> bool:
        return self.machine == AUTO

    @property
    def machines(self) -> str:
        """As after --machine."""
        if self.here or self.count in ("", "1"):
            return self.machine
        return f"{self.machine} x {self.count}" if ":" in self.machine else f"{self.count} x {self.machine}"

    @property
    def intent(self) -> dict[str, str]:
        """What the model is for, by key of `for`."""
        return {key: text for key in _FOR if (text := getattr(self, key))}

    @property
    def wanted(self) -> str:
        """As after --for."""
        return ",".join(f"{key}={text}" for key, text in self.intent.items())


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in the words of `headrace plan`: `text` is a file that asks it, `command` gives the same answer."""

    name: str
    text: str
    machine: str | None
    """As after --machine; None is the machine that we are on."""
    wanted: str
    command: str
    needs_file: bool


def question(name: str, model: ModelSpec) -> Question:
    """What a model of the file is for, as the form begins with it: on this machine, with the engine that the file says."""
    said = {key: _shown(value) for key, value in model.for_.model_dump(exclude_none=True).items()}
    said |= {"context": str(model.context_asked)} if model.context_asked else {}
    said |= {"engine": model.engine_name} if model.engine_name in ENGINES else {}
    return Question(name, quantization=model.quantization, **said)


def _shown(value: float) -> str:
    return show_duration(value) if isinstance(value, float) else str(value)


def source_of(model: str, served: Mapping[str, str], known: Iterable[str]) -> str | None:
    """The source that is meant: of a model of the file (`served`: source by name), of the catalogue, or hf:org/name.

    None for anything else: a page names no file of this machine and no address.
    """
    if model in served:
        return served[model]
    if _HUB.fullmatch(model):
        return model
    found = next((name for name in known if name.lower() == model.lower()), None)
    return f"hf:{found}" if found else None


def asked(question: Question, source: str) -> Asked:
    """The question about the model at `source`."""
    plain = question.engine == AUTO and question.quantization == AUTO and not (question.here and question.intent)
    name = question.model if re.fullmatch(r"[\w.-]{1,64}", question.model) else parse(source).name
    model: dict[str, Any] = {"source": source}
    model |= {} if question.engine == AUTO else {"engine": question.engine}
    model |= {} if question.quantization == AUTO else {"quantization": question.quantization}
    model |= {"for": {key: _typed(text) for key, text in question.intent.items()}} if question.here and question.intent else {}
    words = ["headrace", "plan", source if plain else FILE]
    words += [] if question.here else ["--machine", question.machines]
    words += ["--for", question.wanted] if question.wanted and not question.here else []
    text = yaml.safe_dump({"models": {name: model}}, sort_keys=False, allow_unicode=True)
    machine, wanted = (None, "") if question.here else (question.machines, question.wanted)
    return Asked(name, text, machine, wanted, shlex.join(words), not plain)


def _typed(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
