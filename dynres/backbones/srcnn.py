"""SRCNN (Dong et al., ECCV 2014 and TPAMI 2016, Fig. 2): three convolutions on the bicubic enlargement.

Patch extraction and non-linear mapping are here; reconstruction is the head, SameSize(kernel=5, skip=none). The paper
shrinks the image by the border of its convolutions, here zeros are padded. It draws its weights with a standard
deviation of 0.001, which takes days to train: here they are He et al.'s.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.plain import he_normal
from dynres.layers.widths import check_widths


class SRCNN(Backbone):
    """Patches to features (Eq. 1), features to features (Eq. 2).

    Args:
        channels: n1, of the patches' features.
        mapped_channels: n2, of the features that the image is reconstructed from.
        patch_kernel: f1, side of a patch.
        mapping_kernel: f2: 5 in the better network (9-5-5), 1 in the first paper's (9-1-5).
        image_channels: 1 for luma, as published; 3 for colour.

    Raises:
        ValueError: a width below 1 or an even kernel.
    """

    def __init__(
        self,
        channels: int = 64,
        mapped_channels: int = 32,
        patch_kernel: int = 9,
        mapping_kernel: int = 5,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        check_widths("SRCNN", channels=channels, mapped_channels=mapped_channels, image_channels=image_channels)
        for name, kernel in (("patch_kernel", patch_kernel), ("mapping_kernel", mapping_kernel)):
            if kernel < 1 or kernel % 2 == 0:
                raise ValueError(f"SRCNN needs an odd {name} of at least 1, got {kernel}")
        self.conv1 = nn.Conv2d(image_channels, channels, patch_kernel, padding=patch_kernel // 2)
        self.conv2 = nn.Conv2d(channels, mapped_channels, mapping_kernel, padding=mapping_kernel // 2)
        he_normal(self)
        self.out_channels, self.image_channels = mapped_channels, image_channels
        self.halo = patch_kernel // 2 + mapping_kernel // 2

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(F.relu(self.conv2(F.relu(self.conv1(image)))), image)
