"""scikit-learn models: skops files, whose types are checked before anything is made of them; pickles only when asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import Array, Arrays, as_bytes, datatype
from .described import Asked, Model, Tensor, Unusable

INPUT = "input"
_METHODS = ("predict", "predict_proba")
_KNOWN = {
    "numpy.dtype",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
}
"""Parts of fitted models, made of arrays, that skops 0.16 has not on its own list: without them no forest could be served."""

_ROWS = 2  # to try it with: a batch of one could hide an output that is not by row


def load(asked: Asked) -> Model:
    """The model in the file. Its input is FP64 rows of features, its outputs are named by its methods. Raises Unusable."""
    estimator = _read(asked)
    features = getattr(estimator, "n_features_in_", None)
    if not isinstance(features, int):
        raise Unusable(f"a {type(estimator).__name__} does not say how many features it takes: is it fitted?")
    methods = [name for name in _METHODS if hasattr(estimator, name)] or [
        name for name in ("transform",) if hasattr(estimator, name)
    ]
    if not methods:
        raise Unusable(f"a {type(estimator).__name__} has no predict and no transform")
    calls = {name: _by_row(getattr(estimator, name)) for name in methods}

    def predict(given: Arrays) -> Arrays:
        return {name: call(given[INPUT]) for name, call in calls.items()}

    tried = _tried(predict, features)
    outputs = tuple(Tensor(name, datatype(array.dtype), array.shape[1:]) for name, array in tried.items())
    return Model((Tensor(INPUT, "FP64", (features,)),), outputs, True, predict)


def _read(asked: Asked) -> Any:
    try:
        return _skops(asked) if asked.path.endswith(".skops") else _pickle(asked)
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _skops(asked: Asked) -> Any:
    import skops.io

    trusted = _KNOWN | set(asked.settings.get("trusted", "").split())
    found = skops.io.get_untrusted_types(file=asked.path)
    unknown = [name for name in found if name not in trusted]
    if unknown:
        raise Unusable(
            f"it has types that are not known to be safe; name them in `trusted` if you trust them: {', '.join(unknown)}"
        )
    return skops.io.load(asked.path, trusted=found)


def _pickle(asked: Asked) -> Any:
    """joblib's format and plain pickles. Loading one runs whatever code is in it."""
    if asked.settings.get("pickle") != "true":
        raise Unusable("a pickle runs the code that is in it: save the model with skops, or set `pickle: true` if you trust it")
    import joblib

    return joblib.load(asked.path)


def _by_row(method: Callable[[Array], Any]) -> Callable[[Array], Array]:
    def call(rows: Array) -> Array:
        found = method(rows)
        array = np.asarray(found.toarray() if hasattr(found, "toarray") else found)  # transformers may give sparse matrices
        return as_bytes(array[:, None] if array.ndim == 1 else array)

    return call


def _tried(predict: Callable[[Arrays], Arrays], features: int) -> Arrays:
    try:
        return predict({INPUT: np.zeros((_ROWS, features))})
    except Exception as error:
        raise Unusable(f"it cannot compute on {features} numbers a row: {type(error).__name__}: {error}") from error
