"""A FlexIR filled from a SwinIR, its authors' file or ours: the last block then is that SwinIR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynres.build import build_restorer
from dynres.contracts import Exit, Task
from dynres.errors import UserError
from dynres.interop.official import to_official
from dynres.interop.weights import load_pretrained, load_weights
from dynres.restorer import Restorer
from tests.golden.fill import assert_parity
from tests.golden.parity import rebuilt

BODY: dict[str, Any] = {"embed_dim": 8, "depths": [2, 1], "heads": 2, "window": 4}
PIXELS = {"mean": [0.4488, 0.4371, 0.4040], "factor": 1.0}


def flexir(pixels: dict[str, Any] = PIXELS, **options: Any) -> Restorer:
    backbone = {"_target_": "dynres.backbones.flexir.FlexIR", **BODY, **options}
    head = {"image_channels": backbone.get("image_channels", 3), "scale": backbone.get("scale", 1)}
    upsampler = {"_target_": "dynres.upsamplers.same_size.AsImage", **head}
    return build_restorer({"backbone": backbone, "upsampler": upsampler, "image_skip": False, "pixels": pixels}).eval()


def swinir(upsampler: str = "same_size.SameSize", image_skip: bool = False, **options: Any) -> Restorer:
    """Of this suite, every weight of which matters; `scale` and `skip` are of its head, the rest of its body."""
    torch.manual_seed(1)
    head = {key: options.pop(key) for key in ("scale", "skip", "kernel") if key in options}
    body = {"out_channels": None if upsampler == "same_size.SameSize" else 64} | BODY | options
    made = build_restorer(
        {
            "backbone": {"_target_": "dynres.backbones.swinir.SwinIR", **body},
            "upsampler": {"_target_": f"dynres.upsamplers.{upsampler}", **head},
            "image_skip": image_skip,
            "pixels": PIXELS,
        }
    )
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made.eval()


def saved(path: Path, restorer: Restorer, form: str) -> Path:
    if form == "official":
        torch.save({"params": to_official(restorer)}, path)
    else:
        weights = {f"restorer.{key}": value for key, value in restorer.state_dict().items()}
        torch.save({"state_dict": weights, "dynres": {"network": restorer.description}, "callbacks": {}}, path)
    return path


@torch.no_grad()
def restored(restorer: Restorer, image: Tensor, exit: Exit | None = None) -> Tensor:
    """In the network's own range, not clamped."""
    features = restorer.backbone(restorer.pixels.normal(image), Task(exit=exit))
    scale = restorer.upsampler.scale or 1
    return restorer.upsampler.decode(features, (scale * image.shape[-2], scale * image.shape[-1]))


@pytest.mark.parametrize(("model", "channels", "window"), [("swinir_dn_color", 3, 8), ("swinir_jpeg_car_gray", 1, 7)])
def test_filled_from_the_authors_file_the_full_size_is_their_network(
    tmp_path: Path, model: str, channels: int, window: int
) -> None:
    theirs, reference = rebuilt(model)
    torch.save(reference.weights(), tmp_path / "theirs.pth")
    assert theirs.description is not None
    ours = flexir(
        theirs.description["pixels"],
        image_channels=channels, window=window, embed_dim=180, depths=[6] * 6, heads=6,
    )  # fmt: skip
    load_weights(ours, tmp_path / "theirs.pth")
    case = next(case for case in reference.facts["cases"] if "." not in case)
    image = reference.array(f"{case}.input")
    span = 255.0 if image.max() > 2 else 1.0
    full, expected = (restored(network, image / span) for network in (ours, theirs))
    torch.testing.assert_close(full, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())
    assert_parity(span * ours.pixels.colours(full, 1), reference.array(f"{case}.output"), model)


@pytest.mark.parametrize("form", ["official", "ours"])
@pytest.mark.parametrize(
    ("options", "network"),
    [
        ({}, {}),
        ({"resi_connection": "3conv"}, {"resi_connection": "3conv"}),
        ({"upsampler": "pixelshuffle.NearestConv", "scale": 2}, {"scale": 2}),
        ({"upsampler": "pixelshuffle.NearestConv", "scale": 4}, {"scale": 4}),
    ],
    ids=["same size", "3conv", "x2", "x4"],
)
def test_filled_from_a_swinir_the_last_block_is_it_and_each_branch_its_tail(
    tmp_path: Path, options: dict[str, Any], network: dict[str, Any], form: str
) -> None:
    source, ours = swinir(**options), flexir(**network)
    load_weights(ours, saved(tmp_path / "a.pth", source, form))
    image = torch.rand(2, 3, 9, 14)
    torch.testing.assert_close(restored(ours, image), restored(source, image))
    one, other = (branch.state_dict() for branch in ours.backbone.branches)  # type: ignore[union-attr]
    assert all(torch.equal(one[key], other[key]) for key in one)
    first, second = (branch.parameters() for branch in ours.backbone.branches)  # type: ignore[union-attr]
    assert not {p.data_ptr() for p in first} & {p.data_ptr() for p in second}, "branches share their weights"
    assert not torch.equal(restored(ours, image, Exit(1)), restored(ours, image))


def test_a_swinir_that_learned_the_residual_to_bicubic_fills_a_flexir_with_skip(tmp_path: Path) -> None:
    source = swinir("pixelshuffle.NearestConv", image_skip=True, scale=2)
    path = saved(tmp_path / "a.ckpt", source, "ours")
    ours = flexir(scale=2, skip=True)
    load_weights(ours, path)
    image = torch.rand(1, 3, 9, 14)
    torch.testing.assert_close(ours.restore(image).image, source.restore(image).image)
    with pytest.raises(UserError, match=r"skip=add of the image.* set backbone\.skip=true"):
        load_weights(flexir(scale=2), path)


@pytest.mark.parametrize(
    ("held", "wanted", "message"),
    [
        ({"depths": [2, 1, 1]}, {}, r"depths=\[2, 1, 1\].*FlexIR\(.*depths=\[2, 1\].*has no place"),
        ({}, {"depths": [2, 1, 1]}, "is missing"),
        ({"embed_dim": 12}, {}, r"embed_dim=12.*embed_dim=8.*has another shape"),
        ({"window": 2}, {}, "window=2.*window=4.*has another shape"),
        ({"heads": 4}, {}, "heads=4.*heads=2.*has another shape"),
        ({}, {"scale": 2}, "is missing"),
        ({"upsampler": "pixelshuffle.PixelShuffle", "scale": 2}, {"scale": 2}, "PixelShuffle.*is missing"),
        ({"upsampler": "pixelshuffle.NearestConv", "scale": 2}, {"scale": 4}, "is missing"),
        ({"out_channels": 8}, {}, "has no place"),
        ({"skip": "none"}, {}, r"skip=none of the image.*set backbone\.skip=false"),
        ({"skip": "subtract"}, {}, "no FlexIR subtracts"),
    ],
)
def test_a_swinir_of_another_shape_is_refused_in_one_line_with_both_names(
    tmp_path: Path, held: dict[str, Any], wanted: dict[str, Any], message: str
) -> None:
    path, ours = saved(tmp_path / "a.ckpt", swinir(**held), "ours"), flexir(**wanted)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(UserError, match=message) as refused:
        load_weights(ours, path)
    text = str(refused.value)
    assert "SwinIR" in text and "FlexIR" in text and str(path) in text and "\n" not in text
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())


def test_pixels_must_agree_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", swinir(), "official")
    with pytest.raises(UserError, match="set these, or network=ckpt"):
        load_weights(flexir({"mean": 0.5, "factor": 2.0}), path)


def test_a_checkpoint_of_a_flexir_rebuilds_and_fills_one(tmp_path: Path) -> None:
    trained = flexir(calibration=[[0.4, 1.0], [0.9, 1.2]], overlap=4)
    for parameter in trained.parameters():
        nn.init.normal_(parameter, std=0.1)
    path, image = saved(tmp_path / "a.ckpt", trained, "ours"), torch.rand(1, 3, 13, 18)
    filled = flexir(overlap=4)
    load_weights(filled, path)
    for network in (load_pretrained(path), filled):
        for exit in (None, Exit(1), Exit(None, 1.01, 4)):
            assert torch.equal(restored(network, image, exit), restored(trained, image, exit))
    rebuilt_backbone: Any = load_pretrained(path).backbone
    assert rebuilt_backbone.calibration == [(0.4, 1.0), (0.9, 1.2)]
    with pytest.raises(UserError, match=r"holds FlexIR.* asks for SwinIR"):
        load_weights(swinir(), path)
