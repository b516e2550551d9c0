"""Training networks whose layers are quantized, with bit-widths that may be learned meanwhile.

`quantize` has the gradients, `ranges` what a quantizer learns besides, `network` a network to
train, `trainer` the loop, `widths` bit-widths as parameters, `coreset` the choice of samples.
"""
