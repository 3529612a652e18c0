from tests.packaging.building import build  # noqa: F401 (a fixture)
