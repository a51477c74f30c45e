"""One network, for one size and one routing, as a file for other runtimes: ONNX, or torch.export's pt2."""

from dynres.export.files import export_onnx, export_program
from dynres.export.runtime import Exported, Quantised

__all__ = ["Exported", "Quantised", "export_onnx", "export_program"]
