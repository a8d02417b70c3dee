"""Where the folders are that belong to the program besides its code. It reads none of them."""

from __future__ import annotations

from pathlib import Path


def resource(part: str) -> Path:
    """The folder `images` or `compose`: of the checkout, or as the wheel carries it."""
    package = Path(__file__).resolve().parent
    inside = package / "_data" / part
    return inside if inside.is_dir() else package.parent / part
