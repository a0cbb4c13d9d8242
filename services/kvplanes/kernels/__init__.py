"""Triton kernels of the planes. Each stands beside the maths in ``services.kvplanes.reference`` that it must give."""
