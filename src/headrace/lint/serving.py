"""What serves: each engine in the run with its container, its flags and their places, whichever kind of file it is in."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from headrace.importing.base import At, Flag
from headrace.importing.containers import compose_container
from headrace.importing.flags import LANGUAGES
from headrace.importing.launchers import launched
from headrace.importing.words import Word, commands, expanded, parsed, script
from headrace.lint.context import OWN_LIFE, Context, Object, Pod

_NOT_ENGINES = re.compile(
    r"router|sim\b|simulator|proxy|gateway|bench|operator|controller|client|test|exporter|sidecar|plugin|downloader|puller|"
    r"adapter|dashboard|ui\b|epp\b|scheduler|frontend"
)
"""In the last part of an image's name: a thing beside an engine, by the same people."""


PORTS = {"vllm": 8000, "sglang": 30000, "llamacpp": 8080}
"""Where engines listen that are not told."""


@dataclass(frozen=True, slots=True)
class Given:
    """A flag as it was given, and the place of its word."""

    name: str
    values: tuple[str, ...]
    at: At
    words: tuple[At, ...] = ()
    """The items of the list that it takes, where it stands in one and is all of them."""

    @property
    def value(self) -> str:
        return self.values[0] if self.values else ""

    @property
    def said(self) -> str:
        """As it was written, on one line: `-tp 2`."""
        name = self.words[0].text.partition("=")[0] if self.words else self.name
        return f"{name} {self.value}".strip()

    @property
    def number(self) -> int | None:
        match = re.fullmatch(r"(\d{1,9})([kK]?)", self.value.strip())
        return int(match[1]) * {"": 1, "k": 1000, "K": 1024}[match[2]] if match else None


@dataclass(frozen=True, slots=True)
class Served:
    """An engine that serves a model."""

    engine: str
    owner: Object
    container: At
    pod: Pod | None
    model: str
    """As the engine was given it; "" where that is not known."""
    model_at: At
    flags: Sequence[Given] = field(default_factory=tuple)
    managed: bool = False
    """A controller adds what the file does not say: probes, volumes, drain."""

    def flag(self, *names: str) -> Given | None:
        """The last of these flags, as on a command line."""
        return next((flag for flag in reversed(self.flags) if flag.name in names), None)

    @property
    def image(self) -> At:
        return self.container.get("image")

    @property
    def version(self) -> tuple[int, int] | None:
        """(major, minor) of vLLM's own images; None where the tag does not say it."""
        match = re.search(r"^(?:docker\.io/)?vllm/vllm-openai\w*:v(\d+)\.(\d+)", self.image.text)
        return (int(match[1]), int(match[2])) if match else None

    @property
    def newest(self) -> bool:
        """vLLM's own image without a version: what is newest when it is pulled."""
        return bool(
            re.fullmatch(r"(?:docker\.io/)?vllm/vllm-openai(?::(?:latest(?:-\w+)?|(?:cu\d+-)?nightly))?", self.image.text)
        )

    @property
    def lives(self) -> bool:
        """Whether its pods have only what the manifest says."""
        return self.pod is not None and self.owner.kind in OWN_LIFE and not self.managed

    @property
    def hub(self) -> str:
        """org/name, where the model is from the Hugging Face hub."""
        return self.model if re.fullmatch(r"[\w.-]+/[\w.-]+", self.model) and not self.model.startswith((".", "/")) else ""

    @property
    def tensor_parallel(self) -> int:
        flag = self.flag("--tensor-parallel-size", "--tp-size", "--num-shard")
        return (flag.number if flag else None) or 1

    def size(self, *names: str) -> int | None:
        """What one of these flags gives, of a kind of parallelism: 1 without any, None where it is no number."""
        flag = self.flag(*names)
        return (flag.number or None) if flag else 1

    @property
    def split(self) -> int | None:
        """GPUs that one copy of the model is split over; None where a flag is no number."""
        tensor = self.size("--tensor-parallel-size", "--tp-size", "--num-shard")
        pipeline = self.size("--pipeline-parallel-size", "--pp-size")
        return tensor * pipeline if tensor and pipeline else None

    @property
    def ranks(self) -> int | None:
        """Data-parallel ranks, those on other nodes too; None where a flag is no number."""
        return self.size("--data-parallel-size", "--dp-size")

    @property
    def port(self) -> int | None:
        """Where it listens; None where that is not certain."""
        flag = self.flag("--port")
        return flag.number if flag else None if self.flag("--uds") else PORTS.get(self.engine)

    def env(self, name: str) -> At | None:
        return next((each for each in self.container.get("env").each() if each.get("name").text == name), None)


def engines(context: Context) -> list[Served]:
    """Every engine of the run that is given a model."""
    return context.once("engines", lambda: list(_engines(context)))


def serves(context: Context, one: Object) -> bool:
    """Whether an object starts an engine."""
    return id(one) in context.once("owners", lambda: {id(each.owner) for each in engines(context)})


def _engines(context: Context) -> Iterator[Served]:
    for pod in context.pods():
        for container in pod.containers:
            if (found := served(container, pod.owner, pod, managed=pod.owner.kind not in OWN_LIFE)) is not None:
                yield found
    for one in context.objects:
        yield from _others(one)


def _others(one: Object) -> Iterator[Served]:
    if one.kind == "compose":
        for name, service in one.at.get("services").items():
            owner = Object(service, "service", name, "", "")
            if (found := served(compose_container(name, service), owner, None)) is not None:
                yield found
    elif one.kind == "script":
        yield from _scripted(one)
    elif one.kind == "Model" and one.group == "kubeai.org":
        yield from _kubeai(one)
    elif one.group == "serving.kserve.io":
        yield from _kserve(one)
    elif one.kind == "production-stack":
        for spec in one.at.get("servingEngineSpec", "modelSpec").each():
            yield _stacked(one, spec)


def served(container: At, owner: Object, pod: Pod | None, *, managed: bool = False) -> Served | None:
    """The engine in a container; None where none is started with a model."""
    image = container.get("image")
    items = [item for key in ("command", "args") for item in container.get(key).each()]
    words = [Word(item.text, item.line) for item in items]
    variables = {each.get("name").text: each.get("value").text or None for each in container.get("env").each()}
    found = launched(image.text, expanded(words, variables))
    if found is None or (not _started(words) and not _known_image(image.text)):
        return None
    engine, rest = found
    if engine not in LANGUAGES or engine == "ollama":
        return None
    loose, flags = parsed(rest, LANGUAGES[engine].short)
    given = [_given(flag, items) for flag in flags] + list(_variables(container, engine))
    model, at = _model(engine, loose, given, container, items)
    return Served(engine, owner, container, pod, model, at, tuple(given), managed) if model else None


def _started(words: Sequence[Word]) -> bool:
    """Whether an engine is started by name, whatever the image is called."""
    return bool(words) and launched("", words) is not None


def _known_image(image: str) -> bool:
    last = re.sub(r"@.*|:[^/]*$", "", image).rpartition("/")[2].lower()
    return not _NOT_ENGINES.search(last)


def _given(flag: Flag, items: Sequence[At]) -> Given:
    for place, item in enumerate(items):
        if item.text == flag.words[0] and item.line == flag.line:
            whole = items[place : place + len(flag.words)]
            same = [each.text for each in whole] == list(flag.words) and len({each.path[:-1] for each in whole}) == 1
            return Given(flag.name, flag.values, item, tuple(whole) if same else ())
    inside = next((item for item in items if flag.words[0] in item.text), None)
    return Given(flag.name, flag.values, inside or At(None, items[0].file if items else "", {(): flag.line}))


def _variables(container: At, engine: str) -> Iterator[Given]:
    for each in container.get("env").each():
        name = LANGUAGES[engine].variables.get(each.get("name").text)
        if name and each.get("value").text:
            yield Given(name, (each.get("value").text,), each)


def _model(engine: str, loose: Sequence[Word], flags: Sequence[Given], container: At, items: Sequence[At]) -> tuple[str, At]:
    if engine == "vllm" and loose:
        at = next((item for item in items if item.text == loose[0].text), None)
        at = at or next((item for item in items if loose[0].text in item.text), container)
        return loose[0].text, at
    names = ("--model", "--model-path", "--model-id", "--hf-repo", "--model-repository", "--model-store", "--model-url")
    flag = next((flag for flag in reversed(flags) if flag.name in names and flag.value), None)
    return (flag.value, flag.at) if flag else ("", container)


def _scripted(one: Object) -> Iterator[Served]:
    for command in script(str(one.at.value)):
        started = launched("", command)
        if started is None or started[0] not in LANGUAGES or started[0] == "ollama":
            continue
        engine, rest = started
        loose, flags = parsed(rest, LANGUAGES[engine].short)
        line = command[0].line
        at = At("", one.at.file, {(): line})
        given = tuple(Given(flag.name, flag.values, At("", one.at.file, {(): flag.line})) for flag in flags)
        container = At({"image": _image(command)}, one.at.file, {(): line})
        model, _ = _model(engine, loose, given, at, ())
        if model:
            owner = Object(at, "command", command[0].text, "", "")
            yield Served(engine, owner, container, None, model, at, given, managed=True)


def _image(command: Sequence[Word]) -> str:
    """The image of a `docker run`."""
    if command[0].text not in ("docker", "podman", "nerdctl"):
        return ""
    pattern = r"[\w.-]+/[\w./-]+(?::[\w.-]+)?"
    return next((w.text for w in command[2:] if re.fullmatch(pattern, w.text) and launched(w.text, [])), "")


def _kubeai(one: Object) -> Iterator[Served]:
    engine = {"VLLM": "vllm"}.get(one.spec.get("engine").text)
    url = one.spec.get("url")
    if engine is None:
        return
    items = list(one.spec.get("args").each())
    _, flags = parsed([Word(item.text, item.line) for item in items], LANGUAGES[engine].short)
    model = url.text.removeprefix("hf://") if url.text.startswith("hf://") else url.text
    given = tuple(_given(flag, items) for flag in flags)
    yield Served(engine, one, one.spec, None, model.partition("?")[0], url, given, managed=True)


def _kserve(one: Object) -> Iterator[Served]:
    runtime = one.kind in ("ServingRuntime", "ClusterServingRuntime")
    pods = [one.spec.get("predictor"), one.spec.get("template"), one.spec.get("prefill", "template")]
    yield from _of_a_runtime(one, one.spec.get("predictor", "model"))
    for spec in [one.spec] if runtime else pods:
        pod = Pod(one, At(None, one.at.file), spec)
        for container in spec.get("containers").each():
            if (found := served(container, one, pod, managed=True)) is not None:
                yield found


def _of_a_runtime(one: Object, model: At) -> Iterator[Served]:
    """What an InferenceService adds to a runtime that is vLLM, by its model's format."""
    if model.get("modelFormat", "name").text.lower() not in ("vllm", "huggingface"):
        return
    items = list(model.get("args").each())
    _, flags = parsed([Word(item.text, item.line) for item in items], LANGUAGES["vllm"].short)
    given = tuple(_given(flag, items) for flag in flags)
    name, at = _model("vllm", (), given, model, items)
    uri = model.get("storageUri")
    if not name and uri.text.startswith("hf://"):
        name, at = uri.text.removeprefix("hf://"), uri
    yield Served("vllm", one, model, None, name or "?", at, given, managed=True)


def _stacked(one: Object, spec: At) -> Served:
    """A model of vLLM production-stack's values: its settings as the flags that the chart makes of them."""
    config = spec.get("vllmConfig")
    names = {
        **{"maxModelLen": "--max-model-len", "tensorParallelSize": "--tensor-parallel-size", "dtype": "--dtype"},
        **{"gpuMemoryUtilization": "--gpu-memory-utilization", "pipelineParallelSize": "--pipeline-parallel-size"},
    }
    given = [Given(names[key], (value.text,), value) for key, value in config.items() if key in names and value.text]
    items = list(config.get("extraArgs").each())
    _, flags = parsed([Word(item.text, item.line) for item in items], LANGUAGES["vllm"].short)
    given += [_given(flag, items) for flag in flags]
    model = spec.get("modelURL")
    tag = spec.get("tag").text
    image = f"{spec.get('repository').text}:{tag}" if tag else spec.get("repository").text
    container = At({"image": image, "spec": spec.value}, spec.file, {(): spec.line, ("image",): spec.get("tag").line})
    return Served("vllm", one, container, None, model.text or "?", model, tuple(given), managed=True)


def ports(container: At) -> list[At]:
    return list(container.get("ports").each())


def shell_text(container: At) -> str:
    """All words that a container is started with, as one text."""
    return " ".join(item.text for key in ("command", "args") for item in container.get(key).each())


def sleeps(container: At) -> int | None:
    """Seconds that preStop sleeps; None where it cannot be said."""
    hook = container.get("lifecycle", "preStop")
    if (seconds := hook.get("sleep", "seconds").number) is not None:
        return seconds
    words = [Word(item.text, item.line) for item in hook.get("exec", "command").each()]
    for command in commands(words) if words else []:
        texts = [word.text for word in command]
        if texts[0].rpartition("/")[2] == "sleep" and len(texts) > 1 and texts[1].rstrip("s").isdigit():
            return int(texts[1].rstrip("s"))
    return None
