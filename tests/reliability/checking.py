"""One random call against the definition in float64."""

import torch
from torch import Tensor

import batchnorm as bn
from batchnorm.errors import BatchTooSmallError
from tests.contract.bounds import gradient_error, output_error
from tests.contract.oracle import ACTS, Result, oracle
from tests.reliability.draws import Draw, Tensors, tensors

KINKS = {"relu": (0.0,), "relu6": (0.0, 6.0), "leaky_relu": (0.0,), "hardswish": (-3.0, 3.0)}
DOMAINS, DOMAIN = 3, 1


class Tried:
    """A call that has run: its output and its buffers, before and after."""

    def __init__(self, case: Draw, given: Tensors) -> None:
        self.last = case.layout == "last_dim"
        self.case, self.given = case, given
        self.layer = None if case.kind == "function" else _layer(case, given)
        self.kept = {"running_mean": given.running_mean.clone(), "running_var": given.running_var.clone()}
        named = {"x": given.x, "residual": given.residual, "weight": given.weight, "bias": given.bias}
        if self.layer is not None:
            held = dict(self.layer.named_parameters())
            named |= {name: held.get(name) for name in ("weight", "bias")}
        self.leaves = {name: t.detach().requires_grad_() for name, t in named.items() if t is not None}
        self.counted = torch.tensor(case.batches)

    def run(self) -> Tensor:
        case, given, leaves = self.case, self.given, self.leaves
        x, residual = (self._moved(leaves.get(name)) for name in ("x", "residual"))
        with bn.backend(case.backend):
            if self.layer is None:
                running = self.kept.values() if case.tracks else (None, None)
                output = bn.functional.batch_norm(
                    x, *running, leaves.get("weight"), leaves.get("bias"), case.training, case.momentum, case.eps,
                    residual=residual, act=case.act, mask=given.mask, channel_dim=-1 if self.last else 1,
                )  # fmt: skip
            else:
                chosen = {"domain": DOMAIN} if case.kind == "DomainBatchNorm" else {}
                self.leaves |= dict(self.layer.named_parameters())
                output = self.layer(x, residual, act=case.act, mask=given.mask, **chosen)
        return output.movedim(-1, 1) if self.last else output

    def _moved(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None or not self.last:
            return tensor
        return tensor.movedim(1, -1).contiguous()

    def buffers(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if self.layer is None:
            return *self.kept.values(), None
        found = self.layer.running_mean, self.layer.running_var, self.layer.num_batches_tracked
        if self.case.kind != "DomainBatchNorm":
            return found
        for buffer, start in zip(found, (*vars(self.given).values(),)[5:7], strict=False):
            for other in set(range(DOMAINS)) - {DOMAIN}:
                assert torch.equal(buffer[other], start), "another domain moved"
        return tuple(buffer[DOMAIN] for buffer in found)


def _layer(case: Draw, given: Tensors):
    rank = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}[len(case.shape)]
    name = case.kind if case.kind == "SyncBatchNorm" else case.kind + rank
    name = "ChannelsLastBatchNorm" if case.layout == "last_dim" else name
    extra = {} if case.tracks else {"track_running_stats": False}
    extra |= {"num_domains": DOMAINS} if case.kind == "DomainBatchNorm" else {}
    layer = getattr(bn, name)(
        num_features=case.shape[1], eps=case.eps, momentum=case.momentum, affine=case.affine != "none",
        bias=case.affine == "both", dtype=case.parameter_dtype, **extra,
    )  # fmt: skip
    with torch.no_grad():
        for own, value in ((layer.weight, given.weight), (layer.bias, given.bias)):
            if value is not None:
                own.copy_(value)
        if case.tracks:
            layer.running_mean.copy_(given.running_mean)
            layer.running_var.copy_(given.running_var)
            layer.num_batches_tracked.fill_(case.batches)
    return layer.train(case.training)


def check(case: Draw) -> None:
    """Raise AssertionError where output, gradients or running statistics are not what the contract promises."""
    given = tensors(case)
    tried = Tried(case, given)
    uses_batch = case.kind != "FrozenBatchNorm" and (case.training or not case.tracks)
    if uses_batch and given.mask is None and given.x.numel() == case.shape[1]:
        _assert_refused(tried)
        return
    x, clean, poisoned = _without_bad(case, given)
    grad_output = given.grad_output
    truth = {name: leaf.detach().double().requires_grad_() for name, leaf in tried.leaves.items()}
    truth["x"] = clean.double().requires_grad_()
    fixed = {"weight": given.weight, "bias": given.bias} if case.kind == "FrozenBatchNorm" else {}
    linear = oracle(
        truth["x"],
        weight=truth.get("weight", fixed.get("weight")),
        bias=truth.get("bias", fixed.get("bias")),
        residual=truth.get("residual"),
        mask=given.mask,
        running=None if uses_batch else (given.running_mean, given.running_var),
        eps=case.eps,
    )
    near = _near_a_kink(case.act, linear)
    grad_output = torch.where(near, 0.0, grad_output)
    expected = Result(ACTS[case.act](linear.output), *list(vars(linear).values())[1:])

    output = tried.run()
    assert output.dtype == case.dtype
    assert output.shape == x.shape
    sound = _all_channels(case.shape[1], poisoned)
    if poisoned is not None and uses_batch:
        seen = output[:, poisoned] if given.mask is None else output[:, poisoned][given.mask]
        assert seen.isnan().all(), "a bad value did not reach the output"
    if case.dtype == torch.float64 and uses_batch:  # which has no wider type for the mean
        sound &= ~(expected.mean.abs() > 2e3 * (expected.biased_var + case.eps).sqrt())
    fine = sound.view(-1, *[1] * (x.dim() - 2))
    error = torch.where(fine, output_error(output.detach(), expected), 0.0)
    assert _largest(error) <= 1, f"output: {_largest(error):.3g} times the bound"

    _check_running(tried, expected, uses_batch, poisoned)
    names = list(tried.leaves)
    found = torch.autograd.grad(output, [tried.leaves[name] for name in names], grad_output)
    wanted = torch.autograd.grad(expected.output, [truth[name] for name in names], grad_output.double())
    stats = (given.running_mean, given.running_var)
    if uses_batch:
        stats = expected.mean.nan_to_num(), expected.biased_var.nan_to_num()
    for name, mine, theirs in zip(names, found, wanted, strict=True):
        assert mine.dtype == tried.leaves[name].dtype, name
        error = gradient_error(
            mine, theirs, name, x=clean, grad_output=grad_output, weight=given.weight, act=case.act, mask=given.mask,
            stats=stats, training=uses_batch, eps=case.eps,
        )  # fmt: skip
        error = torch.where(sound if error.dim() == 1 else fine, error, 0.0)
        assert _largest(error) <= 1, f"gradient of {name}: {_largest(error):.3g} times the bound"


def _largest(error: Tensor) -> float:
    return error.max().item() if error.numel() else 0.0


def _all_channels(channels: int, without: int | None) -> Tensor:
    fine = torch.ones(channels, dtype=torch.bool)
    if without is not None:
        fine[without] = False
    return fine


def _without_bad(case: Draw, given: Tensors) -> tuple[Tensor, Tensor, int | None]:
    """x, x with a number in place of what is not one, and the channel that a bad value spoils."""
    x = given.x
    bad = ~x.isfinite()
    if not bad.any():
        return x, x, None
    clean = torch.where(bad, 0.0, x)
    if given.mask is not None:
        bad = bad & given.mask.unsqueeze(1)
    spoiled = bad.movedim(1, 0).flatten(1).any(1).nonzero()
    return x, clean, int(spoiled[0]) if len(spoiled) else None


def _near_a_kink(act: str | None, linear: Result) -> Tensor:
    """Where an error within the bound may change the slope."""
    near = torch.zeros(linear.output.shape, dtype=torch.bool)
    for kink in KINKS.get(act, ()):
        near |= (linear.output.detach() - kink).abs() <= 2e-6 * linear.magnitude.clamp(min=1)
    return near


def _assert_refused(tried: Tried) -> None:
    try:
        tried.run()
    except BatchTooSmallError:
        mean, _, counter = tried.buffers()
        assert not tried.case.tracks or torch.equal(mean, tried.given.running_mean)
        assert counter is None or counter == tried.case.batches
    else:
        raise AssertionError("one value a channel was taken")


def _check_running(tried: Tried, expected: Result, uses_batch: bool, poisoned: int | None) -> None:
    case, given = tried.case, tried.given
    if not case.tracks:
        assert tried.layer is None or tried.layer.running_mean is None
        return
    mean, var, counter = tried.buffers()
    dtype = given.running_mean.dtype
    count = given.x.numel() // case.shape[1] if given.mask is None else int(given.mask.sum())
    moves = uses_batch and (count > 0 if given.mask is None else count > 1)
    ticks = uses_batch and (moves or (given.mask is None and case.momentum is not None))
    if counter is not None:
        assert counter == case.batches + ticks, "the counter"
    momentum = 1 / (case.batches + 1) if case.momentum is None else case.momentum
    new = [expected.mean, expected.unbiased_var]
    moved = torch.stack([number.to(dtype).isfinite() for number in new]).all(0) & moves
    moved &= _all_channels(case.shape[1], poisoned)
    # In float32 a difference, its square and up to 16 such summed are rounded, each time by up to 6e-8 of the sum.
    rounding = {"mean": 3e-7, "var": 2e-6} if dtype == torch.float32 else {"mean": 1e-12, "var": 1e-12}
    for name, old, number, now in zip(
        ("mean", "var"), (given.running_mean, given.running_var), new, (mean, var), strict=True
    ):
        assert now.dtype == dtype
        assert torch.equal(now[~moved], old[~moved]), f"running_{name} moved"
        wanted = (1 - momentum) * old.double() + momentum * number
        # A mean is exact to a part of the standard deviation.
        size = number.abs() + (expected.biased_var.sqrt() if name == "mean" else 0)
        bound = rounding[name] * ((1 - momentum) * old.double().abs() + momentum * size) + 3e-45
        error = ((now.double() - wanted).abs() / bound)[moved]
        assert _largest(error) <= 1, f"running_{name}: {_largest(error):.3g} times the bound"
