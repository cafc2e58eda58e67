"""Fixtures that choose the version of the format in which `samples` writes."""

from __future__ import annotations

import pytest

from tests.snapshot import samples


@pytest.fixture(params=[1, 2])
def both_versions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the test in version 1, then in version 2, which is returned."""
    version: int = request.param
    monkeypatch.setattr(samples, "written_version", version)
    return version


@pytest.fixture
def version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in version 1: it is about what only that version has."""
    monkeypatch.setattr(samples, "written_version", 1)


@pytest.fixture
def version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in version 2, likewise."""
    monkeypatch.setattr(samples, "written_version", 2)
