"""Which engines are here: found by their metadata, nothing imported, nothing run."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engines import engines
from headrace.engines.base import Installation, Installed
from headrace.environments import folder_of, how_to_install, install, installed
from headrace.errors import UsageError

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
