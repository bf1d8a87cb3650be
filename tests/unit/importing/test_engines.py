"""Command lines of engines → keys of ours; what has no key is passed on or told."""

from typing import Any

import pytest

from headrace.spec.model import ModelSpec
from tests.unit.importing.manifests import deployment, of, said, spec

QWEN = "Qwen/Qwen2.5-7B-Instruct"
VLLM, SGLANG = "vllm/vllm-openai:v0.11.0", "lmsysorg/sglang:v0.5.2"
TGI, LLAMA = "ghcr.io/huggingface/text-generation-inference:3.3.7", "ghcr.io/ggml-org/llama.cpp:server"


def model(made: Any) -> ModelSpec:
    (one,) = spec(made).models.values()
    return one


KEYS = [
    # the model stands alone, or behind --model, which is the older way
    (VLLM, [QWEN], {"source": f"hf:{QWEN}", "engine_name": "vllm"}),
    (VLLM, ["--model", QWEN], {"source": f"hf:{QWEN}"}),
    (VLLM, [f"--model={QWEN}", "--revision", "abc123"], {"source": f"hf:{QWEN}@abc123"}),
    # the image's own command, and the end of flags, are not the model
    (VLLM, ["serve", QWEN], {"source": f"hf:{QWEN}"}),
    (VLLM, ["--", QWEN], {"source": f"hf:{QWEN}"}),
    # a switch before the model takes no value
    (VLLM, ["--enable-prefix-caching", QWEN], {"source": f"hf:{QWEN}"}),
    # underscores, short forms, equals signs
    (VLLM, [QWEN, "--max_model_len=4096", "-tp", "2"], {"context": 4096, "tensor_parallel": 2}),
    # human numbers as vLLM reads them
    (VLLM, [QWEN, "--max-model-len", "8K"], {"context": 8192}),
    (VLLM, [QWEN, "--max-model-len", "8k"], {"context": 8000}),
    (VLLM, [QWEN, "--max-num-seqs", "64"], {"slots": 64}),
    # a split over one GPU is the default, and the plan's to change
    (VLLM, [QWEN, "--tensor-parallel-size", "1"], {"tensor_parallel": "auto"}),
    (VLLM, [QWEN, "--quantization", "awq_marlin"], {"quantization": "awq"}),
    (VLLM, [QWEN, "--runner", "pooling"], {"task": "embed"}),
    (VLLM, [QWEN, "--lora-modules", "sql=org/sql", "py=/loras/py"], {"adapters": {"sql": "hf:org/sql", "py": "file:/loras/py"}}),
    (VLLM, ["/models/llama"], {"source": "file:/models/llama"}),
    (SGLANG, ["python3", "-m", "sglang.launch_server", "--model-path", QWEN, "--tp", "4"], {"tensor_parallel": 4}),
    (SGLANG, ["--model", QWEN, "--context-length", "16384", "--is-embedding"], {"context": 16384, "task": "embed"}),
    (TGI, ["--model-id", QWEN, "--num-shard", "2", "--max-total-tokens", "4096"], {"context": 4096, "tensor_parallel": 2}),
    # llama.cpp's context is that of all slots together
    (LLAMA, ["-hf", "org/name-GGUF:Q4_K_M", "-c", "8192", "-np", "4"], {"source": "hf:org/name-GGUF:Q4_K_M", "context": 2048}),
    (
        LLAMA,
        ["-m", "/models/a.gguf", "--embeddings"],
        {"source": "file:/models/a.gguf", "task": "embed", "engine_name": "llamacpp"},
    ),
    # Text Embeddings Inference is no engine of ours: auto finds one
    (
        "ghcr.io/huggingface/text-embeddings-inference:1.7",
        ["--model-id", "BAAI/bge-m3"],
        {"task": "embed", "engine_name": "auto"},
    ),
    (
        "nvcr.io/nvidia/tritonserver:25.01-py3",
        ["tritonserver", "--model-repository=/m"],
        {"source": "file:/m", "engine_name": "triton"},
    ),
]


@pytest.mark.parametrize(("image", "args", "keys"), KEYS, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_flag_with_a_key_of_ours_becomes_that_key(image: str, args: list[str], keys: dict[str, Any]) -> None:
    one = model(of(deployment(image, args)))
    assert {key: getattr(one, key) for key in keys} == keys


def test_flags_without_a_key_are_passed_on_as_they_were() -> None:
    made = of(deployment(VLLM, [QWEN, "--enable-auto-tool-choice", "--tool-call-parser", "hermes", '--hf-overrides={"a": 1}']))
    engine: Any = model(made).engine
    assert engine.vllm.args == ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", '--hf-overrides={"a": 1}')


LOST = [
    # what Headrace does itself is not needed
    (["--port", "8000"], "not needed: --port 8000"),
    (["--gpu-memory-utilization", "0.9"], "not needed: --gpu-memory-utilization 0.9"),
    # code from the hub is never carried silently
    (["--trust-remote-code"], "not carried: --trust-remote-code: runs code from the hub"),
    # pipelines are the planner's
    (["--pipeline-parallel-size", "2"], "not carried: --pipeline-parallel-size 2"),
    # numbers that are none
    (["--max-model-len", "many"], "not carried: --max-model-len many"),
    (["--dtype", "int3"], "not carried: --dtype int3"),
    # a variable that nobody defines
    (["--max-num-seqs", "$(SEQS)"], "not carried: --max-num-seqs $(SEQS): its variable has no value here"),
    # a second loose word
    (["--enable-prefix-caching", "left over"], "not carried: the argument left over"),
]


@pytest.mark.parametrize(("args", "note"), LOST, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_what_is_lost_is_told_with_its_reason(args: list[str], note: str) -> None:
    assert note in said(of(deployment(VLLM, [QWEN, *args])))


SECRETS = [
    {"args": [QWEN, "--api-key", "topsecret1"]},
    {"args": [QWEN, "--api-key=topsecret1"]},
    {"args": [QWEN, "--some-password", "topsecret1"]},
    # a secret in a flag that is passed on otherwise
    {"args": [QWEN, "--chat-header", "hf_topsecret1"]},
    {"args": [QWEN, "--chat-header", "sk-topsecret1"]},
    {"args": [QWEN], "env": [{"name": "HF_TOKEN", "value": "topsecret1"}]},
    {"args": [QWEN], "env": [{"name": "ANYTHING", "value": "topsecret1"}]},
    # a variable with a secret is not written out
    {"args": ["--model", QWEN, "--api-key", "$(KEY_TOKEN)"], "env": [{"name": "KEY_TOKEN", "value": "topsecret1"}]},
    {"args": [QWEN, "--served-model-name", "$(MY_PASSWORD)"], "env": [{"name": "MY_PASSWORD", "value": "topsecret1"}]},
]


@pytest.mark.parametrize("container", SECRETS, ids=str)
def test_the_value_of_a_secret_never_appears(container: dict[str, Any]) -> None:
    made = of(deployment(**container), {"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"token": "topsecret1"}})
    assert spec(made)
    assert "topsecret1" not in made.text + said(made)


COMMANDS = [
    (["vllm", "serve", QWEN], None),
    (["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", QWEN], None),
    (["/bin/sh", "-c", f"set -e\necho start; exec vllm serve {QWEN} \\\n  --max-model-len 4096 # comment"], None),
    (["bash", "-lc"], [f"cd /tmp && HF_HUB_OFFLINE=1 python -m vllm.entrypoints.openai.api_server --model '{QWEN}'"]),
    (["sh", "-c"], ["vllm serve $MODEL"]),
    (["vllm", "serve", "$(MODEL)"], None),
]


@pytest.mark.parametrize(("command", "args"), COMMANDS, ids=lambda value: " ".join(value or ()))
def test_a_command_is_understood_however_it_is_started(command: list[str], args: list[str] | None) -> None:
    made = of(deployment("registry.local/own/image:1", args, command=command, env=[{"name": "MODEL", "value": QWEN}]))
    assert model(made).source == f"hf:{QWEN}"


def test_variables_that_are_flags_of_tgi_are_flags() -> None:
    variables = {"MODEL_ID": QWEN, "MAX_TOTAL_TOKENS": "8192", "QUANTIZE": "fp8", "CUDA_GRAPHS": "0"}
    made = of(deployment(TGI, env=[{"name": name, "value": value} for name, value in variables.items()]))
    assert (model(made).source, model(made).context, model(made).quantization) == (f"hf:{QWEN}", 8192, "fp8")
    assert "not carried: env CUDA_GRAPHS" in said(made)


def test_what_our_own_rules_refuse_is_dropped_and_told() -> None:
    made = of(deployment(VLLM, [QWEN, "--max-model-len", "1", "--max-num-seqs", "9999999"]))
    assert (model(made).context, model(made).slots) == ("auto", "auto")
    assert "not carried: context" in said(made)
    assert "not carried: slots" in said(made)


def test_what_an_engine_makes_while_it_loads_is_passed_on() -> None:
    """A checkpoint of 16 bits would take four times the memory without it."""
    made = of(deployment(TGI, ["--model-id", QWEN, "--quantize", "bitsandbytes-nf4"]))
    assert "--quantize, bitsandbytes-nf4" in made.text


def test_an_address_in_a_variable_is_not_needed() -> None:
    made = of(deployment(TGI, ["--model-id", QWEN], env=[{"name": "PORT", "value": "8080"}]))
    assert "not needed: --port 8080" in said(made)
