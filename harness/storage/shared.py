"""What runs share and one computes: numbers of the untouched model, under the hash of what decides them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import first_line
from harness.identity import digest
from harness.storage.files import new_folder, write_json
from harness.storage.locks import exclusive
from harness.storage.outcomes import Series, read_series, write_series
from harness.storage.privacy import expanded, masked
from harness.tasks.base import Outcome

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Kept = tuple[dict[str, list[Outcome]], "dict[str, Tensor]"]
"""Series of outcomes, and tensors that tuned models are compared with."""


class SharedStore:
    """One kept set of numbers, in ``<output_dir>/.base/<what>-<hash>/``."""

    def __init__(self, output_dir: str | Path, what: str, identity: dict[str, Any]) -> None:
        self.identity, self.what = identity, what
        self.key = digest(identity, 16)
        self.path = expanded(output_dir) / ".base" / f"{what}-{self.key}"

    def lock(self) -> AbstractContextManager[bool]:
        """Return a lock that lets one process compute what others wait for."""
        return exclusive(self.path.with_name(f".{self.path.name}.lock"), f"the base's {self.what} in {self.path}")

    def read(self) -> Kept | None:
        """Return what is kept, None where there is nothing yet or it is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.path.exists():
            return None
        try:
            return read_series(self.path / "items.parquet"), load_file(self.path / "tensors.safetensors")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:  # pyarrow's are ValueErrors
            log.warning("%s is damaged (%s); computing it again", self.path, first_line(error))
            return None

    def write(self, series: Series, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Keep what was found, and what it was found of."""
        from safetensors.torch import save_file

        with new_folder(self.path) as folder:
            write_json(folder / "identity.json", masked(json.loads(json.dumps(self.identity))))
            write_series(folder / "items.parquet", series)
            held = {name: tensor.contiguous() for name, tensor in (tensors or {}).items()}
            save_file(held, folder / "tensors.safetensors")
