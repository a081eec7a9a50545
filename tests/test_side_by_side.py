"""Work in threads: results in order, the first error, and an end without delay."""

from __future__ import annotations

from threading import Event

import pytest

from syn_pipelines.utils.side_by_side import side_by_side


def test_results_come_in_the_order_of_the_items_whichever_is_done_first():
    second_done = Event()

    def work(item, stop):
        if item == 0:
            assert second_done.wait(60)
        elif item == 1:
            second_done.set()
        return item * 2
    assert side_by_side(work, range(6)) == [0, 2, 4, 6, 8, 10]


def test_of_two_errors_that_of_the_first_item_is_raised_though_it_came_later():
    second_failed = Event()

    def work(item, stop):
        if item == 0:
            assert second_failed.wait(60)
            raise ValueError("first")
        second_failed.set()
        raise ValueError("second")
    with pytest.raises(ValueError, match="first"):
        side_by_side(work, range(2))


def test_after_an_error_nothing_new_begins_and_what_runs_is_told_to_stop():
    begun, told = [], []
    running = Event()

    def work(item, stop):
        begun.append(item)
        if item == 0:
            assert running.wait(60)
            raise ValueError("broken")
        running.set()
        told.append(stop.wait(60))
    with pytest.raises(ValueError, match="broken"):
        side_by_side(work, range(1000))
    assert told and all(told) and len(begun) < 5


def test_an_interrupt_stops_the_work_too():
    told = []

    def items():
        yield 0
        yield 1
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        side_by_side(lambda item, stop: told.append(stop.wait(60)), items())
    assert told == [True, True]
