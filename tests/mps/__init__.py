"""A stand-in for CUDA MPS on machines without a GPU, and what is proved with it."""
