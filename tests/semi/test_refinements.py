"""All refineries in the same loop: their schedules, their keys, a name of their own."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from darp.refineries.base import Setting
from darp.refineries.cdmad import CDMAD
from darp.refineries.simpro import SimPro
from semi import loop
from semi.cli import parse
from semi.config import TABLE_REFINEMENTS, Config, ConfigError
from semi.device import Stopwatch
from semi.evaluate import scores
from semi.job import build_job, describe, never_refines, other_schedule, warnings
from semi.loop import evaluate, guess, train_step
from semi.names import REFINERIES
from semi.run_folder import run_folder
from tests.semi.runs import TINY, Interrupting, Interruption, train
from tracking.row import is_known

REFINEMENTS = [*TABLE_REFINEMENTS]
BATCH_REFINEMENTS = [name for name, place in REFINERIES.items() if place]
CPU = torch.device("cpu")
RAW_KEYS = {f"test_raw/{name}" for name in ("acc", "bacc", "gm", "many", "medium", "few")}
RAW_KEYS |= {f"test_raw/recall/{k}" for k in range(10)}


def config(tmp_path: Path, **changes) -> Config:
    return Config(**TINY | {"out": str(tmp_path), "imb_ratio_u": 5.0} | changes)


@pytest.mark.parametrize("refine", REFINEMENTS)
def test_every_refinement_of_the_table_reports_its_health_under_the_same_keys(tmp_path, refine):
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


@pytest.mark.parametrize("refine", BATCH_REFINEMENTS)
def test_a_refinery_that_works_batch_by_batch_begins_with_the_first_step_and_has_its_own_keys(
    tmp_path, refine
):
    own = {"simpro_every": 1, "simpro_threshold": 0.1, "cdmad_start": 0.0}
    c = config(tmp_path, refine=refine, imb_ratio_l=3.0, warm=500, **own)
    first, *_, last = train(c)
    assert never_refines(c) == ""
    if refine == "flexda":  # it shifts the losses alone
        assert last["refine/moved"] == 0
    else:
        assert first["refine/moved"] > 0
        assert 1e-4 < last["refine/moved"] < 1
        assert last["pseudo/refined/tv_target"] != last["pseudo/orig/tv_target"]
    assert [key for key in last if not is_known(key)] == []
    assert not any(key.startswith("darp/") for key in last)
    assert {key for key in last if key.startswith("test_raw/")} == (RAW_KEYS if refine == "cdmad" else set())
    assert f"_{refine}_s0_" in run_folder(c).name


def test_every_refinery_gives_a_training_of_its_own(tmp_path):
    changes = {
        "imb_ratio_l": 3.0,
        "tau": 0.2,
        "simpro_every": 1,
        "simpro_threshold": 0.2,
        "debias_momentum": 0.9,
    }
    last = [
        train(config(tmp_path, refine=refine, **changes))[-1]["loss/u"]
        for refine in ("none", *BATCH_REFINEMENTS)
    ]
    assert len(set(last)) == len(last)


@pytest.mark.parametrize("refine", BATCH_REFINEMENTS)
def test_a_refinery_that_is_cut_within_an_epoch_goes_on_exactly(tmp_path, monkeypatch, refine):
    changes = {"refine": refine, "imb_ratio_l": 3.0, "tau": 0.2, "simpro_every": 3, "simpro_threshold": 0.2}
    whole = train(config(tmp_path / "whole", **changes))
    cut = config(tmp_path / "cut", resume="auto", checkpoint_every_s=0.0, **changes)
    original = loop.train_step

    def stepping(job, epoch, step, watch):
        if (epoch, step) == (1, 2):
            raise Interruption
        return original(job, epoch, step, watch)

    monkeypatch.setattr(loop, "train_step", stepping)
    with pytest.raises(Interruption):
        train(cut)
    monkeypatch.setattr(loop, "train_step", original)
    assert train(cut) == whole


@pytest.mark.parametrize("refine", ["la", "debias", "flexda", "simpro", "cdmad"])
@pytest.mark.parametrize("method", ["mix", "remix"])
def test_a_shift_of_logits_is_refused_where_labeled_and_unlabeled_images_are_mixed(tmp_path, method, refine):
    with pytest.raises(ConfigError, match=f"--refine {refine}: .* --semi_method {method} does not let it"):
        build_job(config(tmp_path, refine=refine, semi_method=method), CPU)
    assert list(tmp_path.iterdir()) == []


def test_logit_adjustment_changes_the_supervised_training_and_debiasing_says_that_it_does_not(tmp_path):
    sup = {"semi_method": "sup", "imb_ratio_l": 3.0}
    plain, adjusted, debiased = (
        train(config(tmp_path, refine=refine, **sup))[-1]["loss/x"] for refine in ("none", "la", "debias")
    )
    assert plain == debiased != adjusted
    assert warnings(build_job(config(tmp_path, refine="la", **sup), CPU)) == []
    (sentence,) = warnings(build_job(config(tmp_path, refine="debias", **sup), CPU))
    assert sentence.startswith("--refine debias changes what is logged, not the training")


def test_the_flags_of_a_refinery_reach_it(tmp_path):
    c = config(tmp_path, refine="simpro", simpro_tau=3.0, simpro_every=7, simpro_momentum=0.5, la_tau=9.0)
    job = build_job(c, CPU)
    assert c.refinery_parameters == {"tau": 3.0, "every": 7, "momentum": 0.5}
    assert isinstance(job.refiner, SimPro)
    assert (job.refiner.tau, job.refiner.every, job.refiner.momentum) == (3.0, 7, 0.5)
    assert selects_from(c) == 0.95
    assert selects_from(config(tmp_path, refine="simpro", simpro_threshold=0.4, tau=0.9)) == 0.4
    assert selects_from(config(tmp_path, refine="la", tau=0.9)) == 0.9


def selects_from(c: Config) -> float:
    """Least confidence, in hundredths, of the rows that the method counts."""
    confidence = torch.arange(101) / 100
    selected = build_job(c, CPU).method.selects(confidence, torch.zeros(101, dtype=torch.long))
    assert selected is not None
    return round(float(confidence[selected].min()), 2)


@pytest.mark.parametrize("method", ["mix", "remix"])
def test_progressive_alignment_works_where_images_are_mixed(tmp_path, method):
    last = train(config(tmp_path, refine="pda", semi_method=method, imb_ratio_l=3.0, epochs=2))[-1]
    assert last["refine/moved"] > 1e-4
    plain = train(config(tmp_path, semi_method=method, imb_ratio_l=3.0, epochs=2))[-1]
    assert last["loss/u"] != plain["loss/u"]


@pytest.mark.parametrize(
    ("refine", "said"), [("pda", True), ("flexda", True), ("cdmad", True), ("la", False)]
)
def test_a_refinery_that_follows_the_epochs_says_so_when_their_number_changes(tmp_path, refine, said):
    job = build_job(config(tmp_path, refine=refine, epochs=5), CPU)
    sentence = other_schedule(job, {"config": {"epochs": 3}})
    assert sentence.startswith(f"--epochs 5: --refine {refine} changes") is said
    assert other_schedule(job, {"config": {"epochs": 5}}) == ""


@pytest.mark.parametrize("method", ["mix", "remix"])
def test_cdmad_says_why_it_is_not_for_methods_that_sharpen_their_guesses(tmp_path, method):
    with pytest.raises(ConfigError, match="mix and remix sharpen them before") as refused:
        build_job(config(tmp_path, refine="cdmad", semi_method=method), CPU)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["fix", "pseudo"])
def test_cdmad_learns_every_target_whole_however_unsure_it_is(tmp_path, method):
    """The loss of a step, once more: -sum_k q_k log p_k over all strong views, q = norm(p(x) / p(I))."""
    c = config(tmp_path, refine="cdmad", semi_method=method, cdmad_start=0.0, tau=1.0)
    job = build_job(c, CPU)
    before = copy.deepcopy(job.model).train()
    ahead = job.loader.state_dict()
    batch = job.loader.next()
    job.loader.load_state_dict(ahead)
    found = train_step(job, 0, 0, Stopwatch(CPU))

    with torch.no_grad():
        probs = before(batch.views_u[0]).softmax(dim=1)
        answer = copy.deepcopy(before)(torch.ones(1, 3, 32, 32)).softmax(dim=1)
        learned = batch.views_u[1:] or batch.views_u
        logits = before(torch.cat([batch.views_x[0], *learned]))[len(batch.labels_x) :]
    wanted = probs / answer
    wanted = (wanted / wanted.sum(dim=1, keepdim=True)).repeat(len(learned), 1)
    assert float(wanted.max(dim=1).values.min()) < 0.5, "some are unsure"
    assert found.u is not None
    assert found.u.item() == pytest.approx(
        float(-(wanted * logits.log_softmax(dim=1)).sum(dim=1).mean()), rel=1e-5
    )
    row = evaluate(job)
    assert row["pseudo/mask_rate"] == 1
    assert describe(job)["thresholded"] is False, "a mask rate of 1 is no reason for an alert"


@pytest.mark.parametrize("arch", ["small", "wrn28_2"])
def test_the_constant_image_leaves_no_trace_in_the_network(tmp_path, arch):
    """Also of 8 x 8 pixels, which the small network brings down to one."""
    after = {}
    for refine in ("none", "cdmad"):
        job = build_job(config(tmp_path, refine=refine, arch=arch, batch_size=4), CPU)
        job.model.train()
        guess(job, job.loader.next())
        assert job.model.training
        after[refine] = {name: value.clone() for name, value in job.model.state_dict().items()}
    assert any("running_var" in name for name in after["none"])
    assert [
        name for name, value in after["none"].items() if not torch.equal(value, after["cdmad"][name])
    ] == []
    made = CDMAD(job.store, Setting([1.0] * 10, [1.0] * 10, 1, 1, image_size=8))
    made.look(job.model)
    assert torch.isfinite(made.state["log p(I)"]).all()


def test_test_is_with_the_shift_of_test_logits_test_raw_without_and_the_network_sees_each_image_once(
    tmp_path,
):
    job = build_job(config(tmp_path, refine="cdmad", ema_decay=0.5), CPU)
    job.model.train()
    for step in range(8):
        train_step(job, 0, step % 4, Stopwatch(CPU))
    seen = []
    handle = job.ema.model.register_forward_hook(lambda _, images, logits: seen.append((images[0], logits)))
    row = evaluate(job)
    handle.remove()
    assert sum(len(images) for images, _ in seen if images[0].std() > 0) == len(job.test_images)

    with torch.no_grad():
        raw = job.ema.model(job.test_images)
        shifted = raw - job.ema.model(torch.ones(1, 3, 32, 32))
    for name, logits in (("test", shifted), ("test_raw", raw)):
        counts = torch.zeros(10, 10, dtype=torch.long)
        for true, label in zip(job.test_labels.tolist(), logits.argmax(dim=1).tolist(), strict=True):
            counts[true, label] += 1
        for key, value in scores(counts).items():
            assert row[f"{name}/{key}"] == pytest.approx(value), (name, key)
    loss = torch.nn.functional.cross_entropy(shifted, job.test_labels)
    assert row["test/loss"] == pytest.approx(float(loss), rel=1e-5)
    assert row["test/bacc"] != row["test_raw/bacc"]
    assert row["best/bacc"] == row["last20/bacc"] == row["test/bacc"]


ONLINE = {"est": True, "est_from": "online", "imb_ratio_l": 3.0, "tau": 0.3}


@pytest.mark.parametrize("refine", REFINEMENTS)
def test_the_target_of_an_online_estimate_moves_from_the_first_epoch_on_and_the_refinement_follows(
    tmp_path, refine
):
    given = parse(["--est", "online"], "", Config)[0]
    assert (given.est, given.est_from) == (True, "online")
    rows = train(config(tmp_path, refine=refine, **ONLINE))
    targets = [[row[f"pseudo/target/{k}"] for k in range(10)] for row in rows]
    assert all(sum(target) == pytest.approx(1) for target in targets)
    assert len({tuple(target) for target in targets}) == len(rows)
    assert [key for row in rows for key in row if not is_known(key)] == []
    assert sum(rows[-1][f"refine/prior/{k}"] for k in range(10)) == pytest.approx(1)
    if refine != "align":
        assert rows[-1]["darp/residual"] <= 1e-6
    said = yaml.safe_load((run_folder(config(tmp_path, refine=refine, **ONLINE)) / "config.yaml").read_text())
    assert said["est_from"] == "online"
    assert "estimate" not in said, "there is no record of it to link to"


def test_an_online_estimate_that_is_cut_within_an_epoch_goes_on_exactly(tmp_path, monkeypatch):
    whole = train(config(tmp_path / "whole", refine="darp", **ONLINE))
    cut = config(tmp_path / "cut", refine="darp", resume="auto", checkpoint_every_s=0.0, **ONLINE)
    original = loop.train_step

    def stepping(job, epoch, step, watch):
        if (epoch, step) == (1, 3):  # the estimate was renewed in step 2
            raise Interruption
        return original(job, epoch, step, watch)

    monkeypatch.setattr(loop, "train_step", stepping)
    with pytest.raises(Interruption):
        train(cut)
    monkeypatch.setattr(loop, "train_step", original)
    assert train(cut) == whole


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"refine": "simpro"}, "darp, align, sinkhorn follow it, --refine simpro does not"),
        ({"refine": "darp", "semi_method": "mix"}, "--semi_method mix selects none"),
        ({"refine": "none", "semi_method": "remix", "align": True}, "--align needs a target before"),
    ],
)
def test_an_online_estimate_is_refused_in_one_line_where_nothing_follows_it(tmp_path, changes, reason):
    with pytest.raises(ConfigError, match=f"--est online: .*{reason}") as refused:
        build_job(config(tmp_path, **ONLINE | changes), CPU)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
