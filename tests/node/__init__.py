"""A whole node without a network, or with one of two.

A package, as the tests between real processes are, so that mypy can tell its conftest from theirs.
"""
