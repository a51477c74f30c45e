"""python -m dynres.cost: numbers as documented, mistakes as one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from dynres.backbones.edsr import edsr_baseline
from dynres.backbones.mstb import MultiScaleTransformer
from dynres.cost import __main__ as command
from dynres.upsamplers.liif import LIIF


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynres.cost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The same in this process, which spares the start-up."""
    monkeypatch.setattr(sys, "argv", ["dynres.cost", *arguments])
    command.main()


def test_baseline_at_full_size_from_a_shell() -> None:
    done = shell("backbone=mstb", "size=[678,1020]", "format=json")
    assert done.returncode == 0, done.stderr
    with torch.device("meta"):
        macs = MultiScaleTransformer().cost(678, 1020).full
    assert json.loads(done.stdout) == {"params": 9_168_512, "macs": macs, "convention": "fvcore"}


def test_a_mistake_in_a_shell_is_one_line_and_exit_code_2() -> None:
    done = shell("backbone=swimir", "size=[48,48]")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "swimir" in done.stderr and "swinir" in done.stderr


def test_edsr_and_its_head(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "backbone=edsr_baseline", "size=[30,20]", "format=json")
    alone = json.loads(capsys.readouterr().out)
    run(monkeypatch, "backbone=edsr_baseline", "size=[30,20]", "upsampler=liif", "scale=2.5", "format=json")
    whole = json.loads(capsys.readouterr().out)
    assert alone["params"] == 1_220_416 and alone["macs"] == edsr_baseline().cost(30, 20).full
    head = LIIF(64)
    assert whole["params"] - alone["params"] == sum(p.numel() for p in head.parameters())
    assert whole["macs"] - alone["macs"] == head.macs(30, 20, (75, 50))


def test_options_of_the_network_and_the_convention_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every normalised value costs 5 under one convention and nothing under the other."""
    small = ["backbone=mstb", "backbone.channels=16", "backbone.groups=1", "size=[48,48]", "format=json"]
    found = {}
    for convention in ("fvcore", "all"):
        run(monkeypatch, *small, f"convention={convention}")
        found[convention] = json.loads(capsys.readouterr().out)
    assert found["fvcore"]["params"] == found["all"]["params"] < 60_000
    assert found["fvcore"]["macs"] - found["all"]["macs"] == 5 * 16 * 48 * 48 * (2 * 2 + 2)
    assert found["all"]["convention"] == "all"


def test_the_table_names_the_convention(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "backbone=edsr_baseline", "size=[678,1020]")
    out = capsys.readouterr().out
    assert "1,220,416" in out and "678 x 1020" in out and "842.486" in out and "average pool" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["backbone=edsr_baseline", "size=[48,48]", "upsampler=liif"], "upsampler=NAME needs scale=S"),
        (["backbone=edsr_baseline"], "size=[H,W]"),
        (["backbone=edsr_baseline", "size=48"], "size=[H,W]"),
        (["backbone=edsr_baseline", "size=[48]"], "size=[H,W]"),
        (["backbone=edsr_baseline", "size=[48,-1]"], "size=[H,W]"),
        (["backbone=edsr_baseline", "size=[48,x]"], "size=[H,W]"),
        (["backbone=edsr_baseline", "size=[48,4.5]"], "size=[H,W]"),
        (["backbone=edsr_baseline", "size=[48,48]", "scale=0.5"], "scale=0.5"),
        (["backbone=edsr_baseline", "size=[48,48]", "scale=two"], "scale=two"),
        (["backbone=edsr_baseline", "size=[48,48]", "format=csv"], "table, json, got csv"),
        (["backbone=edsr_baseline", "size=[48,48]", "convention=ptflops"], "fvcore, thop, all, got ptflops"),
        (["backbone=edsr_baseline", "size=[48,48]", "backbone.chanels=8"], "backbone.chanels"),
        (["backbone=edsr_baseline", "size=[48,48]", "+backbone.chanels=8"], "did you mean channels?"),
        (["backbone=edsr_baseline", "size=[48,48]", "bakbone=mstb"], "bakbone"),
        (["backbone=edsr_baseline", "size=[48,48]", "upsampler=lif", "scale=2"], "lif"),
        (["backbone=edsr_baseline", "size=[48,48]", "backbone.blocks=0"], "blocks of at least 1, got 0"),
        (["backbone=edsr_baseline", "size=[48,48]", "verbose"], "expected KEY=VALUE, got 'verbose'"),
    ],
)
def test_mistakes_are_one_line_that_names_them(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert says in captured.err


def test_a_head_of_the_images_own_size_is_counted_on_the_enlarged_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    macs = []
    for size, scale in (("[24,24]", 2), ("[48,48]", 1)):
        run(monkeypatch, "backbone=vdsr", "upsampler=same_size", f"scale={scale}", f"size={size}", "format=json")
        macs.append(json.loads(capsys.readouterr().out)["macs"])
    assert macs[0] == macs[1] > 0


def test_a_head_of_one_scale_is_counted_at_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "backbone=edsr_baseline", "upsampler=pixelshuffle", "task=sr", "scale=3", "size=[24,24]")
    assert "enlarges by 2, not 3" in capsys.readouterr().err


def test_swinir_under_the_three_conventions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """13 x 9 pixels are padded to 16 x 16, on which the head's convolution runs as well; two layers of two heads."""
    tiny = ["backbone=swinir_denoise", "backbone.embed_dim=12", "backbone.depths=[2]", "backbone.heads=2"]
    found = {}
    for convention in ("fvcore", "thop", "all"):
        for head in ([], ["upsampler=same_size", "scale=1"]):
            run(monkeypatch, *tiny, *head, "size=[13,9]", "format=json", f"convention={convention}")
            found[convention, bool(head)] = json.loads(capsys.readouterr().out)
    tokens, window = 16 * 16, 64
    attention, normalised = 2 * tokens * window * 12 * 2, (2 * 2 + 2) * tokens * 12
    softmax = 2 * 2 * tokens * (3 * window - 1)
    for head in (False, True):
        macs = {name: found[name, head]["macs"] for name in ("fvcore", "thop", "all")}
        assert macs["fvcore"] - macs["all"] == 5 * normalised
        assert macs["thop"] - macs["all"] == 4 * normalised + softmax - attention
        assert found["all", head]["params"] - found["thop", head]["params"] == 2 * 2 * 15 * 15, "position tables"
        assert found["fvcore", head]["params"] == found["all", head]["params"]
    assert found["thop", True]["macs"] - found["thop", False]["macs"] == tokens * 9 * 12 * 3


def test_a_network_with_branches_runs_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["backbone.embed_dim=12", "backbone.depths=[1,1]", "backbone.heads=2", "size=[16,16]", "scale=1"]
    macs = []
    for network in (["backbone=flexir", "upsampler=as_image"], ["backbone=swinir_denoise", "upsampler=same_size"]):
        run(monkeypatch, *network, *tiny, "format=json", "convention=thop")
        macs.append(json.loads(capsys.readouterr().out)["macs"])
    assert macs[0] == macs[1] > 0
