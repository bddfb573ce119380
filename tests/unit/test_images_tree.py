"""Names of images and paths inside them: nothing leads outside."""

from contextlib import suppress
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietcore.errors import InputError
from quietcore.images.reference import canonical
from quietcore.images.tree import follow, inner

PATHS = st.lists(st.sampled_from(["..", ".", "", "a", "b", "boot"]), max_size=6).map("/".join)


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("fedora", "docker.io/library/fedora:latest"),
        ("kubevirt/cirros:devel", "docker.io/kubevirt/cirros:devel"),
        ("docker.io/fedora:41", "docker.io/library/fedora:41"),
        ("quay.io/containerdisks/fedora:41", "quay.io/containerdisks/fedora:41"),
        ("localhost/x", "localhost/x:latest"),
        ("registry:5000/cirros:devel", "registry:5000/cirros:devel"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
        ("q.io/a:1@sha256:" + "0" * 64, "q.io/a@sha256:" + "0" * 64),
    ],
)
def test_an_image_name_is_completed_as_container_tools_do(written, full):
    assert canonical(written) == full
    assert canonical(full) == full


@pytest.mark.parametrize(
    "text", ["", "../etc/passwd", "/etc/passwd", "a b", "UPPER", "a:b:c", "--help", "-x/y", "a//b", "x" * 600, "a\n", "a;b"]
)
def test_a_text_that_is_no_image_name_is_refused(text):
    with pytest.raises(InputError, match="is not the name of a container image"):
        canonical(text)


@given(PATHS)
def test_a_path_inside_an_image_stays_inside(path):
    assert ".." not in PurePosixPath(inner(path)).parts
    assert inner(path).startswith("/")
    assert inner(inner(path)) == inner(path)


@given(PATHS, st.dictionaries(st.sampled_from(["/a", "/a/b", "/boot", "/b"]), PATHS.map(lambda path: f"/{path}") | PATHS, max_size=4))
@settings(max_examples=200)
def test_links_never_lead_outside_an_image(path, links):
    found = None
    with suppress(ValueError):  # links that go round in circles
        found = follow(path, links)
    if found is not None:
        assert found == inner(found)
        assert found not in links


def test_links_that_go_round_in_circles_are_refused():
    with pytest.raises(ValueError, match="round in circles"):
        follow("/a/x", {"/a": "b", "/b": "/a"})


def test_links_are_followed_from_their_own_directory_and_from_the_images_root():
    links = {"/boot/vmlinuz": "vmlinuz-6", "/vmlinuz": "/boot/vmlinuz", "/lib": "usr/lib", "/usr/lib/up": "../../boot"}
    assert follow("/vmlinuz", links) == "/boot/vmlinuz-6"
    assert follow("lib/up/vmlinuz", links) == "/boot/vmlinuz-6"
