"""The settings that every training run has; the schema of a task extends `Run` (see `rdm_jax.core.schema`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from rdm_jax.bundle import DTYPES
from rdm_jax.core import options, values
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.schema import Fields, Text, missing, one_of, section_values, within
from rdm_jax.heads import options_of
from rdm_jax.request import DATABASES, Request
from rdm_jax.training.step import DECAYS, OPTIMIZERS

Probability = Annotated[float, within(0.0, 1.0)]
Count = Annotated[int, within(0)]
Positive = Annotated[int, within(1)]


def network(classes: Mapping[str, Any], filled: tuple[str, ...] = (), by: str = "kind", default: str = "") -> Fields:
    """Returns the section of a network: its keys are the fields of its class, but for those that the task fills in."""
    return Network(classes, by=by, filled=filled, checks={"dtype": one_of(DTYPES)}, default=default)


@dataclasses.dataclass(frozen=True)
class Network(Fields):
    """A network's section: its whole numbers are sizes and counts, of at least 1 where the default is no smaller."""

    def read(self, key: str, value: Any) -> dict[str, Any]:
        """Returns the section at a key."""
        values = super().read(key, value)
        cls = self.classes[str(values[self.by])] if self.by else next(iter(self.classes.values()))
        for field in (field for field in dataclasses.fields(cls) if field.name in values):
            given, default = values[field.name], field.default
            least = min(1, default) if isinstance(default, int) else 1
            for number in given if isinstance(given, tuple) else (given,):
                if isinstance(number, int) and not isinstance(number, bool) and number < least:
                    raise UserError(f"config key {key}.{field.name}={given} is out of range; give {least} or more")
        return values


@dataclasses.dataclass(frozen=True)
class Sampling(Fields):
    """An exported model's `sampling` section.

    Its keys are options of `classes`, `Request` and the head's, and `DATABASES`, the default ones. Those of figures
    are required.
    """

    def read(self, key: str, value: Any) -> dict[str, Any]:
        """Returns the section at a key, its values of the options' types."""
        owners = {name: cls for cls in self.classes.values() for name in options.declarations(cls)}
        given = dict(section_values(key, value))
        for name in given:
            if name not in DATABASES and name not in owners:
                raise unknown("config key", f"{key}.{name}", [f"{key}.{known}" for known in (*DATABASES, *owners)])
        for name in ("condition", "height", "width"):
            if name not in given:
                raise missing(f"{key}.{name}")
        checked = {
            name: _parsed(owners.get(name), name, key, one) if isinstance(one, Text) else one
            for name, one in given.items()
        }
        for name in DATABASES:
            if not isinstance(checked.get(name, ""), str):
                raise UserError(f"config key {key}.{name} is {checked[name]!r}, and must be a text")
        for cls in {owners[name] for name in checked if name not in DATABASES}:
            own = {name: one for name, one in checked.items() if owners.get(name) is cls}
            built = options.build(cls, own, {})
            if hasattr(built, "check"):  # of ranges; it is the same when images are generated
                built.check()
            checked |= {name: getattr(built, name) for name in own if not options.declarations(cls)[name].table}
        return checked


def _parsed(owner: type | None, name: str, key: str, text: Text) -> Any:
    """Returns a text from the command line as the type of an option; calls, and options of no class, stay texts."""
    kind = str if owner is None or options.declarations(owner)[name].table else options.kind_of(owner, name)
    try:
        return values.parse(tuple[float, ...] if kind is tuple else kind, str(text))
    except ValueError as error:
        raise UserError(f"config key {key}.{name}: {error}") from error


def sampling_options(head: str) -> Sampling:
    """Returns the section of an exported model's default options for a head."""
    return Sampling({"request": Request, "head": options_of(head)}, by="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The training images.

    Attributes:
      source: a folder, a zip file or the name of a TFDS set.
      split: of the source; "" for a folder or zip file that has none.
      data_dir: where sets and caches are; caches of sets in object storage are in data/.
      size: of the images in pixels.
      cache: decode all images once, into `data_dir`; otherwise each time one is read.
      prepare: make a procedural set that is not there yet.
    """

    source: str = "style_scenes"
    split: str = "train"
    data_dir: str = "data"
    size: Positive = 64
    cache: bool = True
    prepare: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitData(Data):
    """Images with a split for evaluation.

    Attributes:
      held_out: the split to evaluate on; "" holds out every twentieth image.
    """

    held_out: str = "validation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentData(Data):
    """Images that a first stage encodes.

    Attributes:
      cache_latents: encode all images once, into `data_dir`; otherwise in every step.
      mirror: mirror half of the images, where they are encoded in every step.
    """

    cache_latents: bool = True
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.mirror and self.cache_latents:
            raise UserError("data.mirror=true needs data.cache_latents=false: cached latents are never mirrored")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitLatentData(SplitData, LatentData):
    """Images that a first stage encodes, with a split for evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimizer and its learning rate.

    Attributes:
      kind: a name in `step.OPTIMIZERS`.
      learning_rate: after the warm-up.
      warmup: steps in which the rate grows from 0.
      decay: of the rate, a name in `step.DECAYS`.
      b1: of AdamW's first moment.
      b2: of its second moment.
      weight_decay: of matrices.
      clip_norm: the largest norm of the gradient; 0 does not clip.
      frozen: regular expressions of parameters that are not trained.
    """

    kind: Annotated[str, one_of(OPTIMIZERS)] = "adamw"
    learning_rate: Annotated[float, within(0.0)] = 1e-3
    warmup: Count = 100
    decay: Annotated[str, one_of(DECAYS)] = "cosine"
    b1: Probability = 0.9
    b2: Probability = 0.999
    weight_decay: Annotated[float, within(0.0)] = 0.0
    clip_norm: Annotated[float, within(0.0)] = 1.0
    frozen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """How the state is split over devices.

    Attributes:
      fsdp: devices that share one copy of the state.
      rules: (regular expression, tactic) of parameters; see `core.mesh`.
    """

    fsdp: Positive = 1
    rules: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """Which steps are traced.

    Attributes:
      start: the first one.
      steps: how many; 0 for none.
    """

    start: Count = 0
    steps: Count = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The settings of every run.

    Attributes:
      task: a name in `training.tasks.TASKS`.
      name: of the exported model.
      seed: of all random numbers.
      steps: updates, one of `batch_size` examples each.
      batch_size: over all devices.
      log_every: steps between metrics; this and the following intervals are 0 for never.
      eval_every: steps between evaluations.
      evaluators: what evaluations measure: "loss", and metrics of generated images (`training.evaluators`).
      evaluated_images: images that they generate, at most as many as are held out.
      evaluator_features: bundles with the feature networks of these metrics; networks of the project stand in.
      figures_every: steps between figures.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: how many of the newest checkpoints stay.
      keep_every: checkpoints of multiples of this step stay too.
      snapshot_every: steps between snapshots of two power-function averages, for `rdm export --ema-length`.
      ema_decay: of the moving average of parameters; 0 for none.
      accumulate: parts of a batch, one after the other on the devices.
      threads: that read batches.
      init_partial: take from `--init-from` the parameters of the same name and shape, and initialize the others.
      process_timeout: seconds without a sign of life of another process until this one stops.
      wandb: the project at Weights & Biases; "" for none.
      compiler_options: of XLA, as {"xla_backend_optimization_level": 0}, for the step and the first state.
      profile: which steps are traced.
      mesh: how the state is split over devices.
      data: the training images.
      optimizer: the optimizer and its learning rate.
    """

    task: str
    name: str = "unnamed"
    seed: Annotated[int, within(0, 2**32 - 1)] = 0
    steps: Positive
    batch_size: Positive
    log_every: Count = 50
    eval_every: Count = 0
    evaluators: tuple[str, ...] = ("loss",)
    evaluated_images: Positive = 64
    evaluator_features: tuple[str, ...] = ()
    figures_every: Count = 0
    checkpoint_every: Positive = 500
    keep_checkpoints: Positive = 2
    keep_every: Count = 0
    snapshot_every: Count = 0
    ema_decay: Probability = 0.999
    accumulate: Positive = 1
    threads: Positive = 4
    init_partial: bool = False
    process_timeout: Annotated[float, within(0.0)] = 120.0
    wandb: str = ""
    compiler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    profile: Profile
    mesh: Mesh
    data: SplitData
    optimizer: Optimizer

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise UserError(
                f"batch_size={self.batch_size} is not divisible by accumulate={self.accumulate}; choose a multiple"
            )
