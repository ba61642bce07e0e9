"""KDSR, student and teacher: blind super-resolution guided by a vector-valued IDR that is distilled.

Source: KDSR (ICLR 2023), Sec. 3 and Fig. 2; sizes as in the released code (M: 64, 53, 9; L: 128, 28, 5; real-world:
128, 42, 6 for ``num_feat``, ``num_block``, ``num_resblock``). Student and teacher differ in what their estimator sees:
the LR image, or the LR and the HR image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import BlindSRNetwork, SRFrame, decode_setting, encode_setting


def depthwise_grouped(x: Tensor, kernels: Tensor) -> Tensor:
    """``depthwise_per_sample`` as one convolution with a group for every channel of every image."""
    weight = kernels.flatten(0, 1)[:, None]  # (B * n, 1, 3, 3)
    return F.conv2d(x.reshape(1, -1, *x.shape[2:]), weight, padding=1, groups=len(weight)).view(x.shape)


def depthwise_shifted(x: Tensor, kernels: Tensor) -> Tensor:
    """``depthwise_per_sample`` as nine multiply-adds of the shifted, zero-padded input."""
    padded = F.pad(x, (1, 1, 1, 1))
    taps = kernels.flatten(2)[..., None, None]  # (B, n, 9, 1, 1)
    # Slices that count from the end: an exported graph then computes no sizes.
    shifts = (slice(0, -2), slice(1, -1), slice(2, None))
    shifted = [padded[..., rows, columns] for rows in shifts for columns in shifts]
    out = shifted[0] * taps[:, :, 0]
    for i in range(1, 9):
        out = torch.addcmul(out, shifted[i], taps[:, :, i])
    return out


def depthwise_per_sample(x: Tensor, kernels: Tensor) -> Tensor:
    """Filter every channel of every image with a 3x3 kernel of its own; the border is padded with zeros.

    The grouped form is faster. Traced and compiled graphs take the shifted form, since ONNX has no convolution whose
    number of groups is the batch size.

    Args:
        x: (B, n, h, w).
        kernels: (B, n, 3, 3).

    Returns:
        (B, n, h, w)
    """
    graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return depthwise_shifted(x, kernels) if graph else depthwise_grouped(x, kernels)


class ResidualBlock(nn.Sequential):
    """Conv3x3, LeakyReLU(0.1), Conv3x3, and the input added: (B, n, h, w) -> (B, n, h, w)."""

    def __init__(self, *, num_feat: int) -> None:
        super().__init__(
            nn.Conv2d(num_feat, num_feat, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(num_feat, num_feat, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class KDSREstimator(nn.Module):
    """Residual blocks, three widening convolutions, global average pool and an MLP: the IDR that is distilled.

    Args:
        num_in_ch: 3 for the student, 3 + 3 * upscale ** 2 for the teacher.
        num_feat: n.
        num_resblock: residual blocks.

    Shape:
        (B, num_in_ch, h, w) -> (B, 4 * n); the raw image, without mean shift.
    """

    def __init__(self, *, num_in_ch: int, num_feat: int, num_resblock: int) -> None:
        super().__init__()
        n = num_feat
        layers: list[nn.Module] = [nn.Conv2d(num_in_ch, n, 3, padding=1), nn.LeakyReLU(0.1)]
        layers += [ResidualBlock(num_feat=n) for _ in range(num_resblock)]
        for n_in, n_out in ((n, 2 * n), (2 * n, 2 * n), (2 * n, 4 * n)):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.LeakyReLU(0.1)]
        self.features = nn.Sequential(*layers)
        self.mlp = nn.Sequential(nn.Linear(4 * n, 4 * n), nn.LeakyReLU(0.1), nn.Linear(4 * n, 4 * n), nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.features(x).mean((2, 3)))  # (B, 4 n)


class IDRDynamicBlock(nn.Module):
    """IDR-DDC block: a depthwise convolution with kernels made from the IDR, then a plain one; the input is added.

    Shape:
        (B, n, h, w), guide (B, n) -> (B, n, h, w)
    """

    def __init__(self, *, num_feat: int) -> None:
        super().__init__()
        n = num_feat
        self.to_kernel = nn.Sequential(nn.Linear(n, n, bias=False), nn.LeakyReLU(0.1), nn.Linear(n, 9 * n, bias=False))
        self.act = nn.LeakyReLU(0.1)
        self.conv = nn.Conv2d(n, n, 3, padding=1)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        kernels = self.to_kernel(guide).unflatten(1, (-1, 3, 3))  # (B, n, 3, 3)
        return x + self.conv(self.act(depthwise_per_sample(x, kernels)))


class IDRDynamicSRNetwork(SRFrame):
    """Head, IDR-DDC blocks and tail, for student and teacher.

    Shape:
        lq (B, 3, h, w), guide (B, n) -> (B, 3, h * upscale, w * upscale), not clamped
    """

    def __init__(self, *, num_feat: int, num_block: int, upscale: int, upsampler: str) -> None:
        super().__init__(num_feat=num_feat, upscale=upscale, upsampler=upsampler)
        self.blocks = nn.ModuleList(IDRDynamicBlock(num_feat=num_feat) for _ in range(num_block))

    def body(self, x: Tensor, guide: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, guide)
        return x


class _KDSRBase(BlindSRNetwork):
    """Estimator, converter (Linear 4 n -> n, LeakyReLU) and SR network, as student and teacher have them."""

    sees_hr: bool

    def __init__(
        self,
        *,
        num_feat: int = 64,
        num_block: int = 53,
        num_resblock: int = 9,
        upscale: int = 4,
        upsampler: str = "pixelshuffle",
    ) -> None:
        super().__init__()
        sizes = (("num_feat", num_feat, 1), ("num_block", num_block, 1), ("num_resblock", num_resblock, 0))
        for name, value, least in sizes:
            if value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}")
        self.upscale = upscale
        num_in_ch = 3 + 3 * upscale**2 if self.sees_hr else 3
        self.estimator = KDSREstimator(num_in_ch=num_in_ch, num_feat=num_feat, num_resblock=num_resblock)
        self.converter = nn.Sequential(nn.Linear(4 * num_feat, num_feat), nn.LeakyReLU(0.1))
        self.sr_network = IDRDynamicSRNetwork(
            num_feat=num_feat, num_block=num_block, upscale=upscale, upsampler=upsampler
        )

    def super_resolve(self, lq: Tensor, idr: Tensor) -> Tensor:
        return self.sr_network(lq, self.converter(idr))


class KDSR(_KDSRBase):
    """KDSR's student: sees the LR image alone.

    Args:
        num_feat: channels n of the SR network and of the estimator's first layers.
        num_block: IDR-DDC blocks.
        num_resblock: residual blocks of the estimator.
        upscale: 2, 3 or 4.
        upsampler: ``pixelshuffle``, EDSR's tail as in the paper, or ``pixelshuffledirect``, one convolution.

    The defaults are KDSR-M (x4: 5,795,075 trainable parameters).

    Raises:
        ValueError: a size below 1 (``num_resblock``: below 0), an unknown upsampler or upscale.
    """

    sees_hr = False

    def estimate_idr(self, lq: Tensor) -> Tensor:
        """The IDR: (B, 3, h, w) -> (B, 4 * num_feat)."""
        return self.estimator(lq)


class KDSRTeacher(_KDSRBase):
    """KDSR's teacher: its estimator sees the LR and the HR image.

    Args:
        setting: name of the degradation setting that the teacher is trained for, kept as a buffer so that it travels
            with the weights.
        num_feat, num_block, num_resblock, upscale, upsampler: as in ``KDSR``.

    The defaults are KDSR-M (x4: 5,822,723 trainable parameters).

    Raises:
        ValueError: a size below 1, or an upscale that the tail does not know.
    """

    sees_hr = True
    setting_code: Tensor

    def __init__(
        self,
        *,
        setting: str = "",
        num_feat: int = 64,
        num_block: int = 53,
        num_resblock: int = 9,
        upscale: int = 4,
        upsampler: str = "pixelshuffle",
    ) -> None:
        super().__init__(
            num_feat=num_feat, num_block=num_block, num_resblock=num_resblock, upscale=upscale, upsampler=upsampler
        )
        self.unshuffle = nn.PixelUnshuffle(upscale)
        self.register_buffer("setting_code", encode_setting(setting))

    @property
    def setting(self) -> str:
        """Name of the degradation setting, as stored beside the weights ('' if unknown)."""
        return decode_setting(self.setting_code)

    def estimate_idr(self, lq: Tensor, gt: Tensor) -> Tensor:
        """The IDR: lq (B, 3, h, w), gt (B, 3, h * upscale, w * upscale), in [0, 1] -> (B, 4 * num_feat).

        Raises:
            ValueError: the HR image is not ``upscale`` times as large as the LR image.
        """
        h, w = (side * self.upscale for side in lq.shape[-2:])
        if gt.shape[-2:] != (h, w):
            raise ValueError(f"gt is {tuple(gt.shape)}, but must be {h}x{w} beside lq {tuple(lq.shape)}")
        return self.estimator(torch.cat([lq, self.unshuffle(gt)], dim=1))
