"""Tracking in Weights & Biases: one run each, and never a reason for training to stop.

wandb is imported inside functions only, so ``tracker=none`` and a configuration error cost nothing.
What W&B would gather by itself (command line, git remote, host, packages, console) is switched off: the run
record says what is needed of it, and a remote or an argument may hold a credential.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Purpose, TrackerConfig, TrackerMode, require
from harness.errors import ConfigError
from harness.storage.privacy import mask_files, masked
from harness.tracking.base import (
    COMPLETE,
    TRACKERS,
    Start,
    Tracker,
    cell,
    columns,
    label,
    reason,
    require_project,
    summarised,
)
from harness.tracking.none import NullTracker

log = logging.getLogger(__name__)

RETRY_SECONDS = 900.0
"""So long a process stays offline once W&B could not be reached: six runs wait once, not six times."""
FINISH_FACTOR = 10
"""The last upload may take this many times ``tracker.init_timeout``: 300 s unless configured."""


@dataclass
class _Network:
    """What this process knows of the way to W&B."""

    retry_at: float = 0.0
    """Monotonic time before which no run tries to go online."""


_network = _Network()


@TRACKERS.register("wandb")
class WandbTracker(Tracker):
    """One W&B run; what W&B raises is warned of once and training goes on."""

    shown = "W&B"

    def __init__(self, run: Any, online: bool, log_adapter: bool) -> None:
        self._run, self._log_adapter = run, log_adapter
        self._folder = Path(run.dir).resolve().parent
        self.url_or_folder = str(run.url) if online else masked(str(self._folder))

    @classmethod
    def check(cls, tracker: TrackerConfig) -> None:
        """Refuse a name that W&B would refuse, and ``mode=online`` without a login; nothing is sent to W&B."""
        if tracker.mode is TrackerMode.none:
            return
        require_project(tracker)
        for tag in tracker.tags:
            require(1 <= len(tag) <= 64, "tracker.tags", tag, "a W&B tag has 1 to 64 characters")
        if tracker.mode is TrackerMode.online and not logged_in():
            ways = "run `wandb login`, set WANDB_API_KEY to a valid key, or use tracker.mode=offline"
            raise ConfigError("tracker.mode", "online", f"needs a W&B login: {ways}")

    @classmethod
    def begin(cls, start: Start) -> Tracker:
        """Begin the run with files in ``folder/wandb``; a run that was cut continues its W&B run.

        Where W&B cannot be reached within ``tracker.init_timeout`` seconds the run is tracked offline instead.
        """
        try:
            mode = tracking_mode(start.config.tracker)
        except Exception as error:
            log.warning("W&B cannot be asked (%s); tracking offline", reason(error))
            mode = TrackerMode.offline
        return NullTracker() if mode is TrackerMode.none else _first_that_starts(mode, start)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add one line of history; a step already there, as after a resume, is left as it is."""
        with self.guarded("history"):
            self._run.log(metrics, step=step)

    def summarise(self, record: dict[str, Any]) -> None:
        """Put the leaves of the record's :data:`SUMMARISED` parts into the run's summary."""
        with self.guarded("summary"):
            self._run.summary.update(summarised(record))

    def samples(self, rows: list[dict[str, Any]]) -> None:
        """Log `rows` as the table ``samples``; its columns are all keys, in order of first appearance."""
        with self.guarded("samples"), staged_in(self._folder.parent):
            names = columns(rows)
            data = [[cell(row.get(name)) for name in names] for row in rows]
            table = wandb_library().Table(columns=names, data=data, allow_mixed_types=True)
            self._run.log({"samples": table})

    def adapter(self, folder: Path) -> None:
        """Log the files of `folder` as the artifact ``adapter-<run id>``; they are not copied."""
        if not self._log_adapter:
            return
        with self.guarded("adapter"):
            artifact = wandb_library().Artifact(f"adapter-{self._run.id}", type="adapter")
            artifact.add_dir(str(folder.resolve()), policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact)

    def finish(self, status: str) -> None:
        """End the run; if the last upload takes too long, its data stay on disk for ``wandb sync``."""
        with self.guarded("end"):
            try:
                self._run.finish(exit_code=0 if status in COMPLETE else 1)
            except TimeoutError:
                _pause()
                raise
            finally:
                mask_files(self._folder / "logs", "*.log")


def tracking_mode(tracker: TrackerConfig) -> TrackerMode:
    """Decide ``auto``: as WANDB_MODE or ``wandb offline`` say, otherwise online if logged in."""
    if tracker.mode is not TrackerMode.auto:
        return tracker.mode
    asked = os.environ.get("WANDB_MODE") or _session().mode
    if asked == "disabled":
        return TrackerMode.none
    if asked in ("offline", "dryrun"):
        return TrackerMode.offline
    return TrackerMode.online if logged_in() else TrackerMode.offline


def logged_in() -> bool:
    """Say whether W&B finds a well-formed key in the environment, netrc or its settings; nothing is sent."""
    if not _may_have_key():
        return False
    session = _session()
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    try:
        host = wbauth.HostUrl(session.base_url)
        found = wbauth.authenticate_session(host=host, source="harness", prompt=False, update_session=False)
    except (AuthenticationError, ValueError):
        return False
    return found is not None


def _may_have_key() -> bool:
    """Say whether there is any place to find a key in: importing wandb to look takes half a second."""
    if "wandb" in sys.modules or "WANDB_API_KEY" in os.environ or "WANDB_IDENTITY_TOKEN_FILE" in os.environ:
        return True
    settings = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb") / "settings"
    places = (Path(os.environ.get("NETRC") or "~/.netrc"), Path("~/_netrc"), settings, Path("wandb/settings"))
    return any(place.expanduser().exists() for place in places)


def wandb_library() -> Any:
    """Import wandb; it prints nothing and reports no errors to W&B unless the user's environment says so."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def _session() -> Any:
    """Return W&B's settings as read from the environment and its files; no service is started."""
    wandb_library()
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings


def _first_that_starts(mode: TrackerMode, start: Start) -> Tracker:
    """Start the run as `mode` says, offline if that fails, and untracked if that fails too."""
    online = mode is TrackerMode.online and time.monotonic() >= _network.retry_at
    # Offline is tried twice: the first failure clears away a W&B service that died during an earlier run.
    for attempt in ("online" if online else "offline", "offline"):
        try:
            run = _init(attempt, start)
        except Exception as error:
            said = reason(error)
            _after_failed(attempt, said)
        else:
            return WandbTracker(run, attempt == "online", start.config.tracker.log_adapter)
    log.warning("W&B cannot track this run (%s); training goes on", said)
    return NullTracker()


def _init(mode: str, start: Start) -> Any:
    """Call ``wandb.init``; if it raises, its half-made folder is removed."""
    config, folder, key = start.config, start.folder, start.key
    folder.mkdir(parents=True, exist_ok=True)
    tracker, searching = config.tracker, ["search"] if config.purpose is Purpose.search else []
    before = set(folder.glob("wandb/*run-*"))
    try:
        return wandb_library().init(
            id=key,
            resume="allow",
            name=label(config),
            group=config.sweep.name,
            job_type=config.purpose.value,
            tags=list(dict.fromkeys([*tracker.tags, config.method.name, *searching])),
            config=masked(start.resolved),
            dir=str(folder),
            project=tracker.project,
            entity=tracker.entity,
            reinit="create_new",
            settings=quiet_settings(mode, tracker.init_timeout),
        )
    except Exception:
        for left in set(folder.glob(f"wandb/*run-*-{key}")) - before:
            shutil.rmtree(left, ignore_errors=True)
        raise


def quiet_settings(mode: str, init_timeout: float) -> Any:
    """Return the settings of every run: quiet, waiting no longer than told, gathering nothing by itself."""
    return wandb_library().Settings(
        mode=mode,
        silent=True,
        console="off",
        init_timeout=init_timeout,
        finish_timeout=FINISH_FACTOR * init_timeout,
        finish_timeout_raises=True,
        # A killed run loses what is not flushed yet; every 15 s unless told otherwise.
        x_transaction_log_flush_interval=1.0,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        label_disable=True,
        host="",
        symlink=False,
        use_dot_wandb=False,
    )


def _after_failed(attempt: str, said: str) -> None:
    """Free the run's id, which a failed ``wandb.init`` leaves in use, and say what happens next."""
    try:
        wandb_library().teardown()
    except (Exception, SystemExit) as error:  # it exits where the service died
        log.debug("W&B teardown: %s", reason(error))
    if attempt == "online":
        _pause()
        log.warning("W&B cannot be reached (%s); tracking offline, for `wandb sync` later", said)


def _pause() -> None:
    """Keep this process's next runs offline for :data:`RETRY_SECONDS`."""
    _network.retry_at = time.monotonic() + RETRY_SECONDS


@contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Let W&B keep what awaits upload in `folder`, not in the home folder: it travels with the run."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
        else:
            os.environ["WANDB_DATA_DIR"] = before
