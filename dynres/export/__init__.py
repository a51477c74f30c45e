"""One network, for one size and one routing, as a file for other runtimes: ONNX, or torch.export's pt2."""

from dynres.export.files import Exported, export_onnx, export_program

__all__ = ["Exported", "export_onnx", "export_program"]
