"""The words under `task:` that the shipped trainables take, those of the data set included."""

from __future__ import annotations

import os

from samtune.optimizers import Knob
from samtune.optimizers.knobs import KnobError
from trainables import augment, averaging, data_task, models, precision, schedule


class _ModelKnob(Knob):
    """A name that `trainables.models` can build, such as `resnet18` or `torchvision:resnet50`."""

    def check(self, value: object) -> str:
        try:
            models.check_name(str(value))
        except models.ModelError as error:
            raise KnobError(f"{self.name}: {error}") from error
        return str(value)


class _FileKnob(Knob):
    """A path, which is made absolute, or ""."""

    def check(self, value: object) -> str:
        if not isinstance(value, str):
            raise KnobError(f"{self.name} is {value!r}; it must be the path of a file")
        return os.path.abspath(os.path.expanduser(value)) if value else ""


_KNOBS = (
    *data_task.TASK,
    _ModelKnob(
        name="model",
        kind=str,
        default="small_cnn",
        choices=tuple(models.MODELS),
        doc="network, torchvision:NAME, timm:NAME or my_package.my_module:my_model; its weights "
        "are drawn from the init seed",
        source="trainables/models",
    ),
    Knob(
        name="dropout",
        kind=float,
        default=0.0,
        low=0.0,
        high=0.9,
        safe=(0.0, 0.5),
        doc="rate of dropout in each block of resnet... and wrn...; 0 is off",
        source="Zagoruyko and Komodakis 2016, section 3: 0.3 on CIFAR, 0.4 on SVHN",
    ),
    _FileKnob(
        name="weights",
        kind=str,
        default="",
        doc="file of a state dict to start from; a head for other classes is drawn anew",
        source="trainables/models/pretrained.py",
    ),
    Knob(
        name="freeze",
        kind=str,
        default="",
        doc="parameters that are not trained, by the name of each or of its module, with *: "
        "[conv1, layer1.*]; their BatchNorm keeps its statistics",
        source="trainables/models/freezing.py",
        lists=True,
    ),
    Knob(
        name="unfreeze_at",
        kind=float,
        default=1.0,
        low=0.0,
        high=1.0,
        doc="share of the budget after which the frozen parameters are trained too; 1: never",
        source="Howard and Ruder 2018, section 3.3: gradual unfreezing",
    ),
    Knob(
        name="batch_size",
        kind=int,
        default=64,
        low=1,
        safe=(8, 4096),
        scale="log",
        doc="images per step; the last batch of an epoch holds the rest, and a rest of one image "
        "joins the batch before",
        source="BatchNorm needs several images to normalise over",
    ),
    *schedule.KNOBS,
    Knob(
        name="augment",
        kind=str,
        default="none",
        choices=augment.KINDS,
        doc="standard: random crop and flip; cutout: and a blank square; randaugment: and two "
        "random operations; imagenet: random resized crop and flip",
        source="trainables/augment.py",
    ),
    Knob(
        name="mixup",
        kind=float,
        default=0.0,
        low=0.0,
        safe=(0.0, 1.0),
        doc="alpha of mixup: images are mixed by shares from Beta(alpha, alpha); 0 is off",
        source="Zhang et al. 2018: 1 on CIFAR-10, 0.2 on ImageNet; DeiT: 0.8",
    ),
    Knob(
        name="cutmix",
        kind=float,
        default=0.0,
        low=0.0,
        safe=(0.0, 1.0),
        doc="alpha of cutmix: boxes of shares from Beta(alpha, alpha) come from another image; "
        "0 is off",
        source="Yun et al. 2019: 1",
    ),
    Knob(
        name="label_smoothing",
        kind=float,
        default=0.0,
        low=0.0,
        high=1.0,
        safe=(0.0, 0.2),
        doc="share of each training target that is spread evenly over all classes",
        source="Szegedy et al. 2016: 0.1",
    ),
    Knob(
        name="precision",
        kind=str,
        default="auto",
        choices=precision.PRECISIONS,
        doc="dtype of the passes, weights are float32; auto: bf16 on CUDA, fp32 on the CPU",
        source="trainables/precision.py",
    ),
    Knob(
        name="memory_format",
        kind=str,
        default="auto",
        choices=precision.MEMORY_FORMATS,
        doc="layout of images and convolutions; auto: channels_last on CUDA",
        source="torch's names for it",
    ),
    Knob(
        name="compile",
        kind=bool,
        default=False,
        doc="torch.compile of the model; pays when an architecture trains for many minutes",
        source="trainables/precision.py",
    ),
    Knob(
        name="combo_kernels",
        kind=bool,
        default=False,
        doc="with compile: kernels that do not need each other become one, which launches fewer; "
        "not measured on a GPU yet",
        source="torch's option for inductor",
    ),
    Knob(
        name="graph",
        kind=bool,
        default=False,
        doc="a CUDA graph of the whole step: the host launches it at once, which pays where the "
        "GPU waits for the host. Refused for ae_sam, dropout, fp16 and several workers; not "
        "measured on a GPU yet",
        source="trainables/graphs.py",
    ),
    Knob(
        name="deterministic",
        kind=bool,
        default=False,
        doc="only kernels that compute the same bits in every run, which are slower on a GPU; an "
        "operation without one is an error. The CPU's are such in any case",
        source="torch.use_deterministic_algorithms",
    ),
    Knob(
        name="checkpoint_every",
        kind=int,
        default=1,
        low=1,
        safe=(1, 100),
        doc="epochs from one checkpoint to the next; after the last epoch there is always one. An "
        "interrupted trial repeats the epochs since its last one",
        source="trainables/saver.py",
    ),
    Knob(
        name="posterior_samples",
        kind=int,
        default=8,
        low=0,
        safe=(0, 64),
        doc="draws of the weights whose predictions are averaged in the last evaluation of a "
        "variant with a posterior (bayesian_sam), one evaluation each; 0: none",
        source="bSAM's code: 32",
    ),
    *averaging.KNOBS,
    Knob(
        name="batch_norm",
        kind=str,
        default="sync",
        choices=("sync", "local"),
        doc="with several workers per trial; sync: statistics of the whole batch, as on one; "
        "local: of each worker's part, which needs no reductions",
        source="trainables/batch_norm.py",
    ),
    Knob(
        name="sync_perturbation",
        kind=bool,
        default=True,
        doc="with several workers per trial; false: each perturbs by its own part of the batch, "
        "m-sharpness with m = batch_size / workers",
        source="Foret et al. 2021, section 4.1",
    ),
)
TASK = {knob.name: knob for knob in _KNOBS}
"""The knobs by name, in the order in which they are shown."""
