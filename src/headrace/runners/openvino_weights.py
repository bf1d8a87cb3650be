"""GGUF → OpenVINO's own format, once: `python -m headrace.runners.openvino_weights GGUF FOLDER` does it, `folder` sees to it.

OpenVINO reads a GGUF in four seconds and what it has made of one in two; and it writes that beside the GGUF, where nothing
of ours belongs. The conversion is a process of its own: its memory goes with it, and so does a crash of the reader.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headrace.runners.child import guarded
from headrace.runners.openvino_gguf import readable
from headrace.runners.serving import fail

CONVERTER = ("-m", "headrace.runners.openvino_weights")
"""What Python runs to convert."""

_OURS = 2
"""Of what `_convert` does: another number makes everything be converted again."""


class CannotConvert(Exception):
    """The model cannot be read; the message is the cause in one line."""


def folder(model: Path, cache: Path) -> Path:
    """The folder in `cache` with `model`, a GGUF file, as OpenVINO wants it; made if it is not there.

    It belongs to this file, at this size and time, and to this version of OpenVINO; those of others of the same path are
    removed. Whoever comes while it is made waits. Raises CannotConvert and OSError.
    """
    about = model.stat()
    place = _digest(str(model.resolve()))
    made = cache / f"{place}-{_digest(about.st_size, about.st_mtime_ns, version('openvino-genai'), _OURS)}"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{place}.lock"):
        if not made.is_dir():
            for old in cache.glob(f"{place}-*"):
                shutil.rmtree(old)
            _make(model, made)
    return made


def _make(model: Path, made: Path) -> None:
    partial = made.with_name(f"{made.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    argv = guarded(sys.executable, "-P", *CONVERTER, str(model.resolve()), str(partial))
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        shutil.rmtree(partial)
        raise CannotConvert(_cause(done.stdout + done.stderr, done.returncode))
    for each in partial.iterdir():
        _flush(each)
    partial.rename(made)  # whole or not at all
    _flush(made.parent)


def _cause(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    how = f"exit code {code}" if code > 0 else f"signal {-code}"
    return lines[-1] if lines and code > 0 else f"OpenVINO's reader ended with {how}"


def _flush(path: Path) -> None:
    """To the disk, so that what is there after a power cut is whole."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # gone with the process, however it ends
        yield


def _digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def silence() -> None:
    """Keep OpenVINO from reporting to its makers, which `import openvino` does: it takes a stub where this is not installed."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def _convert(model: Path, into: Path) -> None:
    silence()
    import openvino_genai

    given = into / "model.gguf"
    if readable(model, into) == model:
        given.symlink_to(model)
    save = {"enable_save_ov_model": True}
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 1
    openvino_genai.ContinuousBatchingPipeline(str(given), scheduler, "CPU", save, save)
    given.unlink()
    _lift_limit(into / "openvino_tokenizer.xml")


def _lift_limit(tokenizer: Path) -> None:
    """Tokenizers made from a GGUF keep the last 8,192 tokens of a text and drop the rest without a word: ours counts them all."""
    import openvino
    import openvino_tokenizers

    core = openvino.Core()
    core.add_extension(str(openvino_tokenizers._ext_path))
    model = core.read_model(tokenizer)
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Minimum":
            _without_limit(node)
    changed = tokenizer.with_name("changed.xml")
    openvino.save_model(model, changed, compress_to_fp16=False)
    del core, model
    for suffix in (".xml", ".bin"):
        changed.with_suffix(suffix).rename(tokenizer.with_suffix(suffix))


def _without_limit(minimum: Any) -> None:
    import numpy
    import openvino

    for given in minimum.inputs():
        source = given.get_source_output().get_node()
        if source.get_type_name() == "Constant" and source.get_data().tolist() == 8192:
            given.replace_source_output(openvino.op.Constant(numpy.array(2**31 - 1, dtype=numpy.int32)).output(0))


def main() -> None:
    """Convert; the last line on stderr is the cause where that cannot be."""
    model, into = map(Path, sys.argv[1:])
    try:
        _convert(model, into)
    except Exception as error:
        fail(f"{error}")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
