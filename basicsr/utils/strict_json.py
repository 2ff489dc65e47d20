"""JSON that every reader takes: Python's own writes Infinity and NaN, which are none."""

import json
import math
from typing import Any


def strict_json(content: Any, *, indent: int | None = 1) -> str:
    """The text of a JSON document, in which numbers that are not finite are null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
