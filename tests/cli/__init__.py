"""The command, as a process and in this one.

A package, as the tests of a whole node are, so that mypy can tell its conftest from theirs.
"""
