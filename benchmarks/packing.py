"""Packing 1,000 models onto 500 mixed GPUs: how long it takes, and how near the lower bound the devices used are.

`python benchmarks/packing.py` takes about a minute and prints a Markdown table, one row for each mix of models. The generator is
seeded: the same rows, but for the time, on every machine. `--effort 20` lets OR-tools improve each (extra `pack`).
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from headrace.facts.hardware import Gpu, MigProfile
from headrace.plan.packing.base import Demand, Device, Packing
from headrace.plan.packing.pack import pack

GIB = 2**30
MIB = 2**20


def gpu(name: str, gib: float, slices: Sequence[tuple[str, int]] = ()) -> Gpu:
    """A GPU with the A100's MIG geometry when `slices` names its profiles and their MiB."""
    shapes = {"1g": (1, 1, range(7), 7), "1G": (1, 2, (0, 2, 4, 6), 4), "2g": (2, 2, (0, 2, 4), 3)}
    shapes |= {"3g": (3, 4, (0, 4), 2), "4g": (4, 4, (0,), 1), "7g": (7, 8, (0,), 1)}
    mig = tuple(
        MigProfile(f"{kind}.{mib // 1000}gb", mib * MIB, compute, size, tuple(starts), most)
        for kind, mib in slices
        for compute, size, starts, most in [shapes[kind]]
    )
    return Gpu(name, round(gib * GIB), 1e12, {}, "nvlink" if slices else "pcie", 1e11, 8.0, mig, 7 if mig else 0)


T4, A10, L40S = gpu("T4", 14.6), gpu("A10", 22.1), gpu("L40S", 44.5)
A100_40 = gpu("A100-40GB", 39.4, [("1g", 4864), ("1G", 9856), ("2g", 9856), ("3g", 19968), ("4g", 19968), ("7g", 40192)])
A100_80 = gpu("A100-80GB", 79.2, [("1g", 9856), ("1G", 19968), ("2g", 19968), ("3g", 40192), ("4g", 40192), ("7g", 80384)])
H100 = gpu("H100-80GB", 79.2, [("1g", 10240), ("1G", 20480), ("2g", 20480), ("3g", 40960), ("4g", 40960), ("7g", 81152)])

NODES = ((T4, 1, 60), (T4, 4, 15), (A10, 2, 60), (L40S, 4, 20), (A100_40, 8, 8), (A100_80, 4, 15), (H100, 8, 7))
"""(GPU, GPUs in a node, nodes): 500 GPUs in 185 nodes."""


def devices() -> list[Device]:
    nodes = [(f"{kind.name}x{count}-{i:02}".lower(), kind, count) for kind, count, many in NODES for i in range(many)]
    return [Device(name, i, kind, kind.memory_bytes, f"{i // 4}") for name, kind, count in nodes for i in range(count)]


def small(chance: random.Random, i: int) -> Demand:
    """1 to 30 GiB, most of them small: quantized models up to 14B with their caches."""
    return Demand(f"m{i:04}", round(GIB * 30 ** chance.random()))


def halves(chance: random.Random, i: int) -> Demand:
    """5 to 35 GiB, even: many are near a half or a third of a device, which packs worst."""
    return Demand(f"m{i:04}", round(GIB * chance.uniform(5, 25)))


def isolated(chance: random.Random, i: int) -> Demand:
    """All want MIG: 2 to 18 GiB, those above 10 seldom."""
    return Demand(f"m{i:04}", round(GIB * (2 + 16 * chance.random() ** 3)), isolated=True)


def choosy(chance: random.Random, i: int) -> Demand:
    """Only some kinds of GPU will do, with other bytes on each, and a third want a part of the compute."""
    one = small(chance, i)
    kinds = chance.choice([(T4, A10), (A10, L40S), (A100_40, A100_80, H100), (L40S, A100_80, H100), (A100_80, H100)])
    share = chance.choice([None, None, 0.1, 0.2, 0.3])
    room = min(kind.memory_bytes for kind in kinds) - GIB
    return replace(
        one, kinds={k.name: min(round(one.memory_bytes * chance.uniform(0.9, 1.1)), room) for k in kinds}, compute_share=share
    )


def fleet(chance: random.Random, i: int) -> Demand:
    """Everything: mostly auto, and some exclusive, tensor parallel, isolated, in one process, swapped."""
    one = replace(small(chance, i), memory_bytes=round(GIB * 20 ** chance.random()))
    what = chance.choices(("auto", "exclusive", "tp", "isolated", "process", "swap"), (70, 5, 4, 8, 7, 6))[0]
    if what == "tp":
        return replace(one, gpus=chance.choice([2, 2, 4]), memory_bytes=round(GIB * chance.uniform(15, 70)))
    if what == "isolated":
        return isolated(chance, i)
    if what == "exclusive":
        return replace(one, share="exclusive")
    if what == "auto":
        return one
    together = replace(one, group=f"{what}{chance.randrange(6)}", memory_bytes=round(GIB * chance.uniform(0.2, 6)))
    return replace(together, share="process") if what == "process" else replace(together, share="swap")


def too_much(chance: random.Random, i: int) -> Demand:
    """More than fits: 10 to 75 GiB."""
    return Demand(f"m{i:04}", round(GIB * chance.uniform(10, 75)))


MIXES: tuple[Callable[[random.Random, int], Demand], ...] = (small, halves, isolated, choosy, fleet, too_much)


def measured(mix: Callable[[random.Random, int], Demand], seed: int, models: int, effort: float) -> tuple[Packing, float, float]:
    """(packing, its seconds, the seconds to replan with one model more)."""
    chance = random.Random(seed)
    demands, there = [mix(chance, i) for i in range(models)], devices()
    start = time.perf_counter()
    packing = pack(demands, there, effort=effort)
    took = time.perf_counter() - start
    again = pack([*demands, Demand("new", GIB)], there, packing)
    assert not again.moved
    return packing, took, time.perf_counter() - start - took


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--models", type=int, default=1000)
    options.add_argument("--seeds", type=int, default=2, help="fleets of models per mix")
    options.add_argument("--effort", type=float, default=0.0, help="deterministic seconds for OR-tools")
    chosen = options.parse_args()
    print(f"{chosen.models} models on {len(devices())} GPUs\n")
    print("| mix | seed | seconds | devices | at least | above | unplaced | left over | replan, s |")
    print("|---" + "|--:" * 8 + "|")
    for mix in MIXES:
        for seed in range(chosen.seeds):
            packing, took, again = measured(mix, seed, chosen.models, chosen.effort)
            print(
                f"| {mix.__name__} | {seed} | {took:.2f} | {packing.devices} | {packing.least_devices} | {packing.gap:.1%}"
                f" | {len(packing.unplaced)} | {packing.waste_bytes / GIB:,.0f} GiB | {again:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
