"""Discrete-event models of serving: what queueing does to latency, without a clock and without chance of their own."""
