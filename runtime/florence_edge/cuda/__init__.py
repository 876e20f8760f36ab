"""A thin layer over CUDA: memory, one stream, graphs and small kernels.

`device.open_cuda` opens a GPU. No package of CUDA's is imported before that. All of it was tested
over a scripted CUDA; none of it has run on a GPU yet.
"""
