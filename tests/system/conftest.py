"""Nodes as processes, for every test here. Helpers stand in tests/support, importable as `support`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.files import real_model
from support.nodes import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_clusters: list[Cluster] = []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Nodes as processes, all gone when the test is over."""
    yield from _running(tmp_path)


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """As `cluster`, for nodes that the tests of a module share."""
    yield from _running(tmp_path_factory.mktemp("cluster"))


def _running(root: Path) -> Iterator[Cluster]:
    cluster = Cluster(root)
    _clusters.append(cluster)
    try:
        yield cluster
    finally:
        cluster.close()
        _clusters.remove(cluster)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real model of 90,868,376 bytes."""
    return real_model()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Adds the end of every node's log to the report of a failed test."""
    report: pytest.TestReport = yield
    if report.failed:
        for cluster in _clusters:
            for name, text in cluster.logs().items():
                if text:
                    report.sections.append((f"end of {name}", text))
    return report
