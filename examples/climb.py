"""A strategy that shows how its search goes, and goes on where it was interrupted."""

from dataclasses import dataclass

from bitfront.searchers import Problem, Searcher, register
from bitfront.spaces import BitAllocation


@register("climb")
@dataclass(frozen=True, kw_only=True)
class Climb(Searcher):
    """Change the best allocation so far at random, and keep what is better."""

    summary = "Random changes to the best allocation so far."
    price: float = 0.5

    def search(self, problem: Problem) -> None:
        """Climb until the budget is spent."""
        state = problem.saved or {"best": problem.space.uniform(8).to_dict(), "reward": -1.0}
        while True:
            best = BitAllocation.from_dict(state["best"])
            allocation = problem.space.mutate(best, problem.rng)
            (measured,) = problem.evaluate([allocation])
            reward = measured.accuracy - self.price * problem.price(allocation)
            if reward > state["reward"]:
                state = {"best": allocation.to_dict(), "reward": reward}
            problem.log("step", allocation, reward=reward, accuracy=measured.accuracy)
            problem.save(state)
