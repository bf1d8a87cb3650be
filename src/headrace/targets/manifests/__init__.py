"""Kubernetes: what should run → the objects that make it so. Pure: nothing here reaches a cluster or a disk."""
