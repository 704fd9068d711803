"""Hand `settings.ini`, the only configuration, to setuptools."""
from configparser import ConfigParser
from glob import glob
from pathlib import Path
from setuptools import setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
extras = {k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')}

setup(name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], author=cfg['author'],
      author_email=cfg['author_email'], keywords=cfg['keywords'], url=cfg['git_url'], license='Apache-2.0',
      license_files=['LICENSE', 'settings.ini'], # so that a source archive carries the file this script reads
      long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
      data_files=[('share/llmrec/nbs', glob('nbs/*.ipynb') + glob('nbs/*.png')), # what `llmrec lab` copies
                  ('share/llmrec/bench', glob('bench/*.csv') + glob('bench/*.json') + ['bench/peers.py'])],
      packages=[cfg['lib_path']], package_data={cfg['lib_path']: ['py.typed']}, python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(),
      extras_require=extras, zip_safe=False,
      entry_points={'console_scripts': cfg['console_scripts'].split(),
                    'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]}) # so that names on the site link to their definitions
