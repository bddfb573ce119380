"""Plain scalars as kubectl reads them (goyaml.v2 in sigs.k8s.io/yaml), where Python's loaders differ from it and from each other."""

import pytest

from quietcore.manifest.scalars import resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("y", True),
        ("Yes", True),
        ("on", True),
        ("N", False),
        ("off", False),
        ("yEs", "yEs"),
        ("~", None),
        ("", None),
        ("Null", None),
        ("12:30:45", "12:30:45"),
        ("0777", 511),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b101", 5),
        ("-0b101", -5),
        ("1_000", 1000),
        ("08", 8),
        ("1e3", 1000),
        ("4.0", 4),
        (".5", 0.5),
        ("+1.5", 1.5),
        ("1.", 1),
        ("2001-01-01", "2001-01-01"),
        ("18446744073709551615", (1 << 64) - 1),
        ("18446744073709551616", 18446744073709551616),
        ("-9223372036854775809", -9223372036854775808),
        ("1e400", "1e400"),
        ("500m", "500m"),
        ("1Gi", "1Gi"),
        ("-", "-"),
        ("+", "+"),
        (".", "."),
        ("0x", "0x"),
        ("1__0", 10),
        ("<<", "<<"),
    ],
)
def test_a_plain_scalar_means_what_it_means_to_kubectl(text, value):
    assert (resolve(text), type(resolve(text))) == (value, type(value))


@pytest.mark.parametrize("text", [".inf", "-.Inf", "+.INF", ".nan"])
def test_numbers_that_json_cannot_carry_are_refused(text):
    with pytest.raises(ValueError, match="JSON cannot carry"):
        resolve(text)
