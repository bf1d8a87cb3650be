"""The catalogue is sound, says where it is from, and every entry that is wrong is named."""

import re
import subprocess
import sys

import pytest

from headrace.facts import catalogue, entries
from headrace.facts.entries import Entry

GIB = 2**30
GPU = {"memory": 22, "bandwidth": 600, "tflops": {"fp16": 125}, "link": {"kind": "pcie", "rate": 32}, "source": "x"}


def test_gpus_are_plausible():
    for name, gpu in catalogue.gpus().items():
        assert gpu.name == name
        assert 4 * GIB <= gpu.memory_bytes <= 512 * GIB
        assert 50e9 <= gpu.bandwidth <= 10e12
        assert all(1e12 <= rate <= 2e16 for rate in gpu.flops.values())
        assert gpu.source


@pytest.mark.parametrize(
    "name",
    [
        "RTX-3060",
        "RTX-5090",
        "L4",
        "L40S",
        "T4",
        "A10",
        "A30",
        "A100-40GB",
        "A100-80GB",
        "H100-80GB",
        "H100-80GB-PCIe",
        "H100-NVL-94GB",
        "H200-141GB",
        "B200-180GB",
        "B300-269GB",
        "GB200-186GB",
        "GB300-279GB",
        "MI300X-192GB",
        "Apple-M2-Ultra-192GB",
    ],
)
def test_what_people_have_is_there(name):
    assert name in catalogue.gpus()


def test_flops_are_dense():
    """The figures with sparsity are twice these."""
    assert catalogue.gpus()["A100-80GB"].flops == {"fp16": 312e12, "int8": 624e12}
    assert catalogue.gpus()["H100-80GB"].flops["fp8"] == 1978.9e12


def test_mig_profiles_can_be_placed():
    cut = [gpu for gpu in catalogue.gpus().values() if gpu.mig]
    assert len(cut) >= 9
    for gpu in cut:
        for profile in gpu.mig:
            assert profile.compute_slices <= gpu.mig_compute_slices
            assert profile.memory_bytes <= gpu.memory_bytes
            assert profile.at_most <= len(profile.starts)
            # As many as fit at once do not overlap.
            assert len(profile.starts) < 2 or profile.starts[1] - profile.starts[0] >= profile.size
        assert "MIG: " in gpu.source


def test_azure_sizes():
    sizes = catalogue.skus("azure")
    assert len(sizes) >= 20
    assert sizes["Standard_NC24ads_A100_v4"].gpus == 1
    assert sizes["Standard_ND96isr_H100_v5"].gpu.name == "H100-80GB"
    for sku in sizes.values():
        assert sku.cloud == "azure"
        assert sku.source
        if sku.price:
            assert sku.price.usd_per_hour > 0
            assert sku.price.region
            assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", sku.price.date)


def test_a_slice_of_a_gpu_is_a_slice():
    sliced = catalogue.skus("azure")["Standard_NV12ads_A10_v5"]
    assert sliced.gpus == 1
    assert 7 * GIB < sliced.gpu_memory_bytes < 8 * GIB
    assert catalogue.skus("azure")["Standard_NV36ads_A10_v5"].gpu_memory_bytes == catalogue.gpus()["A10"].memory_bytes


def test_a_known_model_needs_no_network_and_says_so():
    facts = catalogue.known_model("meta-llama/llama-3.1-8b-instruct")
    assert facts
    assert (facts.parameters, facts.cache_bytes_per_token, facts.vocabulary) == (8_030_261_248, 131_072, 128_256)
    assert facts.chat_template
    assert "from Headrace's catalogue" in facts.doubts[0]
    assert catalogue.known_model("nobody/nothing") is None
    assert catalogue.known_model("") is None


def test_every_known_model_can_be_read():
    names = catalogue.known_models()
    assert len(names) >= 140
    for name in names:
        facts = catalogue.known_model(name)
        assert facts, name
        assert 0 < facts.parameters_active <= facts.parameters, name
        assert facts.weight_bytes > 0, name
        assert facts.cache, name


def test_kaito_presets():
    assert catalogue.kaito_preset("microsoft/phi-4") == "phi-4"
    assert catalogue.kaito_preset("Mistralai/Mistral-7B-v0.3") == "mistral-7b"
    assert catalogue.kaito_preset("nobody/nothing") is None


def test_an_unknown_cloud_names_the_known():
    with pytest.raises(ValueError, match=r'"nimbus" is not a cloud in the catalogue; known: azure'):
        catalogue.skus("nimbus")


def test_nothing_is_read_before_it_is_asked_for():
    code = "import sys; import headrace.facts.catalogue; print('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"memory": "22"}, "gpus.yaml: X: memory is '22', and a number is needed"),
        ({"bandwidth": -1}, "bandwidth is -1"),
        ({"tflops": {"fp17": 1}}, "fp17 is not a number format"),
        ({"link": []}, "X: link: an entry is a mapping"),
        ({"source": None}, "source is None, and a text is needed"),
        ({"mig": {"slices": 7, "source": "y", "profiles": {"1g": [1, 2]}}}, "1g is \\[1, 2\\], and \\[MiB, compute slices"),
    ],
)
def test_a_wrong_entry_is_named(changes, reason):
    with pytest.raises(ValueError, match=reason):
        entries.gpu(Entry("gpus.yaml", "X", {**GPU, **changes}))


def test_a_size_with_an_unknown_gpu_is_named():
    with pytest.raises(ValueError, match=r"azure\.yaml: big: gpu is 'A1000', and one of the catalogue's GPUs"):
        entries.sku(Entry("azure.yaml", "big", {"gpu": "A1000"}), "azure", catalogue.gpus())
