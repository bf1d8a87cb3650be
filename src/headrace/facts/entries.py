"""Entries of the catalogue → values, each mistake named by file, entry and key."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from headrace.facts.base import CacheGroup, Experts, ModelFacts, active, growing_bytes
from headrace.facts.hardware import Gpu, MigProfile, Price, Sku

_GIB, _MIB = 2**30, 2**20
_FORMATS = ("fp32", "fp16", "fp8", "int8", "fp4", "int4")
_KINDS = ("full", "window", "chunk", "latent", "state")


class Entry:
    """One entry of a YAML file, read key by key; raises ValueError that says where and what."""

    def __init__(self, file: str, name: str, values: object) -> None:
        self.file, self.name = file, name
        if not isinstance(values, Mapping):
            raise ValueError(f"{file}: {name}: an entry is a mapping, not {values!r:.40}")
        self._values: Mapping[str, Any] = values

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def refuse(self, key: str, wanted: str) -> ValueError:
        return ValueError(f"{self.file}: {self.name}: {key} is {self._values.get(key)!r:.60}, and {wanted} is needed")

    def number(self, key: str, default: float | None = None) -> float:
        value = self._values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise self.refuse(key, "a number")
        return float(value)

    def count(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refuse(key, "a whole number")
        return value

    def optional(self, key: str) -> int | None:
        return self.count(key) if key in self else None

    def text(self, key: str, default: str | None = None) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise self.refuse(key, "a text")
        return value

    def part(self, key: str) -> "Entry":
        return Entry(self.file, f"{self.name}: {key}", self._values.get(key, {}))

    def items(self) -> list[tuple[str, Any]]:
        return [(str(key), value) for key, value in self._values.items()]

    def rows(self, key: str) -> list[list[Any]]:
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
            raise self.refuse(key, "a list of lists")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.refuse(key, "a list of texts")
        return tuple(value)

    def flag(self, key: str) -> bool:
        return self._values.get(key) is True


def gpu(entry: Entry) -> Gpu:
    link, mig = entry.part("link"), entry.part("mig")
    return Gpu(
        name=entry.name,
        memory_bytes=round(entry.number("memory") * _GIB),
        bandwidth=entry.number("bandwidth") * 1e9,
        flops=_flops(entry.part("tflops")),
        link_kind=link.text("kind"),
        link=link.number("rate") * 1e9,
        compute_capability=entry.number("compute_capability") if "compute_capability" in entry else None,
        mig=tuple(_profile(mig.part("profiles"), name, row) for name, row in mig.part("profiles").items()),
        mig_compute_slices=mig.count("slices", 0),
        source=entry.text("source") + (f"; MIG: {mig.text('source')}" if "mig" in entry else ""),
        nvidia=entry.texts("nvidia"),
    )


def _flops(entry: Entry) -> Mapping[str, float]:
    names = [name for name, _ in entry.items()]
    if unknown := [name for name in names if name not in _FORMATS]:
        raise ValueError(f"{entry.file}: {entry.name}: {unknown[0]} is not a number format; write one of {', '.join(_FORMATS)}")
    return {name: entry.number(name) * 1e12 for name in names}


def _profile(entry: Entry, name: str, row: object) -> MigProfile:
    match row:
        case [int(mib), int(compute), int(size), list(starts), int(at_most)] if all(isinstance(start, int) for start in starts):
            return MigProfile(name, mib * _MIB, compute, size, tuple(int(start) for start in starts), at_most)
    raise entry.refuse(name, "[MiB, compute slices, memory slices, [starts], how many at once]")


def sku(entry: Entry, cloud: str, gpus: Mapping[str, Gpu]) -> Sku:
    named = entry.text("gpu")
    if named not in gpus:
        raise entry.refuse("gpu", f"one of the catalogue's GPUs ({', '.join(list(gpus)[:6])}, …)")
    device = gpus[named]
    return Sku(
        name=entry.name,
        cloud=cloud,
        gpu=device,
        gpus=entry.count("gpus"),
        gpu_memory_bytes=round(entry.number("gpu_memory") * _GIB) if "gpu_memory" in entry else device.memory_bytes,
        cores=entry.count("cores"),
        memory_bytes=round(entry.number("memory") * _GIB),
        price=_price(entry.part("price")) if "price" in entry else None,
        source=entry.text("source"),
    )


def _price(entry: Entry) -> Price:
    return Price(entry.number("usd_per_hour"), entry.text("region"), entry.text("date"), entry.text("source"))


def model(entry: Entry) -> ModelFacts:
    """The facts of a known model; that they are from the catalogue is their first doubt."""
    cache = tuple(_group(entry, row) for row in entry.rows("cache"))
    experts = _experts(entry)
    parameters = entry.count("parameters")
    known = f"these facts are from Headrace's catalogue ({entry.text('source')}), not read from the model's files"
    return ModelFacts(
        architecture=entry.text("architecture"),
        format="safetensors",
        parameters=parameters,
        weight_bytes=entry.count("weight_bytes"),
        layers=entry.count("layers"),
        hidden=entry.count("hidden"),
        heads=entry.count("heads"),
        kv_heads=entry.count("kv_heads"),
        head_dim=entry.count("head_dim"),
        cache_bytes_per_token=growing_bytes(cache),
        context=entry.optional("context"),
        quantization=entry.text("quantization"),
        vocabulary=entry.optional("vocabulary"),
        chat_template=entry.flag("chat"),
        encoder=False,
        cache=cache,
        intermediate=entry.optional("intermediate"),
        experts=experts,
        parameters_active=entry.optional("active") or active(parameters, experts),
        doubts=(known, *entry.texts("doubts")),
    )


def _group(entry: Entry, row: list[Any]) -> CacheGroup:
    match row:
        case [str(kind), int(layers), int(kv_heads), int(numbers), *window] if kind in _KINDS and len(window) < 2:
            named = cast(Literal["full", "window", "chunk", "latent", "state"], kind)
            return CacheGroup(named, layers, kv_heads, numbers, window[0] if window else None)
    raise entry.refuse("cache", "[kind, layers, KV heads, numbers, window] for each group")


def _experts(entry: Entry) -> Experts | None:
    if "experts" not in entry:
        return None
    part = entry.part("experts")
    return Experts(part.count("count"), part.count("per_token"), part.count("parameters"))
