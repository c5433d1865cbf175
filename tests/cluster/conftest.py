"""The order of the tests with Ray."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Import Ray into this process only after a cluster has given its token: Ray reads how to authenticate once."""
    items.sort(key=lambda item: item.path.name == "test_ray_handle.py")
