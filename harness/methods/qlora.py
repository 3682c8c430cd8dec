"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): LoRA over a frozen base in 4 or 8 bits."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

from harness.config import require
from harness.methods.base import METHODS
from harness.methods.lora import Initialisation, LoRA
from harness.methods.peft import quiet_peft, unwrap_head

if TYPE_CHECKING:
    from torch import nn

    from harness.models import Backbone
    from harness.runtime import Runtime


@METHODS.register("qlora")
@dataclass
class QLoRA(LoRA):
    """LoRA over NF4 weights with double quantisation: 4.127 bits a parameter instead of 32."""

    bits: int = 4
    double_quantisation: bool = True
    """Quantise the scales too: 0.127 bit a parameter for them instead of 0.5."""
    compute_dtype: str | None = None
    """The dtype products are computed in; None is bfloat16 on CUDA, as in the paper, and float32 on a CPU."""
    paged: bool | None = None
    """Page the optimiser's state out of GPU memory; None does so on CUDA."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bits in (4, 8), "method.bits", self.bits, "must be 4 or 8")
        dtypes = (None, "float32", "bfloat16", "float16")
        require(
            self.compute_dtype in dtypes,
            "method.compute_dtype",
            self.compute_dtype,
            "float32, bfloat16 or float16",
        )
        starts = (Initialisation.default, Initialisation.gaussian)
        require(
            self.init in starts,
            "method.init",
            self.init.value,
            "default or gaussian: the others need the base in full precision",
        )

    def on(self, runtime: Runtime) -> Self:
        """Choose the compute type and the optimiser by the device."""
        dtype = self.compute_dtype or ("bfloat16" if runtime.cuda else "float32")
        return replace(self, compute_dtype=dtype, paged=runtime.cuda if self.paged is None else self.paged)

    def resolved(self) -> dict[str, Any]:
        """Return the compute type and whether the optimiser is paged."""
        return {"compute_dtype": self.compute_dtype, "paged": self.paged}

    def quantised_base(self) -> tuple[str, bool] | None:
        """Return what `quantization` loads."""
        return ("nf4", self.double_quantisation) if self.bits == 4 else ("int8", False)

    def quantization(self) -> Any:
        """Return NF4 with double quantisation, or LLM.int8; bitsandbytes' own default would be fp4."""
        import torch
        from transformers import BitsAndBytesConfig

        if self.bits == 8:
            # It warns at every layer of every step that LLM.int8 computes in float16, which it always does.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double_quantisation,
            bnb_4bit_compute_dtype=getattr(torch, self.compute_dtype or "float32"),
        )

    def optimizer(self) -> str:
        """Return the paged AdamW of the paper where it pages."""
        return "paged_adamw_32bit" if self.paged else "adamw_torch"

    def unsuitable(self, backbone: Backbone) -> str | None:
        """A model of which nothing was quantised would be plain LoRA under another name."""
        if any(type(module).__name__ in ("Linear4bit", "Linear8bitLt") for module in backbone.model.modules()):
            return super().unsuitable(backbone)
        return "bitsandbytes quantised none of the model's layers"

    def attach(self, backbone: Backbone) -> nn.Module:
        """Freeze the quantised base and attach to it.

        PEFT's ``prepare_model_for_kbit_training`` would also hold what is not quantised, the embeddings and the output
        matrix, in float32, which LoRA's frozen weights are not.
        """
        keep_unpacked(backbone.model)
        backbone.model.requires_grad_(False)
        return super().attach(backbone)

    def merge(self, model: nn.Module) -> nn.Module:
        """Dequantise the base, attach the same adapter to its plain layers, and fold it in there.

        Folding into quantised layers would round the sum to 4 or 8 bits again and move the logits. With 8
        bits they still differ by the rounding of activations, which LLM.int8 does and a plain layer does not.
        """
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

        tuned = cast(Any, model)
        config, tensors = (
            tuned.peft_config["default"],
            get_peft_model_state_dict(tuned, save_embedding_layers=False),
        )
        unwrap_head(tuned)
        with quiet_peft():
            plain = get_peft_model(tuned.unload().dequantize(), config)
        set_peft_model_state_dict(plain, tensors)
        return super().merge(plain)


def keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights when a model is evaluated on a CPU with AVX512-BF16.

    Its fast layout rounds the scales to bfloat16 for good, so the base changes at the first evaluation,
    and passes no gradient: layers below would train on after an evaluation without the loss reaching them.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast(Any, module).support_avx512bf16_for_cpu = False
