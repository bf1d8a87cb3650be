"""Which GGUF files OpenVINO gets as they are, which are rewritten, and which are refused."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from headrace.runners.openvino_gguf import Unreadable, readable

KINDS = gguf.GGMLQuantizationType
NUMBERS = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)


def written(path, kind=KINDS.Q8_0, architecture="llama", tokenizer="gpt2", **more):
    """A GGUF that is small and whole, though no model: one matrix, one vector, a vocabulary."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(["a", "ß", "日"])
    writer.add_file_type(3)
    for key, value in more.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    data = NUMBERS if kind is KINDS.F32 else gguf.quants.quantize(NUMBERS, kind)
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", NUMBERS[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", [KINDS.Q8_0, KINDS.Q4_0, KINDS.F16])
def test_what_openvino_takes_as_it_is_stays(tmp_path, kind):
    model = written(tmp_path / "given.gguf", kind)
    assert readable(model, tmp_path) == model
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize(
    ("kind", "becomes", "error"),  # of what was read, at most: as a part of the largest number
    [
        (KINDS.Q4_1, KINDS.Q8_0, 1 / 254),
        (KINDS.Q5_0, KINDS.Q8_0, 1 / 254),
        (KINDS.Q5_1, KINDS.Q8_0, 1 / 254),
        (KINDS.BF16, KINDS.F16, 0),
        (KINDS.F32, KINDS.F16, 2**-11),
    ],
)
def test_anything_else_is_rewritten_and_says_the_same(tmp_path, kind, becomes, error):
    model = written(tmp_path / "given.gguf", kind)
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(readable(model, tmp_path)).tensors}
    assert after["blk.0.ffn_up.weight"].tensor_type is becomes
    for name, tensor in before.items():
        said, says = (gguf.quants.dequantize(each.data, each.tensor_type) for each in (tensor, after[name]))
        assert np.abs(said - says).max() <= error * np.abs(said).max() * 1.01
        assert said.shape == says.shape


def test_all_else_of_the_file_is_kept(tmp_path):
    model = written(tmp_path / "given.gguf", KINDS.Q4_1, **{"llama.context_length": 2048, "tokenizer.chat_template": "{{ x }}"})
    rewritten = gguf.GGUFReader(readable(model, tmp_path))
    found = {name: field.contents() for name, field in rewritten.fields.items() if not name.startswith("GGUF.")}
    assert found == {
        "general.architecture": "llama",
        "general.file_type": 7,
        "llama.context_length": 2048,
        "tokenizer.chat_template": "{{ x }}",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "ß", "日"],
    }


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"architecture": "gemma3"}, "not gemma3"),
        ({"tokenizer": "llama"}, "its tokenizer is llama"),
        ({"llama.rope.scaling.type": "yarn"}, "it scales its positions"),
        ({"split.count": 2}, "it is in several files"),
    ],
)
def test_what_openvino_would_get_wrong_is_refused(tmp_path, more, why):
    with pytest.raises(Unreadable, match=why):
        readable(written(tmp_path / "given.gguf", **more), tmp_path)


def test_no_scaling_is_no_scaling(tmp_path):
    model = written(tmp_path / "given.gguf", **{"llama.rope.scaling.type": "none", "split.count": 1})
    assert readable(model, tmp_path) == model


@pytest.mark.parametrize("bytes_kept", [0, 3, 100, 1_000, 5_000])
def test_a_file_that_broke_off_is_refused_with_the_cause(tmp_path, bytes_kept):
    model = written(tmp_path / "given.gguf")
    broken = Path(tmp_path / "broken.gguf")
    broken.write_bytes(model.read_bytes()[:bytes_kept])
    with pytest.raises(Unreadable, match="not a whole GGUF file"):
        readable(broken, tmp_path)
