"""What a training leaves on disk to go on from: weights in models/, everything else in training_states/.

    models/net_g_<iteration>.pth     {"params": ..., "params_ema": ... with EMA}, readable by everything that reads BasicSR's
    models/net_g_{latest,best}.pth   the newest, and the one with the best value of the first metric
    training_states/<iteration>.state, latest.state

The model is written before its state, so a state that is there can be gone on from. Every file is whole or not there.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from basicsr.errors import UserError, first_ten
from basicsr.models.memory import FAILURES
from basicsr.models.optimizer import settings_of
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.options import display
from basicsr.utils.checkpoint import load_weights, read_torch, save_torch
from basicsr.utils.files import temporary_beside, write_bytes, writing
from basicsr.utils.keys import METADATA


@dataclass
class Progress:
    """How far a training is.

    iter: optimiser steps taken. seen: samples drawn. skipped: steps without learning, skipped_in_a_row: up to now.
    best: {"metric", "value", "iter"} of the first metric, or empty.
    window: the figures of the steps since the last line of the log.
    validate: a validation at `iter` is still to be done.
    """

    iter: int = 0
    seen: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    window: list[dict[str, float]] = field(default_factory=list)
    validate: bool = False


def find(folder: Path, *, resume_state: Path | None, auto_resume: bool) -> list[Path]:
    """The states to go on from, the first whole one of them: `resume_state` or, when asked for, those in `folder`, the one that
    was saved last first.

    Raises:
        UserError: `resume_state` does not exist.
    """
    if resume_state is not None:
        if not resume_state.is_file():
            raise UserError(f"path.resume_state: {resume_state} does not exist.")
        return [resume_state]
    if not auto_resume:
        return []
    latest = folder / "training_states" / "latest.state"
    return [*filter(Path.is_file, [latest]), *sorted(_numbered(folder), key=_iteration, reverse=True)]


@dataclass(frozen=True)
class States:
    """The states of a run, and what is written down in each to tell what has changed since.

    folder: experiments/<name>. about: what the weights say of themselves. keep: how many states stay there, or 'all'.
    options: of the run, as plain values. images: number of training images. batches: the global batch of every stage.
    """

    folder: Path
    about: Mapping[str, str]
    keep: int | Literal["all"]
    options: Mapping[str, Any]
    images: int
    batches: Sequence[int]

    def model_file(self, label: int | str) -> Path:
        return self.folder / "models" / f"net_g_{label}.pth"

    def save_model(self, model: ImageRestorationModel, label: int | str) -> Path:
        content = {"params": model.net.state_dict()}
        if model.ema is not None:
            content["params_ema"] = model.ema.module.state_dict()
        content[METADATA] = dict(self.about)
        file = self.model_file(label)
        save_torch(file, content)
        return file

    def save(self, model: ImageRestorationModel, progress: Progress) -> None:
        """Write model and state of this moment, and remove those that are older than the last `keep`."""
        model_file = self.save_model(model, progress.iter)
        state = {
            **asdict(progress),
            "optimizer": model.optimizer.state_dict(),
            "groups": _groups(model),
            "scaler": model.scaler.state_dict(),
            "ema_updates": None if model.ema is None else int(model.ema.n_averaged),
            "images": self.images,
            "batches": list(self.batches),
            "options": self.options,
        }
        state_file = self.folder / "training_states" / f"{progress.iter}.state"
        save_torch(state_file, state)  # last: a state file means that its model is there
        _link(state_file, self.folder / "training_states" / "latest.state")
        _link(model_file, self.model_file("latest"))
        if self.keep != "all":
            self._remove_all_but(self.keep, progress.iter)

    def load_newest(self, model: ImageRestorationModel, files: Sequence[Path]) -> tuple[Progress, list[str]]:
        """`load` of the first file that is whole, and has whole weights beside it.

        Raises:
            UserError: as `load`; none is whole.
        """
        faults = []
        for file in files:
            if fault := _fault_of(file):
                faults.append(fault)
                continue
            progress, notes = self.load(model, file)
            return progress, [*(f"{fault}: going on from an earlier one." for fault in faults), *notes]
        others = [file for file in sorted(_numbered(files[0].parents[1]), key=_iteration, reverse=True) if file not in files]
        whole = next((file for file in others if not _fault_of(file)), None)
        instead = "start anew without it" if whole is None else f"{display(whole)} is whole: name it in path.resume_state"
        raise UserError(f"{first_ten(faults)}; {instead}.")

    def load(self, model: ImageRestorationModel, file: Path) -> tuple[Progress, list[str]]:
        """Put a saved moment into the model. Where options have changed since, the present ones hold.

        Returns:
            How far it was, and what is to be said about it.

        Raises:
            UserError: not a training state, or one of another network or optimiser.
        """
        state = read_torch(file)
        if not _is_state(state):
            raise UserError(f"{file} is no training state; take one of experiments/<name>/training_states.")
        model_file = _model_of(file, state)
        load_weights(model.net, model_file, param_key="params")
        self._load_optimizer(model, state, file)
        _load_ema(model, model_file, state.get("ema_updates"))
        progress = Progress(**{name: state[name] for name in Progress.__dataclass_fields__ if name in state})
        resumed = f"Resumed from {display(file.with_name(f'{progress.iter}.state'))} at iteration {progress.iter}."
        return progress, [resumed, *self._changes(state)]

    def _load_optimizer(self, model: ImageRestorationModel, state: Mapping[str, Any], file: Path) -> None:
        """Its moments and the loss scale; learning rates and the like stay as they are in the model."""
        own = settings_of(model.optimizer)
        instead = "undo that change, or start from the weights with path.pretrain_network_g."
        if state["groups"] != _groups(model):
            raise UserError(f"{file}: its optimizer has other groups of parameters than train.optim_g; {instead}")
        kind = "train.optim_g.type"
        was, now = _flat(state.get("options", {})).get(kind), _flat(self.options).get(kind)
        if was and was != now and {was, now} != {"Adam", "AdamW"}:  # these two keep the same things
            raise UserError(f"{file}: its optimizer is {was}, {kind} is {now}; {instead}")
        try:
            for group, settings in zip(state["optimizer"]["param_groups"], own, strict=True):
                group.update(settings)
            model.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:  # empty when the run was not in fp16
                model.scaler.load_state_dict(state["scaler"])
        except FAILURES:
            raise UserError(f"{file}: what it holds of the optimizer is not whole; take another state.") from None

    def _changes(self, state: Mapping[str, Any]) -> list[str]:
        """What is different from when a state was saved, in sentences."""
        before, now = _flat(state.get("options", {})), _flat(self.options)
        changes = [
            f"{key} is {now.get(key)} (was {before.get(key)})"
            for key in sorted(before.keys() | now.keys())
            if before and before.get(key) != now.get(key) and not key.startswith(("path.", "img_path.", "name"))
        ]
        notes = [f"Changed since that state, and valid from here on: {'; '.join(changes)}."] if changes else []
        images, batches = state.get("images", self.images), state.get("batches", list(self.batches))
        if images != self.images:
            notes.append(f"There are {self.images} training images, there were {images}: samples come in another order.")
        if batches != list(self.batches):  # another number of processes, if no option says so
            was, now = (", ".join(map(str, sizes)) for sizes in (batches, self.batches))
            notes.append(
                f"The global batch is {now}, it was {was}: give datasets.train.batch_size to keep it whatever the processes."
            )
        return notes

    def _remove_all_but(self, count: int, now: int) -> None:
        """Older ones only: a run that goes on from an earlier state leaves the later ones alone."""
        old = sorted((file for file in _numbered(self.folder) if _iteration(file) <= now), key=_iteration)[:-count]
        for file in old:
            file.unlink(missing_ok=True)
            self.model_file(file.stem).unlink(missing_ok=True)


def _groups(model: ImageRestorationModel) -> list[list[str]]:
    """The names of the parameters in each of the optimiser's groups, whose state has only their order."""
    names = {parameter: name for name, parameter in model.net.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in model.optimizer.param_groups]


def _load_ema(model: ImageRestorationModel, model_file: Path, updates: int | None) -> None:
    if model.ema is None:
        return
    load_weights(model.ema.module, model_file, param_key="params" if updates is None else "params_ema")
    model.ema.n_averaged.fill_(updates or 0)


def _fault_of(file: Path) -> str:
    """Why a state cannot be gone on from, or ''."""
    try:
        state = read_torch(file)
        if _is_state(state):
            read_torch(_model_of(file, state))
    except UserError as error:
        reason = str(error).rstrip(".")
        return f"{display(file)}, or the weights that belong to it, is damaged or not there ({reason})"
    return ""


def _is_state(state: Mapping[str, Any]) -> bool:
    """Whether all is there, of its type: the file may be anyone's."""
    kinds = {"iter": int, "seen": int, "optimizer": Mapping, "groups": list, "scaler": Mapping}
    if not all(isinstance(state.get(word), kind) for word, kind in kinds.items()) or state["iter"] < 0:
        return False
    more = {"skipped": int, "skipped_in_a_row": int, "best": Mapping, "window": list, "options": Mapping, "batches": list}
    return all(isinstance(state[word], kind) for word, kind in more.items() if word in state)


def _model_of(file: Path, state: Mapping[str, Any]) -> Path:
    return file.parents[1] / "models" / f"net_g_{state['iter']}.pth"


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in options.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _numbered(folder: Path) -> list[Path]:
    return [file for file in (folder / "training_states").glob("*.state") if re.fullmatch(r"\d+", file.stem)]


def _iteration(file: Path) -> int:
    return int(file.stem)


def _link(file: Path, name: Path) -> None:
    """Another name for a file, without another copy where the file system can do that."""
    temporary = temporary_beside(name)
    with writing(name):
        try:
            os.link(file, temporary)
        except OSError:
            write_bytes(name, file.read_bytes())
        else:
            os.replace(temporary, name)
