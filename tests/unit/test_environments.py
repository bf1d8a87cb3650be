"""Which engines are here: found by their metadata, nothing imported, nothing run."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines import engines
from headrace.engines.base import Installation, Installed
from headrace.environments import folder_of, how_to_install, install, installed
from headrace.errors import UsageError
from headrace.facts import catalogue
from headrace.facts.hardware import Card, Machine
from headrace.prepare import here
from headrace.spec.load import loads
from tests.nvidia_smi import RTX_4090, nvidia_smi, vllm_for_gpus

LLAMACPP = engines()["llamacpp"]
OWN = replace(LLAMACPP, name="own", installation=Installation("nothing_here", "Some.Engine", requirements=("some-engine==1",)))


def environment(folder: Path, distribution: str) -> Path:
    """What of a virtual environment is looked at."""
    (folder / "lib" / "python3.11" / "site-packages" / distribution).mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text("", "utf-8")
    return folder


def test_an_engine_of_our_own_environment_is_found() -> None:
    (there,) = installed({"llamacpp": LLAMACPP}, "/nowhere", environ={}).values()
    assert there.python == ""
    assert there.version[0].isdigit()


@pytest.mark.parametrize("spelling", ["some_engine-2.0.dist-info", "Some.Engine-2.0.dist-info", "some-engine-2.0+cpu.dist-info"])
def test_an_environment_of_its_own_is_found_by_metadata(tmp_path: Path, spelling: str) -> None:
    folder = environment(Path(folder_of(OWN, str(tmp_path))), spelling)
    there = installed({"own": OWN}, str(tmp_path), environ={})["own"]
    assert there == Installed(spelling.removesuffix(".dist-info").rpartition("-")[2], str(folder / "bin" / "python"))


def test_the_file_comes_before_the_environment_before_the_cache(tmp_path: Path) -> None:
    environment(Path(folder_of(OWN, str(tmp_path))), "some_engine-1.dist-info")
    variable = environment(tmp_path / "variable", "some_engine-2.dist-info")
    file = environment(tmp_path / "file", "some_engine-3.dist-info")

    def version(configured: dict[str, str], environ: dict[str, str]) -> str:
        return installed({"own": OWN}, str(tmp_path), configured, environ)["own"].version

    assert version({"own": str(file)}, {"HEADRACE_OWN": str(variable)}) == "3"
    assert version({}, {"HEADRACE_OWN": str(variable)}) == "2"
    assert version({}, {}) == "1"


def test_a_folder_that_was_named_and_has_it_not_is_not_passed_over(tmp_path: Path) -> None:
    """Another environment's engine, of another version, would be a surprise."""
    environment(Path(folder_of(OWN, str(tmp_path))), "some_engine-1.dist-info")
    assert installed({"own": OWN}, str(tmp_path), {"own": str(tmp_path / "empty")}, {}) == {}


def test_every_engine_says_how_to_get_it() -> None:
    for engine in engines().values():
        assert how_to_install(engine), engine.name


def test_what_pip_says_of_a_failure_is_told(tmp_path: Path) -> None:
    broken = replace(OWN, installation=replace(OWN.installation, requirements=(str(tmp_path / "missing.whl"),)))
    said: list[str] = []
    with pytest.raises(UsageError, match=r"missing\.whl"):
        install(broken, str(tmp_path), said.append)
    assert said[0].startswith("Making a virtual environment in")
    assert not (Path(folder_of(broken, str(tmp_path))) / ".complete").exists()
    assert Path(sys.executable).exists()


def test_what_pip_cannot_bring_says_where_it_comes_from(tmp_path: Path) -> None:
    elsewhere = replace(OWN, installation=Installation("x", "x", elsewhere="It is a container image."))
    with pytest.raises(UsageError, match=r"It is a container image\."):
        install(elsewhere, str(tmp_path), lambda text: None)


@pytest.mark.parametrize(
    ("gpus", "cpu", "built"),
    [
        (RTX_4090, False, "gpu"),  # a GPU is here
        (RTX_4090, True, "cpu"),  # and the user wants none of it
        ("", False, "cpu"),
    ],
)
def test_vllm_is_installed_for_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: str, cpu: bool, built: str
) -> None:
    """Neither venv nor pip is run: what takes their place leaves behind what is looked for."""

    def run(argv: list[str]) -> None:
        folder = Path(argv[-1])
        shutil.rmtree(folder, ignore_errors=True)  # --clear
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").write_text("", "utf-8")

    def fill(folder: Path, say: object, gpu: bool) -> None:
        name = "vllm-0.32.0" if gpu else "vllm-0.32.0+cpu"
        (folder / "lib" / "python3.11" / "site-packages" / f"{name}.dist-info").mkdir(parents=True, exist_ok=True)

    monkeypatch.setenv("PATH", nvidia_smi(tmp_path / "smi", gpus))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("headrace.environments._run", run)
    monkeypatch.setattr("headrace.environments.fill", fill)
    there = install(engines()["vllm"], str(tmp_path), lambda text: None, cpu=cpu)
    assert ("cpu" in there.version) == (built == "cpu")
    other = install(engines()["vllm"], str(tmp_path), lambda text: None, cpu=not cpu)  # begun again for the other
    assert gpus == "" or ("cpu" in other.version) == (built == "gpu")


@pytest.mark.parametrize(
    ("version", "card", "known"),
    [
        ("0.32.0", True, "0.32.0"),
        ("0.33.1+cu129", True, "0.33.1"),
        ("dev", True, None),  # built from source: planned for as the newest
        ("0.32.0+cpu", True, ""),  # a build for CPUs
        ("0.32.0", False, ""),  # no GPU
    ],
)
def test_what_is_known_of_vllm_on_gpus_is_for_a_build_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, card: bool, known: str | None
) -> None:
    monkeypatch.setenv("HEADRACE_VLLM", str(vllm_for_gpus(tmp_path / "vllm", version)))
    gpu = Card("GPU-0", "0", catalogue.gpus()["T4"], 2**30)
    found = here(loads("models: {chat: 'hf:org/name'}"), Machine(1, 2**30, 2**30, cards=(gpu,) if card else ()))
    assert found.installed["vllm"].version == version
    assert (found.knowledge.version if found.knowledge else "") == known
