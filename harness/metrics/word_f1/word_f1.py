"""Word F1: how many words an answer shares with its reference, the mean over items."""

from collections import Counter

import datasets
import evaluate


class WordF1(evaluate.Metric):
    """F1 = 2 |P ∩ R| / (|P| + |R|), words of prediction P and reference R (Rajpurkar et al. 2016, section 6.1)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The mean F1 of the words that an answer shares with its reference, case folded.",
            citation="Rajpurkar et al. (2016), SQuAD, arXiv:1606.05250",
            inputs_description="predictions, references: texts",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        found = [f1(one.casefold().split(), other.casefold().split()) for one, other in pairs]
        return {"word_f1": sum(found) / len(found)}


def f1(said: list[str], asked: list[str]) -> float:
    """Return the F1 of two lists of words, 1 where both are empty."""
    shared = sum((Counter(said) & Counter(asked)).values())
    return 2 * shared / (len(said) + len(asked)) if said or asked else 1.0
