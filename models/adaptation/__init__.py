"""What may happen to a network for one allocation before that is measured.

`batch_norm.BatchNorms` estimates the statistics of batch norms again, `fine_tune.fine_tune` trains
weights and biases.
"""
