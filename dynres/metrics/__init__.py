"""PSNR and SSIM under each protocol's crop and colour space."""

from dynres.metrics.image import PROTOCOLS, border, minimum_side, psnr, ssim

__all__ = ["PROTOCOLS", "border", "minimum_side", "psnr", "ssim"]
