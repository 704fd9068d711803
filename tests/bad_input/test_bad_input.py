"""Each case of the catalogue: an error of ours with the right words, and nothing changed or half-written."""
import pickle, shutil, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
import llmrec
from cases import CALLS, COMMAND_LINE
from llmrec.cli import main

HERE = Path(llmrec.__file__).parent
AMAZON = '{"reviewerID": "a", "asin": "B", "overall": 5, "unixReviewTime": 1}\n'


def small_world():
    "Names that need no fitted model."
    from llmrec import data, encode, evaluation, leakage, learner, lists, metrics, online, preprocess, readers, search, vectors
    from llmrec.recommender import Recommender
    modules = (data, readers, preprocess, vectors, encode, metrics, evaluation, leakage, lists, search, online, learner)
    log = pd.DataFrame(dict(user=['a', 'b', 'c', 'd'], item=['f1', 'f2', 'f3', 'f1'], time=[1, 2, 3, 4], value=[1., 2, 3, 4]))
    items = pd.DataFrame(dict(item=['f1', 'f2', 'f3', 'f4'], title=['tea', 'milk', 'oil', 'rye']))
    put = lambda df: lambda **kw: df.drop(columns=[k for k, v in kw.items() if v is None]).assign(**{k: v for k, v in kw.items() if v is not None})
    names = {k: v for m in modules for k, v in vars(m).items() if k in m.__all__}
    return names | dict(pd=pd, np=np, pickle=pickle, log=log, items=items, L=put(log), I=put(items), dom=data.Domain('shop', log, items), AMAZON=AMAZON,
                        Recommender=Recommender, ranked=lists.cosine_top_k, tfidf=lambda: Recommender('tfidf', seed=0, budget='fast'))

def one_expert(d, budget, seed):
    from llmrec.baselines import Content, Popularity
    return [Popularity()] + ([Content()] if d.vectors is not None else [])

class Wrong:
    "A recommender whose scores are wrong."
    def __init__(self, f, items): self.f, self.items = f, items
    def score(self, users): return self.f(len(users), len(self.items))

@pytest.fixture(scope='session')
def world(tmp_path_factory):
    "All names: also a fitted Recommender, saved once, a split and reports."
    W = small_world()
    p = W['make_synthetic_pair'](0, n_users=(40, 30), n_items=(20, 20), n_rows=(6, 5))
    split = W['split_last'](p.target)
    rec = W['Recommender']('tfidf', seed=0, budget='fast').fit(p.target.with_log(split.train), p.source, split.valid)
    blind = W['Recommender'](None, seed=0, experts=one_expert).fit(p.target)
    rec.save(model := tmp_path_factory.mktemp('model'))
    e = lambda seed: W['evaluate'](rec, split, seed=seed, n_boot=100)
    ev = p.target.log.assign(event=['view', 'buy']*(len(p.target.log)//2) + ['view']*(len(p.target.log) % 2))
    return W | dict(ev=ev, V=np.eye(len(p.target.items), dtype=np.float32), ids=p.target.items['item'].to_numpy(), p=p, split=split, rec=rec, blind=blind, model=model, report=e(0), other=e(1), wrong=lambda f: Wrong(f, rec.items),
                    rows=lambda **kw: pd.DataFrame(dict(user=['a'], item=['f0001'], time=[2*10**9]) | kw))

def hands(W, D):
    "Names that write files into the folder `D`."
    def F(name, text):
        (D/name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return D/name
    def spoil(glob, f):
        shutil.copytree(W['model'], D/'m')
        file, = (D/'m').glob(glob)
        b = f(file.read_bytes())
        file.unlink() if b is None else file.write_bytes(b)
        return D/'m'
    def flipped(path):
        import torch
        W['save_state'](path, dict(a=torch.ones(50)))
        b = bytearray(path.read_bytes()); b[-7] ^= 1; path.write_bytes(b)
        return path
    return W | dict(D=D, F=F, spoil=spoil, flipped=flipped)

def innermost(tb):
    while tb.tb_next: tb = tb.tb_next
    return Path(tb.tb_frame.f_code.co_filename)

@pytest.mark.parametrize('door,call,words', CALLS, ids=[f'{d}: {c}'[:90] for d, c, _ in CALLS])
def test_call(door, call, words, world, tmp_path):
    rec, data = world['rec'], world['rec'].data
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises((ValueError, KeyError, FileNotFoundError)) as e: eval(call, hands(world, tmp_path))
    assert words in str(e.value), str(e.value)
    assert innermost(e.tb).is_relative_to(HERE), f'raised by {innermost(e.tb)}: {e.value!r}'
    assert rec.data is data, 'the model has changed'
    assert not list(tmp_path.rglob('*.tmp')) and not list(tmp_path.rglob('.*.tmp'))

@pytest.mark.parametrize('option,line,words', COMMAND_LINE, ids=[l for _, l, _ in COMMAND_LINE])
def test_command(option, line, words, world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    p, names = world['p'], dict(D=tmp_path/'here', M=world['model'], log=tmp_path/'log.csv', items=tmp_path/'items.csv')
    names['D'].mkdir(); p.target.log.to_csv(names['log'], index=False); p.target.items.to_csv(names['items'], index=False)
    before = set(tmp_path.rglob('*'))
    try: code = main(line.format(**names).split())
    except SystemExit as e: code = e.code
    err = capsys.readouterr().err
    assert code == 2 and words in err and 'Traceback' not in err, err
    assert not [x for x in set(tmp_path.rglob('*')) - before if x.is_file()], 'half-written'

def test_the_catalogue_is_large():
    "At least 80 cases, and one at least for every option of every command."
    from llmrec.cli import COMMANDS
    import inspect
    assert len(CALLS) + len(COMMAND_LINE) >= 80
    options = {f"{c} --{o.replace('_', '-')}" for c, f in COMMANDS.items() for o in inspect.signature(f).parameters}
    assert options <= {o for o, *_ in COMMAND_LINE}
