"""A fake nvidia-smi to put on PATH, and a fake environment with vLLM's build for GPUs; in the words of the real ones."""

import sys
from pathlib import Path

RTX_4090 = "0, NVIDIA GeForce RTX 4090, GPU-5f5a1c9e-0000, 24564, 24078, 2, 8.9, [N/A]"
T4_IN_USE = "0, Tesla T4, GPU-7c1d-0000, 15360, 11906, 3072, 7.5, [N/A]"
H100S = "\n".join(
    f"{n}, NVIDIA H100 80GB HBM3, GPU-a{n}, 81559, 81004, 1, 9.0, {'Enabled' if n == 0 else 'Disabled'}" for n in range(8)
)
H100S_LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-a0)
  MIG 3g.40gb     Device  0: (UUID: MIG-b0)
  MIG 1g.10gb     Device  1: (UUID: MIG-b1)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-a1)
"""
UNKNOWN = "0, NVIDIA RTX 9999, GPU-ff, 49140, 48500, 4, 12.0, [N/A]"
DRIVER_ERROR = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is "
    "installed and running."
)


def nvidia_smi(folder: Path, rows: str, listing: str = "", *, code: int = 0, hangs: bool = False) -> str:
    """PATH with a fake before all else: it prints `rows` (or `listing` for -L) and exits with `code`, or never ends."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows").write_text(rows + "\n")
    (folder / "listing").write_text(listing)
    said = f'case "$1" in -L) cat {folder}/listing;; *) cat {folder}/rows;; esac\nexit {code}\n'
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + ("exec sleep 600\n" if hangs else said))
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def vllm_for_gpus(folder: Path, version: str = "0.32.0") -> Path:
    """An environment whose vLLM is the fake one; each start writes its CUDA_VISIBLE_DEVICES and arguments to `started`."""
    (folder / "lib" / "python3.11" / "site-packages" / f"vllm-{version}.dist-info").mkdir(parents=True)
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    started = f'echo "$CUDA_VISIBLE_DEVICES $*" >> {folder}/started'
    python.write_text(f'#!/bin/sh\nshift 3\n{started}\nexec {sys.executable} -P -m headrace.testing.vllm "$@"\n')
    python.chmod(0o755)
    return folder
