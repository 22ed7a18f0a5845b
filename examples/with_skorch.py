"""skorch: a scikit-learn classifier around a PyTorch module, with the loss as its criterion.

python examples/with_skorch.py

`equilog.sklearn.LogBalancedClassifier` is a classifier ready made; this is for those who have a skorch net already.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier

from equilog import LogBalancedCrossEntropyLoss


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def train(epochs: int = 3) -> NeuralNetClassifier:
    """Train on batches of 300 rows."""
    images, digits = load_digits(return_X_y=True)
    net = NeuralNetClassifier(
        network(),
        criterion=LogBalancedCrossEntropyLoss,
        criterion__num_classes=10,
        criterion__pool="batch",
        criterion__prior="auto",
        max_epochs=epochs,
        batch_size=300,
        lr=2.0,
        train_split=None,
        iterator_train__shuffle=False,
        verbose=0,
    )
    return net.fit((images / 16).astype(np.float32), digits)


def main() -> None:
    for row in train().history:
        print(f"epoch {row['epoch']}  loss {row['train_loss']:.4f}")


if __name__ == "__main__":
    main()
