"""The Dockerfile, as far as it can be judged without building it: what it copies is there, who it runs as, what it starts."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from headrace.cli import commands, parser
from headrace.targets.manifests.base import PORT, SCALER_PORT
from headrace.targets.manifests.containers import CONTAINERS, HOME
from headrace.targets.manifests.pods import VOLUME_GROUP

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments), with lines joined and comments left out."""
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def values(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_every_instruction_is_one() -> None:
    known = {"ARG", "FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} <= known
    for script in values("RUN"):
        assert shlex.split(script)


def test_the_base_is_pinned_by_tag_and_both_stages_are_of_it() -> None:
    assert [line.split()[0] for line in values("FROM")] == ["python:${PYTHON}"] * 2
    version = next(line.partition("=")[2] for line in values("ARG") if line.startswith("PYTHON="))
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", version)
    least = PROJECT["requires-python"].removeprefix(">=").split(".")
    assert [int(part) for part in version.partition("-")[0].split(".")[:2]] >= [int(part) for part in least]


def test_what_it_copies_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {path for line in values("COPY") if not line.startswith("--from") for path in line.split()[:-1]}
    assert {path.removeprefix("./") for path in copied} == kept
    assert all((ROOT / path).exists() for path in copied)
    read = {PROJECT["readme"], *PROJECT["license-files"]}  # by the build
    assert read <= copied


def test_the_extras_are_those_of_the_project() -> None:
    extras = next(line.partition("=")[2] for line in values("ARG") if line.startswith("EXTRAS="))
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_it_runs_as_the_user_that_manifests_name() -> None:
    assert values("USER") == ["1000:1000"]
    for engine in ("llamacpp", "custom"):
        assert (CONTAINERS[engine].user, CONTAINERS[engine].group) == (1000, 1000)
    assert VOLUME_GROUP == 1000


def test_it_starts_a_program_that_there_is_and_listens_where_manifests_say() -> None:
    (entry,) = values("ENTRYPOINT")
    assert entry == '["headrace"]'
    assert "headrace" in PROJECT["scripts"]
    assert {"gateway", "pull"} <= commands(parser()).keys()
    assert values("EXPOSE") == [f"{PORT} {SCALER_PORT}"]
    (environment,) = values("ENV")
    assert f"HOME={HOME}" in environment.split()
    assert "PATH=/opt/headrace/bin:$PATH" in environment.split()  # `python` in manifests is the one with Headrace


@pytest.mark.parametrize("word", ["TOKEN", "PASSWORD", "SECRET", "--build-arg"])
def test_no_secret_goes_into_a_layer(word: str) -> None:
    assert word not in (ROOT / "Dockerfile").read_text().upper()
