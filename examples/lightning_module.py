"""ASAM in Lightning's automatic optimization.

pip install lightning
python examples/lightning_module.py
"""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from samtune.optimizers import ASAM


class Classifier(lightning.LightningModule):
    """A small net; the only line about samtune is in `configure_optimizers`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = ASAM(torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9), rho=0.5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def main() -> None:
    """Train for 20 epochs and print the accuracy."""
    lightning.seed_everything(0, verbose=False)
    x = torch.randn(256, 2)
    y = (x.prod(dim=1) > 0).long()
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True))
    accuracy = (model.net(x).argmax(dim=1) == y).float().mean().item()
    print(f"steps {trainer.global_step}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
