"""The Hugging Face hub, through the real huggingface_hub against a fake hub."""

import hashlib
import json
import os
import re

import pytest
from small_files import gguf, safetensors

from headrace.errors import ModelError, WeightsError
from headrace.facts.model import of
from headrace.weights.cache import Cache
from headrace.weights.remote import describe
from headrace.weights.source import parse

MODEL = gguf(padding=1000)


def ignore(progress):
    """Progress that nobody looks at."""


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_the_preferred_file_is_fetched_at_the_commit_of_the_branch(cache, hub):
    commit = hub.add("org/m-GGUF", {"m-Q8_0.gguf": b"x", "m-Q4_K_M.gguf": MODEL, "README.md": b"hello"})
    seen = []
    weights = cache.fetch(parse("hf:org/m-GGUF"), seen.append)
    assert weights.revision == commit
    assert weights.path.startswith(cache.root)
    assert weights.path.endswith(f"{commit}/m-Q4_K_M.gguf")
    assert weights.files[0].sha256 == hashlib.sha256(MODEL).hexdigest()
    assert seen[-1].done_bytes == seen[-1].total_bytes == len(MODEL)
    assert hub.downloads() == 1


def test_what_is_there_needs_no_network(cache, hub):
    commit = hub.add("org/m", {"m.gguf": MODEL})
    weights = cache.fetch(parse("hf:org/m"), ignore)
    hub.requests.clear()
    assert cache.fetch(parse("hf:org/m"), ignore).path == weights.path
    # also by its commit, which nobody has asked for before
    assert cache.fetch(parse(f"hf:org/m@{commit}"), ignore, offline=True).path == weights.path
    assert hub.requests == []


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", None])
def test_what_is_not_there_is_not_fetched_when_offline(cache, hub, tmp_path, name):
    hub.add("org/m", {"m.gguf": MODEL})
    offline = Cache(str(tmp_path / "c"), environment={name: "1"} if name else {}, endpoint=hub.url)
    with pytest.raises(WeightsError, match="not in the cache"):
        offline.fetch(parse("hf:org/m"), ignore, offline=name is None)
    assert hub.requests == []


def test_a_revision_and_a_file_can_be_picked(cache, hub):
    hub.add("org/m", {"m-Q4_0.gguf": MODEL, "m-Q8_0.gguf": gguf()}, branch="v1")
    hub.add("org/m", {"other.gguf": MODEL})
    assert cache.fetch(parse("hf:org/m@v1:Q8_0"), ignore).path.endswith("m-Q8_0.gguf")
    assert cache.fetch(parse("hf:org/m@v1:m-Q4_0.gguf"), ignore).path.endswith("m-Q4_0.gguf")


def test_all_parts_of_a_split_model_come(cache, hub):
    first, second = "q/m-Q4_0-00001-of-00002.gguf", "q/m-Q4_0-00002-of-00002.gguf"
    hub.add("org/m", {second: MODEL, first: gguf(), "q/config.json": b"{}"})
    weights = cache.fetch(parse("hf:org/m"), ignore)
    assert [file.name for file in weights.files] == [first[2:], second[2:]]
    assert weights.path.endswith(first[2:])
    # the header is the first part's, the tensors are those of both
    assert weights.gguf is not None
    assert len(weights.gguf.tensors) == 2


def test_safetensors_come_with_what_describes_them(cache, hub):
    tensors = safetensors({"w": ("F32", [500], b"\0" * 2000)})
    config = json.dumps({"model_type": "llama"}).encode()
    files = {"model.safetensors": tensors, "config.json": config, "chat_template.jinja": b"{{ x }}", "pytorch_model.bin": b"x"}
    hub.add("org/m", files)
    weights = cache.fetch(parse("hf:org/m"), ignore, formats=("safetensors",))
    assert sorted(os.listdir(weights.path)) == ["chat_template.jinja", "config.json", "model.safetensors"]
    assert weights.config == {"model_type": "llama"}
    assert weights.tensors[0].name == "w"
    assert weights.chat_template


BERT = {
    **{"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 16},
    **{"intermediate_size": 16, "max_position_embeddings": 514, "position_embedding_type": "absolute"},
}


def embedding(**files):
    """An embedding model as sentence-transformers keeps it."""
    return {
        "model.safetensors": safetensors({"w": ("F32", [500], b"\0" * 2000)}),
        "config.json": json.dumps(BERT).encode(),
        "merges.txt": b"",
        "modules.json": b"[]",
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": safetensors({"linear.weight": ("F32", [300], b"\0" * 1200)}),
        "tokenizer_config.json": b'{"model_max_length": 512}',
        **files,
    }


def test_what_an_embedding_model_does_behind_its_layers_comes_along_and_no_code(cache, hub):
    others = {"modeling_own.py": b"x", "2_Dense/own.py": b"x", "2_Dense/pytorch_model.bin": b"x", "onnx/model.onnx": b"x"}
    hub.add("org/m", embedding() | others)
    weights = cache.fetch(parse("hf:org/m"), ignore, formats=("safetensors",))
    here = {os.path.relpath(os.path.join(at, name), weights.path) for at, _, names in os.walk(weights.path) for name in names}
    assert here == set(embedding())
    assert [tensor.name for tensor in weights.tensors] == ["w"]


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 512),  # RoBERTa's 514 are two more than its tokenizer gives
        ({"sentence_bert_config.json": b'{"max_seq_length": 256}'}, 256),
        ({"sentence_bert_config.json": b'{"max_seq_length": 1024}'}, 512),
        ({"sentence_bert_config.json": b'{"max_seq_length": null}'}, 512),
        ({"tokenizer_config.json": b'{"model_max_length": 1000000000000000019884624838656}'}, 514),
    ],
)
def test_the_longest_input_is_what_vllm_starts_with_before_and_after_fetching(cache, hub, files, limit):
    hub.add("org/m", embedding(**files))
    there = describe(parse("hf:org/m"), {"HF_ENDPOINT": hub.url}, ignore)
    here = cache.fetch(parse("hf:org/m"), ignore, formats=("safetensors",))
    assert of(there).context == of(here).context == limit


def test_a_quantization_in_a_file_of_its_own_comes_along_and_is_seen(cache, hub):
    stated = json.dumps({"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}).encode()
    config = json.dumps({**BERT, "model_type": "llama"}).encode()
    hub.add("org/m", {**embedding(), "config.json": config, "hf_quant_config.json": stated})
    weights = cache.fetch(parse("hf:org/m"), ignore, formats=("safetensors",))
    assert content(os.path.join(weights.path, "hf_quant_config.json")) == stated
    assert of(weights).quantization == "fp8"


def copies(listed="model-00001-of-00002.safetensors"):
    """The same weights as one file and as two, with an index of the two."""
    halves = {name: safetensors({name: ("F32", [500], b"\0" * 2000)}) for name in (listed, "model-00002-of-00002.safetensors")}
    index = json.dumps({"weight_map": {name: name for name in halves}}).encode()
    whole = safetensors({"w": ("F32", [1000], b"\0" * 4000)})
    return {**halves, "model.safetensors": whole, "config.json": b"{}", "model.safetensors.index.json": index}


def test_of_weights_that_are_there_twice_those_of_the_index_are_taken(cache, hub, tmp_path):
    hub.add("org/m", copies())
    here = cache.fetch(parse("hf:org/m"), ignore, formats=("safetensors",))
    assert not hub.downloads("/model.safetensors")
    assert {file.name: file.size for file in here.files} == {
        file.name: file.size for file in describe(parse("hf:org/m"), {"HF_ENDPOINT": hub.url}, ignore).files
    }
    for name, data in copies().items():
        (tmp_path / name).write_bytes(data)
    own = cache.fetch(parse(f"file:{tmp_path}"), ignore, formats=("safetensors",))
    assert sum(tensor.elements for tensor in own.tensors) == sum(tensor.elements for tensor in here.tensors) == 1000


@pytest.mark.parametrize("listed", ["own.py", "../model-00001-of-00002.safetensors", "a/model-00001-of-00002.safetensors"])
def test_an_index_brings_nothing_but_weights_beside_it(cache, hub, listed):
    hub.add("org/m", copies(listed))
    with pytest.raises(ModelError, match=re.escape(f"its index names {listed}, which")):
        cache.fetch(parse("hf:org/m"), ignore, formats=("safetensors",))
    assert not hub.downloads(listed)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.safetensors": b"", "config.json": b'{"model_type": "llama"}'}, "Look for a repository of the same name"),
        ({"pytorch_model.bin": b""}, "a pickle can run code when loaded"),
        # only the small file is fetched to find this out
        (
            {"model.safetensors": b"", "config.json": b'{"model_type": "bert", "hidden_act": "relu"}'},
            "cannot be converted to GGUF: \"hidden_act\" is 'relu'",
        ),
    ],
)
def test_a_repository_without_gguf_says_what_it_has(cache, hub, files, reason):
    hub.add("org/m", files)
    with pytest.raises(WeightsError, match=re.escape(reason)):
        cache.fetch(parse("hf:org/m"), ignore)
    assert not hub.downloads("model.safetensors")


def test_a_cut_download_is_resumed(cache, hub):
    hub.add("org/m", {"m.gguf": MODEL})
    hub.cut_after = 1000
    cache.fetch(parse("hf:org/m"), ignore)
    ranges = [headers.get("range") for _, path, headers in hub.requests if path.endswith("m.gguf")]
    assert ranges == [None, "bytes=1000-"]


def test_bytes_that_are_not_those_of_the_listing_are_refused(cache, hub):
    commit = hub.add("org/m", {"m.gguf": MODEL})
    wrong = b"GGUF" + MODEL[4:-1] + b"?"
    hub.files[f"/org/m/resolve/{commit}/m.gguf"] = ("application/octet-stream", wrong)
    with pytest.raises(WeightsError, match=f"has the sha256 {hashlib.sha256(wrong).hexdigest()} where"):
        cache.fetch(parse("hf:org/m"), ignore)


def test_a_gated_repository_needs_a_token_that_is_never_shown(cache, hub, tmp_path):
    hub.add("org/m", {"m.gguf": MODEL}, gated=True)
    with pytest.raises(WeightsError, match="set HF_TOKEN"):
        cache.fetch(parse("hf:org/m"), ignore)
    cache = Cache(str(tmp_path / "c"), environment={"HF_TOKEN": hub.token}, endpoint=hub.url)
    assert cache.fetch(parse("hf:org/m"), ignore).path
    assert hub.token not in repr(cache._login)
    stored = [os.path.join(path, name) for path, _, names in os.walk(cache.root) for name in names]
    assert not any(hub.token.encode() in content(path) for path in stored)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf:org/nothing", "The repository org/nothing is not on the hub, or is private. Check the spelling"),
        ("hf:org/m@nothing", 'has no revision "nothing"'),
        ("hf:org/m:Q8_0", 'no GGUF file "Q8_0". It has m.gguf'),
    ],
)
def test_what_is_not_there_is_named(cache, hub, source, reason):
    hub.add("org/m", {"m.gguf": MODEL})
    with pytest.raises(WeightsError, match=re.escape(reason)):
        cache.fetch(parse(source), ignore)


def test_a_hub_that_does_not_answer_is_named(tmp_path):
    away = Cache(str(tmp_path), environment={}, endpoint="http://127.0.0.1:1")
    with pytest.raises(WeightsError, match=re.escape("The hub at http://127.0.0.1:1 cannot be asked about org/m")):
        away.fetch(parse("hf:org/m"), ignore)


def test_the_fake_hub_is_enough_for_huggingface_hub_itself(hub, tmp_path):
    """So that others can test with it what they do with the library: listing, small and large files, missing ones."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    commit = hub.add("org/m", {"m.gguf": MODEL, "sub/config.json": b"{}"})
    listed = HfApi(endpoint=hub.url, token=False).list_repo_tree("org/m", recursive=True)
    assert {file.path: file.size for file in listed} == {"m.gguf": len(MODEL), "sub/config.json": 2}
    for name, data in (("m.gguf", MODEL), ("sub/config.json", b"{}")):
        path = hf_hub_download("org/m", name, endpoint=hub.url, cache_dir=tmp_path, token=False)
        assert commit in path
        assert content(path) == data
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("org/m", "nothing", endpoint=hub.url, cache_dir=tmp_path, token=False)
