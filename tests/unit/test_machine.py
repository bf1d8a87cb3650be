"""`machine` in the file: what `headrace plan` plans for, and what `headrace serve` refuses."""

from pathlib import Path

import pytest

from headrace.cli import main
from headrace.elsewhere import Question
from headrace.errors import HeadraceError, PlanError, UsageError
from headrace.planning import answer, difference
from headrace.spec.load import loads
from headrace.spec.model import Spec
from headrace.terminal import Terminal

LLAMA = "hf:meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))


def spec(model: str = "", machine: str = "2 x H100-80GB") -> Spec:
    return loads(f"models: {{chat: {{source: '{LLAMA}', {model}}}}}\nmachine: {machine}")


def ask(asked: Spec, machine: str | None = None, wanted: str = "", *, update: bool = False) -> str:
    return answer(asked, None, Question(machine, wanted, update=update, offline=True), Terminal()).text


def test_the_plan_is_for_the_files_machine_and_what_the_file_asks() -> None:
    text = ask(spec("for: {users: 20, prompt: 1500}, quantization: fp8, tensor_parallel: 2"))
    assert "chat, for 20 users, prompts of 1500 and answers of 256 tokens:" in text
    assert "2 x H100-80GB: meets it" in text
    assert "split over 2 GPUs" in text
    assert "fp8" in text
    assert "Other ways" not in text


def test_the_command_line_overrides_the_file() -> None:
    text = ask(spec("for: {users: 20, prompt: 1500}"), "A100-80GB", "users=3")
    assert "for 3 users, prompts of 1500" in text
    assert "1 x A100-80GB" in text


def test_a_size_of_azure_is_a_machine() -> None:
    assert "Standard_NC24ads_A100_v4" in ask(spec(machine="{azure: Standard_NC24ads_A100_v4}"))


def test_the_files_price_is_of_the_files_machine_and_comes_before_the_catalogues() -> None:
    assert "$2.50 an hour (as the file says)" in ask(spec(machine="{gpus: A100-80GB, cost: 2.50 USD/h}"))
    assert "$1.00 an hour (as the file says)" in ask(spec(machine="{azure: Standard_NC24ads_A100_v4, cost: 1 USD/h}"))
    assert "no price known" in ask(spec(machine="{gpus: A100-80GB, cost: 2.50 USD/h}"), "H100-80GB")


FOUR = "{azure: Standard_NC24ads_A100_v4, max: 4}"  # of one A100 each


def test_replicas_are_as_many_as_the_file_says_and_share_the_users() -> None:
    text = ask(spec("replicas: 2, for: {users: 9}", "4 x A100-80GB"))
    assert "2 replicas on 2 of 4 GPUs" in text
    assert "2: as asked for: 5 of 9 users each" in text
    assert "--max-num-seqs=16" in text


def test_replicas_are_spread_over_machines_and_cost_as_many() -> None:
    text = ask(spec("replicas: 3", FOUR))
    assert "3 x Standard_NC24ads_A100_v4 (1 x A100-80GB-PCIe each)" in text
    assert "3 replicas on 3 of 4 GPUs, on 3 of 4 machines" in text
    assert "$11.01 an hour for 3 machines" in text


def test_as_many_machines_are_taken_as_the_users_need() -> None:
    assert "2: the fewest that meet it: 50 of 100 users each" in ask(spec("for: {users: 100, tpot: 20ms}", FOUR))
    assert "1 replica on 1 of 4 GPUs, on 1 of 4 machines" in ask(spec("for: {users: 4}", FOUR))


@pytest.mark.parametrize(
    ("model", "machine", "words"),
    [
        ("replicas: 3", "2 x A100-80GB", "3 replicas of 1 GPU each, and 1 machine has room for 2"),
        ("replicas: 5", FOUR, "5 replicas of 1 GPU each, and 4 machines have room for 4"),
        ("context: 131072, quantization: none", "{azure: Standard_NV36ads_A10_v5, max: 9}", "not split over machines"),
    ],
)
def test_replicas_without_room_are_told(model: str, machine: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        ask(spec(model, machine))


def test_a_fleet_has_every_replica_that_is_asked_for() -> None:
    models = f"a: {{source: '{LLAMA}', replicas: 3, share: exclusive}}, b: {{source: 'hf:Qwen/Qwen3-8B', share: exclusive}}"
    text = ask(loads(f"models: {{{models}}}\nmachine: 4 x H100-80GB"))
    assert "4 replicas on 4 devices" in text


def test_models_are_packed_each_for_its_own() -> None:
    models = f"a: {{source: '{LLAMA}', for: {{users: 2}}, share: exclusive}}, b: {{source: 'hf:Qwen/Qwen3-8B', share: exclusive}}"
    text = ask(loads(f"models: {{{models}}}\nmachine: 2 x H100-80GB"))
    assert "a for 2 users" in text
    assert "b for 8 users" in text
    assert "2 replicas on 2 devices" in text


def test_one_model_may_want_a_slice() -> None:
    assert "mig" in ask(spec("share: mig"))


@pytest.mark.parametrize(
    ("asked", "machine", "error", "words"),
    [
        (spec(machine="2 x H1000"), None, UsageError, 'machine: "H1000" is not a GPU'),  # the file's name for it
        (spec(), "2 x H1000", UsageError, '--machine: "H1000"'),  # the command line's
        (spec("share: process"), None, PlanError, "Write auto, time-slice or swap."),  # vLLM holds one model
        (loads("models: {a: {url: 'http://h:1'}}\nmachine: T4"), None, UsageError, "nothing to plan"),
    ],
)
def test_what_cannot_be_planned_is_told(asked: Spec, machine: str | None, error: type[HeadraceError], words: str) -> None:
    with pytest.raises(error) as caught:
        ask(asked, machine)
    assert words in str(caught.value)


def test_a_lock_is_only_of_this_machine() -> None:
    with pytest.raises(UsageError, match="Say --machine auto"):
        ask(spec(), update=True)
    with pytest.raises(UsageError, match="Say --machine auto"):
        difference(spec(), None, Question(), Terminal())


def test_auto_on_the_command_line_is_this_machine() -> None:
    with pytest.raises(HeadraceError, match=r"models\.chat"):  # safetensors, which the engine here does not load
        ask(spec(), "auto")


def test_serving_is_refused_for_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chat.yaml"
    file.write_text(f"models: {{chat: '{LLAMA}'}}\nmachine: {{gpus: 2 x H100-80GB}}")
    assert main(["serve", str(file)]) == PlanError.exit_code
    assert "machine: 2 x H100-80GB" in capsys.readouterr().err


def test_on_apples_gpus_llamacpp_is_planned() -> None:
    text = ask(spec(machine="Apple-M4-Max-128GB"))
    assert "llama.cpp, all layers of a GGUF in Q4_K_M on one Apple-M4-Max-128GB: 8 slots" in text
    assert "Not with vLLM on 1 x Apple-M4-Max-128GB: vLLM does not run on Apple GPUs" in text


def test_what_fits_on_no_apple_is_refused_with_both_sums() -> None:
    with pytest.raises(PlanError, match=r"llama\.cpp, all layers of .* on one Apple-M1-16GB: it does not fit: weights"):
        ask(loads("models: {chat: 'hf:meta-llama/Llama-3.1-70B-Instruct'}\nmachine: Apple-M1-16GB"))
