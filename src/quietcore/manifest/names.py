"""Names that are safe in a path, in a libvirt domain name and in XML: Kubernetes' rules for labels and subdomains."""

from __future__ import annotations

import re
from typing import Final

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE: Final = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_LABEL_LENGTH: Final = 63
_SUBDOMAIN_LENGTH: Final = 253
LONGEST_VM_NAME: Final = 180
"""`<namespace>_<name>` and a suffix of libvirt's have to be a file name of at most 255 characters."""
_LABEL_TEXT: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN_TEXT: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


def label_faults(text: str) -> tuple[str, ...]:
    """What apimachinery's IsDNS1123Label says about a text."""
    faults = [] if len(text) <= _LABEL_LENGTH else [f"must be no more than {_LABEL_LENGTH} characters"]
    if not _LABEL.fullmatch(text):
        faults.append(_LABEL_TEXT)
    return tuple(faults)


def subdomain_faults(text: str) -> tuple[str, ...]:
    """What apimachinery's IsDNS1123Subdomain says about a text."""
    faults = [] if len(text) <= _SUBDOMAIN_LENGTH else [f"must be no more than {_SUBDOMAIN_LENGTH} characters"]
    if not _SUBDOMAIN.fullmatch(text):
        faults.append(_SUBDOMAIN_TEXT)
    return tuple(faults)


def is_label_key(text: str) -> bool:
    """Whether a text can be the key of a label or annotation: an optional subdomain, a slash, a name of at most 63 characters."""
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > _SUBDOMAIN_LENGTH or not _SUBDOMAIN.fullmatch(prefix)):
        return False
    return len(name) <= _LABEL_LENGTH and bool(_QUALIFIED.fullmatch(name))


def is_label_value(text: str) -> bool:
    """Whether a text can be the value of a label."""
    return len(text) <= _LABEL_LENGTH and bool(_LABEL_VALUE.fullmatch(text))
