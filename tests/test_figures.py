"""Figures and tables fit a page, a narrow one too."""
import base64, re, struct
import pandas as pd, pytest
from architecture import LAYERS, drawing, files, layers
from llmrec.evaluation import Comparison
from test_docs import BOOK, each_nb

# On a phone a figure is 36rem wide and scrolled (styles.css), 576 pixels: of a wider one the text gets too small to read.
WIDEST = 780
# Drawn by slow cells that have not been run since.
TO_DRAW = {'a54eb139'}

def pictures(nb):
    "(cell, bytes) of each stored figure."
    for c in nb['cells']:
        for o in c.get('outputs', []):
            if 'image/png' in o.get('data', {}): yield c['id'], base64.b64decode(''.join(o['data']['image/png']))

@each_nb
def test_figures_fit_a_page(name):
    for cell, png in pictures(BOOK[name]):
        width, _ = struct.unpack('>II', png[16:24])
        assert cell in TO_DRAW or width <= WIDEST, f'{name}, cell {cell}: {width} pixels wide; put panels one above the other'
        assert len(png) <= 150_000, f'{name}, cell {cell}: {len(png):,} bytes'

def test_the_figure_of_the_layers_fits_a_phone():
    boxes = re.findall(r'\["<b>(.*?)</b><br/>(.*?)"\]', layers())
    assert [name for name, _ in boxes] == list(LAYERS)
    assert max(len(line) for _, modules in boxes for line in modules.split('<br/>')) <= 30
    shown = ', '.join(modules.replace('<br/>', ' ') for _, modules in boxes)
    assert set(re.split(r',\s*', shown)) == set(files())
    assert set(re.findall(r'^\| (\w+) \|', drawing(), re.M)) == set(files()) | {'module'}

@pytest.fixture
def compared():
    row = dict(metric='ndcg@10', a='ours', b='bar', mean_a=.31234567, mean_b=.25, difference=.06234567, lo=.01, hi=.1,
               p=.01, p_holm=.02, wins=12, ties=30, losses=8)
    return pd.DataFrame([row, row | dict(b='other', p_holm=.4)])

def test_a_comparison_is_shown_in_nine_columns(compared):
    page = Comparison(compared)._repr_html_()
    heads = re.findall(r'<th>(.*?)</th>', page)
    assert heads == ['metric', 'first', 'second', 'mean of first', 'mean of second', 'difference', '95 % interval', 'p (Holm)',
                     'users: win, tie, lose']
    assert '0.3123' in page and '0.31234567' not in page and '+0.0100 to +0.1000' in page and '12, 30, 8' in page

def test_the_plot_of_a_comparison_names_one_metric_once(compared):
    axis = Comparison(compared).plot().axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ['ours − bar', 'ours − other']
    assert 'ndcg@10' in axis.get_xlabel()
    assert len({tuple(c) for c in axis.collections[-1].get_facecolors()}) == 2        # filled, and open
    both = pd.concat([compared, compared.assign(metric='recall@10')], ignore_index=True)
    assert Comparison(both).plot().axes[0].get_yticklabels()[-1].get_text() == 'ours − other, recall@10'
