"""The door of a training: the options become the parts of a run, each with what it needs; nobody below asks them again.

model   on its device, with losses, optimiser and learning rate
data    the loader of the training's batches; the validation with its images and metrics
plan    the stages, and what is done when
states  what is saved, and what is written down of the options in it
watch   what shows the run
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from basicsr.archs import with_tlc
from basicsr.data.sampler import Mixing, Stage
from basicsr.engine import build
from basicsr.engine.channels import check_channels
from basicsr.engine.training.loader import TrainLoader
from basicsr.engine.training.loop import Training
from basicsr.engine.training.plan import Memory, Plan, check_outputs, check_sizes, stages_of
from basicsr.engine.training.state import Progress, States, find
from basicsr.engine.training.validation import Validation
from basicsr.engine.training.watch import Watch, require_wandb
from basicsr.engine.weights import about_training, with_training_patch
from basicsr.errors import UserError, first_ten
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.models.schedule import Schedule, make_schedule, with_warmup
from basicsr.options import Options, display, resolve
from basicsr.utils import dist
from basicsr.utils.owner import owned
from basicsr.utils.seed import seed_everything


def fit(opt: Options, *, auto_resume: bool = False, dry_run: bool = False) -> int:
    """Train as the options say, into experiments/<name>/. Returns the exit code: 0, or 130 when it was interrupted and saved.

    Args:
        auto_resume: go on from where the run of this name was saved last; start it if it was not.
        dry_run: check everything, print the plan, and write nothing.

    Raises:
        UserError: anything in the options or the data that cannot be trained with, before the first step.
    """
    if dry_run:
        dist.together(lambda: prepare(opt, auto_resume=auto_resume)).announce()
        return 0
    with dist.first_in(lambda: owned(resolve("experiments") / opt.name)):  # before it is known from where a run goes on
        return dist.together(lambda: prepare(opt, auto_resume=auto_resume)).run()


def prepare(opt: Options, *, auto_resume: bool = False) -> Training:
    """A run that is ready to start. All that can be wrong is found here, and nothing is written yet."""
    _check_sections(opt)
    folder, board = resolve("experiments") / opt.name, resolve("tb_logger") / opt.name
    memory = memory_from(opt)
    build.check_words(opt.datasets["train"], "datasets.train", gt_size=1)  # an unknown word may be the one that is missing
    stages = stages_from(opt, memory)
    resume_state = resolve(opt.path.resume_state) if opt.path.resume_state else None
    state_files = find(folder, resume_state=resume_state, auto_resume=auto_resume)
    if opt.logger.wandb.project:
        require_wandb()
    seed_everything(opt.manual_seed)
    train_set, val_sets, metrics = _data_from(opt, largest=max(stage.gt_size for stage in stages))
    model, rate = _model_from(opt, {"train": train_set, **val_sets})
    check_sizes(stages, model.net)
    if type(model) is ImageRestorationModel:  # others decide on their own what they make of outputs
        check_outputs(stages, memory.network, model, getattr(train_set, "channels", (3, 3)))

    plan = plan_from(opt, stages, rate, len(train_set))
    said = opt.model_dump(mode="json")
    states = States(
        folder,
        about=about_training(opt).as_metadata(),
        keep=opt.logger.keep_checkpoints,
        options=said,
        images=plan.images,
        batches=[stage.batch_size for stage in stages],
    )
    progress, notes = states.load_newest(model, state_files) if state_files else (Progress(), [])
    if auto_resume and not state_files:
        where = display(folder / "training_states")
        notes = [f"Nothing to go on from: {where} holds no state, so the run starts at iteration 0."]
    parameters = sum(p.numel() for p in model.net.parameters())
    headline = f"{opt.network_g.type}: {parameters:,} parameters on {model.device}, {plan.images:,} training images"
    counts = [f"{len(val_set):,}{f' ({key})' if len(val_sets) > 1 else ''}" for key, val_set in val_sets.items()]
    return Training(
        name=opt.name,
        folder=folder,
        board=board,
        model=model,
        loader=_loader_from(opt, train_set, stages, pin=model.device.type == "cuda"),
        validation=_validation_from(opt, val_sets, metrics, model, folder) if val_sets else None,
        plan=plan,
        states=states,
        progress=progress,
        resumed=bool(state_files),
        open_watch=_watch_from(opt, folder, board, list(metrics), list(val_sets) or ["val"], said),
        announcement=[
            f"{headline}, {' and '.join(counts)} for validation" if counts else headline,
            plan.describe(memory),
            *notes,
            *plan.nothing_left(progress.iter),
        ],
    )


def _check_sections(opt: Options) -> None:
    if opt.train is None:
        raise UserError("`train` is missing: this file cannot be trained with; take one of options/train.")
    if "train" not in opt.datasets:
        raise UserError("datasets.train is missing; add the training images there.")
    if opt.val.val_freq and not any(key.startswith("val") for key in opt.datasets):
        raise UserError("val.val_freq is given, but datasets.val is missing; add the validation images or remove val_freq.")
    if opt.val.channels_last is not None and opt.val.channels_last != opt.train.channels_last:
        raise UserError(
            "val.channels_last: a training validates in its own layout; set train.channels_last, or leave this out."
        )


def memory_from(opt: Options) -> Memory:
    """What a step needs is estimated without TLC, which changes nothing in training."""
    return Memory(
        network=with_tlc(opt.network_g.as_dict(), False),
        precision=opt.train.precision,
        activation_checkpointing=opt.train.activation_checkpointing,
        ema=opt.train.ema_decay is not None,
        num_gpu=opt.num_gpu,
    )


def stages_from(opt: Options, memory: Memory) -> tuple[Stage, ...]:
    """Raises UserError: see `stages_of`."""
    data = opt.datasets["train"]
    return stages_of(
        total_iter=opt.train.total_iter,
        gt_size=data.arguments.get("gt_size"),
        batch_size=data.batch_size,
        batch_size_per_gpu=data.batch_size_per_gpu,
        progressive=None if data.progressive is None else [stage.model_dump() for stage in data.progressive],
        memory=memory,
    )


def plan_from(opt: Options, stages: tuple[Stage, ...], rate: Schedule, images: int) -> Plan:
    """The plan of a training on so many images."""
    schedule = opt.train.scheduler.arguments
    return Plan(
        stages=stages,
        total_iter=opt.train.total_iter,
        images=images,
        epoch_length=images * opt.datasets["train"].dataset_enlarge_ratio,
        seed=opt.manual_seed,
        rate=rate,
        lr=opt.train.optim_g.lr,
        schedule_length=schedule.get("T_max") or sum(schedule.get("periods", ())),
        print_freq=opt.logger.print_freq,
        save_freq=opt.logger.save_checkpoint_freq,
        val_freq=opt.val.val_freq or opt.train.total_iter,
        max_skipped_steps=opt.train.max_skipped_steps,
    )


def _data_from(opt: Options, largest: int) -> tuple[Dataset, dict[str, Dataset], dict[str, Callable]]:
    """The images to train on, in patches up to this side, those of every validation set by its word, and the metrics.

    Raises:
        UserError: see `ImageDataset.check`; validation images that a metric cannot measure, or without the truth that it needs.
    """
    train_set = build.build_dataset(opt.datasets["train"], "datasets.train", gt_size=largest)
    words = [key for key in opt.datasets if key.startswith("val")]
    val_sets = {key: build.build_dataset(opt.datasets[key], f"datasets.{key}") for key in words}
    metrics = build.build_metrics(opt.val)
    needy = [name for name, metric in metrics.items() if metric.needs_gt]
    for key, dataset in val_sets.items():
        if needy and not build.has_truth(dataset):
            raise UserError(f"datasets.{key}.dataroot_gt is missing: {needy[0]} needs the ground truth; add its folder.")
    for key, dataset in {"train": train_set, **val_sets}.items():
        build.check_dataset(dataset, f"datasets.{key}")
    for key, dataset in val_sets.items():
        build.check_counts(f"datasets.{key}", dataset, metrics, opt.val.max_images)
        if small := build.too_small(dataset, metrics, opt.val.max_images):
            faults = first_ten(f"{name} ({why})" for name, why in small.items())
            raise UserError(
                f"datasets.{key}: {faults}; remove these pictures, or choose other metrics or a smaller crop_border."
            )
    return train_set, val_sets, metrics


def _model_from(opt: Options, datasets: dict[str, Dataset]) -> tuple[ImageRestorationModel, Schedule]:
    """The model for these data sets, ready for its first step, and its learning rate."""
    # Its own patches, not those of the weights that it starts from.
    network_g, _ = with_training_patch(opt.network_g.as_dict(), None, opt.datasets["train"])
    net = build.build_net(network_g, opt.path)
    check_channels(net, opt, datasets)
    rate = make_schedule(opt.train.scheduler.type, opt.train.scheduler.arguments)
    model = build.model_class(opt)(
        net,
        device=build.prepare_machine(opt),
        precision=opt.train.precision,
        channels_last=opt.train.channels_last,
        compiled=opt.val.compile,
        cuda_graphs=opt.val.cuda_graphs,
    )
    model.prepare_training(
        losses=build.build_losses(opt),
        optimizer=build.build_optimizer(net, opt.train.optim_g),
        stage_weights=opt.train.stage_weights,
        max_grad_norm=opt.train.max_grad_norm,
        ema_decay=opt.train.ema_decay,
        activation_checkpointing=opt.train.activation_checkpointing,
        compiled=opt.train.compile,
        cuda_graphs=opt.train.cuda_graphs,
        find_unused_parameters=opt.find_unused_parameters,
        validation_precision=opt.val.precision,
    )
    return model, with_warmup(rate, opt.train.warmup_iter)


def _loader_from(opt: Options, train_set: Dataset, stages: tuple[Stage, ...], pin: bool) -> TrainLoader:
    data, mix = opt.datasets["train"], opt.train.mixing_augs
    return TrainLoader(
        train_set,
        stages,
        seed=opt.manual_seed,
        enlarge=data.dataset_enlarge_ratio,
        mixing=Mixing(mix.mixup_beta, mix.use_identity, mix.per_image, mix.from_iter) if mix.mixup else None,
        workers=data.num_worker_per_gpu,
        pin=pin,
    )


def _validation_from(
    opt: Options, val_sets: dict[str, Dataset], metrics: dict[str, Callable], model: ImageRestorationModel, folder: Path
) -> Validation:
    return Validation(
        val_sets,
        build.titles({key: opt.datasets[key].name or key for key in val_sets}),
        metrics,
        build.way_to_run(model.predict, opt.val, model.device),
        model.device,
        max_images=opt.val.max_images,
        batch_size=opt.val.batch_size,
        save_dir=folder / "visualization" if opt.val.save_img else None,
    )


def _watch_from(
    opt: Options, folder: Path, board: Path, metrics: list[str], validated: list[str], said: dict[str, Any]
) -> Callable[[Progress], Watch]:
    wandb = opt.logger.wandb
    arguments = {"project": wandb.project, "id": wandb.resume_id, "mode": wandb.mode, "config": said}
    return partial(
        Watch,
        folder=folder,
        name=opt.name,
        total_iter=opt.train.total_iter,
        metrics=metrics,
        validated=validated,
        board=board if opt.logger.use_tb_logger else None,
        wandb=arguments if wandb.project else None,
    )
