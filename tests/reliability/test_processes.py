"""Layers in DataLoader workers and in children of multiprocessing, forked and spawned, with kernels in use before."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

# A process of its own: a test runner that has run threads should not fork.
CODE = """
    import json, multiprocessing, sys, torch
    import batchnorm as bn

    X = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0)) + 2

    def step(layer):
        x = X.clone().requires_grad_()
        layer(x, x, act="silu").square().sum().backward()
        mask = X[:, 0] > 0
        layer(x, mask=mask)
        return [t.tolist() for t in (x.grad, layer.weight.grad, layer.running_mean, layer.running_var)]

    class Normalized(torch.utils.data.Dataset):
        def __init__(self):
            self.layer = bn.BatchNorm2d(4)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            torch.set_grad_enabled(True)
            return step(self.layer if index == 0 else bn.BatchNorm2d(4))

    def as_given(batch):
        return batch[0]

    def child(pipe, layer):
        pipe.send(step(layer))

    def main(start):
        torch.set_num_threads(1)
        expected = step(bn.BatchNorm2d(4))
        found = []
        context = multiprocessing.get_context(start)
        mine, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs, bn.BatchNorm2d(4)))
        process.start()
        assert mine.poll(60)
        found.append(mine.recv())
        process.join(60)
        loader = torch.utils.data.DataLoader(
            Normalized(), num_workers=2, multiprocessing_context=start, collate_fn=as_given, timeout=60
        )
        found += list(loader)
        step(bn.BatchNorm2d(4))  # and after them
        print(json.dumps([len(found), [process.exitcode, *(one == expected for one in found)]]))

    if __name__ == "__main__":
        main(sys.argv[1])
"""


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_children_give_the_bits_of_their_parent(start, tmp_path) -> None:
    script = tmp_path / "training.py"
    script.write_text(textwrap.dedent(CODE))
    done = subprocess.run(
        [sys.executable, str(script), start],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    count, (exit_code, *same) = json.loads(done.stdout)
    assert count == 5
    assert exit_code == 0
    assert all(same)
