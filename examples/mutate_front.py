"""A complete strategy: random changes to the best allocations found so far."""

from dataclasses import dataclass

from bitfront.searchers import Problem, Searcher, register


@register("mutate_front")
@dataclass(frozen=True, kw_only=True)
class MutateFront(Searcher):
    """Start from uniform widths, then change members of the current front at random."""

    summary = "Random changes to members of the current front."
    batch: int = 8

    def search(self, problem: Problem) -> None:
        """Ask until the budget is spent; `problem.evaluate` ends the search by itself."""
        problem.evaluate([problem.space.uniform(bits) for bits in (8, 6, 4)])
        while True:
            pool = problem.front() or problem.history
            parents = [pool[i].allocation for i in problem.rng.integers(len(pool), size=self.batch)]
            problem.evaluate([problem.space.mutate(parent, problem.rng) for parent in parents])
