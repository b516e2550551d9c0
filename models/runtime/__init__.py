"""Precision while a network is deployed: levels, a policy, a guardrail and an audit log.

`controller.PrecisionController` wraps several static allocations of one network, its levels. A
policy says which of them answers an input, a guardrail goes back to the highest when the lower ones
are not what they were measured to be, and an append-only log says when and why.
"""
