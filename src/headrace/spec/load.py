"""A file → Spec, or every mistake in it at once as file:line:col."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from headrace.errors import Mistake, SpecError, UsageError
from headrace.spec.document import Document, read
from headrace.spec.engines import CustomOptions, EngineOptions
from headrace.spec.keys import known
from headrace.spec.model import ModelSpec, Spec
from headrace.spec.rules import astray, conflicts, doubled
from headrace.spec.sentences import kind, nearest, sentences
from headrace.spec.values import Strict

CheckSource = Callable[[str], object]
"""Raises ValueError when a `source` cannot be read; the CLI passes `headrace.weights.source.parse`."""

LARGEST_BYTES = 1_000_000
_INIT = "`headrace init` writes an example."


def load(path: str | os.PathLike[str], check_source: CheckSource | None = None) -> Spec:
    """The spec in the file at `path`. Relative paths in it start at its folder. Raises SpecError with every mistake."""
    file = pathlib.Path(path)
    text = _text(file)
    return loads(text, str(path), check_source, folder=file.parent)


def loads(
    text: str,
    file: str = "headrace.yaml",
    check_source: CheckSource | None = None,
    *,
    folder: pathlib.Path | None = None,
) -> Spec:
    """The spec in `text`; `file` names it in mistakes. `file:` sources and `weights.cache` get `~` expanded and, when
    relative, start at `folder` (default: the working directory). Raises SpecError with every mistake."""
    document = read(text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"), file)
    spec = _spec(document, check_source)
    if spec is None or document.mistakes:
        raise SpecError(document.mistakes)
    return _at_home(spec, folder or pathlib.Path())


def spec_for(source: str, name: str, *, folder: pathlib.Path | None = None) -> Spec:
    """The spec of one model from `source`, all else planned: what `headrace serve SOURCE` runs. Raises UsageError."""
    value = {"models": {name: {"source": source}}}
    try:
        return _at_home(Spec.model_validate(value), folder or pathlib.Path())
    except ValidationError as error:
        said = [f"{what} {fix}".strip() for _, what, fix in sentences(error.errors(), value)]
        raise UsageError(f"{source} cannot be served as {name}: {' '.join(said)}") from None


def _text(file: pathlib.Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise _refused(file, "there is no such file.", _INIT) from None
    except IsADirectoryError:
        raise _refused(file, "is a folder, not a file.", "Name the YAML file in it.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no file can have that name"
        raise _refused(file, f"cannot be read: {why}.") from None
    if len(raw) > LARGEST_BYTES:
        raise _refused(file, "is larger than 1 MB.", "A spec is a few lines; is this the right file?")
    return _decoded(raw, file)


def _decoded(raw: bytes, file: pathlib.Path) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        what = f"the byte 0x{raw[error.start]:02x} is not UTF-8."
        raise SpecError([Mistake(str(file), line, column, "", what, "Save the file as UTF-8.")]) from None


def _refused(file: pathlib.Path, what: str, fix: str = "") -> SpecError:
    return SpecError([Mistake(str(file), 1, 1, "", what, fix)])


def _spec(document: Document, check_source: CheckSource | None) -> Spec | None:
    """The spec in `document`, or None after reporting why there is none."""
    if document.mistakes and document.value is None:
        return None
    if document.value is None or document.value == {}:
        document.report((), "is empty.", f"Name a model: `models: {{chat: hf:org/name}}`. {_INIT}")
        return None
    if not isinstance(document.value, dict):
        document.report((), f"must be a mapping with `models`, not {kind(document.value)}.", _INIT)
        return None
    value = known(document)
    _across(document, value)
    _sources(document, value, check_source)
    return _validated(document, value)


def _validated(document: Document, value: dict[str, Any]) -> Spec | None:
    try:
        return Spec.model_validate(value)
    except ValidationError as error:
        # Errors of whole models and files come from the rules that `_across` has told already, at their very keys.
        fresh = [e for e in error.errors() if not (e["type"] == "value_error" and len(e["loc"]) in (0, 2) and _rule(e["loc"]))]
        for path, what, fix in sentences(fresh, value):
            document.report(path, what, fix)
        return None


def _rule(location: tuple[int | str, ...]) -> bool:
    return not location or location[0] == "models"


def _across(document: Document, value: dict[str, Any]) -> None:
    """Report what is wrong between keys, even when other keys are wrong on their own."""
    models, aliases = value.get("models"), value.get("aliases")
    if not isinstance(models, dict):
        return
    for name, model in models.items():
        for key, what in conflicts(model) if isinstance(model, dict) else ():
            path = ("models", name, key) if key else ("models", name)
            document.report(path, what, at_key=True)
    for name, adapter, what in doubled(models, aliases if isinstance(aliases, dict) else {}):
        document.report(("models", name, "adapters", adapter), what)
    if isinstance(aliases, dict):
        for alias, what in astray(models, aliases):
            fix = "" if alias in models else nearest(str(aliases[alias]), models)
            document.report(("aliases", alias), what, fix)


def _sources(document: Document, value: dict[str, Any], check_source: CheckSource | None) -> None:
    models = value.get("models")
    for name, model in models.items() if isinstance(models, dict) and check_source else ():
        source = model.get("source") if isinstance(model, dict) else None
        if check_source and isinstance(source, str) and source:
            try:
                check_source(source)
            except ValueError as error:
                document.report(("models", name, "source"), f"{str(error).rstrip('.')}.")


def _at_home(spec: Spec, folder: pathlib.Path) -> Spec:
    """`spec` with the paths of this machine written out in full."""
    models = {name: _model_at_home(model, folder) for name, model in spec.models.items()}
    weights = spec.weights
    if weights.cache is not None:
        weights = weights.model_copy(update={"cache": _full(weights.cache, folder)})
    gateway = spec.gateway
    if gateway.keys is not None:
        gateway = gateway.model_copy(update={"keys": _source_at_home(gateway.keys, folder)})
    if gateway.log not in (None, "stdout"):
        gateway = gateway.model_copy(update={"log": _full(gateway.log, folder)})
    if gateway.tls is not None:
        files = {part: _full(path, folder) for part, path in gateway.tls.model_dump(exclude_none=True).items()}
        gateway = gateway.model_copy(update={"tls": gateway.tls.model_copy(update=files)})
    return spec.model_copy(update={"models": models, "weights": weights, "gateway": gateway})


def _model_at_home(model: ModelSpec, folder: pathlib.Path) -> ModelSpec:
    update: dict[str, object] = {"adapters": {name: _source_at_home(text, folder) for name, text in model.adapters.items()}}
    if model.source:
        update["source"] = _source_at_home(model.source, folder)
    if isinstance(model.engine, EngineOptions):
        name = model.engine.given[0]
        update["engine"] = model.engine.model_copy(update={name: _options_at_home(getattr(model.engine, name), folder)})
    return model.model_copy(update=update)


def _options_at_home(options: Strict, folder: pathlib.Path) -> Strict:
    update = {}
    if path := getattr(options, "environment", None):
        update["environment"] = _full(path, folder)
    if isinstance(options, CustomOptions) and (options.folder or options.command):
        update["folder"] = _full(options.folder or ".", folder)
    return options.model_copy(update=update)


def _source_at_home(source: str, folder: pathlib.Path) -> str:
    scheme, _, path = source.strip().partition(":")
    if scheme.lower() != "file" or not path or path.startswith("//"):  # file://host/path is in full already
        return source
    return f"file:{_full(path, folder)}"


def _full(path: str, folder: pathlib.Path) -> str:
    # Textual only: links are left as they are, so that messages show the path that was written.
    return os.path.abspath(folder / os.path.expanduser(path))
