"""Train a small head on a frozen backbone, in plain torch, with images that medssl reads."""

# ruff: noqa: T201 # a script that talks

import torch
from medssl_data import load_dataset
from medssl_models import create_model
from torch import nn

images = load_dataset("phantom:chest-xray,count=60")
backbone = create_model("random_r18")  # or "moco-v2", "./a-folder-that-convert-wrote", "timm:..."
picture = backbone.preprocessing.transform()  # torchvision v2; belongs to the model

x = torch.stack([picture(images[i][0]) for i in range(len(images))])
y = torch.tensor(images.labels)
features = torch.cat([backbone(batch) for batch in x.split(20)])  # frozen: no gradients
print("features", tuple(features.shape), "gradients", features.requires_grad)

head = nn.Linear(backbone.feature_dim, len(images.classes))
nn.init.zeros_(head.weight)
nn.init.zeros_(head.bias)
optimiser = torch.optim.Adam(head.parameters(), lr=0.001)
for step in range(60):
    loss = nn.functional.cross_entropy(head(features), y)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step % 20 == 0:
        print(f"step {step}, loss {loss:.2f}")
print("layers", ", ".join(backbone.layers))
