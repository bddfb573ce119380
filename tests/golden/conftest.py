"""Golden files: whole texts, compared byte by byte; `--regen` writes them anew (read the difference before committing it)."""

from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen", action="store_true", help="write the golden files instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("render/x.txt", text)` compares the text with tests/golden/render/x.txt."""

    def check(path: str, text: str) -> None:
        file = HERE / path
        if request.config.getoption("--regen", default=False):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")
            return
        if not file.exists():
            pytest.fail(f"tests/golden/{path} is missing; run this test with --regen and read the file")
        assert text == file.read_text(encoding="utf-8"), f"tests/golden/{path} differs; if that is meant, run with --regen"

    return check
