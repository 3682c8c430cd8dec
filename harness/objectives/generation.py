"""Decoders that write: trained on the answer and its end, scored on what they generate greedily."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import nn

from harness.distributed.sharing import joined, share
from harness.objectives.base import OBJECTIVES, Advance, Features, to_device
from harness.objectives.likelihood import AnswerObjective
from harness.tasks.base import Item, Outcome
from harness.tasks.contracts import GenerationTask


@OBJECTIVES.register("generation")
class Generation(AnswerObjective[GenerationTask]):
    """Trains on the answer and an end-of-sequence token; answers by greedy generation.

    Prompts are generated for in groups of equal length. Padding on the left would move the real tokens
    away from the virtual tokens of prompt tuning and change its answers with the company they are in.
    """

    contract: ClassVar[type] = GenerationTask

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise each prompt with its answer and an end-of-sequence token."""
        return [self._encode(item) for item in items]

    def _encode(self, item: Item) -> Features:
        answer = self.task.answer_template.format(answer=self.task.reference(item))
        prompt, ids = self._split(self._prompt(item, len(self.tokenizer(answer).input_ids) + 1), answer)
        whole = [*ids, self.tokenizer.eos_token_id]
        kept = whole[: max(self.task.max_length - len(prompt), 1)]
        if len(kept) < len(whole):
            self._shortened.add(item.id)
        return {"prompt": prompt, "answer": kept, "length": len(prompt) + len(kept)}

    def _split(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokenise prompt and answer; a chat template ends where the answer begins, and has the special tokens."""
        if not self.task.chat:
            return self.continuation(prompt, answer)
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer.strip())]
        return list(ids[0]), list(ids[1])

    def _prompt(self, item: Item, reserve: int) -> str:
        """Return the prompt cut to leave room for `reserve` tokens, at least half of ``task.max_length``."""
        budget = self.task.max_length - min(reserve, self.task.max_length // 2)
        if not self.task.chat:
            return self.prompt(item, budget)
        frame = self._chat_frame("\0")
        content = self.prompt(item, max(budget - len(self.tokenizer(frame).input_ids), 1))
        return frame.replace("\0", content)

    def _chat_frame(self, content: str) -> str:
        messages = [{"role": "system", "content": self.task.system}] if self.task.system else []
        messages.append({"role": "user", "content": content})
        return cast(str, self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def questions(self, items: Sequence[Item]) -> list[tuple[Item, list[int]]]:
        """Tokenise the prompts as in training, without a look at the answers."""
        return [(item, self._split(self._question(item), "")[0]) for item in items]

    def _question(self, item: Item) -> str:
        return self._prompt(item, self.task.max_new_tokens)

    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Generate an answer for each prompt."""
        groups: dict[int, list[int]] = defaultdict(list)
        for index, (_, prompt) in enumerate(questions):
            groups[len(prompt)].append(index)
        written: dict[int, str] = {}
        batches = [
            groups[length][start : start + batch_size]
            for length in sorted(groups, reverse=True)
            for start in range(0, len(groups[length]), batch_size)
        ]
        for part in share(batches):
            written.update(zip(part, self._generate(model, [questions[index][1] for index in part]), strict=True))
            advance(len(part))
        written = joined(written)
        return [self._outcome(item, written[index]) for index, (item, _) in enumerate(questions)]

    def _generate(self, model: nn.Module, prompts: list[list[int]]) -> list[str]:
        ids = torch.tensor(prompts)
        batch = to_device({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, model)
        with warnings.catch_warnings():
            # PEFT says so at every token under prompt tuning, whose virtual tokens take positions of their own.
            warnings.filterwarnings("ignore", "Position ids are not supported")
            output = cast(Any, model).generate(
                **batch,
                max_new_tokens=self.task.max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        return [
            text.strip() for text in self.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        ]

    def _outcome(self, item: Item, text: str) -> Outcome:
        return Outcome(item.id, text, str(item.target), self.task.grade(text, str(item.target)))

    def show(self, item: Item) -> str:
        """Return the prompt as the model sees it."""
        return self._question(item)
