"""`--machine` as text → machines to plan for: "2 x A100-80GB", "rtx-4090", "azure:Standard_NC24ads_A100_v4", "azure"."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches

from headrace.facts.hardware import Gpu, Machine, Sku

_CORES_PER_GPU = 16
_LEAST_MEMORY = 64 * 2**30
_MOST = 1024
_COUNT = re.compile(r"(?:(?P<before>\d{1,9})\s*[x×*]\s*)?(?P<name>.*?)(?:\s+[x×*]\s*(?P<after>\d{1,9}))?", re.S)
_MAKERS = re.compile(r"nvidia|geforce|tesla|amd|instinct|standard")


def machine(text: str, gpus: Mapping[str, Gpu], skus: Mapping[str, Sku]) -> tuple[Machine, ...]:
    """The machines that `text` asks about. Raises ValueError that names the nearest entries.

    A number and a GPU make one machine with so many devices. Of its CPU nothing is known: it gets 16 cores per GPU and twice the
    memory of its GPUs, at least 64 GiB, so that only the devices limit what fits. `cloud:size` is a machine as rented,
    `x 2` two of them; a cloud alone is every size of it, each once.
    """
    match = _COUNT.fullmatch(text.strip())
    assert match, "the expression takes any text"
    name, count = match["name"].strip(), _count(text, match["before"], match["after"])
    clouds = {sku.cloud for sku in skus.values()}
    cloud, colon, size = name.partition(":")
    if colon and cloud.lower() in clouds:
        return (_rented(_sku(size.strip(), cloud.lower(), skus)),) * count
    if name.lower() in clouds:
        return tuple(_rented(sku) for sku in skus.values() if sku.cloud == name.lower())
    return (_assembled(_gpu(name, gpus, skus, clouds), count),)


def _count(text: str, before: str | None, after: str | None) -> int:
    count = int(before or 1) * int(after or 1)
    if not 1 <= count <= _MOST:
        raise ValueError(f'"{text}": {count} is not a number of machines or devices; write 1 to {_MOST}')
    return count


def _rented(sku: Sku) -> Machine:
    return Machine(sku.cores, sku.memory_bytes, sku.memory_bytes, gpus=(_device(sku),) * sku.gpus, sku=sku)


def _device(sku: Sku) -> Gpu:
    """The device as a machine of this size has it: of a vGPU slice, its part of the memory, and of the rest as much."""
    share = sku.gpu_memory_bytes / sku.gpu.memory_bytes
    if share >= 1:
        return sku.gpu
    flops = {name: rate * share for name, rate in sku.gpu.flops.items()}
    return replace(
        sku.gpu, memory_bytes=sku.gpu_memory_bytes, bandwidth=sku.gpu.bandwidth * share, flops=flops, mig=(), mig_compute_slices=0
    )


def _assembled(gpu: Gpu, count: int) -> Machine:
    memory = max(_LEAST_MEMORY, 2 * count * gpu.memory_bytes)
    return Machine(_CORES_PER_GPU * count, memory, memory, gpus=(gpu,) * count)


def _sku(size: str, cloud: str, skus: Mapping[str, Sku]) -> Sku:
    here = {name: sku for name, sku in skus.items() if sku.cloud == cloud}
    found = [sku for name, sku in here.items() if _plain(name) == _plain(size)]
    if len(found) == 1:
        return found[0]
    raise ValueError(f'"{size}" is not a size of {cloud} in the catalogue; {_near(size, here)}')


def _gpu(name: str, gpus: Mapping[str, Gpu], skus: Mapping[str, Sku], clouds: Iterable[str]) -> Gpu:
    """By its name however written, or by a part of it that only one has."""
    plain = _plain(name)
    for fits in (_is, str.startswith, str.__contains__):
        found = [gpu for known, gpu in gpus.items() if plain and fits(_plain(known), plain)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f'"{name}" could be {" or ".join(gpu.name for gpu in found[:8])}; write one of these')
    if sku := next((known for known in skus.values() if plain and _plain(known.name) == plain), None):
        raise ValueError(f'"{name}" is a size of {sku.cloud}; write {sku.cloud}:{sku.name}')
    where = f"or a cloud ({', '.join(sorted(clouds))})"
    raise ValueError(f'"{name}" is not a GPU in the catalogue {where}; {_near(name, gpus)}')


def _is(known: str, text: str) -> bool:
    return known == text


def _plain(name: str) -> str:
    return _MAKERS.sub("", re.sub(r"[^a-z0-9+]", "", name.lower()))


def _near(name: str, known: Iterable[str]) -> str:
    plain = {_plain(entry): entry for entry in known}
    close = get_close_matches(_plain(name)[:64], plain, n=4, cutoff=0.4)
    return (
        f"nearest: {', '.join(plain[entry] for entry in close)}" if close else f"known: {', '.join(list(plain.values())[:8])}, …"
    )
