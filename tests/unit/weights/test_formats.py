"""Which of several files is taken."""

import re

import pytest

from headrace.errors import WeightsError
from headrace.weights.formats import choose, parts, quantization

SPLIT = ("big-Q4_K_M-00001-of-00002.gguf", "big-Q4_K_M-00002-of-00002.gguf")


@pytest.mark.parametrize(
    ("names", "pick", "taken"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-f16.gguf"], None, ("m-Q4_K_M.gguf",)),
        (["m-Q8_0.gguf", "m-Q4_0.gguf"], None, ("m-Q4_0.gguf",)),
        (["m-fp16.gguf", "m-Q8_0.gguf"], None, ("m-Q8_0.gguf",)),
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "q8_0", ("m-Q8_0.gguf",)),
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "m-Q8_0.gguf", ("m-Q8_0.gguf",)),
        # a projector for images is no model, though it is the smallest file
        (["mmproj-m-f16.gguf", "m-Q2_K.gguf"], None, ("m-Q2_K.gguf",)),
        # all parts of a split model
        ([*SPLIT, "big-Q8_0.gguf"], None, SPLIT),
        (list(SPLIT), "Q4_K_M", SPLIT),
        # nothing in the name says the quantization
        (["model.gguf"], None, ("model.gguf",)),
    ],
)
def test_the_gguf_that_is_taken(names, pick, taken):
    assert choose(names, ("gguf",), pick, "it").weights == taken


def test_the_files_beside_safetensors_come_along():
    names = ["model.safetensors", "config.json", "vocab.txt", "README.md", "pytorch_model.bin", "onnx/model.safetensors"]
    choice = choose(names, ("safetensors",), None, "it")
    assert choice.weights == ("model.safetensors",)
    assert choice.side == ("config.json", "vocab.txt")


@pytest.mark.parametrize(
    ("names", "pick", "reason"),
    [
        (["model.safetensors", "config.json"], None, "Look for a repository of the same name that ends in -GGUF"),
        (["pytorch_model.bin", "config.json"], None, "a pickle can run code when loaded. Use safetensors"),
        (["README.md"], None, "carries no GGUF weights. It has README.md"),
        ([], None, "It has nothing"),
        (["m-Q8_0.gguf"], "Q4_0", 'no GGUF file "Q4_0". It has m-Q8_0.gguf'),
        (SPLIT[:1], None, "big-Q4_K_M-00002-of-00002.gguf is missing"),
    ],
)
def test_why_nothing_is_taken(names, pick, reason):
    with pytest.raises(WeightsError, match=re.escape(reason)):
        choose(names, ("gguf",), pick, "it")


def test_the_formats_are_asked_for_in_order():
    names = ["m.gguf", "model.safetensors"]
    assert choose(names, ("safetensors", "gguf"), None, "it").format == "safetensors"
    assert choose(names, ("gguf", "safetensors"), None, "it").format == "gguf"


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("gemma-3-270m-q4_k_m.gguf", "Q4_K_M"),
        ("m-fp16.gguf", "F16"),
        ("m.BF16.gguf", "BF16"),
        ("m-IQ3_XXS.gguf", "IQ3_XXS"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("m.gguf", None),
    ],
)
def test_the_quantization_in_a_name(name, quant):
    assert quantization(name) == quant


def test_a_file_that_is_not_split_is_its_only_part():
    assert parts("m.gguf") == ("m.gguf",)
