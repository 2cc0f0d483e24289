"""Small autoregressive policies over all sequences up to a horizon: their shapes, and the tree that enumerates them."""
