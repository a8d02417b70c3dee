"""Where the folders are that belong to the program besides its code. It opens no file of them."""

from __future__ import annotations

import re
from pathlib import Path


def resource(part: str) -> Path:
    """The folder `images` or `compose`: of the checkout, or as the wheel carries it."""
    package = Path(__file__).resolve().parent
    inside = package / "_data" / part
    return inside if inside.is_dir() else package.parent / part


def families() -> list[str]:
    """The families of servers of which one version's configuration can be written for another: their folders have a conversion.yaml.

    A folder is called as the family, with a version behind it where it is not the default one.
    """
    return sorted({re.sub(r"-[\d.]+$", "", path.parent.name) for path in resource("images").glob("*/conversion.yaml")})
