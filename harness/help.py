"""The command line's own help: Hydra's composes every preset to list them, which takes two seconds."""

from __future__ import annotations

from pathlib import Path

from harness.forgetting.base import PROBES
from harness.methods.base import METHODS
from harness.tasks.base import TASKS

HEADER = "Train one run, or a sweep with -m, and record what it learned, forgot and cost."
EXAMPLES = """\
Examples
  python -m harness.run                                     one run: LoRA, rank 16, SmolLM2-135M on TREC
  python -m harness.run -m method=lora,qlora rank=8,16,64   a sweep of six
  python -m harness.run -m search=learning_rate method=full,lora seed=0,1,2   each at its own rate
  python -m harness.run -m experiment=quickstart            every method on a small encoder
  python -m harness.run -m method=full,lora dry_run=true    what would be trained, and what is done
  python -m harness.run forgetting=none                     without the probes of what was forgotten
  python -m harness.run "sequence=[trec,rotten_tomatoes]"   one task after another

  python -m harness.run --cfg job                           every key with its value
  python -m harness.run --cfg job --package method          the keys of one group
  python -m harness.run --hydra-help                        Hydra's own flags
  python -m harness.plan method=lora gpu=24GiB              what a step takes of a GPU's memory
  python -m harness.export run=<id> to=<folder>             a PEFT adapter or, with merge=true, a merged model

Keys are overridden by key=value: rank=8, seed=1, train.max_steps=200, train.learning_rate=5e-4,
task.max_test=-1, output_dir=runs, tracker=none. The same command again skips what is done, resumes
what was cut off and retries what failed from the phase that failed; retry=none leaves failed runs, retry=all trains
all again. Under other versions or on another device a cut run goes on with resume=force only, and is marked."""
SCHEMAS = {"trainer", "base_tracker", "settings", "file"}


def text(conf: Path) -> str:
    """Return the help: what can be chosen in each group, and examples."""
    groups: dict[str, set[str]] = {"method": set(METHODS.names()), "task": set(TASKS.names()), "model": {"custom"}}
    groups["probe"] = set(PROBES.names())
    for preset in conf.glob("*/*.yaml"):
        groups.setdefault(preset.parent.name, set()).add(preset.stem)
    lines = [f"  {name}: {', '.join(sorted(choices - SCHEMAS))}" for name, choices in sorted(groups.items())]
    return "\n".join([HEADER, "", "Groups, chosen by group=option", *lines, "", EXAMPLES])
