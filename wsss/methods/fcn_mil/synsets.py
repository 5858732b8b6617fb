"""Which of ImageNet's 1,000 classes belong to a class of PASCAL VOC: our table, the paper's is not published."""

from __future__ import annotations

from collections.abc import Mapping

SYNSETS: Mapping[str, tuple[int, ...]] = {
    "aeroplane": (404, 895),
    "bicycle": (444, 671, 870, 880),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "boat": (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914),
    "bottle": (440, 720, 737, 898, 907),
    "bus": (654, 779, 874),
    "car": (436, 468, 511, 609, 627, 656, 661, 751, 817),
    "cat": (281, 282, 283, 284, 285),
    "chair": (423, 559, 765, 857),
    "cow": (345,),
    "diningtable": (532,),
    "dog": tuple(range(151, 269)),
    "horse": (339,),
    "motorbike": (665, 670),
    "pottedplant": (738,),
    "sheep": (348, 349),
    "sofa": (831,),
    "train": (466, 547, 565, 705, 820),
    "tvmonitor": (664, 782, 851),
}
"""VOC class name to indices into the 1,000 classes, in the usual order of ILSVRC 2012; "person" has none.

An ImageNet class belongs to a VOC class whose annotation guidelines would label it so: ships are boats, tricycles and
unicycles are bicycles, vans are cars, but trucks, emergency vehicles, stools and trams are nothing.
"""
