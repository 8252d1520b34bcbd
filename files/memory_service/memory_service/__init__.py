"""The data plane of the memory control plane."""
