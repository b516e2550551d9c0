"""bitfront: search and fair comparison of mixed-precision quantization.

The packages, lowest floor first (imports run only downwards):

- ``bitfront.spaces``: layers, bit-width spaces, allocations, measurements, fronts
- ``bitfront.energy``: hardware energy tables and the pricing of allocations
- ``bitfront.models``: model zoo, data, profiling, quantized evaluation, training
- ``bitfront.searchers``: the strategies, and the suite every strategy passes
- ``bitfront.studies``: comparative studies, their execution, tracking and the CLI
"""

__version__ = "0.1.0"
