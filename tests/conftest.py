"""How the tests run: two workers, one thread each, no network, a limit of 15 minutes a test; generated examples are
the same in every run (bench/fuzz.py draws others) and have no deadline of their own. Options given by hand win.

The longest go first, then the other chapters, so that no worker is left with one at the end. The files of `TOGETHER` share something dear (a
run of the pipeline, a fitted model, what pyright says): one worker takes such a file, and makes it once. What is imported by then is no garbage.
The last lines of a run say which files took most processor time, processes that they started included: it depends less on what else runs."""
import gc, os
from collections import Counter
import pytest

for k, v in dict(OMP_NUM_THREADS='1', NUMBA_DISABLE_JIT='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', MPLBACKEND='Agg').items():
    os.environ.setdefault(k, v)

try: from hypothesis import HealthCheck, settings
except ImportError: pass                    # the files that need it say so
else:
    settings.register_profile('llmrec', deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile('llmrec')


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    if 'PYTEST_XDIST_WORKER' in os.environ: return # a worker must not start workers
    o = config.option
    if o.numprocesses is None and o.dist == 'no' and not o.usepdb and not o.collectonly: o.numprocesses, o.dist, o.loadscopereorder = 2, 'loadscope', False
    if o.timeout is None: o.timeout = 900
    if o.durations is None: o.durations, o.durations_min = 5, 1


TOGETHER = ('bad_input chapter_04 chapter_05 chapter_17 chapter_20 chapter_21 chapter_22 cli confidence device encode_bad encoder_choice encoders '
            'faults fuzz generative house house_after house_confidence house_fit house_lists house_recommender leaks model_code numbers online '
            'output peers privacy real_files recommend security service statistics').split()
LONGEST = ('24_pipeline 30_ecommerce 20_explain golden 23_recommender 32_video 22_privacy 11_finetune 36_encoder_choice 26_own_files '
           '33_more_scenarios resume fuzz').split()

def _place(item):
    "Where a test stands: the longest chapters and files, the other chapters, files that one worker takes, single tests."
    name = item.path.stem.removeprefix('test_')
    if name == 'notebooks': name = item.name.partition('[')[2].rstrip(']')
    elif name not in LONGEST: return 2 if name in TOGETHER else 3, 0
    return (0, LONGEST.index(name)) if name in LONGEST else (1, 0)

def pytest_collection_modifyitems(items): items.sort(key=_place)

def pytest_collection_finish(): gc.freeze()

PROCESSOR = Counter()                       # seconds by file; chapters by name

def _processor(): return sum(os.times()[:4])

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item): item.began = _processor()

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == 'teardown': report.user_properties.append(('processor', _processor() - item.began))

def pytest_runtest_logreport(report):
    name = report.nodeid if '::test_chapter[' in report.nodeid else report.nodeid.partition('::')[0]
    PROCESSOR[name] += sum(value for what, value in report.user_properties if what == 'processor')

def pytest_terminal_summary(terminalreporter):
    longest = [f'{name.rpartition("/")[2]} {seconds:.0f}' for name, seconds in PROCESSOR.most_common(25) if seconds >= 1]
    if longest: terminalreporter.write_line(f'processor seconds: {sum(PROCESSOR.values()):.0f} in all; ' + ', '.join(longest))

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.option.dist != 'loadscope': return None
    from xdist.scheduler import LoadScopeScheduling
    class ByFile(LoadScopeScheduling):
        "Files of `TOGETHER` in one piece, other tests one by one."
        def _split_scope(self, nodeid):
            name = nodeid.partition('::')[0].rpartition('/')[2].removesuffix('.py').removeprefix('test_')
            return name if name in TOGETHER else nodeid
    return ByFile(config, log)

@pytest.fixture(scope='module')
def own_cache(tmp_path_factory):
    "An embedding cache of one test file's own."
    before = os.environ.get('LLMREC_CACHE')
    os.environ['LLMREC_CACHE'] = str(tmp_path_factory.mktemp('cache'))
    yield
    if before is None: del os.environ['LLMREC_CACHE']
    else: os.environ['LLMREC_CACHE'] = before
