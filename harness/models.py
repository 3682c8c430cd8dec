"""The backbone and its tokenizer, loaded anew for each run.

Every run of a sweep starts from the files, not from a copy in memory: reading SmolLM2's 538 MB from
the page cache takes 0.1 to 0.2 s, copying the loaded modules 1.0 s, and files cannot have been
changed by the run before. The tokenizer is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from harness.config import ModelConfig, ModelKind
from harness.errors import ConfigError, first_line
from harness.storage.assets import Files

# A head that is new and weights that go unused are expected here; each is checked in `_load` instead.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@dataclass
class Backbone:
    """A loaded model with what a method must know of it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: str
    """``decoder`` or ``encoder``."""
    head: tuple[str, ...]
    """Modules that always train: what the checkpoint did not have, and an encoder's output module besides."""
    files: Files

    def in_head(self, parameter: str) -> bool:
        """Return whether the parameter of this name belongs to the new head."""
        return any(parameter.startswith(f"{module}.") for module in self.head)

    @property
    def peft_task(self) -> str:
        """Return PEFT's name for what the model does."""
        return "CAUSAL_LM" if self.kind == "decoder" else "SEQ_CLS"

    @property
    def transposed(self) -> bool:
        """Return whether linear layers are GPT-2's Conv1D, which store (in_features, out_features)."""
        return any(isinstance(module, Conv1D) for module in self.model.modules())


def kind_of(folder: Path, model: ModelConfig) -> str:
    """Return ``decoder`` or ``encoder`` by the checkpoint's architecture, or as ``model.kind`` says."""
    if model.kind is not ModelKind.auto:
        return model.kind.value
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("is_encoder_decoder"):
        raise ConfigError("model", model.name, "is an encoder-decoder; a decoder or an encoder is needed")
    names = config.get("architectures") or []
    return "decoder" if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names) else "encoder"


@cache
def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer once a process; padding falls back to the end-of-sequence token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_backbone(files: Files, model: ModelConfig, outputs: int, quantization: Any, seed: int) -> Backbone:
    """Load the model: a causal language model, or an encoder with a head of `outputs` numbers.

    `seed` sets what a new head starts as. Raises :class:`ConfigError` where the files do not load.
    """
    kind = kind_of(files.folder, model)
    loaded, missing = _load(files, model, kind, outputs, None if kind == "encoder" else quantization, seed)
    head = _modules(missing | _outputs(loaded, kind))
    if kind == "encoder" and quantization is not None:
        # Which modules are new is known only after a load; new ones must stay out of quantisation.
        quantization.llm_int8_skip_modules = list(head)
        loaded, _ = _load(files, model, kind, outputs, quantization, seed)
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = load_tokenizer(files.folder).pad_token_id
    return Backbone(loaded, load_tokenizer(files.folder), kind, head, files)


def _load(
    files: Files, model: ModelConfig, kind: str, outputs: int, quantization: Any, seed: int
) -> tuple[PreTrainedModel, set[str]]:
    transformers.set_seed(seed)
    auto: Any = AutoModelForCausalLM if kind == "decoder" else AutoModelForSequenceClassification
    options: dict[str, Any] = {} if kind == "decoder" else {"num_labels": outputs}
    if quantization is not None:
        options["quantization_config"] = quantization
        options["device_map"] = {"": 0 if torch.cuda.is_available() else "cpu"}
    try:
        loaded, info = auto.from_pretrained(
            files.folder,
            dtype=getattr(torch, model.dtype.value),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError("model", model.name, f"cannot be loaded: {first_line(error)}") from error
    if kind == "decoder":
        loaded.get_output_embeddings().register_forward_pre_hook(_contiguous)
    if kind == "decoder" and info["missing_keys"]:
        raise ConfigError("model", model.name, f"its files lack the weight {sorted(info['missing_keys'])[0]}")
    return loaded, set(info["missing_keys"])


def _contiguous(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Lay the last positions' states out in one piece before the output layer.

    For a slice of them torch multiplies row by row with a copy of the matrix: 142 ms instead of 20 ms of
    the 1.3 s that a step of 16 questions takes SmolLM2 on two cores.
    """
    return (inputs[0].contiguous(), *inputs[1:])


def _outputs(model: PreTrainedModel, kind: str) -> set[str]:
    """Return the parameters outside an encoder's base: its head, also where the checkpoint brings one."""
    inside = f"{model.base_model_prefix}."
    return set() if kind == "decoder" else {name for name, _ in model.named_parameters() if not name.startswith(inside)}


def _modules(parameters: set[str]) -> tuple[str, ...]:
    """Return the modules that hold these parameters."""
    return tuple(sorted({name.rsplit(".", 1)[0] for name in parameters}))


def device_of(use_cpu: bool) -> torch.device:
    """Return the GPU where there is one and it is not declined."""
    return torch.device("cuda" if torch.cuda.is_available() and not use_cpu else "cpu")
