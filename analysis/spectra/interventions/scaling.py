"""Matrices of a loaded model, changed in place and put back to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from analysis.records.naming import Names, transposed
from analysis.spectra.changes import Matrix
from analysis.spectra.interventions.vectors import Scaling
from harness.errors import RecordError


class Weights:
    """The matrices of a plain model, by the names that its base has for them."""

    def __init__(self, model: nn.Module) -> None:
        plain: nn.Module = getattr(model, "get_base_model", lambda: model)()  # beside which a prefix may be left
        self._parameters = dict(plain.named_parameters())
        self._names = Names(self._parameters)
        self._model_type = str(getattr(model.config, "model_type", ""))

    def parameter(self, name: str) -> nn.Parameter:
        """Return a matrix by the base's name of it, to which a classifier adds ``bert.`` in front."""
        found = self._names.find(name)
        if found is None:
            raise RecordError(f"the tuned model has no {name}, which its base has")
        return self._parameters[found]

    def turned(self, name: str, matrix: Tensor) -> Tensor:
        """Return an out × in matrix in the layout that the model keeps it in; Conv1D has in × out."""
        return matrix.T if transposed(name, self._model_type) else matrix

    def set(self, matrix: Matrix) -> None:
        """Make a weight W0 + ΔW as it was measured: over a 4-bit base dequantised, never quantised again."""
        with torch.no_grad():
            self.parameter(matrix.name).copy_(self.turned(matrix.name, matrix.base + matrix.change.dense()))

    @contextmanager
    def scaled(self, scalings: Sequence[Scaling], factor: float) -> Iterator[None]:
        """Hold the model at W(λ) = W + Σ (λ - 1) u σ vᵀ with λ = `factor`; afterwards every bit is as before.

        The matrices are kept in CPU memory meanwhile: adding and subtracting would round.
        """
        kept: dict[str, Tensor] = {}
        with torch.no_grad():
            try:
                for scaling in scalings:
                    parameter = self.parameter(scaling.matrix)
                    kept[scaling.matrix] = parameter.detach().cpu().clone()
                    parameter.add_(self.turned(scaling.matrix, scaling.update(factor)).to(parameter))
                yield
            finally:
                for name, values in kept.items():
                    self.parameter(name).copy_(values)
