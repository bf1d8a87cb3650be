"""A small BERT becomes GGUF: names, types, vocabulary; and why one does not."""

import json
import os
import re
import struct
import sys

import pytest
from small_files import safetensors

from headrace.errors import WeightsError
from headrace.weights import bert
from headrace.weights.cache import Cache
from headrace.weights.convert import to_gguf
from headrace.weights.headers import read_gguf
from headrace.weights.source import Source

CONFIG = {
    "model_type": "bert",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 4,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "vocab_size": 8,
}
WORDS = "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhouse\n##boat\n"
POOLING = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


def ignore(progress):
    """Progress that nobody looks at."""


def tensors(prefix="", without=""):
    shapes = {
        "embeddings.word_embeddings.weight": [8, 8],
        "embeddings.position_embeddings.weight": [4, 8],
        "embeddings.token_type_embeddings.weight": [2, 8],
        "embeddings.LayerNorm.weight": [8],
        "embeddings.LayerNorm.bias": [8],
        "pooler.dense.weight": [8, 8],
    }
    for part, out, inner in (
        *((f"attention.self.{kind}", 8, 8) for kind in ("query", "key", "value")),
        ("attention.output.dense", 8, 8),
        ("intermediate.dense", 16, 8),
        ("output.dense", 8, 16),
    ):
        shapes |= {f"encoder.layer.0.{part}.weight": [out, inner], f"encoder.layer.0.{part}.bias": [out]}
    for part in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes |= {f"encoder.layer.0.{part}.weight": [8], f"encoder.layer.0.{part}.bias": [8]}
    counted = {name: shape[0] * (shape[1:] or [1])[0] for name, shape in shapes.items()}
    floats = {prefix + name: ("F32", shapes[name], struct.pack(f"<{n}f", *range(n))) for name, n in counted.items()}
    floats.pop(prefix + without, None)
    return safetensors(floats | {"embeddings.position_ids": ("I64", [1, 4], b"\0" * 32)})


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    (path / "1_Pooling").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "vocab.txt").write_text(WORDS)
    (path / "model.safetensors").write_bytes(tensors())
    (path / "1_Pooling/config.json").write_text(json.dumps(POOLING))
    return path


def header(path):
    with open(path, "rb") as file:
        return read_gguf(file)


def test_a_bert_becomes_gguf(folder, tmp_path):
    to_gguf(str(folder), str(tmp_path / "out.gguf"), "small")
    found = header(tmp_path / "out.gguf")
    assert found.metadata["general.architecture"] == "bert"
    assert found.metadata["bert.attention.causal"] is False
    assert found.metadata["bert.pooling_type"] == 1
    assert found.metadata["tokenizer.ggml.bos_token_id"] == 3
    assert found.metadata["tokenizer.ggml.token_type"] == (3, 5, 3, 3, 3, 3, 1, 1)
    types = {tensor.name: tensor.type for tensor in found.tensors}
    assert set(types) == bert.expected_tensors(1)
    assert types["blk.0.ffn_up.weight"] == types["token_embd.weight"] == "F16"
    assert types["token_types.weight"] == types["position_embd.weight"] == types["blk.0.attn_q.bias"] == "F32"


def test_the_numbers_are_those_of_the_original(folder, tmp_path):
    from gguf import GGUFReader

    to_gguf(str(folder), str(tmp_path / "out.gguf"), "small")
    read = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    assert read["blk.0.ffn_down.weight"].tolist() == [[row * 16 + n for n in range(16)] for row in range(8)]


def test_the_same_bert_gives_the_same_bytes(folder, tmp_path):
    for name in ("a", "b"):
        to_gguf(str(folder), str(tmp_path / name), "small")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_names_may_start_with_bert(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(tensors("bert."))
    to_gguf(str(folder), str(tmp_path / "out.gguf"), "small")
    assert len(header(tmp_path / "out.gguf").tensors) == len(bert.expected_tensors(1))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("1_Pooling/config.json", "{}", "How the embedding model pools its token vectors is not said"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "or not known: ['pooling_mode_max_tokens']"),
        ("1_Pooling/config.json", "{", "cannot be read"),
        ("vocab.txt", "[PAD]\n", "vocab.txt has 1 words, config.json says 8"),
        ("vocab.txt", WORDS.replace("[MASK]", "mask"), "vocab.txt has no [MASK]"),
        ("config.json", json.dumps({**CONFIG, "layer_norm_eps": None}).replace("layer_norm_eps", "x"), "'layer_norm_eps'"),
        ("tokenizer_config.json", '{"do_lower_case": false}', "tells upper from lower case"),
        ("model.safetensors", tensors(without="encoder.layer.0.output.LayerNorm.bias"), "layer_output_norm.bias is missing"),
        ("second.safetensors", "", "has 2"),
    ],
)
def test_what_is_not_fully_described_is_not_converted(folder, tmp_path, name, content, reason):
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        (folder / name).write_text(content)
    with pytest.raises(WeightsError, match=re.escape(reason)):
        to_gguf(str(folder), str(tmp_path / "out.gguf"), "small")


@pytest.mark.parametrize("name", ["vocab.txt", "config.json"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"has no {name}"):
        to_gguf(str(folder), str(tmp_path / "out.gguf"), "small")


def test_without_the_extra_it_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(WeightsError, match=re.escape("pip install 'headrace[local]'")):
        to_gguf(str(folder), str(tmp_path / "out.gguf"), "small")


def test_a_users_bert_is_converted_into_the_cache_once(folder, tmp_path):
    cache, seen = Cache(str(tmp_path / "cache")), []
    before = sorted(os.listdir(folder))
    first = cache.fetch(Source("file", str(folder)), seen.append)
    assert first.format == "gguf"
    assert first.path.startswith(cache.root)
    assert sorted(os.listdir(folder)) == before
    assert [progress.what for progress in seen] == [f"converting file:{folder} to GGUF"]
    assert cache.fetch(Source("file", str(folder / "model.safetensors")), ignore).path == first.path


def test_a_users_bert_that_changed_is_converted_again(folder, tmp_path):
    cache = Cache(str(tmp_path / "cache"))
    first = cache.fetch(Source("file", str(folder)), ignore)
    (folder / "model.safetensors").write_bytes(tensors("bert."))
    assert cache.fetch(Source("file", str(folder)), ignore).path != first.path


def test_safetensors_stay_safetensors_where_they_will_do(folder, tmp_path):
    weights = Cache(str(tmp_path / "cache")).fetch(Source("file", str(folder)), ignore, formats=("gguf", "safetensors"))
    assert weights.format == "safetensors"
    assert weights.path == str(folder)


@pytest.mark.parametrize(
    ("word", "token"),
    [
        ("house", ("▁house", "NORMAL")),
        ("##boat", ("boat", "NORMAL")),
        ("[CLS]", ("[CLS]", "CONTROL")),
        ("[unused7]", ("[unused7]", "UNUSED")),
        # the bracket itself is a word like any other
        ("[", ("▁[", "NORMAL")),
        ("##", ("", "NORMAL")),
    ],
)
def test_the_form_of_a_word(word, token):
    assert bert.token(word) == token


@pytest.mark.parametrize(("config", "way"), [({"pooling_mode_cls_token": True}, "CLS"), (POOLING, "MEAN")])
def test_the_pooling_is_read(config, way):
    assert bert.pooling(config) == way
