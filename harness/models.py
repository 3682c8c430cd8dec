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
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from harness.config import ModelConfig, ModelKind, require
from harness.distributed.shard import how_to_shard, own_again
from harness.errors import ConfigError, first_line
from harness.runtime import torch_dtype
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
    parameters: int
    """How many the base has, before a method adds any."""

    def in_head(self, parameter: str) -> bool:
        """Return whether the parameter of this name belongs to the new head."""
        return any(parameter.startswith(f"{module}.") for module in self.head)

    def head_modules(self) -> list[str]:
        """Return the outermost modules that hold only parameters of the new head.

        For a classifier of two layers that is ``classifier`` itself, not ``classifier.dense`` and
        ``classifier.out_proj``: PEFT wraps ``classifier`` whole in any case, and could not load the layers
        wrapped once more inside of it.
        """
        return sorted({self._outermost(module) for module in self.head})

    def _outermost(self, module: str) -> str:
        """Return the outermost module around `module` of which every parameter is the head's."""
        parent = module.rpartition(".")[0]
        if not parent:
            return module
        names = [f"{parent}.{name}" for name, _ in self.model.get_submodule(parent).named_parameters()]
        return self._outermost(parent) if all(map(self.in_head, names)) else module

    @property
    def peft_task(self) -> str:
        """Return PEFT's name for what the model does."""
        return "CAUSAL_LM" if self.kind == "decoder" else "SEQ_CLS"

    @property
    def transposed(self) -> bool:
        """Return whether linear layers are GPT-2's Conv1D, which store (in_features, out_features)."""
        return any(isinstance(module, Conv1D) for module in self.model.modules())


@dataclass(frozen=True)
class Pretrained:
    """What to load: a model's files, how they are read, and the new head that the task needs."""

    files: Files
    model: ModelConfig
    outputs: int
    """The width of an encoder's head."""
    seed: int
    """What a new head starts as."""
    sharded: bool = False
    """Whether each of several processes holds a part."""
    offload: bool = False
    """Whether the parts lie in the processor's memory."""


def kind_of(folder: Path, model: ModelConfig) -> str:
    """Return ``decoder`` or ``encoder``, by the checkpoint's architecture.

    Raises :class:`ConfigError` where ``model.kind`` contradicts it, or is needed because nothing else tells.
    """
    return kind_of_architecture(json.loads((folder / "config.json").read_text(encoding="utf-8")), model)


def kind_of_architecture(config: dict[str, Any], model: ModelConfig) -> str:
    """Return what :func:`kind_of` does, from what ``config.json`` says."""
    if config.get("is_encoder_decoder"):
        raise ConfigError("model", model.name, "is an encoder-decoder; a decoder or an encoder is needed")
    found, asked = _kind_by_architecture(config), model.kind
    if asked is ModelKind.auto and found is None:
        described = config.get("model_type") or "its architecture"
        raise ConfigError("model.kind", "auto", f"cannot tell for {described}; set it to decoder or encoder")
    if asked is not ModelKind.auto and found not in (None, asked.value):
        named = ", ".join(config.get("architectures") or []) or config.get("model_type")
        raise ConfigError("model.kind", asked.value, f"{model.name} is {named}, of kind {found}; leave it out")
    return found or asked.value


def _kind_by_architecture(config: dict[str, Any]) -> str | None:
    """Return a checkpoint's kind by its class, or where it names none by what transformers makes of its type."""
    names = config.get("architectures") or []
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "decoder"
    kind = config.get("model_type")
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    return "encoder" if names else None


def load_tokenizer(files: Files) -> PreTrainedTokenizerBase:
    """Load a tokenizer once a process, and again where its files have changed."""
    return _tokenizer(files.folder, tuple(sorted(files.hashes.items())))


@cache
def _tokenizer(folder: Path, hashes: tuple[tuple[str, str], ...]) -> PreTrainedTokenizerBase:
    """Load a tokenizer; padding falls back to the end-of-sequence token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_backbone(wanted: Pretrained, device: torch.device, quantization: Any = None) -> Backbone:
    """Load a causal language model, or an encoder with a head; a quantised one is put on `device` at once.

    Raises :class:`ConfigError` where the files do not load.
    """
    kind = kind_of(wanted.files.folder, wanted.model)
    allowed = "needs a decoder: the new head of an encoder would start from other numbers; distributed=replicate works"
    require(kind == "decoder" or not wanted.sharded, "distributed", "shard", allowed)
    placed = _placed(None if kind == "encoder" else quantization, device)
    loaded, missing = _load(wanted, kind, placed)
    head = head_of(loaded, kind, missing)
    if kind == "encoder" and quantization is not None:
        # Which modules are new is known only after a load; new ones must stay out of quantisation.
        quantization.llm_int8_skip_modules = list(head)
        del loaded  # or the whole model would lie beside the quantised one while that is loaded
        loaded, _ = _load(wanted, kind, _placed(quantization, device))
    tokenizer = load_tokenizer(wanted.files)
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return Backbone(loaded, tokenizer, kind, head, wanted.files, sum(map(size, loaded.parameters())))


def load_output_layer(wanted: Pretrained) -> PreTrainedModel:
    """Load a decoder without its layers: what is left are its embeddings, its last norm and its output layer.

    Raises :class:`ConfigError` where the files do not load.
    """
    bodiless = AutoConfig.from_pretrained(wanted.files.folder, local_files_only=True, trust_remote_code=False)
    bodiless.num_hidden_layers = 0
    if getattr(bodiless, "layer_types", None):
        bodiless.layer_types = []
    return _load(wanted, "decoder", {"config": bodiless})[0]


def _placed(quantization: Any, device: torch.device) -> dict[str, Any]:
    """Return how a model is quantised and where; nothing for one that is not."""
    if quantization is None:
        return {}
    return {"quantization_config": quantization, "device_map": {"": str(device)}}


def _load(wanted: Pretrained, kind: str, placed: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    transformers.set_seed(wanted.seed)
    model = wanted.model
    auto: Any = AutoModelForCausalLM if kind == "decoder" else AutoModelForSequenceClassification
    head: dict[str, Any] = {} if kind == "decoder" else {"num_labels": wanted.outputs}
    try:
        if wanted.sharded:
            placed = {"distributed_config": how_to_shard(auto, wanted.files.folder, wanted.offload, **head)}
        loaded, info = auto.from_pretrained(
            wanted.files.folder,
            dtype=torch_dtype(model.dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **head,
            **placed,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError("model", model.name, f"cannot be loaded: {first_line(error)}") from error
    if wanted.sharded:
        own_again(loaded)
    if kind == "decoder":
        keep_contiguous(loaded)
    if kind == "decoder" and info["missing_keys"]:
        raise ConfigError("model", model.name, f"its files lack the weight {sorted(info['missing_keys'])[0]}")
    return loaded, set(info["missing_keys"])


def keep_contiguous(model: PreTrainedModel) -> None:
    """Have a decoder's output layer read its input in one piece."""
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)


def _contiguous(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Lay the last positions' states out in one piece before the output layer.

    For a slice of them torch multiplies row by row with a copy of the matrix: 142 ms instead of 20 ms of
    the 1.3 s that a step of 16 questions takes SmolLM2 on two cores.
    """
    return (inputs[0].contiguous(), *inputs[1:])


def head_of(model: PreTrainedModel, kind: str, missing: set[str]) -> tuple[str, ...]:
    """Return the modules that always train: those of the parameters that start anew, and an encoder's output."""
    return _modules(missing | _outputs(model, kind))


def _outputs(model: PreTrainedModel, kind: str) -> set[str]:
    """Return the parameters outside an encoder's base: its head, also where the checkpoint brings one."""
    inside = f"{model.base_model_prefix}."
    return set() if kind == "decoder" else {name for name, _ in model.named_parameters() if not name.startswith(inside)}


def _modules(parameters: set[str]) -> tuple[str, ...]:
    """Return the modules that hold these parameters."""
    return tuple(sorted({name.rsplit(".", 1)[0] for name in parameters}))


def size(parameter: torch.Tensor) -> int:
    """Return a parameter's number of values; bitsandbytes packs two of 4 bits in a byte, the true shape aside."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()
