"""The words of Restormer's, HINet's, NAFNet's and MPRNet's own files: they run, or all that cannot is said at once."""

import csv
import json
import shutil
from functools import partial

import pytest
from conftest import SMALL_NETS, make_pairs, write_yaml

from basicsr.errors import UserError
from basicsr.options import load, parse


def restormer(**train: object) -> dict:
    """A training file as Restormer's repository writes them, on tiny data and with few iterations."""
    return {
        "name": "Deblurring_Restormer",
        "model_type": "ImageCleanModel",
        "scale": 1,
        "num_gpu": 8,
        "manual_seed": 100,
        "datasets": {
            "train": {
                "name": "TrainSet",
                "type": "Dataset_PairedImage",
                "dataroot_gt": "./datasets/Set/target",
                "dataroot_lq": "./datasets/Set/input",
                "geometric_augs": True,
                "filename_tmpl": "{}",
                "io_backend": {"type": "disk"},
                "use_shuffle": True,
                "num_worker_per_gpu": 0,
                "batch_size_per_gpu": 8,
                "mini_batch_sizes": [2, 1],
                "iters": [2, 2],
                "gt_size": 24,
                "gt_sizes": [16, 24],
                "dataset_enlarge_ratio": 1,
                "prefetch_mode": None,
                **train,
            },
            "val": {
                "name": "ValSet",
                "type": "Dataset_PairedImage",
                "dataroot_gt": "./datasets/Set/target",
                "dataroot_lq": "./datasets/Set/input",
                "io_backend": {"type": "disk"},
            },
        },
        "network_g": {
            "type": "Restormer",
            "inp_channels": 3,
            "out_channels": 3,
            "ffn_expansion_factor": 2.66,
            "bias": False,
            "LayerNorm_type": "WithBias",
            "dual_pixel_task": False,
            **SMALL_NETS["Restormer"],
        },
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "total_iter": 4,
            "warmup_iter": -1,
            "use_grad_clip": True,
            "scheduler": {
                "type": "CosineAnnealingRestartCyclicLR",
                "periods": [2, 2],
                "restart_weights": [1, 1],
                "eta_mins": [0.0003, 0.000001],
            },
            "mixing_augs": {"mixup": False, "mixup_beta": 1.2, "use_identity": True},
            "optim_g": {"type": "AdamW", "lr": 3e-4, "weight_decay": 1e-4, "betas": [0.9, 0.999]},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1, "reduction": "mean"},
        },
        "val": {
            "window_size": 8,
            "val_freq": 2,
            "save_img": False,
            "rgb2bgr": True,
            "use_image": False,
            "max_minibatch": 8,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False}},
        },
        "logger": {
            "print_freq": 2,
            "save_checkpoint_freq": 2,
            "use_tb_logger": False,
            "wandb": {"project": None, "resume_id": None},
        },
        "dist_params": {"backend": "nccl", "port": 29500},
    }


def test_a_restormer_file_trains_and_tests(root, run):
    make_pairs(root / "datasets/Set", height=32, width=40)
    file = write_yaml(root / "opt.yml", restormer())
    outcome = run("train", "-opt", file)
    assert outcome.code == 0, outcome
    assert "datasets.train.geometric_augs is read as use_flip and use_rot." in outcome.out
    assert "datasets.train.iters, gt_sizes, mini_batch_sizes are read as `progressive`, with batches of 16, 8." in outcome.out
    assert "0 to 2     16     16 = 1 x 2 x 8" in outcome.out  # the batch of 8 GPUs, here accumulated
    assert "2 to 4     24      8 = 1 x 1 x 8" in outcome.out
    rows = list(csv.DictReader((root / "experiments/Deblurring_Restormer/metrics.csv").open()))
    assert [row["iter"] for row in rows if row["val_psnr"]] == ["2", "4"]
    outcome = run("test", "-opt", file, "--tlc", "both", "--force_yml", "num_gpu=0")
    assert outcome.code == 0, outcome
    report = json.loads((root / "results/Deblurring_Restormer/report.json").read_text())
    assert [one["network"] for one in report["runs"]] == ["Restormer", "RestormerLocal"]


def test_what_the_words_mean():
    """The published stages: 64 crops of 128 down to 8 of 384."""
    stages = {
        "gt_size": 384,
        "gt_sizes": [128, 160, 192, 256, 320, 384],
        "mini_batch_sizes": [8, 5, 4, 2, 1, 1],
        "iters": [92000, 64000, 48000, 36000, 36000, 24000],
    }
    data = parse(restormer(**stages), "x.yml").datasets["train"]
    assert [stage.batch_size for stage in data.progressive] == [64, 40, 32, 16, 8, 8]
    assert [stage.gt_size for stage in data.progressive] == stages["gt_sizes"]
    assert sum(stage.iters for stage in data.progressive) == 300_000
    assert (data.type, data.arguments["use_flip"], data.arguments["use_rot"]) == ("PairedImageDataset", True, True)
    assert parse(restormer(), "x.yml").model_type == "ImageRestorationModel"
    off = parse(restormer(geometric_augs=False), "x.yml").datasets["train"].arguments
    assert (off["use_flip"], off["use_rot"]) == (False, False)


def gaussian(opt: dict, in_ch: int = 3) -> None:
    """As in the published files for Gaussian noise of unknown strength."""
    noise = {"type": "Dataset_GaussianDenoising", "dataroot_lq": "none", "in_ch": in_ch}
    opt["datasets"]["train"] |= noise | {"sigma_type": "random", "sigma_range": [0, 50]}
    opt["datasets"]["val"] |= noise | {"sigma_test": 25}
    opt["network_g"] |= {"inp_channels": in_ch, "out_channels": in_ch, "LayerNorm_type": "BiasFree"}
    opt["train"]["mixing_augs"]["mixup"] = True


def dual_pixel(opt: dict) -> None:
    for section in opt["datasets"].values():
        section.pop("dataroot_lq")
        section |= {"type": "Dataset_DefocusDeblur_DualPixel_16bit"}
        section |= {"dataroot_lqL": "./datasets/Set/input", "dataroot_lqR": "./datasets/Set/inputR"}
    opt["network_g"] |= {"inp_channels": 6, "dual_pixel_task": True}


def everything(opt: dict) -> None:
    opt["train"]["mixup"] = True
    opt["nonsense"], opt["val"]["saveimg"] = 1, 1


@pytest.mark.parametrize("change", [gaussian, partial(gaussian, in_ch=1), dual_pixel], ids=["colour", "grey", "dual pixels"])
def test_a_file_of_another_task_trains_and_tests(change, root, run):
    """Six and one channels, too, all the way."""
    make_pairs(root / "datasets/Set", height=20, width=40)  # less than the patch of 24
    shutil.copytree(root / "datasets/Set/input", root / "datasets/Set/inputR")
    opt = restormer()
    change(opt)
    file = write_yaml(root / "opt.yml", opt)
    outcome = run("train", "-opt", file)
    assert outcome.code == 0, outcome
    assert "means pad_small: true here" in outcome.out
    rows = list(csv.DictReader((root / "experiments/Deblurring_Restormer/metrics.csv").open()))
    assert [float(row["val_psnr"]) > 0 for row in rows if row["val_psnr"]] == [True, True]
    outcome = run("test", "-opt", file, "--tlc", "both", "--force_yml", "num_gpu=0")
    assert outcome.code == 0, outcome


def test_files_of_other_tasks_mean_their_data_sets():
    opt = restormer()
    gaussian(opt)
    found = parse(opt, "x.yml")
    assert found.datasets["train"].type == "GaussianDenoisingDataset"
    assert "dataroot_lq" not in found.datasets["val"].arguments
    assert found.train.mixing_augs.model_dump() == {
        "mixup": True,
        "mixup_beta": 1.2,
        "use_identity": True,
        "per_image": False,
        "from_iter": 0,
    }
    paired = parse(restormer(), "x.yml").datasets["train"].arguments
    assert (paired["bit_depth"], paired["pad_small"]) == (8, True)


def stages(**words: object):
    def change(opt: dict) -> None:
        train = opt["datasets"]["train"]
        train |= words
        for word in [word for word in words if words[word] is None]:
            del train[word]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            everything,
            [
                "train.mixup: write `mixing_augs: {mixup: true",
                "unknown options: `val.saveimg` Did you mean `save_img`?, `nonsense`",
            ],
        ),
        (stages(iters=None), ["datasets.train: gt_sizes, mini_batch_sizes without iters; give all three"]),
        (stages(iters=[4]), ["datasets.train: the lists of the stages must be equally long, but have iters 1, gt_sizes 2"]),
        (stages(iters=4), ["must be lists with a number for each stage"]),
        (stages(mini_batch_sizes=["a", 1]), ["datasets.train.progressive.0.batch_size", "'a'"]),
    ],
)
def test_what_cannot_be_said_here_is_named_at_once(change, says):
    data = restormer()
    change(data)
    with pytest.raises(UserError) as error:
        parse(data, "x.yml")
    for words in says:
        assert words in str(error.value)


def test_mprnets_own_file_is_named(root):
    content = {"GPU": [0, 1], "VERBOSE": True, "MODEL": {"MODE": "Deblurring"}, "OPTIM": {"BATCH_SIZE": 16}, "TRAINING": {}}
    with pytest.raises(UserError) as error:
        load(write_yaml(root / "training.yml", content))
    named = "GPU, VERBOSE, MODEL, OPTIM, TRAINING: these are the words of MPRNet's own training.yml; take options/train"
    assert named in str(error.value)


def test_all_unknown_words_come_at_once(root, run, test_options):
    make_pairs(root / "datasets/Set")
    test_options["val"] |= {"save_imgs": True, "gridss": False}
    test_options["pathh"] = {}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options))
    assert outcome.code == 2
    for word, near in (("val.save_imgs", "save_img"), ("val.gridss", "grids"), ("pathh", "path")):
        assert f"`{word}` Did you mean `{near}`?" in outcome.err
    for word in ("save_imgs", "gridss"):
        del test_options["val"][word]
    del test_options["pathh"]
    test_options["network_g"] |= {"widht": 4, "encblknums": [1]}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options))
    assert (
        "network_g: NAFNet has no options `widht` Did you mean `width`?, `encblknums` Did you mean `enc_blk_nums`?"
        in outcome.err
    )


# Names that YAML takes for something else.

NAMES = ["20240101", "007", "1e3", "2024-01-01", "on", "0x1F", "1_000", "3.10", "12:30:45", "2001-12-14t21:59:43.10-05:00"]


@pytest.mark.parametrize("name", NAMES[:8])
def test_a_name_is_what_was_written(name, root, run, test_options):
    make_pairs(root / "datasets/Set")
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options), "--force_yml", f"name={name}")
    assert outcome.code == 0, outcome
    assert (root / f"results/{name}/report.json").is_file()


@pytest.mark.parametrize("written", NAMES)
def test_every_text_of_a_file_is_what_was_written(written, root):
    text = f"""
name: x
model_type: {written}
custom_modules: []
datasets:
  test: {{name: {written}, type: {written}, dataroot_gt: {written}, dataroot_lq: [{written}, b], filename_tmpl: {written}}}
  val: {{meta_info_file: {written}, dataroot_gt: ~}}
network_g: {{type: {written}, width: 8}}
path: {{pretrain_network_g: {written}, param_key: {written}, resume_state: {written}}}
train:
  total_iter: 10
  optim_g: {{type: {written}, lr: 1e-3, groups: [{{match: {written}}}]}}
  scheduler: {{type: {written}}}
  pixel_opt: {{type: {written}}}
  losses: [{{type: {written}}}]
val:
  metrics:
    {written}: {{type: {written}, crop_border: 1}}
logger: {{wandb: {{project: {written}, resume_id: {written}}}}}
img_path: {{input_img: {written}, output_img: {written}}}
expected: {{{written}: 30}}
"""
    (root / "opt.yml").write_text(text)
    opt = load(root / "opt.yml", [f"img_path:target_img={written}", "val:max_images=3"])
    test = opt.datasets["test"]
    texts = [opt.model_type, test.name, test.type, test.arguments["dataroot_gt"], test.arguments["dataroot_lq"][0]]
    texts += [test.arguments["filename_tmpl"], opt.datasets["val"].arguments["meta_info_file"], opt.network_g.type]
    texts += [opt.path.pretrain_network_g, opt.path.param_key, opt.path.resume_state, opt.train.optim_g.type]
    texts += [opt.train.optim_g.groups[0].match, opt.train.scheduler.type, *(loss.type for loss in opt.train.all_losses)]
    texts += [*opt.val.metrics, opt.val.metrics[written].type, opt.logger.wandb.project, opt.logger.wandb.resume_id]
    texts += [opt.img_path.input_img, opt.img_path.output_img, opt.img_path.target_img, *opt.expected]
    assert texts == [written] * len(texts)
    assert opt.network_g.arguments["width"] == 8
    assert opt.train.total_iter == 10
    assert opt.train.optim_g.lr == 1e-3
    assert opt.val.max_images == 3
    assert opt.val.metrics[written].arguments == {"crop_border": 1}


def test_numbers_stay_numbers_and_empty_stays_empty(root):
    opt = load(
        write_yaml(
            root / "x.yml", {"name": 5, "network_g": {"type": "NAFNet"}, "val": {"tile": 64}, "path": {"param_key": None}}
        )
    )
    assert (opt.name, opt.val.tile, opt.path.param_key) == ("5", 64, None)
    assert parse({"name": 20240101, "network_g": {"type": "NAFNet"}}, "x").name == "20240101"
    with pytest.raises(UserError, match=r"val\.max_images: must be a number"):
        load(root / "x.yml", ["val:max_images=high"])


def test_a_folder_called_by_a_year(root, run, test_options):
    make_pairs(root / "2024")
    (root / "2024/target").rename(root / "2023")
    (root / "2024/input").rename(root / "0024")
    test_options["datasets"]["test"] |= {"dataroot_gt": 2023}
    file = write_yaml(root / "opt.yml", test_options)
    outcome = run("test", "-opt", file, "--force_yml", "datasets:test:dataroot_lq=0024")
    assert outcome.code == 0, outcome
