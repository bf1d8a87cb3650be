"""What is no language model and yet data only comes through the same cache: ONNX graphs with their files, skops files."""

import hashlib
import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
from small_files import gguf, wheel

from headrace.errors import HeadraceError, ModelError, WeightsError
from headrace.weights.cache import Cache
from headrace.weights.formats import choose
from headrace.weights.model import Progress
from headrace.weights.remote import describe
from headrace.weights.source import parse
from tests.contract import onnx_writer

GRAPH = onnx_writer.linear()
SPLIT, DATA = onnx_writer.outside("model.onnx_data")
DATA = DATA.ljust(5000, b"\0")
ONNX = ("onnx",)


def ignore(progress: Progress) -> None:
    """Progress that nobody looks at."""


def skops() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("schema.json", "{}")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("names", "pick", "taken"),
    [
        (["m.onnx", "README.md", "pytorch_model.bin"], None, ("m.onnx",)),
        # exporters put many beside each other: the one that is called model is the plain one
        (["onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_q4.onnx"], None, ("onnx/model.onnx",)),
        (["onnx/model.onnx", "onnx/model_fp16.onnx"], "model_fp16.onnx", ("onnx/model_fp16.onnx",)),
        (["a/model.onnx", "b/model.onnx"], "b/model.onnx", ("b/model.onnx",)),
        # its data, and not that of its neighbour
        (["m.onnx", "m.onnx_data", "m.onnx.data", "m2.onnx_data"], "m.onnx", ("m.onnx", "m.onnx.data", "m.onnx_data")),
        # what would be written outside of the cache when a wheel has such a name
        (["m.onnx", "m.onnx_data/../../../m"], None, ("m.onnx",)),
    ],
)
def test_the_graph_that_is_taken(names: list[str], pick: str | None, taken: tuple[str, ...]) -> None:
    choice = choose(names, ONNX, pick, "it")
    assert choice.weights + choice.side == taken


@pytest.mark.parametrize(
    ("names", "pick", "said"),
    [
        (["a.onnx", "b.onnx"], None, "has several: a.onnx, b.onnx. Pick one of these behind the source, as in …:a.onnx."),
        (["a/model.onnx", "b/model.onnx"], None, "has several: a/model.onnx, b/model.onnx."),
        (["a/m.onnx", "b/m.onnx"], "m.onnx", 'has several files "m.onnx". It has a/m.onnx, b/m.onnx.'),
        (["a.onnx"], "c.onnx", 'has no file "c.onnx". It has a.onnx.'),
        (["README.md"], None, "carries no ONNX weights. It has README.md."),
        (["model.pkl"], None, "may be a pickle"),
        (["m.ONNX"], None, "carries no ONNX weights"),  # what is loaded how goes by the ending: it is what it is
    ],
)
def test_why_no_graph_is_taken(names: list[str], pick: str | None, said: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(said)):
        choose(names, ONNX, pick, "it")


def test_who_wants_a_language_model_and_names_a_graph_is_told_how_to_serve_it() -> None:
    with pytest.raises(WeightsError, match=r"has onnx/m\.onnx, which is no language model.*…:onnx/m\.onnx"):
        choose(["onnx/m.onnx"], ("gguf",), None, "it")


def test_a_graph_comes_with_the_files_that_it_names_and_no_others(cache, hub) -> None:
    others = {"onnx/model_fp16.onnx": b"x" * 3000, "model.safetensors": b"y", "handler.py": b"import os", "onnx/w.bin": b"z"}
    commit = hub.add("org/m", {"onnx/model.onnx": SPLIT, "onnx/model.onnx_data": DATA, **others})
    seen: list[Progress] = []
    found = cache.fetch(parse("hf:org/m"), seen.append, formats=ONNX)
    assert (found.format, found.revision) == ("onnx", commit)
    assert [file.name for file in found.files] == ["model.onnx", "model.onnx_data"]
    assert Path(found.path).read_bytes() == SPLIT
    assert Path(found.path).with_name("model.onnx_data").read_bytes() == DATA
    assert seen[-1].done_bytes == seen[-1].total_bytes == found.bytes == len(SPLIT) + len(DATA)
    assert hub.downloads() == 2
    # and it is there from now on, by any name of it
    hub.requests.clear()
    for text in ("hf:org/m", f"hf:org/m@{commit}"):
        assert cache.fetch(parse(text), ignore, formats=ONNX, offline=True).path == found.path
    assert hub.requests == []


def test_data_under_a_name_of_its_own_is_found_by_what_the_graph_says(cache, hub) -> None:
    graph, data = onnx_writer.outside("w.bin")
    hub.add("org/m", {"m.onnx": graph, "w.bin": data})
    assert [file.name for file in cache.fetch(parse("hf:org/m:m.onnx"), ignore, formats=ONNX).files] == ["m.onnx", "w.bin"]


def test_graphs_of_the_same_name_in_two_folders_are_both_kept(cache, hub) -> None:
    graphs = {"a/model.onnx": GRAPH.replace(b"\x00\x00\x80?", b"\x00\x00\x00@"), "b/model.onnx": GRAPH}
    assert len(set(graphs.values())) == 2
    hub.add("org/m", graphs)
    found = {name: cache.fetch(parse(f"hf:org/m:{name}"), ignore, formats=ONNX).path for name in graphs}
    assert {name: Path(path).read_bytes() for name, path in found.items()} == graphs


def test_a_graph_whose_data_is_not_there_is_refused(cache, hub) -> None:
    hub.add("org/m", {"model.onnx": SPLIT})
    with pytest.raises(WeightsError, match=r"is not complete: model\.onnx keeps weights in model\.onnx_data"):
        cache.fetch(parse("hf:org/m"), ignore, formats=ONNX)


def test_a_graph_that_would_read_other_files_is_refused(cache, hub) -> None:
    hub.add("org/m", {"model.onnx": onnx_writer.outside("../../../../etc/passwd")[0]})
    with pytest.raises(ModelError, match="not in its own folder"):
        cache.fetch(parse("hf:org/m"), ignore, formats=ONNX)


def test_a_cut_download_goes_on_where_it_was(cache, hub) -> None:
    hub.add("org/m", {"model.onnx": SPLIT, "model.onnx_data": DATA})
    hub.cut_after = 100
    found = cache.fetch(parse("hf:org/m"), ignore, formats=ONNX)
    assert Path(found.path).read_bytes() == SPLIT
    assert any("range" in headers for _, _, headers in hub.requests)


def test_what_does_not_fit_on_the_disk_is_not_begun(hub, tmp_path) -> None:
    hub.add("org/m", {"model.onnx": SPLIT, "model.onnx_data": DATA})
    small = Cache(str(tmp_path / "c"), environment={}, endpoint=hub.url, free=lambda path: len(SPLIT) + 1000)
    with pytest.raises(WeightsError, match="of disk space"):
        small.fetch(parse("hf:org/m"), ignore, formats=ONNX)
    assert hub.downloads("model.onnx_data") == 0


def test_its_size_is_known_without_fetching_it(hub) -> None:
    commit = hub.add("org/m", {"model.onnx": SPLIT, "model.onnx_data": DATA})
    hub.files["/m.onnx"] = ("application/octet-stream", GRAPH)
    there = describe(parse("hf:org/m"), {"HF_ENDPOINT": hub.url}, ignore, formats=ONNX)
    assert (there.format, there.revision, there.bytes) == ("onnx", commit, len(SPLIT) + len(DATA))
    assert hub.downloads() == 0
    assert describe(parse(f"{hub.url}/m.onnx"), {}, ignore, formats=ONNX).bytes == len(GRAPH)


def test_what_a_language_models_wish_has_found_serves_a_longer_one(cache, hub) -> None:
    hub.add("org/m", {"m.gguf": gguf(padding=1000), "m.onnx": GRAPH})
    first = cache.fetch(parse("hf:org/m"), ignore)
    assert cache.fetch(parse("hf:org/m"), ignore, formats=("gguf", "onnx", "skops"), offline=True).path == first.path
    assert cache.fetch(parse("hf:org/m"), ignore, formats=("onnx", "skops")).format == "onnx"


@pytest.mark.parametrize("name", ["m.onnx", "m.skops"])
def test_what_a_long_wish_has_found_serves_a_shorter_one(cache, hub, name: str) -> None:
    """A lock says the task, and with it that no GGUF is meant."""
    hub.add("org/m", {name: GRAPH if name == "m.onnx" else skops()})
    first = cache.fetch(parse("hf:org/m"), ignore, formats=("gguf", "onnx", "skops"))
    for text in ("hf:org/m", f"hf:org/m@{first.revision}"):
        for shorter in (("onnx", "skops"), (first.format,), (first.format, "gguf")):
            assert cache.fetch(parse(text), ignore, formats=shorter, offline=True).path == first.path


def test_a_skops_file_is_one_and_a_pickle_by_that_name_is_not_kept(cache, hub) -> None:
    hub.add("org/good", {"model.skops": skops()})
    hub.add("org/bad", {"model.skops": pickle.dumps({"a": 1})})
    assert cache.fetch(parse("hf:org/good"), ignore, formats=("onnx", "skops")).path.endswith("/model.skops")
    with pytest.raises(ModelError, match="is no file that skops wrote"):
        cache.fetch(parse("hf:org/bad"), ignore, formats=("onnx", "skops"))
    assert [folder for folder, _, names in os.walk(os.path.join(cache.root, "models")) if names and "bad" in folder] == []


@pytest.mark.parametrize("name", ["m.onnx", "my%20model.onnx", ".onnx", "-.onnx", "m.onnx?token=secret", f"{'long' * 50}.onnx"])
def test_a_file_at_a_url(cache, hub, name: str) -> None:
    for each in ("m", "my model", "", "-", "long" * 50):
        hub.files[f"/dir/{each}.onnx"] = ("application/octet-stream", GRAPH)
    digest = hashlib.sha256(GRAPH).hexdigest()
    found = cache.fetch(parse(f"{hub.url}/dir/{name}"), ignore, formats=ONNX)
    assert found.revision == digest
    assert found.path.endswith(".onnx")
    assert Path(found.path).read_bytes() == GRAPH
    pinned = cache.fetch(parse(f"{hub.url}/dir/{name}#sha256={digest}"), ignore, formats=ONNX, offline=True)
    assert pinned.path == found.path


def test_a_gguf_with_a_space_in_its_name_is_one(cache, hub) -> None:
    hub.files["/my model.gguf"] = ("application/octet-stream", gguf())
    found = cache.fetch(parse(f"{hub.url}/my%20model.gguf"), ignore)
    assert Path(found.path).name == "my-model.gguf"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/m.onnx", b"<!DOCTYPE html><title>Log in</title>", "no ONNX graph"),
        ("/m.onnx", SPLIT, "keeps weights in model.onnx_data beside it"),
        ("/m.skops", pickle.dumps(1), "is no file that skops wrote"),
        ("/m.onnx#sha256=" + "0" * 64, GRAPH, "where " + "0" * 64 + " was expected"),
    ],
)
def test_what_a_url_gives_that_cannot_be_served_is_not_kept(cache, hub, path: str, body: bytes, said: str) -> None:
    hub.files[path.partition("#")[0]] = ("application/octet-stream", body)
    with pytest.raises(HeadraceError, match=re.escape(said)):
        cache.fetch(parse(hub.url + path), ignore, formats=("onnx", "skops"))
    assert [name for _, _, names in os.walk(os.path.join(cache.root, "models")) for name in names] == []


def test_a_graph_out_of_a_package(cache, hub, package) -> None:
    package("some-onnx", {"1.0": wheel({"some_onnx/model.onnx": SPLIT, "some_onnx/model.onnx_data": DATA})})
    found = cache.fetch(parse("pypi:some-onnx"), ignore, formats=ONNX)
    assert (found.format, found.revision) == ("onnx", "1.0")
    assert Path(found.path).with_name("model.onnx_data").read_bytes() == DATA
