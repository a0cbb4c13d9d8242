"""CUDA MPS: a daemon for each GPU, as a child of the host or, in containers, as a service of its own."""
