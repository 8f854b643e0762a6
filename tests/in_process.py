"""Run notebooks in the process of the tests, as nbdev_test does, instead of starting a kernel for each.

A kernel spends most of the time of a short notebook on importing torch and fastai, which the process of the tests has
done already. Whatever calls papermill, `sabr_run` as well, uses this engine inside `notebooks_in_process`.
"""

import contextlib
import matplotlib
from execnb.shell import CaptureShell
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot as plt
from nbformat import from_dict
from nbformat.v4.rwbase import rejoin_lines
from papermill.engines import Engine, papermill_engines


class InProcess(Engine):
    "An engine of papermill. Every notebook gets an IPython shell with a namespace of its own, in its own folder"

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, resources=None, **kwargs):
        folder = (resources or {}).get('metadata', {}).get('path') or '.'
        with contextlib.chdir(folder):
            run_cells(nb_man, CaptureShell())


def run_cells(nb_man, shell):
    "Run the code cells and keep their outputs; like papermill's own engine, stop after a cell that raises"
    for index, cell in enumerate(nb_man.nb.cells):
        if cell.cell_type != 'code':
            continue
        nb_man.cell_start(cell, index)
        cell.outputs = [from_dict(output) for output in shell.run(cell.source)]
        if shell.exc:
            nb_man.cell_exception(cell, index, exception=shell.exc)
            break
        nb_man.cell_complete(cell, index)
    rejoin_lines(nb_man.nb)


@contextlib.contextmanager
def notebooks_in_process():
    "Replace papermill's default engine by `InProcess`; afterwards engine, shell and matplotlib are as before"
    engine, shell = papermill_engines.get_engine(None), InteractiveShell._instance
    backend = matplotlib.get_backend(auto_select=False)
    papermill_engines.register(None, InProcess)
    try:
        with matplotlib.rc_context():
            yield
    finally:
        papermill_engines.register(None, engine)
        InteractiveShell._instance = shell
        plt.close('all')
        matplotlib.use(backend or 'agg')
