"""Every restored image as a file, for mode=predict."""

from __future__ import annotations

from PIL import Image
from pytorch_lightning import Trainer

from dynres.callbacks.common import EvaluationWatcher, run_folder
from dynres.contracts import Evaluation
from dynres.report import Record


class Predictions(EvaluationWatcher):
    """Write predictions/DATASET/LABEL/NAME.png (8 bits, RGB or gray) into the run folder as images are restored."""

    def watch(self, trainer: Trainer, evaluation: Evaluation, item: Record) -> None:
        path = run_folder(trainer) / "predictions" / item.dataset / item.label / f"{item.image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = evaluation.restoration.image[0].mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
