"""PSNR, SSIM and PSNR-B under each protocol's crop and colour space."""

from dynres.metrics.image import PROTOCOLS, SR_PROTOCOLS, border, minimum_side, psnr, psnr_b, ssim

__all__ = ["PROTOCOLS", "SR_PROTOCOLS", "border", "minimum_side", "psnr", "psnr_b", "ssim"]
