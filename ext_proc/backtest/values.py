"""The values of an example, masked as the ledger would: a HAR file holds what nobody masked yet."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from ext_proc.config import Config
from ext_proc.masking import Masker, mask_text


class Shown:
    """Masks values, each beside its path, so that a field's name tells what it holds."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._masker: Masker | None = None

    def __call__(self, values: Mapping[str, object]) -> Any:
        """Values as JSON has them; text where a mask cut into their form."""
        if not values:
            return {}
        if self._masker is None:
            settings = self._config
            self._masker = Masker(settings.masking, secrets.token_bytes(32), settings.recording.max_decoded)
        text, _ = mask_text(json.dumps(dict(values), ensure_ascii=False, default=str), self._masker)
        try:
            return json.loads(text)
        except ValueError:
            return text
