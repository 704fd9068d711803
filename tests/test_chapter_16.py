"""Two towers: what moves with the network, and what is served."""
import numpy as np
from fastcore.test import test_close as close, test_eq as equal
from llmrec.core import l2_normalize
from llmrec.data import make_synthetic_pair
from llmrec.dataset import histories
from llmrec.encode import TextEncoder
from llmrec.preprocess import split_last
from llmrec.two_tower import TowerNet, TwoTower


def test_candidates_move_with_the_network():
    V = l2_normalize(np.random.default_rng(0).normal(size=(5, 8)))
    net = TowerNet(8).set_candidates(V, [0, 1, 3, 0, 0])
    equal({t.device.type for t in net.to('meta').buffers()}, {'meta'})

def test_saved_and_served_it_scores_the_same():
    films = make_synthetic_pair(seed=1, n_users=(60, 60), n_rows=(20, 4), shared=0.)
    titles = [*films.target.items.title, *films.source.items.title]
    V = TextEncoder('tfidf').fit(titles).encode(titles)
    cut = split_last(films.target, n_valid=0)
    with_source = TwoTower(lr=5e-4, bs=256, epochs=2).fit(cut.train, films.target.items, films.source, V)
    someone = cut.test.user.unique()[:3]
    restored = TwoTower.from_state(with_source.state(), with_source.data)
    equal(restored.score(someone), with_source.score(someone))
    q, x = restored.query(histories(restored.data, someone[:1]))
    close(restored.item_matrix() @ q + x.toarray()[0] @ restored.wide_matrix(), restored.score(someone)[0], eps=1e-4)
