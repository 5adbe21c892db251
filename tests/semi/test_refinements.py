"""DARP's neighbours in the same loop: the same schedule, the same keys, a name of their own."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from semi.cli import parse
from semi.config import Config
from semi.job import build_job, never_refines, warnings
from semi.run_folder import run_folder
from tests.semi.runs import TINY, Interrupting, Interruption, train

REFINEMENTS = ["darp", "align", "sinkhorn"]


def config(tmp_path: Path, **changes) -> Config:
    return Config(**TINY | {"out": str(tmp_path), "imb_ratio_u": 5.0} | changes)


@pytest.mark.parametrize("refine", REFINEMENTS)
def test_every_refinement_reports_its_health_under_the_same_keys(tmp_path, refine):
    first, _, last = train(config(tmp_path, refine=refine, warm=0))
    assert first["darp/solves"] == 0
    assert last["darp/solves"] == 2
    assert {"darp/residual", "darp/iterations", "darp/unconverged"} <= set(last)
    assert last["darp/unconverged"] == 0


def test_darp_and_sinkhorn_reach_the_target_and_alignment_comes_nearer(tmp_path):
    last = {refine: train(config(tmp_path, refine=refine))[-1] for refine in REFINEMENTS}
    for refine in ("darp", "sinkhorn"):
        assert last[refine]["pseudo/refined/tv_target"] < 1e-6
        assert last[refine]["darp/residual"] <= 1e-6
    aligned = last["align"]
    assert 1e-6 < aligned["pseudo/refined/tv_target"] < aligned["pseudo/orig/tv_target"] / 2


def test_three_refinements_give_three_trainings(tmp_path):
    mix = {"semi_method": "mix"}  # which learns from every pseudo-label, sure or not
    last = [train(config(tmp_path, refine=refine, **mix))[-1]["loss/u"] for refine in REFINEMENTS]
    plain = train(config(tmp_path, **mix))[-1]["loss/u"]
    assert len({plain, *last}) == 4


@pytest.mark.parametrize("refine", ["align", "sinkhorn"])
def test_an_interrupted_run_with_another_refinement_goes_on_exactly(tmp_path, refine):
    whole = train(config(tmp_path / "whole", refine=refine))
    cut = config(tmp_path / "cut", refine=refine, resume="auto")
    with pytest.raises(Interruption):
        train(cut, Interrupting(after=2))
    assert train(cut) == whole


@pytest.mark.parametrize(
    ("flag", "refine"),
    [("--darp=false", "none"), ("--darp", "darp"), ("--refine=darp", "darp"), ("--refine=align", "align")],
)
def test_config_yaml_names_the_refinement_once_whichever_flag_asked_for_it(tmp_path, flag, refine):
    flags = [f"--{name}={value}" for name, value in vars(config(tmp_path, epochs=1, val_iteration=1)).items()]
    c = parse([word for word in flags if not word.startswith("--refine=")] + [flag], "", Config)[0]
    train(c)
    said = yaml.safe_load((run_folder(c) / "config.yaml").read_text())
    assert said["refine"] == refine
    assert "darp" not in said


def test_the_flag_that_makes_refinement_begin_is_named(tmp_path):
    late = config(tmp_path, refine="sinkhorn", epochs=10, warm=9)
    assert never_refines(late).startswith("--refine sinkhorn has no effect")
    assert "Add --warm 4 to refine from epoch 5 on" in never_refines(late)
    assert never_refines(dataclasses.replace(late, warm=8)) == ""
    assert never_refines(dataclasses.replace(late, refine="none")) == ""


def test_a_refinement_that_no_loss_uses_is_said(tmp_path):
    c = config(tmp_path, refine="align", semi_method="sup")
    (sentence,) = warnings(build_job(c, torch.device("cpu")))
    assert sentence.startswith("--refine align changes what is logged, not the training")
