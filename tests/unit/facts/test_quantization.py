"""Every quantization met in the wild: its name, and the bytes it takes."""

import pytest

from headrace.errors import ModelError
from headrace.facts.model import from_config
from headrace.facts.modules import Modules
from headrace.weights.headers import Tensor

HIDDEN, VOCABULARY, WIDTH = 1024, 1000, 4096
PLAIN = {
    **{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": HIDDEN, "num_attention_heads": 8, "torch_dtype": "bfloat16"},
    **{"intermediate_size": WIDTH, "vocab_size": VOCABULARY, "max_position_embeddings": 4096},
}
LINEAR = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * WIDTH)
REST = 2 * (2 * VOCABULARY * HIDDEN + 5 * HIDDEN)
"""Bytes of the embedding, the output matrix and the norms, which stay in 16 bits."""


def facts(settings, **changes):
    return from_config({**PLAIN, "quantization_config": settings, **changes}, ())


@pytest.mark.parametrize(
    ("settings", "name", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq", 4 + 20 / 128),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "awq", 4 + 20 / 64),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq", 4 + 20 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "gptq-8bit", 8 + 24 / 128),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8 + 32 / 128**2),
        ({"quant_method": "fp8"}, "fp8", 8),
        ({"quant_method": "fbgemm_fp8"}, "fp8", 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "bnb-4bit", 4 + 8.125 / 64),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bnb-4bit", 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-8bit", 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 4.5),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", 8),
        # NVIDIA's hf_quant_config.json and older configs have no quant_method
        ({"quant_algo": "FP8"}, "fp8", 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": True}}},
                "ignore": ["lm_head"],
            },
            "int4",
            4 + 16 / 128,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
                "ignore": ["lm_head"],
            },
            "fp8",
            8,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
                "ignore": ["re:.*lm_head.*"],
            },
            "nvfp4",
            4.5,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}},
                "ignore": ["lm_head"],
            },
            "int8",
            8,
        ),
    ],
)
def test_the_name_and_the_bytes(settings, name, bits):
    found = facts(settings)
    assert found.quantization == name
    # a scale per row, or one per matrix, is less than 0.4 %
    assert found.weight_bytes - REST == pytest.approx(LINEAR * bits / 8, rel=0.004)
    assert found.parameters == LINEAR + REST // 2
    assert not any("not known" in doubt for doubt in found.doubts)


def test_mxfp4_holds_only_experts():
    moe = {"num_local_experts": 4, "num_experts_per_tok": 1, "model_type": "gpt_oss"}
    plain, packed = from_config({**PLAIN, **moe}, ()), facts({"quant_method": "mxfp4"}, **moe)
    assert packed.quantization == "mxfp4"
    assert plain.weight_bytes - packed.weight_bytes == plain.experts.parameters * (16 - 4.25) / 8


def test_what_is_kept_is_counted_unquantized():
    everywhere = facts({"quant_method": "fp8"}).weight_bytes
    kept = facts({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1.self_attn"]}).weight_bytes
    assert kept - everywhere == pytest.approx(4 * HIDDEN * HIDDEN, rel=0.001)


def test_each_module_may_have_its_own():
    layers = {f"model.layers.{n}.mlp.{name}_proj": {"quant_algo": "NVFP4"} for n in (0, 1) for name in ("up", "down", "gate")}
    found = facts({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers})
    assert found.quantization == "nvfp4"
    assert found.weight_bytes == REST + 2 * (4 * HIDDEN**2 * 2 + 3 * HIDDEN * WIDTH * 4.5 / 8)


@pytest.mark.parametrize("method", ["telepathy", "aqlm", "hqq", ""])
def test_an_unknown_method_is_said_and_never_makes_a_model_smaller(method):
    found = facts({"quant_method": method, "bits": 2})
    assert found.weight_bytes == from_config(PLAIN, ()).weight_bytes
    assert any("quantization" in doubt and "not known" in doubt for doubt in found.doubts)


def test_bits_that_no_format_has_are_refused():
    with pytest.raises(ModelError, match="1 to 16 make sense"):
        facts({"quant_method": "gptq", "bits": 4096})


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("lm_head", "lm_head", "model.layers.0.self_attn.q_proj"),
        ("model.layers.3", "model.layers.3.mlp.up_proj", "model.layers.30.mlp.up_proj"),
        ("model.layers.3.self_attn*", "model.layers.3.self_attn.q_proj", "model.layers.3.mlp.up_proj"),
        ("model.language_model.layers.3.mlp*", "model.layers.3.mlp.up_proj", "model.layers.4.mlp.up_proj"),
        ("re:.*self_attn.*", "model.layers.7.self_attn.o_proj", "model.layers.7.mlp.up_proj"),
        (r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", "model.layers.1.mlp.up_proj", "model.layers.1.mlp.experts.up_proj"),
        ("model.layers.0.block_sparse_moe.gate", "model.layers.0.mlp.gate", "model.layers.0.mlp.experts.gate_proj"),
        ("*.attn.*", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"),
        ("model.layers.0.mlp.experts.17.w1", "model.layers.0.mlp.experts.gate_proj", "model.layers.0.mlp.experts.up_proj"),
    ],
)
def test_modules_are_named_in_many_ways(entry, inside, outside):
    assert inside in Modules([entry])
    assert outside not in Modules([entry])


@pytest.mark.parametrize(
    ("settings", "tensors", "parameters", "name"),
    [
        # NVFP4 without a word in config.json: the scales give it away, two numbers a byte
        (
            None,
            [("a.weight", "U8", (64, 32)), ("a.weight_scale", "F8_E4M3", (64, 4)), ("a.weight_scale_2", "F32", (1,))],
            64 * 64,
            "nvfp4",
        ),
        (None, [("a.weight", "F8_E4M3", (64, 64)), ("a.weight_scale_inv", "F32", (1, 1))], 64 * 64, "fp8"),
        # MXFP4 of gpt-oss: blocks and scales
        ({"quant_method": "mxfp4"}, [("e_blocks", "U8", (4, 8, 2, 16)), ("e_scales", "U8", (4, 8, 2))], 4 * 8 * 2 * 32, "mxfp4"),
        # compressed-tensors, eight 4-bit numbers in a word
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}}},
            [("a.weight_packed", "I32", (64, 8)), ("a.weight_scale", "BF16", (64, 1)), ("a.weight_shape", "I64", (2,))],
            64 * 64,
            "int4",
        ),
        # bitsandbytes: a column of bytes, and what unpacks it
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            [
                ("a.weight", "U8", (2048, 1)),
                ("a.weight.absmax", "U8", (64,)),
                ("a.weight.quant_map", "F32", (16,)),
                ("a.weight.quant_state.bitsandbytes__nf4", "U8", (100,)),
            ],
            4096,
            "bnb-4bit",
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            [("a.weight", "I8", (64, 64)), ("a.SCB", "F32", (64,))],
            4096,
            "bnb-8bit",
        ),
        (
            {"quant_method": "gptq", "bits": 4},
            [("a.qweight", "I32", (8, 64)), ("a.qzeros", "I32", (1, 8)), ("a.scales", "F16", (1, 64)), ("a.g_idx", "I32", (64,))],
            4096,
            "gptq",
        ),
    ],
)
def test_packed_tensors_are_counted_number_by_number(settings, tensors, parameters, name):
    sizes = {"U8": 1, "I8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8}
    read = [Tensor(n, kind, shape, 0, sizes[kind] * Tensor(n, kind, shape, 0, 0).elements) for n, kind, shape in tensors]
    config = {**PLAIN, **({"quantization_config": settings} if settings else {})}
    found = from_config(config, read)
    assert (found.parameters, found.quantization) == (parameters, name)
    assert found.weight_bytes == sum(tensor.bytes for tensor in read)
    assert any("files may be missing" in doubt for doubt in found.doubts)
