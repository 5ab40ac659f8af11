"""The columns of the Parquet tables of a run: name, type, and meaning with unit and formula.

A line declares one column: its name with `!` where it is never null, its Arrow type, and its
meaning. An indented line continues the meaning. `python docs/make_reference.py`
makes a page of them.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple


class Column(NamedTuple):
    """A declared column."""

    name: str
    type: str
    nullable: bool
    meaning: str


_TASK = """
variant! string  name of the variant, `sam`
base_optimizer! string  name or path of the base optimizer, `sgd`
dataset! string  `dataset` of the task; empty where a trainable's task has none
model! string  `model` of the task; empty where it has none
label_noise float64  `label_noise` of the task, a share of 1
augment! string  changes made to training images and targets, `cutout, mixup 0.2`
task! string  all words of the task, as JSON with sorted keys
"""

_BUDGET = """
budget_kind! string  unit of the budget: `compute` (see), `epochs` or `seconds`
budget_max! float64  budget of one full trial, in that unit
"""

_METRIC = """
metric string  metric that the search improves
mode string  `max` or `min`: which values of the metric are better
"""

_TIE = """
tie_margin float64  `confirm.margin` of the space: the largest difference that counts as a tie
"""

_AIMS = """
aims string  metrics of the search in their order, each `max` or `min`, as JSON
constraints string  `search.constraints` of the space, as JSON
feasible bool  whether its last report keeps the constraints; null where there are none
pareto bool  whether no other full trial of its search that keeps the constraints is as good in
    each metric and better in one; null where the search has one metric
"""

_SHARP_SETTINGS = """
sharp_samples int64  training images on which the sharpness was measured
sharp_m int64  images per chunk of the worst-case measures
sharp_rho float64  radius of the worst-case measures
sharp_bn_mode string  statistics of BatchNorm: `eval` for the running ones, `train` for the batch's
"""

_BESIDE = {
    "sampled": "of the mean prediction of bSAM's draws (`task.posterior_samples`)",
    "averaged": "of the averaged weights (`task.average`)",
}
_FIGURES = {
    "acc": "accuracy on test",
    "loss": "loss on test",
    "ece": "expected calibration error on test",
    "brier": "Brier score on test",
}
# What a repeat reports of another model than that of its last weights.
BESIDE = {
    f"test_{figure}_{model}": f"{what} {of}"
    for model, of in _BESIDE.items()
    for figure, what in _FIGURES.items()
}
_ON_TEST = "\n".join(f"{name} float64  {meaning}" for name, meaning in BESIDE.items())
_MEANS = "\n".join(f"{name}_mean float64  mean of `{name}` over the repeats" for name in BESIDE)

_AVERAGED = """
val_loss_averaged float64  loss on validation of the averaged weights (`task.average`)
val_acc_averaged float64  accuracy on validation of the averaged weights, a share of 1
"""

_COMPARISON = """
n int16  seed bundles that both completed; searches where the verdict is about the variant
diff_mean float64  mean paired difference on test; positive where the row (or `a`) is better
diff_se float64  standard error of `diff_mean`, from n differences
diff_lo float64  lower end of its 95 % paired t interval; with added seeds, of the e-value's
diff_hi float64  upper end of the interval of the difference
p float64  two-sided p of the paired t test, n - 1 degrees of freedom; with added seeds 1 / e-value
p_holm float64  `p` after Holm, over the rows compared with the baseline (or over all pairs)
p_tied float64  larger p of two one-sided t tests of |difference| >= margin
images_lo float64  lower end of the 95 % interval of the difference if test images were drawn anew
    too (crossed design of seeds and images); null unless all repeats share one test split
images_hi float64  upper end of the interval over seeds and images
images_p float64  two-sided p over seeds and images, before Holm
wins float64  share of the n in which the row (or `a`) is better; a tie counts one half
margin float64  largest difference that counts as a tie
mde float64  least difference found with 80 % power at this n and level 0.05 / comparisons
seeds_needed float64  bundles for 80 % power at `diff_mean`; null where no number suffices, and
    where the verdict is about the variant
searches_needed float64  searches for 80 % power, where the verdict is about the variant
"""

_ROW = """
run! string  name of the run
study! int16  number of the search in its run, from 0
space! string  name of the row on the board, mostly that of its space
search! int16  number of the search among those of its row, from 0
"""

# A run of a configuration on fresh seeds, by the select stage or by the confirmation.
_AGAIN = """
source_trial_key! string  key of the trial whose configuration is run again
config_sha! string  digest of the configuration
rank_in_search! int16  place of that trial in the choice of the winner, from 0
seed_bundle! int32  fresh seeds of split, weights and order; rows pair on equal bundles
"""

_VALIDATED = """
val_acc float64  accuracy on validation at the end, a share of 1
val_loss float64  loss on validation at the end
see float64  compute of the run, SGD-epoch equivalents
train_s float64  seconds of training
ckpt_sha256 string  SHA-256 of the last checkpoint
state! string  how it ended, in the words of trials
"""

_DECLARED = {
    "trials": f"""
{_ROW}
trial! int32  number of the trial in its space, from 0
trial_key! string  key of the trial, for joins with curves and repeats
{_TASK}
n_train int32  images of the training split
n_val int32  images of the validation split
n_params int64  parameters of the model
stage! string  stage of the run, always `search`
search_alg! string  search method, `tpe`
scheduler! string  rule that stops trials early, `asha 8 x 2`
knobs_searched! string  names of the searched knobs, as JSON
{_METRIC}
{_TIE}
{_AIMS}
config_json! string  base optimizer and all knobs, as JSON with sorted keys
config_sha! string  digest of the configuration
origin! string  where its configuration comes from: such as `default` or `sampled`
seed_init! int64  seed of the initial weights
seed_order! int64  seed of the batch order
seed_split! int64  seed of the split into training and validation
{_BUDGET}
horizon_steps int64  steps of the full schedule: `steps_done` x `budget_max` / budget used
state! string  `completed`, `pruned`, `diverged`, `error`, `cancelled`, `running` or `paused`
state_reason string  why it ended so, in a sentence
rung_reached int8  last rung that judged it, from 0
rung_value float64  value that this rung judged
first_rung_value float64  value that the first rung judged
audited bool  whether it went on after its stop, only to check whether the stop was right
epochs_done! int64  last epoch reported
steps_done! int64  optimizer steps
see! float64  compute in SGD-epoch equivalents: (forward + 2 backward samples) / (3 `n_train`)
fwd_samples! int64  samples in forward passes
bwd_samples! int64  samples in backward passes
train_s! float64  seconds of training
eval_s! float64  seconds of evaluation
data_s! float64  seconds of making batches
s_per_step float64  seconds of training per optimizer step: `train_s` / `steps_done`
wall_s! float64  seconds of all attempts, from start to end
peak_rss_mb float64  largest resident memory of the worker, MiB
peak_gpu_mb float64  largest memory allocated on the GPU, MiB
device string  device that trained it
threads int16  threads of the worker
precision string  number format of the forward pass, `fp32`
compiled bool  whether the model was compiled
channels_last bool  whether tensors were in channels_last order
hostname_hash string  digest of the machine's name
val_acc float64  accuracy on validation at the last report, a share of 1
val_loss float64  loss on validation at the last report
{_AVERAGED}
train_acc float64  accuracy on training batches of the last epoch, a share of 1
train_loss float64  loss on training batches of the last epoch
sam_loss_gap float64  loss at the perturbed weights minus loss, nats, mean of the last epoch
cos_grads float64  cosine of the gradients at the weights and the perturbed ones, last epoch
best_val_acc float64  best `val_acc` of all reports, where the search improves it
best_epoch int64  epoch of the best value of the metric
attempts! int16  how often it was started
epochs_repeated! int32  epochs reported again by a later attempt
ckpt_sha256 string  SHA-256 of the last checkpoint
deterministic bool  whether only deterministic kernels were used
started_at! timestamp  when it was proposed
ended_at timestamp  when it ended
samtune_version! string  version of samtune that made the run
torch_version string  version of torch in the worker
git_commit string  commit of samtune's code; null for an installed samtune
""",
    "curves": f"""
run! string  name of the run
trial_key! string  key of the trial or repeat
stage! string  stage of the run: `search`, `select` or `confirm`
attempt! int16  attempt of the trial, from 0
epoch! int64  epoch of the report
step int64  optimizer steps so far
see float64  compute so far, SGD-epoch equivalents
used! float64  budget used so far, in its unit
train_s float64  seconds of training so far
lr float64  learning rate at the report
rho float64  radius of the perturbation at the report
train_loss float64  loss on training batches of the epoch
train_acc float64  accuracy on training batches of the epoch, a share of 1
val_loss float64  loss on validation
val_acc float64  accuracy on validation, a share of 1
{_AVERAGED}
sam_loss_gap float64  loss at the perturbed weights minus loss, nats, mean of the epoch
cos_grads float64  cosine of the gradients at the weights and the perturbed ones, mean of the epoch
rung int8  rung that judged the report, from 0
decision string  `continue`, `stop`, `pause`, `complete` at `asha.until`, or `audit`: it continues
    only to check a stop
rung_cutoff float64  worst value that stays at this rung at that moment
superseded! bool  whether a later attempt reported this epoch again
reported_at! timestamp  when it was committed to the record
""",
    "selects": f"""
{_ROW}
trial_key string  key of the run, for joins with curves
{_TASK}
{_BUDGET}
{_AGAIN}
with_search bool  whether the value of the search counts in the select mean (`select.with_search`)
{_METRIC}
{_VALIDATED}
""",
    "repeats": f"""
{_ROW}
trial_key string  key of the repeat, for joins with curves
{_TASK}
{_BUDGET}
{_AGAIN}
plan string  plan of its seeds: `fixed 5`, `looks 5 10 15 20`, or `added` outside a plan
test_openings! int16  how often the repeat read the test split
{_METRIC}
{_TIE}
test_acc float64  accuracy on test, a share of 1: `test_correct` / `n_test`
test_loss float64  loss of the task on test
test_nll float64  mean negative log-likelihood of the true class on test
test_ece float64  expected calibration error on test
test_brier float64  Brier score on test: 0 is best, 2 is worst
{_ON_TEST}
n_test int64  images of the test split
test_correct int64  test images that are classified rightly
test_split string  digest of the test images; equal where repeats were tested on the same ones
test_bits binary  test images in their order, a bit each, 1 where right: `numpy.packbits`
sharp_lambda_max float64  largest eigenvalue of the Hessian of the training loss, by Lanczos
sharp_trace float64  trace of that Hessian, by Hutchinson's estimate
sharp_worst_rho float64  max L(w + d) - L(w) over ||d|| <= `sharp_rho`: mean over chunks
sharp_worst_adaptive float64  the same over ||d / w|| <= `sharp_rho`
{_SHARP_SETTINGS}
{_VALIDATED}
""",
    "leaderboard": f"""
rank int16  place within its question by mean score on test; null where not every repeat completed
run! string  name of the run
space! string  name of the row, mostly that of its space
{_TASK}
{_BUDGET}
metric! string  metric that the search improves
mode! string  `max` or `min`: which values of the metric are better
test_metric! string  the metric on test: `test_acc` for `val_acc`
{_TIE}
searches! int16  independent searches behind the row
search_see! float64  compute of all trials of the search, SGD-epoch equivalents
n_knobs! int16  how many knobs were searched
knobs_searched! string  names of the searched knobs, as JSON
search_alg! string  search method
scheduler! string  rule that stops trials early
config_json! string  base optimizer and knobs of the winner, as JSON; of several searches the one
    with the best value on validation
config_sha! string  digest of the winner's configuration; empty where no trial was completed
trials! int32  trials of all searches
trials_completed! int32  of these, used their full budget
trials_pruned! int32  of these, stopped at a rung
trials_diverged! int32  of these, ended at a loss that is not finite
trials_error! int32  of these, failed
trials_cancelled! int32  of these, ended by a stop of the run
pareto_trials string  numbers of the trials on the Pareto front of the search, `3 12`; of several
    searches with the search's number, `0:3 1:12`; null where they have one metric
diverged_share float64  share of the ended trials that diverged
diverged_lo float64  lower end of the 95 % Wilson interval of `diverged_share`
diverged_hi float64  upper end of the 95 % Wilson interval of `diverged_share`
within_1pp_share float64  share of random or Sobol trials within 1 point of their best; null where
    a trial was stopped early
within_1pp_lo float64  lower end of the 95 % Wilson interval of `within_1pp_share`
within_1pp_hi float64  upper end of the 95 % Wilson interval of `within_1pp_share`
expected_best_1 float64  expected best value on validation of n = 1 trial drawn from N random or
    Sobol ones: sum of v_i ((i/N)^n - ((i-1)/N)^n), v sorted; null where one was stopped early
expected_best_4 float64  the same of 4 trials; null for fewer draws
expected_best_16 float64  the same of 16 trials
expected_best_64 float64  the same of 64 trials
trials_to_baseline int32  least number of such trials with an expected best as good as that of all
    trials of the baseline; null where none does
rho_star float64  radius of the best random or Sobol trial
rho_lo float64  lower end of the radii around it whose best trial stays within 1 point, in 12 bins
    of log10 rho
rho_hi float64  upper end of these radii
rho_plateau_decades float64  log10(`rho_hi` / `rho_lo`)
rung_spearman float64  Spearman's correlation of the value at the first rung with the final one,
    over the trials that ran to the end; null without an audit
wrong_stop_share float64  share of the audited stops whose trial beats all that were not stopped
wrong_stop_lo float64  lower end of its exact 95 % interval (Clopper-Pearson)
wrong_stop_hi float64  upper end of the interval of `wrong_stop_share`
search_wall_s float64  seconds in which at least one trial of a search ran, summed over them
best_val_acc float64  accuracy on validation of the winner in its search, a share of 1; mean over
    the searches
median_val_acc float64  median accuracy on validation of all trials
default_val_acc float64  accuracy on validation of the default configuration
tuning_gain float64  winner minus default on validation, by the metric; mean over the searches
select_mean float64  mean of the metric over the winners' select runs, on validation; with the
    value of the search where `with_search` counts it
repeats! int16  repeats that completed
repeats_diverged! int16  repeats that diverged
test_acc_mean float64  mean accuracy on test over the repeats, a share of 1;
    each search counts alike
test_acc_sd float64  standard deviation over the repeats of a search: root of the mean variance
test_acc_lo float64  lower end of the 95 % Student t interval of the mean; from three
    searches on of their means
test_acc_hi float64  upper end of the interval of the mean on test
between_search_sd float64  sqrt(max(0, var(search means) - mean(variance / repeats))) on test, from
    three searches on
test_binom_se float64  standard error of one test reading: sqrt(p (1 - p) / n_test)
test_nll_mean float64  mean of `test_nll` over the repeats
test_ece_mean float64  mean of `test_ece` over the repeats
test_brier_mean float64  mean of `test_brier` over the repeats
{_MEANS}
val_acc_mean float64  mean accuracy on validation over the repeats
optimism float64  how much validation flattered the winner: `select_mean`, or its value in the
    search, minus the repeats' mean
test_openings! int32  how often test was read for this row
see_per_run float64  mean compute of a repeat, SGD-epoch equivalents
train_s_per_run float64  mean training seconds of a repeat
peak_mem_mb float64  largest resident memory of a trial's worker, MiB
sharp_lambda_max_mean float64  mean of `sharp_lambda_max` over the repeats
sharp_trace_mean float64  mean of `sharp_trace` over the repeats
sharp_worst_rho_mean float64  mean of `sharp_worst_rho` over the repeats
sharp_worst_adaptive_mean float64  mean of `sharp_worst_adaptive` over the repeats
{_SHARP_SETTINGS}
baseline string  space that the row is compared with
verdict string  `better`, `worse`, `tied`, `underpowered`, `baseline` or `diverged k of n`
error_reduction float64  `diff_mean` as a share of the baseline's error on test; accuracies only
verdict_about string  `configuration`, or `variant` from three independent searches on
plan string  plan of the seeds, and what came after it: `fixed 5, then 3 added`
look int16  look at which the row was decided, where the plan has several
{_COMPARISON}
rank_lo int16  best rank that the comparisons do not exclude (95 %)
rank_hi int16  worst rank that the comparisons do not exclude (95 %)
""",
    "pairs": f"""
dataset! string  `dataset` of the task
model! string  `model` of the task
task! string  all words of the task, as JSON with sorted keys
{_BUDGET}
metric! string  metric that the search improves
mode! string  `max` or `min`: which values of the metric are better
run_a! string  run of the first row
space_a! string  space of the first row
variant_a! string  variant of the first row
run_b! string  run of the second row
space_b! string  space of the second row
variant_b! string  variant of the second row
verdict! string  `better`, `worse`, `tied` or `underpowered`: what `a` is against `b`
verdict_about! string  `configuration`, or `variant` from three independent searches on
look int16  look at which the pair was decided, where the plan has several
{_COMPARISON}
""",
}


def _read(text: str) -> tuple[Column, ...]:
    joined: list[str] = []
    for line in textwrap.dedent(text).splitlines():
        if line.startswith(" ") and joined:
            joined[-1] += f" {line.strip()}"
        elif line:
            joined.append(line)
    found = []
    for line in joined:
        name, kind, meaning = line.split(maxsplit=2)
        found.append(Column(name.rstrip("!"), kind, not name.endswith("!"), meaning))
    return tuple(found)


COLUMNS: dict[str, tuple[Column, ...]] = {table: _read(text) for table, text in _DECLARED.items()}
"""The columns of each table in their order.

Beside these, trials, curves and repeats have a column per metric that a trainable reported, and
trials one per knob. The leaderboard has the statistics of each metric that a run searched by.
"""
