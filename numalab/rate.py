"""A rate of copying as people write it: ``100MB/s``, ``64KiB/s``."""

from __future__ import annotations

import re

from protocol.core import ConfigurationError

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?)?B/s", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
#: Of a message.
RATE_MAX = (1 << 63) - 1


def parse_rate(text: str) -> int:
    """Bytes a second: a number and B/s, KB/s (1000), KiB/s (1024) and so on.

    Raises ConfigurationError.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            f"'{text}' is no rate: write a number and its unit, like 100MB/s or 512KiB/s"
        )
    number, unit = match[1], (match[2] or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    rate = float(number) * base ** _POWERS[unit.removesuffix("I")]
    if not 1 <= rate <= RATE_MAX:
        raise ConfigurationError(
            f"'{text}' is no rate: it must be 1B/s or more, and less than 2^63 bytes in a second"
        )
    return int(rate)


def format_rate(rate: float) -> str:
    """``4.1 MB/s``."""
    return f"{format_bytes(rate)}/s"


def format_bytes(size: float) -> str:
    """``12.8 MB``: powers of 1000, as rates have them."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.95:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def short_rate(rate: float) -> str:
    """``1.28MB/s``: three digits, 8 columns at most."""
    for unit in ("B", "KB", "MB", "GB"):
        if rate < 999.5:
            return f"{rate:.3g}{unit}/s"
        rate /= 1000
    return f"{rate:.3g}TB/s"
