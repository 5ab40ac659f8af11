"""SAM in a Hugging Face Trainer.

pip install transformers accelerate
python examples/hf_trainer.py
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from samtune.optimizers import SAM


class TrainerSAM(SAM):
    """SAM for a Trainer, which calls `step()` again after `training_step` has made the step."""

    def step(self, closure: Any = None) -> Any:
        """Make a step with a closure, and nothing without one."""
        return None if closure is None else super().step(closure)


class SAMTrainer(Trainer):
    """A Trainer whose optimizer calls the forward and backward pass as often as it needs."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        base = torch.optim.AdamW(self.model.parameters(), lr=self.args.learning_rate)
        self.optimizer = TrainerSAM(base, rho=0.05)
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: Any, *rest: Any) -> Tensor:
        passes = super().training_step
        return self.optimizer.optimizer.step(lambda: passes(model, inputs, *rest))


class Points(Dataset):
    """Points of the plane; the class is the sign of the product of their coordinates."""

    def __init__(self) -> None:
        self.x = torch.randn(256, 2)
        self.y = (self.x.prod(dim=1) > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Classifier(nn.Module):
    """A small net with the outputs that a Trainer expects."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = nn.functional.cross_entropy(logits, labels)
        return found


def main() -> None:
    """Train for 20 epochs and print the accuracy."""
    torch.manual_seed(0)
    points, model = Points(), Classifier()
    arguments = TrainingArguments(
        output_dir="trainer",
        num_train_epochs=20,
        per_device_train_batch_size=64,
        learning_rate=0.03,
        # The gradients of the last pass are clipped by SAM's own knob, `clip`.
        max_grad_norm=0.0,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SAMTrainer(model=model, args=arguments, train_dataset=points)
    trainer.train()
    accuracy = (model(points.x)["logits"].argmax(dim=1) == points.y).float().mean().item()
    print(f"steps {trainer.state.global_step}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
