"""Precision that follows the input: widths chosen by channel while a network runs."""
