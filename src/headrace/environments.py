"""Where engines are installed: Headrace's own environment, or one of their own where dependencies clash; and making one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from headrace.engines.base import Engine, Installed
from headrace.errors import UsageError
from headrace.facts.probe import machine
from headrace.install_vllm import ON_GPUS, fill

Say = Callable[[str], None]


def installed(
    engines: Mapping[str, Engine], root: str, configured: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, Installed]:
    """The engines that are here. `root` is Headrace's cache; `configured` are folders of environments by engine.

    Looked for in this order: the folder configured; HEADRACE_<ENGINE>; `<root>/environments/<engine>`; our own environment.
    Nothing is imported and no program is run: asking vLLM for its version takes 17 seconds of a CPU.
    """
    found = {name: _find(engine, root, (configured or {}).get(name), environ) for name, engine in engines.items()}
    return {name: one for name, one in found.items() if one is not None}


def _find(engine: Engine, root: str, configured: str | None, environ: Mapping[str, str]) -> Installed | None:
    asked = configured or environ.get(f"HEADRACE_{engine.name.upper()}")
    for folder in (asked,) if asked else (folder_of(engine, root),):
        if there := _in_folder(engine, Path(folder)):
            return there
    return None if asked else _here(engine)


def folder_of(engine: Engine, root: str) -> str:
    """Where `install` puts an engine with an environment of its own."""
    return str(Path(root, "environments", engine.name))


def _in_folder(engine: Engine, folder: Path) -> Installed | None:
    """The engine in a virtual environment, by the metadata of its distribution."""
    python = folder / "bin" / "python"
    for info in folder.glob("lib/python3*/site-packages/*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
        if _normal(name) == _normal(engine.installation.distribution) and python.exists():
            return Installed(version, str(python))
    return None


def _normal(name: str) -> str:
    """PEP 503: one distribution has many spellings."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _here(engine: Engine) -> Installed | None:
    try:
        if find_spec(engine.installation.module) is None:
            return None
        return Installed(version(engine.installation.distribution))
    except (PackageNotFoundError, ModuleNotFoundError, ValueError):
        return None


def how_to_install(engine: Engine) -> str:
    """The command that installs the engine, or where it comes from."""
    if engine.installation.extra:
        return f"pip install 'headrace[{engine.installation.extra}]'"
    if engine.installation.requirements:
        return f"headrace engines install {engine.name}"
    return engine.installation.elsewhere


def install(engine: Engine, root: str, say: Say, *, cpu: bool = False) -> Installed:
    """Put the engine where it belongs: the build for GPUs where there are some and not `cpu`. Raises UsageError with the end of
    what pip said.
    """
    there = engine.installation
    if there.extra:
        _pip(Path(sys.executable), [f"headrace[{there.extra}]"], say)
    elif there.requirements:
        _environment(engine, Path(folder_of(engine, root)), say, gpu=not cpu and engine.name == "vllm" and bool(machine().cards))
    else:
        raise UsageError(f"{engine.title} cannot be installed with pip.", there.elsewhere)
    found = installed({engine.name: engine}, root, environ={})
    if engine.name not in found:
        raise UsageError(f"{engine.title} was installed and cannot be found.", "Delete its folder and install it again.")
    return found[engine.name]


def _environment(engine: Engine, folder: Path, say: Say, *, gpu: bool) -> None:
    """A virtual environment with what the engine requires; one that was begun and not finished, or is for GPUs and should be for
    CPUs, is begun again.
    """
    requirements, done = ON_GPUS if gpu else engine.installation.requirements, folder / ".complete"
    if not done.is_file() or done.read_text("utf-8") != "\n".join(requirements):
        say(f"Making a virtual environment in {folder} …")
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        if engine.name == "vllm":
            fill(folder, say, gpu=gpu)
        else:
            _pip(folder / "bin" / "python", list(requirements), say)
        done.write_text("\n".join(requirements), "utf-8")


def _pip(python: Path, requirements: list[str], say: Say) -> None:
    say(f"Installing {', '.join(requirements)} …")
    _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", *requirements])


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        words = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UsageError(
            f"{' '.join(argv[:4])} … failed: {' | '.join(words[-3:])[:600]}", "See that the package index is reached."
        )
