"""Hard cases of chapter 19 (a language model as second judge)."""
import pandas as pd
from fastcore.test import ExceptionExpected, test_close as close, test_eq as equal
from transformers import AutoModelForCausalLM, GPT2Config
from llmrec.core import InputError
from llmrec.data import make_synthetic_pair
from llmrec.dataset import histories, select_users
from llmrec.encode import train_tokenizer
from llmrec.judge import LMScorer, Reranker
from llmrec.recommender import Recommender


def test_a_reranker_says_what_it_misses():
    pair = make_synthetic_pair()
    titles = pair.target.items.title.tolist()
    tok = train_tokenizer(titles, 500, True, 256)
    size = dict(vocab_size=len(tok), bos_token_id=0, eos_token_id=0, initializer_range=.3)
    gpt = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, **size)
    judge = LMScorer(AutoModelForCausalLM.from_config(gpt), tok, batch=4)
    log = pair.target.log.sort_values('time', kind='stable')
    last = ~log.duplicated('user', keep='last')
    rec = Recommender('tfidf', budget='fast').fit(pair.target.with_log(log[~last]), pair.source)
    hist = histories(rec.data, log[last].user)
    target = rec.data.all_items[0].get_indexer(pd.Index(log[last].item, dtype=object))
    rr = Reranker(rec.fusion, judge, pool=25).fit(hist, target)
    few = select_users(hist, [0, 1, 2])
    columns, p = rr.recommend(few, 25)
    close(p.sum(1), 1, eps=1e-6)
    for a, b in zip(columns, rr.first(few)[0]): equal(set(a), set(b))  # the same items, another order
    equal(rr.recommend(select_users(hist, [0]), 3)[0], columns[:1, :3])
    with ExceptionExpected(InputError, 'not weighed'): Reranker(rec.fusion, judge).recommend(few)
    with ExceptionExpected(InputError, 'is in the pool for'): rr.fit(few, target[:3])
