"""What to try next: a small space one after the other, a larger one by Optuna's TPE sampler (extra `headrace[tune]`)."""

import random
import warnings
from collections.abc import Iterable
from typing import Any, Protocol

from headrace.errors import UsageError
from headrace.tune.base import Candidate
from headrace.tune.space import Branch, Space

SMALL = 12
"""A space of no more candidates is tried whole."""
_RANDOM_TRIALS = 4
_MOST_ASKED = 8
"""Proposals in a row that are known already: then one that is not is taken by chance."""


class Search(Protocol):
    """Proposes candidates, and learns what they were worth."""

    def ask(self) -> Candidate | None:
        """The next one; None when there is none left."""

    def tell(self, candidate: Candidate, value: float | None) -> None:
        """What it was worth, more being better; None for one that could not be measured to the end."""


def search(space: Space, seed: int) -> Search:
    """The fitting one. Raises UsageError where Optuna is needed and not here."""
    return Grid(space, seed) if space.size <= SMALL else Tpe(space, seed)


class Grid:
    """All candidates, where each branch begins first, the others in an order by `seed`."""

    def __init__(self, space: Space, seed: int) -> None:
        starts = [branch.start for branch in space.branches]
        rest = [one for branch in space.branches for one in branch.candidates() if one not in starts]
        random.Random(seed).shuffle(rest)
        self._left = [*starts, *rest]

    def ask(self) -> Candidate | None:
        return self._left.pop(0) if self._left else None

    def tell(self, candidate: Candidate, value: float | None) -> None:
        self._left = [one for one in self._left if one != candidate]


class Tpe:
    """Tree-structured Parzen estimators over all branches: the engine is a choice like others, each with settings of its own."""

    def __init__(self, space: Space, seed: int) -> None:
        try:
            import optuna
        except ImportError:
            raise UsageError(
                "headrace tune searches with Optuna, which is not here.", "Run: pip install 'headrace[tune]'"
            ) from None
        self._optuna, self._space = optuna, space
        self._branches = {_key(branch): branch for branch in space.branches}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that `group` is experimental, which Optuna says since 2021
            sampler = optuna.samplers.TPESampler(n_startup_trials=_RANDOM_TRIALS, multivariate=True, group=True, seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._known: dict[Candidate, float | None] = {}
        self._open: dict[Candidate, Any] = {}
        self._left = [one for branch in space.branches for one in branch.candidates()]
        random.Random(seed).shuffle(self._left)
        for branch in space.branches:
            self._study.enqueue_trial(_parameters(branch, branch.start))

    def ask(self) -> Candidate | None:
        for _ in range(_MOST_ASKED if len(self._known) < self._space.size else 0):
            asked = self._study.ask()
            candidate = self._proposed(asked)
            if candidate not in self._known:
                self._open[candidate] = asked
                return candidate
            self._settle(asked, None)  # its value is known, and is not to count twice
        self._left = [one for one in self._left if one not in self._known]
        return self._left[-1] if self._left else None

    def tell(self, candidate: Candidate, value: float | None) -> None:
        if self._of(candidate) is None:
            return  # what is planned may be no candidate: more slots than anyone needs
        self._known[candidate] = value
        if candidate in self._open:
            self._settle(self._open.pop(candidate), value)
        elif value is not None and (branch := self._of(candidate)) is not None:
            self._study.add_trial(self._remembered(branch, candidate, value))

    def _proposed(self, asked: Any) -> Candidate:
        branch = self._branches[asked.suggest_categorical("branch", list(self._branches))]
        names = branch.dimensions.items()
        return branch.candidate(
            {name: asked.suggest_categorical(f"{_key(branch)}.{name}", list(values)) for name, values in names}
        )

    def _settle(self, asked: Any, value: float | None) -> None:
        if value is None:
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(asked, value)

    def _of(self, candidate: Candidate) -> Branch | None:
        """The branch that has this candidate, if it still is in the space."""
        return next((one for one in self._space.branches if _has(one, candidate)), None)

    def _remembered(self, branch: Branch, candidate: Candidate, value: float) -> Any:
        choices: dict[str, Iterable[str]] = {"branch": list(self._branches)}
        choices |= {f"{_key(branch)}.{name}": values for name, values in branch.dimensions.items()}
        known: dict[str, Any] = {
            name: self._optuna.distributions.CategoricalDistribution(list(values)) for name, values in choices.items()
        }
        return self._optuna.trial.create_trial(params=_parameters(branch, candidate), distributions=known, value=value)


def _key(branch: Branch) -> str:
    return f"{branch.engine} {branch.source}" if branch.source else branch.engine


def _parameters(branch: Branch, candidate: Candidate) -> dict[str, str]:
    values = candidate.values
    return {"branch": _key(branch), **{f"{_key(branch)}.{name}": values[name] for name in branch.dimensions}}


def _has(branch: Branch, candidate: Candidate) -> bool:
    values = candidate.values
    if values.pop("engine") != branch.engine or values.pop("source", None) != branch.source:
        return False
    return set(values) == set(branch.dimensions) and all(values[name] in branch.dimensions[name] for name in values)
