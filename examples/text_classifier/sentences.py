"""A text classifier with its own metric: the trainable that `sentences.yaml` names.

cd examples/text_classifier
samtune run sentences.yaml
"""

import random

import torch
from torch import nn

import samtune
from samtune.optimizers import SAM, GradientOracle

GOOD = ("fine", "good", "great", "lovely", "warm")
BAD = ("awful", "bad", "cold", "dull", "poor")
OTHER = ("the", "film", "was", "a", "very", "food", "and", "it", "is", "place")
WORDS = {word: number for number, word in enumerate((*GOOD, *BAD, *OTHER))}


def sentences(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return word numbers, shape (count, 8), and labels; one sentence in five is positive."""
    rng = random.Random(seed)
    rows, labels = [], []
    for _ in range(count):
        positive = rng.random() < 0.2
        words = rng.choices(OTHER, k=6) + rng.choices(GOOD if positive else BAD, k=1)
        words += rng.choices((*GOOD, *BAD), k=1)
        rng.shuffle(words)
        rows.append([WORDS[word] for word in words])
        labels.append(int(positive))
    return torch.tensor(rows), torch.tensor(labels)


def f1(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the F1 score of the positive class."""
    with torch.no_grad():
        found = model(x).argmax(dim=1)
    hits = int(((found == 1) & (y == 1)).sum())
    return 2 * hits / max(int((found == 1).sum()) + int((y == 1).sum()), 1)


class Classifier(nn.Module):
    """The mean of word vectors, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(len(WORDS), 16)
        self.head = nn.Linear(16, 2)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.vectors(words).mean(dim=1))


def classify(config: samtune.TrialConfig) -> None:
    """Train one trial; report F1 on validation after each epoch, on test only with a permit."""
    x, y = sentences(400, config.seeds.split)
    train, val, test = slice(0, 200), slice(200, 300), slice(300, 400)
    model = Classifier()
    base = torch.optim.SGD(model.parameters(), lr=float(config.knobs["lr"]), momentum=0.9)
    optimizer = SAM(base, rho=float(config.knobs["rho"]))
    loss_fn = nn.CrossEntropyLoss(reduction="none")
    for epoch in range(1, int(config.budget.per_trial) + 1):
        for part in torch.randperm(200).split(50):
            optimizer.step(GradientOracle(model, x[train][part], y[train][part], loss_fn))
        metrics = {"f1": f1(model, x[val], y[val])}
        if config.test_permit is not None and epoch == config.budget.per_trial:
            metrics["test_f1"] = f1(model, x[test], y[test])
        samtune.report(epoch=epoch, **metrics)
