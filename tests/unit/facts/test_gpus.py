"""The GPUs of this machine, by a fake nvidia-smi: what is read, what is passed over, and that nothing takes long."""

import time
from pathlib import Path

import pytest

from headrace.facts import catalogue
from headrace.facts.gpus import Found, found
from tests.nvidia_smi import DRIVER_ERROR, H100S, H100S_LISTED, RTX_4090, T4_IN_USE, UNKNOWN, nvidia_smi

GIB = 2**30


def look(folder: Path, path: str, visible: str | None = None, seconds: float = 10.0) -> Found:
    environ = {"PATH": path} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    return found(folder, environ, seconds)


def test_a_card_of_the_catalogue_is_known_by_its_drivers_name(tmp_path: Path) -> None:
    (card,) = look(tmp_path, nvidia_smi(tmp_path / "bin", RTX_4090)).cards
    assert (card.gpu.name, card.uuid, card.place) == ("RTX-4090", "GPU-5f5a1c9e-0000", "0")
    assert card.gpu.memory_bytes == catalogue.gpus()["RTX-4090"].memory_bytes
    assert 23 * GIB < card.free_bytes <= card.gpu.memory_bytes


def test_what_others_have_in_use_is_not_free(tmp_path: Path) -> None:
    (card,) = look(tmp_path, nvidia_smi(tmp_path / "bin", T4_IN_USE)).cards
    assert card.gpu.name == "T4"
    assert card.free_bytes == 11.5 * GIB


def test_a_card_in_mig_mode_is_its_instances(tmp_path: Path) -> None:
    cards = look(tmp_path, nvidia_smi(tmp_path / "bin", H100S, H100S_LISTED)).cards
    assert [card.place for card in cards] == ["0:0", "0:1", "1", "2", "3", "4", "5", "6", "7"]
    assert [card.uuid for card in cards][:3] == ["MIG-b0", "MIG-b1", "GPU-a1"]
    assert cards[1].gpu.memory_bytes == 9729 * 2**20
    assert cards[1].gpu.link == 0  # no tensor parallelism over instances
    assert cards[1].gpu.bandwidth < cards[2].gpu.bandwidth / 7


def test_a_card_that_nobody_knows_has_the_memory_and_capability_that_its_driver_tells(tmp_path: Path) -> None:
    (card,) = look(tmp_path, nvidia_smi(tmp_path / "bin", UNKNOWN)).cards
    assert card.gpu.name == "RTX-9999"
    assert card.gpu.compute_capability == 12.0
    assert 46 * GIB < card.gpu.memory_bytes < 48 * GIB
    assert card.gpu.source == ""  # its speed is nobody's figure


def test_a_card_with_half_the_memory_of_its_namesake_has_its_own(tmp_path: Path) -> None:
    row = "0, NVIDIA GeForce RTX 4060 Ti, GPU-1, 8188, 7900, 2, 8.9, [N/A]"
    (card,) = look(tmp_path, nvidia_smi(tmp_path / "bin", row)).cards
    assert 7 * GIB < card.gpu.memory_bytes < 8 * GIB


@pytest.mark.parametrize(
    ("visible", "places"),
    [
        (None, ["0:0", "0:1", "1", "2", "3", "4", "5", "6", "7"]),
        ("", []),  # none at all
        ("-1", []),
        ("3,1", ["3", "1"]),
        ("GPU-a5", ["5"]),
        ("MIG-b1", ["0:1"]),
        ("2,99,3", ["2"]),  # CUDA stops at the first that there is not
        ("2,2", ["2"]),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_is_respected(tmp_path: Path, visible: str | None, places: list[str]) -> None:
    cards = look(tmp_path, nvidia_smi(tmp_path / "bin", H100S, H100S_LISTED), visible).cards
    assert [card.place for card in cards] == places


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        (DRIVER_ERROR, 9, "No GPU is used: nvidia-smi failed with code 9: NVIDIA-SMI has failed because it couldn't"),
        ('Field "compute_cap" is not a valid field to query.', 2, "failed with code 2: Field"),  # a driver of 2020
        ("0, X, GPU-1, 0, 0, 0, 7.5, [N/A]", 0, "No GPU is used: nvidia-smi does not tell the memory of X."),
        ("0, X, GPU-1, inf, 0, 0, 7.5, [N/A]", 0, "No GPU is used: nvidia-smi does not tell the memory of X."),
        ("Segmentation fault", 0, 'nvidia-smi says "Segmentation fault", which is not understood.'),
        ("0, NVIDIA L4, GPU-1, [N/A], [N/A], [N/A], 8.9, [N/A]", 0, "does not tell the memory of NVIDIA L4."),
        ("0, NVIDIA L4, GPU-1, 23034", 0, "which is not understood."),
    ],
)
def test_an_nvidia_smi_that_fails_is_one_line_and_no_gpu(tmp_path: Path, rows: str, code: int, said: str) -> None:
    there = look(tmp_path, nvidia_smi(tmp_path / "bin", rows, code=code))
    assert there.cards == ()
    (remark,) = there.remarks
    assert said in remark
    assert "\n" not in remark
    assert len(remark) < 300


def test_an_nvidia_smi_that_hangs_is_given_up(tmp_path: Path) -> None:
    began = time.monotonic()
    there = look(tmp_path, nvidia_smi(tmp_path / "bin", "", hangs=True), seconds=0.2)
    assert there == Found((), ("No GPU is used: nvidia-smi did not answer within 0.2 s.",))
    assert time.monotonic() - began < 60  # and not the 600 s of the fake


def test_no_devices_and_no_program_are_nothing_to_speak_of(tmp_path: Path) -> None:
    assert look(tmp_path, nvidia_smi(tmp_path / "bin", "No devices were found")) == Found()


def test_a_warning_beside_the_rows_takes_no_card_away(tmp_path):
    said = f"{RTX_4090}\nWARNING: infoROM is corrupted at gpu 0000:3B:00.0"
    assert look(tmp_path, nvidia_smi(tmp_path / "bin", said, code=14)) == look(tmp_path, nvidia_smi(tmp_path / "b", RTX_4090))
    assert look(tmp_path, str(tmp_path / "empty")) == Found()


def test_amd_is_said_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "sys/class/kfd").mkdir(parents=True)
    (remark,) = look(tmp_path, str(tmp_path / "empty")).remarks
    assert remark.startswith("An AMD GPU is here and is not used")


def test_every_name_is_of_one_card() -> None:
    names = [name for gpu in catalogue.gpus().values() for name in gpu.nvidia]
    assert len(names) == len(set(names))
    nvidias = [gpu.name for gpu in catalogue.gpus().values() if gpu.compute_capability is not None]
    assert [name for name in nvidias if not catalogue.gpus()[name].nvidia] == []
