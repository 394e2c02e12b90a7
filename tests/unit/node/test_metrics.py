"""Metrics of a node: what counts where."""

from tidings.batch import Batch, StoredBatch
from tidings.broker.effects import Deliver
from tidings.model import Run
from tidings.node import Histogram, Metrics


def test_a_value_counts_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 2, 1], 14.0)


def test_what_is_cut_out_of_a_delivery_was_not_delivered() -> None:
    metrics = Metrics()
    cut = Batch([Run("a", 2, 20), Run(None, 5, 0), Run("b", 1, 10)], b"x" * 30)
    rows = [StoredBatch(1, 0, cut), StoredBatch(9, 0, Batch([Run("a", 3, 30)], b"x" * 30))]
    metrics.deliver(Deliver(1, 1, "orders", 1, rows, False, []))
    assert metrics.delivered == 6


def test_the_oldest_publish_of_a_transaction_is_timed() -> None:
    metrics = Metrics()
    metrics.publish(10.0)
    metrics.publish(11.0)
    assert metrics.begin_commit() == 10.0
    assert metrics.begin_commit() is None
