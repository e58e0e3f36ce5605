"""RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) for a stream of another type than its gains."""

import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """As torch's, with the gains rounded to the type of x as every other weight is: torch has no kernel for two types.
    Means of squares are float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
