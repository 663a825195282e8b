"""Tests between real processes over real sockets.

A package, unlike the other rooms' tests, so that mypy can tell its conftest from theirs.
"""
