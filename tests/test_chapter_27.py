"""Hard cases of chapter 27 (confidence)."""
import warnings
import numpy as np
import pandas as pd
from fastcore.test import test_close as close, test_eq as equal
from llmrec.baselines import Popularity
from llmrec.closed_form import EASE
from llmrec.confidence import length_edges, list_mass, mass_at, match_moments
from llmrec.data import make_synthetic_pair
from llmrec.recommender import Recommender


def test_mass_of_other_lengths_lies_between():
    two_to_one = np.log([[2., 1, 1]])
    close(mass_at(list_mass(two_to_one), 2), [.75])
    close(mass_at(np.arange(12.)[None], 1000), [11])


def test_moments_are_those_of_the_other_model():
    louder = match_moments(np.array([4.]), np.array([2., 6]), np.array([-1., 1]))
    close(louder, [0])
    close(match_moments(np.ones(2), np.ones(3), np.full(3, 5.)), [5, 5])


def test_groups_are_split_while_both_sides_have_enough():
    equal(length_edges(np.repeat([1, 4, 60], 400)), (3, 6))
    equal(length_edges(np.repeat([1, 4, 60], [400, 100, 400])), (3,))
    equal(length_edges(np.zeros(0)), ())


def test_confidence_says_that_it_is_stale_and_that_users_are_few():
    def two_experts(data, budget, seed): return [Popularity(), EASE(30.)]    # the page stays fast
    world = make_synthetic_pair(seed=0, n_users=(60, 700), n_items=(30, 60), n_rows=(8, 14)).target
    rec = Recommender(None, experts=two_experts).fit(world)
    rec.fit_confidence()
    user = world.users[0]
    rec.update(pd.DataFrame(dict(user=[user], item=[rec.recommend(user, 1)[0][0]])))
    assert 'interactions' in rec.confidence.stale(rec.data)
    handful = world.with_log(world.log[world.log.user.isin(world.users[:40])])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        little = Recommender(None, experts=two_experts).fit(handful).fit_confidence()
    sure = little.recommend(world.users[:1], 5, confidence=True)[2]
    assert sure.abstain.all() and sure.p_hit.isna().all()
