"""MIG layouts: what NVIDIA's tools allow on an A100 and a 4-slice A30, exhaustively against the rules written another way."""

from collections import Counter
from itertools import combinations_with_replacement, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.facts.hardware import Gpu, MigProfile
from headrace.plan.packing.mig import Layout, beside, memory_slices, place, start_beside, valid

MIB = 2**20


def gpu(name: str, compute: int, rows: str) -> Gpu:
    """A GPU from rows `profile MiB compute size at-most starts`, as in mig_profiles.csv."""
    profiles = []
    for row in rows.strip().splitlines():
        profile, mib, slices, size, most, *starts = row.split()
        profiles.append(MigProfile(profile, int(mib) * MIB, int(slices), int(size), tuple(map(int, starts)), int(most)))
    return Gpu(name, 80 * 1024 * MIB, 1e12, {}, "nvlink", 1e11, 8.0, tuple(profiles), compute)


A100 = gpu(
    "A100-80GB",
    7,
    """
    1g.10gb 9856 1 1 7 0 1 2 3 4 5 6
    1g.10gb+me 9856 1 1 1 0 1 2 3 4 5 6
    1g.20gb 19968 1 2 4 0 2 4 6
    2g.20gb 19968 2 2 3 0 2 4
    3g.40gb 40192 3 4 2 0 4
    4g.40gb 40192 4 4 1 0
    7g.80gb 80384 7 8 1 0
    """,
)
A30 = gpu(
    "A30-24GB",
    4,
    """
    1g.6gb 5900 1 1 4 0 1 2 3
    1g.6gb+me 5900 1 1 1 0 1 2 3
    2g.12gb 11900 2 2 2 0 2
    2g.12gb+me 11900 2 2 1 0 2
    4g.24gb 24000 4 4 1 0
    """,
)
NAMES = {profile.name: profile for profile in (*A100.mig, *A30.mig)}


def wanted(text: str) -> list[MigProfile]:
    """Profiles by the beginning of their names: `3g 2g 2g`."""
    return [next(p for name, p in NAMES.items() if name.startswith(word)) for word in text.split()]


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("3g 3g", True),  # two halves of memory, 6 of 7 compute slices
        ("4g.40 3g", True),  # all compute, all memory
        ("4g.40 4g.40", False),  # 8 compute slices
        ("7g", True),  # the whole
        ("7g 1g.10gb", False),  # nothing is left beside it
        ("3g 2g.20 2g.20", True),  # only with the 3g at 4
        ("3g 3g 1g.10gb", False),  # a compute slice is left, no memory slice
        ("4g.40 2g.20 1g.10gb", True),  # 4 at 0, 2 at 4, 1 at 6
        ("2g.20 2g.20 2g.20 1g.10gb", True),  # three 2g at 0, 2, 4
        ("2g.20 2g.20 2g.20 2g.20", False),  # 8 compute slices, and no start at 6
        ("1g.20 1g.20 1g.20 1g.20", True),  # all memory, 4 of 7 compute slices
        ("1g.10gb " * 7, True),
        ("1g.10gb " * 8, False),
        ("1g.10gb+me 1g.10gb+me", False),  # one set of media engines
        ("1g.20 " + "1g.10gb " * 6, True),  # nothing lost: 8 memory and 7 compute slices
        ("4g.40 1g.20 1g.20 1g.10gb", False),  # 7 compute, but 9 memory slices
        ("4g.40 1g.20 1g.20", True),
        ("3g 1g.20 2g.20", True),
    ],
)
def test_what_stands_together_on_an_a100(text: str, fits: bool) -> None:
    assert (place(wanted(text), A100) is not None) == fits


def test_a_3g_with_two_2g_starts_in_the_upper_half() -> None:
    layout = place(wanted("3g 2g.20 2g.20"), A100)
    assert layout is not None
    assert [start for _, start in layout] == [4, 0, 2]
    assert sorted(start for profile, start in beside(((wanted("3g")[0], 0),), A100) if profile.name == "2g.20gb") == [4]


def test_a_lone_3g_leaves_the_half_where_two_2g_fit() -> None:
    assert start_beside(wanted("3g")[0], (), A100) == 4


def test_media_engines_are_one_even_over_different_profiles() -> None:
    both = [NAMES["1g.6gb+me"], NAMES["2g.12gb+me"]]
    assert place(both, A30) is None
    assert place([NAMES["1g.6gb"], NAMES["2g.12gb+me"]], A30) is not None


def test_profiles_of_another_gpu_do_not_fit() -> None:
    assert place([NAMES["1g.6gb"]], A100) is None


def test_memory_slices() -> None:
    assert (memory_slices(A100), memory_slices(A30), memory_slices(gpu("T4", 0, ""))) == (8, 4, 0)


def by_the_book(layout: Layout, compute: int) -> bool:
    """The rules, by occupied slices."""
    taken = Counter(slice_ for profile, start in layout for slice_ in range(start, start + profile.size))
    used = Counter(profile.name for profile, _ in layout)
    return (
        all(count == 1 for count in taken.values())
        and all(start in profile.starts and used[profile.name] <= profile.at_most for profile, start in layout)
        and sum(profile.compute_slices for profile, _ in layout) <= compute
        and sum("+me" in profile.name for profile, _ in layout) <= 1
    )


@pytest.mark.parametrize("device", [A100, A30], ids=lambda device: device.name)
def test_every_combination_of_up_to_four_is_placed_exactly_when_some_starts_do(device: Gpu) -> None:
    for count in range(1, 5):
        for profiles in combinations_with_replacement(device.mig, count):
            some = any(
                by_the_book(tuple(zip(profiles, starts, strict=True)), device.mig_compute_slices)
                for starts in product(*(p.starts for p in profiles))
            )
            layout = place(profiles, device)
            assert (layout is not None) == some, profiles
            if layout:
                assert by_the_book(layout, device.mig_compute_slices)
                assert valid(layout, device)
                assert tuple(profile for profile, _ in layout) == profiles


def test_order_does_not_matter() -> None:
    for order in permutations(wanted("3g 2g.20 1g.20 1g.10gb")):
        assert place(order, A100) is None
    for order in permutations(wanted("3g 2g.20 1g.10gb 1g.10gb")):
        assert place(order, A100) is not None


@given(st.lists(st.sampled_from(A100.mig), max_size=8))
def test_instances_set_up_one_by_one_are_always_valid(profiles: list[MigProfile]) -> None:
    layout: Layout = ()
    for profile in profiles:
        start = start_beside(profile, layout, A100)
        options = beside(layout, A100)
        assert (start is None) == all(other != profile for other, _ in options)
        if start is not None:
            layout = (*layout, (profile, start))
            assert valid(layout, A100)
            assert by_the_book(layout, 7)
