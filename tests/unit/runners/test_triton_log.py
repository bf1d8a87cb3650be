"""tritonserver's log, as 2.51.0 writes it."""

import doctest

import pytest

from headrace.runners import triton_log
from headrace.runners.triton_log import Log

BROKEN = (
    "E1127 02:16:25.741224 9897 model_lifecycle.cc:642] \"failed to load 'bad' version 1: Internal: RuntimeError: weights "
    'missing\\nsecond line\\n\\nAt:\\n  /repository/bad/1/model.py(3): initialize\\n"'
)
NOT_THERE = (
    "E1127 02:33:41.000001 22671 model_repository_manager.cc:1460] \"Poll failed for model directory '/r/noconfig': "
    'Invalid model name"'
)
TAKEN = (
    "E1127 02:33:41.000001 1 main.cc:1] \"failed to start HTTP service: Unavailable - Socket '127.0.0.1:18100' already in use \""
)
CREATING = "error: creating server: Internal - failed to load all models"
NO_GPU = 'E1127 02:17:27.896272 10748 server.cc:241] "CudaDriverHelper has not been initialized."'
LOADED = "I1127 02:17:28.567661 10748 model_lifecycle.cc:839] \"successfully loaded 'm'\""
HTTP = 'I1127 02:17:28.758675 10748 http_server.cc:4713] "Started HTTPService at 127.0.0.1:18000"'
METRICS = 'I1127 02:17:28.803840 10748 http_server.cc:362] "Started Metrics Service at 127.0.0.1:18001"'


def heard(*lines: str) -> Log:
    log = Log()
    for line in lines:
        log.hear(line)
    return log


def test_the_cause_of_a_broken_model_is_one_line_without_the_traceback():
    assert heard(BROKEN).broken == {"bad": "RuntimeError: weights missing second line"}


def test_a_model_without_configuration_is_broken():
    assert heard(NOT_THERE).broken == {"noconfig": "Invalid model name"}


def test_a_model_that_is_loaded_again_is_broken_no_more():
    log = heard(BROKEN, BROKEN.replace("bad", "m"), LOADED)
    assert (list(log.broken), log.loaded) == (["bad"], ["m"])


def test_it_is_open_when_the_last_door_is():
    assert (heard(HTTP).open, heard(HTTP, METRICS).open) == (False, True)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ([TAKEN], "failed to start HTTP service: Unavailable - Socket '127.0.0.1:18100' already in use"),
        ([NO_GPU], ""),
        ([CREATING], "creating server: Internal - failed to load all models"),
        (["anything that a model prints"], ""),
    ],
)
def test_the_cause_is_the_last_error(lines, cause):
    assert heard(*lines).cause == cause


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (LOADED, True),
        ("what a model prints", True),
        ("| exit_timeout                     | 20     |", False),
        ("+----------------------------------+--------+", False),
        ("", False),
        (NO_GPU, False),
        ('I1127 02:17:28.754546 10748 server.cc:604] "', False),
    ],
)
def test_tables_and_what_is_said_without_a_gpu_are_left_out(line, kept):
    assert Log().hear(line) is kept


def test_the_examples_are_true():
    assert doctest.testmod(triton_log).failed == 0
