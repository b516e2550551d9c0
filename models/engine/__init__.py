"""Running a `QuantizedModel` with integer kernels."""
