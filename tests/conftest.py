"""Timings gate no test: the machines that run them are shared."""

import os

from hypothesis import HealthCheck, settings

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whatever GPUs the machine has: tests that want some bring their own

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
