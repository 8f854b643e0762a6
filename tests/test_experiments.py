"""Every notebook of nbs/experiments is executed by papermill with its default parameters.

They run in order of name and share one run folder, so that a later stage finds what an earlier one left. A new notebook
in that folder is tested without a change here.
"""

import contextlib
from pathlib import Path
import nbformat
import papermill
import pytest
from in_process import notebooks_in_process
from sabr.run.command import execute_notebook

NOTEBOOKS = sorted((Path(__file__).parent.parent / 'nbs' / 'experiments').glob('[!_.]*.ipynb'))
IN_A_KERNEL = ('00_inception', '11_report', '12_overhead')  # the last two start sweeps, whose workers start kernels


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp('experiments')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters(path):
    cells = [c for c in nbformat.read(path, 4).cells if 'parameters' in c.metadata.get('tags', [])]
    assert len(cells) == 1, f'{path.name}: exactly one cell carries the tag `parameters`'
    assert 'out_dir' in papermill.inspect_notebook(str(path)), f'{path.name} has no parameter out_dir'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_with_its_defaults(path, run_folder, tmp_path):
    with contextlib.nullcontext() if path.stem in IN_A_KERNEL else notebooks_in_process():
        execute_notebook(path, tmp_path / path.name, dict(out_dir=str(run_folder / 'run')), run_folder)
    assert [p for p in (run_folder / 'run').rglob('*') if p.is_file()], f'{path.name} left nothing in its out_dir'
    assert {p.name for p in run_folder.iterdir()} == {'run', 'data'}, f'{path.name} writes outside of out_dir and data/'
