"""Which engine a container runs: by its command, else by its image's name."""

import re
from collections.abc import Sequence

from headrace.importing.words import Word, commands

_IMAGES = (
    ("ollama", r"ollama"),
    ("tei", r"text-embeddings-inference"),
    ("tgi", r"text-generation-inference|(?<![a-z])tgi(?![a-z])"),
    ("triton", r"tritonserver|triton-inference-server"),
    ("sglang", r"sglang"),
    ("llamacpp", r"llama[._-]?cpp|llama-server"),
    ("vllm", r"vllm"),
)
"""By the image's name without its tag, the first that fits."""

TITLES = {
    **{"vllm": "vLLM", "sglang": "SGLang", "tgi": "TGI", "triton": "Triton", "llamacpp": "llama.cpp"},
    **{"tei": "Text Embeddings Inference", "ollama": "Ollama"},
}
_MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "vllm.entrypoints.cli.main": "vllm",
    "sglang.launch_server": "sglang",
}
_PROGRAMS = {
    **{"text-generation-launcher": "tgi", "text-embeddings-router": "tei", "tritonserver": "triton"},
    **{"llama-server": "llamacpp", "ollama": "ollama", "vllm": "vllm", "sglang": "sglang"},
}

_OTHERS = ("sh", "bash", "dash", "ash", "zsh", "python", "python3", "sleep", "tail", "hf", "huggingface-cli", "curl", "wget")
"""Programs that are no engine: a container that runs one of them serves no model by its image alone."""


def launched(image: str, words: Sequence[Word]) -> tuple[str, list[Word]] | None:
    """(engine, the words after its name); None where nothing known is started. With several commands the last that fits."""
    for command in reversed(commands(words)):
        if found := _by_command(command):
            return found
    by_image = engine_of(image)
    first = words[0].text if words else ""
    # Without a command the image's own entry point gets the words, which are flags, or the model; some write `serve` again.
    rest = list(words[1:] if first == "serve" else words)
    return (by_image, rest) if by_image and not _program(first) else None


def engine_of(image: str) -> str | None:
    """The engine in an image, by its name."""
    name = re.sub(r"@.*|:[^/]*$", "", image.lower())
    return next((engine for engine, pattern in _IMAGES if re.search(pattern, name)), None)


def tag_of(image: str) -> str:
    """Its version; empty where none is pinned."""
    digest = image.partition("@")[2]
    tag = re.search(r":([^/:@]+)(?:@|$)", image)
    return digest or (tag[1] if tag and tag[1] != "latest" else "")


def _by_command(words: Sequence[Word]) -> tuple[str, list[Word]] | None:
    rest = list(words)
    while rest and (rest[0].text in ("exec", "env", "nohup", "time", "tini", "--") or re.match(r"\w+=", rest[0].text)):
        rest = rest[1:]
    texts = [word.text for word in rest]
    if not texts:
        return None
    program = texts[0].rpartition("/")[2]
    if re.fullmatch(r"python[0-9.]*", program):
        return _by_module(rest)
    if program in ("docker", "podman", "nerdctl"):
        return _by_docker(rest)
    engine = _PROGRAMS.get(program)
    return (engine, rest[2:] if texts[1:2] == ["serve"] else rest[1:]) if engine else None


def _by_module(words: list[Word]) -> tuple[str, list[Word]] | None:
    for place, word in enumerate(words[1:], 1):
        if engine := _MODULES.get(word.text):
            after = words[place + 1 :]
            return engine, after[1:] if after and after[0].text == "serve" else after
    return None


def _by_docker(words: list[Word]) -> tuple[str, list[Word]] | None:
    """`docker run … IMAGE ARGS`: the first word that is an image of an engine, and what follows it."""
    for place, word in enumerate(words[2:], 2):
        engine = engine_of(word.text)
        if engine and re.fullmatch(r"[\w.-]+(?::\d+)?/[\w./-]+(?::[\w.-]+)?(?:@sha256:\w+)?", word.text) and "=" not in word.text:
            rest = words[place + 1 :]
            return launched(word.text, rest) or (engine, rest)
    return None


def _program(word: str) -> bool:
    """Whether a first word is a program of its own and no flag or model."""
    return word.rpartition("/")[2] in _OTHERS
