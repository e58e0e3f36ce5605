"""Checked reading of a JSON object that came from elsewhere; what its keys mean is others' business."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pronk.errors import UserError


@dataclass(frozen=True)
class Keys:
    """Checked reading of one JSON object; a config from elsewhere is untrusted."""

    values: Mapping[str, Any]
    file: Path

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise self.wrong(key, value, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self.wrong(key, value, "a number, zero or more")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def word(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.values.get(key)
        if value not in choices:
            raise self.wrong(key, value, "one of " + ", ".join(choices))
        return str(value)

    def table(self, key: str) -> "Keys":
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object")
        return Keys(value, self.file)

    def positive(self, key: str, default: int | None = None) -> int:
        value = self.whole(key, default)
        if value < 1:
            raise self.wrong(key, value, "at least 1")
        return value

    def only(self, allowed: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse keys whose value is none of those that we can do; a key that is absent has transformers' default."""
        for key, values in allowed.items():
            if key in self.values and self.values[key] not in values:
                given = json.dumps(self.values[key])[:60]
                raise UserError(f"{self.file}: {key} = {given} is not supported, only {json.dumps(values[0])}")

    def wrong(self, key: str, value: Any, expected: str) -> UserError:
        if value is None:
            return UserError(f"{self.file}: {key} is missing; expected {expected}")
        return UserError(f"{self.file}: {key} is {json.dumps(value)[:60]}, expected {expected}")
