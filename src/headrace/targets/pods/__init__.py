"""Pods behind Services, as the API server tells of them."""
