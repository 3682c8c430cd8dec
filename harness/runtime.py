"""Where and in what precision a run computes: resolved once, before anything loads, recorded whole and handed on.

No other module asks whether there is a GPU, reads a variable of the environment that changes a number, or changes a
setting that torch holds for the whole process.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import __version__
from harness.config import DType, RunConfig, TrainConfig, require
from harness.distributed import group
from harness.errors import ConfigError

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "lm_eval",
    "tokenizers",
    "numpy",
    "scipy",
)
"""Packages that can change a number."""
REFUSED = ("ACCELERATE_", "FSDP_", "MEGATRON_", "PARALLELISM_CONFIG_")
"""Beginnings of variables by which accelerate changes what a training computes, whatever the configuration says."""
HARMLESS = ("ACCELERATE_LOG_LEVEL", "ACCELERATE_DEBUG_MODE", "ACCELERATE_DISABLE_RICH")
LOCAL_RANK = "LOCAL_RANK"
"""By which accelerate joins a group of processes, also of one."""
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""By which accelerate takes a process for one of several."""
RECORDED = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "DNNL_MAX_CPU_ISA",
    "KMP_BLOCKTIME",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCHDYNAMO_DISABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_COMPILE_DISABLE",
    "USE_HUB_KERNELS",
)
"""Variables that may change the last bits of a number, a time or a peak: they stand in the record."""


M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""glibc's numbers of two options, from its malloc.h."""
BACKENDS: Any = torch.backends  # whose fp32_precision, of torch 2.9, its types do not know


@dataclass(frozen=True)
class Precision:
    """The dtypes of a run."""

    weights: torch.dtype
    """What the base is loaded in; frozen weights stay in it."""
    trained: torch.dtype
    """What every method holds its trained tensors in."""
    compute: torch.dtype
    """What matrix products are computed in, by autocast where it is not float32."""

    def names(self) -> dict[str, str]:
        """Return the dtypes by their names, as the record has them."""
        return {name: dtype_name(dtype) for name, dtype in vars(self).items()}


@dataclass(frozen=True)
class Runtime:
    """What a run computes on and how."""

    device: torch.device
    precision: Precision
    threads: int
    processes: int
    environment: Mapping[str, str]
    """Those of :data:`RECORDED` that are set."""
    tf32: bool | None
    deterministic: bool
    versions: Mapping[str, str | None]
    """Of Python, this project and every package that can change a number."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which a model is trained and answers, the same for both."""
        if self.precision.compute == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision.compute)

    @property
    def scales_gradients(self) -> bool:
        """Return whether gradients are scaled, without which those of products in float16 would underflow to zero."""
        return self.precision.compute == torch.float16 and self.precision.trained == torch.float32

    def hold_trained(self, model: nn.Module) -> nn.Module:
        """Hold each trained tensor in ``precision.trained``, frozen ones as they were loaded; move all to the device.

        An update smaller than half a unit in the last place is lost: at a weight of 1 in bfloat16 that is 0.004,
        so a rate of 1e-4 never moves a norm. PEFT holds its adapters in float32; here every method's are.
        """
        inner: nn.Module = getattr(model, "get_base_model", lambda: model)()
        embeddings = {module for module in inner.modules() if isinstance(module, nn.Embedding)}
        for module in model.modules():
            own = [parameter for parameter in module.parameters(recurse=False) if parameter.is_floating_point()]
            trained = [parameter for parameter in own if parameter.requires_grad]
            # A norm cannot compute with a bias in float32 and a weight in bfloat16; both are vectors.
            norm = bool(trained) and all(parameter.dim() < 2 for parameter in own)
            for parameter in own if norm else trained:
                parameter.data = parameter.data.to(self.precision.trained)
            if trained and module in embeddings:  # the base's own, not a prompt's, which is saved as it comes
                self._keep_stream(module)
        return model.to(self.device)

    def _keep_stream(self, embedding: nn.Module) -> None:
        """Give what a trained embedding returns the dtype that a frozen one has.

        Else the sum that runs through the layers would be float32 in full fine-tuning alone, whose logits then differ
        from the base's before a step is trained.
        """
        if self.precision.weights != self.precision.trained and not hasattr(embedding, "harness_stream"):
            dtype = self.precision.weights
            handle = embedding.register_forward_hook(lambda _module, _inputs, output: output.to(dtype))
            embedding.harness_stream = handle  # type: ignore[assignment]

    @property
    def cuda(self) -> bool:
        """Return whether the run computes on a GPU."""
        return self.device.type == "cuda"

    @property
    def generators(self) -> list[torch.device]:
        """Return the devices besides the CPU whose random state matters."""
        return [self.device] if self.cuda else []

    def synchronise(self) -> None:
        """Wait until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Set what torch holds for the whole process, tf32 and determinism, and put all of it back afterwards."""
        with settings_kept():
            if self.tf32 is not None:
                BACKENDS.fp32_precision = "tf32" if self.tf32 else "ieee"
            if self.deterministic:
                os.environ |= {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}
                torch.use_deterministic_algorithms(True)
                torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            yield

    def key(self) -> dict[str, Any]:
        """Return what decides the numbers of an untouched model here, which runs share."""
        return {
            "device": torch.cuda.get_device_name(self.device) if self.cuda else self.device.type,
            "weights": dtype_name(self.precision.weights),
            "computed": dtype_name(self.precision.compute),
            "tf32": self.tf32,
            "deterministic": self.deterministic,
            "versions": dict(self.versions),
        }

    def describe(self) -> dict[str, Any]:
        """Return what the record says of it."""
        gpu = torch.cuda.get_device_properties(self.device) if self.cuda else None
        return {
            "device": self.device.type,
            "gpu": gpu.name if gpu else None,
            "kernels": torch.backends.cpu.get_cpu_capability(),
            "threads": self.threads,
            "processes": self.processes,
            "precision": self.precision.names(),
            "tf32": self.tf32,
            "deterministic": self.deterministic,
            "environment": dict(self.environment),
        }

    def machine(self) -> dict[str, Any]:
        """Return processor and GPU; no host name, user or folder."""
        gpu = torch.cuda.get_device_properties(self.device) if self.cuda else None
        return {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(),
            "threads": self.threads,
            "device": self.device.type,
            "gpu": gpu.name if gpu else None,
            "gpu_memory_gib": round(gpu.total_memory / 2**30, 1) if gpu else None,
            "cuda": torch.version.cuda if gpu else None,
        }


def resolve(config: RunConfig) -> Runtime:
    """Return what a run with this configuration computes on here.

    Raises :class:`ConfigError` where the environment or the machine does not allow what is asked for.
    """
    refuse_environment(os.environ)
    device = device_of(config.train)
    return Runtime(
        device,
        precision_of(config, device),
        torch.get_num_threads(),
        group.size(),
        {name: os.environ[name] for name in RECORDED if name in os.environ},
        config.train.tf32,
        config.train.full_determinism,
        versions(),
    )


def refuse_environment(environment: Mapping[str, str]) -> None:
    """Raise a :class:`ConfigError` for a variable that would change a result behind the configuration's back."""
    for name in WORLD_SIZES:
        if environment.get(name, "1").strip() not in ("", "0", "1"):
            reason = "several processes are started by torchrun or by processes=2, not by mpirun or accelerate launch"
            raise ConfigError(name, environment[name], reason)
    if environment.get(LOCAL_RANK, "-1").strip() not in ("", "-1"):
        raise ConfigError(
            LOCAL_RANK,
            environment[LOCAL_RANK],
            "several processes are started by torchrun or by processes=2, and by nothing else",
        )
    for name, value in sorted(environment.items()):
        if name.startswith(REFUSED) and name not in HARMLESS:
            raise ConfigError(name, value, "this variable would change what is trained; unset it and use train.*")


def device_of(train: TrainConfig) -> torch.device:
    """Return the GPU where there is one and it is not declined."""
    return torch.device("cuda", torch.cuda.current_device()) if _use_gpu(train) else torch.device("cpu")


def own_device(local: int, beside: int, use_cpu: bool) -> str:
    """Take what is this process's of a machine that `beside` of a run share; return torch's engines between them.

    Raises :class:`ConfigError` where there are fewer GPUs than processes.
    """
    if torch.cuda.is_available() and not use_cpu:
        found = torch.cuda.device_count()
        require(beside <= found, "processes", beside, f"there are {found} GPUs here; train.use_cpu=true needs none")
        torch.cuda.set_device(local)
        return "cpu:gloo,cuda:nccl"
    if "OMP_NUM_THREADS" not in os.environ:  # with a thread a core in each, they would wait for each other
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // beside))
    return "gloo"


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; nothing is started on them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def cores() -> int:
    """Return the processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _use_gpu(train: TrainConfig) -> bool:
    return torch.cuda.is_available() and not train.use_cpu


def precision_of(config: RunConfig, device: torch.device) -> Precision:
    """Return the dtypes of a run: frozen weights as loaded, trained ones in float32, products in the lower of both.

    With ``train.master_weights=false`` all is held and computed in the dtype that the model was loaded in.
    """
    train, weights = config.train, torch_dtype(config.model.dtype)
    asked = torch.bfloat16 if train.bf16 else torch.float16 if train.fp16 else None
    key = "train.fp16" if train.fp16 else "train.bf16"
    if asked and weights not in (torch.float32, asked):
        raise ConfigError(key, True, f"contradicts model.dtype={config.model.dtype.value}; leave one of them out")
    compute = asked or weights
    if not train.master_weights:
        if asked and asked != weights:
            raise ConfigError("train.master_weights", False, f"holds all in model.dtype; leave {key} out")
        return Precision(weights, weights, weights)
    if compute is torch.float16 and device.type == "cpu":
        key = key if asked else "model.dtype"
        raise ConfigError(key, "float16", "float16 is trained with scaled gradients, which need a GPU; use bfloat16")
    return Precision(weights, torch.float32, compute)


def torch_dtype(dtype: DType) -> torch.dtype:
    """Return torch's dtype of this name."""
    found: torch.dtype = getattr(torch, dtype.value)
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without ``torch.``."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put back what transformers and torch change for the whole process: tf32, determinism, their variables."""
    # The flags `allow_tf32` of before torch 2.9 raise once transformers has set the new one, so only that is read.
    deterministic, precision = torch.are_deterministic_algorithms_enabled(), BACKENDS.fp32_precision
    cudnn, environment = torch.backends.cudnn, dict(os.environ)
    cudnn_before = (cudnn.deterministic, cudnn.benchmark)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        BACKENDS.fp32_precision = precision
        cudnn.deterministic, cudnn.benchmark = cudnn_before
        _restore(environment)


def _restore(environment: dict[str, str]) -> None:
    """Put back the variables that transformers sets for accelerate and CUDA, which the next run would inherit."""
    ours = (*REFUSED, "CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "FLASH_ATTENTION_DETERMINISTIC")
    for name in [name for name in os.environ if name.startswith(ours)]:
        if name not in environment:
            del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if name.startswith(ours)})


@functools.cache
def freeze_imports() -> None:
    """Keep what libraries made when they were imported out of later garbage collections: 0.26 s each, three a run."""
    gc.collect()
    gc.freeze()


def free() -> None:
    """Give back what nothing holds, CUDA's cache and glibc's heap, so that no later peak carries it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another C library keeps no such heap
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def give_back_at_once() -> None:
    """Have glibc give every block of 128 KiB and more back to the system as soon as it is free.

    A base in parts gathers a layer, computes and lets go of it, thousands of times: kept on the heap, between what
    lives on, these blocks made a process of full fine-tuning SmolLM2 hold 3.3 GiB instead of 2.1 (2.4 at 1 MiB).
    """
    with suppress(OSError, AttributeError):  # another C library
        for option, value in ((M_MMAP_THRESHOLD, 2**17), (M_TRIM_THRESHOLD, 2**20)):
            ctypes.CDLL("libc.so.6").mallopt(option, value)


def release() -> None:
    """Free what the last run held: its model hangs in a ring of objects with its Trainer, and the next needs the room.

    bitsandbytes keeps the pages of paged optimisers in a list of the process for ever.
    """
    for tensors in _paged():
        tensors.clear()
    free()


def paged_bytes() -> int:
    """Return the bytes of paged optimiser state, which CUDA's allocator does not count."""
    return sum(tensor.numel() * tensor.element_size() for tensors in _paged() for tensor in tensors)


def _paged() -> list[list[torch.Tensor]]:
    module = sys.modules.get("bitsandbytes.functional")
    return [] if module is None else [module.GlobalPageManager.get_instance().paged_tensors]


def versions() -> dict[str, str | None]:
    """Return the version of Python, this project and every package that can change a number."""
    return {"python": platform.python_version(), "peft-harness": __version__} | {
        name: _version(name) for name in PACKAGES
    }


@functools.cache  # reading the ten packages' metadata takes 30 ms, a tiny run 300
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
