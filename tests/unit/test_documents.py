"""What the documents show works: the configuration example, the example manifests, the links."""

import re
from pathlib import Path

import pytest

from quietcore import config, manifest

CLONE = Path(__file__).parents[2]
PAGES = sorted([CLONE / "README.md", *CLONE.glob("docs/**/*.md")])


def test_the_configuration_example_is_accepted():
    (example,) = re.findall(r"```toml\n(.*?)```", (CLONE / "docs/configuration.md").read_text(), re.DOTALL)
    parsed = config.parse(example)
    assert (parsed.uri, parsed.strategy, str(parsed.options.reserved_cpus)) == ("qemu:///system", "dedicated", "0,32")


@pytest.mark.parametrize("example", sorted(CLONE.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_every_example_manifest_is_accepted(example):
    loaded = manifest.load([manifest.SourceText(file=example.name, text=example.read_text())])
    assert loaded.documents


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(CLONE)))
def test_every_link_to_a_file_of_ours_leads_somewhere(page):
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([\w./-]+)", prose)  # a file's name; a regular expression in a table is none
    assert [link for link in links if not (page.parent / link).exists()] == []
