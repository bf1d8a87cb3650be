"""nvidia-smi → the GPUs of this machine that this process may use, in a bounded time; what else is here and is not used."""

import contextlib
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from headrace.facts import catalogue
from headrace.facts.hardware import Card, Gpu

LONGEST_SECONDS = 15.0
"""Longest that nvidia-smi may take. Without persistence mode it wakes every GPU first: seconds on a machine with eight."""

_FIELDS = ("index", "name", "uuid", "memory.total", "memory.free", "memory.used", "compute_cap", "mig.mode.current")
_MIB = 2**20
_GRAIN = 256 * _MIB
"""Free memory is rounded down to it: idle cards of one kind are then alike."""
_SEEN_SHARE = 0.97
"""Part of the memory on the box that an engine sees, where no catalogue says: the driver and ECC keep 1 to 3 %."""
_ALIKE = 0.1
"""Cards of one name whose memory differs by more than this part are not the one in the catalogue (an RTX 4060 Ti of 8 GB)."""
_SLOWEST = "T4"
_MIG_LINE = re.compile(r"^\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (\S+)\)")
_GPU_LINE = re.compile(r"^GPU (\d+): ")


@dataclass(frozen=True, slots=True)
class Found:
    """The GPUs that may be used, and a sentence on each thing that is not used."""

    cards: tuple[Card, ...] = ()
    remarks: tuple[str, ...] = ()


def found(
    root: str | pathlib.Path = "/", environ: Mapping[str, str] = os.environ, longest_seconds: float = LONGEST_SECONDS
) -> Found:
    """What is here. `root` holds `sys`. Runs nvidia-smi where there is one, and waits `longest_seconds` at most for it."""
    others = tuple(_others(pathlib.Path(root)))
    program, asked = shutil.which("nvidia-smi", path=environ.get("PATH")), environ.get("CUDA_VISIBLE_DEVICES")
    if program is None or asked == "":
        return Found((), others)
    try:
        rows = _rows(_said([program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"], longest_seconds))
        listing = _said([program, "-L"], longest_seconds) if any(row.mig for row in rows) else ""
        return Found(visible(cards(rows, listing), asked), others)
    except (ValueError, OSError) as error:
        return Found((), (f"No GPU is used: {error}.", *others))


_INFOROM = 14
"""nvidia-smi's exit code beside a warning that a card's infoROM is corrupted: all else that it says is true."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of nvidia-smi; bytes that it does not tell are None."""

    index: str
    name: str
    uuid: str
    total: int
    free: int | None
    used: int | None
    capability: float | None
    mig: bool


def _rows(text: str) -> list[_Row]:
    """The lines of the query. Raises ValueError for any that is not understood; none where there are no devices."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING:")]
    if lines and lines[0].startswith("No devices were found"):
        return []
    return [_row(line) for line in lines]


def _row(line: str) -> _Row:
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(_FIELDS) or not values[0].isdigit() or not values[2].startswith("GPU-"):
        raise ValueError(f'nvidia-smi says "{line.strip():.80}", which is not understood')
    index, name, uuid, *numbers, mig = values
    total, free, used, capability = map(_number, numbers)
    if not total:  # GPUs that share the machine's memory (GB10) have none of their own
        raise ValueError(f"nvidia-smi does not tell the memory of {name}")
    return _Row(index, name, uuid, round(total * _MIB), _bytes(free), _bytes(used), capability, mig == "Enabled")


def _number(text: str) -> float | None:
    """None for `[N/A]`, `[Not Supported]`, `[Insufficient Permissions]`."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if isfinite(found) else None


def _bytes(mebibytes: float | None) -> int | None:
    return None if mebibytes is None else round(mebibytes * _MIB)


def cards(rows: Sequence[_Row], listing: str) -> tuple[Card, ...]:
    """The cards of the query's `rows`; of those in MIG mode the instances that `listing` (nvidia-smi -L) has."""
    instances = list(_instances(listing))
    found: list[Card] = []
    for row in rows:
        gpu = _kind(row)
        if row.mig:
            found += [_instance(row, gpu, *each[1:]) for each in instances if each[0] == row.index]
        else:
            free = row.free if row.free is not None else row.total - (row.used or 0)
            found.append(Card(row.uuid, row.index, gpu, _rounded(min(free, gpu.memory_bytes))))
    return tuple(found)


def _rounded(count: int) -> int:
    return max(0, count // _GRAIN * _GRAIN)


def _kind(row: _Row) -> Gpu:
    """The GPU of the catalogue, with no more memory than the driver tells; for another one what the driver tells."""
    known, seen = catalogue.gpus_by_driver().get(row.name), round(row.total * _SEEN_SHARE)
    if known is not None:
        alike = abs(known.memory_bytes - seen) <= _ALIKE * seen
        return replace(known, memory_bytes=min(known.memory_bytes if alike else seen, row.total))
    able = [gpu for gpu in catalogue.gpus().values() if row.capability and gpu.compute_capability == row.capability]
    slow = min(able, key=lambda gpu: gpu.bandwidth) if able else catalogue.gpus()[_SLOWEST]
    name = row.name.removeprefix("NVIDIA ").replace(" ", "-")
    return replace(
        slow,
        name=name,
        memory_bytes=seen,
        compute_capability=row.capability,
        mig=(),
        mig_compute_slices=0,
        source="",
        nvidia=(row.name,),
    )


def _instances(listing: str) -> Iterator[tuple[str, str, str, str]]:
    """(index of the GPU, profile, number of the instance, UUID) of every MIG instance."""
    index = ""
    for line in listing.splitlines():
        if gpu := _GPU_LINE.match(line):
            index = gpu[1]
        elif instance := _MIG_LINE.match(line):
            yield index, *instance.groups()  # type: ignore[misc]  # three groups


def _instance(row: _Row, gpu: Gpu, profile: str, number: str, uuid: str) -> Card:
    """What the GPU has in use counts against each of its instances: nvidia-smi does not tell which of them has it."""
    known = next((one for one in gpu.mig if one.name == profile), None)
    asked = re.search(r"\.(\d+)gb", profile)
    size = known.memory_bytes if known else round(_SEEN_SHARE * int(asked[1]) * 2**30) if asked else 0
    compute = known.compute_slices / gpu.mig_compute_slices if known else size / gpu.memory_bytes
    part = replace(
        gpu,
        name=f"{gpu.name}-{profile}",
        memory_bytes=size,
        bandwidth=gpu.bandwidth * size / gpu.memory_bytes,
        flops={name: rate * compute for name, rate in gpu.flops.items()},
        link_kind="none",
        link=0.0,
        mig=(),
        mig_compute_slices=0,
        nvidia=(),
    )
    return Card(uuid, f"{row.index}:{number}", part, _rounded(size - (row.used or 0)))


def visible(here: Sequence[Card], asked: str | None) -> tuple[Card, ...]:
    """The cards that CUDA_VISIBLE_DEVICES leaves: indices or beginnings of UUIDs, up to the first that there is not."""
    if asked is None:
        return tuple(here)
    chosen: list[Card] = []
    for word in filter(None, (word.strip() for word in asked.split(","))):
        mine = [card for card in here if card.place == word or (not word.isdigit() and card.uuid.startswith(word))]
        if not mine:
            break
        chosen += [card for card in mine[:1] if card not in chosen]
    return tuple(chosen)


def _said(argv: list[str], longest_seconds: float) -> str:
    """What a program writes. Raises ValueError when it fails or does not end."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        said = process.communicate(timeout=longest_seconds)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the driver cannot even be killed
            process.communicate(timeout=1)
        raise ValueError(f"nvidia-smi did not answer within {longest_seconds:g} s") from None
    if process.returncode not in (0, _INFOROM):
        words = " ".join(said.split())
        raise ValueError(f"nvidia-smi failed with code {process.returncode}: {words.rstrip('.'):.200}")
    return said


def _others(tree: pathlib.Path) -> Iterator[str]:
    if (tree / "sys/class/kfd").exists():
        yield "An AMD GPU is here and is not used: Headrace starts engines on NVIDIA's GPUs and on the CPU."
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        yield "The GPU of this Mac is not used: Headrace starts engines on its CPU."
