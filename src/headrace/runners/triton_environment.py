"""The environment that Triton's wheel is installed in: asked once, by its own interpreter, together with the model."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.runners.child import guarded

INSTALL = "`headrace engines install triton` makes an environment that has what it needs"
_CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from triton_models.{} import main; main()"
_SECONDS = 600
_NOT_RUN = 127
"""The guard's exit code where there is no such program, which it says."""


class Unusable(Exception):
    """The environment or the model cannot be used; the message is the cause in one line."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter with `nvidia-pytriton`: its site-packages, its version ("3.11"), the folder of its libpython."""

    python: str
    packages: str
    version: str
    library: str

    @property
    def server(self) -> str:
        """The program."""
        return str(Path(self.packages) / "pytriton" / "tritonserver" / "bin" / "tritonserver")

    def variables(self, folder: Path, threads: int) -> dict[str, str]:
        """The environment of tritonserver and of the processes that it starts for models.

        They use the site-packages of the first `python3` on PATH and the libpython on LD_LIBRARY_PATH; ours are not theirs.
        Whatever is written for a while goes into `folder`.
        """
        ours = {name: value for name, value in os.environ.items() if name not in _NOT_THEIRS}
        return ours | {
            "PATH": f"{Path(self.python).parent}:{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": f"{self.packages}/nvidia_pytriton.libs:{self.library}",
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
            "TMPDIR": str(folder / "tmp"),
        }


_NOT_THEIRS = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")


def asked(
    python: str, package: Path, kind: str, path: str, threads: int, settings: Mapping[str, str]
) -> tuple[Environment, dict[str, Any]]:
    """(the environment, what it says of the model; nothing when `kind` is empty). Raises Unusable.

    numpy 2 is refused: models load with it and every array they return is empty (tritonserver 2.51). So is an interpreter
    without a libpython: the processes of models are made of it.
    """
    answer = _answer(python, package, "describe", kind, path, str(threads), json.dumps(dict(settings)))
    if "trouble" in answer:
        raise Unusable(str(answer["trouble"]))
    if int(str(answer["numpy"]).split(".")[0]) >= 2:
        raise Unusable(f"{python} has numpy {answer['numpy']}, and Triton's python backend needs numpy<2: {INSTALL}")
    if not answer["shared"]:
        raise Unusable(f"{python} was built without a shared libpython, which Triton's python backend needs: {INSTALL}")
    found = Environment(python, *(str(answer[name]) for name in ("packages", "version", "library")))
    if not os.access(found.server, os.X_OK):
        raise Unusable(f"there is no tritonserver in {found.packages}: {INSTALL}")
    return found, answer


def control(python: str, package: Path, action: str, socket: str, *names: str) -> tuple[str, ...]:
    """The command that tells a running tritonserver to "unload" or "reload" models."""
    return guarded(python, "-I", "-c", _CODE.format("control"), str(package), action, socket, *names)


def _answer(python: str, package: Path, module: str, *arguments: str) -> dict[str, Any]:
    argv = guarded(python, "-I", "-c", _CODE.format(module), str(package), *arguments)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unusable(f"{python} did not say within {_SECONDS}s what the model is") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if done.returncode == _NOT_RUN:
            raise Unusable(f"{last}. {INSTALL}") from None
        if "ModuleNotFoundError" in last:
            last = f"{last}: {INSTALL}"
        how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        raise Unusable(f"{python} {how} when it was asked what the model is: {last}") from None
    return dict(answer)
