"""SAM in a plain PyTorch loop with a closure: no Ray, no sweep, only torch.

python examples/closure_loop.py
"""

import torch
from torch import nn

from samtune.optimizers import SAM

torch.manual_seed(0)
x = torch.randn(256, 2)
y = (x.prod(dim=1) > 0).long()

model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), rho=0.05)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
loss_fn = nn.CrossEntropyLoss()

for _ in range(20):
    for part in torch.randperm(len(x)).split(64):

        def closure(part: torch.Tensor = part) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_fn(model(x[part]), y[part])
            loss.backward()
            return loss

        optimizer.step(closure)
    schedule.step()

accuracy = (model(x).argmax(dim=1) == y).float().mean().item()
print(f"accuracy {accuracy:.3f}")
