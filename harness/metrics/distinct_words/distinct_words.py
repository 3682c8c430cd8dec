"""Distinct words: how varied all answers together are. It is no mean over items, so it has no interval."""

import datasets
import evaluate


class DistinctWords(evaluate.Metric):
    """Distinct words / all words of all answers (distinct-1, Li et al. 2016, section 5.2)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The share of distinct words in all answers; a model that repeats itself has a low one.",
            citation="Li et al. (2016), A Diversity-Promoting Objective Function, arXiv:1510.03055",
            inputs_description="predictions, references: texts; references are not read",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        words = [word for answer in predictions for word in answer.casefold().split()]
        return {"distinct_words": len(set(words)) / max(len(words), 1)}
