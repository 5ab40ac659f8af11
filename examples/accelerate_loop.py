"""SAM with Hugging Face accelerate.

pip install accelerate
python examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from samtune.optimizers import SAM

torch.manual_seed(0)
x = torch.randn(256, 2)
y = (x.prod(dim=1) > 0).long()

accelerator = Accelerator(cpu=True)
model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), rho=0.05)
loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

for _ in range(20):
    for inputs, targets in loader:

        def closure(
            inputs: torch.Tensor = inputs, targets: torch.Tensor = targets
        ) -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            return loss

        optimizer.step(closure)

accuracy = (model(x).argmax(dim=1) == y).float().mean().item()
accelerator.print(f"accuracy {accuracy:.3f}")
