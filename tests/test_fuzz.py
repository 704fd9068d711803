"""Logs and item tables of any shape: the strategy and the judge of bench/fuzz.py, a few hundred examples, always the same."""
import sys
from pathlib import Path
from hypothesis import HealthCheck, given, settings, strategies as st
sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'bench'))
from fuzz import cases, judge


@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.integers(0, 3))
def test_any_log_and_any_item_table(case, deep): judge(case, deep == 0)
