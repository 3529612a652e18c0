"""Networks as other people write them."""

import torch
from torch import nn
from torch.nn import functional as F


class Functional(nn.Module):
    """The MNIST example of many tutorials: functions throughout, dropout by flag."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = x.view(-1, 320)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class BasicBlock(nn.Module):
    """A residual block whose one relu is called twice and works in place."""

    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None if cin == cout else nn.Sequential(nn.Conv2d(cin, cout, 1, stride))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.conv1(x))
        out = self.conv2(out)
        out += identity
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.layers = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 16, 2))
        self.fc = nn.Linear(16, classes)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(1))

    def features(self, x):
        return self.layers(torch.relu(self.stem(x)))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3))) * self.scale


class SqueezeExcite(nn.Module):
    """Gates by a sigmoid and a self-made swish."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 3)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.gate = nn.Sigmoid()
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = self.conv(x)
        x = x * torch.sigmoid(x)
        s = F.adaptive_avg_pool2d(x, 1)
        s = self.gate(self.up(F.silu(self.down(s))))
        return self.fc((x * s).mean(dim=(2, 3)))


class Attention(nn.Module):
    """A small encoder on (N, L, C)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.embed(x)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        x = x + self.mlp(x)
        return self.head(x.mean(1))


class Dynamic(nn.Module):
    """Control flow on values, which torch.fx cannot follow."""

    def __init__(self, act=nn.ReLU):
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3)
        self.act1 = act()
        self.fc = nn.Linear(8, 12)
        self.act2 = nn.Tanh()
        self.out = nn.Linear(12, 10)

    def forward(self, x):
        x = self.act1(self.conv(x))
        if x.abs().sum() > 1e9:
            x = x / 2
        x = self.act2(self.fc(x.mean(-1)))
        return self.out(x)


class DynamicFunctional(Dynamic):
    def forward(self, x):
        x = F.relu(self.conv(x))
        if x.abs().sum() > 1e9:
            x = x / 2
        return self.out(self.act2(self.fc(x.mean(-1))))


class DynamicShared(Dynamic):
    def forward(self, x):
        x = self.act1(self.conv(x))
        if x.abs().sum() > 1e9:
            x = x / 2
        return self.out(self.act1(self.fc(x.mean(-1))))


class Heads(nn.Module):
    """An argument that most callers leave out, and several outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.out = nn.Linear(8, 10)

    def forward(self, x, mask=None, scale: float = 1.0):
        h = self.body(x)
        if mask is not None:
            h = h * mask
        h = torch.tanh(h)
        return self.out(h) * scale
