"""Facts of real models that several tests plan with."""

from headrace.facts.base import CacheGroup, ModelFacts

SMOLLM2 = ModelFacts(
    architecture="llama",
    format="gguf",
    parameters=134_515_008,
    weight_bytes=98_362_432,
    layers=30,
    hidden=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    cache_bytes_per_token=23_040,
    context=8192,
    quantization="Q4_1",
    vocabulary=49_152,
    chat_template=True,
    encoder=False,
)
LLAMA_8B = ModelFacts(
    architecture="llama",
    format="safetensors",
    parameters=8_030_000_000,
    weight_bytes=16_060_000_000,
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    cache_bytes_per_token=131_072,
    context=131_072,
    quantization="BF16",
    vocabulary=128_256,
    chat_template=True,
    encoder=False,
    cache=(CacheGroup("full", 32, 8, 256),),
)
