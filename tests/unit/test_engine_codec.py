"""Model values as JSON and back."""

from quietcore.engine.codec import decode, encode
from quietcore.model import MemoryBlock


def test_a_field_that_is_called_type_is_not_taken_for_the_values_class():
    block = MemoryBlock(nodes=(0, 1), type="hugepages-2Mi", size_bytes=1 << 30)
    assert decode(MemoryBlock, encode(block)) == block
