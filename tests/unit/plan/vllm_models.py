"""Facts of real models, by their config.json, for the tests of vLLM's memory."""

from headrace.facts.model import CacheGroup, Experts, ModelFacts

GIB = 2**30


def facts(
    architecture: str,
    shape: tuple[int, int, int, int, int, int],
    vocabulary: int,
    parameters: float,
    weight_bytes: float,
    cache: tuple[CacheGroup, ...],
    quantization: str = "BF16",
    experts: Experts | None = None,
) -> ModelFacts:
    """`shape` is layers, hidden, intermediate, heads, KV heads, size of a head."""
    layers, hidden, intermediate, heads, kv_heads, head_dim = shape
    growing = sum(2 * group.layers * group.kv_heads * group.numbers for group in cache if group.kind in ("full", "latent"))
    return ModelFacts(
        architecture=architecture,
        format="safetensors",
        parameters=int(parameters),
        weight_bytes=int(weight_bytes),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        cache_bytes_per_token=growing,
        context=131_072,
        quantization=quantization,
        vocabulary=vocabulary,
        chat_template=True,
        encoder=False,
        cache=cache,
        intermediate=intermediate,
        experts=experts,
    )


LLAMA_8B = facts("llama", (32, 4096, 14336, 32, 8, 128), 128_256, 8.03e9, 16.06e9, (CacheGroup("full", 32, 8, 256),))
LLAMA_70B_FP8 = facts("llama", (80, 8192, 28672, 64, 8, 128), 128_256, 70.55e9, 72.65e9, (CacheGroup("full", 80, 8, 256),), "fp8")
QWEN3_32B = facts("qwen3", (64, 5120, 25600, 64, 8, 128), 151_936, 32.76e9, 65.52e9, (CacheGroup("full", 64, 8, 256),))
QWEN3_235B = facts(
    *("qwen3_moe", (94, 4096, 1536, 64, 4, 128), 151_936, 235.09e9, 236.4e9, (CacheGroup("full", 94, 4, 256),), "fp8"),
    experts=Experts(128, 8, 227_099_541_504),
)
KIMI = facts(
    *("kimi_k2", (61, 7168, 2048, 64, 64, 128), 163_840, 1026e9, 595e9, (CacheGroup("latent", 61, 1, 576),)),
    quantization="compressed-tensors",
    experts=Experts(384, 8, 1_014_686_023_680),
)
GPT_OSS_120B = facts(
    "gpt_oss",
    (36, 2880, 2880, 64, 8, 64),
    201_088,
    116.8e9,
    65.17e9,
    (CacheGroup("full", 18, 8, 128), CacheGroup("window", 18, 8, 128, 128)),
    "mxfp4",
    Experts(128, 4, 114_661_785_600),
)
NEMOTRON = facts(
    "nemotron_h",
    (52, 2688, 1856, 32, 2, 128),
    131_072,
    31.6e9,
    63.2e9,
    (CacheGroup("full", 6, 2, 256), CacheGroup("state", 23, 1, 1_100_000)),
)
ALL = (LLAMA_8B, LLAMA_70B_FP8, QWEN3_32B, QWEN3_235B, KIMI, GPT_OSS_120B, NEMOTRON)
