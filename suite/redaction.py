"""What must not be printed or stored: passwords and tokens in addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"
_USER_AND_PASSWORD = re.compile(r"(:/+)([^:/@\s]*):\S*@")
"""One slash too, as is left of an address that was taken for a path."""
_TOKEN_AS_USER = re.compile(r"://(?![^:/@\s]*:)[^/@\s]+@")
"""A name alone before the host may as well be a token."""
_NAMED = re.compile(
    r"(?i)(?P<name>passwd|password|passphrase|pwd|token|secret|api[-_]?key|access[-_]?key(?:[-_]?id)?|secret[-_]?key"
    r"|account[-_]?key|private[-_]?key|credential|credentials|signature|(?<=[?&])sig)=[\"']?[^&\s\"'<>)]+"
)


def redacted(text: str) -> str:
    """The text with the passwords and tokens of its addresses hidden."""
    text = _USER_AND_PASSWORD.sub(rf"\1\2:{HIDDEN}@", text)
    text = _TOKEN_AS_USER.sub(f"://{HIDDEN}@", text)
    return _NAMED.sub(rf"\g<name>={HIDDEN}", text)


def without_secrets_of(uri: str, text: str) -> str:
    """The text redacted, and without the password of this address where it stands alone."""
    text = redacted(text)
    for secret in _passwords(uri):
        text = text.replace(secret, HIDDEN)
    return text


def _passwords(uri: str) -> Iterator[str]:
    """As it is written there, and as it is meant; one too short to be told from other words is left out."""
    for found in re.findall(r":/+[^:/@\s]*:(\S*)@", uri):
        yield from (secret for secret in (found, unquote(found)) if len(secret) > 3)
