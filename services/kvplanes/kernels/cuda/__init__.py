"""The decode step in CUDA C++, compiled by NVRTC when an engine starts. Triton's kernels serve where this cannot."""
