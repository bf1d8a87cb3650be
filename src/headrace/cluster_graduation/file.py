"""The user's file as it is once a model has moved: as it was written, but for the keys that say so."""

from collections.abc import Mapping

from headrace.errors import UsageError
from headrace.importing.base import At
from headrace.lint.base import Edit
from headrace.lint.edit import as_meant, edited
from headrace.lint.parse import parse


def graduated(
    text: str, file: str, model: str, changes: Mapping[str, object], called: str | None, target: str | None = None
) -> str:
    """`text` with other values for keys of a model, what its objects are called (None: as the model), and with another target
    for it, where one is named.

    Raises UsageError where that cannot be written without touching anything else.
    """
    documents = parse(text, file).documents
    if len(documents) != 1:
        raise UsageError(f"{file} has {len(documents)} documents, and a spec is one.")
    for edit in _model_edits(documents[0], model, changes):  # one at a time: two may be added at the same place
        text = _made(text, file, edit)
    for key, value in (("names", called), *((("targets", target),) if target else ())):
        for edit in _by_model(parse(text, file).documents[0], key, model, value):
            text = _made(text, file, edit)
    return text


def _model_edits(root: At, model: str, changes: Mapping[str, object]) -> list[Edit]:
    at = root.get("models", model)
    if changes and isinstance(at.value, str):
        return [Edit("set", at, new={"source": at.value, **changes})]
    return [_put(at, key, value) for key, value in changes.items() if at.get(key).value != value]


def _by_model(root: At, key: str, model: str, value: str | None) -> list[Edit]:
    """Of `kubernetes.KEY`, a mapping by model; without a value the model goes from it."""
    found = root.get("kubernetes", key)
    there = found.get(model)
    if value == there.value:
        return []
    if value is None:
        return [Edit("delete", found if isinstance(found.value, dict) and len(found.value) == 1 else there)]
    if found.value is not None:
        return [_put(found, model, value)]
    if root.get("kubernetes").value is not None:
        return [Edit("add", root.get("kubernetes"), key, {model: value})]
    return [Edit("add", root, "kubernetes", {key: {model: value}})]


def _put(at: At, key: str, value: object) -> Edit:
    return Edit("set", at.get(key), new=value) if at.get(key).value is not None else Edit("add", at, key, value)


def _made(text: str, file: str, edit: Edit) -> str:
    """The edit is of an earlier text with the same values at its path."""
    root = parse(text, file).documents[0]
    again = Edit(edit.how, root.get(*map(str, edit.at.path)), edit.old, edit.new)
    after, made = edited(text, [[again]])
    if not made or not as_meant(text, after, [again]):
        path = ".".join(map(str, edit.at.path))
        what = {"add": f"{path}.{edit.old}: {edit.new}".lstrip("."), "delete": f"no {path}"}.get(edit.how, f"{path}: {edit.new}")
        raise UsageError(
            f"{file}:{again.at.line}: {what} cannot be written there without touching what is around it.",
            "Write it, save it, do not apply it, and graduate without --to: then the file says what the model is to be.",
        )
    return after
