"""Signals of the set-up rather than of its load: KAITO's list, addresses, many models on few devices."""

from headrace.advice.base import Holds, Observed, Signal
from headrace.advice.commands import importing, of_file, planned

MANY_MODELS = 5


def listed(seen: Observed) -> Signal:
    """Whether KAITO has a preset for it."""
    name = "not in KAITO's list"
    if seen.kaito is None:
        return Signal(name, "holds not", "KAITO does not run it", 1.0)
    version = f"KAITO {seen.kaito.version}" if seen.kaito.version else "KAITO, whose version is not known"
    if seen.kaito.preset is not None:
        return Signal(name, "holds not", f"{version}: its preset is {seen.kaito.preset}", 1.0)
    numbers = f"{version}: {seen.kaito.source} is none of its presets that we know; later versions try any org/model, untested"
    change = "kubernetes.target: deployment, which is vLLM without KAITO, sized by the plan; then headrace apply"
    command = of_file(seen, "diff")
    return Signal(
        name, "holds", numbers, 1.0 if seen.kaito.version else 0.5, change, "the context, slots and memory of a plan", command
    )


def routed(seen: Observed) -> Signal:
    """Whether clients have to know which model is where."""
    name = "models behind separate addresses"
    holds: Holds = "holds" if seen.models >= 2 and seen.addresses >= 2 else "holds not"
    numbers = f"{_models(seen)} behind {'one address' if seen.addresses == 1 else f'{seen.addresses} addresses'}"
    change = "one gateway in front of all: it routes by the model's name, queues, and fails over"
    gain = "one address and one key for clients; models can be moved behind it without them"
    return Signal(
        name,
        holds,
        numbers,
        1.0,
        change,
        gain,
        (seen.importing or importing()) if holds == "holds" else "",
    )


def crowd(seen: Observed) -> Signal:
    """Whether so many models are there that packing them is worth it, and whether their load lets them be packed."""
    name = "many models on one machine" if seen.here else "many models on GPUs of their own"
    where = "on this machine" if seen.here else "in this namespace"
    numbers = f"{_models(seen)} {where}, from {MANY_MODELS} on they are worth packing"
    if seen.models < MANY_MODELS:
        return Signal(name, "holds not", numbers, 1.0)
    if seen.idle is not None:
        numbers += f"; {seen.idle} of them leave three quarters of their slots free in 9 of 10 looks"
    holds: Holds = "holds not" if seen.idle is not None and seen.idle < 2 else "holds"
    change = "let those that are seldom asked sleep (replicas: 0..1, share: swap), or pack them onto fewer GPUs"
    gain = seen.gains[name].said if name in seen.gains else ""
    command = planned(seen) if seen.here else of_file(seen, "nodepool", "--sharing")
    return Signal(name, holds, numbers, 1.0 if seen.idle is not None else 0.5, change, gain, command)


def _models(seen: Observed) -> str:
    return "one model" if seen.models == 1 else f"{seen.models} models"
