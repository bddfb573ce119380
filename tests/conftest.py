"""What every test shares."""

import pytest
from hypothesis import settings

settings.register_profile("quietcore", deadline=None)  # tests assert no times: a busy machine is no defect
settings.load_profile("quietcore")


def pytest_addoption(parser):
    """`make soak` asks for it."""
    parser.addoption("--soak", action="store_true", help="repeat what is random as often as `make soak` does")


@pytest.fixture(scope="session")
def soaking(request):
    """Whether this is `make soak`."""
    return request.config.getoption("--soak")
