"""What every test shares."""

import pytest
from hypothesis import HealthCheck, settings

# Tests assert no times: a busy machine is no defect. New examples are looked for by `make soak`, so that `make test` says the same twice.
settings.register_profile("soak", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("test", settings.get_profile("soak"), derandomize=True)


def pytest_addoption(parser):
    """`make soak` asks for it."""
    parser.addoption("--soak", action="store_true", help="repeat what is random as often as `make soak` does")


def pytest_configure(config):
    """Before any test is read: its own settings start from these."""
    settings.load_profile("soak" if config.getoption("--soak") else "test")


@pytest.fixture(scope="session")
def soaking(request):
    """Whether this is `make soak`."""
    return request.config.getoption("--soak")
