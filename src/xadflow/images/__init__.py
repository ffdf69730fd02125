"""The one road from a file's bytes to pixels, and from pixels and maps to the 8-bit pictures that are stored.

reading: bytes of a plain file, compared with the hash they must have; decoding: upright pixels; tensors: a detector's
input; pictures: PNG, and maps on 8 bits. What would cost much time or memory (costs, bounds) is decoded in a child that
can be ended (children, child).
"""

from xadflow.images.decoding import decode_image, decode_mask
from xadflow.images.pictures import decode_png, encode_png, quantise_map, restore_map, stored_png, to_picture
from xadflow.images.reading import IMAGE_SUFFIXES, ImageLimits, read_file
from xadflow.images.tensors import (
    VOID,
    as_float,
    labels_to_input,
    load_input,
    mask_to_input,
    on_levels,
    to_input,
    to_levels,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "VOID",
    "ImageLimits",
    "as_float",
    "decode_image",
    "decode_mask",
    "decode_png",
    "encode_png",
    "labels_to_input",
    "load_input",
    "mask_to_input",
    "on_levels",
    "quantise_map",
    "read_file",
    "restore_map",
    "stored_png",
    "to_input",
    "to_levels",
    "to_picture",
]
