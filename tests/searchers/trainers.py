"""A strategy that trains, a few steps an epoch; a toy to try what is around such strategies on."""

import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bitfront.models.trained import TrainedNetwork
from bitfront.searchers import Problem, Searcher

LOG = "TRAINED_EPOCHS"
"""The environment variable with a file that seeds and epochs are written to, as they begin."""


def trained_network(model, layers, allocation) -> TrainedNetwork:
    """Return a network with the weights of a float model and plain ranges, as if trained so."""
    arrays = {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
    for layer, bits in zip(layers, allocation.weights, strict=True):
        weight = arrays[f"state/{layer.name}.weight"]
        largest = np.abs(weight).reshape(len(weight), -1).max(1)
        arrays[f"input/{layer.name}"] = np.array([-1, 3], np.float32)
        arrays[f"scale/{layer.name}"] = (largest / (2 ** (bits - 1) - 0.5)).astype(np.float32)
    return TrainedNetwork(allocation, {name: np.array(array) for name, array in arrays.items()})


@dataclass
class Stepping(Searcher):
    """Trains the float network an epoch at a time, and measures it at a width after each.

    Attributes:
        epochs: How often.
        fails_after: Epochs after which it raises; never if 0.
    """

    summary: ClassVar[str] = "Trains a few steps at a time."
    trains: ClassVar[bool] = True

    epochs: int = 3
    fails_after: int = 0

    def search(self, problem: Problem) -> None:
        import torch
        from torch.nn.functional import cross_entropy

        model, images = problem.float_model(), problem.training()
        start = 0
        if problem.saved:
            start = problem.saved["epoch"]
            arrays = {k: v for k, v in problem.saved.items() if k != "epoch"}
            model.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for epoch in range(start, self.epochs):
            if LOG in os.environ:
                with open(os.environ[LOG], "a") as file:
                    print(problem.seed, epoch, file=file)
            x, labels = images.batch(problem.rng.permutation(len(images))[:32])
            optimizer.zero_grad()
            cross_entropy(model(x), labels).backward()
            optimizer.step()
            problem.charge(forward=len(x), backward=len(x))
            if epoch + 1 == self.fails_after:
                raise RuntimeError("the gradients are not finite")
            allocation = problem.space.uniform((8, 6, 4)[epoch % 3])
            network = trained_network(model, problem.space.layers, allocation)
            measured = problem.evaluate_trained(network)
            problem.log("epoch", allocation, accuracy=measured.accuracy)
            state = {name: value.numpy() for name, value in model.state_dict().items()}
            problem.save({"epoch": epoch + 1, **state})


class Telling(Stepping):
    """Tells which GPUs its process was given."""

    def search(self, problem: Problem) -> None:
        problem.findings["gpus"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        super().search(problem)


class Asking(Searcher):
    """Does not train, and tells the same."""

    def search(self, problem: Problem) -> None:
        problem.findings["gpus"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        problem.evaluate([problem.space.uniform(8)])
