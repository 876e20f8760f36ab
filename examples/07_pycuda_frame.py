"""A frame that PyCUDA holds on the GPU: it is read there, and nothing of it comes to the host.

pip install pycuda                      # on a Jetson it builds against JetPack's CUDA
florence-build BUNDLE                   # once, on this device
FLORENCE_CUDA=pycuda python examples/07_pycuda_frame.py BUNDLE [PICTURE]

FLORENCE_CUDA=pycuda lets PyCUDA allocate for the model, too; without it they share the device's
primary context all the same. A camera would put each frame into `frame` by itself (Argus, V4L2 with
CUDA, NVDEC); here a picture stands in for it. It has not been run on a GPU yet.
"""

import sys

import numpy as np
import pycuda.autoprimaryctx  # makes current the context that TensorRT uses
import pycuda.gpuarray
from PIL import Image

from florence_edge import Florence2, GenerationOptions


def main(bundle: str, picture: str | None = None) -> None:
    """Encode one frame and ask two questions about it."""
    image = Image.new("RGB", (1280, 720), "red")
    if picture:  # these formats alone: Pillow has decoders that start programs
        image = Image.open(picture, formats=["JPEG", "PNG", "WEBP"]).convert("RGB")
    frame = pycuda.gpuarray.to_gpu(np.asarray(image))  # [height, width, 3] uint8, RGB

    options = GenerationOptions(num_beams=1, max_new_tokens=64)  # a robot has no time for more
    with Florence2.load(bundle, device="tensorrt") as model:
        view = model.encode(frame, options=options)  # from here on, `frame` may be overwritten
        print(view.caption().text)
        for region in view.detect().regions:
            print(f"{region.label} {region.score:.2f} {region.box}")


if __name__ == "__main__":
    main(*sys.argv[1:])
