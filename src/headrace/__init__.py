"""Headrace serves AI models: one YAML says which, Headrace decides how, says why, and keeps it true."""

__version__ = "0.1.0"
