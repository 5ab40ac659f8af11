"""The code that runs inside a trial. A trainable is any callable that keeps this contract.

    trainable(config: samtune.TrialConfig) -> None

It trains with the variant, base optimizer, knobs, task, budget and seeds of `config`. It calls
`samtune.report(epoch=..., val_acc=..., see=..., ...)` once per epoch, after that epoch's
checkpoint is on disk. A checkpoint in `config.checkpoint_dir` is its own, from before an
interruption, and it continues from there. It returns when the budget is spent, or after the first
report with a non-finite loss. An exception makes only this trial an error.

These attributes say what a space file may set:

    variant: str                          name of the optimizer variant
    bases: tuple[str, ...]                base optimizers it takes, the default first
    other_bases: bool                     takes the path of any optimizer class as a base, too:
                                          knobs(base) raises ValueError for one it cannot have
    knobs(base) -> dict[str, Knob]        every word allowed under `knobs:`
    task: dict[str, Knob]                 every word allowed under `task:`
    metrics: dict[str, "max" | "min"]     what a search may improve, and which way
    check(knobs, base)                    raises ValueError for knobs that exclude each other
    check_task(task, epochs)              raises ValueError for words no such trial can have
    faults(knobs, base, task, gpus=, workers=) -> list[str]
                                          combinations that no trial can have; each sentence begins
                                          with the word that it is about, `task.graph: ...`
    one_gpu: bool                         a process of it computes on one GPU, so gpus above 1 is
                                          refused
    lacks(task, gpus) -> str | None       what this machine lacks for such trials, a sentence
    make_ready(task)                      raises ValueError when no trial could begin
    doubts(task) -> list[str]             what makes its data doubtful, shown by --dry-run
    references(task, base) -> list[str]   the user's own code that the words name, `module:name`
    see_per_epoch(knobs, base) -> float   cost of an epoch in SGD-epoch equivalents, by theory

It must pickle by reference, as a module's function does. `trainables.vision` has the shipped
ones; a space names another by its dotted path, `trainable: my_package.my_module:my_trainable`.
"""
