import statistics

import pytest

from tokenmill.deployment.load import Seen, percentile


@pytest.mark.parametrize(("share", "value"), [(50, 50.5), (95, 95.05), (99, 99.01)])
def test_percentiles_lie_where_tables_have_them(share, value):
    assert percentile(range(1, 101), share) == pytest.approx(value)  # R's type 7, numpy's default


def test_percentiles_of_next_to_nothing():
    assert percentile([0.2], 99) == 0.2
    assert str(percentile([], 50)) == "nan"


def test_what_was_lost_counts_as_a_request_and_not_as_a_rate():
    seen = Seen(whole=8, pieces=80, seconds=4.0, ttft=[0.1] * 8, itl=[0.01] * 72)
    seen.lost["HTTP 503"] += 2
    told = seen.to_json()
    assert (told["requests"], told["lost"], told["why"]) == (10, 2, {"HTTP 503": 2})
    assert told["requests_per_s"] == 2 and told["pieces_per_s"] == 20
    assert told["ttft_ms_p99"] == pytest.approx(statistics.fmean(seen.ttft) * 1000)
