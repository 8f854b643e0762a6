"""Start functions in processes of their own, each without importing torch and fastai again.

The processes are forked from a server that has imported the package once (`forkserver`). Each has fresh state and can
be killed. A function has to stand at the top level of a test file; what it prints goes to a file.
"""

import multiprocessing, os, random, socket, sys
from pathlib import Path

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['accelerate', 'sabr.run.parallel'])


def free_port():
    "A free port below those that the system hands out, so that no kernel and no Dask worker takes it meanwhile"
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)):
                return port


def run(function, args, log, env):
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    sys.exit(function(*args))


def start(function, *args, log, **env):
    "A process that calls `function`; its exit code is 0, or what the function returns, or 1 after an error"
    process = CONTEXT.Process(target=run, args=(function, args, str(log), env))
    process.log = Path(log)
    process.start()
    return process


def start_together(n, function, *args, log):
    "`n` processes of one training, as torchrun starts them; the output of each is in a file of its own"
    shared = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n))
    ranks = [dict(RANK=str(i), LOCAL_RANK=str(i)) for i in range(n)]
    return [start(function, *args, log=f'{log}{i}', **shared, **rank) for i, rank in enumerate(ranks)]


def finish(*processes, seconds=400):
    "Wait for processes, and fail with their output if one does not end or ends with an error; returns the outputs"
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    said = [process.log.read_text() for process in processes]
    assert codes == [0] * len(processes), f'exit codes {codes}\n' + '\n'.join(said)
    return said
