"""Output heads of the untouched checkpoint: from hidden states to logits, without the body in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from harness.distributed.shard import plain_class, whole_copy
from harness.errors import NotApplicable
from harness.models import keep_contiguous, load_backbone, load_output_layer

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.execution.session import Prepared
    from harness.storage.assets import Files


class OutputHead:
    """The output layers of a model as its files have them: logits from hidden states, without its body.

    The model's own forward runs with the body replaced by one that returns fixed states, so that scaling and
    capping of logits, which some architectures do, are in.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        self.tied = output is not None and output.weight is embeddings.weight
        """Whether the output matrix is that of the embeddings."""
        self.body = FixedBody()
        # Tied output layers keep their matrix; the rest of the body is freed.
        setattr(model, model.base_model_prefix, self.body)
        self.model: Any = model.eval()
        self.dtype = next(model.parameters()).dtype

    def __call__(self, states: Tensor) -> Tensor:
        """Return logits of shape (rows, positions, vocabulary) for states of shape (rows, positions, d)."""
        self.body.states = states.to(self.dtype)
        tokens = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        logits: Tensor = self.model(input_ids=tokens).logits
        return logits.float()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[OutputHead]:
        """Have the head on a device for a pass; between passes it takes none of the memory that training needs."""
        self.model.to(device)
        try:
            yield self
        finally:
            self.body.states = torch.empty(0)
            self.model.to("cpu")

    def tuned(self, embeddings: Tensor) -> OutputHead:
        """Return the head of a tuned body with these embeddings: they are its output matrix where the two are tied."""
        if not self.tied or embeddings.shape != self.model.get_output_embeddings().weight.shape:
            return self
        old = self.model.get_output_embeddings().weight
        head = copy.copy(self)
        own = nn.Parameter(embeddings.detach().to(old.dtype), requires_grad=False)
        head.model = copy.deepcopy(self.model, {id(old): own})
        head.body = getattr(head.model, head.model.base_model_prefix)
        return head


class FixedBody(nn.Module):
    """A body that returns the hidden states that were set."""

    states: Tensor

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """Return the states."""
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.states)  # type: ignore[arg-type]


def untouched_head(config: RunConfig, prepared: Prepared) -> OutputHead:
    """Return the checkpoint's head from its files, on the CPU: a decoder's, or an encoder's for masked tokens.

    Raises :class:`NotApplicable` where an encoder has none.
    """
    if prepared.kind == "encoder":
        return OutputHead(masked_model(prepared.files))
    wanted = prepared.pretrained(config)
    if wanted.sharded:
        return OutputHead(whole_head(load_backbone(wanted, torch.device("cpu")).model))
    return OutputHead(load_output_layer(wanted))


def whole_head(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model that has its output layer whole in every process, and of its body nothing."""
    with torch.device("meta"):
        bare: PreTrainedModel = plain_class(model)(model.config)
    layer = whole_copy(model.get_output_embeddings())
    if bare.get_output_embeddings().weight is bare.get_input_embeddings().weight:
        bare.get_input_embeddings().weight = layer.weight
    bare.set_output_embeddings(layer)
    keep_contiguous(bare)
    return bare


_HEADLESS: dict[str, str | None] = {}


def no_masked_head(files: Files) -> str | None:
    """Return why a checkpoint cannot predict masked tokens, None where it can; found out once a process."""
    key = f"{files.folder} {sorted(files.hashes.items())}"
    if key not in _HEADLESS:
        try:
            masked_model(files)
            _HEADLESS[key] = None
        except NotApplicable as error:
            _HEADLESS[key] = str(error)
    return _HEADLESS[key]


def masked_model(files: Files) -> PreTrainedModel:
    """Load the checkpoint with its masked-language-model head.

    Raises :class:`NotApplicable` where its architecture has none, or the files lack weights of it; whatever else
    keeps a model from loading is a failure and goes through.
    """
    described = AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
    if type(described) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise NotApplicable(f"no masked-language-model head: transformers has none for {described.model_type}")
    model, info = AutoModelForMaskedLM.from_pretrained(
        files.folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise NotApplicable(f"the checkpoint has no masked-language-model head: it lacks {missing[0]}")
    return model  # type: ignore[no-any-return]
