"""--machine as people write it, and the nearest entry for what is not there."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.facts.catalogue import every_sku, gpus
from headrace.facts.request import machine


def ask(text):
    return machine(text, gpus(), every_sku())


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("2 x A100-80GB", "A100-80GB", 2),
        ("2xA100-80GB", "A100-80GB", 2),
        ("4 × H100-80GB", "H100-80GB", 4),
        ("8 * L4", "L4", 8),
        ("A100-80GB", "A100-80GB", 1),
        ("A100-80GB x 2", "A100-80GB", 2),
        # as drivers and people write it
        ("rtx-4090", "RTX-4090", 1),
        ("NVIDIA GeForce RTX 4090", "RTX-4090", 1),
        ("a100 80gb", "A100-80GB", 1),
        # a part that only one has
        ("MI300X", "MI300X-192GB", 1),
        ("M2 Ultra", "Apple-M2-Ultra-192GB", 1),
    ],
)
def test_devices(text, name, count):
    (found,) = ask(text)
    assert [gpu.name for gpu in found.gpus] == [name] * count
    assert found.sku is None
    assert found.memory_bytes >= 2 * count * found.gpus[0].memory_bytes
    assert found.cores >= 16


def test_a_size_of_a_cloud():
    (found,) = ask("azure:Standard_NC48ads_A100_v4")
    assert (found.cores, len(found.gpus), found.sku.name) == (48, 2, "Standard_NC48ads_A100_v4")
    assert ask("azure:nc48ads_a100_v4") == (found,)
    assert ask("azure:Standard_NC48ads_A100_v4 x 2") == (found, found)


def test_a_cloud_is_all_its_sizes():
    assert {found.sku.name for found in ask("azure")} == set(every_sku())


def test_a_slice_has_its_part_of_everything():
    (found,) = ask("azure:Standard_NV6ads_A10_v5")
    whole = gpus()["A10"]
    assert found.gpus[0].memory_bytes == found.sku.gpu_memory_bytes < whole.memory_bytes / 5
    assert found.gpus[0].bandwidth < whole.bandwidth / 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A100-81GB", "nearest: A100-80GB"),
        ("azure:Standard_NC24ads_A100_v3", "nearest: .*Standard_NC24ads_A100_v4"),
        ("H100", "could be H100-80GB or H100-80GB-PCIe or H100-NVL-94GB; write one of these"),
        ("Standard_NC24ads_A100_v4", "is a size of azure; write azure:Standard_NC24ads_A100_v4"),
        ("aws:p5.48xlarge", r"is not a GPU in the catalogue or a cloud \(azure\)"),
        ("0 x L4", "0 is not a number of machines or devices"),
        ("5000 x L4", "write 1 to 1024"),
        ("", "is not a GPU"),
        ("2 x", "is not a GPU"),
    ],
)
def test_what_is_not_there_names_the_nearest(text, reason):
    with pytest.raises(ValueError, match=reason):
        ask(text)


@given(st.text(max_size=40))
def test_any_text_is_machines_or_a_value_error(text):
    with suppress(ValueError):
        assert ask(text)
