"""The search of a sweep: rounds of independent runs until each configuration has its learning rate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from harness.config import RunConfig, require
from harness.errors import RecordError, first_line
from harness.identity import learning_rate, run_id
from harness.search import trials
from harness.search.rule import Decision, Trial, decide
from harness.storage.files import write_json
from harness.storage.privacy import expanded
from harness.storage.record import RunFolder, Status

Job = Sequence[str]
GIVEN = {"method", "rank", "seed"}
"""Overrides that a configuration's name has anyway, or does not tell it from others."""


@dataclass
class Configuration:
    """What gets a learning rate of its own: a method with all that was chosen of it, on a task and a model."""

    name: str
    key: str
    config: RunConfig
    job: Job
    """The overrides of its first run."""
    reported: list[Job] = field(default_factory=list)
    """The overrides of the runs that are asked for, one a seed."""
    launched: set[int] = field(default_factory=set)
    """Places that this command has trained: one that left no result is not trained again and again."""
    ids: dict[int, str] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    """What has been read of runs that ended, which does not change."""

    def folder(self, place: int) -> RunFolder:
        """Return the folder of the run that tries a place."""
        if place not in self.ids:
            self.ids[place] = run_id(trials.search_config(self.config, place))
        return RunFolder(self.config.output_dir, self.ids[place])

    def records(self, places: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return the records that there are of the runs of these places."""
        found = {place: trials.read(self.folder(place)) for place in places}
        return {place: record for place, record in found.items() if record is not None}

    def decision(self) -> Decision:
        """Return what the rule says of the records that there are; it ends at one that cannot be read, and says so."""
        found: dict[int, Trial] = {}
        while True:
            decision = decide(found, self.config.search.max_runs)
            try:
                known = {place: self._trial(place) for place in decision.train}
            except RecordError as error:
                return Decision(why=first_line(error), tried=tuple(found))
            more = {place: trial for place, trial in known.items() if trial is not None}
            if not more:
                return decision
            found |= more

    def _trial(self, place: int) -> Trial | None:
        if place not in self.trials:
            folder = self.folder(place)
            record = trials.read(folder)
            try:
                found = None if record is None else trials.trial_of(record, folder.path, self.config.task)
            except (OSError, KeyError, ValueError) as error:
                said = f"{folder.path}: its items cannot be read ({first_line(error)}); move it away"
                raise RecordError(said) from None
            if found is None:
                return None
            self.trials[place] = found
        return self.trials[place]

    def obstacle(self) -> str | None:
        """Return why the search cannot go on: a run that was trained, and left neither a score nor a divergence."""
        for place, record in self.records(self.decision().train).items():
            if record["status"] == Status.not_applicable.value or (
                place in self.launched and record["status"] != Status.done.value
            ):
                return f"{record['status'].replace('_', ' ')}: {record['reason']}"
        return None

    def job_of(self, place: int) -> list[str]:
        """Return the overrides of the run that tries a place."""
        rate = trials.rate_at(self.config, place)
        return [*self.job, "purpose=search", f"seed={self.config.search.seed}", *at_rate(rate), "retry=failed"]

    def path(self) -> dict[str, Any]:
        """Return the search as the record of each reported run has it."""
        decision = self.decision()
        known = self.records(decision.tried)
        tried = [
            {"rate": trials.rate_at(self.config, place), "run": self.folder(place).id}
            | trials.described(known.get(place))
            for place in decision.tried
        ]
        chosen = None if decision.chosen is None else trials.rate_at(self.config, decision.chosen)
        return {
            "of": "learning_rate",
            "configuration": self.name,
            "split": "validation",
            "metric": self.config.task.metric,
            "seed": self.config.search.seed,
            "max_runs": self.config.search.max_runs,
            "started_from": learning_rate(self.config),
            "tried": tried,
            "chosen": chosen,
            "why": decision.why,
            "warning": decision.warning,
        }


def at_rate(rate: float) -> list[str]:
    """Return the overrides that train at a rate, whatever the job said."""
    return [f"train.learning_rate={rate:.10g}", "train.learning_rate_factor=1"]


def configurations(jobs: Sequence[Job], configs: Sequence[RunConfig]) -> list[Configuration]:
    """Return the configurations of a sweep, each with the runs that are asked for.

    Raises :class:`ConfigError` where several rates are asked for, or a seed is the search's own.
    """
    found: dict[str, Configuration] = {}
    names = named(jobs, configs)
    for job, config, name in zip(jobs, configs, names, strict=True):
        own = config.search.seed
        require(config.seed != own, "seed", own, "is the search's own; report other seeds, or move search.seed")
        one = found.setdefault(trials.configuration_key(config), Configuration(name, "", config, job))
        rates = f"{learning_rate(one.config):g}, {learning_rate(config):g}"
        same = learning_rate(config) == learning_rate(one.config)
        require(same, "train.learning_rate", rates, "search=learning_rate finds it; give at most one, to start from")
        one.reported.append(job)
    for key, one in found.items():
        one.key = key
    return list(found.values())


def named(jobs: Sequence[Job], configs: Sequence[RunConfig]) -> list[str]:
    """Return a name for each job's configuration: method and rank, then the overrides that tell it from others."""
    common = set.intersection(*(set(job) for job in jobs))
    names = []
    for job, config in zip(jobs, configs, strict=True):
        rank = config.method.rank_used
        more = [said for said in job if said not in common and said.partition("=")[0].lstrip("+") not in GIVEN]
        names.append(" ".join([config.method.name, *([] if rank is None else [f"r{rank}"]), *more]))
    return names


def search_rates(
    searched: Sequence[Configuration], train: Callable[[list[list[str]]], None], say: Callable[[str], None]
) -> None:
    """Train rounds of independent runs until no configuration needs one more; `train` takes the jobs of a round."""
    ended: set[str] = set()
    while True:
        asked: list[list[str]] = []
        for one in searched:
            places = [] if one.obstacle() else one.decision().train
            asked += [one.job_of(place) for place in places]
            one.launched |= set(places)
            if not places and one.key not in ended:
                ended.add(one.key)
                say(f"search: {outcome(one)}")
        if not asked:
            return
        train(asked)


def outcome(one: Configuration) -> str:
    """Say in a line how a configuration's search stands or ended."""
    decision, obstacle = one.decision(), one.obstacle()
    if obstacle:
        return f"{one.name}: {obstacle}"
    tried = ", ".join(f"{trials.rate_at(one.config, place):g}" for place in sorted(decision.tried))
    if decision.train:
        return f"{one.name}: goes on with {len(decision.train)} runs"
    if decision.chosen is None:
        return f"{one.name}: no learning rate found: {decision.why} (tried {tried})"
    rate = trials.rate_at(one.config, decision.chosen)
    return f"{one.name}: learning rate {rate:g} of {len(decision.tried)} tried ({tried}); {decision.why}"


def reported_jobs(searched: Sequence[Configuration]) -> tuple[list[Job], list[str]]:
    """Return the jobs to report, each at its configuration's rate, and a line for each configuration without one.

    A configuration that does not apply is reported as given: its record says why. What was found is kept beside the
    runs, where each reported run reads it.
    """
    jobs: list[Job] = []
    lines = []
    for one in searched:
        decision, obstacle = one.decision(), one.obstacle()
        if obstacle and obstacle.startswith("not applicable"):
            jobs += [list(job) for job in one.reported]
        elif obstacle or decision.chosen is None:
            lines.append(outcome(one))
        else:
            keep(one)
            rate = trials.rate_at(one.config, decision.chosen)
            jobs += [[*job, *at_rate(rate), f"search.configuration={one.key}"] for job in one.reported]
    return jobs, lines


def keep(one: Configuration) -> None:
    """Write a configuration's search, so that the runs at its rate can say how it was chosen."""
    place = path_file(one.config.output_dir, one.key)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, one.path())


def path_file(output_dir: str, key: str) -> Path:
    """Return the file of a configuration's search."""
    return expanded(output_dir) / ".search" / f"{key}.json"


def path_of(config: RunConfig) -> dict[str, Any] | None:
    """Return the search that chose a run's learning rate, None where none did."""
    if config.search.configuration is None:
        return None
    try:
        found: dict[str, Any] = json.loads(
            path_file(config.output_dir, config.search.configuration).read_text(encoding="utf-8")
        )
    except (OSError, ValueError):
        return None
    return found


def note_searches(configs: Sequence[RunConfig]) -> None:
    """Bring the searches into records that were written before: by a narrower search, or at a rate that was given."""
    for config in configs:
        folder, path = RunFolder(config.output_dir, run_id(config)), path_of(config)
        record = trials.read(folder)
        if record is None or path is None or record.get("search") == path:
            continue
        with folder.lock(wait=False) as mine:
            if mine:
                folder.write((folder.read() or record) | {"search": path})


def describe(searched: Sequence[Configuration], pending: Callable[[Job], bool]) -> str:
    """Return the plan of a search: what is known of each configuration, and the most that is still to be trained."""
    lines, runs, cost = [f"{'runs at most':>12}  configuration"], 0, 0.0
    known = True
    for one in searched:
        left, reported = most_left(one), sum(map(pending, reported_jobs([one])[0] or one.reported))
        runs += left + reported
        each = seconds_a_run(one)
        cost, known = cost + (left + reported) * (each or 0.0), known and each is not None
        lines.append(f"{left + reported:>12}  {state(one)}{'' if each is None else f'; {each:.0f} s a run'}")
    said = f"about {cost / 60:.0f} min at most" if known else "time not known before a first run of each configuration"
    return "\n".join([*lines, f"configurations: {len(searched)}, runs at most: {runs}, {said}"])


def state(one: Configuration) -> str:
    """Say what is known of a configuration, and what its search tries next."""
    decision = one.decision()
    if not decision.train or one.obstacle():
        return outcome(one)
    rates = ", ".join(f"{trials.rate_at(one.config, place):g}" for place in decision.train)
    return f"{one.name}: {len(decision.tried) - len(decision.train)} rates tried, next {rates}"


def most_left(one: Configuration) -> int:
    """Return how many runs a configuration's search may still train."""
    decision = one.decision()
    if one.obstacle() or not decision.train:
        return 0
    return one.config.search.max_runs - (len(decision.tried) - len(decision.train))


def seconds_a_run(one: Configuration) -> float | None:
    """Return the median seconds of the search's runs so far, None where there are none."""
    took = [
        sum(record["seconds"].values()) for record in one.records(one.decision().tried).values() if "seconds" in record
    ]
    return median(took) if took else None
