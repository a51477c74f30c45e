"""Train with importance scores, cut, fine-tune (Lightweight SwinIR, Sec. 3.2.2), in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynres.checkpoint_io import read_checkpoint, restorer_state
from dynres.contracts import PatchBatch, QueryBatch
from dynres.errors import UserError
from dynres.interop.weights import describe
from dynres.methods.base import Inference
from dynres.methods.phases import PhasedTraining
from dynres.methods.restoration import check_loss, pixel_loss
from dynres.pretrained import trusted
from dynres.pruning import channels_in, check_ranking, cut, factors, fresh_scores, ranked, scored
from dynres.restorer import Restorer


class PruneTraining(PhasedTraining):
    """L + gamma ||a||_1 on a network whose inner channels carry scores a; then L alone on what is left of it.

    A score multiplies each hidden channel of the MLPs, or of the attentions too (`dynres.pruning`). After the first
    phase the channels of the lowest |a| are cut, their scores folded into the weights, and the smaller network is
    trained on. checkpoints/trained.ckpt is the network before the cut, with its scores.

    The paper prints gamma and the rates. Where it is silent: ||a|| is the sum of |a|; ranking is global, MLPs and
    attentions apart, as its remark on where pruning happens implies; heads stay equally wide; scores begin at 1; half
    of the steps are training and half fine-tuning.

    Args:
        restorer: of blocks whose channels can be cut (SwinIR, MSTB, TADT, FlexIR, CAT), as it starts (`ckpt`, or new).
        learning_rate, milestones, gamma, seed, inference: see RestorationTraining; `gamma` is the decay of the rate.
        rate: share of the channels that is cut, in (0, 1).
        sparsity: the paper's gamma, weight of ||a||_1, at least 0.
        scope: "mlp", or "mlp_msa" for the channels of the attentions too.
        ranking: "global" or "layer", see `dynres.pruning.ranked`.
        training: share of the steps before the cut, in (0, 1).
        score_rate: learning rate of the scores over that of the weights.
        finetuning_rate: learning rate after the cut over that before it.
        trained: trained.ckpt of another run: its network and scores are cut, and all steps are fine-tuning.
        loss, epsilon: "l1" (SwinIR's for super-resolution), "charbonnier" or "l2"; see RestorationPatches.

    Raises:
        ValueError: an option out of its range, or a network whose channels cannot be cut.
        UserError: from `prepare`: a `trained` that is no such file or of another network, a rate that leaves nothing.
    """

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        milestones: Sequence[float],
        gamma: float,
        seed: int = 0,
        inference: Inference | None = None,
        rate: float = 0.25,
        sparsity: float = 1e-5,
        scope: str = "mlp",
        ranking: str = "global",
        training: float = 0.5,
        score_rate: float = 1.0,
        finetuning_rate: float = 1.0,
        trained: str | None = None,
        loss: str = "l1",
        epsilon: float = 1e-3,
    ) -> None:
        if not 0 < training < 1:
            raise ValueError(f"training must lie in (0, 1), got {training}: 0.5 cuts after half of the steps")
        first = 0.0 if trained else training
        super().__init__(restorer, learning_rate, milestones, gamma, seed, inference, first, "trained", finetuning_rate)
        if not sparsity >= 0 or not score_rate > 0:
            raise ValueError(f"sparsity must be at least 0 and score_rate above 0, got {sparsity} and {score_rate}")
        check_loss(loss, epsilon)
        check_ranking(rate, ranking)
        self.rate, self.sparsity, self.scope, self.ranking = rate, sparsity, scope, ranking
        self.score_rate, self.loss, self.epsilon, self.trained = score_rate, loss, epsilon, trained
        self.channels = channels_in(restorer, scope)
        self.scores = nn.ParameterList()

    def prepare(self) -> None:
        # Not before: where nothing is trained, the network is what is measured, perhaps a pruned one.
        self.scores = fresh_scores(self.channels)
        try:
            ranked(self.channels, list(self.scores), self.rate, self.ranking)  # before the training, not at its end
        except ValueError as error:
            raise UserError(f"method: {error}") from error
        if self.trained:
            self._load(self.trained)
            self._enter(self.second())
        else:
            for inner, score in zip(self.channels, self.scores, strict=True):
                scored(inner, score)

    def _load(self, path: str) -> None:
        """Network and scores as a run ended its training with them."""
        network, scores = _read(Path(path))
        theirs, ours = network.description, self.restorer.description
        if theirs != ours:
            raise UserError(
                f"method.trained={path} is {describe(theirs or {})}, the configuration asks for "
                f"{describe(ours or {})}: take backbone, upsampler, pixels and image_skip of its run"
            )
        if [len(score) for score in scores] != [len(score) for score in self.scores]:
            raise UserError(f"method.trained={path} has scores for other channels: take method.scope of its run")
        self.restorer = network
        self.scores = nn.ParameterList(scores)
        self.channels = channels_in(network, self.scope)

    # ---------------------------------------------------------------------------------------------------- the cut

    def second(self) -> Restorer:
        scores = list(self.scores)
        return cut(self.restorer, self.channels, ranked(self.channels, scores, self.rate, self.ranking), scores)

    def companions(self) -> dict[str, Restorer]:
        """The network as it was trained, with its scores, and what the cut left of that; none without their file."""
        path = Path(self.trained or Path(self.trainer.default_root_dir) / "checkpoints" / f"{self.first_name}.ckpt")
        if self.phase == 1 or not path.is_file():
            return {}
        whole, scores = _read(path)
        channels = channels_in(whole, self.scope)
        left = cut(whole, channels, ranked(channels, scores, self.rate, self.ranking), scores)
        state = whole.state_dict()
        whole.load_state_dict(state | {n: state[n] * f for n, f in factors(whole, channels, scores).items()})
        return {"before the cut": whole, "cut": left}

    def on_second(self) -> None:
        self.scores, self.channels = nn.ParameterList(), []  # they went with the network that carried them

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.phase == 1:  # so that the file restores images as the network with its scores does
            checkpoint["factors"] = factors(self.restorer, self.channels, list(self.scores))

    # ---------------------------------------------------------------------------------------------------- steps

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        if self.phase == 1:
            groups.append({"params": list(self.scores), "lr": self.initial_rate * self.score_rate})
        return groups

    def training_step(self, batch: PatchBatch | QueryBatch, batch_idx: int) -> dict[str, Any]:
        prediction, target, routing = self.predicted(batch)
        loss = pixel_loss(self.loss, prediction, target, self.epsilon)
        parts = {f"train/{self.loss}": loss.detach()}
        if self.phase == 1:
            size = sum(score.abs().sum() for score in self.scores)
            loss = loss + self.sparsity * size
            parts["train/mean_score"] = size.detach() / sum(map(len, self.scores))
        return self.published(loss, parts, routing, batch.scale)


def _read(path: Path) -> tuple[Restorer, list[Tensor]]:
    """The network of a trained.ckpt, without its scores, and these."""
    checkpoint = read_checkpoint(path)
    scores = [value for name, value in checkpoint["state_dict"].items() if name.startswith("scores.")]
    if not scores:
        raise UserError(f"method.trained={path} holds no scores: give a checkpoints/trained.ckpt of method=prune")
    network = Restorer.from_description(trusted(checkpoint.get("dynres"), path))
    network.load_state_dict(restorer_state(checkpoint))
    return network, scores
