"""The file of a gateway in a cluster: what is refused, and a change of it in a running gateway."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from headrace.reload import LARGEST_BYTES, Reloaded
from headrace.spec.gateway_file import GatewayFileError, read
from tests.no_descriptors import no_descriptors

GOOD: dict[str, Any] = {"namespace": "inference", "models": {"chat": {"service": "chat", "slots": 4}}}


def text(**more: Any) -> bytes:
    return json.dumps(GOOD | more).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"\xff", "Invalid"),
        (text(namespace="Not A Name"), "namespace: String should match"),
        (text(models={}), "names no model"),
        (text(model={}), "model: Extra inputs are not permitted"),
        (text(models={"chat": {"service": "chat"}}), "models.chat.slots: Field required"),
        (text(models={"chat": {"service": "chat", "slots": "4"}}), "models.chat.slots: Input should be a valid integer"),
        (text(models={"chat": {"service": "chat", "slots": 4, "speaks": "latin"}}), "models.chat.speaks"),
        (text(aliases={"gpt": "chta"}), 'alias gpt leads to "chta"'),
        (text(outside={"chat": {"url": ["http://there:1"]}}), '"chat" in `models` and in `outside`'),
        (text(outside={"far": {"source": "hf:a/b"}}), "outside.far has no `url`"),
        (text(outside={"far": {"url": ["http://there:1"], "key": "s3cret"}}), "outside.far.key"),
    ],
)
def test_a_wrong_file_says_where_and_never_what_may_be_secret(content: bytes, says: str) -> None:
    with pytest.raises(GatewayFileError) as caught:
        read(content, "gateway.json")
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(GatewayFileError) as caught:
        read(b'{"models": {"a": {}, "b": {}}}', "gateway.json")
    for path in ("namespace", "models.a.service", "models.a.slots", "models.b.service"):
        assert path in str(caught.value)


class Mounted:
    """A ConfigMap as the kubelet mounts it: the file is a link through `..data`, which is turned to a new folder at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.turns = folder, 0
        self.file = folder / "gateway.json"
        self.turn(text())
        self.file.symlink_to("..data/gateway.json")

    def turn(self, content: bytes) -> None:
        self.turns += 1
        made = self.folder / f"..{self.turns}"
        made.mkdir()
        (made / "gateway.json").write_bytes(content)
        (self.folder / "..new").symlink_to(made.name)
        os.replace(self.folder / "..new", self.folder / "..data")


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


def test_a_change_is_seen_once(mounted: Mounted) -> None:
    reloaded = Reloaded(mounted.file, {})
    first = reloaded.first()
    assert reloaded.again(first) is None
    mounted.turn(text(aliases={"gpt": "chat"}))
    second = reloaded.again(first)
    assert second is not None
    assert second.aliases == {"gpt": "chat"}
    assert reloaded.again(second) is None
    mounted.turn(text(aliases={"gpt": "chat"}))  # another ConfigMap of the same content
    assert reloaded.again(second) is None


@pytest.mark.parametrize("content", [b"{", text(models={}), b"x" * (LARGEST_BYTES + 1)], ids=["cut", "empty", "large"])
def test_a_wrong_change_is_told_once_and_put_right_by_the_next(mounted: Mounted, content: bytes) -> None:
    reloaded = Reloaded(mounted.file, {})
    first = reloaded.first()
    mounted.turn(content)
    with pytest.raises(GatewayFileError):
        reloaded.again(first)
    assert reloaded.again(first) is None
    mounted.turn(text(aliases={"gpt": "chat"}))
    assert reloaded.again(first) is not None


def test_a_file_that_is_gone_for_a_while_is_told_of_once(mounted: Mounted) -> None:
    reloaded = Reloaded(mounted.file, {})
    first = reloaded.first()
    (mounted.folder / "..data").unlink()
    with pytest.raises(GatewayFileError, match="cannot be read: No such file"):
        reloaded.again(first)
    assert reloaded.again(first) is None
    mounted.turn(text(aliases={"gpt": "chat"}))
    assert reloaded.again(first) is not None


def test_a_file_that_cannot_be_read_for_a_moment_is_told_of_once_and_read_when_it_can(mounted: Mounted) -> None:
    reloaded = Reloaded(mounted.file, {})
    first = reloaded.first()
    mounted.turn(text(aliases={"gpt": "chat"}))
    with no_descriptors():
        with pytest.raises(GatewayFileError, match="cannot be read: Too many open files"):
            reloaded.again(first)
        assert reloaded.again(first) is None
    assert reloaded.again(first) is not None


FIXED = {"listen": "0.0.0.0:1", "log": "stdout", "redis": "redis://cache", "currency": "EUR"}


def test_what_takes_new_pods_stays_as_it_is(mounted: Mounted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "headrace")
    reloaded = Reloaded(mounted.file, {})
    first = reloaded.first()
    mounted.turn(text(namespace="other", scaler={"port": 1}, gateway={**FIXED, "drain": 5}))
    second = reloaded.again(first)
    assert second is not None
    assert (second.namespace, second.scaler, second.gateway.listen) == (first.namespace, None, first.gateway.listen)
    assert second.gateway.drain == 5
    names = ", ".join(f"gateway.{name}" for name in FIXED)
    assert f"namespace, scaler, {names} of the file changed, which takes new pods" in caplog.text
    assert [getattr(second.gateway, name) for name in FIXED] == [getattr(first.gateway, name) for name in FIXED]


def test_a_key_that_the_environment_lacks_is_named_and_the_file_not_taken(mounted: Mounted) -> None:
    reloaded = Reloaded(mounted.file, {"HERE": "s3cret"})
    first = reloaded.first()
    mounted.turn(text(outside={"far": {"url": ["http://there:1"], "key": "env:THERE"}}))
    with pytest.raises(GatewayFileError, match="the environment has no THERE"):
        reloaded.again(first)
    mounted.turn(text(outside={"far": {"url": ["http://there:1"], "key": "env:HERE"}}))
    second = reloaded.again(first)
    assert second is not None
    assert reloaded.keys(second) == {"far": "s3cret"}
    assert "s3cret" not in repr(second)
