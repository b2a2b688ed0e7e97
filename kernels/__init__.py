"""Triton kernels of hcnn_fast, installed as `hcnn_fast.kernels`; none yet."""
