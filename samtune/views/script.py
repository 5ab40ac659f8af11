"""Python that trains one configuration: a complete script, without a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samtune.messages import unit
from samtune.space.trainable import SHIPPED_MODULE, full_reference, resolve
from samtune.trial import TrialConfig

_LINE = 99

_SHIPPED = '''"""{title}

The data, the model and the loss are those of the run. To train something else, put your own in
place of `load`, `build_for` and `cross_entropy`.
"""

{first}import torch

from samtune.optimizers import {names}, GradientOracle
from samtune.trial import Budget
from trainables.augment import Augment, Normaliser
from trainables.batches import Batches
from trainables.budget import Meter
from trainables.checkpoint import seed_rng
from trainables.data import load
from trainables.evaluation import Predictor, evaluate
from trainables.models import build_for
{imports}from trainables.parallel import ALONE
from trainables.precision import Precision
from trainables.schedule import Schedule
from trainables.targets import Mixer, cross_entropy

TASK = {task}
LR = {lr!r}
BUDGET = Budget({kind!r}, {per_trial!r})  # {epochs}

torch.set_num_threads({threads})
device = torch.device({device})
{same}seed_rng({order})

# uint8 images and labels; normalised to mean 0 and standard deviation 1 per channel.
data = load(TASK, split_seed={split})
train, val = data.train.resident(device), data.val.resident(device)
normalise = Normaliser(data.mean.to(device), data.std.to(device))
precision = Precision.of(TASK, device)
augment = Augment(TASK["augment"], normalise, {order}, precision.memory_format)
mix = Mixer(TASK["mixup"], TASK["cutmix"], data.classes, {order})
loss = cross_entropy(TASK["label_smoothing"])

model = build_for(TASK, tuple(train.images.shape[1:]), data.classes, seed={init})
model = precision.place(model, "model")
{weights}
{optimizer}

# The learning rate follows the task's schedule over the whole budget.
batch_size = min(TASK["batch_size"], len(train))
meter = Meter(BUDGET, len(train), batch_size, Schedule.of(TASK, LR))
batches = Batches(train, meter.batches, augment, mix, device, ALONE)
predict = Predictor(model, normalise, precision)
scaler = precision.scaler()
while not meter.finished():
    meter.epoch += 1
    {module}.train()
    for _, inputs, targets in batches.epoch(meter.epoch):
{thaw}        for group in optimizer.base.param_groups:
            group["lr"] = LR * meter.lr_share
        optimizer.set_progress(meter.progress, meter.lr_share)
        done = optimizer.step(
            GradientOracle(model, inputs, targets, loss, autocast=precision.dtype, scaler=scaler)
        )
        cost = done.forward_samples, done.backward_samples
        meter.count(len(targets), cost, done.skipped, seconds=0.0)
        if meter.finished():
            break
    found = evaluate(predict, val)
    print(f"epoch {{meter.epoch}}: val_acc {{found['acc']:.4f}}, val_loss {{found['loss']:.4f}}")
'''

_OWN = '''"""{title}"""

{imports}

CONFIG = {config}

with running(TrialConfig.from_dict(CONFIG), print):
    {call}(TrialConfig.from_dict(CONFIG))
'''


def script(config: TrialConfig, title: str, epochs: float, threads: int) -> str:
    """Return a script that trains a configuration.

    For samtune's own trainables it is a training loop, which repeats the trial's results on the
    same machine. For the user's own it is a call of the trainable with the same configuration.

    Args:
        config: the trial.
        title: the script's first sentence.
        epochs: how many epochs the trial took.
        threads: how many threads it used.
    """
    if full_reference(config.trainable).split(":")[0] == SHIPPED_MODULE:
        return _shipped(config, title, epochs, threads)
    return _own(config, title)


def _shipped(config: TrialConfig, title: str, epochs: float, threads: int) -> str:
    trainable = resolve(config.trainable)
    task = {name: config.task.get(name, knob.default) for name, knob in trainable.task.items()}
    budget = config.budget
    if budget.kind == "seconds":
        # In the same seconds, another machine makes more or fewer steps.
        kind, per_trial = "epochs", float(epochs)
    else:
        kind, per_trial = budget.kind, budget.per_trial
    names, optimizer = _optimizer(config, trainable.variant_class)
    return _SHIPPED.format(
        title=title,
        **_of_device(config.gpus, deterministic=bool(task["deterministic"])),
        **_of_frozen(bool(task["freeze"])),
        names=names,
        task=_literal(task),
        lr=config.knobs["lr"],
        kind=kind,
        per_trial=per_trial,
        epochs=f"{unit(kind)}; the trial took {epochs:g} epochs",
        threads=threads,
        order=config.seeds.order,
        init=config.seeds.init,
        split=config.seeds.split,
        optimizer=optimizer,
    )


def _of_device(gpus: float, *, deterministic: bool) -> dict[str, str]:
    """Return the lines about the device: the trial's own kind, if the machine has it."""
    found = {"first": "", "same": "", "device": '"cpu"'}
    if gpus:
        found["device"] = '"cuda" if torch.cuda.is_available() else "cpu"'
    if deterministic:
        found["first"] = "import os\n\n"
        found["same"] = (
            'os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"\n'
            "torch.use_deterministic_algorithms(True)\n"
        )
    return found


def _of_frozen(freezes: bool) -> dict[str, str]:
    """Return the lines about the parameters that are trained, and about those that may thaw."""
    if not freezes:
        weights = "[weight for weight in model.parameters() if weight.requires_grad]"
        return {"imports": "", "weights": f"weights = {weights}", "module": "model", "thaw": ""}
    return {
        "imports": "from trainables.models.freezing import Frozen, trained\n",
        "weights": "weights, frozen = trained(model, TASK), Frozen.of(TASK, model)",
        "module": "frozen",
        "thaw": "        frozen.thaw(meter.progress)\n",
    }


def _optimizer(config: TrialConfig, variant: Any) -> tuple[str, str]:
    """Return the names to import and the lines that build the optimizer."""
    from samtune.optimizers import base_of

    own = {name: config.knobs[name] for name in variant.knobs() if name in config.knobs}
    own["seed"] = config.seeds.order
    if not variant.bases:
        call = _call(f"optimizer = {variant.__name__}", ["weights", "n_data=len(train)"], own)
        return variant.__name__, call
    known = base_of(variant, config.base).knobs
    given = {name: value for name, value in config.knobs.items() if name in known}
    base = _call(f"base = base_of({variant.__name__}, {config.base!r}).build", ["weights"], given)
    call = _call(f"optimizer = {variant.__name__}", ["base"], own)
    return f"{variant.__name__}, base_of", f"{base}\n{call}"


def _own(config: TrialConfig, title: str) -> str:
    module, _, name = full_reference(config.trainable).rpartition(":")
    plain = {**config.to_dict(), "checkpoint_dir": None, "test_permit": None}
    imports = ["from samtune.trial import TrialConfig, running"]
    if name.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        imports, call = [f"from {module} import {name}", "", *imports], name
    else:
        imports = ["from samtune.space.trainable import resolve", *imports]
        call = f"resolve({config.trainable!r})"
    return _OWN.format(title=title, imports="\n".join(imports), config=_literal(plain), call=call)


def _literal(values: Mapping[str, Any]) -> str:
    """Return a dict as Python, an entry per line."""
    return "\n".join(["{", *(f"    {name!r}: {value!r}," for name, value in values.items()), "}"])


def _call(head: str, arguments: list[str], named: Mapping[str, Any]) -> str:
    """Return a call on one line, or with an argument per line where one line is too short."""
    words = [*arguments, *(f"{name}={value!r}" for name, value in named.items())]
    line = f"{head}({', '.join(words)})"
    if len(line) <= _LINE:
        return line
    return "\n".join([f"{head}(", *(f"    {word}," for word in words), ")"])
