"""Every notebook of nbs/experiments is executed by papermill with its default parameters.

They run in order of name and share one run folder, so that a later stage finds what an earlier one left. A new notebook
in that folder is tested without a change here.
"""

import contextlib, runpy
from pathlib import Path
import nbformat
import papermill
import pytest
from in_process import notebooks_in_process
from sabr.run.command import NOTEBOOKS as STAGE_NOTEBOOKS, execute_notebook

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / 'nbs' / 'experiments'
NOTEBOOKS = sorted(EXPERIMENTS.glob('[!_.]*.ipynb'))
IN_A_KERNEL = ('00_inception', '11_report', '12_overhead')  # the last two start sweeps, whose workers start kernels


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp('experiments')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters(path):
    cells = [c for c in nbformat.read(path, 4).cells if 'parameters' in c.metadata.get('tags', [])]
    assert len(cells) == 1, f'{path.name}: exactly one cell carries the tag `parameters`'
    assert 'out_dir' in papermill.inspect_notebook(str(path)), f'{path.name} has no parameter out_dir'


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    "Copies of the notebooks that run stages, with parameters that tools/write_parameters.py wrote into an empty cell"
    root = tmp_path_factory.mktemp('written')
    folder = root / 'nbs' / 'experiments'
    folder.mkdir(parents=True)
    for name in STAGE_NOTEBOOKS:
        notebook = nbformat.read(EXPERIMENTS / f'{name}.ipynb', 4)
        for cell in notebook.cells:
            if 'parameters' in cell.metadata.get('tags', []):
                cell.source = ''
        nbformat.write(notebook, folder / f'{name}.ipynb')
    runpy.run_path(str(ROOT / 'tools' / 'write_parameters.py'))['main'](root)
    return folder


@pytest.mark.parametrize('name', STAGE_NOTEBOOKS)
def test_parameters_of_a_run(name, written):
    should_be = (written / f'{name}.ipynb').read_text()
    assert (EXPERIMENTS / f'{name}.ipynb').read_text() == should_be, 'to write the parameters, run: make sync'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_with_its_defaults(path, run_folder, tmp_path):
    with contextlib.nullcontext() if path.stem in IN_A_KERNEL else notebooks_in_process():
        execute_notebook(path, tmp_path / path.name, dict(out_dir=str(run_folder / 'run')), run_folder)
    assert [p for p in (run_folder / 'run').rglob('*') if p.is_file()], f'{path.name} left nothing in its out_dir'
    assert {p.name for p in run_folder.iterdir()} == {'run', 'data'}, f'{path.name} writes outside of out_dir and data/'
