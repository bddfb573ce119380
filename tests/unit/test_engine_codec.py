"""Model values as JSON and back."""

from fractions import Fraction

import pytest

from quietcore.engine.codec import DecodeError, decode, encode
from quietcore.model import ClusterConfig, MemoryBlock, Quantity


def test_a_field_that_is_called_type_is_not_taken_for_the_values_class():
    block = MemoryBlock(nodes=(0, 1), type="hugepages-2Mi", size_bytes=1 << 30)
    assert decode(MemoryBlock, encode(block)) == block


def test_the_kubevirt_configuration_survives_the_ledger():
    config = ClusterConfig(
        feature_gates=frozenset({"CPUManager"}), guest_overhead_ratio=Fraction(3, 2), cpu_request=Quantity.milli(250), max_cpu_sockets=4
    )
    assert decode(ClusterConfig, encode(config)) == config


@pytest.mark.parametrize("written", ["1/0", "half", 2])
def test_a_spoilt_fraction_is_a_decode_error(written):
    with pytest.raises(DecodeError, match="guest_overhead_ratio"):
        decode(ClusterConfig, encode(ClusterConfig()) | {"guest_overhead_ratio": written})
