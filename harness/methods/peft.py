"""PEFT's tuners: the base class of methods built on one, and ``method=peft`` for any that is installed."""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.config import require, require_at_least
from harness.errors import ConfigError, NotApplicable, first_line, nearest
from harness.library_names import enum_values
from harness.methods.base import METHODS, TRAINED, Method, check_names, load_tensors, save_tensors, trainable
from harness.storage.privacy import mask_files

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn

    from harness.models import Backbone

UNSUITABLE = {
    "ADALORA": "ADALORA adds to the model's loss and moves ranks after each step, which is not done here",
    "MULTITASK_PROMPT_TUNING": "MULTITASK_PROMPT_TUNING needs the number of its task with every input",
    "POLY": "POLY needs the number of its task with every input",
    "SHADOW": "SHADOW trains its last layer by a loss of the model's own, which is not used here",
    "XLORA": "XLORA mixes LoRA adapters trained before; it does not train from a base alone",
}
"""Tuners that cannot be trained on one task, and why."""
IN_PARTS = ("IA3",)
"""Tuners that were tried on a base of which each process holds a part."""
REFUSALS = re.compile(
    "Target module.* not supported|does not support target modules|does not support this layer type"
    "|is not a plain torch.nn.Linear|Unsupported model type"
)
"""How PEFT 0.21 says that a tuner does not fit a kind of layer or model, in errors of no type of their own."""


@dataclass
class PeftMethod(Method):
    """A method that PEFT's ``get_peft_model`` attaches and ``save_pretrained`` saves."""

    @abstractmethod
    def peft_config(self, backbone: Backbone) -> PeftConfig:
        """Return the tuner's configuration for this model."""

    def attach(self, backbone: Backbone) -> nn.Module:
        """Wrap the base; the task's new head trains through PEFT's ``modules_to_save``."""
        from peft import get_peft_model
        from peft.utils.error import NoMatchingPeftModuleError

        config = self.peft_config(backbone)
        config.task_type = backbone.peft_task
        config.inference_mode = False
        if backbone.head:
            config.modules_to_save = backbone.head_modules()  # type: ignore[attr-defined]
        try:
            with quiet_peft():
                model = get_peft_model(backbone.model, config)
        except NoMatchingPeftModuleError as error:
            targets = sorted(getattr(config, "target_modules", None) or [])
            raise ConfigError("method.target_modules", targets, "names no layer of the model") from error
        for name, parameter in model.named_parameters():
            if ".modules_to_save." in name:
                parameter.requires_grad_(True)
        return cast("nn.Module", model)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a PEFT adapter folder."""
        # False: "auto" asks the hub whether the vocabulary was resized.
        cast("PeftModel", model).save_pretrained(str(folder), save_embedding_layers=False)
        mask_files(folder, "*.json", "*.md")  # PEFT writes the base's folder into both
        if computes_prompt(model):
            save_tensors(trainable(model), folder / TRAINED)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read an adapter folder into the attached adapter, every tensor of it."""
        if computes_prompt(model):
            load_tensors(trainable(model), folder / TRAINED)
            return
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from safetensors.torch import load_file

        path = folder / "adapter_model.safetensors"
        stored = load_file(path)
        check_names(stored, get_peft_model_state_dict(model, save_embedding_layers=False), path)
        set_peft_model_state_dict(model, stored)

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold the adapter into the base weights and put the trained head in the place of the old one."""
        if not self.mergeable:
            raise ConfigError("merge", True, f"what {self.name} trains cannot be folded into the base's weights")
        unwrap_head(model)
        return cast("nn.Module", cast(Any, model).merge_and_unload())

    def export_adapter(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter folder; what `save` writes is already standard."""
        cast("PeftModel", model).save_pretrained(str(folder), save_embedding_layers=False)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Keep quiet about a property PEFT 0.21 asks of transformers 5 by its old name: no user can help it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def prompt_shape(backbone: Backbone) -> dict[str, int]:
    """Return the model's width, layers and heads, which PEFT finds under some of the names they go by."""
    config = backbone.model.config.get_text_config()
    return {
        "token_dim": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
    }


def no_past(backbone: Backbone) -> str | None:
    """Return why no prefix can enter the model, None where it takes past keys and values."""
    if "past_key_values" in inspect.signature(backbone.model.base_model.forward).parameters:
        return None
    return f"{type(backbone.model).__name__} takes no past keys and values, through which a prefix enters"


def computes_prompt(model: nn.Module) -> bool:
    """Return whether the prompt is computed while training, by a small network or from fixed tokens.

    PEFT then saves the computed prompt, which serves to use the model and cannot be trained further.
    """
    config = cast(Any, model).peft_config["default"]
    return bool(config.peft_type in ("P_TUNING", "CPT") or getattr(config, "prefix_projection", False))


def unwrap_head(model: nn.Module) -> None:
    """Put each trained copy of a module where the module was.

    Most of PEFT's tuners do so on merging, but fail at a module that has no `weight` of its own, such as
    BERT's pooler and RoBERTa's classifier.
    """
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])


@METHODS.register("peft")
@dataclass
class AnyPeftTuner(PeftMethod):
    """Any other tuner of the installed PEFT: ``method=peft method.peft_type=IA3 +method.options.r=8``."""

    learning_rate: float = 5e-3
    peft_type: str = "IA3"
    """A name of ``peft.PeftType``, such as IA3, LOHA, OFT, VERA, LN_TUNING."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the tuner's own configuration class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        types = enum_values("peft", "utils/peft_types", "PeftType")
        self.peft_type = self.peft_type.upper()
        require(
            self.peft_type in types,
            "method.peft_type",
            self.peft_type,
            f"no such tuner; {nearest(self.peft_type, types)}",
        )

    @property
    def rank_used(self) -> int | None:
        """Return the tuner's ``r`` where one is given."""
        return self.options.get("r")

    def preflight(self) -> None:
        """Refuse options that the tuner's configuration does not have, and a rank that no tuner takes."""
        if isinstance(self.options.get("r"), int):
            require_at_least("method.options.r", self.options["r"], 1)
        known = {f.name for f in dataclasses.fields(self._config_class())}
        for name, value in self.options.items():
            require(
                name in known,
                f"method.options.{name}",
                value,
                f"{self.peft_type} has no such option; {nearest(name, known)}",
            )

    def unsuitable(self, backbone: Backbone) -> str | None:
        """Some tuners need more than a model and batches of one task, some a model that takes a prefix."""
        if self.peft_type in ("PREFIX_TUNING", "CARTRIDGE"):
            return no_past(backbone)
        return UNSUITABLE.get(self.peft_type)

    def needs_whole_base(self) -> str | None:
        """Most tuners were never tried on a base in parts, and some would be wrong without a word."""
        tried = ", ".join(IN_PARTS)
        return (
            None if self.peft_type in IN_PARTS else f"of PEFT's other tuners only {tried} was tried on a base in parts"
        )

    def _config_class(self) -> type[Any]:
        import peft

        return cast("type[Any]", peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(self.peft_type)])

    def peft_config(self, backbone: Backbone) -> PeftConfig:
        """Build the tuner's configuration from `options`, and from `_defaults` what PEFT would leave open."""
        options = {**self._defaults(backbone), **self.options}
        try:
            return cast("PeftConfig", self._config_class()(task_type=backbone.peft_task, **options))
        except (TypeError, ValueError) as error:
            raise ConfigError("method.options", self.options, first_line(error)) from None

    def _defaults(self, backbone: Backbone) -> dict[str, Any]:
        """Return what the model decides: its weights' layout, and targets where PEFT has none for it."""
        import peft

        known = {f.name for f in dataclasses.fields(self._config_class())}
        defaults: dict[str, Any] = {}
        if "num_virtual_tokens" in known:
            defaults |= {"num_virtual_tokens": 20, **prompt_shape(backbone)}
        if "fan_in_fan_out" in known:
            defaults["fan_in_fan_out"] = backbone.transposed
        tuner = peft.PEFT_TYPE_TO_TUNER_MAPPING[peft.PeftType(self.peft_type)]
        mapping = getattr(tuner, "target_module_mapping", None)
        # SHADOW has an empty table: it finds the model's blocks, not its linear layers, by itself.
        if mapping and backbone.model.config.model_type not in mapping:
            defaults["target_modules"] = self._all_targets(backbone)
        return defaults

    def _all_targets(self, backbone: Backbone) -> list[str] | str:
        """Return all linear layers, or all norms for the tuner of norms."""
        from harness.tuners.houlsby import norms

        if self.peft_type != "LN_TUNING":
            return "all-linear"
        return [name for name in norms(backbone.model) if not backbone.in_head(f"{name}.")]

    def attach(self, backbone: Backbone) -> nn.Module:
        """Attach the tuner; one that PEFT says it cannot fit to this model's layers is not applicable.

        Any other error inside PEFT is a failure, which the same command tries again: a bug is no result.
        """
        config = self.peft_config(backbone)
        try:
            model = super().attach(backbone)
        except (TypeError, ValueError, NotImplementedError) as error:
            self._explain(config, error, backbone)
            raise
        if not any(".modules_to_save." not in name and tensor.numel() for name, tensor in trainable(model).items()):
            raise ConfigError("method.options", self.options, f"{self.peft_type} has nothing to train")
        return model

    def _explain(self, config: PeftConfig, error: Exception, backbone: Backbone) -> None:
        """Raise what PEFT's error means: options left open, or a model that the tuner does not support."""
        if isinstance(error, TypeError) and unset(config):
            raise ConfigError("method.options", self.options, f"{self.peft_type} {unset(config)}") from error
        if "specify `target_modules`" in str(error):
            raise ConfigError("method.options.target_modules", None, f"{self.peft_type} needs layers' names") from error
        if REFUSALS.search(str(error)):
            reason = f"PEFT cannot fit {self.peft_type} to {type(backbone.model).__name__}"
            raise NotApplicable(f"{reason}: {first_line(error)}") from error

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold the adapter into the base weights, which not every tuner can."""
        base = cast(Any, model).base_model
        require(
            hasattr(type(base), "merge_and_unload"),
            "merge",
            True,
            f"{self.peft_type} changes no weights of the base",
        )
        try:
            return super().merge(model)
        except (NotImplementedError, ValueError) as error:  # some of PEFT's tuners only seem to merge
            if isinstance(error, ValueError) and "cannot merge" not in str(error).lower():
                raise
            raise ConfigError("merge", True, f"{self.peft_type} cannot be merged: {first_line(error)}") from error


def unset(config: PeftConfig) -> str:
    """Say which numbers a tuner's configuration leaves open; PEFT fails on them only when it computes."""
    names = [f.name for f in dataclasses.fields(config) if f.type in (int, "int") and getattr(config, f.name) is None]
    return f"needs method.options.{', method.options.'.join(names)}" if names else ""
