"""Packing: never invalid whatever is asked, stable, the same for the same input, near the fewest devices, and in clear words."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.facts.hardware import Gpu, MigProfile
from headrace.plan.packing.base import Assignment, Demand, Device, Packing
from headrace.plan.packing.explain import explain
from headrace.plan.packing.mig import valid
from headrace.plan.packing.pack import pack

GIB = 2**30
CONTEXT = GIB // 2


def gpu(name: str, gib: float, slices: str = "") -> Gpu:
    """A GPU; `slices` are `profile MiB compute size at-most starts`, separated by commas."""
    mig = []
    for row in filter(None, slices.split(",")):
        profile, mib, compute, size, most, *starts = row.split()
        mig.append(MigProfile(profile, int(mib) * 2**20, int(compute), int(size), tuple(map(int, starts)), int(most)))
    return Gpu(name, round(gib * GIB), 1e12, {}, "nvlink", 1e11, 8.0, tuple(mig), 7 if mig else 0)


T4 = gpu("T4", 15)
L40S = gpu("L40S", 45)
A100 = gpu(
    "A100-80GB",
    79,
    "1g.10gb 9856 1 1 7 0 1 2 3 4 5 6,1g.10gb+me 9856 1 1 1 0 1 2 3 4 5 6,1g.20gb 19968 1 2 4 0 2 4 6,"
    "2g.20gb 19968 2 2 3 0 2 4,3g.40gb 40192 3 4 2 0 4,4g.40gb 40192 4 4 1 0,7g.80gb 80384 7 8 1 0",
)
GPUS = {kind.name: kind for kind in (T4, L40S, A100)}


def node(name: str, kind: Gpu, count: int, link: int = 8) -> list[Device]:
    return [Device(name, i, kind, kind.memory_bytes, f"link{i // link}") for i in range(count)]


def want(name: str, gib: float, **more: object) -> Demand:
    """A demand of whole `gib` with its context in it."""
    return replace(Demand(name, round(gib * GIB) - CONTEXT), **more)  # type: ignore[arg-type]


def one(packing: Packing, name: str) -> Assignment:
    return next(each for each in packing.assignments if each.name == name)


# --- what must hold for every packing ---


def check(packing: Packing, demands: Sequence[Demand], devices: Sequence[Device]) -> None:
    """Everything that makes a packing valid, worked out from its assignments alone."""
    asked, there = {demand.key: demand for demand in demands}, {device.where: device for device in devices}
    assert sorted([each.key for each in packing.assignments] + [(u.name, u.replica) for u in packing.unplaced]) == sorted(asked)
    on: dict[tuple[str, int], list[Assignment]] = defaultdict(list)
    for each in packing.assignments:
        demand = asked[each.key]
        assert len(set(each.devices)) == demand.gpus
        assert len({name for name, _ in each.devices}) == 1, "tensor parallel stays in a node"
        assert {there[where].gpu.name for where in each.devices} == {each.gpu}
        assert each.memory_bytes == demand.bytes_on(GPUS[each.gpu])
        assert not demand.isolated or each.share in ("mig", "exclusive")
        assert demand.share == "auto" or each.share == demand.share
        for where in each.devices:
            on[where].append(each)
    for where, held in on.items():
        check_device(there[where], held, asked)
    assert packing.devices == len(on)
    assert packing.least_devices <= packing.devices
    assert all(each.short_bytes >= 0 and each.reason and each.fix for each in packing.unplaced)


def check_device(device: Device, held: Sequence[Assignment], asked: dict[tuple[str, int], Demand]) -> None:
    shares = {each.share for each in held}
    if "exclusive" in shares:
        assert len(held) == 1
    if "mig" in shares:
        assert shares == {"mig"}
        assert device.cuttable
        check_slices(device, held, asked)
    pools: dict[tuple[object, ...], list[Assignment]] = defaultdict(list)
    for each in held:
        pooled = each.share in ("process", "swap")
        pools[(each.share, each.group, each.devices if each.share == "process" else ()) if pooled else (each.key,)].append(each)
    assert sum(pool_bytes(pool) for pool in pools.values()) <= device.free_bytes
    if "mig" not in shares:
        assert sum(pool_compute(pool, asked) for pool in pools.values()) <= 1 + 1e-6
    for pool in pools.values():
        assert len({each.name for each in pool}) == len(pool), "no two replicas of a model in one process or pool"


def check_slices(device: Device, held: Sequence[Assignment], asked: dict[tuple[str, int], Demand]) -> None:
    profiles = {profile.name: profile for profile in device.gpu.mig}
    layout = [(profiles[each.profile or ""], each.start if each.start is not None else -1) for each in held]
    assert valid(layout, device.gpu)
    for (profile, _), each in zip(layout, held, strict=True):
        assert each.memory_bytes + each.process_bytes <= profile.memory_bytes
        assert profile.compute_slices / device.gpu.mig_compute_slices >= (asked[each.key].compute_share or 0) - 1e-6


def pool_bytes(pool: Sequence[Assignment]) -> int:
    if pool[0].share == "swap":
        return max(each.memory_bytes + each.process_bytes for each in pool)
    return sum(each.memory_bytes for each in pool) + max(each.process_bytes for each in pool)


def pool_compute(pool: Sequence[Assignment], asked: dict[tuple[str, int], Demand]) -> float:
    parts = [asked[each.key].compute_share or 0.0 for each in pool]
    return max(parts) if pool[0].share == "swap" else sum(parts)


# --- anything that could be asked ---

kinds = st.one_of(st.none(), st.dictionaries(st.sampled_from(sorted(GPUS)), st.integers(0, 60 * GIB), max_size=3))
demand = st.builds(
    Demand,
    name=st.sampled_from("abcdefghijklmnop"),
    replica=st.integers(0, 2),
    memory_bytes=st.one_of(st.integers(0, 20 * GIB), st.integers(0, 90 * GIB)),
    gpus=st.sampled_from([1, 1, 1, 1, 2, 4]),
    process_bytes=st.sampled_from([0, CONTEXT, GIB]),
    kinds=kinds,
    compute_share=st.one_of(st.none(), st.sampled_from([0.1, 0.25, 0.5, 1.0])),
    share=st.sampled_from(["auto", "auto", "auto", "exclusive", "mig", "time-slice", "process", "swap"]),
    group=st.sampled_from(["", "x"]),
    isolated=st.sampled_from([False, False, False, True]),
)
demands = st.lists(demand, max_size=18, unique_by=lambda demand: demand.key)
nodes = st.lists(st.tuples(st.sampled_from([T4, L40S, A100]), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4)
devices = st.builds(
    lambda rows, free, cuttable: [
        replace(device, free_bytes=device.free_bytes * free // 100, cuttable=cuttable)
        for i, (kind, count, link) in enumerate(rows)
        for device in node(f"n{i}", kind, count, link)
    ],
    nodes,
    st.sampled_from([100, 100, 60]),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(demands, devices)
def test_no_packing_is_ever_invalid(asked: list[Demand], there: list[Device]) -> None:
    packing = pack(asked, there)
    check(packing, asked, there)
    explain(packing)


@settings(max_examples=60, deadline=None)
@given(demands, devices, st.randoms(use_true_random=False))
def test_order_does_not_matter(asked: list[Demand], there: list[Device], chance: random.Random) -> None:
    packing = pack(asked, there)
    chance.shuffle(asked)
    chance.shuffle(there)
    assert pack(asked, there) == packing


@settings(max_examples=100, deadline=None)
@given(demands, devices, st.sampled_from(["staying", "fewest"]))
def test_replanning_what_did_not_change_moves_nothing(asked: list[Demand], there: list[Device], prefer: str) -> None:
    before = pack(asked, there)
    again = pack(asked, there, before, prefer)  # type: ignore[arg-type]
    assert again.assignments == before.assignments
    assert again.unplaced == before.unplaced
    assert again.moved == ()


@settings(max_examples=100, deadline=None)
@given(demands, devices, st.data())
def test_a_model_less_moves_no_other_where_all_had_a_place(asked: list[Demand], there: list[Device], data: st.DataObject) -> None:
    before = pack(asked, there)
    gone = data.draw(st.sampled_from(sorted({each.name for each in asked})), "gone") if asked else ""
    left = [each for each in asked if each.name != gone]
    after = pack(left, there, before)
    check(after, left, there)
    if not before.unplaced:
        assert after.moved == ()
        assert not after.unplaced


@settings(max_examples=100, deadline=None)
@given(demands, devices, demand)
def test_a_model_more_takes_no_place_from_another(asked: list[Demand], there: list[Device], new: Demand) -> None:
    before = pack(asked, there)
    more = [*asked, replace(new, name="new")]
    after = pack(more, there, before)
    check(after, more, there)
    assert {each.key for each in before.assignments} <= {each.key for each in after.assignments}


@settings(max_examples=100, deadline=None)
@given(demands, devices, st.sampled_from([T4, L40S, A100]))
def test_a_device_more_takes_no_place_from_a_running_replica(asked: list[Demand], there: list[Device], kind: Gpu) -> None:
    """For what runs. Packed anew, a larger fleet may in theory leave out another model than a smaller one: heuristics are so."""
    before = pack(asked, there)
    more = [*there, *node("more", kind, 1)]
    after = pack(asked, more, before)
    check(after, asked, more)
    assert {each.key for each in before.assignments} <= {each.key for each in after.assignments}


@settings(max_examples=60, deadline=None)
@given(demands, devices, devices)
def test_what_runs_elsewhere_never_makes_a_plan_invalid(asked: list[Demand], there: list[Device], now: list[Device]) -> None:
    check(pack(asked, now, pack(asked, there)), asked, now)


SMALL = st.lists(st.sampled_from([4, 6, 7, 9, 11, 14]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(SMALL, st.sampled_from([[T4, T4, T4, T4], [T4, T4, L40S], [L40S, L40S, T4]]))
def test_the_lower_bound_is_never_above_the_best_of_all_packings(sizes: list[int], gpus: list[Gpu]) -> None:
    asked = [want(f"m{i}", size) for i, size in enumerate(sizes)]
    there = [Device(f"n{i}", 0, kind, kind.memory_bytes) for i, kind in enumerate(gpus)]
    best = fewest(sizes, [kind.memory_bytes // GIB for kind in gpus])
    packing = pack(asked, there)
    assert not packing.unplaced or best is None or len(packing.unplaced) < len(sizes)
    if best is not None and not packing.unplaced:
        assert packing.least_devices <= best <= packing.devices <= best + 1


def fewest(sizes: Sequence[int], rooms: Sequence[int]) -> int | None:
    """By trying all."""
    found = None
    for choice in product(range(len(rooms)), repeat=len(sizes)):
        if all(sum(s for s, c in zip(sizes, choice, strict=True) if c == i) <= room for i, room in enumerate(rooms)):
            found = min(found or len(rooms), len(set(choice)))
    return found


# --- claims, one by one ---


def test_one_device_is_enough_for_what_fits_on_it() -> None:
    packing = pack([want("a", 40), want("b", 30), want("c", 9)], node("n", A100, 4))
    assert (packing.devices, packing.least_devices, packing.gap) == (1, 1, 0.0)
    assert {each.share for each in packing.assignments} == {"time-slice"}


def test_the_smallest_device_that_does_is_taken() -> None:
    packing = pack([want("a", 10)], [*node("n", A100, 1), *node("m", T4, 1)])
    assert one(packing, "a").gpu == "T4"


def test_exclusive_is_left_alone_though_it_is_small() -> None:
    packing = pack([want("a", 4, share="exclusive"), want("b", 4), want("c", 4)], node("n", T4, 2))
    assert one(packing, "a").devices != one(packing, "b").devices == one(packing, "c").devices


def test_isolation_means_mig_and_the_smallest_slice_that_does() -> None:
    packing = pack([want(f"m{i}", 9, isolated=True) for i in range(7)], node("n", A100, 2))
    assert packing.devices == 1
    assert {each.profile for each in packing.assignments} == {"1g.10gb"}
    assert sorted(each.start or 0 for each in packing.assignments) == [0, 1, 2, 3, 4, 5, 6]


def test_isolation_is_a_whole_device_where_no_slice_will_do() -> None:
    packing = pack([want("a", 10, isolated=True)], node("n", T4, 1))
    assert one(packing, "a").share == "exclusive"
    assert "no MIG slice will do" in one(packing, "a").reason


def test_a_slice_with_double_memory_goes_beside_six_single_ones() -> None:
    """Seven compute slices and eight of memory, all used: one by one, four of the large would share a GPU and lose three."""
    asked = [want(f"s{i}", 9, isolated=True) for i in range(12)] + [want(f"l{i}", 15, isolated=True) for i in range(2)]
    packing = pack(asked, node("n", A100, 8))
    assert packing.devices == packing.least_devices == 2


def test_tensor_parallel_takes_neighbours_on_one_link() -> None:
    there = [*node("a", A100, 4, link=2)]
    packing = pack([want("x", 60, share="exclusive"), want("big", 70, gpus=2)], there)
    assert len({there[index].link for _, index in one(packing, "big").devices}) == 1


def test_tensor_parallel_is_not_cut_nor_spread_over_nodes() -> None:
    packing = pack([want("a", 10, gpus=2, share="mig"), want("b", 70, gpus=2)], [*node("n", A100, 1), *node("m", A100, 1)])
    reasons = {each.name: each.reason for each in packing.unplaced}
    assert reasons["a"] == "tensor parallel over 2 devices cannot run in MIG slices."
    assert "on each of 2 devices of one node" in reasons["b"]


def test_models_in_one_process_pay_for_one_context() -> None:
    asked = [want(f"m{i}", 5, share="process", group="triton") for i in range(3)]
    packing = pack(asked, node("n", gpu("T4", 14), 2))
    assert packing.devices == 1  # 3 x 4.5 + 0.5
    assert pack([replace(each, share="time-slice") for each in asked], node("n", gpu("T4", 14), 2)).devices == 2


def test_swapped_models_need_room_for_the_largest_only() -> None:
    asked = [want(f"m{i}", size, share="swap") for i, size in enumerate((14, 13, 12, 11))]
    packing = pack(asked, node("n", T4, 1))
    assert not packing.unplaced
    assert "in turn with 3 others: the largest takes 14 GiB" in one(packing, "m1").reason


def test_two_replicas_are_not_swapped_with_each_other() -> None:
    packing = pack([want("m", 4, share="swap", replica=i) for i in range(2)], node("n", T4, 2))
    assert packing.devices == 2


def test_compute_is_not_promised_twice() -> None:
    packing = pack([want(f"m{i}", 1, compute_share=0.4) for i in range(4)], node("n", T4, 2))
    assert packing.devices == 2
    assert not packing.unplaced


def test_bytes_by_kind_and_kinds_are_kept() -> None:
    packing = pack([Demand("m", 0, kinds={"L40S": 40 * GIB, "A100-80GB": 44 * GIB})], [*node("n", T4, 2), *node("m", L40S, 1)])
    assert (one(packing, "m").gpu, one(packing, "m").memory_bytes) == ("L40S", 40 * GIB)


def test_time_slices_are_warned_of_and_carry_absolute_budgets() -> None:
    packing = pack([want("a", 4, cache_bytes=GIB), want("b", 4)], node("n", T4, 1))
    assert one(packing, "a").cache_bytes == GIB
    assert "budget 4 GiB, 0.267 of the device's 15 GiB" in one(packing, "a").reason
    assert "limit no memory" in packing.warnings[0]


def test_replicas_on_one_device_are_warned_of() -> None:
    packing = pack([want("a", 4, replica=i) for i in range(2)], node("n", T4, 1))
    assert any("replicas of a share it" in warning for warning in packing.warnings)


@pytest.mark.parametrize(
    ("asked", "short", "words"),
    [
        (want("m", 20), 5, "it needs 20 GiB per device; the largest device it may use has 15 GiB: 5 GiB short."),
        (want("m", 20, kinds={"H100": 1}), None, "none of the devices is H100."),
        (want("m", 2, share="mig"), 2, "it needs 2 GiB per device; the largest slice it may use has 0 B: 2 GiB short."),
        (want("m", 12), 1, "it needs 12 GiB; the most left is 11 GiB: 1 GiB short."),
        (want("m", 2, isolated=True, share="swap"), 0, "isolation was asked for, which swap does not give."),
        (want("m", 2, compute_share=1.5), 0, "no device has 150% of a GPU's compute."),
        (want("m", 2, share="exclusive"), 2, "it needs 2 GiB; the most left is nothing: 2 GiB short."),
    ],
)
def test_what_has_no_place_says_what_is_missing(asked: Demand, short: int | None, words: str) -> None:
    packing = pack([want("first", 4, share="time-slice"), asked], node("n", T4, 1), pack([want("first", 4)], node("n", T4, 1)))
    assert [each.name for each in packing.unplaced] == ["m"]
    assert packing.unplaced[0].reason == words
    assert short is None or packing.unplaced[0].short_bytes == short * GIB


def test_a_running_model_moves_only_to_make_way() -> None:
    there = [*node("n", A100, 1), *node("m", T4, 1)]
    runs = pack([want("small", 10)], there[:1])
    assert pack([want("small", 10), want("other", 30)], there, runs).moved == ()
    after = pack([want("small", 10), want("large", 75)], there, runs)
    assert after.moved == (("small", 0),)
    assert not after.unplaced


def test_fewest_packs_anew_what_has_come_apart() -> None:
    there = node("n", T4, 3)
    full = pack([want("a", 10), want("b", 5), want("c", 10), want("d", 5)], there)
    apart = pack([want("b", 5), want("d", 5)], there, full)
    assert (apart.devices, apart.moved) == (2, ())
    assert pack([want("b", 5), want("d", 5)], there, apart, prefer="fewest").devices == 1


def test_a_replica_or_a_device_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="replica 0 of a is demanded more than once"):
        pack([want("a", 1), want("a", 2)], node("n", T4, 1))
    with pytest.raises(ValueError, match="a device is listed more than once"):
        pack([], [*node("n", T4, 1), *node("n", T4, 1)])


def test_a_table_tells_all() -> None:
    asked = [want("chat", 70, gpus=2, reason="best of three"), want("iso", 9, isolated=True), want("e", 2), want("huge", 90)]
    text = explain(pack(asked, node("n", A100, 4)))
    assert "chat#0   n/0,1   A100-80GB  exclusive         70 GiB  best of three; tensor parallel over 2: whole devices" in text
    assert "mig 1g.10gb at" in text
    assert "huge#0 has no place: it needs 90 GiB per device" in text
    assert text.endswith("left on them\n")


def test_solvers_absence_is_said() -> None:
    pytest.importorskip("headrace.plan.packing.exact")
    try:
        import ortools  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError:
        assert "pip install 'headrace[pack]'" in pack([want("a", 1)], node("n", T4, 1), effort=1.0).warnings[-1]


def test_the_solver_finds_what_the_heuristic_missed_and_the_same_twice() -> None:
    pytest.importorskip("ortools")
    chance = random.Random(7)
    asked = [want(f"m{i}", chance.choice([4.9, 5.1, 5.2, 4.8, 7.4, 7.6, 2.4, 2.6])) for i in range(24)]
    there = [*node("n", T4, 12), *node("m", L40S, 1)]
    plain, better = pack(asked, there), pack(asked, there, effort=2.0)
    check(better, asked, there)
    assert better.devices <= plain.devices
    assert better == pack(asked, there, effort=2.0)


def test_many_models_are_packed_near_the_bound() -> None:
    chance = random.Random(1)
    there = [
        device
        for i in range(12)
        for kind, count in ((T4, 2), (L40S, 2), (A100, 4))
        for device in node(f"{kind.name}{i}", kind, count)
    ]
    asked = [want(f"m{i}", 1 + 24 * chance.random() ** 2) for i in range(200)]
    packing = pack(asked, there)
    check(packing, asked, there)
    assert packing.gap <= 0.05
