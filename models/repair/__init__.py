"""Repairs: what is done to weights and biases so that quantizing them disturbs the network less."""
