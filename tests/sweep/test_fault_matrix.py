"""Faults that a sweep must survive, with the tests of each.

A name without a file before it is in `test_faults.py`, or in the file named before it in the row.

 1  a worker is killed              test_a_kill_at_a_random_epoch_repeats_at_most_one,
                                    test_each_trial_bears_its_own_fault,
                                    test_sweep: test_a_failed_attempt_goes_on_from_its_checkpoint
 2  the driver is killed            test_killed_runs: test_a_killed_run_ends_in_the_tables_of_one,
                                    test_crash_points: test_a_sweep_survives_a_crash_at_every
 3  it and all of Ray are killed    test_a_run_goes_on_after_its_whole_tree_was_killed
 4  a node is lost                  test_the_trials_of_a_lost_node_go_on_elsewhere
 5  the disk is full                test_a_run_goes_on_after_its_whole_tree_was_killed,
                                    test_crash_points: test_a_sweep_survives_a_crash_at_every,
                                    test_resume: test_a_full_disk_stops_cleanly,
                                    test_checkpoint: test_a_disk_that_fails_at_any_write
 6  torn files                      test_damage: test_a_torn_log, test_torn_tables,
                                    test_a_run_that_finds_its_journal_torn,
                                    test_checkpoint: test_a_damaged_newest_falls_back
 7  a bit has changed               test_damage: test_a_flipped_bit_in_the_pages_of_a_table,
                                    test_a_flipped_bit_in_the_record,
                                    test_a_flipped_bit_in_the_log,
                                    test_a_damaged_checkpoint_is_told,
                                    test_checkpoint: test_every_single_flipped_bit
 8  NaN, infinity, huge loss        test_each_trial_bears_its_own_fault,
                                    test_search: test_a_diverged_trial_counts_as_worse
 9  host memory                     test_each_trial_bears_its_own_fault,
                                    test_memory_kills: test_trials_go_on_after_ray_has_killed,
                                    test_sweep: test_a_failed_attempt_goes_on_from_its_checkpoint
10  device memory                   test_each_trial_bears_its_own_fault
11  a trial hangs                   test_sweep: test_a_failed_attempt_goes_on_from_its_checkpoint
12  a loader process dies           there is none: test_no_trial_of_ours_has_loader_processes
13  the clock jumps                 test_a_clock_that_jumps
14  two runs, one name              test_cli: test_of_two_runs_of_one_name_one_wins,
                                    test_killed_runs: test_a_run_is_stopped_from_elsewhere
15  a lock is left                  it cannot be, the kernel's ends with its process:
                                    test_a_lock_ends_with_its_process
16  Ctrl-C once, twice, in a write  test_stop: test_a_signal_stops_cleanly,
                                    test_signals: test_a_signal_in_a_write_stops,
                                    test_a_signal_at_a_random_time,
                                    test_a_second_signal_ends_the_process
17  SIGTERM, SIGHUP                 test_stop: test_a_signal_stops_cleanly,
                                    test_signals: test_a_signal_in_a_write_stops,
                                    test_a_signal_asks_to_stop_unless_it_is_ignored
18  half a space file               test_space_messages: test_files_that_are_no_space
19  a hostile space file            test_space_hostile: test_hostile_input_is_refused,
                                    test_space_hostile: test_hostile_input_takes_little_memory
20  a hostile name or link          test_security: test_a_name_is_refused,
                                    test_every_command_refuses, test_a_run_that_is_a_link
21  a hostile checkpoint            test_checkpoint: test_a_payload_is_refused_and_not_executed
22  another trial's checkpoint      test_trial_resume: test_a_checkpoint_of_another_trial
23  a wrong or hostile archive      test_archives: test_a_truncated_archive_is_refused,
                                    test_a_tar_archive_that_leads_out
24  two fetch at once               test_datasets: test_of_several_processes_one_downloads
25  no network                      test_datasets: test_without_a_network_it_says
26  ports                           test_security: test_nothing_listens_beyond_rays_own_ports,
                                    test_ray_tells_nobody, test_an_open_ray_is_refused
27  other versions                  test_killed_runs: test_a_run_is_stopped_from_elsewhere
28  the space or code changes       test_killed_runs: test_a_run_is_stopped_from_elsewhere,
                                    test_killed_runs: test_code_is_told_apart
29  10,000 trials                   test_status_of_10_000_trials
30  a report doubled, late, early   test_resume: test_reports_that_come_twice_late_or_out_of_order
31  escapes for a terminal          test_each_trial_bears_its_own_fault,
                                    test_space_hostile: test_hostile_input_is_refused
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import reliability

ROOT = Path(__file__).parents[2]


def test_every_row_of_the_matrix_names_tests_that_there_are() -> None:
    """A row has prefixes of names; a file holds for the names after it, `test_faults` at first."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name != "inside"]
    texts = {path.stem: path.read_text() for path in files}
    parts = re.split(r"\n(?= ?\d+  )", __doc__ or "")[1:]
    assert [part.split()[0] for part in parts] == [str(row) for row in range(1, 32)]
    for part in parts:
        module, named = "test_faults", 0
        for name, colon in re.findall(r"(test_\w+)(:?)", part):
            if colon:
                module = name
                continue
            assert f"\ndef {name}" in texts[module], f"{module} has no {name}"
            named += 1
        assert named, part


def test_the_published_figures_count_tests_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"tests/trainables/test_variants_train.py::{reliability.CUTS}" in reliability.nodes()
    monkeypatch.setitem(reliability.PASSED, "gone", ("test_that_was_renamed",))
    with pytest.raises(LookupError, match="test_that_was_renamed is in no file"):
        reliability.nodes()
