"""A fetch that broke off goes on with what is missing, also on a disk that has room for no more than that."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from small_files import gguf, safetensors

from headrace.errors import WeightsError
from headrace.testing.hub import FakeHub
from headrace.weights.cache import Cache
from headrace.weights.model import Progress
from headrace.weights.remote import describe
from headrace.weights.source import parse

NAMES = [f"model-{n:05d}-of-00005.safetensors" for n in range(1, 6)]
SHARDS = {name: safetensors({f"{n}.weight": ("U8", [600_000], bytes([n]) * 600_000)}) for n, name in enumerate(NAMES)}
SHARD = len(SHARDS[NAMES[0]])
REPOSITORY = {
    **SHARDS,
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors.index.json": json.dumps({"weight_map": {f"{n}.weight": name for n, name in enumerate(NAMES)}}).encode(),
}
SAFETENSORS = ("safetensors",)


def ignore(progress: Progress) -> None:
    """Progress that nobody looks at."""


def disk(capacity: int) -> Callable[[str], int]:
    """The bytes free on a disk of `capacity` that has nothing but the cache."""

    def free(root: str) -> int:
        return capacity - sum(file.stat().st_size for file in Path(root).rglob("*") if file.is_file())

    return free


def die_midway(root: str, url: str, after: int) -> None:
    def watch(progress: Progress) -> None:
        if progress.done_bytes > after:
            os._exit(1)

    Cache(root, environment={}, endpoint=url).fetch(parse("hf:org/m"), watch, formats=SAFETENSORS)


def ranges(hub: FakeHub, ending: str) -> list[str | None]:
    """What was asked for of a file, request by request; None is all of it."""
    return [headers.get("range") for _, path, headers in hub.requests if path.endswith(ending)]


def test_shards_that_a_killed_process_fetched_are_kept_and_need_no_room(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("org/m", REPOSITORY)
    root, midway = str(tmp_path / "cache"), 3 * SHARD + SHARD // 2
    killed = multiprocessing.get_context("spawn").Process(target=die_midway, args=(root, hub.url, midway))
    killed.start()
    killed.join(60)
    assert killed.exitcode == 1
    cache = Cache(root, environment={}, endpoint=hub.url, free=disk(len(SHARDS) * SHARD * 5 // 4))
    there = describe(parse("hf:org/m"), {"HF_ENDPOINT": hub.url}, ignore)
    (part,) = (tmp_path / "cache/partial").rglob("*.part")
    assert SHARD // 2 < (came := part.stat().st_size) < SHARD
    assert cache.missing(there) == 2 * SHARD - came + len(REPOSITORY["config.json"])
    hub.requests.clear()
    seen: list[Progress] = []
    weights = cache.fetch(parse("hf:org/m"), seen.append, formats=SAFETENSORS)
    assert {file.name: (Path(weights.path) / file.name).read_bytes() for file in weights.files} == REPOSITORY
    assert {file.name: file.sha256 for file in weights.files if file.name in SHARDS} == {
        file.name: file.sha256 for file in there.files if file.name in SHARDS
    }
    assert [ranges(hub, name) for name in NAMES] == [[], [], [], [f"bytes={came}-"], [None]]
    assert seen[-1].done_bytes == seen[-1].total_bytes == weights.bytes
    assert cache.missing(there) == 0


def test_what_is_missing_still_has_to_fit(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("org/m", REPOSITORY)
    small = Cache(str(tmp_path / "c"), environment={}, endpoint=hub.url, free=disk(len(SHARDS) * SHARD - 1))
    with pytest.raises(WeightsError, match="of disk space"):
        small.fetch(parse("hf:org/m"), ignore, formats=SAFETENSORS)
    assert not hub.downloads(NAMES[0])


@pytest.mark.parametrize("changed", [False, True])
def test_a_part_at_a_url_is_fetched_again_only_if_it_changed(hub: FakeHub, cache: Cache, changed: bool) -> None:
    first, second = "/m-00001-of-00002.gguf", "/m-00002-of-00002.gguf"
    old, new = gguf(padding=1000), gguf(padding=2000)
    hub.files[first] = ("", old)
    source = parse(f"{hub.url}{first}")
    with pytest.raises(WeightsError, match="is not there"):
        cache.fetch(source, ignore)
    hub.files |= {first: ("", new if changed else old), second: ("", new)}
    assert cache.missing(describe(source, {}, ignore)) == len(new) + (len(new) - len(old) if changed else 0)
    hub.requests.clear()
    weights = cache.fetch(source, ignore)
    assert [file.size for file in weights.files] == [len(new) if changed else len(old), len(new)]
    # The server says that there is nothing behind what came, or sends another version as a whole (If-Range).
    assert ranges(hub, first) == [f"bytes={len(old)}-"]
    assert ranges(hub, second) == [None]
